//! The structures whose frames are the examples on the page.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use qd_protocol::attributes::{DeadLetter, OVERFLOW_DROP_OLDEST, UNLIMITED};
use qd_protocol::preamble::{ClientPreamble, ServerPreamble, Status, VersionRange};
use qd_protocol::request::{put_answer, put_part, put_refusal, put_request};
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::peek::State;
use qd_protocol::verbs::{
    Cancel, Counted, Create, Created, Delete, Describe, Discard, Drop, Dropped, Due, Extend,
    Extended, Hello, IfExists, List, Listed, Peek, Peeked, PeekedMessage, Ping, Pong, Purge,
    Purged, Receive, Received, ReceivedMessage, Redrive, Redriven, Reject, Release, Reschedule,
    Send, SendEntry, Sent, SentRun, Settled, Shutdown, ShuttingDown, Stats, Transact, Transacted,
    Until, Update, Updated, Verb, Welcome,
};
use qd_protocol::wire::Payload;
use qd_protocol::{
    AttributeChanges, Attributes, Body, DeadLettered, ErrorCode, Headers, Numbering, Properties,
    QueueDescription, QueueName, Reason, Receipt, Refusal, Statistics,
};

/// 2026-01-01 00:00:00 UTC.
const TIME_MS: u64 = 1_767_225_600_000;

/// The receipt of the message of the receive.
pub const RECEIPT: Receipt = Receipt { queue: 3, lease: 1, id: 1, secret: 0x0123_4567_89ab_cdef };

/// The examples by name.
pub fn all() -> BTreeMap<String, Bytes> {
    let mut all = Examples::default();
    all.add("client preamble", &ClientPreamble { versions: VersionRange::OURS }.to_bytes());
    all.add("server preamble", &server_preamble().to_bytes());
    connection(&mut all);
    queues(&mut all);
    messages(&mut all);
    // Behind the others, so that the correlation ids of those stay what they are.
    settling(&mut all);
    delays(&mut all);
    lives(&mut all);
    dead_letters(&mut all);
    order(&mut all);
    looking_and_purging(&mut all);
    steps(&mut all);
    counters(&mut all);
    all.frames
}

#[derive(Default)]
struct Examples {
    frames: BTreeMap<String, Bytes>,
    correlation: u32,
}

impl Examples {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        self.frames.insert(name.to_owned(), Bytes::copy_from_slice(bytes));
    }

    fn request<V: Verb>(&mut self, name: &str, number: Option<u64>, verb: &V) {
        self.correlation += 1;
        let numbering = number.map(|number| Numbering { number, answered_below: number });
        let mut out = BytesMut::new();
        put_request(&mut out, self.correlation, numbering, verb);
        self.add(&format!("{name} request"), &out);
    }

    fn verb<V: Verb>(&mut self, name: &str, number: Option<u64>, verb: &V, answer: &V::Answer) {
        self.request(name, number, verb);
        let mut out = BytesMut::new();
        put_answer(&mut out, self.correlation, V::OPCODE, answer);
        self.add(&format!("{name} answer"), &out);
    }
}

fn server_preamble() -> ServerPreamble {
    ServerPreamble {
        versions: VersionRange::OURS,
        chosen: 1,
        status: Status::Ready,
        frame_bytes_max: qd_protocol::FRAME_BYTES_MAX,
        in_flight_max: qd_protocol::IN_FLIGHT_MAX,
        message_bytes_max: qd_protocol::MESSAGE_BYTES_MAX,
        node: 0x1122_3344_5566_7788,
        time_ms: TIME_MS,
    }
}

fn jobs() -> QueueName {
    QueueName::new("jobs").expect("a name")
}

fn connection(all: &mut Examples) {
    let hello = Hello { producer: 0xfedc_ba98_7654_3210, client: "qctl 0.1.0".to_owned() };
    all.verb("hello", None, &hello, &Welcome { server: "0.1.0".to_owned() });
    all.verb("ping", None, &Ping, &Pong { time_ms: TIME_MS });
    all.verb("shutdown", None, &Shutdown, &ShuttingDown);
}

