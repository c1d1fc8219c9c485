//! `receive`: leases the next messages, after settling earlier ones in the same request.
//!
//! ```text
//! request:  u16 count of queues, queue names in order of preference, u32 most messages,
//!           optional fields: 1 wait in ms (u64), 2 visibility timeout in ms (u64),
//!           3 delete on receive (empty), 4 receipts to delete first
//! answer:   statuses of the receipts, u32 count of messages, messages
//! message:  u16 index of its queue in the request, u64 id, receipt, u32 attempt,
//!           u64 sent at (ms since 1970 UTC), u64 leased until (0 when deleted on receive),
//!           then body length, CRC, optional fields and body as in a send entry
//! ```
//!
//! The receipts are settled at once and durably, also when the receive then waits; their statuses
//! come with the answer. A receive that waits and finds nothing is answered with no messages.

use bytes::{BufMut, Bytes, BytesMut};

use super::delete::{Statuses, put_receipts, read_receipts};
use super::{Verb, hello::skip_fields};
use crate::BATCH_ENTRIES_MAX;
use crate::attributes::queue_name;
use crate::message::{Body, DeadLettered, Headers, Properties};
use crate::name::QueueName;
use crate::receipt::{RECEIPT_BYTES, Receipt};
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// Longest wait: one day. A client that wants to wait longer asks again.
pub const WAIT_MS_MAX: u64 = 24 * 3_600_000;
/// Most queues in one receive.
pub const QUEUES_MAX: usize = 64;
/// Body and header bytes after which a receive takes no further message; a first one larger
/// than this comes alone.
pub const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Leases messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receive {
    /// 1 to 64 queues in order of preference.
    pub queues: Vec<QueueName>,
    /// Most messages, 1 to [`crate::BATCH_ENTRIES_MAX`]. An answer also ends at about 1 MiB.
    pub max: u32,
    /// How long to wait for a first message; 0: not at all. At most one day.
    pub wait_ms: u64,
    /// How long the lease lasts; `None`: the queue's own.
    pub visibility_timeout_ms: Option<u64>,
    /// Delete the messages in the same step: delivered at most once.
    pub delete_on_receive: bool,
    /// Receipts of these queues to delete first.
    pub settle: Vec<Receipt>,
}

/// What a receive got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// What became of the receipts.
    pub settled: Statuses,
    /// In the order of delivery.
    pub messages: Vec<ReceivedMessage>,
}

/// A message delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Which of the request's queues it is from.
    pub queue: u16,
    /// Sequence number within its queue.
    pub id: u64,
    /// Proof of this lease.
    pub receipt: Receipt,
    /// Deliveries that count, this one included: 1 for the first.
    pub attempt: u32,
    /// Milliseconds since 1970-01-01 UTC.
    pub sent_at_ms: u64,
    /// End of the lease, milliseconds since 1970-01-01 UTC; 0 when it was deleted on receive.
    pub lease_until_ms: u64,
    /// The message's optional fields as they are stored; [`ReceivedMessage::headers`] reads them.
    pub fields: Bytes,
    /// Its body.
    pub body: Body,
}

impl ReceivedMessage {
    /// The headers.
    pub fn headers(&self) -> Result<Headers, DecodeError> {
        Headers::of(&self.fields)
    }

    /// Priority, group and dedup id.
    pub fn properties(&self) -> Result<Properties, DecodeError> {
        Properties::of(&self.fields)
    }

    /// Of a dead letter, where it came from and why; of one that was a dead letter several times
    /// the last time.
    pub fn dead_letter(&self) -> Result<Option<DeadLettered>, DecodeError> {
        DeadLettered::newest(&self.fields)
    }
}

impl Verb for Receive {
    const OPCODE: u16 = 33;
    const CHANGES: bool = true;
    type Answer = Received;

    fn parks(&self) -> bool {
        self.wait_ms > 0
    }

