//! Strategies for all that crosses the wire.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::attributes::{AttributeChanges, Attributes, DeadLetter, QueueDescription, Statistics};
use crate::error::{Class, ErrorCode, Limit, Refusal};
use crate::message::{Body, DeadLettered, Headers, Properties, Reason};
use crate::name::QueueName;
use crate::receipt::Receipt;
use crate::request::Request;
use crate::verbs::delete::Statuses;
use crate::verbs::peek::State;
use crate::verbs::{
    Cancel, Counted, Create, Delete, Describe, Discard, Drop, Due, Extend, Extended, Hello,
    IfExists, List, Listed, Peek, Peeked, PeekedMessage, Ping, Purge, Purged, Receive, Received,
    ReceivedMessage, Redrive, Redriven, Reject, Release, Reschedule, Send, SendEntry, Sent,
    SentRun, Shutdown, Stats, Transact, Transacted, Until, Update,
};

pub(super) fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z]{0,20}"]
}

fn name() -> impl Strategy<Value = QueueName> {
    "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}".prop_map(|name| QueueName::new(name).unwrap())
}

pub(super) fn receipt() -> impl Strategy<Value = Receipt> {
    any::<[u64; 4]>().prop_map(|[queue, lease, id, secret]| Receipt { queue, lease, id, secret })
}

fn body() -> impl Strategy<Value = Body> {
    let bytes = vec(any::<u8>(), 0..60);
    (bytes, option::of(any::<u32>())).prop_map(|(bytes, crc)| {
        let body = Body::new(bytes);
        Body { crc: crc.unwrap_or(body.crc), ..body }
    })
}

pub(super) fn headers() -> impl Strategy<Value = Headers> {
    let key = text().prop_filter("a key is not empty", |key| !key.is_empty());
    vec((key, text()), 0..4).prop_map(Headers)
}

fn dead_letter() -> impl Strategy<Value = DeadLetter> {
    prop_oneof![
        Just(DeadLetter::Default),
        Just(DeadLetter::None),
        name().prop_map(DeadLetter::Queue)
    ]
}

fn attribute_changes() -> impl Strategy<Value = AttributeChanges> {
    let others = (any::<[Option<bool>; 4]>(), option::of(dead_letter()), retry_delay_ms());
    (any::<[Option<u64>; 10]>(), others).prop_map(|(numbers, others)| {
        let [max_messages, max_bytes, max_message_size, rest @ ..] = numbers;
        let [visibility_timeout_ms, max_in_flight, delay_ms, rest @ ..] = rest;
        let [retention_ms, max_deliveries, overflow, dedup_window_ms] = rest;
        let (flags, dead_letter, retry_delay_ms) = others;
        let [dead_letter_expired, dead_letter_overflow, ordered, paused] = flags;
        AttributeChanges {
            max_messages,
            max_bytes,
            max_message_size,
            visibility_timeout_ms,
            max_in_flight,
            delay_ms,
            retention_ms,
            max_deliveries,
            dead_letter,
            dead_letter_expired,
            dead_letter_overflow,
            retry_delay_ms,
            overflow,
            ordered,
            dedup_window_ms,
            paused,
        }
    })
}

fn retry_delay_ms() -> impl Strategy<Value = Option<Vec<u64>>> {
    option::of(vec(any::<u64>(), 0..20))
}

fn statistics() -> impl Strategy<Value = Statistics> {
    any::<[u64; 15]>().prop_map(|numbers| {
        let [ready, delayed, leased, bytes, oldest_age_s, sent, rest @ ..] = numbers;
        let [received, deleted, expired, dropped, dead_lettered, rest @ ..] = rest;
        let [redelivered, dead_letter_blocked, redriven, duplicates] = rest;
        Statistics {
            ready,
            delayed,
            leased,
            bytes,
            oldest_age_s,
            sent,
            received,
            deleted,
            expired,
            dropped,
            dead_lettered,
            redelivered,
            dead_letter_blocked,
            redriven,
            duplicates,
        }
    })
}

