//! The state machine against a plain model: a vector of messages per queue, scanned for every
//! question. Outcomes must be equal to the letter, counters equal to what a scan counts, and the
//! rows sound, also after reopening.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;
use qd::shard::command::{
    Action as SettleAction, ById, ByIdAction, Create, Drop, NewMessage, Receive, Send, Settle,
    Update,
};
use qd::shard::{Command, Entry, Machine, Origin, Outcome, Received, Record};
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{Due, IfExists, ReceivedMessage, SentRun, Until};
use qd_protocol::{Attributes, Body, ErrorCode, QueueName, Receipt, Refusal, Statistics};

use crate::memory::Memory;
use crate::random_work::{Action, Numbered, actions, queue_name, receipts};

#[derive(Debug, Clone)]
struct ModelMessage {
    id: u64,
    sent_at_ms: u64,
    message: NewMessage,
    attempt: u32,
    /// Lease number, end and secret while it is leased.
    lease: Option<(u64, u64, u64)>,
    /// When it becomes visible, while it is delayed.
    due_ms: Option<u64>,
    /// When it is removed.
    expires_ms: Option<u64>,
}

impl ModelMessage {
    fn is_over(&self, retention_ms: u64, now_ms: u64) -> bool {
        self.sent_at_ms.saturating_add(retention_ms) <= now_ms
            || self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    fn is_ready(&self) -> bool {
        self.lease.is_none() && self.due_ms.is_none()
    }
}

#[derive(Debug)]
struct ModelQueue {
    name: QueueName,
    attributes: Attributes,
    messages: Vec<ModelMessage>,
    next_id: u64,
    next_lease: u64,
    totals: Statistics,
}

#[derive(Debug, Default)]
struct Model {
    queues: BTreeMap<u64, ModelQueue>,
    queues_made: u64,
    now_ms: u64,
    answers: BTreeMap<u64, Outcome>,
    /// Ten minutes of state time in which the answers were last used.
    answers_used: u64,
}

impl ModelQueue {
    fn statistics(&self, now_ms: u64) -> Statistics {
        let count = |is_counted: &dyn Fn(&&ModelMessage) -> bool| {
            self.messages.iter().filter(is_counted).count() as u64
        };
        let oldest = self.messages.iter().map(|message| message.sent_at_ms).min();
        Statistics {
            ready: count(&|message| message.is_ready()),
            delayed: count(&|message| message.due_ms.is_some()),
            leased: count(&|message| message.lease.is_some()),
            bytes: self.messages.iter().map(|message| message.message.size).sum(),
            oldest_age_s: oldest.map_or(0, |sent_at_ms| (now_ms - sent_at_ms) / 1000),
            ..self.totals
        }
    }

    fn admit(&self, size: u64) -> Result<(), ErrorCode> {
        let bytes: u64 = self.messages.iter().map(|message| message.message.size).sum();
        if size > self.attributes.max_message_size || size > self.attributes.max_bytes {
            Err(ErrorCode::MessageTooLarge)
        } else if self.messages.len() as u64 >= self.attributes.max_messages
            || bytes + size > self.attributes.max_bytes
        {
            Err(ErrorCode::QueueFull)
        } else {
            Ok(())
        }
    }
}

impl Model {
    fn settle_due(&mut self) {
        for queue in self.queues.values_mut() {
            for message in &mut queue.messages {
                message.lease = message.lease.filter(|(_, end_ms, _)| *end_ms > self.now_ms);
                message.due_ms = message.due_ms.filter(|due_ms| *due_ms > self.now_ms);
            }
            let before = queue.messages.len();
            let retention_ms = queue.attributes.retention_ms;
            queue.messages.retain(|message| {
                message.lease.is_some() || !message.is_over(retention_ms, self.now_ms)
            });
            queue.totals.expired += (before - queue.messages.len()) as u64;
        }
    }

    fn find(&self, name: &QueueName) -> Option<u64> {
        self.queues.iter().find(|(_, queue)| queue.name == *name).map(|(number, _)| *number)
    }

