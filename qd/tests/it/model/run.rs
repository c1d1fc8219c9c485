//! Histories that run on the machine and on the model.

use proptest::prelude::*;
use proptest::test_runner::Config;
use qd::replicator::Local;
use qd::shard::{Command, Entry, Origin, Outcome};
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{Sent, Stored};
use qd_protocol::{ErrorCode, Receipt, Refusal};

use super::Model;
use super::dedup::Fate;
use crate::memory::Memory;
use crate::random_work::{Action, Numbered, QUEUES, actions, drain, queue_name, receipts};

/// What is due that the machine settles in one record for sure: a quarter of its limit.
const DUE_MAX: usize = 200;

/// The outcome with the texts of refusals taken out and runs spread, so that both sides compare.
fn plain(outcome: Outcome) -> Outcome {
    let code = |refusal: &Refusal| refusal.code.refuse("");
    let plain_statuses = |statuses: &Statuses| {
        let mut spread = Statuses::default();
        for entry in statuses.entries() {
            spread.push(entry.err().map(code));
        }
        spread
    };
    match outcome {
        Outcome::Refused(refusal) => Outcome::Refused(code(&refusal)),
        Outcome::Settled(statuses) => Outcome::Settled(plain_statuses(&statuses)),
        Outcome::Extended(statuses, ends) => Outcome::Extended(plain_statuses(&statuses), ends),
        Outcome::Received(mut received) => {
            received.settled = plain_statuses(&received.settled);
            for message in &mut received.messages {
                // Long bodies make a failure unreadable; the check sum stays.
                let length = message.body.bytes.len();
                assert!(message.body.is_intact());
                message.body.bytes = format!("{length} bytes").into();
            }
            Outcome::Received(received)
        }
        Outcome::Redriven(mut redriven) => {
            redriven.refusal = redriven.refusal.map(|refusal| Box::new(code(&refusal)));
            Outcome::Redriven(redriven)
        }
        Outcome::Sent(runs) => Outcome::Sent(plain_sent(&Sent { runs }).runs),
        Outcome::Transacted(sent) => Outcome::Transacted(sent.iter().map(plain_sent).collect()),
        other => other,
    }
}

fn plain_sent(sent: &Sent) -> Sent {
    let fate = |entry: Result<Stored, &Refusal>| match entry {
        Ok(Stored { id, duplicate: false }) => Fate::Stored(id),
        Ok(Stored { id, duplicate: true }) => Fate::Duplicate(id),
        Err(refusal) => Fate::Refused(refusal.code),
    };
    Sent { runs: sent.entries().map(fate).map(Fate::run_of_one).collect() }
}

/// The machine, the model, and what the history has given so far.
struct Run {
    storage: Memory,
    local: Local,
    model: Model,
    now_ms: u64,
    secret: u64,
    receipts: Vec<Receipt>,
    numbered: Vec<Command>,
    /// Most commands of a record, and those that are for the next one, with their numbers.
    most: usize,
    next: Vec<(Command, Option<u64>)>,
    ticks: usize,
}

impl Run {
    fn new(most: usize) -> Self {
        let storage = Memory::default();
        let local = storage.local();
        Self {
            storage,
            local,
            model: Model::default(),
            now_ms: 1_000_000,
            secret: 0,
            receipts: Vec::new(),
            numbered: Vec::new(),
            most,
            next: Vec::new(),
            ticks: 0,
        }
    }

    /// Returns the outcomes, and whether the machine is to be told to go on.
    fn apply(&mut self, entries: Vec<Entry>) -> (Vec<Outcome>, bool) {
        self.model.now_ms = self.now_ms;
        self.model.settle_due();
        let applied = self.local.replicate(self.now_ms, entries, true).unwrap();
        (applied.outcomes, applied.unfinished)
    }

    /// Lets the machine end what it has begun: rows of dropped queues that are left over would count
    /// as something to be settled. What is due at once since the commands before is settled meanwhile,
    /// so the model must have carried them out.
    fn finish(&mut self, mut unfinished: bool) {
        while unfinished {
            let (outcomes, more) = self.apply(Vec::new());
            assert!(outcomes.is_empty());
            unfinished = more;
        }
    }

    fn tick(&mut self) {
        let (outcomes, unfinished) = self.apply(Vec::new());
        assert!(outcomes.is_empty());
        self.finish(unfinished);
    }

