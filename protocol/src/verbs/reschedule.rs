//! `reschedule`: gives messages that nobody holds another time to become visible, by their ids.
//!
//! ```text
//! request: queue, due, u32 count, ids (u64 each)
//! due:     u8 0, u64 ms from now; or u8 1, u64 ms since 1970 UTC
//! answer:  statuses, as of a delete
//! ```

use bytes::{BufMut, BytesMut};

use super::delete::Settled;
use super::discard::{put_ids, read_ids};
use super::send::Due;
use super::{Verb, hello::skip_fields};
use crate::attributes::queue_name;
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_string};

/// Delays messages that are ready, and moves the time of those that are delayed; leased ones are
/// refused with `message_leased`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reschedule {
    /// The queue that the messages are in.
    pub queue: QueueName,
    /// When they become visible. At once ([`Due::After`] 0 or a past time) puts delayed messages
    /// at their old place in the order, and leaves ready ones where they are.
    pub due: Due,
    /// 1 to [`crate::BATCH_ENTRIES_MAX`] ids.
    pub ids: Vec<u64>,
}

impl Verb for Reschedule {
    const OPCODE: u16 = 38;
    const CHANGES: bool = true;
    type Answer = Settled;
}

impl Payload for Reschedule {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        let (at, ms) = match self.due {
            Due::After(ms) => (false, ms),
            Due::At(ms) => (true, ms),
        };
        out.put_u8(u8::from(at));
        out.put_u64_le(ms);
        put_ids(out, &self.ids);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let at = input.flag("due at a time")?;
        let ms = input.u64("due")?;
        let due = if at { Due::At(ms) } else { Due::After(ms) };
        let reschedule = Self { queue, due, ids: read_ids(input)? };
        skip_fields(input)?;
        Ok(reschedule)
    }
}