fn queues(all: &mut Examples) {
    let attributes = AttributeChanges {
        max_messages: Some(1_000),
        visibility_timeout_ms: Some(60_000),
        ..AttributeChanges::default()
    };
    let create = Create { queue: jobs(), if_exists: IfExists::Keep, attributes, with: None };
    all.verb("create", Some(1), &create, &Created { created: true });
    let description = QueueDescription {
        name: jobs(),
        created_at_ms: TIME_MS,
        attributes: Attributes {
            max_messages: 1_000,
            visibility_timeout_ms: 60_000,
            ..Attributes::default()
        },
        statistics: Statistics {
            ready: 1,
            leased: 1,
            bytes: 22,
            oldest_age_s: 5,
            sent: 2,
            received: 1,
            ..Statistics::default()
        },
    };
    all.verb("describe", None, &Describe { queue: jobs() }, &description);
    let list = List {
        pattern: Some("j*".to_owned()),
        after: Some(QueueName::new("a").expect("a name")),
        limit: 100,
    };
    all.verb("list", None, &list, &Listed { queues: vec![description], more: false });
    let drop = Drop { queue: jobs(), only_if_empty: true };
    all.verb("drop", Some(5), &drop, &Dropped { messages: 0 });
    let refusal = ErrorCode::QueueNotEmpty
        .refuse("queue \"jobs\" is not empty: it holds 2 messages")
        .with_queue("jobs");
    let mut out = BytesMut::new();
    put_refusal(&mut out, all.correlation, Drop::OPCODE, &refusal);
    all.add("drop refusal", &out);
}

fn full() -> Refusal {
    ErrorCode::QueueFull
        .refuse("queue \"jobs\" is full: 1000 of 1000 messages (max-messages)")
        .with_queue("jobs")
        .with_limit("max-messages", 1_000, 1_000)
}

fn messages(all: &mut Examples) {
    let headers = Headers(vec![("type".to_owned(), "text".to_owned())]);
    let entries = vec![
        SendEntry { headers: headers.clone(), ..SendEntry::new("hello") },
        SendEntry::new("world"),
        SendEntry::new(""),
    ];
    let runs = vec![
        SentRun::Stored { first: 1, count: 2 },
        SentRun::Refused { refusal: Box::new(full()), count: 1 },
    ];
    all.verb("send", Some(2), &Send { queue: jobs(), entries }, &Sent { runs });
    let receive = Receive {
        queues: vec![QueueName::new("urgent").expect("a name"), jobs()],
        max: 10,
        wait_ms: 20_000,
        visibility_timeout_ms: Some(45_000),
        delete_on_receive: false,
        settle: vec![Receipt { queue: 3, lease: 0, id: 0, secret: 7 }],
    };
    let mut settled = Statuses::default();
    let expired = "the lease of this receipt is over";
    settled.push(Some(ErrorCode::ReceiptExpired.refuse(expired).with_queue("jobs")));
    let message = ReceivedMessage {
        queue: 1,
        id: 1,
        receipt: RECEIPT,
        attempt: 1,
        sent_at_ms: TIME_MS,
        lease_until_ms: TIME_MS + 45_000,
        fields: headers.to_fields(),
        body: Body::new("hello"),
    };
    let received = Received { settled, messages: vec![message] };
    all.verb("receive", Some(3), &receive, &received);
    let correlation = all.correlation;
    let at_most_once = Receive {
        queues: vec![jobs()],
        max: 1,
        wait_ms: 0,
        visibility_timeout_ms: None,
        delete_on_receive: true,
        settle: Vec::new(),
    };
    all.request("at most once receive", Some(4), &at_most_once);
    all.request("cancel", None, &Cancel { correlation });
    let mut out = BytesMut::new();
    let cancelled = ErrorCode::Cancelled.refuse("the request was cancelled");
    put_refusal(&mut out, correlation, Receive::OPCODE, &cancelled);
    all.add("receive refusal", &out);
    let mut statuses = Statuses::default();
    statuses.push(None);
    all.verb(
        "delete",
        Some(4),
        &Delete { queue: jobs(), receipts: vec![RECEIPT] },
        &Settled { statuses },
    );
}

/// The statuses of an entry done and of one that is refused.
fn one_of_two(refusal: Refusal) -> Statuses {
    let mut statuses = Statuses::default();
    statuses.push(None);
    statuses.push(Some(refusal.with_queue("jobs")));
    statuses
}

fn settling(all: &mut Examples) {
    let stale = Receipt { id: 2, ..RECEIPT };
    let until = Until::By(30_000);
    let extend = Extend { queue: jobs(), until, receipts: vec![RECEIPT, stale] };
    let expired = ErrorCode::ReceiptExpired.refuse("the lease of this receipt is over");
    let statuses = one_of_two(expired);
    let extended = Extended { statuses, lease_until_ms: vec![TIME_MS + 75_000, 0] };
    all.verb("extend", Some(6), &extend, &extended);
    let release =
        Release { queue: jobs(), counted: false, delay_ms: Some(10_000), receipts: vec![RECEIPT] };
    let mut statuses = Statuses::default();
    statuses.push(None);
    all.verb("release", Some(7), &release, &Settled { statuses: statuses.clone() });
    let leased =
        ErrorCode::MessageLeased.refuse("message 1 of queue \"jobs\" is leased: use its receipt");
    let discard = Discard { queue: jobs(), ids: vec![2, 1] };
    all.verb("discard", Some(8), &discard, &Settled { statuses: one_of_two(leased) });
    let due = Due::At(TIME_MS + 3_600_000);
    let reschedule = Reschedule { queue: jobs(), due, ids: vec![3] };
    all.verb("reschedule", Some(9), &reschedule, &Settled { statuses });
}

