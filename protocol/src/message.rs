//! Parts of a message: body, headers, its place in the order, and where a dead letter came from.

mod dead_letter;
mod properties;

use bytes::{BufMut, Bytes, BytesMut};

pub use dead_letter::{DeadLettered, HOPS_MAX, Reason, without_dead_letters};
pub use properties::{Properties, TEXT_BYTES_MAX};

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
        self.put_fields(FIELD_HEADER, &mut out);
        out.freeze()
    }

    /// Those among the stored optional fields of a message.
    pub fn of(fields: &Bytes) -> Result<Self, DecodeError> {
        let mut headers = Self::default();
        let mut fields = Reader::new(fields.clone());
        while let Some((tag, mut value)) = fields.field()? {
            if tag == FIELD_HEADER {
                headers.read_field(&mut value)?;
            }
        }
        Ok(headers)
    }

    /// Whether stored `fields` of a message hold a header with this key and value.
    pub fn stored_have(fields: &Bytes, key: &str, value: &str) -> Result<bool, DecodeError> {
        let mut fields = Reader::new(fields.clone());
        while let Some((tag, mut field)) = fields.field()? {
            if tag == FIELD_HEADER {
                let length = usize::from(field.u16("header's key")?);
                let same_key = field.bytes("header's key", length)? == key.as_bytes();
                if same_key && field.rest() == value.as_bytes() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Appends one optional field with `tag` a header: `u16` length of the key, key, value.
    pub(crate) fn put_fields(&self, tag: u8, out: &mut BytesMut) {
        for (key, value) in &self.0 {
            put_field(out, tag, |out| {
                // A key longer than a u16 is refused by `SendEntry::check` before it gets here. Where
                // headers are compared it may get here, and still no message has such a header: key
                // and value together stay over `HEADERS_BYTES_MAX`.
                out.put_u16_le(key.len() as u16);
                out.put_slice(key.as_bytes());
                out.put_slice(value.as_bytes());
            });
        }
    }

    /// Reads the value of one header field of a request that compares up to `maximum` headers.
    pub(crate) fn read_compared(
        &mut self,
        maximum: usize,
        value: &mut Reader,
    ) -> Result<(), DecodeError> {
        if self.0.len() >= maximum {
            let reason = format!("there are more than {maximum}");
            return Err(DecodeError::value("headers to compare", reason));
        }
        self.read_field(value)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_headers_are_found_by_key_and_value() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let fields = Headers(vec![pair("a", "1"), pair("b", ""), pair("a", "2")]).to_fields();
        let have = |key, value| Headers::stored_have(&fields, key, value).unwrap();
        assert!(have("a", "1") && have("a", "2") && have("b", ""));
        assert!(!have("a", "") && !have("b", "1") && !have("a1", "") && !have("", "a1"));
        assert_eq!(Headers::stored_have(&Bytes::new(), "a", "1"), Ok(false));
        for length in 1..fields.len() {
            let _ = Headers::stored_have(&fields.slice(..length), "x", "x");
        }
        assert!(Headers::stored_have(&fields.slice(..3), "x", "x").is_err());
    }
}
