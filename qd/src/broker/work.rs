//! What a request asks of the engine, checked as far as that can be done without the state.

use qd_protocol::attributes::{DELAY_MS_MAX, VISIBILITY_TIMEOUT_MS_MAX};
use qd_protocol::verbs::receive::{ANSWER_BYTES_MAX, WAIT_MS_MAX};
use qd_protocol::verbs::redrive::REDRIVE_MAX;
use qd_protocol::verbs::{self, Due, Until, Verb};
use qd_protocol::{BATCH_ENTRIES_MAX, ErrorCode, QueueName, Receipt, Refusal};

use crate::clock::random_u64;
use crate::shard::Command;
use crate::shard::command::{self, Action, ByIdAction, NewMessage};

/// What a request asks of the engine.
#[derive(Debug)]
pub enum Work {
    /// A change, by the verb with this opcode, that is answered with its outcome.
    Change(u16, Command),
    /// A receive, which may wait for this many milliseconds.
    Receive(command::Receive, u64),
    /// Attributes and statistics of one queue.
    Describe(verbs::Describe),
    /// A page of queues.
    List(verbs::List),
    /// A page of messages.
    Peek(verbs::Peek),
    /// The counters of queues.
    Stats(verbs::Stats),
}

impl Work {
    /// The verb's number.
    pub fn opcode(&self) -> u16 {
        match self {
            Self::Change(opcode, _) => *opcode,
            Self::Receive(..) => verbs::Receive::OPCODE,
            Self::Describe(_) => verbs::Describe::OPCODE,
            Self::List(_) => verbs::List::OPCODE,
            Self::Peek(_) => verbs::Peek::OPCODE,
            Self::Stats(_) => verbs::Stats::OPCODE,
        }
    }

    /// True when it adds messages, which needs room on the disk.
    pub fn sends(&self) -> bool {
        match self {
            Self::Change(_, Command::Transact(transact)) => !transact.sends.is_empty(),
            Self::Change(_, Command::Send(_)) => true,
            _ => false,
        }
    }

