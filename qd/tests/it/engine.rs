//! The engine without a network: requests that reach it in one round, and what its records hold.
//!
//! What is handed in before [`Rig::start`] waits in the mailbox, so the engine takes it in one
//! round, or in as many as the limits of a record make of it.

mod disk;
mod freeing;
mod order;
mod reads;
mod waiting;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use qd::broker::{
    Answer, Broker, Engine, Job, MAILBOX_BYTES_MAX, Mailbox, Peer, Reply, Slot, Work,
};
use qd::clock::{Clock, Reading};
use qd::log::SEGMENT_BYTES;
use qd::log::files::Files;
use qd::replicator::Local;
use qd::shard::command::{Create, Send as SendCommand};
use qd::shard::{Command, Entry, Origin, Record};
use qd_protocol::verbs::{self, Due, IfExists, SendEntry, SentRun};
use qd_protocol::{AttributeChanges, ErrorCode, QueueName, Statistics};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::memory::Memory;
use crate::random_work::message;

const START_MS: u64 = 1_000_000;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

struct Connection {
    peer: Arc<Peer>,
    replies: UnboundedReceiver<Reply>,
}

struct Rig {
    runtime: Runtime,
    broker: Broker,
    mailbox: Option<Mailbox>,
    local: Option<Local>,
    clock: Arc<Mutex<Reading>>,
    slots: Arc<Semaphore>,
    connections: u64,
    records: Arc<Mutex<Vec<Record>>>,
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}

fn origin(number: u64) -> Origin {
    Origin { producer: 5, number, answered_below: 1, continued: false }
}

fn send(queue: &str, bodies: &[&str]) -> Work {
    let entries = bodies.iter().map(|body| SendEntry::new(body.to_string())).collect();
    Work::send(verbs::Send { queue: name(queue), entries }).unwrap()
}

fn receive(queue: &str, wait_ms: u64, change: impl FnOnce(&mut verbs::Receive)) -> Work {
    let mut receive = verbs::Receive {
        queues: vec![name(queue)],
        max: 1,
        wait_ms,
        visibility_timeout_ms: None,
        delete_on_receive: false,
        settle: Vec::new(),
    };
    change(&mut receive);
    Work::receive(receive).unwrap()
}

fn drop_queue(queue: &str) -> Work {
    Work::drop(verbs::Drop { queue: name(queue), only_if_empty: false })
}

impl Rig {
    /// With queues `a` and `b`.
    fn new() -> Self {
        let memory = Memory::default();
        Self::with_log(&memory, Box::new(memory.clone()))
    }

