//! Order, fairness, dedup ids, purge and atomic steps: what is always true of them, whatever the
//! history, and however many messages and groups there are.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;
use qd::shard::command::{Action, Create, Receive, Send, Settle};
use qd::shard::{Applied, Command, Entry, Machine, NewMessage, Outcome, Record};
use qd_protocol::message::Properties;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{IfExists, ReceivedMessage, SendEntry, Sent, Stored};
use qd_protocol::{AttributeChanges, ErrorCode, QueueName, Receipt, Statistics};

use crate::memory::Memory;
use crate::random_work::stored;

mod dedup;
mod groups;
mod limits;
mod steps;

/// A machine with the queues `jobs` and `other`.
struct Run {
    storage: Memory,
    machine: Machine,
    now_ms: u64,
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}

/// A message whose body is its group.
fn message(priority: u8, group: &str, dedup_id: Option<&str>) -> NewMessage {
    let dedup_id = dedup_id.map(str::to_owned);
    let properties = Properties { priority, group: group.to_owned(), dedup_id };
    stored(SendEntry { properties, ..SendEntry::new(group.to_owned()) })
}

fn properties(message: &ReceivedMessage) -> Properties {
    Properties::of(&message.fields).unwrap()
}

fn group(message: &ReceivedMessage) -> String {
    properties(message).group
}

fn few(cases: u32) -> Config {
    Config { cases, max_shrink_iters: 500, failure_persistence: None, ..Config::default() }
}

impl Run {
    fn new(attributes: AttributeChanges) -> Self {
        let storage = Memory::default();
        let machine = storage.open();
        let mut run = Self { storage, machine, now_ms: 1_000_000 };
        run.create("jobs", attributes);
        run.create("other", AttributeChanges::default());
        run
    }

    fn ordered() -> Self {
        Self::new(AttributeChanges { ordered: Some(true), ..AttributeChanges::default() })
    }

    fn create(&mut self, queue: &str, attributes: AttributeChanges) {
        let if_exists = IfExists::Update;
        let create = Create { queue: name(queue), if_exists, attributes, with: None };
        let outcome = self.run(Command::Create(create));
        assert!(matches!(outcome, Outcome::Created(_)), "{outcome:?}");
    }

    fn record(&mut self, entries: Vec<Entry>) -> Applied {
        let sequence = self.machine.position().applied + 1;
        self.machine.apply(&Record { sequence, now_ms: self.now_ms, entries }).unwrap()
    }

    fn run(&mut self, command: Command) -> Outcome {
        self.record(vec![Entry { origin: None, command }]).outcomes.remove(0)
    }

    /// Lets time pass and settles all that is due then. Returns how many records that took.
    fn pass(&mut self, ms: u64) -> usize {
        self.now_ms += ms;
        let mut records = 1;
        loop {
            let applied = self.record(Vec::new());
            let is_due = applied.next_due_ms.is_some_and(|due_ms| due_ms <= self.now_ms);
            if !is_due && !applied.unfinished {
                return records;
            }
            records += 1;
        }
    }

    fn reopen(&mut self) {
        self.machine.checkpoint().unwrap();
        self.machine = Memory::default().open();
        self.machine = self.storage.open();
    }

    fn check(&self) {
        assert_eq!(self.machine.verify().unwrap(), [""; 0]);
    }