    fn run(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Create(create) => self.create(create),
            Command::Drop(drop) => self.drop_queue(drop),
            Command::Send(send) => self.send(send),
            Command::Receive(receive) => self.receive(receive, None),
            Command::Settle(settle) => self.settle_command(settle),
            Command::ById(by_id) => self.by_id(by_id),
            Command::Update(update) => self.update(update),
        }
    }

    fn create(&mut self, create: &Create) -> Outcome {
        let Some(number) = self.find(&create.queue) else {
            self.queues_made += 1;
            let queue = ModelQueue {
                name: create.queue.clone(),
                attributes: Attributes::default().changed(&create.attributes),
                messages: Vec::new(),
                next_id: 1,
                next_lease: 1,
                totals: Statistics::default(),
            };
            self.queues.insert(self.queues_made, queue);
            return Outcome::Created(true);
        };
        let queue = self.queues.get_mut(&number).unwrap();
        let changed = queue.attributes.changed(&create.attributes);
        match create.if_exists {
            IfExists::Compare if changed != queue.attributes => refused(ErrorCode::QueueExists),
            IfExists::Compare | IfExists::Keep => Outcome::Created(false),
            IfExists::Update => {
                queue.attributes = changed;
                Outcome::Created(false)
            }
        }
    }

    fn update(&mut self, update: &Update) -> Outcome {
        let Some(number) = self.find(&update.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let queue = self.queues.get_mut(&number).unwrap();
        let changed = queue.attributes.changed(&update.attributes);
        let differs = changed != queue.attributes;
        queue.attributes = changed;
        Outcome::Updated(differs)
    }

    /// When a message becomes visible; `None`: it is already.
    fn due_ms(&self, due: Due) -> Option<u64> {
        let due_ms = match due {
            Due::After(ms) => self.now_ms + ms,
            Due::At(ms) => ms,
        };
        Some(due_ms).filter(|due_ms| *due_ms > self.now_ms)
    }

    fn by_id(&mut self, by_id: &ById) -> Outcome {
        let Some(number) = self.find(&by_id.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let due_ms = match by_id.action {
            ByIdAction::Discard => None,
            ByIdAction::Reschedule(due) => self.due_ms(due),
        };
        let queue = self.queues.get_mut(&number).unwrap();
        let mut statuses = Statuses::default();
        for id in &by_id.ids {
            let at = queue.messages.iter().position(|message| message.id == *id);
            let code = match at.map(|at| &mut queue.messages[at]) {
                None => Some(ErrorCode::NoSuchMessage),
                Some(message) if message.lease.is_some() => Some(ErrorCode::MessageLeased),
                Some(message) => {
                    message.due_ms = due_ms;
                    if by_id.action == ByIdAction::Discard {
                        queue.messages.remove(at.unwrap());
                        queue.totals.deleted += 1;
                    }
                    None
                }
            };
            statuses.push(code.map(|code| code.refuse("")));
        }
        Outcome::Settled(statuses)
    }

    fn drop_queue(&mut self, drop: &Drop) -> Outcome {
        let Some(number) = self.find(&drop.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let messages = self.queues[&number].messages.len() as u64;
        if drop.only_if_empty && messages > 0 {
            return refused(ErrorCode::QueueNotEmpty);
        }
        self.queues.remove(&number);
        Outcome::Dropped(messages)
    }

    fn send(&mut self, send: &Send) -> Outcome {
        let Some(number) = self.find(&send.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let now_ms = self.now_ms;
        let delay = Due::After(self.queues[&number].attributes.delay_ms);
        let mut entries = Vec::new();
        for message in &send.messages {
            let due_ms = self.due_ms(message.due.unwrap_or(delay));
            let queue = self.queues.get_mut(&number).unwrap();
            while queue.attributes.overflow == 1
                && message.size <= queue.attributes.max_bytes
                && queue.admit(message.size) == Err(ErrorCode::QueueFull)
                && let Some(at) = queue.messages.iter().position(|other| other.lease.is_none())
            {
                queue.messages.remove(at);
                queue.totals.dropped += 1;
            }
            if let Err(code) = queue.admit(message.size) {
                entries.push(Err(code));
                continue;
            }
            entries.push(Ok(queue.next_id));
            queue.messages.push(ModelMessage {
                id: queue.next_id,
                sent_at_ms: now_ms,
                message: message.clone(),
                attempt: 0,
                lease: None,
                due_ms,
                expires_ms: message.ttl_ms.map(|ttl_ms| now_ms + ttl_ms),
            });
            queue.next_id += 1;
            queue.totals.sent += 1;
        }
        Outcome::Sent(entries.into_iter().map(run_of_one).collect())
    }

    fn receive(&mut self, receive: &Receive, settled: Option<Statuses>) -> Outcome {
        let numbers: Option<Vec<u64>> = receive.queues.iter().map(|name| self.find(name)).collect();
        let Some(numbers) = numbers else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let settled = settled
            .unwrap_or_else(|| self.settle(&numbers, SettleAction::Delete, &receive.settle).0);
        let mut received = Received { settled, deleted: receive.delete, ..Received::default() };
        let mut bytes = 0;
        let mut full = false;
        for (index, number) in numbers.iter().enumerate() {
            if numbers[..index].contains(number) {
                continue;
            }
            let now_ms = self.now_ms;
            let queue = self.queues.get_mut(number).unwrap();
            let timeout = receive.visibility_timeout_ms;
            let timeout = timeout.unwrap_or(queue.attributes.visibility_timeout_ms);
            let before = received.messages.len();
            let mut gone = Vec::new();
            let leased = queue.messages.iter().filter(|message| message.lease.is_some()).count();
            let mut room = queue.attributes.max_in_flight.saturating_sub(leased as u64);
            for message in queue.messages.iter_mut().filter(|message| message.is_ready()) {
                if room == 0 && !receive.delete {
                    break;
                }
                let size = message.message.size;
                let fits = received.messages.is_empty() || bytes + size <= receive.bytes_max;
                full |= !fits || received.messages.len() >= receive.max as usize;
                if full {
                    break;
                }
                bytes += size;
                room = room.saturating_sub(1);
                queue.totals.received += 1;
                queue.totals.redelivered += u64::from(message.attempt > 0);
                message.attempt += 1;
                let lease = (queue.next_lease, now_ms + timeout, receive.secret);
                if receive.delete {
                    gone.push(message.id);
                    queue.totals.deleted += 1;
                } else {
                    message.lease = Some(lease);
                }
                let held = (!receive.delete).then_some(lease);
                received.messages.push(delivery(index as u16, *number, message, held));
            }
            if received.messages.len() > before && !receive.delete {
                received.leases.push((index as u16, *number, queue.next_lease));
                queue.next_lease += 1;
            }
            queue.messages.retain(|message| !gone.contains(&message.id));
        }
        Outcome::Received(received)
    }

    fn settle_command(&mut self, settle: &Settle) -> Outcome {
        let Some(number) = self.find(&settle.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let (statuses, ends) = self.settle(&[number], settle.action, &settle.receipts);
        match settle.action {
            SettleAction::Extend(_) => Outcome::Extended(statuses, ends),
            _ => Outcome::Settled(statuses),
        }
    }

    fn settle(
        &mut self,
        queues: &[u64],
        action: SettleAction,
        receipts: &[Receipt],
    ) -> (Statuses, Vec<u64>) {
        let mut statuses = Statuses::default();
        let mut ends = Vec::new();
        // Receipts are held against the leases as they were before the request.
        let held: Vec<_> = receipts.iter().map(|receipt| self.held(queues, receipt)).collect();
        for (index, receipt) in receipts.iter().enumerate() {
            let result = match held[index] {
                Err(code) => Err(code),
                Ok(_) if receipts[..index].contains(receipt) => match action {
                    SettleAction::Extend(_) => {
                        let first = receipts.iter().position(|other| other == receipt);
                        Ok(first.map_or(0, |first| ends[first]))
                    }
                    _ => Err(ErrorCode::ReceiptExpired),
                },
                Ok(_) => self.settle_one(queues, action, receipt),
            };
            ends.push(*result.as_ref().unwrap_or(&0));
            statuses.push(result.err().map(|code| code.refuse("")));
        }
        (statuses, ends)
    }

    /// Where the message of a receipt is, if the receipt still holds it.
    fn held(&self, queues: &[u64], receipt: &Receipt) -> Result<usize, ErrorCode> {
        if !queues.contains(&receipt.queue) {
            return Err(if self.queues.contains_key(&receipt.queue) {
                ErrorCode::ReceiptOfOtherQueue
            } else if (1..=self.queues_made).contains(&receipt.queue) {
                ErrorCode::ReceiptExpired
            } else {
                ErrorCode::ReceiptInvalid
            });
        }
        let queue = &self.queues[&receipt.queue];
        if receipt.lease >= queue.next_lease || receipt.id >= queue.next_id {
            return Err(ErrorCode::ReceiptInvalid);
        }
        let is_of = |message: &ModelMessage| {
            message.lease.is_some_and(|(lease, ..)| lease == receipt.lease)
        };
        let secret = queue.messages.iter().find(|message| is_of(message)).and_then(|m| m.lease);
        match secret {
            None => return Err(ErrorCode::ReceiptExpired),
            Some((_, _, secret)) if secret != receipt.secret => {
                return Err(ErrorCode::ReceiptInvalid);
            }
            Some(_) => {}
        }
        let at = queue.messages.iter().position(|message| message.id == receipt.id);
        at.filter(|at| is_of(&queue.messages[*at])).ok_or(ErrorCode::ReceiptExpired)
    }

    /// Returns the new end of the lease, for `extend`.
    fn settle_one(
        &mut self,
        queues: &[u64],
        action: SettleAction,
        receipt: &Receipt,
    ) -> Result<u64, ErrorCode> {
        let at = self.held(queues, receipt)?;
        let now_ms = self.now_ms;
        let released = match action {
            SettleAction::Release { due, .. } => due.and_then(|due| self.due_ms(due)),
            _ => None,
        };
        let queue = self.queues.get_mut(&receipt.queue).unwrap();
        let message = &mut queue.messages[at];
        match action {
            SettleAction::Delete => {
                queue.messages.remove(at);
                queue.totals.deleted += 1;
            }
            SettleAction::Extend(until) => {
                let (_, end_ms, _) = message.lease.as_mut().unwrap();
                *end_ms = match until {
                    Until::By(ms) => *end_ms + ms,
                    Until::To(ms) => now_ms + ms,
                };
                return Ok(*end_ms);
            }
            SettleAction::Release { counted, .. } => {
                message.lease = None;
                message.due_ms = released;
                message.attempt -= u32::from(!counted);
                if message.is_over(queue.attributes.retention_ms, now_ms) {
                    queue.messages.remove(at);
                    queue.totals.expired += 1;
                }
            }
        }
        Ok(0)
    }

    /// Forgets the answers after ten minutes in which the producer said nothing.
    fn forget_answers(&mut self) {
        let generation = self.now_ms / 600_000;
        if generation > self.answers_used + 1 {
            self.answers.clear();
        }
        self.answers_used = generation;
    }

    /// What a numbered request is answered with; true when it was carried out now.
    fn again(&mut self, number: u64, command: &Command) -> (Outcome, bool) {
        match self.answers.get(&number).cloned() {
            None => (self.run(command), true),
            Some(Outcome::Received(earlier)) => {
                if earlier.deleted && !earlier.messages.is_empty() {
                    return (refused(ErrorCode::AnswerForgotten), false);
                }
                let mut received = Received { settled: earlier.settled, ..Received::default() };
                for (index, queue, lease) in earlier.leases {
                    let messages = self.queues.get(&queue).map_or(&[][..], |queue| &queue.messages);
                    let before = received.messages.len();
                    for message in messages {
                        if let Some(held) = message.lease.filter(|(held, ..)| *held == lease) {
                            received.messages.push(delivery(index, queue, message, Some(held)));
                        }
                    }
                    if received.messages.len() > before {
                        received.leases.push((index, queue, lease));
                    }
                }
                if received.messages.is_empty() {
                    let Command::Receive(receive) = command else { unreachable!() };
                    return (self.receive(receive, Some(received.settled)), true);
                }
                (Outcome::Received(received), false)
            }
            Some(outcome) => (outcome, false),
        }
    }

    fn remember(&mut self, number: u64, outcome: &Outcome) {
        let keep = match outcome {
            Outcome::Refused(_) => false,
            Outcome::Received(received) => {
                !received.messages.is_empty() || !received.settled.runs.is_empty()
            }
            _ => true,
        };
        if keep {
            self.answers.insert(number, outcome.clone());
        }
    }
}

fn delivery(
    index: u16,
    queue: u64,
    message: &ModelMessage,
    lease: Option<(u64, u64, u64)>,
) -> ReceivedMessage {
    let (lease_number, end_ms, secret) = lease.unwrap_or_default();
    let queue = if lease.is_some() { queue } else { 0 };
    let id = if lease.is_some() { message.id } else { 0 };
    ReceivedMessage {
        queue: index,
        id: message.id,
        receipt: Receipt { queue, lease: lease_number, id, secret },
        attempt: message.attempt,
        sent_at_ms: message.sent_at_ms,
        lease_until_ms: end_ms,
        fields: message.message.fields.clone(),
        body: Body { bytes: message.message.body.clone(), crc: message.message.crc },
    }
}

fn refused(code: ErrorCode) -> Outcome {
    code.refuse("").into()
}

fn run_of_one(entry: Result<u64, ErrorCode>) -> SentRun {
    match entry {
        Ok(first) => SentRun::Stored { first, count: 1 },
        Err(code) => SentRun::Refused { refusal: Box::new(code.refuse("")), count: 1 },
    }
}

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
        Outcome::Sent(runs) => {
            let sent = qd_protocol::verbs::Sent { runs };
            let entries = sent.entries().map(|entry| entry.map_err(|refusal| refusal.code));
            Outcome::Sent(entries.map(run_of_one).collect())
        }
        other => other,
    }
}

/// The machine, the model, and what the history has given so far.
struct Run {
    storage: Memory,
    machine: Machine,
    model: Model,
    now_ms: u64,
    secret: u64,
    receipts: Vec<Receipt>,
    numbered: Vec<Command>,
}

impl Run {
    fn new() -> Self {
        let storage = Memory::default();
        let machine = storage.open();
        Self {
            storage,
            machine,
            model: Model::default(),
            now_ms: 1_000_000,
            secret: 0,
            receipts: Vec::new(),
            numbered: Vec::new(),
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Vec<Outcome> {
        let sequence = self.machine.position().applied + 1;
        let record = Record { sequence, now_ms: self.now_ms, entries };
        self.model.now_ms = self.now_ms;
        self.model.settle_due();
        self.machine.apply(&record).unwrap().outcomes
    }

    fn step(&mut self, action: &Action) {
        match action {
            Action::Pass(ms) => self.now_ms += ms,
            Action::Tick => assert!(self.apply(Vec::new()).is_empty()),
            Action::Reopen => {
                let storage = self.storage.clone();
                let closed = std::mem::replace(&mut self.machine, Memory::default().open());
                drop(closed);
                self.machine = storage.open();
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
                self.compare(&command, number.map(|number| number as u64));
            }
        }
    }

    fn compare(&mut self, command: &Command, number: Option<u64>) {
        let origin = number.map(|number| Origin { producer: 9, number, answered_below: 1 });
        let actual = self.apply(vec![Entry { origin, command: command.clone() }]);
        let [actual] = <[Outcome; 1]>::try_from(actual).unwrap();
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

    fn check_state(&self) {
        assert_eq!(self.machine.verify().unwrap(), [""; 0]);
        for number in 0..3 {
            let name = queue_name(number);
            let described = self.machine.describe(&name, self.model.now_ms).unwrap();
            match self.model.find(&name) {
                None => assert_eq!(described.unwrap_err().code, ErrorCode::NoSuchQueue),
                Some(number) => {
                    let queue = &self.model.queues[&number];
                    let described = described.unwrap();
                    assert_eq!(described.statistics, queue.statistics(self.model.now_ms));
                    assert_eq!(described.attributes, queue.attributes);
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
    fn machine_does_what_a_plain_model_does(actions in actions(40)) {
        let mut run = Run::new();
        for action in &actions {
            run.step(action);
        }
        run.check_state();
        run.step(&Action::Reopen);
        run.check_state();
    }
}
