//! Refusals: why a request, or one entry of it, was not carried out.
//!
//! A refusal has a stable number, a class that says what the caller can do, whether a repeat can
//! help, and where a limit is involved its name, current and maximum value. Numbers are never
//! reused.

use bytes::{BufMut, BytesMut};

use crate::wire::{DecodeError, Payload, Reader, put_field, put_string, utf8};

/// What the caller can do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The request is wrong as it stands.
    FixRequest,
    /// The caller may not do this.
    NotAllowed,
    /// A limit is reached.
    LimitReached,
    /// The same request may succeed later.
    TryAgain,
    /// What the request names is not there (any more).
    Gone,
}

impl Class {
    /// As printed in JSON and on the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::FixRequest => "fix-request",
            Self::NotAllowed => "not-allowed",
            Self::LimitReached => "limit-reached",
            Self::TryAgain => "try-again",
            Self::Gone => "gone",
        }
    }

    fn number(self) -> u8 {
        self as u8
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::NotAllowed,
            2 => Self::LimitReached,
            3 => Self::TryAgain,
            4 => Self::Gone,
            // A class that a newer server knows: nothing to be done but to change the request.
            _ => Self::FixRequest,
        }
    }
}

/// Declares the codes once: number, class, retryable.
macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $class:ident, $retryable:literal;)+) => {
        /// The stable error numbers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $variant,)+
            /// A number that a newer server knows.
            Unknown(u16),
        }

        impl ErrorCode {
            /// Every code that this release knows.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)+ Self::Unknown(number) => number }
            }

            /// The code of a number.
            pub fn from_number(number: u16) -> Self {
                match number { $($number => Self::$variant,)+ other => Self::Unknown(other) }
            }

            /// The name in JSON and on the page.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ Self::Unknown(_) => "unknown" }
            }

            /// What the caller can do.
            pub fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)+ Self::Unknown(_) => Class::FixRequest }
            }

            /// Whether the same request may succeed later.
            pub fn retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)+ Self::Unknown(_) => false }
            }
        }
    };
}

error_codes! {
    /// The payload does not decode.
    MalformedRequest = 1, "malformed_request", FixRequest, false;
    /// The opcode names no verb of this version.
    UnknownVerb = 2, "unknown_verb", FixRequest, false;
    /// The frame is over the server's limit; the connection is closed.
    FrameTooLarge = 3, "frame_too_large", LimitReached, false;
    /// More entries than a batch may hold.
    BatchTooLarge = 4, "batch_too_large", LimitReached, false;
    /// The request number was answered before and the answer is no longer kept.
    AnswerForgotten = 5, "answer_forgotten", Gone, false;
    /// The first frame was not hello, or hello came twice.
    HelloExpected = 6, "hello_expected", FixRequest, false;
    /// No queue has this name.
    NoSuchQueue = 10, "no_such_queue", Gone, false;
    /// The queue exists with other attributes.
    QueueExists = 11, "queue_exists", FixRequest, false;
    /// The queue holds messages, and what was asked for can only be done to an empty one.
    QueueNotEmpty = 12, "queue_not_empty", FixRequest, false;
    /// The value of an attribute, or of a time, group or dedup id in the request, is outside its
    /// range.
    AttributeOutOfRange = 13, "attribute_out_of_range", FixRequest, false;
    /// The queue was dropped while the request waited.
    QueueDropped = 14, "queue_dropped", Gone, false;
    /// Attributes contradict each other, or dead-letter queues would lead round in a circle.
    AttributesConflict = 15, "attributes_conflict", FixRequest, false;
    /// What is to be done in one step spans queues that live on different shards.
    DifferentShards = 16, "different_shards", FixRequest, false;
    /// `max-messages` or `max-bytes` is reached.
    QueueFull = 20, "queue_full", LimitReached, true;
    /// The message is over the queue's `max-message-size` or `max-bytes`.
    MessageTooLarge = 21, "message_too_large", LimitReached, false;
    /// The headers are over 64 KiB in all.
    HeadersTooLarge = 22, "headers_too_large", LimitReached, false;
    /// The body does not have the CRC-32C that came with it.
    BodyCorrupt = 23, "body_corrupt", FixRequest, true;
    /// The queue holds no message with this id (any more).
    NoSuchMessage = 24, "no_such_message", Gone, false;
    /// The message is leased: until that is over, only its receipt can change it.
    MessageLeased = 25, "message_leased", TryAgain, true;
    /// The queue has no dead-letter queue: delete or release the message.
    NoDeadLetter = 26, "no_dead_letter", FixRequest, false;
    /// A message that is sent to an ordered queue has a priority, which has no meaning there.
    PriorityOnOrdered = 27, "priority_on_ordered", FixRequest, false;
    /// The messages of an atomic step for one queue are over its `max-messages` or `max-bytes` by
    /// themselves.
    StepTooLarge = 28, "step_too_large", LimitReached, false;
    /// The lease of this receipt is over; the message may be with somebody else.
    ReceiptExpired = 30, "receipt_expired", Gone, false;
    /// No lease ever had this receipt.
    ReceiptInvalid = 31, "receipt_invalid", FixRequest, false;
    /// The receipt belongs to a message of another queue.
    ReceiptOfOtherQueue = 32, "receipt_of_other_queue", FixRequest, false;
    /// The server is shutting down.
    Closing = 40, "closing", TryAgain, true;
    /// The server keeps the rest of its disk in reserve: sends wait until there is room.
    DiskLow = 42, "disk_low", TryAgain, true;
    /// The request was ended by a cancel frame.
    Cancelled = 41, "cancelled", TryAgain, true;
    /// A fault inside the server.
    Internal = 50, "internal", TryAgain, false;
}

