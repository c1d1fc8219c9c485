//! `transact`: deletes leased messages and sends others, all or nothing.
//!
//! ```text
//! request: u16 count, deletions (each as the payload of a `delete` without optional fields),
//!          u16 count, sends (each as the payload of a `send` without optional fields)
//! answer:  u16 count, one a send: u32 count of runs, runs as in the answer of a `send`
//! ```
//!
//! Where one receipt has expired or one message is refused the whole request is, with the reason of
//! the first, and nothing is changed. A message whose dedup id is known is no refusal. All queues
//! must live on one shard (`different_shards`).

use bytes::{BufMut, BytesMut};

use super::{Delete, Send, Sent, Verb, hello::skip_fields};
use crate::wire::{DecodeError, Payload, Reader};

/// Most deletions, and most sends, of one request.
pub const PARTS_MAX: usize = 64;

/// Deletes leased messages and sends others in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transact {
    /// Receipts by queue: up to [`PARTS_MAX`], with [`crate::BATCH_ENTRIES_MAX`] receipts in all.
    pub deletes: Vec<Delete>,
    /// Messages by queue: up to [`PARTS_MAX`], with [`crate::BATCH_ENTRIES_MAX`] messages in all.
    pub sends: Vec<Send>,
}

/// What became of the messages sent, by the sends of the request: stored or duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transacted {
    /// One a send.
    pub sent: Vec<Sent>,
}

impl Verb for Transact {
    const OPCODE: u16 = 42;
    const CHANGES: bool = true;
    type Answer = Transacted;
}

impl Payload for Transact {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.deletes.len() as u16);
        for delete in &self.deletes {
            delete.put(out);
        }
        out.put_u16_le(self.sends.len() as u16);
        for send in &self.sends {
            send.put(out);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let count = parts(input, "number of deletions")?;
        let deletes = (0..count).map(|_| Delete::read(input)).collect::<Result<_, _>>()?;
        let count = parts(input, "number of sends")?;
        let sends = (0..count).map(|_| Send::read(input)).collect::<Result<_, _>>()?;
        skip_fields(input)?;
        Ok(Self { deletes, sends })
    }
}

impl Payload for Transacted {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.sent.len() as u16);
        for sent in &self.sent {
            sent.put(out);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let count = parts(input, "number of sends")?;
        let sent = (0..count).map(|_| Sent::read(input)).collect::<Result<_, _>>()?;
        skip_fields(input)?;
        Ok(Self { sent })
    }
}

fn parts(input: &mut Reader, field: &'static str) -> Result<usize, DecodeError> {
    let count = usize::from(input.u16(field)?);
    if count > PARTS_MAX {
        return Err(DecodeError::value(field, format!("{count} is over the limit of {PARTS_MAX}")));
    }
    Ok(count)
}