pub(super) fn description() -> impl Strategy<Value = QueueDescription> {
    (name(), any::<u64>(), attribute_changes(), statistics()).prop_map(
        |(name, created_at_ms, changes, statistics)| QueueDescription {
            name,
            created_at_ms,
            attributes: Attributes::default().changed(&changes),
            statistics,
        },
    )
}

pub(super) fn refusal() -> impl Strategy<Value = Refusal> {
    let code = prop_oneof![
        proptest::sample::select(ErrorCode::ALL),
        any::<u16>().prop_map(ErrorCode::from_number),
    ];
    let class = proptest::sample::select(&[
        Class::FixRequest,
        Class::NotAllowed,
        Class::LimitReached,
        Class::TryAgain,
        Class::Gone,
    ]);
    let limit = (text(), any::<u64>(), any::<u64>()).prop_map(|(name, current, maximum)| Limit {
        name,
        current,
        maximum,
    });
    (code, class, any::<bool>(), text(), option::of(text()), option::of(limit)).prop_map(
        |(code, class, retryable, text, queue, limit)| Refusal {
            code,
            class,
            retryable,
            text,
            queue,
            limit,
        },
    )
}

pub(super) fn statuses() -> impl Strategy<Value = Statuses> {
    let run = (any::<u32>(), option::of(refusal().prop_map(Box::new)));
    vec(run, 0..4).prop_map(|runs| Statuses { runs })
}

fn create() -> impl Strategy<Value = Create> {
    let if_exists =
        proptest::sample::select(&[IfExists::Compare, IfExists::Keep, IfExists::Update]);
    (name(), if_exists, attribute_changes(), option::of(name())).prop_map(
        |(queue, if_exists, attributes, with)| Create { queue, if_exists, attributes, with },
    )
}

fn due() -> impl Strategy<Value = Due> {
    prop_oneof![any::<u64>().prop_map(Due::After), any::<u64>().prop_map(Due::At)]
}

fn until() -> impl Strategy<Value = Until> {
    prop_oneof![any::<u64>().prop_map(Until::By), any::<u64>().prop_map(Until::To)]
}

pub(super) fn properties() -> impl Strategy<Value = Properties> {
    (any::<u8>(), text(), option::of(text())).prop_map(|(priority, group, dedup_id)| Properties {
        priority,
        group,
        dedup_id,
    })
}

pub(super) fn entry() -> impl Strategy<Value = SendEntry> {
    let times = (option::of(due()), option::of(any::<u64>()));
    let properties = (properties(), any::<bool>());
    (body(), headers(), times, properties).prop_map(
        |(body, headers, (due, ttl_ms), (properties, unique))| SendEntry {
            body,
            headers,
            due,
            ttl_ms,
            properties,
            unique,
        },
    )
}

fn send() -> impl Strategy<Value = Send> {
    (name(), vec(entry(), 0..5)).prop_map(|(queue, entries)| Send { queue, entries })
}

fn delete() -> impl Strategy<Value = Delete> {
    (name(), vec(receipt(), 0..5)).prop_map(|(queue, receipts)| Delete { queue, receipts })
}

fn transact() -> impl Strategy<Value = Transact> {
    (vec(delete(), 0..3), vec(send(), 0..3))
        .prop_map(|(deletes, sends)| Transact { deletes, sends })
}

fn state() -> impl Strategy<Value = State> {
    proptest::sample::select(&[State::Ready, State::Delayed, State::Leased, State::Blocked])
}

fn peek() -> impl Strategy<Value = Peek> {
    let filter = (option::of(state()), option::of(any::<u64>()), headers());
    (name(), any::<(u32, u64)>(), filter).prop_map(|(queue, (max, after), filter)| {
        let (state, id, headers) = filter;
        Peek { queue, max, after, state, id, headers }
    })
}

fn purge() -> impl Strategy<Value = Purge> {
    let filter = (option::of(any::<u64>()), headers());
    (name(), filter, any::<(bool, u64, u64)>()).prop_map(|(queue, filter, numbers)| {
        let (older_than_ms, headers) = filter;
        let (dry_run, after, through) = numbers;
        Purge { queue, older_than_ms, headers, dry_run, after, through }
    })
}