    fn send(&mut self, queue: &str, messages: Vec<NewMessage>) -> Vec<Result<Stored, ErrorCode>> {
        match self.run(Command::Send(Send { queue: name(queue), messages })) {
            Outcome::Sent(runs) => {
                let sent = Sent { runs };
                sent.entries().map(|entry| entry.map_err(|refusal| refusal.code)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn receive_with(
        &mut self,
        max: u32,
        change: impl FnOnce(&mut Receive),
    ) -> Vec<ReceivedMessage> {
        let mut receive = Receive {
            queues: vec![name("jobs")],
            max,
            bytes_max: 1 << 30,
            visibility_timeout_ms: Some(10_000),
            delete: false,
            settle: Vec::new(),
            secret: self.machine.position().applied,
        };
        change(&mut receive);
        match self.run(Command::Receive(receive)) {
            Outcome::Received(received) => received.messages,
            other => panic!("{other:?}"),
        }
    }

    fn receive(&mut self, max: u32) -> Vec<ReceivedMessage> {
        self.receive_with(max, |_| ())
    }

    fn settle(&mut self, action: Action, receipts: Vec<Receipt>) -> Statuses {
        let seed = self.machine.position().applied;
        match self.run(Command::Settle(Settle { queue: name("jobs"), action, receipts, seed })) {
            Outcome::Settled(statuses) | Outcome::Extended(statuses, _) => statuses,
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, messages: &[ReceivedMessage]) {
        let receipts: Vec<Receipt> = messages.iter().map(|message| message.receipt).collect();
        let statuses = self.settle(Action::Delete, receipts);
        assert!(statuses.entries().all(|entry| entry.is_ok()));
    }

    fn statistics(&self, queue: &str) -> Statistics {
        self.machine.describe(&name(queue), self.now_ms).unwrap().unwrap().statistics
    }
}

#[test]
fn message_of_another_group_does_not_wait_behind_a_long_backlog() {
    for has_backlog in ["", "A"] {
        let mut run = Run::new(AttributeChanges::default());
        run.send("jobs", vec![message(0, has_backlog, None); 1_000]);
        run.receive(10);
        run.send("jobs", vec![message(0, "B", None)]);
        let next: Vec<String> = run.receive(2).iter().map(group).collect();
        assert!(next.contains(&"B".to_owned()), "{next:?}");
    }
}

#[test]
fn turns_of_very_many_groups_go_on_where_a_receive_ends() {
    let mut run = Run::new(AttributeChanges::default());
    let mut groups: Vec<String> = (0..300).map(|at| format!("{at}")).collect();
    for _ in 0..3 {
        groups.rotate_left(77);
        run.send("jobs", groups.iter().map(|group| message(0, group, None)).collect());
    }
    groups.sort_by_key(|group| (group.len(), group.clone()));
    let mut expected = groups.iter().cycle();
    let mut left = 900;
    // One at a time, across blocks, and as many bytes as fit.
    for (max, bytes_max) in [(1, 1 << 20), (250, 1 << 20), (400, 2_000), (1, 1), (900, 1 << 20)] {
        let received = run.receive_with(max, |receive| receive.bytes_max = bytes_max);
        assert!(!received.is_empty() && received.len() <= max as usize);
        left -= received.len();
        for message in &received {
            assert_eq!(Some(&group(message)), expected.next());
        }
        run.check();
        run.reopen();
    }
    assert_eq!(left, 0);
}

/// How many of the deliveries were of each group.
fn shares(deliveries: &[String]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for group in deliveries {
        *shares.entry(group.as_str()).or_default() += 1;
    }
    shares
}

proptest! {
    #![proptest_config(few(40))]

    #[test]
    fn groups_share_any_run_of_deliveries_evenly(
        groups in proptest::collection::btree_set("[a-c]{0,3}", 2..8),
        steps in proptest::collection::vec((1u32..12, any::<bool>(), 0u8..10), 1..25),
        priority in prop_oneof![Just(0u8), Just(7)],
    ) {
        let mut run = Run::new(AttributeChanges::default());
        let groups: Vec<&String> = groups.iter().collect();
        let mut deliveries: Vec<String> = Vec::new();
        for (index, (max, delete, what)) in steps.into_iter().enumerate() {
            if what == 9 {
                run.reopen();
            }
            // All of them have enough for the next receive, the backlog of one is longer.
            for (at, group) in groups.iter().enumerate() {
                let count = if at == index % groups.len() { 40 } else { 12 };
                run.send("jobs", vec![message(priority, group, None); count]);
            }
            let received = run.receive_with(max, |receive| receive.delete = delete);
            prop_assert_eq!(received.len(), max as usize);
            deliveries.extend(received.iter().map(group));
        }
        run.check();
        let count = groups.len();
        for from in 0..deliveries.len() {
            for to in from + 1..=deliveries.len() {
                let shares = shares(&deliveries[from..to]);
                let fair = (to - from) / count;
                for group in &groups {
                    let share = shares.get(group.as_str()).copied().unwrap_or(0);
                    prop_assert!(
                        share == fair || share == fair + 1,
                        "{:?} had {} of {} deliveries: {:?}", group, share, to - from, &deliveries[from..to]
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_delivered_while_a_message_of_a_higher_priority_is_ready(
        sent in proptest::collection::vec((prop_oneof![0u8..4, Just(255u8)], "[ab]?"), 1..120),
        steps in proptest::collection::vec((1u32..15, 0u8..4), 1..40),
    ) {
        let mut run = Run::new(AttributeChanges::default());
        let mut ready: BTreeMap<u64, u8> = BTreeMap::new();
        let mut sent = sent.chunks(17);
        for (max, what) in steps {
            if let Some(more) = sent.next() {
                let messages = more.iter().map(|(priority, group)| message(*priority, group, None));
                let ids = run.send("jobs", messages.collect());
                ready.extend(ids.iter().zip(more).map(|(id, (priority, _))| (id.unwrap().id, *priority)));
            }
            let received = run.receive(max);
            prop_assert_eq!(received.len(), ready.len().min(max as usize));
            for message in &received {
                let priority = properties(message).priority;
                prop_assert_eq!(Some(priority), ready.values().max().copied());
                prop_assert_eq!(ready.remove(&message.id), Some(priority));
            }
            if what == 0 {
                let receipts = received.iter().map(|message| message.receipt).collect();
                let release = Action::Release { counted: false, due: None };
                prop_assert!(run.settle(release, receipts).entries().all(|entry| entry.is_ok()));
                ready.extend(received.iter().map(|m| (m.id, properties(m).priority)));
            } else {
                run.delete(&received);
            }
        }
        run.check();
    }
}