    /// With the state in `memory` and the log in `files`.
    fn with_log(memory: &Memory, files: Box<dyn Files>) -> Self {
        let (broker, mailbox) = Broker::new();
        let machine = memory.try_open().unwrap();
        let local = Local::open(machine, files, SEGMENT_BYTES, mailbox.on_failure()).unwrap();
        let reading =
            Reading { boot: Duration::from_secs(1), wall: Duration::from_millis(START_MS) };
        let mut rig = Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            broker,
            mailbox: Some(mailbox),
            local: Some(local),
            clock: Arc::new(Mutex::new(reading)),
            slots: Arc::new(Semaphore::new(1_000_000)),
            connections: 0,
            records: Arc::default(),
        };
        for queue in ["a", "b"] {
            rig.apply(Command::Create(Create {
                queue: name(queue),
                if_exists: IfExists::Compare,
                attributes: AttributeChanges::default(),
                with: None,
            }));
        }
        rig
    }

    /// Before the engine starts.
    fn apply(&mut self, command: Command) {
        let entries = vec![Entry { origin: None, command }];
        self.local.as_mut().unwrap().replicate(START_MS, entries, true).unwrap();
    }

    fn connect(&mut self) -> Connection {
        self.connections += 1;
        let (sender, replies) = unbounded_channel();
        Connection { peer: Arc::new(self.broker.peer(self.connections, sender)), replies }
    }

    fn submit(&self, to: &Connection, correlation: u32, origin: Option<Origin>, work: Work) {
        let slot = Slot::new(Arc::clone(&self.slots).try_acquire_owned().unwrap(), None);
        let peer = Arc::clone(&to.peer);
        let job = Job { peer, correlation, slot, origin, work };
        self.runtime.block_on(self.broker.submit(job, 100, false));
    }

    fn start(&mut self) {
        self.start_with(|_| ());
    }

    /// Shows every record to `tap` before it is carried out.
    fn start_with(&mut self, tap: impl FnMut(&Record) + Send + 'static) {
        let engine = self.engine(tap);
        std::thread::spawn(move || engine.run().unwrap());
    }

    fn engine(&mut self, mut tap: impl FnMut(&Record) + Send + 'static) -> Engine {
        let records = Arc::clone(&self.records);
        let tap = Box::new(move |record: &Record| {
            records.lock().unwrap().push(record.clone());
            tap(record);
        });
        let local = self.local.take().unwrap().with_tap(tap);
        let clock = Clock::Manual(Arc::clone(&self.clock));
        Engine::new(local, clock, self.mailbox.take().unwrap()).unwrap()
    }

    fn pass(&self, ms: u64) {
        let mut reading = self.clock.lock().unwrap();
        reading.boot += Duration::from_millis(ms);
        reading.wall += Duration::from_millis(ms);
    }

    fn answer(&self, to: &mut Connection) -> (u32, Answer) {
        let reply = self.runtime.block_on(async {
            tokio::time::timeout(ANSWER_WITHIN, to.replies.recv()).await.expect("an answer in time")
        });
        let reply = reply.unwrap();
        to.peer.written(reply.bytes);
        (reply.correlation, reply.answer)
    }

    /// The bodies that the next answer brings.
    fn bodies(&self, to: &mut Connection) -> Vec<Bytes> {
        match self.answer(to).1 {
            Answer::Receive(received) => {
                received.messages.into_iter().map(|message| message.body.bytes).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&self, to: &mut Connection) -> ErrorCode {
        match self.answer(to).1 {
            Answer::Refused(refusal) => refusal.code,
            other => panic!("{other:?}"),
        }
    }

    fn statistics(&mut self, queue: &str) -> Statistics {
        let mut connection = self.connect();
        let work = Work::Describe(verbs::Describe { queue: name(queue) });
        self.submit(&connection, 1, None, work);
        match self.answer(&mut connection).1 {
            Answer::Describe(description) => description.statistics,
            other => panic!("{other:?}"),
        }
    }

    fn ready(&mut self, queue: &str) -> u64 {
        self.statistics(queue).ready
    }

    /// Entries and items (messages, receipts, ids) of each record.
    fn records(&self) -> Vec<(usize, usize)> {
        let items = |entry: &Entry| match &entry.command {
            Command::Send(send) => send.messages.len(),
            Command::ById(by_id) => by_id.ids.len(),
            Command::Settle(settle) => settle.receipts.len(),
            _ => 0,
        };
        let records = self.records.lock().unwrap();
        records.iter().map(|r| (r.entries.len(), r.entries.iter().map(items).sum())).collect()
    }
}

#[test]
fn receive_of_a_connection_that_is_gone_takes_nothing() {
    let mut rig = Rig::new();
    let (mut producer, gone) = (rig.connect(), rig.connect());
    rig.submit(&producer, 1, None, send("a", &["kept"]));
    rig.submit(&gone, 1, None, receive("a", 0, |receive| receive.delete_on_receive = true));
    rig.submit(&gone, 2, None, receive("a", 5_000, |_| ()));
    rig.broker.gone(gone.peer.id());
    rig.start();
    assert!(matches!(rig.answer(&mut producer).1, Answer::Send(_)));
    assert_eq!(rig.ready("a"), 1);
}

#[test]
fn cancelled_receive_takes_nothing() {
    let mut rig = Rig::new();
    let mut consumer = rig.connect();
    rig.submit(&consumer, 1, None, send("a", &["kept"]));
    rig.submit(&consumer, 7, None, receive("a", 5_000, |receive| receive.delete_on_receive = true));
    rig.runtime.block_on(rig.broker.cancel(consumer.peer.id(), 7));
    rig.start();
    assert!(matches!(rig.answer(&mut consumer), (1, Answer::Send(_))));
    assert_eq!(rig.refusal(&mut consumer), ErrorCode::Cancelled);
    assert_eq!(rig.ready("a"), 1);
}

#[test]
fn repeated_receive_whose_lease_is_over_is_carried_out_anew() {
    let mut rig = Rig::new();
    let (mut first, mut second) = (rig.connect(), rig.connect());
    rig.submit(&first, 1, None, send("a", &["one"]));
    rig.submit(&first, 2, Some(origin(1)), receive("a", 0, |_| ()));
    rig.start();
    rig.answer(&mut first);
    assert_eq!(rig.bodies(&mut first), ["one"]);
    rig.pass(31_000);
    // Nobody else gets the message: it is there for the repeat, which comes over a connection anew.
    rig.submit(&second, 1, Some(origin(1)), receive("a", 5_000, |_| ()));
    assert_eq!(rig.bodies(&mut second), ["one"]);
    // Once more, now with nothing there: it waits, and does not keep others from what comes.
    rig.pass(31_000);
    rig.submit(&first, 3, None, receive("a", 0, |receive| receive.delete_on_receive = true));
    assert_eq!(rig.bodies(&mut first), ["one"]);
    rig.submit(&second, 2, Some(origin(1)), receive("a", 60_000, |_| ()));
    rig.submit(&first, 4, None, receive("a", 60_000, |_| ()));
    rig.submit(&first, 5, None, send("a", &["two", "three"]));
    assert_eq!(rig.bodies(&mut second), ["two"]);
    let answers: BTreeSet<u32> = [rig.answer(&mut first).0, rig.answer(&mut first).0].into();
    assert_eq!(answers, BTreeSet::from([4, 5]));
}

#[test]
fn repeat_that_gets_its_earlier_messages_leaves_new_ones_to_those_who_wait() {
    let mut rig = Rig::new();
    let (mut first, mut second) = (rig.connect(), rig.connect());
    rig.submit(&first, 1, Some(origin(1)), receive("a", 60_000, |_| ()));
    rig.start();
    assert_eq!(rig.ready("a"), 0);
    rig.submit(&second, 1, None, receive("a", 60_000, |_| ()));
    // The repeat ends the wait of the first try; then one message comes for each of both.
    let mut third = rig.connect();
    rig.submit(&third, 1, Some(origin(1)), receive("a", 60_000, |_| ()));
    assert_eq!(rig.refusal(&mut first), ErrorCode::Cancelled);
    rig.submit(&first, 2, None, send("a", &["one"]));
    assert_eq!(rig.bodies(&mut second), ["one"]);
    rig.submit(&first, 3, None, send("a", &["two"]));
    assert_eq!(rig.bodies(&mut third), ["two"]);
    // Two repeats of it and a wait of another, in one round with a message for the latter.
    rig.submit(&second, 2, None, receive("a", 60_000, |_| ()));
    rig.submit(&third, 2, Some(origin(1)), receive("a", 60_000, |_| ()));
    rig.submit(&first, 4, None, send("a", &["three"]));
    assert_eq!(rig.bodies(&mut third), ["two"]);
    assert_eq!(rig.bodies(&mut second), ["three"]);
}

#[test]
fn repeated_drop_leaves_those_alone_who_wait_for_the_new_queue_of_that_name() {
    let mut rig = Rig::new();
    let (mut admin, mut consumer) = (rig.connect(), rig.connect());
    rig.submit(&admin, 1, Some(origin(1)), drop_queue("a"));
    let create = verbs::Create {
        queue: name("a"),
        if_exists: IfExists::Compare,
        attributes: AttributeChanges::default(),
        with: None,
    };
    rig.submit(&admin, 2, Some(origin(2)), Work::create(create));
    rig.submit(&consumer, 1, None, receive("a", 60_000, |_| ()));
    rig.start();
    assert!(matches!(rig.answer(&mut admin).1, Answer::Drop(_)));
    assert!(matches!(rig.answer(&mut admin).1, Answer::Create(_)));
    rig.submit(&admin, 3, Some(origin(1)), drop_queue("a"));
    assert!(matches!(rig.answer(&mut admin).1, Answer::Drop(_)));
    rig.submit(&admin, 4, None, send("a", &["new"]));
    assert_eq!(rig.bodies(&mut consumer), ["new"]);
}

#[test]
fn number_used_again_for_another_verb_is_refused() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    rig.submit(&client, 1, Some(origin(1)), send("a", &["one"]));
    rig.submit(&client, 2, Some(origin(1)), drop_queue("a"));
    rig.start();
    assert!(matches!(rig.answer(&mut client).1, Answer::Send(_)));
    assert_eq!(rig.refusal(&mut client), ErrorCode::MalformedRequest);
    assert_eq!(rig.ready("a"), 1);
}