fn receive() -> impl Strategy<Value = Receive> {
    let times = (any::<u64>(), option::of(any::<u64>()));
    (vec(name(), 1..4), any::<u32>(), times, any::<bool>(), vec(receipt(), 0..4)).prop_map(
        |(queues, max, (wait_ms, visibility_timeout_ms), delete_on_receive, settle)| Receive {
            queues,
            max,
            wait_ms,
            visibility_timeout_ms,
            delete_on_receive,
            settle,
        },
    )
}

fn redrive() -> impl Strategy<Value = Redrive> {
    let numbers = any::<(u64, u64, u32, bool)>();
    (name(), option::of(name()), headers(), numbers).prop_map(|(queue, to, headers, numbers)| {
        let (after, through, max, dry_run) = numbers;
        Redrive { queue, to, after, through, max, headers, dry_run }
    })
}

fn about_the_connection() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<u64>(), text())
            .prop_map(|(producer, client)| Request::Hello(Hello { producer, client })),
        Just(Request::Ping(Ping)),
        any::<u32>().prop_map(|correlation| Request::Cancel(Cancel { correlation })),
        Just(Request::Shutdown(Shutdown)),
    ]
}

fn about_queues() -> impl Strategy<Value = Request> {
    prop_oneof![
        create().prop_map(Request::Create),
        (name(), any::<bool>())
            .prop_map(|(queue, only_if_empty)| Request::Drop(Drop { queue, only_if_empty })),
        name().prop_map(|queue| Request::Describe(Describe { queue })),
        (option::of(text()), option::of(name()), any::<u32>())
            .prop_map(|(pattern, after, limit)| Request::List(List { pattern, after, limit })),
        (name(), attribute_changes())
            .prop_map(|(queue, attributes)| Request::Update(Update { queue, attributes })),
        peek().prop_map(Request::Peek),
        (vec(name(), 0..4), vec(text(), 0..4))
            .prop_map(|(names, patterns)| Request::Stats(Stats { names, patterns })),
        purge().prop_map(Request::Purge),
    ]
}

fn about_messages() -> impl Strategy<Value = Request> {
    let receipts = || vec(receipt(), 0..5);
    let ids = || vec(any::<u64>(), 0..5);
    let extend = (name(), until(), receipts()).prop_map(|(queue, until, receipts)| Extend {
        queue,
        until,
        receipts,
    });
    let release = (name(), any::<bool>(), option::of(any::<u64>()), receipts()).prop_map(
        |(queue, counted, delay_ms, receipts)| Release { queue, counted, delay_ms, receipts },
    );
    let reschedule =
        (name(), due(), ids()).prop_map(|(queue, due, ids)| Reschedule { queue, due, ids });
    let reject = (name(), text(), receipts()).prop_map(|(queue, reason, receipts)| Reject {
        queue,
        reason,
        receipts,
    });
    prop_oneof![
        send().prop_map(Request::Send),
        receive().prop_map(Request::Receive),
        delete().prop_map(Request::Delete),
        extend.prop_map(Request::Extend),
        release.prop_map(Request::Release),
        (name(), ids()).prop_map(|(queue, ids)| Request::Discard(Discard { queue, ids })),
        reschedule.prop_map(Request::Reschedule),
        reject.prop_map(Request::Reject),
        redrive().prop_map(Request::Redrive),
        transact().prop_map(Request::Transact),
    ]
}

/// A request of any verb. Boxed, since the values of all strategies together are too large for the
/// stack of a test.
pub(super) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        1 => about_the_connection().boxed(),
        2 => about_queues().boxed(),
        3 => about_messages().boxed(),
    ]
}

pub(super) fn sent() -> impl Strategy<Value = Sent> {
    let run = prop_oneof![
        (any::<u64>(), any::<u32>()).prop_map(|(first, count)| SentRun::Stored { first, count }),
        (any::<u64>(), any::<u32>()).prop_map(|(id, count)| SentRun::Duplicate { id, count }),
        (refusal(), any::<u32>())
            .prop_map(|(refusal, count)| SentRun::Refused { refusal: Box::new(refusal), count }),
    ];
    vec(run, 0..4).prop_map(|runs| Sent { runs })
}

