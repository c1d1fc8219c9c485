//! The state machine against a plain model: a vector of messages per queue, scanned for every
//! question. Outcomes must be equal to the letter, counters equal to what a scan counts, and the
//! rows sound, also after reopening.

use std::collections::BTreeMap;

use qd::shard::command::{Action as SettleAction, ById, ByIdAction, NewMessage, Settle};
use qd::shard::{Command, Outcome, Received, retry_jitter_ms};
use qd_protocol::message::{Properties, Reason};
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{Due, Until};
use qd_protocol::{Attributes, ErrorCode, QueueName, Receipt, Statistics};

mod dead_letters;
mod dedup;
mod order;
mod peek;
mod purge;
mod queues;
mod run;
mod transact;

use order::delivery;

#[derive(Debug, Clone)]
struct ModelMessage {
    id: u64,
    sent_at_ms: u64,
    message: NewMessage,
    properties: Properties,
    attempt: u32,
    /// Lease number, end and secret while it is leased.
    lease: Option<(u64, u64, u64)>,
    /// When it becomes visible, while it is delayed.
    due_ms: Option<u64>,
    /// When it is removed.
    expires_ms: Option<u64>,
    /// When it was delivered first and last; 0: never.
    delivered_ms: (u64, u64),
    /// Why it waits for its dead-letter queue; counted as delayed.
    dead: Option<Reason>,
}

impl ModelMessage {
    fn is_over(&self, retention_ms: u64, now_ms: u64) -> bool {
        self.sent_at_ms.saturating_add(retention_ms) <= now_ms
            || self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    fn is_ready(&self) -> bool {
        self.lease.is_none() && self.due_ms.is_none() && self.dead.is_none()
    }
}

#[derive(Debug, Clone)]
struct ModelQueue {
    name: QueueName,
    attributes: Attributes,
    messages: Vec<ModelMessage>,
    next_id: u64,
    next_lease: u64,
    totals: Statistics,
    /// When blocked messages are tried again, and from which id on.
    retry_ms: Option<u64>,
    retry_from: u64,
    /// The group that was served last, by priority; an ordered queue has only that of 0.
    turns: BTreeMap<u8, String>,
    /// By dedup id the newest message that was accepted with it, and until when others are its
    /// duplicates.
    windows: BTreeMap<String, (u64, u64)>,
}

#[derive(Debug, Clone, Default)]
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
            delayed: count(&|message| message.due_ms.is_some() || message.dead.is_some()),
            dead_letter_blocked: count(&|message| message.dead.is_some()),
            leased: count(&|message| message.lease.is_some()),
            bytes: self.messages.iter().map(|message| message.message.size).sum(),
            oldest_age_s: oldest.map_or(0, |sent_at_ms| (now_ms - sent_at_ms) / 1000),
            ..self.totals
        }
    }

    fn has_room(&self, size: u64) -> bool {
        let bytes: u64 = self.messages.iter().map(|message| message.message.size).sum();
        (self.messages.len() as u64) < self.attributes.max_messages
            && bytes + size <= self.attributes.max_bytes
    }

    fn is_too_large(&self, size: u64) -> bool {
        size > self.attributes.max_message_size || size > self.attributes.max_bytes
    }

    /// Adds a message to the end.
    fn add(&mut self, message: NewMessage, due_ms: Option<u64>, now_ms: u64) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.totals.sent += 1;
        self.messages.push(ModelMessage {
            id,
            sent_at_ms: now_ms,
            expires_ms: message.ttl_ms.map(|ttl_ms| now_ms + ttl_ms),
            properties: dedup::properties(&message),
            message,
            attempt: 0,
            lease: None,
            due_ms,
            delivered_ms: (0, 0),
            dead: None,
        });
        id
    }
}

