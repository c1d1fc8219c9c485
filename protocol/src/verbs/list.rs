//! `list`: queues by name, a page at a time.

use bytes::{BufMut, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::attributes::{QueueDescription, queue_name_of_field};
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, utf8};

/// Most queues on one page.
pub const PAGE_MAX: u32 = 1_000;
/// Most bytes of a pattern: twice those of the longest name. Matching takes as many steps as the
/// product of both lengths.
pub const PATTERN_BYTES_MAX: usize = 256;

/// Asks for a page of queues in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Only names that match; `*` is any run of characters, `?` one character. At most
    /// [`PATTERN_BYTES_MAX`]. `None`: all.
    pub pattern: Option<String>,
    /// Only names behind this one: the last one of the page before.
    pub after: Option<QueueName>,
    /// Most queues wanted; the server gives at most 1,000.
    pub limit: u32,
}

/// A page of queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// In the order of their names.
    pub queues: Vec<QueueDescription>,
    /// True when more queues follow.
    pub more: bool,
}

impl Verb for List {
    const OPCODE: u16 = 19;
    const CHANGES: bool = false;
    type Answer = Listed;
}

const FIELD_PATTERN: u8 = 1;
const FIELD_AFTER: u8 = 2;

impl Payload for List {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.limit);
        if let Some(pattern) = &self.pattern {
            put_field(out, FIELD_PATTERN, |out| out.put_slice(pattern.as_bytes()));
        }
        if let Some(after) = &self.after {
            put_field(out, FIELD_AFTER, |out| out.put_slice(after.as_str().as_bytes()));
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let mut list = Self { pattern: None, after: None, limit: input.u32("limit")? };
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                FIELD_PATTERN => {
                    let length = value.left();
                    if length > PATTERN_BYTES_MAX {
                        let reason =
                            format!("{length} bytes are over the limit of {PATTERN_BYTES_MAX}");
                        return Err(DecodeError::value("pattern", reason));
                    }
                    list.pattern = Some(utf8("pattern", &value.rest())?);
                }
                FIELD_AFTER => {
                    list.after = Some(queue_name_of_field("after", &mut value)?);
                }
                _ => {}
            }
        }
        Ok(list)
    }
}

impl Payload for Listed {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.more));
        out.put_u32_le(self.queues.len() as u32);
        for queue in &self.queues {
            put_field(out, 0, |out| queue.encode(out));
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let more = input.flag("more")?;
        let count = input.count_up_to(PAGE_MAX, "number of queues", 5)?;
        let mut queues = Vec::with_capacity(count);
        for _ in 0..count {
            let Some((_, mut queue)) = input.field()? else {
                return Err(DecodeError::value("queues", "fewer than announced"));
            };
            queues.push(QueueDescription::decode(&mut queue)?);
        }
        skip_fields(input)?;
        Ok(Self { queues, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_over_its_limit_is_refused_with_the_limit() {
        let decode = |length| {
            let list = List { pattern: Some("*".repeat(length)), after: None, limit: 1 };
            let mut out = BytesMut::new();
            list.encode(&mut out);
            List::decode(&mut Reader::new(out.freeze()))
        };
        assert_eq!(decode(256).unwrap().pattern.unwrap().len(), 256);
        let error = decode(257).unwrap_err().to_string();
        assert_eq!(error, "pattern: 257 bytes are over the limit of 256");
    }
}
