//! Primitive values on the wire.
//!
//! Integers are little-endian. A short string is a `u16` length and that many bytes of UTF-8.
//! Optional fields stand at the end of a structure: each is a `u8` tag, a `u32` length and the
//! value; a reader skips tags it does not know.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended inside the named field.
    #[error("the input ends inside {field}: {needed} bytes needed, {left} left")]
    Short {
        /// What was being read.
        field: &'static str,
        /// Bytes that the field needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Bytes are left over behind a complete structure.
    #[error("{left} bytes are left over behind {what}")]
    Trailing {
        /// The structure that was complete.
        what: &'static str,
        /// Bytes left over.
        left: usize,
    },
    /// A value is not one that the field may have.
    #[error("{field}: {reason}")]
    Value {
        /// What was being read.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// More entries than a request or answer may have.
    #[error("{field}: {count} is over the limit of {maximum}")]
    TooMany {
        /// What was being read.
        field: &'static str,
        /// Announced.
        count: u32,
        /// Allowed.
        maximum: u32,
    },
    /// No verb has this opcode.
    #[error("unknown opcode {0}")]
    UnknownOpcode(u16),
}

impl DecodeError {
    /// A [`DecodeError::Value`].
    pub fn value(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Value { field, reason: reason.into() }
    }
}

/// Reads primitive values off the front of a buffer; bodies are slices of it, not copies.
#[derive(Debug, Clone)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Reads from the start of `input`.
    pub fn new(input: Bytes) -> Self {
        Self { rest: input }
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    fn need(&self, field: &'static str, needed: usize) -> Result<(), DecodeError> {
        let left = self.rest.len();
        if left < needed {
            return Err(DecodeError::Short { field, needed, left });
        }
        Ok(())
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.need(field, 1)?;
        Ok(self.rest.get_u8())
    }

    /// A `u16`.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.need(field, 2)?;
        Ok(self.rest.get_u16_le())
    }

    /// A `u32`.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.need(field, 4)?;
        Ok(self.rest.get_u32_le())
    }

    /// A `u64`.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.need(field, 8)?;
        Ok(self.rest.get_u64_le())
    }

    /// A byte that must be 0 or 1.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::value(field, format!("{other} is neither 0 nor 1"))),
        }
    }

    /// The next `length` bytes, without a copy.
    pub fn bytes(&mut self, field: &'static str, length: usize) -> Result<Bytes, DecodeError> {
        self.need(field, length)?;
        Ok(self.rest.split_to(length))
    }

    /// A short string: `u16` length, then UTF-8.
    pub fn string(&mut self, field: &'static str) -> Result<String, DecodeError> {
        let length = usize::from(self.u16(field)?);
        let bytes = self.bytes(field, length)?;
        utf8(field, &bytes)
    }

    /// A count of entries that each take at least `entry_bytes_min` bytes of what is left, so
    /// that room for them may be reserved without trusting the sender.
    pub fn count(
        &mut self,
        field: &'static str,
        entry_bytes_min: usize,
    ) -> Result<usize, DecodeError> {
        let count = self.u32(field)? as usize;
        self.need(field, count.saturating_mul(entry_bytes_min))?;
        Ok(count)
    }

    /// A [`Reader::count`] that is at most `maximum`, so that what is made of the entries is not
    /// many times what was received either.
    pub fn count_up_to(
        &mut self,
        maximum: u32,
        field: &'static str,
        entry_bytes_min: usize,
    ) -> Result<usize, DecodeError> {
        let count = self.count(field, entry_bytes_min)?;
        if count > maximum as usize {
            return Err(DecodeError::TooMany { field, count: count as u32, maximum });
        }
        Ok(count)
    }

    /// The next optional field, or `None` at the end.
    pub fn field(&mut self) -> Result<Option<(u8, Reader)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.u8("optional field's tag")?;
        let length = self.u32("optional field's length")? as usize;
        let value = self.bytes("optional field", length)?;
        Ok(Some((tag, Reader::new(value))))
    }

    /// Everything that is left, without a copy.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// Checks that nothing is left over behind `what`.
    pub fn end(&self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing { what, left }),
        }
    }
}

/// `bytes` as text.
pub fn utf8(field: &'static str, bytes: &[u8]) -> Result<String, DecodeError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| DecodeError::value(field, "is not UTF-8"))
}

/// Appends a short string, cut at a character boundary below 64 KiB.
pub fn put_string(out: &mut BytesMut, text: &str) {
    let mut length = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    out.put_u16_le(length as u16);
    out.put_slice(text.as_bytes().get(..length).unwrap_or_default());
}

/// Appends an optional field; `value` writes its content.
pub fn put_field(out: &mut BytesMut, tag: u8, value: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32_le(0);
    value(out);
    let length = (out.len() - at - 4) as u32;
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// A structure that has one encoding on the wire.
pub trait Payload: Sized {
    /// Appends the encoding.
    fn encode(&self, out: &mut BytesMut);
    /// Reads the structure, leaving nothing of it behind.
    fn decode(input: &mut Reader) -> Result<Self, DecodeError>;
}
