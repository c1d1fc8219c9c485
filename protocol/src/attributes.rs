//! Attributes and statistics of a queue.

mod value;

use bytes::{BufMut, BytesMut};

use value::Attribute;
pub use value::{DEAD_LETTER_SUFFIX, DeadLetter, SOURCE_NAME_CHARACTERS_MAX, Value};

use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string, utf8};

/// The value of an attribute that sets no limit.
pub const UNLIMITED: u64 = u64::MAX;

/// Declares the attributes once: field and type, tag on the wire, name in commands, default, least,
/// most, whether it may be unlimited besides, unit.
macro_rules! attributes {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $tag:literal, $name:literal, $default:expr, $least:expr, $most:expr, $unlimited:literal, $unit:ident;)+) => {
        /// The attributes of a queue, all known.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Attributes { $($(#[doc = $doc])+ pub $field: $type,)+ }

        /// Attributes that a request gives; those not given keep their value or default.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct AttributeChanges { $($(#[doc = $doc])+ pub $field: Option<$type>,)+ }

        /// Name, unit and range of an attribute.
        pub const SPECS: &[AttributeSpec] = &[$(AttributeSpec {
            tag: $tag, name: $name, least: $least, most: $most, unlimited: $unlimited,
            unit: Unit::$unit,
        },)+];

        impl Default for Attributes {
            fn default() -> Self { Self { $($field: $default,)+ } }
        }

        impl Attributes {
            /// Name and value of each, in the order of [`SPECS`].
            pub fn values(&self) -> Vec<(&'static AttributeSpec, Value)> {
                SPECS.iter().zip([$(self.$field.to_value(),)+]).collect()
            }

            /// With `changes` applied.
            #[must_use]
            pub fn changed(&self, changes: &AttributeChanges) -> Self {
                Self { $($field: changes.$field.as_ref().unwrap_or(&self.$field).clone(),)+ }
            }
        }

        impl AttributeChanges {
            /// Gives the attribute with this tag a value. False, and nothing done, when there is none
            /// or it is of another type.
            pub fn set(&mut self, tag: u8, value: Value) -> bool {
                match tag {
                    $($tag => Attribute::of_value(value)
                        .map(|value| self.$field = Some(value))
                        .is_some(),)+
                    _ => false,
                }
            }

            /// Name and value of each, `None` where it is not given, in the order of [`SPECS`].
            pub fn values(&self) -> Vec<(&'static AttributeSpec, Option<Value>)> {
                SPECS.iter().zip([$(self.$field.as_ref().map(Attribute::to_value),)+]).collect()
            }
        }

        impl Payload for AttributeChanges {
            fn encode(&self, out: &mut BytesMut) {
                $(if let Some(value) = &self.$field {
                    put_field(out, $tag, |out| value.put(out));
                })+
            }

            fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
                let mut changes = Self::default();
                while let Some((tag, mut value)) = input.field()? {
                    match tag {
                        $($tag => changes.$field = Some(Attribute::read($name, &mut value)?),)+
                        _ => {}
                    }
                }
                Ok(changes)
            }
        }

        impl From<&Attributes> for AttributeChanges {
            fn from(attributes: &Attributes) -> Self {
                Self { $($field: Some(attributes.$field.clone()),)+ }
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
    /// Milliseconds; of a list each member.
    Milliseconds,
    /// Deliveries of one message.
    Deliveries,
    /// A choice of [`OVERFLOW_NAMES`].
    Overflow,
    /// 0, no, or 1, yes.
    Flag,
    /// A [`DeadLetter`], which has no range.
    DeadLetter,
}

/// Name and range of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttributeSpec {
    /// Tag on the wire.
    pub tag: u8,
    /// As in `qctl create --NAME`.
    pub name: &'static str,
    /// Smallest value; of a list smallest member.
    pub least: u64,
    /// Largest value; of a list largest member.
    pub most: u64,
    /// True when [`UNLIMITED`] is allowed besides.
    pub unlimited: bool,
    /// What it counts.
    pub unit: Unit,
}

impl AttributeSpec {
    /// True when the attribute may have `value`. A list has 1 to [`LIST_MEMBERS_MAX`] members.
    pub fn allows(&self, value: &Value) -> bool {
        let within = |number: &u64| {
            (self.least..=self.most).contains(number) || (*number == UNLIMITED && self.unlimited)
        };
        match value {
            Value::Number(number) => within(number),
            Value::DeadLetter(_) => true,
            Value::List(members) => {
                (1..=LIST_MEMBERS_MAX).contains(&members.len()) && members.iter().all(within)
            }
        }
    }
}

