//! `delete`: ends the life of leased messages.
//!
//! ```text
//! request: queue, u32 count, receipts (32 bytes each)
//! answer:  statuses: u32 count of runs, runs
//! run:     u32 entries, u8 0 (done); or u32 entries, u8 1, u32 length, refusal
//! ```

use bytes::{BufMut, BytesMut};

use super::send::read_refusal;
use super::{Verb, hello::skip_fields};
use crate::BATCH_ENTRIES_MAX;
use crate::attributes::queue_name;
use crate::error::Refusal;
use crate::name::QueueName;
use crate::receipt::{RECEIPT_BYTES, Receipt};
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// Deletes messages by their receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// The queue that the receipts are of.
    pub queue: QueueName,
    /// 1 to [`crate::BATCH_ENTRIES_MAX`] receipts.
    pub receipts: Vec<Receipt>,
}

/// Answers the verbs that settle receipts or ids: one status each, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What became of each.
    pub statuses: Statuses,
}

/// The outcome of settling receipts or ids: one status each, in order, neighbours with the same
/// one together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statuses {
    /// Number of entries, and why they were refused if they were.
    pub runs: Vec<(u32, Option<Box<Refusal>>)>,
}

impl Statuses {
    /// Appends the status of one more entry.
    pub fn push(&mut self, refusal: Option<Refusal>) {
        let refusal = refusal.map(Box::new);
        match self.runs.last_mut() {
            Some((count, last)) if *last == refusal => *count += 1,
            _ => self.runs.push((1, refusal)),
        }
    }

    /// One result an entry, in order.
    pub fn entries(&self) -> impl Iterator<Item = Result<(), &Refusal>> {
        self.runs.iter().flat_map(|(count, refusal)| {
            (0..*count).map(move |_| refusal.as_deref().map_or(Ok(()), Err))
        })
    }
}

impl Verb for Delete {
    const OPCODE: u16 = 34;
    const CHANGES: bool = true;
    type Answer = Settled;
}

impl Payload for Delete {
    fn encode(&self, out: &mut BytesMut) {
        self.put(out);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let delete = Self::read(input)?;
        skip_fields(input)?;
        Ok(delete)
    }
}

impl Delete {
    /// Appends queue and receipts.
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        put_receipts(out, &self.receipts);
    }

    /// Reads queue and receipts.
    pub(super) fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { queue: queue_name(input)?, receipts: read_receipts(input)? })
    }
}

/// Appends a `u32` count and the receipts.
pub(super) fn put_receipts(out: &mut BytesMut, receipts: &[Receipt]) {
    out.reserve(4 + receipts.len() * RECEIPT_BYTES);
    out.put_u32_le(receipts.len() as u32);
    for receipt in receipts {
        receipt.encode(out);
    }
}

/// Reads a `u32` count and the receipts.
pub(super) fn read_receipts(input: &mut Reader) -> Result<Vec<Receipt>, DecodeError> {
    let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of receipts", RECEIPT_BYTES)?;
    (0..count).map(|_| Receipt::decode(input)).collect()
}

impl Payload for Settled {
    fn encode(&self, out: &mut BytesMut) {
        self.statuses.encode(out);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let settled = Self { statuses: Statuses::decode(input)? };
        skip_fields(input)?;
        Ok(settled)
    }
}

impl Payload for Statuses {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.runs.len() as u32);
        for (count, refusal) in &self.runs {
            out.put_u32_le(*count);
            match refusal {
                None => out.put_u8(0),
                Some(refusal) => put_field(out, 1, |out| refusal.encode(out)),
            }
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of runs", 5)?;
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            let count = input.u32("entries of a run")?;
            let refusal = match input.u8("kind of run")? {
                0 => None,
                1 => Some(Box::new(read_refusal(input)?)),
                other => {
                    return Err(DecodeError::value(
                        "kind of run",
                        format!("{other} is not 0 or 1"),
                    ));
                }
            };
            runs.push((count, refusal));
        }
        Ok(Self { runs })
    }
}
