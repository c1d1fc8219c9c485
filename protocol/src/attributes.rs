//! Attributes and statistics of a queue.

use bytes::{BufMut, BytesMut};

use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// The value of an attribute that sets no limit.
pub const UNLIMITED: u64 = u64::MAX;

/// Declares the attributes once: field, tag on the wire, name in commands, default, range, unit.
macro_rules! attributes {
    ($($(#[doc = $doc:literal])+ $field:ident = $tag:literal, $name:literal, $default:expr, $least:expr, $most:expr, $unit:ident;)+) => {
        /// The attributes of a queue, all known.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Attributes { $($(#[doc = $doc])+ pub $field: u64,)+ }

        /// Attributes that a request gives; those not given keep their value or default.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct AttributeChanges { $($(#[doc = $doc])+ pub $field: Option<u64>,)+ }

        /// Name, unit and range of an attribute.
        pub const SPECS: &[AttributeSpec] = &[$(AttributeSpec {
            tag: $tag, name: $name, default: $default, least: $least, most: $most, unit: Unit::$unit,
        },)+];

        impl Default for Attributes {
            fn default() -> Self { Self { $($field: $default,)+ } }
        }

        impl Attributes {
            /// Name and value of each, in the order of [`SPECS`].
            pub fn values(&self) -> Vec<(&'static AttributeSpec, u64)> {
                SPECS.iter().zip([$(self.$field,)+]).collect()
            }

            /// With `changes` applied.
            #[must_use]
            pub fn changed(&self, changes: &AttributeChanges) -> Self {
                Self { $($field: changes.$field.unwrap_or(self.$field),)+ }
            }
        }

        impl AttributeChanges {
            /// Name and value of each, `None` where it is not given, in the order of [`SPECS`].
            pub fn values(&self) -> Vec<(&'static AttributeSpec, Option<u64>)> {
                SPECS.iter().zip([$(self.$field,)+]).collect()
            }
        }

        impl Payload for AttributeChanges {
            fn encode(&self, out: &mut BytesMut) {
                $(if let Some(value) = self.$field {
                    put_field(out, $tag, |out| out.put_u64_le(value));
                })+
            }

            fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
                let mut changes = Self::default();
                while let Some((tag, mut value)) = input.field()? {
                    match tag {
                        $($tag => changes.$field = Some(value.u64($name)?),)+
                        _ => {}
                    }
                }
                Ok(changes)
            }
        }

        impl From<&Attributes> for AttributeChanges {
            fn from(attributes: &Attributes) -> Self {
                Self { $($field: Some(attributes.$field),)+ }
            }
        }
    };
}

/// What a value counts, which decides how it is read and printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Messages.
    Messages,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// A choice of [`OVERFLOW_NAMES`].
    Overflow,
}

/// Name, default and range of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttributeSpec {
    /// Tag on the wire.
    pub tag: u8,
    /// As in `qctl create --NAME`.
    pub name: &'static str,
    /// Value of a queue created without it.
    pub default: u64,
    /// Smallest value.
    pub least: u64,
    /// Largest value; [`UNLIMITED`] is allowed besides where it is the default.
    pub most: u64,
    /// What it counts.
    pub unit: Unit,
}

impl AttributeSpec {
    /// True when the attribute may have `value`.
    pub fn allows(&self, value: u64) -> bool {
        (self.least..=self.most).contains(&value)
            || (value == UNLIMITED && self.default == UNLIMITED)
    }
}

attributes! {
    /// Most live messages (ready, delayed and leased); 1 to 2^63, or [`UNLIMITED`].
    max_messages = 1, "max-messages", UNLIMITED, 1, 1 << 63, Messages;
    /// Most bytes of live messages, bodies and headers; 1 to 2^63, or [`UNLIMITED`].
    max_bytes = 2, "max-bytes", UNLIMITED, 1, 1 << 63, Bytes;
    /// Largest message, body and headers; 0 to 16 MiB.
    max_message_size = 3, "max-message-size", 1 << 20, 0, crate::MESSAGE_BYTES_MAX, Bytes;
    /// How long a lease lasts unless the receive says otherwise; 0 to 365 days (as 0, the
    /// message is visible again at once).
    visibility_timeout_ms = 4, "visibility-timeout", 30_000, 0, VISIBILITY_TIMEOUT_MS_MAX, Milliseconds;
    /// Most leased messages; 1 to 2^63, or [`UNLIMITED`]. At the limit a receive finds nothing,
    /// unless it deletes what it receives.
    max_in_flight = 5, "max-in-flight", UNLIMITED, 1, 1 << 63, Messages;
    /// How long a message is not visible after it is sent, unless it comes with a time of its
    /// own; 0 to 100 years.
    delay_ms = 6, "delay", 0, 0, DELAY_MS_MAX, Milliseconds;
    /// How long after it was sent a message is removed, wherever it is; a leased one when its
    /// lease is over. 1 ms to 100 years, or [`UNLIMITED`]: never.
    retention_ms = 7, "retention", UNLIMITED, 1, DELAY_MS_MAX, Milliseconds;
    /// What happens to a message that comes when the queue is full: [`OVERFLOW_REJECT`] or
    /// [`OVERFLOW_DROP_OLDEST`].
    overflow = 13, "overflow", OVERFLOW_REJECT, OVERFLOW_REJECT, OVERFLOW_DROP_OLDEST, Overflow;
}

