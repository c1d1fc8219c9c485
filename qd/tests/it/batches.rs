//! Commands of one record do what they do one record each.

use proptest::prelude::*;
use proptest::test_runner::Config;
use qd::shard::command::{Action as SettleAction, Receive, Settle};
use qd::shard::{Command, Entry, Machine, Outcome, Record};
use qd_protocol::AttributeChanges;
use qd_protocol::verbs::Until;

use crate::memory::Memory;
use crate::random_work::{Action, QUEUES, actions, queue_name, receipts};

/// A machine that is told commands at given times.
struct Side {
    machine: Machine,
    now_ms: u64,
}

impl Side {
    fn new() -> Self {
        Self { machine: Memory::default().open(), now_ms: 1_000_000 }
    }

    fn record(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        let sequence = self.machine.position().applied + 1;
        let entries = commands.into_iter().map(|command| Entry { origin: None, command }).collect();
        let record = Record { sequence, now_ms: self.now_ms, entries };
        self.machine.apply(&record).unwrap().outcomes
    }

    /// Lets time pass and settles all that is due then.
    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        loop {
            self.record(Vec::new());
            if self.machine.next_due_ms().unwrap().is_none_or(|due_ms| due_ms > self.now_ms) {
                break;
            }
        }
    }

    /// What is known of every queue, and whether any has blocked messages.
    fn state(&self) -> (Vec<String>, bool) {
        let mut has_blocked = false;
        let state = (0..QUEUES).map(|number| {
            let name = queue_name(number);
            let described = self.machine.describe(&name, self.now_ms).unwrap().ok();
            has_blocked |= described.as_ref().is_some_and(|d| d.statistics.dead_letter_blocked > 0);
            format!("{described:?} {:?}", self.machine.ready(&name))
        });
        (state.collect(), has_blocked)
    }
}

/// The command without what would be due at once: that is settled with the next record.
fn timely(command: Command) -> Command {
    let lasting = |attributes: AttributeChanges| AttributeChanges {
        retention_ms: None,
        visibility_timeout_ms: attributes.visibility_timeout_ms.map(|ms| ms + 1),
        ..attributes
    };
    match command {
        Command::Create(mut create) => {
            create.attributes = lasting(create.attributes);
            Command::Create(create)
        }
        Command::Update(mut update) => {
            update.attributes = lasting(update.attributes);
            Command::Update(update)
        }
        Command::Receive(receive) => {
            let visibility_timeout_ms = receive.visibility_timeout_ms.map(|ms| ms + 1);
            Command::Receive(Receive { visibility_timeout_ms, ..receive })
        }
        Command::Settle(settle) => {
            let action = match settle.action {
                SettleAction::Extend(Until::By(ms)) => SettleAction::Extend(Until::By(ms + 1)),
                SettleAction::Extend(Until::To(ms)) => SettleAction::Extend(Until::To(ms + 1)),
                other => other,
            };
            Command::Settle(Settle { action, ..settle })
        }
        other => other,
    }
}

fn cases() -> u32 {
    std::env::var("QD_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(Config { cases: cases(), max_shrink_iters: 500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn commands_of_one_record_do_what_they_do_one_record_each(
        actions in actions(60),
        sizes in proptest::collection::vec(1usize..12, 60),
    ) {
        let (mut single, mut batched) = (Side::new(), Side::new());
        let mut known = Vec::new();
        let mut batch = Vec::new();
        let mut expected = Vec::new();
        let mut sizes = sizes.into_iter().cycle();
        let mut size = 5;
        for (index, action) in actions.iter().enumerate() {
            if let Action::Run(intent, _) = action {
                let command = timely(intent.command(&known, index as u64));
                let outcome = single.record(vec![command.clone()]).remove(0);
                known.extend(receipts(&outcome));
                expected.push(outcome);
                batch.push(command);
            }
            if batch.len() < size {
                continue;
            }
            size = sizes.next().unwrap_or(1);
            let commands = std::mem::take(&mut batch);
            let outcomes = batched.record(commands.clone());
            prop_assert_eq!(batched.machine.verify().unwrap(), [""; 0], "{:?}", commands);
            let (left, left_blocked) = single.state();
            let (right, right_blocked) = batched.state();
            if left_blocked || right_blocked {
                // What is tried again at once is tried with the next record.
                return Ok(());
            }
            for ((command, outcome), expected) in commands.iter().zip(&outcomes).zip(expected.drain(..)) {
                prop_assert_eq!(outcome, &expected, "{:?}", command);
            }
            prop_assert_eq!(left, right, "{:?}", commands);
            if let Action::Pass(ms) = action {
                single.pass(*ms);
                batched.pass(*ms);
            } else {
                let ms = if index % 3 == 0 { 700 } else { 0 };
                single.pass(ms);
                batched.pass(ms);
            }
        }
    }
}
