//! What random histories reach too seldom: dead letters in corners.

use qd::shard::command::{
    Action, ById, ByIdAction, Create, Receive, Redrive, Send, Settle, Update,
};
use qd::shard::{Command, Entry, Machine, NewMessage, Outcome, Received, Record};
use qd_protocol::attributes::DeadLetter;
use qd_protocol::verbs::{Due, IfExists};
use qd_protocol::{AttributeChanges, ErrorCode, QueueName, Statistics};

use crate::memory::Memory;
use crate::random_work::message;

struct Run {
    storage: Memory,
    machine: Machine,
    now_ms: u64,
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}

impl Run {
    fn new() -> Self {
        let storage = Memory::default();
        let machine = storage.open();
        Self { storage, machine, now_ms: 1_000_000 }
    }

    fn record(&mut self, entries: Vec<Entry>) -> Vec<Outcome> {
        let sequence = self.machine.position().applied + 1;
        let record = Record { sequence, now_ms: self.now_ms, entries };
        let outcomes = self.machine.apply(&record).unwrap().outcomes;
        assert_eq!(self.machine.verify().unwrap(), [""; 0]);
        outcomes
    }

    fn run(&mut self, command: Command) -> Outcome {
        self.record(vec![Entry { origin: None, command }]).remove(0)
    }

    fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        self.record(Vec::new());
    }

    fn create(&mut self, queue: &str, attributes: AttributeChanges) {
        let if_exists = IfExists::Update;
        let create = Create { queue: name(queue), if_exists, attributes };
        let outcome = self.run(Command::Create(create));
        assert!(matches!(outcome, Outcome::Created(_)), "{outcome:?}");
    }

    fn send(&mut self, queue: &str, message: NewMessage) {
        let messages = vec![message];
        self.run(Command::Send(Send { queue: name(queue), messages }));
    }

    fn receive(&mut self, queue: &str, max: u32) -> Received {
        let receive = Receive {
            queues: vec![name(queue)],
            max,
            bytes_max: 1 << 30,
            visibility_timeout_ms: Some(1_000),
            delete: false,
            settle: Vec::new(),
            secret: 7,
        };
        match self.run(Command::Receive(receive)) {
            Outcome::Received(received) => received,
            other => panic!("{other:?}"),
        }
    }

    fn reject(&mut self, queue: &str, max: u32) {
        let receipts = self.receive(queue, max).messages.iter().map(|m| m.receipt).collect();
        let action = Action::Reject { reason: "broken".to_owned() };
        self.run(Command::Settle(Settle { queue: name(queue), action, receipts, seed: 1 }));
    }

    fn statistics(&self, queue: &str) -> Statistics {
        self.machine.describe(&name(queue), self.now_ms).unwrap().unwrap().statistics
    }
}

fn to(queue: &str) -> AttributeChanges {
    let dead_letter = Some(DeadLetter::Queue(name(queue)));
    AttributeChanges { dead_letter, max_deliveries: Some(1), ..AttributeChanges::default() }
}

#[test]
fn blocked_message_outlives_its_time_as_long_as_it_is_to_be_a_dead_letter() {
    let mut run = Run::new();
    run.create("jobs", to("missing"));
    run.send("jobs", NewMessage { ttl_ms: Some(10_000), ..message(b"a".to_vec(), false) });
    run.receive("jobs", 1);
    run.tick(1_000);
    let statistics = run.statistics("jobs");
    assert_eq!((statistics.delayed, statistics.dead_letter_blocked), (1, 1));
    run.tick(20_000);
    assert_eq!(run.statistics("jobs").dead_letter_blocked, 1);
    // Now its queue has no dead-letter queue any more, and the message no time.
    let attributes =
        AttributeChanges { dead_letter: Some(DeadLetter::None), ..AttributeChanges::default() };
    run.run(Command::Update(Update { queue: name("jobs"), attributes }));
    run.tick(60_000);
    let statistics = run.statistics("jobs");
    assert_eq!((statistics.ready, statistics.delayed, statistics.expired), (0, 0, 1));
}

#[test]
fn reschedule_of_a_blocked_message_tries_its_dead_letter_queue_again() {
    let mut run = Run::new();
    run.create("jobs", to("later"));
    run.send("jobs", message(b"a".to_vec(), false));
    run.reject("jobs", 1);
    run.create("later", AttributeChanges::default());
    run.tick(1_000);
    assert_eq!(run.statistics("jobs").dead_letter_blocked, 1);
    let action = ByIdAction::Reschedule(Due::After(0));
    run.run(Command::ById(ById { queue: name("jobs"), action, ids: vec![1] }));
    run.tick(0);
    assert_eq!(run.statistics("jobs").dead_letter_blocked, 0);
    assert_eq!(run.statistics("later").ready, 1);
}