#[test]
fn record_is_bounded_in_what_it_is_asked_to_do() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    for correlation in 0..100 {
        let discard = verbs::Discard { queue: name("a"), ids: (1..=1_000).collect() };
        rig.submit(&client, correlation, None, Work::discard(discard).unwrap());
    }
    rig.start();
    for correlation in 0..100 {
        assert_eq!(rig.answer(&mut client).0, correlation);
    }
    let records = rig.records();
    assert!(records.iter().all(|(_, items)| *items <= 10_000), "{records:?}");
    assert_eq!(records.iter().map(|(_, items)| items).sum::<usize>(), 100_000);
}

#[test]
fn record_is_bounded_in_what_it_delivers() {
    let mut rig = Rig::new();
    for _ in 0..30 {
        let queue = name("a");
        let messages = (0..16).map(|_| message(vec![b'x'; 65_536], false)).collect();
        rig.apply(Command::Send(SendCommand { queue, messages }));
    }
    let mut clients: Vec<Connection> = (0..30).map(|_| rig.connect()).collect();
    for client in &clients {
        rig.submit(client, 1, None, receive("a", 0, |receive| receive.max = 100));
    }
    rig.start();
    let mut messages = 0;
    for client in &mut clients {
        let bodies = rig.bodies(client);
        assert_eq!(bodies.len(), 16, "one MiB each");
        messages += bodies.len();
    }
    assert_eq!(messages, 480);
    // 30 MiB at 8 MiB a record, and the last receive of a record takes it whole.
    let records = rig.records().len();
    assert!((4..=5).contains(&records), "{records}");
}