    /// What the first server has leased comes back there when the leases end, as if nobody had
    /// repeated the request.
    fn repeatable_elsewhere(&self) -> bool {
        self.settle.is_empty()
    }

    fn check_answer(answer: &Received) -> Result<(), DecodeError> {
        match answer.messages.iter().find(|message| !message.body.is_intact()) {
            None => Ok(()),
            Some(ReceivedMessage { queue, id, .. }) => {
                let reason = format!(
                    "message {id} of queue {queue} of the request does not have its CRC-32C"
                );
                Err(DecodeError::value("body", reason))
            }
        }
    }
}

const FIELD_WAIT: u8 = 1;
const FIELD_VISIBILITY_TIMEOUT: u8 = 2;
const FIELD_DELETE_ON_RECEIVE: u8 = 3;
const FIELD_SETTLE: u8 = 4;

impl Payload for Receive {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.queues.len() as u16);
        for queue in &self.queues {
            put_string(out, queue.as_str());
        }
        out.put_u32_le(self.max);
        if self.wait_ms > 0 {
            put_field(out, FIELD_WAIT, |out| out.put_u64_le(self.wait_ms));
        }
        if let Some(timeout) = self.visibility_timeout_ms {
            put_field(out, FIELD_VISIBILITY_TIMEOUT, |out| out.put_u64_le(timeout));
        }
        if self.delete_on_receive {
            put_field(out, FIELD_DELETE_ON_RECEIVE, |_| ());
        }
        if !self.settle.is_empty() {
            put_field(out, FIELD_SETTLE, |out| put_receipts(out, &self.settle));
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let count = usize::from(input.u16("number of queues")?);
        if !(1..=QUEUES_MAX).contains(&count) {
            let reason = format!("{count} is not 1 to {QUEUES_MAX}");
            return Err(DecodeError::value("number of queues", reason));
        }
        let queues = (0..count).map(|_| queue_name(input)).collect::<Result<_, _>>()?;
        let mut receive = Self {
            queues,
            max: input.u32("most messages")?,
            wait_ms: 0,
            visibility_timeout_ms: None,
            delete_on_receive: false,
            settle: Vec::new(),
        };
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                FIELD_WAIT => receive.wait_ms = value.u64("wait")?,
                FIELD_VISIBILITY_TIMEOUT => {
                    receive.visibility_timeout_ms = Some(value.u64("visibility timeout")?);
                }
                FIELD_DELETE_ON_RECEIVE => receive.delete_on_receive = true,
                FIELD_SETTLE => receive.settle = read_receipts(&mut value)?,
                _ => {}
            }
        }
        Ok(receive)
    }
}

/// Bytes of a message in an answer without its optional fields and body.
const MESSAGE_BYTES: usize = 2 + 8 + RECEIPT_BYTES + 4 + 8 + 8 + 12;