pub(super) fn extended() -> impl Strategy<Value = Extended> {
    (statuses(), vec(any::<u64>(), 0..5))
        .prop_map(|(statuses, lease_until_ms)| Extended { statuses, lease_until_ms })
}

pub(super) fn redriven() -> impl Strategy<Value = Redriven> {
    let numbers = any::<(u64, u64, u64, u64, bool)>();
    (numbers, option::of(refusal().prop_map(Box::new))).prop_map(|(numbers, refusal)| {
        let (moved, skipped, last, through, more) = numbers;
        Redriven { moved, skipped, last, through, more, refusal }
    })
}

pub(super) fn dead_lettered() -> impl Strategy<Value = DeadLettered> {
    let reason = prop_oneof![
        Just(Reason::MaxDeliveries),
        text().prop_map(Reason::Rejected),
        Just(Reason::Expired),
        Just(Reason::Overflow),
    ];
    (name(), any::<(u64, u64, u32, u64, u64)>(), reason).prop_map(|(queue, numbers, reason)| {
        let (id, sent_at_ms, attempts, first_delivered_ms, last_delivered_ms) = numbers;
        DeadLettered {
            queue,
            id,
            sent_at_ms,
            attempts,
            first_delivered_ms,
            last_delivered_ms,
            reason,
        }
    })
}

/// The stored fields of a message: headers, properties, and how often it was a dead letter.
fn fields() -> impl Strategy<Value = Bytes> {
    (entry(), vec(dead_lettered(), 0..3)).prop_map(|(entry, hops)| {
        hops.iter().fold(entry.stored_fields(), |fields, hop| hop.appended_to(&fields).unwrap())
    })
}

fn message() -> impl Strategy<Value = ReceivedMessage> {
    let numbers = any::<(u16, u64, u32, u64, u64)>();
    (numbers, receipt(), fields(), body()).prop_map(
        |((queue, id, attempt, sent_at_ms, lease_until_ms), receipt, fields, body)| {
            ReceivedMessage {
                queue,
                id,
                receipt,
                attempt,
                sent_at_ms,
                lease_until_ms,
                fields,
                body,
            }
        },
    )
}

pub(super) fn peeked() -> impl Strategy<Value = Peeked> {
    let numbers = any::<(u64, u32, u64, u64)>();
    let message = (numbers, state(), fields(), body()).prop_map(
        |((id, attempts, sent_at_ms, until_ms), state, fields, body)| PeekedMessage {
            id,
            state,
            attempts,
            sent_at_ms,
            until_ms,
            fields,
            body,
        },
    );
    (any::<(bool, u64)>(), vec(message, 0..4)).prop_map(|((more, last), messages)| Peeked {
        more,
        last,
        messages,
    })
}

pub(super) fn purged() -> impl Strategy<Value = Purged> {
    any::<(u64, u64, u64, u64, bool)>().prop_map(|(messages, skipped, last, through, more)| {
        Purged { messages, skipped, last, through, more }
    })
}

pub(super) fn transacted() -> impl Strategy<Value = Transacted> {
    vec(sent(), 0..4).prop_map(|sent| Transacted { sent })
}

/// A message delivered with `headers`.
pub(super) fn message_with(headers: &Headers) -> ReceivedMessage {
    ReceivedMessage {
        queue: 0,
        id: 1,
        receipt: Receipt { queue: 1, lease: 2, id: 3, secret: 4 },
        attempt: 1,
        sent_at_ms: 0,
        lease_until_ms: 0,
        fields: headers.to_fields(),
        body: Body::new(Bytes::new()),
    }
}

pub(super) fn received() -> impl Strategy<Value = Received> {
    (statuses(), vec(message(), 0..4))
        .prop_map(|(settled, messages)| Received { settled, messages })
}

pub(super) fn listed() -> impl Strategy<Value = Listed> {
    (vec(description(), 0..3), any::<bool>()).prop_map(|(queues, more)| Listed { queues, more })
}

pub(super) fn counted() -> impl Strategy<Value = Counted> {
    vec((name(), statistics()), 0..4).prop_map(|queues| Counted { queues })
}