    /// True when it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Describe(_) | Self::List(_) | Self::Peek(_) | Self::Stats(_))
    }

    /// Entries of the answer: messages, receipts, ids or queues. Those that a receive delivers are
    /// not counted: they are bounded in bytes.
    pub fn entries(&self) -> usize {
        match self {
            Self::Change(_, Command::Send(send)) => send.messages.len(),
            Self::Change(_, Command::Settle(settle)) => settle.receipts.len(),
            Self::Change(_, Command::ById(by_id)) => by_id.ids.len(),
            Self::Change(_, Command::Transact(transact)) => {
                let receipts = transact.deletes.iter().map(|(_, receipts)| receipts.len());
                let messages = transact.sends.iter().map(|send| send.messages.len());
                receipts.chain(messages).sum()
            }
            // The messages of a peek are bounded in bytes.
            Self::Change(..) | Self::Describe(_) | Self::Peek(_) => 1,
            Self::Receive(receive, _) => receive.settle.len(),
            Self::List(list) => list.limit.min(verbs::list::PAGE_MAX) as usize,
            // As many as a batch may have, so that few of a connection are under way at once.
            Self::Stats(_) => BATCH_ENTRIES_MAX as usize,
        }
    }

    /// A `create`.
    pub fn create(create: verbs::Create) -> Self {
        let verbs::Create { queue, if_exists, attributes, with } = create;
        let command = command::Create { queue, if_exists, attributes, with };
        Self::Change(verbs::Create::OPCODE, Command::Create(command))
    }

    /// An `update`.
    pub fn update(update: verbs::Update) -> Self {
        let verbs::Update { queue, attributes } = update;
        let command = command::Update { queue, attributes };
        Self::Change(verbs::Update::OPCODE, Command::Update(command))
    }

    /// A `drop`.
    pub fn drop(drop: verbs::Drop) -> Self {
        let verbs::Drop { queue, only_if_empty } = drop;
        let command = command::Drop { queue, only_if_empty };
        Self::Change(verbs::Drop::OPCODE, Command::Drop(command))
    }

    /// A `send`, its bodies held against their check sums.
    pub fn send(send: verbs::Send) -> Result<Self, Refusal> {
        check_batch(send.entries.len(), "messages")?;
        Ok(Self::Change(verbs::Send::OPCODE, Command::Send(Self::sent(send)?)))
    }

    /// The command of a `send`, its entries checked one by one.
    fn sent(send: verbs::Send) -> Result<command::Send, Refusal> {
        let mut messages = Vec::with_capacity(send.entries.len());
        for (index, entry) in send.entries.into_iter().enumerate() {
            let checked = entry
                .check()
                .and_then(|()| entry.due.map_or(Ok(()), check_due))
                .and_then(|()| entry.ttl_ms.map_or(Ok(()), check_ttl));
            checked.map_err(|mut refusal| {
                refusal.text = format!("message {} of the batch: {}", index + 1, refusal.text);
                refusal.with_queue(send.queue.as_str())
            })?;
            messages.push(NewMessage {
                crc: entry.body.crc,
                size: entry.size(),
                due: entry.due,
                ttl_ms: entry.ttl_ms,
                unique: entry.unique,
                fields: entry.stored_fields(),
                body: entry.body.bytes,
            });
        }
        Ok(command::Send { queue: send.queue, messages })
    }

    /// A `receive`.
    pub fn receive(receive: verbs::Receive) -> Result<Self, Refusal> {
        check_batch(receive.max as usize, "messages")?;
        check_most(receive.settle.len(), "receipts")?;
        check_milliseconds("wait", receive.wait_ms, WAIT_MS_MAX)?;
        let timeout = receive.visibility_timeout_ms;
        check_milliseconds("visibility-timeout", timeout.unwrap_or(0), VISIBILITY_TIMEOUT_MS_MAX)?;
        let command = command::Receive {
            queues: receive.queues,
            max: receive.max,
            bytes_max: ANSWER_BYTES_MAX,
            visibility_timeout_ms: timeout,
            delete: receive.delete_on_receive,
            settle: receive.settle,
            secret: random_u64(),
        };
        Ok(Self::Receive(command, receive.wait_ms))
    }

    /// A `delete`.
    pub fn delete(delete: verbs::Delete) -> Result<Self, Refusal> {
        let verbs::Delete { queue, receipts } = delete;
        Self::settle(verbs::Delete::OPCODE, queue, Action::Delete, receipts)
    }

    /// An `extend`.
    pub fn extend(extend: verbs::Extend) -> Result<Self, Refusal> {
        let verbs::Extend { queue, until, receipts } = extend;
        let (Until::By(ms) | Until::To(ms)) = until;
        check_milliseconds("extension", ms, VISIBILITY_TIMEOUT_MS_MAX)?;
        Self::settle(verbs::Extend::OPCODE, queue, Action::Extend(until), receipts)
    }

    /// A `release`.
    pub fn release(release: verbs::Release) -> Result<Self, Refusal> {
        let verbs::Release { queue, counted, delay_ms, receipts } = release;
        let due = delay_ms.map(Due::After);
        due.map_or(Ok(()), check_due)?;
        let action = Action::Release { counted, due };
        Self::settle(verbs::Release::OPCODE, queue, action, receipts)
    }

    /// A `reject`.
    pub fn reject(reject: verbs::Reject) -> Result<Self, Refusal> {
        let verbs::Reject { queue, reason, receipts } = reject;
        Self::settle(verbs::Reject::OPCODE, queue, Action::Reject { reason }, receipts)
    }

    fn settle(
        opcode: u16,
        queue: QueueName,
        action: Action,
        receipts: Vec<Receipt>,
    ) -> Result<Self, Refusal> {
        check_batch(receipts.len(), "receipts")?;
        let command = command::Settle { queue, action, receipts, seed: random_u64() };
        Ok(Self::Change(opcode, Command::Settle(command)))
    }

    /// A `redrive`.
    pub fn redrive(redrive: verbs::Redrive) -> Result<Self, Refusal> {
        let verbs::Redrive { queue, to, after, through, max, headers, dry_run } = redrive;
        check_redriven(max)?;
        if to.as_ref() == Some(&queue) {
            let text = format!("queue {:?} cannot be redriven into itself", queue.as_str());
            return Err(ErrorCode::MalformedRequest.refuse(text).with_queue(queue.as_str()));
        }
        let headers = headers.0;
        let command = command::Redrive { queue, to, after, through, max, headers, dry_run };
        Ok(Self::Change(verbs::Redrive::OPCODE, Command::Redrive(command)))
    }

    /// A `peek`.
    pub fn peek(peek: verbs::Peek) -> Result<Self, Refusal> {
        check_batch(peek.max as usize, "messages")?;
        Ok(Self::Peek(peek))
    }

    /// A `stats`.
    pub fn stats(stats: verbs::Stats) -> Result<Self, Refusal> {
        stats.check()?;
        Ok(Self::Stats(stats))
    }

    /// A `purge`.
    pub fn purge(purge: verbs::Purge) -> Result<Self, Refusal> {
        if !purge.is_filtered() && (purge.after, purge.through) != (0, 0) {
            let text = "a purge of all messages is one step: it has no after and no through";
            return Err(ErrorCode::MalformedRequest.refuse(text).with_queue(purge.queue.as_str()));
        }
        if let Some(ms) = purge.older_than_ms {
            check_milliseconds("older-than", ms, DELAY_MS_MAX)?;
        }
        let verbs::Purge { queue, older_than_ms, headers, dry_run, after, through } = purge;
        let headers = headers.0;
        let command = command::Purge { queue, older_than_ms, headers, dry_run, after, through };
        Ok(Self::Change(verbs::Purge::OPCODE, Command::Purge(command)))
    }

    /// A `transact`.
    pub fn transact(transact: verbs::Transact) -> Result<Self, Refusal> {
        let verbs::Transact { deletes, sends } = transact;
        let receipts: usize = deletes.iter().map(|delete| delete.receipts.len()).sum();
        let messages: usize = sends.iter().map(|send| send.entries.len()).sum();
        if receipts + messages == 0 {
            let text = "there is nothing to delete and nothing to send";
            return Err(ErrorCode::MalformedRequest.refuse(text));
        }
        check_most(receipts, "receipts")?;
        check_most(messages, "messages")?;
        let deletes = deletes.into_iter().map(|delete| (delete.queue, delete.receipts)).collect();
        let sends = sends.into_iter().map(Self::sent).collect::<Result<_, _>>()?;
        let command = command::Transact { deletes, sends };
        Ok(Self::Change(verbs::Transact::OPCODE, Command::Transact(command)))
    }

    /// A `discard`.
    pub fn discard(discard: verbs::Discard) -> Result<Self, Refusal> {
        let verbs::Discard { queue, ids } = discard;
        Self::by_id(verbs::Discard::OPCODE, queue, ByIdAction::Discard, ids)
    }

    /// A `reschedule`.
    pub fn reschedule(reschedule: verbs::Reschedule) -> Result<Self, Refusal> {
        let verbs::Reschedule { queue, due, ids } = reschedule;
        check_due(due)?;
        Self::by_id(verbs::Reschedule::OPCODE, queue, ByIdAction::Reschedule(due), ids)
    }

    fn by_id(
        opcode: u16,
        queue: QueueName,
        action: ByIdAction,
        ids: Vec<u64>,
    ) -> Result<Self, Refusal> {
        check_batch(ids.len(), "ids")?;
        let command = command::ById { queue, action, ids };
        Ok(Self::Change(opcode, Command::ById(command)))
    }
}

