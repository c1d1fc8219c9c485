//! Values of attributes, and how each kind looks on the wire.
//!
//! Always true here: what is made of a value takes no more memory than a small multiple of the
//! bytes received, and a value that this kind of attribute cannot have is a [`DecodeError`].

use bytes::{BufMut, BytesMut};

use crate::name::QueueName;
use crate::wire::{DecodeError, Reader, utf8};

/// What the name of a queue gets behind it for its default dead-letter queue.
pub const DEAD_LETTER_SUFFIX: &str = ".dead";

/// Most characters in the name of a queue whose dead-letter queue is the default one, so that the
/// name of that one stays well below the limit for names.
pub const SOURCE_NAME_CHARACTERS_MAX: usize = 120;

/// The value of any attribute, for comparing, checking and showing all of them alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number; of a flag 0 or 1.
    Number(u64),
    /// Where dead letters go.
    DeadLetter(DeadLetter),
    /// Numbers in order.
    List(Vec<u64>),
}

/// Where the dead letters of a queue go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DeadLetter {
    /// To the queue with its own name and [`DEAD_LETTER_SUFFIX`], made when first needed.
    #[default]
    Default,
    /// Nowhere: no message of it becomes a dead letter.
    None,
    /// To this queue.
    Queue(QueueName),
}

impl DeadLetter {
    /// The queue that the dead letters of `source` go to; `None` when there is none, also because
    /// the name of the default one would be too long.
    pub fn queue_of(&self, source: &QueueName) -> Option<QueueName> {
        match self {
            Self::Default => QueueName::new(format!("{source}{DEAD_LETTER_SUFFIX}")).ok(),
            Self::None => None,
            Self::Queue(queue) => Some(queue.clone()),
        }
    }
}

/// A type of attributes.
pub(super) trait Attribute: Sized {
    /// Appends the content of the attribute's optional field.
    fn put(&self, out: &mut BytesMut);
    /// Reads all of the content of the attribute's optional field.
    fn read(name: &'static str, input: &mut Reader) -> Result<Self, DecodeError>;
    /// The value among those of all types.
    fn to_value(&self) -> Value;
    /// The other way round; `None`: it is of another type.
    fn of_value(value: Value) -> Option<Self>;
}

/// `u64`.
impl Attribute for u64 {
    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(*self);
    }

    fn read(name: &'static str, input: &mut Reader) -> Result<Self, DecodeError> {
        let value = input.u64(name)?;
        input.end(name)?;
        Ok(value)
    }

    fn to_value(&self) -> Value {
        Value::Number(*self)
    }

    fn of_value(value: Value) -> Option<Self> {
        if let Value::Number(number) = value { Some(number) } else { None }
    }
}

/// `u64` 0 or 1.
impl Attribute for bool {
    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(u64::from(*self));
    }

    fn read(name: &'static str, input: &mut Reader) -> Result<Self, DecodeError> {
        match u64::read(name, input)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::value(name, format!("{other} is neither 0 nor 1"))),
        }
    }

    fn to_value(&self) -> Value {
        Value::Number(u64::from(*self))
    }

    fn of_value(value: Value) -> Option<Self> {
        match value {
            Value::Number(0) => Some(false),
            Value::Number(1) => Some(true),
            _ => None,
        }
    }
}

/// `u8` 0 the default, 1 none, or 2 and the bytes of a queue's name.
impl Attribute for DeadLetter {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Default => out.put_u8(0),
            Self::None => out.put_u8(1),
            Self::Queue(queue) => {
                out.put_u8(2);
                out.put_slice(queue.as_str().as_bytes());
            }
        }
    }

    fn read(name: &'static str, input: &mut Reader) -> Result<Self, DecodeError> {
        let dead_letter = match input.u8(name)? {
            0 => Self::Default,
            1 => Self::None,
            2 => {
                let queue = QueueName::new(utf8(name, &input.rest())?);
                Self::Queue(queue.map_err(|error| DecodeError::value(name, error.to_string()))?)
            }
            other => return Err(DecodeError::value(name, format!("kind {other} is not 0 to 2"))),
        };
        input.end(name)?;
        Ok(dead_letter)
    }

    fn to_value(&self) -> Value {
        Value::DeadLetter(self.clone())
    }

    fn of_value(value: Value) -> Option<Self> {
        if let Value::DeadLetter(dead_letter) = value { Some(dead_letter) } else { None }
    }
}

/// `u64` each, to the end.
impl Attribute for Vec<u64> {
    fn put(&self, out: &mut BytesMut) {
        for member in self {
            out.put_u64_le(*member);
        }
    }

    fn read(name: &'static str, input: &mut Reader) -> Result<Self, DecodeError> {
        let members = (0..input.left() / 8).map(|_| input.u64(name)).collect::<Result<_, _>>()?;
        input.end(name)?;
        Ok(members)
    }

    fn to_value(&self) -> Value {
        Value::List(self.clone())
    }

    fn of_value(value: Value) -> Option<Self> {
        if let Value::List(members) = value { Some(members) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<A: Attribute>(bytes: &'static [u8]) -> Result<A, DecodeError> {
        A::read("attribute", &mut Reader::new(bytes::Bytes::from_static(bytes)))
    }

    #[test]
    fn default_dead_letter_queue_is_named_after_its_source() {
        let name = |name: &str| QueueName::new(name).unwrap();
        let longest = name(&"x".repeat(123));
        assert_eq!(DeadLetter::Default.queue_of(&name("jobs")), Some(name("jobs.dead")));
        assert!(DeadLetter::Default.queue_of(&longest).is_some());
        assert_eq!(DeadLetter::Default.queue_of(&name(&"x".repeat(124))), None);
        assert_eq!(DeadLetter::None.queue_of(&longest), None);
        let other = DeadLetter::Queue(name("other"));
        assert_eq!(other.queue_of(&name(&"x".repeat(128))), Some(name("other")));
    }

    #[test]
    fn values_that_no_such_attribute_has_are_refused() {
        assert_eq!(read::<bool>(&[1, 0, 0, 0, 0, 0, 0, 0]), Ok(true));
        assert!(read::<bool>(&[2, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(read::<bool>(&[1]).is_err());
        assert!(read::<u64>(&[1, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert_eq!(read::<DeadLetter>(&[1]), Ok(DeadLetter::None));
        for bad in [&b""[..], &[3], &[0, 0], &[1, b'a'], &[2], &[2, b'/'], &[2, 0xff]] {
            assert!(read::<DeadLetter>(bad).is_err(), "{bad:?}");
        }
        assert_eq!(read::<Vec<u64>>(&[]), Ok(Vec::new()));
        assert!(read::<Vec<u64>>(&[0; 9]).is_err());
        assert_eq!(read::<Vec<u64>>(&[0; 16]), Ok(vec![0, 0]));
    }
}