    /// Lets time pass. Where more is due than a record settles for sure, both go from one due time
    /// to the next, so that commands meet nothing that is due.
    fn pass(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.model.count_due(until_ms) > DUE_MAX
            && let Some(due_ms) = self.local.machine().next_due_ms().unwrap()
            && due_ms <= until_ms
        {
            self.now_ms = self.now_ms.max(due_ms);
            self.tick();
        }
        self.now_ms = until_ms;
    }

    fn step(&mut self, action: &Action) {
        if !matches!(action, Action::Run(..)) {
            self.flush();
        }
        match action {
            Action::Pass(ms) => self.pass(*ms),
            Action::Tick => {
                self.tick();
                self.ticks += 1;
                self.check_state(Some(self.ticks));
            }
            Action::Reopen => {
                // As it is when the machine fails: closing would save the state, and so what is
                // not in it comes back from the log.
                self.local.wait().unwrap();
                self.storage = self.storage.copy();
                self.local = self.storage.local();
            }
            Action::Run(intent, numbered) => {
                self.secret += 1;
                let known = self.numbered.len();
                let (command, number) = match *numbered {
                    Numbered::Again(back) if back < known => {
                        (self.numbered[known - 1 - back].clone(), Some(known - back))
                    }
                    Numbered::No => (intent.command(&self.receipts, self.secret), None),
                    Numbered::New | Numbered::Again(_) => {
                        let command = intent.command(&self.receipts, self.secret);
                        self.numbered.push(command.clone());
                        (command, Some(known + 1))
                    }
                };
                self.next.push((command, number.map(|number| number as u64)));
                if self.next.len() >= self.most {
                    self.flush();
                }
            }
        }
    }

    /// Carries out what is for the next record, if anything is.
    fn flush(&mut self) {
        let next = std::mem::take(&mut self.next);
        if next.is_empty() {
            return;
        }
        let origin = |number| Origin { producer: 9, number, answered_below: 1, continued: false };
        let entry = |(command, number): &(Command, Option<u64>)| Entry {
            origin: number.map(origin),
            command: command.clone(),
        };
        let (actual, unfinished) = self.apply(next.iter().map(entry).collect());
        assert_eq!(actual.len(), next.len());
        for ((command, number), actual) in next.iter().zip(actual) {
            self.compare(command, *number, actual);
        }
        self.finish(unfinished);
    }

    fn compare(&mut self, command: &Command, number: Option<u64>, actual: Outcome) {
        let expected = match number {
            None => self.model.run(command),
            Some(number) => {
                self.model.forget_answers();
                let (outcome, is_new) = self.model.again(number, command);
                if is_new {
                    self.model.remember(number, &outcome);
                }
                outcome
            }
        };
        self.receipts.extend(receipts(&actual));
        assert_eq!(plain(actual), plain(expected), "{command:?}");
    }

    /// `part`: which of the peeks, see [`Model::check_peek`].
    fn check_state(&self, part: Option<usize>) {
        assert_eq!(self.local.machine().verify().unwrap(), [""; 0]);
        for number in 0..QUEUES {
            let name = queue_name(number);
            let machine = self.local.machine();
            self.model.check_peek(machine, &name, 1 + u32::from(number) % 3, part);
            let described = machine.describe(&name, self.model.now_ms).unwrap();
            match self.model.find(&name) {
                None => assert_eq!(described.unwrap_err().code, ErrorCode::NoSuchQueue),
                Some(number) => {
                    let queue = &self.model.queues[&number];
                    let described = described.unwrap();
                    assert_eq!(described.statistics, queue.statistics(self.model.now_ms));
                    assert_eq!(described.attributes, queue.attributes);
                    let (ready, _) = machine.ready(&name);
                    assert_eq!(ready, queue.to_be_woken(), "{name} wakes");
                }
            }
        }
    }
}

/// `QD_MODEL_CASES` sets the number of cases: a thousand by default, millions by hand.
fn cases(default: u32) -> u32 {
    std::env::var("QD_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

proptest! {
    #![proptest_config(Config { cases: cases(1000), max_shrink_iters: 2000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn machine_does_what_a_plain_model_does(actions in actions(60), most in 1usize..5) {
        let mut run = Run::new(most);
        for action in &actions {
            run.step(action);
        }
        run.flush();
        run.check_state(None);
        run.step(&Action::Reopen);
        run.check_state(Some(0));
        // What is left is equal to the last byte.
        run.step(&Action::Pass(5_000));
        for queue in (0..QUEUES).cycle().take(3 * usize::from(QUEUES)) {
            run.step(&drain(queue));
        }
        run.flush();
        run.check_state(Some(1));
    }
}