#[test]
fn redriven_message_that_is_dropped_to_make_room_for_itself_is_skipped() {
    let mut run = Run::new();
    let ring = AttributeChanges {
        max_messages: Some(1),
        overflow: Some(1),
        ..AttributeChanges::default()
    };
    run.create("jobs", AttributeChanges { dead_letter_overflow: Some(true), ..ring.clone() });
    run.create("jobs.dead", ring);
    run.send("jobs", message(b"old".to_vec(), false));
    run.reject("jobs", 1);
    run.send("jobs", message(b"new".to_vec(), false));
    let redrive = Redrive {
        queue: name("jobs.dead"),
        to: None,
        after: 0,
        through: 0,
        max: 10,
        headers: Vec::new(),
        dry_run: false,
    };
    let Outcome::Redriven(redriven) = run.run(Command::Redrive(redrive)) else { panic!() };
    assert_eq!((redriven.moved, redriven.skipped, redriven.more), (0, 1, false));
    assert_eq!(redriven.refusal.unwrap().code, ErrorCode::NoSuchMessage);
    // The new one took the place of the old one, as both queues are told to.
    assert_eq!((run.statistics("jobs").ready, run.statistics("jobs.dead").ready), (0, 1));
    assert_eq!(run.statistics("jobs.dead").dropped, 1);
}

#[test]
fn record_moves_a_bounded_number_of_bytes_and_the_next_ones_the_rest() {
    let mut run = Run::new();
    let large =
        AttributeChanges { max_message_size: Some(16 << 20), ..AttributeChanges::default() };
    run.create("jobs", large);
    for number in 0..10 {
        run.send("jobs", message(vec![number; 8 << 20], true));
    }
    run.reject("jobs", 10);
    let moved = run.statistics("jobs.dead").ready;
    assert_eq!((moved, run.statistics("jobs").dead_letter_blocked), (4, 6));
    run.tick(0);
    run.tick(0);
    assert_eq!(run.statistics("jobs").delayed, 0);
    run.machine.checkpoint().unwrap();
    run.machine = Memory::default().open();
    run.machine = run.storage.open();
    let received = run.receive("jobs.dead", 10);
    for (number, message) in (0..).zip(&received.messages) {
        assert_eq!(message.body.bytes, vec![number; 8 << 20]);
        let dead = message.dead_letter().unwrap().unwrap();
        assert_eq!((dead.id, dead.queue.as_str()), (u64::from(number) + 1, "jobs"));
        assert_eq!(dead.reason.to_string(), "rejected: broken");
        assert_eq!((dead.attempts, dead.sent_at_ms), (1, 1_000_000));
        assert_eq!((dead.first_delivered_ms, dead.last_delivered_ms), (1_000_000, 1_000_000));
        assert_eq!(message.headers().unwrap().0.len(), 1);
    }
    assert_eq!(received.messages.len(), 10);
}

#[test]
fn cycles_of_dead_letter_queues_are_refused_whoever_closes_them() {
    let mut run = Run::new();
    run.create("a", to("b"));
    run.create("c", to("a"));
    for (queue, target) in [("a", "a"), ("b", "c"), ("b", "a")] {
        let if_exists = IfExists::Update;
        let create = Create { queue: name(queue), if_exists, attributes: to(target) };
        let outcome = run.run(Command::Create(create));
        let Outcome::Refused(refusal) = outcome else { panic!("{queue} -> {target}: {outcome:?}") };
        assert_eq!(refusal.code, ErrorCode::AttributesConflict);
    }
    // The default dead-letter queue of a queue to be made may lead back to it as well.
    run.create("x.dead", to("x"));
    let create = Create {
        queue: name("x"),
        if_exists: IfExists::Compare,
        attributes: AttributeChanges::default(),
    };
    assert!(matches!(run.run(Command::Create(create)), Outcome::Refused(_)));
}

#[test]
fn answer_is_bounded_with_all_that_is_known_of_dead_letters() {
    let mut run = Run::new();
    run.create("jobs", AttributeChanges::default());
    let messages = vec![message(Vec::new(), false); 3_000];
    run.run(Command::Send(Send { queue: name("jobs"), messages }));
    let receipts = run.receive("jobs", 3_000).messages.iter().map(|m| m.receipt).collect();
    let action = Action::Reject { reason: "x".repeat(1_024) };
    run.run(Command::Settle(Settle { queue: name("jobs"), action, receipts, seed: 1 }));
    let receive = Receive {
        queues: vec![name("jobs.dead")],
        max: 10_000,
        bytes_max: 1 << 20,
        visibility_timeout_ms: None,
        delete: false,
        settle: Vec::new(),
        secret: 7,
    };
    let Outcome::Received(received) = run.run(Command::Receive(receive)) else { panic!() };
    let bytes: usize = received.messages.iter().map(|message| message.fields.len()).sum();
    assert!(bytes <= 1 << 20 && received.messages.len() > 800, "{bytes}");
}

#[test]
fn retention_of_a_dead_letter_queue_counts_from_the_record_that_fills_it() {
    let mut run = Run::new();
    let once = AttributeChanges { max_deliveries: Some(1), ..AttributeChanges::default() };
    run.create("jobs", once);
    let short = AttributeChanges { retention_ms: Some(1_000), ..AttributeChanges::default() };
    run.create("jobs.dead", short);
    for _ in 0..2 {
        // The first one leaves a time behind at which the queue is looked at: just when the second
        // one comes.
        run.send("jobs", message(b"a".to_vec(), false));
        run.receive("jobs", 1);
        run.tick(1_000);
        assert_eq!(run.statistics("jobs.dead").ready, 1);
        let discard = ById { queue: name("jobs.dead"), action: ByIdAction::Discard, ids: vec![1] };
        run.run(Command::ById(discard));
    }
    run.tick(1_000);
    let statistics = run.statistics("jobs.dead");
    assert_eq!((statistics.ready, statistics.expired), (0, 1));
}
