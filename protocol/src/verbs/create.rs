//! `create`: makes a queue, or checks or changes one that exists.
//!
//! ```text
//! request: queue, u8 when it exists (0 compare, 1 keep, 2 update), optional fields: 1 attributes,
//!          2 queue to be with (the bytes of its name)
//! answer:  u8 created
//! ```

use bytes::{BufMut, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::attributes::{AttributeChanges, queue_name, queue_name_of_field};
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// What to do when the queue exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// Compare the attributes given: refuse with `queue_exists` when one differs.
    Compare,
    /// Leave it as it is.
    Keep,
    /// Change the attributes given.
    Update,
}

/// Makes a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Its name.
    pub queue: QueueName,
    /// What to do when it exists.
    pub if_exists: IfExists,
    /// Attributes that differ from their defaults.
    pub attributes: AttributeChanges,
    /// A queue that must be there (`no_such_queue`), on whose shard this one is made, so that a
    /// [`super::Transact`] can span both. Of a queue that exists it is checked
    /// (`different_shards`).
    pub with: Option<QueueName>,
}

/// The queue is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// False when it was there before.
    pub created: bool,
}

impl Verb for Create {
    const OPCODE: u16 = 16;
    const CHANGES: bool = true;
    type Answer = Created;
}

const FIELD_ATTRIBUTES: u8 = 1;
const FIELD_WITH: u8 = 2;

impl Payload for Create {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u8(match self.if_exists {
            IfExists::Compare => 0,
            IfExists::Keep => 1,
            IfExists::Update => 2,
        });
        put_field(out, FIELD_ATTRIBUTES, |out| self.attributes.encode(out));
        if let Some(with) = &self.with {
            put_field(out, FIELD_WITH, |out| out.put_slice(with.as_str().as_bytes()));
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let if_exists = match input.u8("if-exists mode")? {
            0 => IfExists::Compare,
            1 => IfExists::Keep,
            2 => IfExists::Update,
            other => {
                return Err(DecodeError::value("if-exists mode", format!("{other} is not 0 to 2")));
            }
        };
        let (mut attributes, mut with) = (AttributeChanges::default(), None);
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                FIELD_ATTRIBUTES => attributes = AttributeChanges::decode(&mut value)?,
                FIELD_WITH => with = Some(queue_name_of_field("queue to be with", &mut value)?),
                _ => {}
            }
        }
        Ok(Self { queue, if_exists, attributes, with })
    }
}

impl Payload for Created {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.created));
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let created = Self { created: input.flag("created")? };
        skip_fields(input)?;
        Ok(created)
    }
}
