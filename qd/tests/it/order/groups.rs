//! Groups of ordered queues, and very many groups.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use qd::shard::command::{Action, Send, Settle, Update};
use qd::shard::{Command, Entry, Outcome};
use qd_protocol::verbs::{Due, ReceivedMessage, Until};
use qd_protocol::{AttributeChanges, ErrorCode};

use super::{Run, few, group, message, name, properties};

/// What one of the consumers does.
#[derive(Debug, Clone)]
enum Deed {
    /// Takes messages, if it has none.
    Receive(u32),
    /// Deletes this many of what it has, from the front.
    Delete(usize),
    /// Gives the first one back, and all others of its group in the same way or not at all.
    Release { counted: bool, due: Option<Due>, all: bool },
    /// Asks for more time.
    Extend(u64),
    /// Forgets what it has.
    Die,
}

fn deed() -> impl Strategy<Value = Deed> {
    let due = prop_oneof![
        2 => Just(None),
        2 => (0u64..3_000).prop_map(|ms| Some(Due::After(ms))),
    ];
    prop_oneof![
        6 => (1u32..12).prop_map(Deed::Receive),
        6 => (1usize..5).prop_map(Deed::Delete),
        2 => (any::<bool>(), due, any::<bool>())
            .prop_map(|(counted, due, all)| Deed::Release { counted, due, all }),
        1 => (0u64..4_000).prop_map(Deed::Extend),
        1 => Just(Deed::Die),
    ]
}

/// Consumers that keep the order of what they have.
struct Consumers {
    run: Run,
    /// What each has, in the order in which it came.
    held: Vec<Vec<ReceivedMessage>>,
    /// The message deleted last, by group.
    deleted: BTreeMap<String, u64>,
    /// All live messages that some lease holds, with the lease's number and its end.
    leased: BTreeMap<u64, (u64, u64, String)>,
}

impl Consumers {
    fn receive(&mut self, who: usize, max: u32) {
        if !self.held[who].is_empty() {
            return;
        }
        let received = self.run.receive_with(max, |receive| {
            receive.visibility_timeout_ms = Some(2_000);
        });
        let now_ms = self.run.now_ms;
        self.leased.retain(|_, (_, end_ms, _)| *end_ms > now_ms);
        let groups: Vec<String> = received.iter().map(group).collect();
        for other in self.leased.values() {
            assert!(!groups.contains(&other.2), "{:?} is held twice", other.2);
        }
        // A group's messages stand together, in order.
        let runs: Vec<&[String]> = groups.chunk_by(|a, b| a == b).collect();
        let distinct: BTreeSet<&String> = groups.iter().collect();
        assert_eq!(runs.len(), distinct.len(), "{groups:?}");
        for pair in received.windows(2) {
            assert!(group(&pair[0]) != group(&pair[1]) || pair[0].id < pair[1].id);
        }
        for message in &received {
            let held = (message.receipt.lease, message.lease_until_ms, group(message));
            assert!(self.leased.insert(message.id, held).is_none());
        }
        self.held[who] = received;
    }

    fn delete(&mut self, who: usize, count: usize) {
        let count = count.min(self.held[who].len());
        let gone: Vec<ReceivedMessage> = self.held[who].drain(..count).collect();
        let receipts = gone.iter().map(|message| message.receipt).collect();
        let statuses = self.run.settle(Action::Delete, receipts);
        for (message, status) in gone.iter().zip(statuses.entries()) {
            match status {
                Ok(()) => {
                    assert!(self.holds(message));
                    self.leased.remove(&message.id);
                    let before = self.deleted.insert(group(message), message.id);
                    assert!(before < Some(message.id), "{before:?} was deleted before");
                }
                Err(refusal) => {
                    assert_eq!(refusal.code, ErrorCode::ReceiptExpired);
                    assert!(!self.holds(message));
                }
            }
        }
    }

    /// What it has of that group it does not work on any more.
    fn release(&mut self, who: usize, counted: bool, due: Option<Due>, all: bool) {
        let Some(first) = self.held[who].first().map(group) else {
            return;
        };
        let of_group: Vec<ReceivedMessage> =
            self.held[who].extract_if(.., |message| group(message) == first).collect();
        let count = if all { of_group.len() } else { 1 };
        let receipts = of_group[..count].iter().map(|message| message.receipt).collect();
        let statuses = self.run.settle(Action::Release { counted, due }, receipts);
        for (message, status) in of_group.iter().zip(statuses.entries()) {
            if status.is_ok() {
                self.leased.remove(&message.id);
            }
        }
    }

