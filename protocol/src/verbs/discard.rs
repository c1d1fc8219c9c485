//! `discard`: deletes messages that nobody holds, by their ids.
//!
//! ```text
//! request: queue, u32 count, ids (u64 each)
//! answer:  statuses, as of a delete
//! ```

use bytes::{BufMut, BytesMut};

use super::delete::Settled;
use super::{Verb, hello::skip_fields};
use crate::BATCH_ENTRIES_MAX;
use crate::attributes::queue_name;
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_string};

/// Deletes messages that are ready or delayed; leased ones are refused with `message_leased`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discard {
    /// The queue that the messages are in.
    pub queue: QueueName,
    /// 1 to [`crate::BATCH_ENTRIES_MAX`] ids.
    pub ids: Vec<u64>,
}

impl Verb for Discard {
    const OPCODE: u16 = 37;
    const CHANGES: bool = true;
    type Answer = Settled;
}

impl Payload for Discard {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        put_ids(out, &self.ids);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let discard = Self { queue: queue_name(input)?, ids: read_ids(input)? };
        skip_fields(input)?;
        Ok(discard)
    }
}

/// Appends a `u32` count and the ids.
pub(super) fn put_ids(out: &mut BytesMut, ids: &[u64]) {
    out.reserve(4 + ids.len() * 8);
    out.put_u32_le(ids.len() as u32);
    for id in ids {
        out.put_u64_le(*id);
    }
}

/// Reads a `u32` count and the ids.
pub(super) fn read_ids(input: &mut Reader) -> Result<Vec<u64>, DecodeError> {
    let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of ids", 8)?;
    (0..count).map(|_| input.u64("id")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_ids_than_a_batch_holds_are_too_many() {
        let decoded = |count: u32| {
            let mut out = BytesMut::new();
            put_ids(&mut out, &vec![1; count as usize]);
            read_ids(&mut Reader::new(out.freeze()))
        };
        assert_eq!(decoded(BATCH_ENTRIES_MAX).map(|ids| ids.len()), Ok(10_000));
        let count = BATCH_ENTRIES_MAX + 1;
        let (field, maximum) = ("number of ids", BATCH_ENTRIES_MAX);
        assert_eq!(decoded(count), Err(DecodeError::TooMany { field, count, maximum }));
    }
}
