//! What random histories reach too seldom: dead letters in corners.

use qd::shard::command::{
    Action, ById, ByIdAction, Create, Receive, Redrive, Send, Settle, Update,
};
use qd::shard::{Command, Entry, Machine, NewMessage, Origin, Outcome, Received, Record};
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
        let create = Create { queue: name(queue), if_exists, attributes, with: None };
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
    for number in 0u8..10 {
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
        let create = Create { queue: name(queue), if_exists, attributes: to(target), with: None };
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
        with: None,
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

fn lease(queue: &str, max: u32, timeout_ms: u64, secret: u64) -> Command {
    Command::Receive(Receive {
        queues: vec![name(queue)],
        max,
        bytes_max: 2 << 20,
        visibility_timeout_ms: Some(timeout_ms),
        delete: false,
        settle: Vec::new(),
        secret,
    })
}

fn numbered(number: u64, command: Command) -> Entry {
    Entry {
        origin: Some(Origin { producer: 5, number, answered_below: 1, continued: false }),
        command,
    }
}

#[test]
fn repeat_of_a_receive_whose_queue_was_dropped_does_not_end_the_daemon() {
    let mut run = Run::new();
    run.create("jobs", AttributeChanges::default());
    for _ in 0..300 {
        run.send("jobs", message(b"a".to_vec(), false));
    }
    run.record(vec![numbered(1, lease("jobs", 300, 30_000, 7))]);
    let drop = qd::shard::command::Drop { queue: name("jobs"), only_if_empty: false };
    run.run(Command::Drop(drop));
    let sequence = run.machine.position().applied + 1;
    let entries = vec![numbered(1, lease("jobs", 300, 30_000, 7))];
    let applied = run.machine.apply(&Record { sequence, now_ms: run.now_ms, entries });
    assert!(applied.is_ok(), "{applied:?}");
}

#[test]
fn repeat_of_a_receive_delivers_nothing_of_a_queue_that_was_dropped() {
    let mut run = Run::new();
    run.create("jobs", AttributeChanges::default());
    run.send("jobs", message(b"a".to_vec(), false));
    run.record(vec![numbered(1, lease("jobs", 1, 30_000, 7))]);
    let drop = qd::shard::command::Drop { queue: name("jobs"), only_if_empty: false };
    let outcomes = run.record(vec![
        Entry { origin: None, command: Command::Drop(drop) },
        numbered(1, lease("jobs", 1, 30_000, 7)),
    ]);
    assert!(matches!(&outcomes[1], Outcome::Refused(_)), "{:?}", outcomes[1]);
}

#[test]
fn repeat_of_a_receive_delivers_nothing_of_a_lease_that_ends_at_this_instant() {
    let mut run = Run::new();
    let at_once =
        AttributeChanges { visibility_timeout_ms: Some(0), ..AttributeChanges::default() };
    run.create("short", at_once);
    run.create("long", AttributeChanges::default());
    for queue in ["short", "long"] {
        run.send(queue, message(queue.as_bytes().to_vec(), false));
    }
    let receive = Command::Receive(Receive {
        queues: vec![name("short"), name("long")],
        visibility_timeout_ms: None,
        ..match lease("short", 2, 0, 7) {
            Command::Receive(receive) => receive,
            _ => unreachable!(),
        }
    });
    let outcomes = run.record(vec![numbered(1, receive.clone()), numbered(1, receive)]);
    let [Outcome::Received(first), Outcome::Received(again)] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert_eq!((first.messages.len(), first.leases.len()), (2, 2));
    assert_eq!(again.messages, first.messages[1..]);
    assert_eq!(again.leases, first.leases[1..]);
}

#[test]
fn replica_that_was_reopened_has_the_same_rows() {
    let mut runs = [Run::new(), Run::new()];
    for run in &mut runs {
        let once = AttributeChanges { max_deliveries: Some(1), ..AttributeChanges::default() };
        run.create("jobs", once);
        let short = AttributeChanges { retention_ms: Some(1_000), ..AttributeChanges::default() };
        run.create("jobs.dead", short);
        for _ in 0..3 {
            run.send("jobs", message(b"a".to_vec(), false));
        }
        run.run(lease("jobs", 1, 1_000, 7));
        run.tick(1_000);
        let discard = ById { queue: name("jobs.dead"), action: ByIdAction::Discard, ids: vec![1] };
        run.run(Command::ById(discard));
        run.now_ms += 500;
        run.run(lease("jobs", 1, 500, 7));
    }
    let hash = |run: &Run| run.machine.row_hash().unwrap();
    assert_eq!(hash(&runs[0]), hash(&runs[1]));
    runs[1].machine.checkpoint().unwrap();
    runs[1].machine = Memory::default().open();
    runs[1].machine = runs[1].storage.open();
    assert_eq!(hash(&runs[0]), hash(&runs[1]));
    for run in &mut runs {
        let Outcome::Received(received) = run.run(lease("jobs", 1, 9_000, 8)) else { panic!() };
        run.now_ms += 500;
        let action = Action::Reject { reason: "x".to_owned() };
        let receipts = vec![received.messages[0].receipt];
        run.run(Command::Settle(Settle { queue: name("jobs"), action, receipts, seed: 1 }));
    }
    assert_eq!(hash(&runs[0]), hash(&runs[1]));
}

#[test]
fn record_is_bounded_in_what_cancelled_repeats_deliver() {
    let mut run = Run::new();
    let large =
        AttributeChanges { max_message_size: Some(16 << 20), ..AttributeChanges::default() };
    run.create("jobs", large);
    for _ in 0..12 {
        run.send("jobs", message(vec![1; 8 << 20], false));
    }
    for number in 1..=12 {
        run.record(vec![numbered(number, lease("jobs", 1, 30_000, 7))]);
    }
    // Repeats after a lost connection, of which the second is lost too: `Batch::cancel` sets 0.
    let entries = (1..=12).map(|number| numbered(number, lease("jobs", 0, 30_000, 7)));
    let outcomes = run.record(entries.collect());
    let bytes: usize = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Received(received) => {
                received.messages.iter().map(|message| message.body.bytes.len()).sum()
            }
            _ => 0,
        })
        .sum();
    assert!(bytes <= (8 << 20) + (16 << 20), "{} MiB in one record", bytes >> 20);
}