    fn extend(&mut self, who: usize, ms: u64) {
        let receipts = self.held[who].iter().map(|message| message.receipt).collect();
        let statuses = self.run.settle(Action::Extend(Until::To(ms)), receipts);
        for (message, status) in self.held[who].iter().zip(statuses.entries()) {
            if let (Ok(()), Some(held)) = (status, self.leased.get_mut(&message.id)) {
                held.1 = self.run.now_ms + ms;
            }
        }
    }

    /// Whether the lease that brought the message still holds it.
    fn holds(&self, message: &ReceivedMessage) -> bool {
        self.leased.get(&message.id).is_some_and(|(lease, end_ms, _)| {
            *lease == message.receipt.lease && *end_ms > self.run.now_ms
        })
    }

    fn act(&mut self, who: usize, deed: &Deed) {
        match *deed {
            Deed::Receive(max) => self.receive(who, max),
            Deed::Delete(count) => self.delete(who, count),
            Deed::Release { counted, due, all } => self.release(who, counted, due, all),
            Deed::Extend(ms) => self.extend(who, ms),
            Deed::Die => self.held[who].clear(),
        }
    }
}

proptest! {
    #![proptest_config(few(60))]

    #[test]
    fn ordered_groups_are_deleted_in_order_and_held_by_one_lease(
        first in proptest::collection::vec("[ab]{0,2}", 1..60),
        steps in proptest::collection::vec(
            (0usize..4, deed(), 0u64..600, "[ab]{0,2}", 0u8..12, 0u64..1_500), 1..120),
    ) {
        let mut run = Run::new(AttributeChanges {
            ordered: Some(true),
            max_deliveries: Some(6),
            retry_delay_ms: Some(vec![500, 0, 2_000]),
            ..AttributeChanges::default()
        });
        run.send("jobs", first.iter().map(|group| message(0, group, None)).collect());
        let held = vec![Vec::new(); 4];
        let (deleted, leased) = (BTreeMap::new(), BTreeMap::new());
        let mut consumers = Consumers { run, held, deleted, leased };
        for (who, deed, ms, group, what, delay_ms) in steps {
            consumers.run.pass(ms);
            consumers.act(who, &deed);
            match what {
                0 => consumers.run.reopen(),
                1 | 2 => {
                    let delayed = Some(Due::After(delay_ms)).filter(|_| what == 1);
                    let sent = message(0, &group, None);
                    consumers.run.send("jobs", vec![qd::shard::NewMessage { due: delayed, ..sent }]);
                }
                _ => {}
            }
            consumers.run.check();
        }
        // In the end all come, each group in its order.
        consumers.run.pass(20_000);
        for _ in 0..200 {
            let statistics = consumers.run.statistics("jobs");
            if statistics.ready + statistics.delayed + statistics.leased == 0 {
                break;
            }
            for who in 0..4 {
                consumers.held[who].clear();
                consumers.receive(who, 5);
                consumers.delete(who, 5);
            }
            consumers.run.pass(100);
        }
        let statistics = consumers.run.statistics("jobs");
        prop_assert_eq!((statistics.ready, statistics.delayed, statistics.leased), (0, 0, 0));
        consumers.run.check();
    }
}

#[test]
fn part_of_a_group_holds_the_rest_of_it_and_others_serve_the_other_groups() {
    let mut run = Run::ordered();
    run.send("jobs", ["a", "a", "a", "b", "b", "c"].map(|group| message(0, group, None)).into());
    let ids = |messages: &[ReceivedMessage]| messages.iter().map(|m| m.id).collect::<Vec<_>>();
    let first = run.receive(2);
    assert_eq!(ids(&first), [1, 2]);
    let second = run.receive(10);
    assert_eq!(ids(&second), [4, 5, 6]);
    assert!(run.receive(10).is_empty());
    run.delete(&first);
    assert_eq!(ids(&run.receive(10)), [3]);
}