#[test]
fn receive_finds_a_message_behind_many_chunks_without_one() {
    let mut rig = Rig::new();
    let ready = message(b"ready".to_vec(), false);
    let send = |message| SendCommand { queue: name("a"), messages: vec![message] };
    rig.apply(Command::Send(send(ready.clone())));
    for _ in 0..3_000 {
        let later = qd::shard::NewMessage { due: Some(Due::After(3_600_000)), ..ready.clone() };
        rig.apply(Command::Send(send(later)));
    }
    rig.apply(Command::Send(send(ready)));
    let mut client = rig.connect();
    rig.submit(&client, 1, None, receive("a", 0, |_| ()));
    rig.submit(&client, 2, None, receive("a", 0, |_| ()));
    rig.submit(&client, 3, None, receive("a", 0, |_| ()));
    rig.start();
    let found: Vec<usize> = (0..3).map(|_| rig.bodies(&mut client).len()).collect();
    assert_eq!(found, [1, 1, 0]);
    assert!(rig.records().len() >= 3, "{:?}", rig.records());
}

#[test]
fn cancels_take_room_in_the_mailbox() {
    let mut rig = Rig::new();
    let client = rig.connect();
    let cancel = async {
        let mut cancels = 0;
        while tokio::time::timeout(Duration::from_secs(1), rig.broker.cancel(1, 1)).await.is_ok() {
            cancels += 1;
        }
        cancels
    };
    let cancels = rig.runtime.block_on(cancel);
    assert!((1_000..=MAILBOX_BYTES_MAX / 256).contains(&cancels), "{cancels}");
    rig.start();
    let mut client = client;
    rig.submit(&client, 2, None, send("a", &["through"]));
    let (_, answer) = rig.answer(&mut client);
    let Answer::Send(sent) = answer else { panic!("{answer:?}") };
    assert_eq!(sent.runs, [SentRun::Stored { first: 1, count: 1 }]);
}