/// A delay may last 100 years; a time may be any, and is at once when it is past.
fn check_due(due: Due) -> Result<(), Refusal> {
    match due {
        Due::After(ms) => check_milliseconds("delay", ms, DELAY_MS_MAX),
        Due::At(_) => Ok(()),
    }
}

fn check_ttl(ms: u64) -> Result<(), Refusal> {
    if ms == 0 {
        let text = "a time to live of 0 ms: it goes from 1 ms to 100 years";
        return Err(ErrorCode::AttributeOutOfRange.refuse(text).with_limit("ttl", 0, DELAY_MS_MAX));
    }
    check_milliseconds("ttl", ms, DELAY_MS_MAX)
}

fn check_batch(entries: usize, what: &str) -> Result<(), Refusal> {
    if entries == 0 {
        let text = format!("a batch holds 1 to {BATCH_ENTRIES_MAX} {what}, not 0");
        return Err(ErrorCode::MalformedRequest.refuse(text));
    }
    check_most(entries, what)
}

fn check_most(entries: usize, what: &str) -> Result<(), Refusal> {
    if entries <= BATCH_ENTRIES_MAX as usize {
        return Ok(());
    }
    let text = format!("a batch holds at most {BATCH_ENTRIES_MAX} {what}, not {entries}");
    Err(ErrorCode::BatchTooLarge.refuse(text).with_limit(
        "batch",
        entries as u64,
        u64::from(BATCH_ENTRIES_MAX),
    ))
}

fn check_redriven(max: u32) -> Result<(), Refusal> {
    let text = format!("a redrive moves 1 to {REDRIVE_MAX} messages, not {max}");
    match max {
        0 => Err(ErrorCode::MalformedRequest.refuse(text)),
        1..=REDRIVE_MAX => Ok(()),
        _ => Err(ErrorCode::BatchTooLarge.refuse(text).with_limit(
            "batch",
            u64::from(max),
            u64::from(REDRIVE_MAX),
        )),
    }
}

fn check_milliseconds(name: &str, value: u64, maximum: u64) -> Result<(), Refusal> {
    if value <= maximum {
        return Ok(());
    }
    let text = format!("{name} of {value} ms is over the limit of {maximum} ms");
    Err(ErrorCode::AttributeOutOfRange.refuse(text).with_limit(name, value, maximum))
}