fn delays(all: &mut Examples) {
    let attributes = AttributeChanges {
        max_in_flight: Some(100),
        delay_ms: Some(5_000),
        ..AttributeChanges::default()
    };
    let update = Update { queue: jobs(), attributes };
    all.verb("update", Some(10), &update, &Updated { changed: true });
    let entry = |due| SendEntry { due: Some(due), ..SendEntry::new("hello") };
    let entries = vec![entry(Due::After(60_000)), entry(Due::At(TIME_MS + 3_600_000))];
    all.request("delayed send", Some(11), &Send { queue: jobs(), entries });
}

fn lives(all: &mut Examples) {
    let attributes = AttributeChanges {
        retention_ms: Some(86_400_000),
        overflow: Some(OVERFLOW_DROP_OLDEST),
        ..AttributeChanges::default()
    };
    all.request("lossy update", Some(12), &Update { queue: jobs(), attributes });
    let due = Some(Due::After(5_000));
    let entries = vec![SendEntry { due, ttl_ms: Some(60_000), ..SendEntry::new("hello") }];
    all.request("short-lived send", Some(13), &Send { queue: jobs(), entries });
}

fn dead_letters(all: &mut Examples) {
    let dead = QueueName::new("jobs.dead").expect("a name");
    let attributes = AttributeChanges {
        max_deliveries: Some(UNLIMITED),
        dead_letter: Some(DeadLetter::Queue(dead.clone())),
        dead_letter_expired: Some(true),
        dead_letter_overflow: Some(false),
        retry_delay_ms: Some(vec![1_000, 60_000]),
        ..AttributeChanges::default()
    };
    all.request("dead letter update", Some(14), &Update { queue: jobs(), attributes });
    let reason = "no such customer".to_owned();
    let reject = Reject { queue: jobs(), reason: reason.clone(), receipts: vec![RECEIPT] };
    let mut statuses = Statuses::default();
    statuses.push(None);
    all.verb("reject", Some(15), &reject, &Settled { statuses });
    let receive = Receive {
        queues: vec![dead.clone()],
        max: 1,
        wait_ms: 0,
        visibility_timeout_ms: None,
        delete_on_receive: false,
        settle: Vec::new(),
    };
    let headers = Headers(vec![("type".to_owned(), "text".to_owned())]);
    let origin = DeadLettered {
        queue: jobs(),
        id: 1,
        sent_at_ms: TIME_MS,
        attempts: 1,
        first_delivered_ms: TIME_MS + 1_000,
        last_delivered_ms: TIME_MS + 1_000,
        reason: Reason::Rejected(reason),
    };
    let message = ReceivedMessage {
        queue: 0,
        id: 5,
        receipt: Receipt { queue: 4, lease: 1, id: 5, secret: 9 },
        attempt: 1,
        sent_at_ms: TIME_MS + 2_000,
        lease_until_ms: TIME_MS + 60_000,
        fields: origin.appended_to(&headers.to_fields()).expect("headers of this test"),
        body: Body::new("hello"),
    };
    let received = Received { settled: Statuses::default(), messages: vec![message] };
    all.verb("dead letter receive", Some(16), &receive, &received);
    let redrive = Redrive {
        queue: dead,
        to: Some(jobs()),
        after: 0,
        through: 0,
        max: 1_000,
        headers,
        dry_run: false,
    };
    let redriven = Redriven {
        moved: 3,
        skipped: 1,
        last: 5,
        through: 5,
        more: false,
        refusal: Some(Box::new(full())),
    };
    all.verb("redrive", Some(17), &redrive, &redriven);
}

fn orders() -> QueueName {
    QueueName::new("orders").expect("a name")
}

