//! `describe`: attributes and statistics of one queue.

use bytes::BytesMut;

use super::{Verb, hello::skip_fields};
use crate::attributes::{QueueDescription, queue_name};
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_string};

/// Asks for one queue's attributes and statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Describe {
    /// Its name.
    pub queue: QueueName,
}

impl Verb for Describe {
    const OPCODE: u16 = 18;
    const CHANGES: bool = false;
    type Answer = QueueDescription;
}

impl Payload for Describe {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let describe = Self { queue: queue_name(input)? };
        skip_fields(input)?;
        Ok(describe)
    }
}