#[test]
fn connections_that_do_not_read_get_less_when_all_together_have_much_to_read() {
    let mut rig = Rig::new();
    for _ in 0..200 {
        let queue = name("a");
        let messages = (0..16).map(|_| message(vec![b'x'; 65_536], false)).collect();
        rig.apply(Command::Send(SendCommand { queue, messages }));
    }
    let clients: Vec<Connection> = (0..200).map(|_| rig.connect()).collect();
    for client in &clients {
        rig.submit(client, 1, None, receive("a", 0, |receive| receive.max = 100));
        rig.submit(client, 2, None, receive("a", 0, |receive| receive.max = 100));
    }
    rig.start();
    // Until nothing moves any more.
    let (mut before, mut left) = (u64::MAX, rig.ready("a"));
    while left != before {
        std::thread::sleep(Duration::from_millis(100));
        (before, left) = (left, rig.ready("a"));
    }
    // 3,200 messages of 64 KiB; nobody has read anything.
    assert!(left > 3_200 - 2_600, "{left} left");
    drop(clients);
}

#[test]
fn wall_clock_that_jumps_neither_ends_leases_nor_freezes_delays() {
    for hours in [1i8, -1] {
        let mut rig = Rig::new();
        let mut client = rig.connect();
        let later = SendEntry { due: Some(Due::After(40_000)), ..SendEntry::new("later") };
        let send_later = verbs::Send { queue: name("b"), entries: vec![later] };
        rig.submit(&client, 1, None, send("a", &["leased"]));
        rig.submit(&client, 2, None, Work::send(send_later).unwrap());
        rig.submit(&client, 3, None, receive("a", 0, |_| ()));
        rig.start();
        let answers = (0..3).map(|_| rig.answer(&mut client).0).collect::<BTreeSet<_>>();
        assert_eq!(answers.len(), 3);
        rig.clock.lock().unwrap().wall = Duration::from_secs(1_000)
            .saturating_add(Duration::from_secs(if hours > 0 { 3_600 } else { 0 }))
            .saturating_sub(Duration::from_secs(if hours < 0 { 900 } else { 0 }));
        // The lease of 30 s goes on, the message is in one place and comes back once.
        rig.pass(20_000);
        assert_eq!(rig.ready("a"), 0, "{hours}");
        rig.submit(&client, 4, None, receive("a", 60_000, |_| ()));
        rig.submit(&client, 5, None, receive("b", 60_000, |_| ()));
        assert_eq!(rig.ready("a"), 0, "{hours}");
        rig.pass(25_000);
        let mut bodies = Vec::new();
        for _ in 0..2 {
            bodies.extend(rig.bodies(&mut client));
        }
        bodies.sort();
        assert_eq!(bodies, ["later", "leased"], "{hours}");
        assert_eq!((rig.ready("a"), rig.ready("b")), (0, 0), "{hours}");
    }
}