fn order(all: &mut Examples) {
    let attributes = AttributeChanges {
        ordered: Some(true),
        dedup_window_ms: Some(600_000),
        ..AttributeChanges::default()
    };
    let (queue, if_exists, with) = (orders(), IfExists::Compare, Some(jobs()));
    all.request("ordered create", Some(18), &Create { queue, if_exists, attributes, with });
    let attributes = AttributeChanges { paused: Some(true), ..AttributeChanges::default() };
    all.request("pause update", Some(19), &Update { queue: jobs(), attributes });
    let first = Properties { priority: 9, group: "eu".to_owned(), dedup_id: None };
    let second = Properties { dedup_id: Some("order-1".to_owned()), ..Properties::default() };
    let entries = vec![
        SendEntry { properties: first, ..SendEntry::new("hello") },
        SendEntry { properties: second.clone(), ..SendEntry::new("world") },
        SendEntry { properties: second, unique: true, ..SendEntry::new("world") },
    ];
    let runs = vec![SentRun::Stored { first: 6, count: 2 }, SentRun::Duplicate { id: 7, count: 1 }];
    all.verb("properties send", Some(20), &Send { queue: jobs(), entries }, &Sent { runs });
}

fn looking_and_purging(all: &mut Examples) {
    let headers = Headers(vec![("type".to_owned(), "text".to_owned())]);
    let peek = Peek {
        queue: jobs(),
        max: 10,
        after: 1,
        state: Some(State::Delayed),
        id: None,
        headers: headers.clone(),
    };
    let properties =
        Properties { priority: 9, group: "eu".to_owned(), dedup_id: Some("order-1".to_owned()) };
    let entry = SendEntry { headers: headers.clone(), properties, ..SendEntry::new("hello") };
    let message = PeekedMessage {
        id: 8,
        state: State::Delayed,
        attempts: 1,
        sent_at_ms: TIME_MS,
        until_ms: TIME_MS + 60_000,
        fields: entry.stored_fields(),
        body: entry.body,
    };
    let peeked = Peeked { more: true, last: 501, messages: vec![message] };
    all.verb("peek", None, &peek, &peeked);
    let peek = Peek { max: 1, after: 0, state: None, id: Some(8), ..peek };
    all.request("one message peek", None, &Peek { headers: Headers::default(), ..peek });
    let older_than_ms = Some(86_400_000);
    let (dry_run, after, through) = (false, 1_000, 1_500);
    let purge = Purge { queue: jobs(), older_than_ms, headers, dry_run, after, through };
    let purged = Purged { messages: 17, skipped: 2, last: 1_500, through: 1_500, more: false };
    all.verb("purge", Some(21), &purge, &purged);
    let purge = Purge { older_than_ms: None, after: 0, through: 0, ..purge };
    let purge = Purge { headers: Headers::default(), ..purge };
    let purged = Purged { messages: 483, skipped: 0, last: 0, through: 0, more: false };
    all.verb("whole purge", Some(22), &purge, &purged);
}

fn steps(all: &mut Examples) {
    let properties = Properties { group: "customer-7".to_owned(), ..Properties::default() };
    let entries = vec![SendEntry { properties, ..SendEntry::new("hello") }];
    let transact = Transact {
        deletes: vec![Delete { queue: jobs(), receipts: vec![RECEIPT] }],
        sends: vec![Send { queue: orders(), entries }],
    };
    let runs = vec![SentRun::Stored { first: 1, count: 1 }];
    let transacted = Transacted { sent: vec![Sent { runs }] };
    all.verb("transact", Some(23), &transact, &transacted);
    let text = "receipt 1 of queue \"jobs\": the lease of this receipt is over; nothing was done";
    let refusal = ErrorCode::ReceiptExpired.refuse(text).with_queue("jobs");
    let mut out = BytesMut::new();
    put_refusal(&mut out, all.correlation, Transact::OPCODE, &refusal);
    all.add("transact refusal", &out);
}

fn counters(all: &mut Examples) {
    let stats = Stats { names: vec![jobs()], patterns: vec!["mail.*".to_owned()] };
    let statistics = Statistics {
        ready: 1,
        leased: 1,
        bytes: 22,
        oldest_age_s: 5,
        sent: 2,
        received: 1,
        ..Statistics::default()
    };
    let counted = Counted { queues: vec![(jobs(), statistics)] };
    all.verb("stats", None, &stats, &counted);
    let mut payload = BytesMut::new();
    counted.encode(&mut payload);
    let (first, last) = payload.split_at(100);
    let mut out = BytesMut::new();
    put_part(&mut out, all.correlation, Stats::OPCODE, first, true);
    all.add("stats answer in two frames: the first", &out);
    out.clear();
    put_part(&mut out, all.correlation, Stats::OPCODE, last, false);
    all.add("stats answer in two frames: the last", &out);
}
