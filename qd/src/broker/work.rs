//! What a request asks of the engine, checked as far as that can be done without the state.

use qd_protocol::verbs::receive::{ANSWER_BYTES_MAX, WAIT_MS_MAX};
use qd_protocol::verbs::{self, Verb};
use qd_protocol::{BATCH_ENTRIES_MAX, ErrorCode, Refusal};

use crate::clock::random_u64;
use crate::shard::Command;
use crate::shard::command::{self, NewMessage};

/// What a request asks of the engine.
#[derive(Debug)]
pub enum Work {
    /// A change that is answered with its outcome.
    Change(Command),
    /// A receive, which may wait for this many milliseconds.
    Receive(command::Receive, u64),
    /// Attributes and statistics of one queue.
    Describe(verbs::Describe),
    /// A page of queues.
    List(verbs::List),
}

impl Work {
    /// The verb's number.
    pub fn opcode(&self) -> u16 {
        match self {
            Self::Change(Command::Create(_)) => verbs::Create::OPCODE,
            Self::Change(Command::Drop(_)) => verbs::Drop::OPCODE,
            Self::Change(Command::Send(_)) => verbs::Send::OPCODE,
            Self::Change(Command::Delete(_)) => verbs::Delete::OPCODE,
            Self::Change(Command::Receive(_)) | Self::Receive(..) => verbs::Receive::OPCODE,
            Self::Describe(_) => verbs::Describe::OPCODE,
            Self::List(_) => verbs::List::OPCODE,
        }
    }

    /// A `create`.
    pub fn create(create: verbs::Create) -> Self {
        let verbs::Create { queue, if_exists, attributes } = create;
        Self::Change(Command::Create(command::Create { queue, if_exists, attributes }))
    }

    /// A `drop`.
    pub fn drop(drop: verbs::Drop) -> Self {
        let verbs::Drop { queue, only_if_empty } = drop;
        Self::Change(Command::Drop(command::Drop { queue, only_if_empty }))
    }

    /// A `send`, its bodies held against their check sums.
    pub fn send(send: verbs::Send) -> Result<Self, Refusal> {
        check_batch(send.entries.len(), "messages")?;
        let mut messages = Vec::with_capacity(send.entries.len());
        for (index, entry) in send.entries.into_iter().enumerate() {
            entry.check().map_err(|mut refusal| {
                refusal.text = format!("message {} of the batch: {}", index + 1, refusal.text);
                refusal.with_queue(send.queue.as_str())
            })?;
            messages.push(NewMessage {
                crc: entry.body.crc,
                size: entry.size(),
                fields: entry.headers.to_fields(),
                body: entry.body.bytes,
            });
        }
        Ok(Self::Change(Command::Send(command::Send { queue: send.queue, messages })))
    }

    /// A `receive`.
    pub fn receive(receive: verbs::Receive) -> Result<Self, Refusal> {
        check_batch(receive.max as usize, "messages")?;
        check_most(receive.settle.len(), "receipts")?;
        check_milliseconds("wait", receive.wait_ms, WAIT_MS_MAX)?;
        let timeout_max = qd_protocol::attributes::VISIBILITY_TIMEOUT_MS_MAX;
        let timeout = receive.visibility_timeout_ms;
        check_milliseconds("visibility-timeout", timeout.unwrap_or(0), timeout_max)?;
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
        check_batch(delete.receipts.len(), "receipts")?;
        let verbs::Delete { queue, receipts } = delete;
        Ok(Self::Change(Command::Delete(command::Delete { queue, receipts })))
    }
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

fn check_milliseconds(name: &str, value: u64, maximum: u64) -> Result<(), Refusal> {
    if value <= maximum {
        return Ok(());
    }
    let text = format!("{name} of {value} ms is over the limit of {maximum} ms");
    Err(ErrorCode::AttributeOutOfRange.refuse(text).with_limit(name, value, maximum))
}
