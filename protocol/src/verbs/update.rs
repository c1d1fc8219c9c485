//! `update`: changes attributes of a queue that exists.
//!
//! ```text
//! request: queue, optional fields: 1 attributes
//! answer:  u8 changed
//! ```

use bytes::{BufMut, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::attributes::{AttributeChanges, queue_name};
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// Changes attributes of a queue. They count from now on: no lease or delay that has begun gets
/// another end, and no message goes because a limit is lower than what the queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Its name.
    pub queue: QueueName,
    /// Those that get a value; out of range: `attribute_out_of_range`.
    pub attributes: AttributeChanges,
}

/// The attributes are as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Updated {
    /// False when all of them were so before.
    pub changed: bool,
}

impl Verb for Update {
    const OPCODE: u16 = 20;
    const CHANGES: bool = true;
    type Answer = Updated;
}

const FIELD_ATTRIBUTES: u8 = 1;

impl Payload for Update {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        put_field(out, FIELD_ATTRIBUTES, |out| self.attributes.encode(out));
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let mut attributes = AttributeChanges::default();
        while let Some((tag, mut value)) = input.field()? {
            if tag == FIELD_ATTRIBUTES {
                attributes = AttributeChanges::decode(&mut value)?;
            }
        }
        Ok(Self { queue, attributes })
    }
}

impl Payload for Updated {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.changed));
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let updated = Self { changed: input.flag("changed")? };
        skip_fields(input)?;
        Ok(updated)
    }
}