impl Model {
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
            Command::Redrive(redrive) => self.redrive(redrive),
            Command::Purge(purge) => self.purge(purge),
            Command::Transact(transact) => self.transact(transact),
        }
    }

    fn make_queue(&mut self, name: QueueName, attributes: Attributes) -> u64 {
        self.queues_made += 1;
        let queue = ModelQueue {
            name,
            attributes,
            messages: Vec::new(),
            next_id: 1,
            next_lease: 1,
            totals: Statistics::default(),
            retry_ms: None,
            retry_from: 0,
            turns: BTreeMap::new(),
            windows: BTreeMap::new(),
        };
        self.queues.insert(self.queues_made, queue);
        self.queues_made
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
        let mut statuses = Statuses::default();
        for id in &by_id.ids {
            let messages = &self.queues[&number].messages;
            let at = messages.iter().position(|message| message.id == *id);
            let code = match at.map(|at| (at, &messages[at])) {
                None => Some(ErrorCode::NoSuchMessage),
                Some((_, message)) if message.lease.is_some() => Some(ErrorCode::MessageLeased),
                Some((at, _)) if by_id.action == ByIdAction::Discard => {
                    self.take(number, at);
                    self.queues.get_mut(&number).unwrap().totals.deleted += 1;
                    None
                }
                Some((_, message)) if message.dead.is_some() => {
                    self.retry_at(number, due_ms.unwrap_or(self.now_ms), *id);
                    None
                }
                Some((at, _)) => {
                    self.queues.get_mut(&number).unwrap().messages[at].due_ms = due_ms;
                    None
                }
            };
            statuses.push(code.map(|code| code.refuse("")));
        }
        Outcome::Settled(statuses)
    }

    fn settle_command(&mut self, settle: &Settle) -> Outcome {
        let Some(number) = self.find(&settle.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let has_none = self.dead_letter_name(number).is_none();
        if matches!(settle.action, SettleAction::Reject { .. }) && has_none {
            let mut statuses = Statuses::default();
            for _ in &settle.receipts {
                statuses.push(Some(ErrorCode::NoDeadLetter.refuse("")));
            }
            return Outcome::Settled(statuses);
        }
        let Settle { action, seed, receipts, .. } = settle;
        let (statuses, ends) = self.settle(&[number], action, *seed, receipts);
        match settle.action {
            SettleAction::Extend(_) => Outcome::Extended(statuses, ends),
            _ => Outcome::Settled(statuses),
        }
    }

    fn settle(
        &mut self,
        queues: &[u64],
        action: &SettleAction,
        seed: u64,
        receipts: &[Receipt],
    ) -> (Statuses, Vec<u64>) {
        // Receipts are held against the leases as they were before the request, and settled lease
        // by lease in the order of ids.
        let mut results: Vec<Result<u64, ErrorCode>> =
            receipts.iter().map(|receipt| self.held(queues, receipt).map(|_| 0)).collect();
        let mut order: Vec<usize> = (0..receipts.len()).collect();
        order.sort_by_key(|&at| (receipts[at].queue, receipts[at].lease, receipts[at].id, at));
        for at in order.into_iter().filter(|&at| results[at].is_ok()).collect::<Vec<_>>() {
            let receipt = &receipts[at];
            let first = receipts.iter().position(|other| other == receipt).unwrap();
            results[at] = match action {
                _ if first == at => self.settle_one(queues, action, seed, receipt),
                SettleAction::Extend(_) => results[first],
                _ => Err(ErrorCode::ReceiptExpired),
            };
        }
        let mut statuses = Statuses::default();
        for result in &results {
            statuses.push(result.as_ref().err().map(|code| code.refuse("")));
        }
        (statuses, results.into_iter().map(|result| result.unwrap_or(0)).collect())
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
        action: &SettleAction,
        seed: u64,
        receipt: &Receipt,
    ) -> Result<u64, ErrorCode> {
        let at = self.held(queues, receipt)?;
        let now_ms = self.now_ms;
        let number = receipt.queue;
        if let SettleAction::Extend(until) = action {
            let queue = self.queues.get_mut(&number).unwrap();
            let (_, end_ms, _) = queue.messages[at].lease.as_mut().unwrap();
            *end_ms = match until {
                Until::By(ms) => *end_ms + ms,
                Until::To(ms) => now_ms + ms,
            };
            return Ok(*end_ms);
        }
        let mut message = self.take(number, at);
        match action {
            SettleAction::Delete => self.queues.get_mut(&number).unwrap().totals.deleted += 1,
            SettleAction::Release { counted, due } => {
                let delays = &self.queues[&number].attributes.retry_delay_ms;
                let delay_ms = delays[delays.len().min(message.attempt as usize) - 1];
                let jitter_ms = retry_jitter_ms(delay_ms, seed, message.id);
                let due_ms = match due {
                    None if *counted => self.due_ms(Due::After(delay_ms + jitter_ms)),
                    None => None,
                    Some(due) => self.due_ms(*due),
                };
                message.attempt -= u32::from(!counted);
                self.come_back(number, message, due_ms);
            }
            SettleAction::Reject { reason } => {
                self.dead_letter(number, message, Reason::Rejected(reason.clone()));
            }
            SettleAction::Extend(_) => unreachable!(),
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
        let now_ms = self.now_ms;
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
                        // One that ends now is over, though it is settled with the next record.
                        let is_held = |(held, end_ms, _): &(u64, u64, u64)| {
                            *held == lease && *end_ms > now_ms
                        };
                        if let Some(held) = message.lease.filter(is_held) {
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

fn refused(code: ErrorCode) -> Outcome {
    code.refuse("").into()
}
