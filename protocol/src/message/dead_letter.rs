//! Where a dead letter came from, and why.
//!
//! It travels as an optional field of the message, one for each time that the message became a
//! dead letter, the last one at the end:
//!
//! ```text
//! field 16: u64 id in the source, u64 sent at, u32 attempts, u64 first delivered, u64 last
//!           delivered (ms since 1970 UTC; 0: never), u8 reason (0 max-deliveries, 1 rejected,
//!           2 expired, 3 overflow), short string source; of a rejection its text, to the end
//! ```
//!
//! Always true here: stored fields that are damaged are a [`DecodeError`], and never panic.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::attributes::queue_name;
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string, utf8};

/// Tag of a dead letter's origin among a message's optional fields. Only the server writes it:
/// of a message that is sent, unknown fields are dropped.
const FIELD_DEAD_LETTERED: u8 = 16;

/// Where a dead letter came from, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLettered {
    /// The queue that it was in, the source.
    pub queue: QueueName,
    /// Its id there.
    pub id: u64,
    /// When it was sent there, ms since 1970-01-01 UTC.
    pub sent_at_ms: u64,
    /// Its deliveries there that count.
    pub attempts: u32,
    /// When it was first delivered there, ms since 1970-01-01 UTC; 0: never.
    pub first_delivered_ms: u64,
    /// When it was last delivered there, ms since 1970-01-01 UTC; 0: never.
    pub last_delivered_ms: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It was delivered as often as `max-deliveries` says.
    MaxDeliveries,
    /// A consumer rejected it, with this text of at most [`crate::verbs::reject::REASON_BYTES_MAX`]
    /// bytes.
    Rejected(String),
    /// Its time was over, and its queue has `dead-letter-expired`.
    Expired,
    /// It had to make room, and its queue has `dead-letter-overflow`.
    Overflow,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxDeliveries => f.write_str("max-deliveries"),
            Self::Rejected(text) => write!(f, "rejected: {text}"),
            Self::Expired => f.write_str("expired"),
            Self::Overflow => f.write_str("overflow"),
        }
    }
}

impl Reason {
    fn number(&self) -> u8 {
        match self {
            Self::MaxDeliveries => 0,
            Self::Rejected(_) => 1,
            Self::Expired => 2,
            Self::Overflow => 3,
        }
    }
}

/// Most times that a message remembers how it became a dead letter; then the oldest is forgotten.
/// Each takes some 1.3 KiB at most.
pub const HOPS_MAX: usize = 8;

impl DeadLettered {
    /// Stored `fields` of a message with this behind them, so that it is the newest.
    pub fn appended_to(&self, fields: &Bytes) -> Result<Bytes, DecodeError> {
        let mut rest = Reader::new(fields.clone());
        let mut hops = 0;
        while let Some((tag, _)) = rest.field()? {
            hops += usize::from(tag == FIELD_DEAD_LETTERED);
        }
        let forgotten = (hops + 1).saturating_sub(HOPS_MAX);
        let mut out = BytesMut::from(&without_oldest(fields, forgotten)?[..]);
        put_field(&mut out, FIELD_DEAD_LETTERED, |out| self.encode(out));
        Ok(out.freeze())
    }

    /// The newest one in stored `fields` of a message; `None` where it is no dead letter.
    pub fn newest(fields: &Bytes) -> Result<Option<Self>, DecodeError> {
        let mut fields = Reader::new(fields.clone());
        let mut newest = None;
        while let Some((tag, value)) = fields.field()? {
            if tag == FIELD_DEAD_LETTERED {
                newest = Some(value);
            }
        }
        newest.map(|mut value| Self::decode(&mut value)).transpose()
    }
}

/// Stored `fields` of a message as they were before it became a dead letter for the first time.
pub fn without_dead_letters(fields: &Bytes) -> Result<Bytes, DecodeError> {
    without_oldest(fields, usize::MAX)
}

/// Stored `fields` without the `most` oldest hops.
fn without_oldest(fields: &Bytes, most: usize) -> Result<Bytes, DecodeError> {
    let mut rest = Reader::new(fields.clone());
    let mut out = BytesMut::with_capacity(fields.len());
    let mut left = most;
    while let Some((tag, mut value)) = rest.field()? {
        if tag == FIELD_DEAD_LETTERED && left > 0 {
            left -= 1;
        } else {
            put_field(&mut out, tag, |out| out.put_slice(&value.rest()));
        }
    }
    Ok(if left == most { fields.clone() } else { out.freeze() })
}