impl Payload for Received {
    fn encode(&self, out: &mut BytesMut) {
        self.settled.encode(out);
        let bytes = |message: &ReceivedMessage| {
            MESSAGE_BYTES + message.fields.len() + message.body.bytes.len()
        };
        out.reserve(4 + self.messages.iter().map(bytes).sum::<usize>());
        out.put_u32_le(self.messages.len() as u32);
        for message in &self.messages {
            out.put_u16_le(message.queue);
            out.put_u64_le(message.id);
            message.receipt.encode(out);
            out.put_u32_le(message.attempt);
            out.put_u64_le(message.sent_at_ms);
            out.put_u64_le(message.lease_until_ms);
            out.put_u32_le(message.body.bytes.len() as u32);
            out.put_u32_le(message.body.crc);
            out.put_u32_le(message.fields.len() as u32);
            out.put_slice(&message.fields);
            out.put_slice(&message.body.bytes);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let settled = Statuses::decode(input)?;
        let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of messages", MESSAGE_BYTES)?;
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            let queue = input.u16("queue's index")?;
            let id = input.u64("message id")?;
            let receipt = Receipt::decode(input)?;
            let attempt = input.u32("attempt")?;
            let sent_at_ms = input.u64("sent at")?;
            let lease_until_ms = input.u64("leased until")?;
            let body_bytes = input.u32("body length")? as usize;
            let crc = input.u32("body CRC")?;
            let fields_bytes = input.u32("length of optional fields")? as usize;
            let fields = input.bytes("optional fields", fields_bytes)?;
            let body = Body { bytes: input.bytes("body", body_bytes)?, crc };
            messages.push(ReceivedMessage {
                queue,
                id,
                receipt,
                attempt,
                sent_at_ms,
                lease_until_ms,
                fields,
                body,
            });
        }
        skip_fields(input)?;
        Ok(Self { settled, messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use crate::frame::{FrameCodec, HEADER_BYTES};
    use crate::message::{HOPS_MAX, Reason, TEXT_BYTES_MAX};
    use crate::request::{put_answer, read_answer};
    use crate::verbs::SendEntry;
    use crate::verbs::reject::REASON_BYTES_MAX;
    use crate::{ANSWER_FRAME_BYTES_MAX, FRAME_BYTES_MAX, HEADERS_BYTES_MAX, MESSAGE_BYTES_MAX};
    use tokio_util::codec::Decoder;

    #[test]
    fn largest_answer_is_within_the_limit_of_clients_and_decodes() {
        let mut settled = Statuses::default();
        for at in 0..BATCH_ENTRIES_MAX {
            // No two neighbours are equal, so each has a run of its own.
            let name = if at % 2 == 0 { "a" } else { "b" }.repeat(128);
            let text = "x".repeat(271);
            settled.push(Some(ErrorCode::ReceiptOfOtherQueue.refuse(text).with_queue(name)));
        }
        assert_eq!(settled.runs.len(), BATCH_ENTRIES_MAX as usize);
        let headers = Headers(vec![("k".to_owned(), String::new()); HEADERS_BYTES_MAX]);
        let text = "x".repeat(TEXT_BYTES_MAX);
        let properties =
            Properties { priority: 255, group: text.clone(), dedup_id: Some(text.clone()) };
        let body = Body::new(vec![0; MESSAGE_BYTES_MAX as usize - headers.size()]);
        let entry = SendEntry { body, headers, properties, ..SendEntry::new("") };
        assert_eq!((entry.check(), entry.size()), (Ok(()), MESSAGE_BYTES_MAX));
        let origin = DeadLettered {
            queue: QueueName::new("q".repeat(128)).unwrap(),
            id: 1,
            sent_at_ms: 1,
            attempts: 1,
            first_delivered_ms: 1,
            last_delivered_ms: 1,
            reason: Reason::Rejected("x".repeat(REASON_BYTES_MAX)),
        };
        let fields = (0..HOPS_MAX)
            .fold(entry.stored_fields(), |fields, _| origin.appended_to(&fields).unwrap());
        let message = ReceivedMessage {
            queue: 0,
            id: 1,
            receipt: Receipt { queue: 1, lease: 1, id: 1, secret: 1 },
            attempt: 1,
            sent_at_ms: 1,
            lease_until_ms: 1,
            fields,
            body: entry.body,
        };
        let received = Received { settled, messages: vec![message] };
        let mut out = BytesMut::new();
        put_answer(&mut out, 1, Receive::OPCODE, &received);
        let counted = (out.len() + 8 - HEADER_BYTES) as u32;
        assert!(counted > FRAME_BYTES_MAX, "{counted}: no larger than a request may be");
        assert!(counted <= ANSWER_FRAME_BYTES_MAX, "{counted}");
        let frame = FrameCodec::new(ANSWER_FRAME_BYTES_MAX).decode(&mut out).unwrap().unwrap();
        assert_eq!(read_answer::<Receive>(frame), Ok(received));
    }
}
