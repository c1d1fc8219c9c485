//! `purge`: removes the messages of a queue.
//!
//! ```text
//! request: queue, u8 dry run, optional fields: 1 older than, in ms (u64), 2 one header (u16 length
//!          of the key, key, value), any number of times, 3 after (u64), 4 through (u64)
//! answer:  u64 messages, u64 skipped, u64 last, u64 through, u8 more
//! ```
//!
//! Without fields 1 and 2 all messages are removed in one step, leased ones too: their receipts are
//! expired, and the dedup ids and the turns of the groups are forgotten. It is answered at once,
//! with no more to come; the space is freed little by little.
//!
//! With field 1 or 2 only messages that match are removed, and leased ones are passed over. One
//! request looks at a bounded number of messages, so that a client repeats it, with `after` and
//! `through` of the answer, while there are more: each is carried out as a whole, all together are
//! not one step.

use bytes::{BufMut, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::attributes::queue_name;
use crate::message::Headers;
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// Most headers that one request compares.
pub const PURGE_HEADERS_MAX: usize = 16;

/// Removes messages of a queue; they count as deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// Their queue.
    pub queue: QueueName,
    /// Only messages that were sent at least this many ms ago; 0 to
    /// [`crate::attributes::DELAY_MS_MAX`].
    pub older_than_ms: Option<u64>,
    /// Only messages with all of these headers; at most [`PURGE_HEADERS_MAX`].
    pub headers: Headers,
    /// Change nothing, and tell what would be removed.
    pub dry_run: bool,
    /// Ids up to this one are passed over; 0: none. Only with a filter.
    pub after: u64,
    /// Ids above this one are passed over; 0: those above the newest one now. Only with a filter.
    pub through: u64,
}

impl Purge {
    /// True when not all messages are meant.
    pub fn is_filtered(&self) -> bool {
        self.older_than_ms.is_some() || !self.headers.0.is_empty()
    }
}

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// Messages removed; of a dry run those that would be.
    pub messages: u64,
    /// Messages that match and stay because they are leased; without a filter none does.
    pub skipped: u64,
    /// Id of the last message looked at: `after` of the next request. 0 without a
    /// filter.
    pub last: u64,
    /// `through` of the next request. 0 without a filter.
    pub through: u64,
    /// True when there are messages behind `last`, up to `through`; never without a filter.
    pub more: bool,
}

impl Verb for Purge {
    const OPCODE: u16 = 41;
    const CHANGES: bool = true;
    type Answer = Purged;
}

const FIELD_OLDER_THAN: u8 = 1;
const FIELD_HEADER: u8 = 2;
const FIELD_AFTER: u8 = 3;
const FIELD_THROUGH: u8 = 4;

impl Payload for Purge {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u8(u8::from(self.dry_run));
        if let Some(ms) = self.older_than_ms {
            put_field(out, FIELD_OLDER_THAN, |out| out.put_u64_le(ms));
        }
        self.headers.put_fields(FIELD_HEADER, out);
        for (tag, id) in [(FIELD_AFTER, self.after), (FIELD_THROUGH, self.through)] {
            if id > 0 {
                put_field(out, tag, |out| out.put_u64_le(id));
            }
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let dry_run = input.flag("dry run")?;
        let headers = Headers::default();
        let mut purge = Self { queue, older_than_ms: None, headers, dry_run, after: 0, through: 0 };
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                FIELD_OLDER_THAN => purge.older_than_ms = Some(value.u64("older than")?),
                FIELD_HEADER => purge.headers.read_compared(PURGE_HEADERS_MAX, &mut value)?,
                FIELD_AFTER => purge.after = value.u64("after")?,
                FIELD_THROUGH => purge.through = value.u64("through")?,
                _ => {}
            }
        }
        Ok(purge)
    }
}

impl Payload for Purged {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.messages);
        out.put_u64_le(self.skipped);
        out.put_u64_le(self.last);
        out.put_u64_le(self.through);
        out.put_u8(u8::from(self.more));
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let purged = Self {
            messages: input.u64("messages purged")?,
            skipped: input.u64("messages skipped")?,
            last: input.u64("last id")?,
            through: input.u64("through")?,
            more: input.flag("more")?,
        };
        skip_fields(input)?;
        Ok(purged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purge(headers: usize) -> Purge {
        Purge {
            queue: QueueName::new("jobs").unwrap(),
            older_than_ms: None,
            headers: Headers(vec![("k".to_owned(), "v".to_owned()); headers]),
            dry_run: false,
            after: 0,
            through: 0,
        }
    }

    #[test]
    fn headers_to_compare_are_bounded() {
        let decoded = |count: usize| {
            let mut out = BytesMut::new();
            purge(count).encode(&mut out);
            Purge::decode(&mut Reader::new(out.freeze()))
        };
        assert_eq!(decoded(16), Ok(purge(16)));
        assert!(decoded(17).unwrap_err().to_string().contains("more than 16"));
    }

    #[test]
    fn an_age_of_nothing_is_a_filter_and_a_place_is_none() {
        assert!(purge(1).is_filtered());
        assert!(Purge { older_than_ms: Some(0), ..purge(0) }.is_filtered());
        assert!(!purge(0).is_filtered());
        assert!(!Purge { dry_run: true, after: 1, through: 2, ..purge(0) }.is_filtered());
    }
}