#[test]
fn delayed_message_holds_what_is_behind_it_in_its_group_only() {
    let mut run = Run::ordered();
    let delayed = qd::shard::NewMessage { due: Some(Due::After(5_000)), ..message(0, "a", None) };
    run.send("jobs", vec![message(0, "a", None), delayed, message(0, "a", None)]);
    run.send("jobs", vec![message(0, "b", None)]);
    let ids = |messages: Vec<ReceivedMessage>| messages.iter().map(|m| m.id).collect::<Vec<_>>();
    let delete = |receive: &mut qd::shard::command::Receive| receive.delete = true;
    assert_eq!(ids(run.receive_with(10, delete)), [1, 4]);
    assert!(run.receive(10).is_empty());
    run.pass(5_000);
    assert_eq!(ids(run.receive(10)), [2, 3]);
    run.check();
}

#[test]
fn ordered_changes_only_while_the_queue_is_empty_and_never_with_drop_oldest() {
    let mut run = Run::ordered();
    let update = |changes| Command::Update(Update { queue: name("jobs"), attributes: changes });
    let plain = AttributeChanges { ordered: Some(false), ..AttributeChanges::default() };
    run.send("jobs", vec![message(0, "a", None), message(0, "b", None)]);
    match run.run(update(plain.clone())) {
        Outcome::Refused(refusal) => {
            assert_eq!(refusal.code, ErrorCode::QueueNotEmpty);
            assert!(refusal.text.contains("jobs") && refusal.text.contains("2 messages"));
        }
        other => panic!("{other:?}"),
    }
    let drops = AttributeChanges { overflow: Some(1), ..AttributeChanges::default() };
    match run.run(update(drops)) {
        Outcome::Refused(refusal) => assert_eq!(refusal.code, ErrorCode::AttributesConflict),
        other => panic!("{other:?}"),
    }
    run.receive_with(10, |receive| receive.delete = true);
    assert_eq!(run.run(update(plain)), Outcome::Updated(true));
    assert_eq!(run.send("jobs", vec![message(9, "a", None)]).len(), 1);
    assert_eq!(properties(&run.receive(1)[0]).priority, 9);
    run.check();
}

#[test]
fn queue_that_is_ordered_no_more_within_a_record_has_no_groups_to_be_served() {
    let mut run = Run::ordered();
    let set_ordered = |ordered| {
        let attributes = AttributeChanges { ordered: Some(ordered), ..AttributeChanges::default() };
        Command::Update(Update { queue: name("jobs"), attributes })
    };
    run.send("jobs", vec![message(0, "a", None)]);
    let receipts = vec![run.receive(1)[0].receipt];
    let delete = Settle { queue: name("jobs"), action: Action::Delete, receipts, seed: 0 };
    let send = Send { queue: name("jobs"), messages: vec![message(0, "a", None)] };
    let commands = [Command::Settle(delete), set_ordered(false), Command::Send(send)];
    let entry = |command| Entry { origin: None, command };
    run.record(commands.map(entry).into());
    run.check();
    // What was left behind would hide the groups behind it.
    run.receive_with(1, |receive| receive.delete = true);
    run.run(set_ordered(true));
    run.send("jobs", vec![message(0, "b", None)]);
    assert_eq!(run.machine.ready(&name("jobs")).0, 1);
    assert_eq!(run.receive(1).len(), 1);
    assert_eq!(run.machine.ready(&name("jobs")).0, 0);
    run.check();
}

/// Groups of the test below, scaled down from the million that a queue is to stand.
const GROUPS: usize = 20_000;

#[test]
fn very_many_groups_of_one_message_come_and_go() {
    for ordered in [false, true] {
        let ordered = AttributeChanges { ordered: Some(ordered), ..AttributeChanges::default() };
        let mut run = Run::new(ordered);
        for from in (0..GROUPS).step_by(1_000) {
            let messages = from..from + 1_000;
            run.send("jobs", messages.map(|at| message(0, &format!("{at}"), None)).collect());
        }
        run.check();
        run.reopen();
        let mut seen = BTreeSet::new();
        while seen.len() < GROUPS {
            let received = run.receive(1_000);
            assert_eq!(received.len(), 1_000);
            seen.extend(received.iter().map(group));
            run.delete(&received);
        }
        assert_eq!(run.statistics("jobs").ready, 0);
        assert!(run.receive(1).is_empty());
        run.check();
    }
}
