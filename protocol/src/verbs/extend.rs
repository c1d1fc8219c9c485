//! `extend`: moves the end of leases.
//!
//! ```text
//! request: queue, until, u32 count, receipts (32 bytes each)
//! until:   u8 0, u64 ms from the end of each lease; or u8 1, u64 ms from now
//! answer:  statuses, as of a delete; u32 count, new ends (u64 ms since 1970 UTC; 0: refused)
//! ```
//!
//! A lease may be extended as often as its consumer wants, and so last as long; only one
//! extension is bounded.

use bytes::{BufMut, BytesMut};

use super::delete::{Statuses, put_receipts, read_receipts};
use super::{Verb, hello::skip_fields};
use crate::BATCH_ENTRIES_MAX;
use crate::attributes::queue_name;
use crate::error::Refusal;
use crate::name::QueueName;
use crate::receipt::Receipt;
use crate::wire::{DecodeError, Payload, Reader, put_string};

/// Moves the end of leases; their receipts stay good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extend {
    /// The queue that the receipts are of.
    pub queue: QueueName,
    /// Where the new end is.
    pub until: Until,
    /// 1 to [`crate::BATCH_ENTRIES_MAX`] receipts.
    pub receipts: Vec<Receipt>,
}

/// The new end of a lease: at most [`crate::attributes::VISIBILITY_TIMEOUT_MS_MAX`] beyond what it
/// is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// This many ms behind the end that the lease has.
    By(u64),
    /// This many ms from now, which may also be earlier than the end that the lease has; 0 ends
    /// it at once.
    To(u64),
}

/// What became of the leases, in the order of their receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extended {
    /// Whether each was extended.
    pub statuses: Statuses,
    /// The new end of each in ms since 1970-01-01 UTC; 0 where it was refused.
    pub lease_until_ms: Vec<u64>,
}

impl Extended {
    /// The new end of each lease in ms since 1970-01-01 UTC, or why it was refused, in order.
    pub fn entries(&self) -> impl Iterator<Item = Result<u64, &Refusal>> {
        let ends = self.lease_until_ms.iter();
        self.statuses.entries().zip(ends).map(|(status, end_ms)| status.map(|()| *end_ms))
    }
}

impl Verb for Extend {
    const OPCODE: u16 = 35;
    const CHANGES: bool = true;
    type Answer = Extended;

    fn check_answer(answer: &Extended) -> Result<(), DecodeError> {
        let statuses: u64 = answer.statuses.runs.iter().map(|(count, _)| u64::from(*count)).sum();
        let ends = answer.lease_until_ms.len();
        if statuses != ends as u64 {
            let reason = format!("there are {ends} for {statuses} statuses");
            return Err(DecodeError::value("ends of leases", reason));
        }
        Ok(())
    }
}

impl Payload for Extend {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        let (from_now, ms) = match self.until {
            Until::By(ms) => (false, ms),
            Until::To(ms) => (true, ms),
        };
        out.put_u8(u8::from(from_now));
        out.put_u64_le(ms);
        put_receipts(out, &self.receipts);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let from_now = input.flag("extension from now")?;
        let ms = input.u64("extension")?;
        let until = if from_now { Until::To(ms) } else { Until::By(ms) };
        let extend = Self { queue, until, receipts: read_receipts(input)? };
        skip_fields(input)?;
        Ok(extend)
    }
}

impl Payload for Extended {
    fn encode(&self, out: &mut BytesMut) {
        self.statuses.encode(out);
        out.reserve(4 + self.lease_until_ms.len() * 8);
        out.put_u32_le(self.lease_until_ms.len() as u32);
        for end_ms in &self.lease_until_ms {
            out.put_u64_le(*end_ms);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let statuses = Statuses::decode(input)?;
        let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of ends", 8)?;
        let lease_until_ms =
            (0..count).map(|_| input.u64("end of a lease")).collect::<Result<_, _>>()?;
        skip_fields(input)?;
        Ok(Self { statuses, lease_until_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn every_receipt_has_its_end_or_its_refusal() {
        let refusal = ErrorCode::ReceiptExpired.refuse("x");
        let statuses = Statuses { runs: vec![(2, None), (1, Some(Box::new(refusal.clone())))] };
        let mut extended = Extended { statuses, lease_until_ms: vec![7, 8, 0] };
        let entries: Vec<_> = extended.entries().collect();
        assert_eq!(entries, [Ok(7), Ok(8), Err(&refusal)]);
        assert_eq!(Extend::check_answer(&extended), Ok(()));
        extended.lease_until_ms.pop();
        assert!(Extend::check_answer(&extended).is_err());
    }
}