attributes! {
    /// Most live messages (ready, delayed and leased); 1 to 2^63, or [`UNLIMITED`].
    max_messages: u64 = 1, "max-messages", UNLIMITED, 1, 1 << 63, true, Messages;
    /// Most bytes of live messages, bodies and headers; 1 to 2^63, or [`UNLIMITED`].
    max_bytes: u64 = 2, "max-bytes", UNLIMITED, 1, 1 << 63, true, Bytes;
    /// Largest message, body and headers; 0 to 16 MiB.
    max_message_size: u64 = 3, "max-message-size", 1 << 20, 0, crate::MESSAGE_BYTES_MAX, false, Bytes;
    /// How long a lease lasts unless the receive says otherwise; 0 to 365 days (as 0, the
    /// message is visible again at once).
    visibility_timeout_ms: u64 = 4, "visibility-timeout", 30_000, 0, VISIBILITY_TIMEOUT_MS_MAX, false, Milliseconds;
    /// Most leased messages; 1 to 2^63, or [`UNLIMITED`]. At the limit a receive finds nothing,
    /// unless it deletes what it receives.
    max_in_flight: u64 = 5, "max-in-flight", UNLIMITED, 1, 1 << 63, true, Messages;
    /// How long a message is not visible after it is sent, unless it comes with a time of its
    /// own; 0 to 100 years.
    delay_ms: u64 = 6, "delay", 0, 0, DELAY_MS_MAX, false, Milliseconds;
    /// How long after it was sent a message is removed, wherever it is; a leased one when its
    /// lease is over. 1 ms to 100 years, or [`UNLIMITED`]: never.
    retention_ms: u64 = 7, "retention", UNLIMITED, 1, DELAY_MS_MAX, true, Milliseconds;
    /// A message that comes back with this many attempts is a dead letter; 1 to 1,000,000, or
    /// [`UNLIMITED`]. No effect where there is no dead-letter queue.
    max_deliveries: u64 = 8, "max-deliveries", 16, 1, 1_000_000, true, Deliveries;
    /// Where dead letters go.
    dead_letter: DeadLetter = 9, "dead-letter", DeadLetter::Default, 0, 0, false, DeadLetter;
    /// Whether a message whose time is over is a dead letter, or is removed.
    dead_letter_expired: bool = 10, "dead-letter-expired", false, 0, 1, false, Flag;
    /// Whether a message that must make room is a dead letter, or is removed.
    dead_letter_overflow: bool = 11, "dead-letter-overflow", false, 0, 1, false, Flag;
    /// How long a message is not visible after a counted release that names no delay: the first
    /// member after its first attempt, and so on; the last one repeats. 1 to
    /// [`LIST_MEMBERS_MAX`] members of 0 to 100 years.
    retry_delay_ms: Vec<u64> = 12, "retry-delay", RETRY_DELAY_MS.to_vec(), 0, DELAY_MS_MAX, false, Milliseconds;
    /// What happens to a message that comes when the queue is full: [`OVERFLOW_REJECT`] or
    /// [`OVERFLOW_DROP_OLDEST`].
    overflow: u64 = 13, "overflow", OVERFLOW_REJECT, OVERFLOW_REJECT, OVERFLOW_DROP_OLDEST, false, Overflow;
    /// Whether the messages of a group are delivered strictly in the order of their ids, to one
    /// receive at a time. Changes only while the queue is empty.
    ordered: bool = 14, "ordered", false, 0, 1, false, Flag;
    /// How long after a message with a dedup id another one with the same id is a duplicate; 0, for
    /// no time, to 14 days. A change is for messages sent from then on.
    dedup_window_ms: u64 = 15, "dedup-window", 300_000, 0, DEDUP_WINDOW_MS_MAX, false, Milliseconds;
    /// Whether deliveries are stopped: a receive finds nothing. All else goes on.
    paused: bool = 16, "paused", false, 0, 1, false, Flag;
}

/// Most members of an attribute that is a list.
pub const LIST_MEMBERS_MAX: usize = 16;

/// The retry delays of a queue created without any: 1 s, 5 s, 30 s, 2 min and 10 min.
pub const RETRY_DELAY_MS: [u64; 5] = [1_000, 5_000, 30_000, 120_000, 600_000];

/// A message that does not fit is refused with `queue_full`.
pub const OVERFLOW_REJECT: u64 = 0;
/// The oldest ready or delayed messages are removed, and counted as dropped, until it fits.
pub const OVERFLOW_DROP_OLDEST: u64 = 1;
/// The names of the choices for `overflow`, by their numbers.
pub const OVERFLOW_NAMES: [&str; 2] = ["reject", "drop-oldest"];

/// Most dead-letter queues behind one another.
pub const DEAD_LETTER_CHAIN_MAX: usize = 16;

/// Longest visibility timeout, and longest extension of a lease at once: 365 days. Far above any
/// use, far below overflow.
pub const VISIBILITY_TIMEOUT_MS_MAX: u64 = 365 * 24 * 3_600_000;

/// Longest delay of a queue, of a message and of a release, longest retention and longest time to
/// live: 100 years of 365 days.
pub const DELAY_MS_MAX: u64 = 100 * 365 * 24 * 3_600_000;