#[test]
fn queue_that_drops_its_oldest_takes_a_large_message_in_front_of_a_chain() {
    let mut run = Run::new();
    let ring = AttributeChanges {
        max_messages: Some(1),
        max_message_size: Some(16 << 20),
        overflow: Some(1),
        dead_letter_overflow: Some(true),
        ..AttributeChanges::default()
    };
    run.create(
        "q4",
        AttributeChanges { dead_letter: Some(DeadLetter::None), ..AttributeChanges::default() },
    );
    for number in [3, 2, 1] {
        let dead_letter = Some(DeadLetter::Queue(name(&format!("q{}", number + 1))));
        run.create(&format!("q{number}"), AttributeChanges { dead_letter, ..ring.clone() });
        run.send(&format!("q{number}"), message(vec![number; 16 << 20], false));
    }
    let messages = vec![message(vec![9; 16 << 20], false)];
    let Outcome::Sent(runs) = run.run(Command::Send(Send { queue: name("q1"), messages })) else {
        panic!()
    };
    let s = run.statistics("q1");
    assert!(
        matches!(runs[0], qd_protocol::verbs::SentRun::Stored { .. }),
        "{runs:?}, dropped {}, blocked {}",
        s.dropped,
        s.dead_letter_blocked
    );
}

#[test]
fn chain_of_dead_letter_queues_is_bounded_and_so_is_what_is_said_of_it() {
    let mut run = Run::new();
    let queue = |number: usize| format!("{}{number:05}", "x".repeat(115));
    for number in 0..200 {
        run.create(&queue(number), to(&queue(number + 1)));
    }
    // Each was made in front of one that was not there; in front of all of them is too far.
    let update = Update { queue: name(&queue(0)), attributes: to(&queue(1)) };
    let Outcome::Refused(refusal) = run.run(Command::Update(update)) else { panic!() };
    assert!(refusal.text.contains("more than 16"), "{}", refusal.text);
    let update = Update { queue: name(&queue(199)), attributes: to(&queue(190)) };
    let Outcome::Refused(refusal) = run.run(Command::Update(update)) else { panic!() };
    assert!(refusal.text.len() < 4_000, "{}", refusal.text);
    assert_eq!(refusal.code, ErrorCode::AttributesConflict);
}

#[test]
fn blocked_messages_are_tried_in_turn_and_hold_up_no_others() {
    let mut run = Run::new();
    run.create("jobs", to("small"));
    run.create("other", AttributeChanges::default());
    let small = AttributeChanges { max_bytes: Some(1_000), ..AttributeChanges::default() };
    run.create("small", small);
    // More that will never fit than one try looks at, and one that does behind them.
    for _ in 0..250 {
        run.send("jobs", message(vec![1; 2_000], false));
    }
    run.send("jobs", message(vec![1; 10], false));
    run.create("full", AttributeChanges { max_messages: Some(1), ..AttributeChanges::default() });
    run.send("full", message(Vec::new(), false));
    run.create("jobs", to("full"));
    run.reject("jobs", 10_000);
    assert_eq!(run.statistics("jobs").dead_letter_blocked, 251);
    run.send("other", NewMessage { due: Some(Due::After(1)), ..message(Vec::new(), false) });
    // Where its dead-letter queue changes they are tried at once, a hundred of them.
    run.create("jobs", to("small"));
    run.tick(1);
    assert_eq!(run.statistics("other").ready, 1);
    assert_eq!(run.statistics("small").ready, 0);
    run.tick(60_000);
    run.tick(60_000);
    assert_eq!(run.statistics("small").ready, 1);
    assert_eq!(run.statistics("jobs").dead_letter_blocked, 250);
}

#[test]
fn dry_run_of_a_redrive_counts_what_fits() {
    let mut run = Run::new();
    run.create("jobs", AttributeChanges::default());
    for _ in 0..5 {
        run.send("jobs", message(b"a".to_vec(), false));
    }
    run.reject("jobs", 5);
    run.create("jobs", AttributeChanges { max_messages: Some(2), ..AttributeChanges::default() });
    let mut counts = Vec::new();
    for dry_run in [true, false] {
        let redrive = Redrive {
            queue: name("jobs.dead"),
            to: None,
            after: 0,
            through: 0,
            max: 1_000,
            headers: Vec::new(),
            dry_run,
        };
        let Outcome::Redriven(redriven) = run.run(Command::Redrive(redrive)) else { panic!() };
        counts.push((redriven.moved, redriven.skipped));
    }
    assert_eq!(counts, [(2, 3), (2, 3)]);
}