impl Payload for DeadLettered {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.id);
        out.put_u64_le(self.sent_at_ms);
        out.put_u32_le(self.attempts);
        out.put_u64_le(self.first_delivered_ms);
        out.put_u64_le(self.last_delivered_ms);
        out.put_u8(self.reason.number());
        put_string(out, self.queue.as_str());
        if let Reason::Rejected(text) = &self.reason {
            out.put_slice(text.as_bytes());
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let id = input.u64("id in the source")?;
        let sent_at_ms = input.u64("sent at")?;
        let attempts = input.u32("attempts")?;
        let first_delivered_ms = input.u64("first delivered")?;
        let last_delivered_ms = input.u64("last delivered")?;
        let reason = input.u8("reason")?;
        let queue = queue_name(input)?;
        let text = input.rest();
        let reason = match reason {
            0 => Reason::MaxDeliveries,
            1 => Reason::Rejected(utf8("reason", &text)?),
            2 => Reason::Expired,
            3 => Reason::Overflow,
            other => return Err(DecodeError::value("reason", format!("{other} is not 0 to 3"))),
        };
        Ok(Self { queue, id, sent_at_ms, attempts, first_delivered_ms, last_delivered_ms, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;

    fn dead(queue: &str, reason: Reason) -> DeadLettered {
        DeadLettered {
            queue: QueueName::new(queue).unwrap(),
            id: 7,
            sent_at_ms: 100,
            attempts: 3,
            first_delivered_ms: 200,
            last_delivered_ms: 300,
            reason,
        }
    }

    fn headers() -> Headers {
        Headers(vec![("key".to_owned(), "value".to_owned())])
    }

    #[test]
    fn last_hop_is_the_newest_and_all_can_be_taken_off() {
        let plain = headers().to_fields();
        assert_eq!(DeadLettered::newest(&plain), Ok(None));
        assert_eq!(without_dead_letters(&plain), Ok(plain.clone()));
        let hops = [
            dead("jobs", Reason::Rejected("no such customer".to_owned())),
            dead("jobs.dead", Reason::MaxDeliveries),
            dead("third", Reason::Rejected(String::new())),
            dead("fourth", Reason::Expired),
            dead("fifth", Reason::Overflow),
        ];
        let mut fields = plain.clone();
        for hop in hops {
            fields = hop.appended_to(&fields).unwrap();
            assert_eq!(DeadLettered::newest(&fields), Ok(Some(hop)));
            assert_eq!(without_dead_letters(&fields), Ok(plain.clone()));
            assert_eq!(Headers::stored_have(&fields, "key", "value"), Ok(true));
        }
    }

    #[test]
    fn message_remembers_a_bounded_number_of_hops() {
        let mut fields = headers().to_fields();
        for number in 0..HOPS_MAX + 3 {
            fields = dead(&format!("q{number}"), Reason::Expired).appended_to(&fields).unwrap();
        }
        let newest = DeadLettered::newest(&fields).unwrap().unwrap();
        assert_eq!(newest.queue.as_str(), format!("q{}", HOPS_MAX + 2));
        let one = dead("q10", Reason::Expired).appended_to(&Bytes::new()).unwrap().len();
        assert!(fields.len() <= headers().to_fields().len() + HOPS_MAX * one);
        assert_eq!(without_dead_letters(&fields), Ok(headers().to_fields()));
    }

    #[test]
    fn reasons_are_shown_as_on_the_page() {
        assert_eq!(Reason::MaxDeliveries.to_string(), "max-deliveries");
        assert_eq!(Reason::Rejected("x: y".to_owned()).to_string(), "rejected: x: y");
        assert_eq!(Reason::Expired.to_string(), "expired");
        assert_eq!(Reason::Overflow.to_string(), "overflow");
    }

    #[test]
    fn damaged_fields_are_an_error_or_other_fields_and_never_panic() {
        let fields = dead("jobs", Reason::Rejected("x".to_owned()));
        let fields = fields.appended_to(&headers().to_fields()).unwrap();
        for at in 0..fields.len() {
            let cut = fields.slice(..at);
            let whole = at == 0 || at == headers().to_fields().len();
            assert_eq!(DeadLettered::newest(&cut).is_err(), !whole, "cut at {at}");
            assert_eq!(without_dead_letters(&cut).is_err(), !whole, "cut at {at}");
            let mut changed = fields.to_vec();
            changed[at] ^= 0xff;
            let changed = Bytes::from(changed);
            let _ = DeadLettered::newest(&changed);
            let _ = without_dead_letters(&changed);
        }
        let mut out = BytesMut::new();
        dead("jobs", Reason::Overflow).encode(&mut out);
        out[36] = 4;
        assert!(DeadLettered::decode(&mut Reader::new(out.freeze())).is_err());
    }
}