/// Longest dedup window: 14 days.
pub const DEDUP_WINDOW_MS_MAX: u64 = 14 * 24 * 3_600_000;

/// Declares the statistics once: field, tag on the wire, name in JSON.
macro_rules! statistics {
    ($($(#[doc = $doc:literal])+ $field:ident = $tag:literal;)+) => {
        /// Exact counters of a queue.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Statistics { $($(#[doc = $doc])+ pub $field: u64,)+ }

        impl Statistics {
            /// Tag on the wire and name of each, in order.
            pub const SPECS: &[(u8, &str)] = &[$(($tag, stringify!($field)),)+];

            /// Appends the values in the order of [`Self::SPECS`], without tags.
            pub(crate) fn put_values(&self, out: &mut BytesMut) {
                $(out.put_u64_le(self.$field);)+
            }

            /// Sets the one with this tag, if there is one.
            pub(crate) fn set(&mut self, tag: u8, value: u64) {
                match tag {
                    $($tag => self.$field = value,)+
                    _ => {}
                }
            }

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
    /// Messages deleted by a consumer, discarded or purged.
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
    /// Messages that wait, delayed, because their dead-letter queue is missing or full; each is
    /// tried again every minute. Part of `delayed`.
    dead_letter_blocked = 13;
    /// Messages that `redrive` moved out of this queue.
    redriven = 14;
    /// Messages that were not stored because one with their dedup id was there before; not part of
    /// `sent`.
    duplicates = 15;
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

/// Reads an optional field whose value is all of a queue's name.
pub(crate) fn queue_name_of_field(
    field: &'static str,
    value: &mut Reader,
) -> Result<QueueName, DecodeError> {
    QueueName::new(utf8(field, &value.rest())?)
        .map_err(|error| DecodeError::value(field, error.to_string()))
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
    fn every_attribute_takes_its_value_and_no_other() {
        let attributes = Attributes { max_messages: 5, paused: true, ..Attributes::default() };
        let mut changes = AttributeChanges::default();
        for (spec, value) in attributes.values() {
            let other = match value {
                Value::DeadLetter(_) => Value::Number(0),
                Value::Number(_) | Value::List(_) => Value::DeadLetter(DeadLetter::None),
            };
            assert!(!changes.set(spec.tag, other), "{}", spec.name);
            assert!(changes.set(spec.tag, value), "{}", spec.name);
        }
        assert_eq!(changes, AttributeChanges::from(&attributes));
        assert!(!changes.set(0, Value::Number(1)));
    }

    #[test]
    fn every_default_is_within_its_range() {
        for (spec, value) in Attributes::default().values() {
            assert!(spec.allows(&value), "{}", spec.name);
        }
    }

    #[test]
    fn every_value_is_held_to_its_range() {
        let spec = |name: &str| SPECS.iter().find(|spec| spec.name == name).unwrap();
        let deliveries = spec("max-deliveries");
        for good in [1, 16, 1_000_000, UNLIMITED] {
            assert!(deliveries.allows(&Value::Number(good)), "{good}");
        }
        for bad in [0, 1_000_001, UNLIMITED - 1] {
            assert!(!deliveries.allows(&Value::Number(bad)), "{bad}");
        }
        let delays = spec("retry-delay");
        for good in [vec![0], vec![DELAY_MS_MAX; LIST_MEMBERS_MAX]] {
            assert!(delays.allows(&Value::List(good.clone())), "{good:?}");
        }
        for bad in [vec![], vec![0; LIST_MEMBERS_MAX + 1], vec![0, DELAY_MS_MAX + 1]] {
            assert!(!delays.allows(&Value::List(bad.clone())), "{bad:?}");
        }
    }

    #[test]
    fn changes_apply_to_values_of_every_type() {
        let changes = AttributeChanges {
            dead_letter: Some(DeadLetter::None),
            dead_letter_expired: Some(true),
            retry_delay_ms: Some(vec![7]),
            ..AttributeChanges::default()
        };
        let attributes = Attributes::default().changed(&changes);
        assert_eq!(attributes.dead_letter, DeadLetter::None);
        assert!(attributes.dead_letter_expired && !attributes.dead_letter_overflow);
        assert_eq!(attributes.retry_delay_ms, [7]);
        assert_eq!(attributes.max_deliveries, 16);
    }

    #[test]
    fn every_overflow_has_its_name() {
        let spec = SPECS.iter().find(|spec| spec.unit == Unit::Overflow).unwrap();
        assert_eq!((spec.least, spec.most), (0, OVERFLOW_NAMES.len() as u64 - 1));
        assert_eq!(OVERFLOW_NAMES[OVERFLOW_REJECT as usize], "reject");
        assert_eq!(OVERFLOW_NAMES[OVERFLOW_DROP_OLDEST as usize], "drop-oldest");
    }
}
