//! `release`: gives leased messages back.
//!
//! ```text
//! request: queue, u8 counted, u32 count, receipts (32 bytes each), optional fields: 1 delay in
//!          ms (u64)
//! answer:  statuses, as of a delete
//! ```

use bytes::{BufMut, BytesMut};

use super::Verb;
use super::delete::{Settled, put_receipts, read_receipts};
use crate::attributes::queue_name;
use crate::name::QueueName;
use crate::receipt::Receipt;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// Gives leased messages back, to their old place in the order. A message whose attempts have
/// reached the queue's `max_deliveries` becomes a dead letter instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The queue that the receipts are of.
    pub queue: QueueName,
    /// Whether the delivery counts as an attempt; if not, the next one has the same number.
    pub counted: bool,
    /// How many ms from now the messages become visible; at most
    /// [`crate::attributes::DELAY_MS_MAX`]; 0: at once. `None`: a delivery that counts, after the
    /// queue's retry delay for this attempt; one that does not, at once.
    pub delay_ms: Option<u64>,
    /// 1 to [`crate::BATCH_ENTRIES_MAX`] receipts.
    pub receipts: Vec<Receipt>,
}

impl Verb for Release {
    const OPCODE: u16 = 36;
    const CHANGES: bool = true;
    type Answer = Settled;
}

const FIELD_DELAY: u8 = 1;

impl Payload for Release {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u8(u8::from(self.counted));
        put_receipts(out, &self.receipts);
        if let Some(ms) = self.delay_ms {
            put_field(out, FIELD_DELAY, |out| out.put_u64_le(ms));
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let counted = input.flag("counted")?;
        let receipts = read_receipts(input)?;
        let mut delay_ms = None;
        while let Some((tag, mut value)) = input.field()? {
            if tag == FIELD_DELAY {
                delay_ms = Some(value.u64("delay")?);
            }
        }
        Ok(Self { queue, counted, delay_ms, receipts })
    }
}
