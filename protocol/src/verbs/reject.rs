//! `reject`: gives up leased messages, which become dead letters with a reason.
//!
//! ```text
//! request: queue, short string reason, u32 count, receipts (32 bytes each)
//! answer:  statuses, as of a delete
//! ```

use bytes::BytesMut;

use super::delete::{Settled, put_receipts, read_receipts};
use super::{Verb, hello::skip_fields};
use crate::attributes::queue_name;
use crate::name::QueueName;
use crate::receipt::Receipt;
use crate::wire::{DecodeError, Payload, Reader, put_string};

/// Most bytes of a reason.
pub const REASON_BYTES_MAX: usize = 1_024;

/// Moves leased messages to the dead-letter queue, however often they were delivered. Where the
/// queue has none, receipts are refused with `no_dead_letter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The queue that the receipts are of.
    pub queue: QueueName,
    /// Why, for people: 0 to [`REASON_BYTES_MAX`] bytes.
    pub reason: String,
    /// 1 to [`crate::BATCH_ENTRIES_MAX`] receipts.
    pub receipts: Vec<Receipt>,
}

impl Verb for Reject {
    const OPCODE: u16 = 39;
    const CHANGES: bool = true;
    type Answer = Settled;
}

impl Payload for Reject {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        put_string(out, &self.reason);
        put_receipts(out, &self.receipts);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let reason = input.string("reason")?;
        if reason.len() > REASON_BYTES_MAX {
            let over =
                format!("{} bytes are over the limit of {REASON_BYTES_MAX} bytes", reason.len());
            return Err(DecodeError::value("reason", over));
        }
        let reject = Self { queue, reason, receipts: read_receipts(input)? };
        skip_fields(input)?;
        Ok(reject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_over_the_limit_is_refused_with_the_limit() {
        let decoded = |bytes: usize| {
            let queue = QueueName::new("jobs").unwrap();
            let mut out = BytesMut::new();
            Reject { queue, reason: "x".repeat(bytes), receipts: Vec::new() }.encode(&mut out);
            Reject::decode(&mut Reader::new(out.freeze()))
        };
        assert_eq!(decoded(0).map(|reject| reject.reason.len()), Ok(0));
        assert_eq!(decoded(1_024).map(|reject| reject.reason.len()), Ok(1_024));
        let error = decoded(1_025).unwrap_err().to_string();
        assert_eq!(error, "reason: 1025 bytes are over the limit of 1024 bytes");
    }
}
