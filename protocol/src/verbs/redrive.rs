//! `redrive`: moves messages out of a dead-letter queue, back to where they came from or to
//! another queue.
//!
//! ```text
//! request: queue, u64 after, u64 through, u32 most messages, u8 dry run, optional fields:
//!          1 queue to move to (the bytes of its name), 2 one header (u16 length of the key, key,
//!          value), any number of times
//! answer:  u64 moved, u64 skipped, u64 last, u64 through, u8 more, optional fields: 1 refusal
//! ```
//!
//! One request looks at a bounded number of messages, so that a client repeats it, with `after`
//! and `through` of the answer, while there are more. Each is carried out as a whole or not at
//! all; one that is interrupted between two requests has moved what the answers say.

use bytes::{BufMut, BytesMut};

use super::Verb;
use crate::attributes::{queue_name, queue_name_of_field};
use crate::error::Refusal;
use crate::message::Headers;
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// Most messages that one request moves.
pub const REDRIVE_MAX: u32 = 1_000;
/// Most headers that one request compares.
pub const REDRIVE_HEADERS_MAX: usize = 16;

/// Moves messages out of a queue. They get new ids and count as never delivered, and nothing says
/// any more that they were dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// The queue that they are in: as a rule a dead-letter queue.
    pub queue: QueueName,
    /// Where they go; `None`: each to the queue that it came from.
    pub to: Option<QueueName>,
    /// Ids up to this one are passed over; 0: none.
    pub after: u64,
    /// Ids above this one are passed over; 0: those above the newest one now.
    pub through: u64,
    /// Most messages moved, 1 to [`REDRIVE_MAX`].
    pub max: u32,
    /// Only messages with all of these headers; at most [`REDRIVE_HEADERS_MAX`].
    pub headers: Headers,
    /// Change nothing, and tell what would be moved.
    pub dry_run: bool,
}

/// What a redrive did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redriven {
    /// Messages moved; of a dry run those that would be.
    pub moved: u64,
    /// Messages that match and cannot be moved: leased, of unknown source, or their queue is
    /// missing or full.
    pub skipped: u64,
    /// Id of the last message looked at: `after` of the next request.
    pub last: u64,
    /// `through` of the next request.
    pub through: u64,
    /// True when there are messages behind `last`, up to `through`.
    pub more: bool,
    /// Why the first one skipped was.
    pub refusal: Option<Box<Refusal>>,
}

impl Verb for Redrive {
    const OPCODE: u16 = 40;
    const CHANGES: bool = true;
    type Answer = Redriven;
}

const FIELD_TO: u8 = 1;
const FIELD_HEADER: u8 = 2;
const FIELD_REFUSAL: u8 = 1;

impl Payload for Redrive {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u64_le(self.after);
        out.put_u64_le(self.through);
        out.put_u32_le(self.max);
        out.put_u8(u8::from(self.dry_run));
        if let Some(to) = &self.to {
            put_field(out, FIELD_TO, |out| out.put_slice(to.as_str().as_bytes()));
        }
        self.headers.put_fields(FIELD_HEADER, out);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let after = input.u64("after")?;
        let through = input.u64("through")?;
        let max = input.u32("most messages")?;
        let dry_run = input.flag("dry run")?;
        let (mut to, mut headers) = (None, Headers::default());
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                FIELD_TO => to = Some(queue_name_of_field("queue to move to", &mut value)?),
                FIELD_HEADER => headers.read_compared(REDRIVE_HEADERS_MAX, &mut value)?,
                _ => {}
            }
        }
        Ok(Self { queue, to, after, through, max, headers, dry_run })
    }
}

impl Payload for Redriven {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.moved);
        out.put_u64_le(self.skipped);
        out.put_u64_le(self.last);
        out.put_u64_le(self.through);
        out.put_u8(u8::from(self.more));
        if let Some(refusal) = &self.refusal {
            put_field(out, FIELD_REFUSAL, |out| refusal.encode(out));
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let mut redriven = Self {
            moved: input.u64("messages moved")?,
            skipped: input.u64("messages skipped")?,
            last: input.u64("last id")?,
            through: input.u64("through")?,
            more: input.flag("more")?,
            refusal: None,
        };
        while let Some((tag, mut value)) = input.field()? {
            if tag == FIELD_REFUSAL {
                redriven.refusal = Some(Box::new(Refusal::decode(&mut value)?));
            }
        }
        Ok(redriven)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_to_compare_are_bounded() {
        let decoded = |count: usize| {
            let redrive = Redrive {
                queue: QueueName::new("jobs.dead").unwrap(),
                to: None,
                after: 0,
                through: 0,
                max: 1,
                headers: Headers(vec![("k".to_owned(), "v".to_owned()); count]),
                dry_run: false,
            };
            let mut out = BytesMut::new();
            redrive.encode(&mut out);
            Redrive::decode(&mut Reader::new(out.freeze()))
        };
        assert_eq!(decoded(16).map(|redrive| redrive.headers.0.len()), Ok(16));
        assert!(decoded(17).is_err());
    }
}
