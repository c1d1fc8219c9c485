//! What decides about a message's place in its queue, and how it is known again.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{ErrorCode, Refusal};
use crate::wire::{DecodeError, Reader, put_field, utf8};

/// Most bytes of a group and of a dedup id.
pub const TEXT_BYTES_MAX: usize = 128;

pub(crate) const FIELD_PRIORITY: u8 = 5;
pub(crate) const FIELD_GROUP: u8 = 6;
pub(crate) const FIELD_DEDUP_ID: u8 = 7;

/// Priority, group and dedup id of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// 0 to 255; messages with a higher one are delivered before those with a lower one.
    pub priority: u8,
    /// Up to [`TEXT_BYTES_MAX`] bytes. The groups of a queue take turns, and an ordered queue keeps
    /// the order within each. The empty one is a group like any other.
    pub group: String,
    /// 1 to [`TEXT_BYTES_MAX`] bytes: what marks a message that is sent once more as the same one.
    pub dedup_id: Option<String>,
}

impl Properties {
    /// Those among the stored optional fields of a message.
    pub fn of(fields: &Bytes) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut fields = Reader::new(fields.clone());
        while let Some((tag, mut value)) = fields.field()? {
            properties.read_field(tag, &mut value)?;
        }
        Ok(properties)
    }

    /// What is wrong with them whatever the queue.
    pub fn check(&self) -> Result<(), Refusal> {
        let dedup_id = self.dedup_id.as_deref();
        if dedup_id == Some("") {
            return Err(ErrorCode::AttributeOutOfRange
                .refuse(format!("the dedup id is empty: it has 1 to {TEXT_BYTES_MAX} bytes")));
        }
        for (name, text) in [("group", self.group.as_str()), ("dedup-id", dedup_id.unwrap_or(""))] {
            let bytes = text.len();
            if bytes > TEXT_BYTES_MAX {
                let text = format!("{name} of {bytes} bytes is over the limit of {TEXT_BYTES_MAX}");
                return Err(ErrorCode::AttributeOutOfRange.refuse(text).with_limit(
                    name,
                    bytes as u64,
                    TEXT_BYTES_MAX as u64,
                ));
            }
        }
        Ok(())
    }

    /// Bytes that [`Self::put_fields`] appends.
    pub(crate) fn fields_bytes(&self) -> usize {
        let priority = if self.priority == 0 { 0 } else { 6 };
        let group = if self.group.is_empty() { 0 } else { 5 + self.group.len() };
        priority + group + self.dedup_id.as_ref().map_or(0, |id| 5 + id.len())
    }

    /// Appends one optional field for each that is not as if nothing was said.
    pub(crate) fn put_fields(&self, out: &mut BytesMut) {
        if self.priority != 0 {
            put_field(out, FIELD_PRIORITY, |out| out.put_u8(self.priority));
        }
        if !self.group.is_empty() {
            put_field(out, FIELD_GROUP, |out| out.put_slice(self.group.as_bytes()));
        }
        if let Some(dedup_id) = &self.dedup_id {
            put_field(out, FIELD_DEDUP_ID, |out| out.put_slice(dedup_id.as_bytes()));
        }
    }

    /// Reads an optional field of a message, if it is one of these.
    pub(crate) fn read_field(&mut self, tag: u8, value: &mut Reader) -> Result<(), DecodeError> {
        match tag {
            FIELD_PRIORITY => {
                self.priority = value.u8("priority")?;
                value.end("priority")?;
            }
            FIELD_GROUP => self.group = utf8("group", &value.rest())?,
            FIELD_DEDUP_ID => self.dedup_id = Some(utf8("dedup id", &value.rest())?),
            _ => {}
        }
        Ok(())
    }
}
