//! Parts of a message: body and headers.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{DecodeError, Reader, put_field, utf8};

/// A body and its CRC-32C, which travels with it from client to disk to client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Any bytes, also none.
    pub bytes: Bytes,
    /// CRC-32C (Castagnoli, RFC 3720) of the bytes.
    pub crc: u32,
}

impl Body {
    /// A body with the check sum of `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let crc = crc32c::crc32c(&bytes);
        Self { bytes, crc }
    }

    /// True when the bytes have the check sum.
    pub fn is_intact(&self) -> bool {
        crc32c::crc32c(&self.bytes) == self.crc
    }
}

/// Headers of a message: pairs of text in the order given; a key may repeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

/// Tag of one header among a message's optional fields.
pub(crate) const FIELD_HEADER: u8 = 1;

impl Headers {
    /// Bytes of keys and values, which count towards sizes and limits.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// The headers as the optional fields of a message, which is how they are stored.
    pub fn to_fields(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.put_fields(&mut out);
        out.freeze()
    }

    /// Appends one optional field a header: `u16` length of the key, key, value.
    pub(crate) fn put_fields(&self, out: &mut BytesMut) {
        for (key, value) in &self.0 {
            put_field(out, FIELD_HEADER, |out| {
                // A key longer than a u16 is refused by `SendEntry::check` before it gets here.
                out.put_u16_le(key.len() as u16);
                out.put_slice(key.as_bytes());
                out.put_slice(value.as_bytes());
            });
        }
    }

    /// Reads the value of one header field.
    pub(crate) fn read_field(&mut self, value: &mut Reader) -> Result<(), DecodeError> {
        let key = value.string("header's key")?;
        if key.is_empty() {
            return Err(DecodeError::value("header's key", "is empty"));
        }
        let text = utf8("header's value", &value.rest())?;
        self.0.push((key, text));
        Ok(())
    }
}
