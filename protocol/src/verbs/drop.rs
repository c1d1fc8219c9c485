//! `drop`: removes a queue and all its messages.

use bytes::{BufMut, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::attributes::queue_name;
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_string};

/// Removes a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// Its name.
    pub queue: QueueName,
    /// Refuse with `queue_not_empty` when it holds messages.
    pub only_if_empty: bool,
}

/// The queue is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Live messages that went with it.
    pub messages: u64,
}

impl Verb for Drop {
    const OPCODE: u16 = 17;
    const CHANGES: bool = true;
    type Answer = Dropped;
}

impl Payload for Drop {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u8(u8::from(self.only_if_empty));
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let drop = Self { queue: queue_name(input)?, only_if_empty: input.flag("only if empty")? };
        skip_fields(input)?;
        Ok(drop)
    }
}

impl Payload for Dropped {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.messages);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let dropped = Self { messages: input.u64("messages")? };
        skip_fields(input)?;
        Ok(dropped)
    }
}