impl ErrorCode {
    /// A refusal with this code, to be completed by the `with_` methods.
    pub fn refuse(self, text: impl Into<String>) -> Refusal {
        Refusal {
            code: self,
            class: self.class(),
            retryable: self.retryable(),
            text: text.into(),
            queue: None,
            limit: None,
        }
    }
}

/// The limit that a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The attribute or setting, as in `qctl create --max-messages`: `max-messages`.
    pub name: String,
    /// Value now, or asked for.
    pub current: u64,
    /// Largest value allowed.
    pub maximum: u64,
}

/// Why a request, or one entry of it, was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Stable number.
    pub code: ErrorCode,
    /// What the caller can do; from the server, so that it is known for an unknown code too.
    pub class: Class,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// One line for people, without a full stop.
    pub text: String,
    /// The queue concerned.
    pub queue: Option<String>,
    /// The limit concerned.
    pub limit: Option<Limit>,
}

impl Refusal {
    /// Names the queue.
    #[must_use]
    pub fn with_queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Names the limit.
    #[must_use]
    pub fn with_limit(mut self, name: &str, current: u64, maximum: u64) -> Self {
        self.limit = Some(Limit { name: name.to_owned(), current, maximum });
        self
    }
}

const FIELD_QUEUE: u8 = 1;
const FIELD_LIMIT: u8 = 2;

impl Payload for Refusal {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.code.number());
        out.put_u8(self.class.number());
        out.put_u8(u8::from(self.retryable));
        put_string(out, &self.text);
        if let Some(queue) = &self.queue {
            put_field(out, FIELD_QUEUE, |out| out.put_slice(queue.as_bytes()));
        }
        if let Some(limit) = &self.limit {
            put_field(out, FIELD_LIMIT, |out| {
                out.put_u64_le(limit.current);
                out.put_u64_le(limit.maximum);
                out.put_slice(limit.name.as_bytes());
            });
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let code = ErrorCode::from_number(input.u16("error number")?);
        let class = Class::from_number(input.u8("error class")?);
        let retryable = input.flag("retryable")?;
        let text = input.string("error text")?;
        let mut refusal = Self { code, class, retryable, text, queue: None, limit: None };
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                FIELD_QUEUE => refusal.queue = Some(utf8("queue", &value.rest())?),
                FIELD_LIMIT => {
                    let current = value.u64("limit's current value")?;
                    let maximum = value.u64("limit's maximum")?;
                    let name = utf8("limit's name", &value.rest())?;
                    refusal.limit = Some(Limit { name, current, maximum });
                }
                _ => {}
            }
        }
        Ok(refusal)
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        let text = error.to_string();
        match error {
            DecodeError::UnknownOpcode(_) => ErrorCode::UnknownVerb.refuse(text),
            DecodeError::TooMany { count, maximum, .. } => {
                let (count, maximum) = (u64::from(count), u64::from(maximum));
                ErrorCode::BatchTooLarge.refuse(text).with_limit("batch", count, maximum)
            }
            DecodeError::Short { .. }
            | DecodeError::Trailing { .. }
            | DecodeError::Value { .. } => ErrorCode::MalformedRequest.refuse(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_survive_the_wire() {
        let mut seen = std::collections::BTreeSet::new();
        let mut names = std::collections::BTreeSet::new();
        for &code in ErrorCode::ALL {
            assert!(seen.insert(code.number()), "{} twice", code.number());
            assert!(names.insert(code.name()), "{} twice", code.name());
            assert_eq!(ErrorCode::from_number(code.number()), code);
            let refusal =
                code.refuse("because").with_queue("jobs").with_limit("max-messages", 10, 11);
            let mut out = BytesMut::new();
            refusal.encode(&mut out);
            assert_eq!(Refusal::decode(&mut Reader::new(out.freeze())), Ok(refusal));
        }
    }

    #[test]
    fn unknown_fields_of_a_refusal_are_skipped() {
        let refusal = ErrorCode::Closing.refuse("closing");
        let mut out = BytesMut::new();
        refusal.encode(&mut out);
        put_field(&mut out, 99, |out| out.put_slice(b"from the future"));
        assert_eq!(Refusal::decode(&mut Reader::new(out.freeze())), Ok(refusal));
    }
}