/// A message that does not fit is refused with `queue_full`.
pub const OVERFLOW_REJECT: u64 = 0;
/// The oldest ready or delayed messages are removed, and counted as dropped, until it fits.
pub const OVERFLOW_DROP_OLDEST: u64 = 1;
/// The names of the choices for `overflow`, by their numbers.
pub const OVERFLOW_NAMES: [&str; 2] = ["reject", "drop-oldest"];

/// Longest visibility timeout, and longest extension of a lease at once: 365 days. Far above any
/// use, far below overflow.
pub const VISIBILITY_TIMEOUT_MS_MAX: u64 = 365 * 24 * 3_600_000;

/// Longest delay of a queue, of a message and of a release, longest retention and longest time to
/// live: 100 years of 365 days.
pub const DELAY_MS_MAX: u64 = 100 * 365 * 24 * 3_600_000;

/// Declares the statistics once: field, tag on the wire, name in JSON.
macro_rules! statistics {
    ($($(#[doc = $doc:literal])+ $field:ident = $tag:literal;)+) => {
        /// Exact counters of a queue.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Statistics { $($(#[doc = $doc])+ pub $field: u64,)+ }

        impl Statistics {
            /// Tag on the wire and name of each, in order.
            pub const SPECS: &[(u8, &str)] = &[$(($tag, stringify!($field)),)+];

            /// Name and value of each, in order.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)+]
            }
        }

        impl Payload for Statistics {
            fn encode(&self, out: &mut BytesMut) {
                $(put_field(out, $tag, |out| out.put_u64_le(self.$field));)+
            }

            fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
                let mut statistics = Self::default();
                while let Some((tag, mut value)) = input.field()? {
                    match tag {
                        $($tag => statistics.$field = value.u64(stringify!($field))?,)+
                        _ => {}
                    }
                }
                Ok(statistics)
            }
        }
    };
}

statistics! {
    /// Messages visible and held by nobody; at `max-in-flight` a receive gets none of them.
    ready = 1;
    /// Messages not visible yet.
    delayed = 2;
    /// Messages held by a consumer.
    leased = 3;
    /// Bytes of live messages, bodies and headers.
    bytes = 4;
    /// Age of the oldest live message in whole seconds; 0 when there is none.
    oldest_age_s = 5;
    /// Messages accepted since the queue was created.
    sent = 6;
    /// Deliveries since the queue was created, repeated ones included.
    received = 7;
    /// Messages deleted by a consumer, or discarded.
    deleted = 8;
    /// Messages removed because their time was over.
    expired = 9;
    /// Messages removed to make room.
    dropped = 10;
    /// Messages moved to the dead-letter queue.
    dead_lettered = 11;
    /// Deliveries with an attempt above 1: those before that were released uncounted do not
    /// make one.
    redelivered = 12;
}

/// A queue as `list` and `describe` show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDescription {
    /// Its name.
    pub name: QueueName,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// All of them.
    pub attributes: Attributes,
    /// At the moment of the answer.
    pub statistics: Statistics,
}

impl Payload for QueueDescription {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.name.as_str());
        out.put_u64_le(self.created_at_ms);
        put_field(out, 1, |out| AttributeChanges::from(&self.attributes).encode(out));
        put_field(out, 2, |out| self.statistics.encode(out));
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let name = queue_name(input)?;
        let created_at_ms = input.u64("creation time")?;
        let mut attributes = Attributes::default();
        let mut statistics = Statistics::default();
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                1 => attributes = attributes.changed(&AttributeChanges::decode(&mut value)?),
                2 => statistics = Statistics::decode(&mut value)?,
                _ => {}
            }
        }
        Ok(Self { name, created_at_ms, attributes, statistics })
    }
}

/// Reads a short string that must be a queue name.
pub(crate) fn queue_name(input: &mut Reader) -> Result<QueueName, DecodeError> {
    QueueName::new(input.string("queue name")?)
        .map_err(|error| DecodeError::value("queue name", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_survives_the_wire() {
        let description = QueueDescription {
            name: QueueName::new("jobs").unwrap(),
            created_at_ms: 17,
            attributes: Attributes { max_messages: 5, ..Attributes::default() },
            statistics: Statistics { ready: 1, redelivered: 9, ..Statistics::default() },
        };
        let mut out = BytesMut::new();
        description.encode(&mut out);
        assert_eq!(QueueDescription::decode(&mut Reader::new(out.freeze())), Ok(description));
    }

    #[test]
    fn every_default_is_within_its_range() {
        for (spec, value) in Attributes::default().values() {
            assert!(spec.allows(value), "{}", spec.name);
            assert_eq!(spec.default, value);
        }
    }

    #[test]
    fn every_overflow_has_its_name() {
        let spec = SPECS.iter().find(|spec| spec.unit == Unit::Overflow).unwrap();
        assert_eq!((spec.least, spec.most), (0, OVERFLOW_NAMES.len() as u64 - 1));
        assert_eq!(OVERFLOW_NAMES[OVERFLOW_REJECT as usize], "reject");
        assert_eq!(OVERFLOW_NAMES[OVERFLOW_DROP_OLDEST as usize], "drop-oldest");
    }
}
