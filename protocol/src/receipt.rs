//! Receipts: the opaque proof of one lease of one message.
//!
//! On the wire a receipt is 32 bytes: queue number, lease number, message id and the lease's
//! random secret, each a `u64`. As text it is the four numbers, big-endian, and the CRC-32C of those
//! 32 bytes, big-endian too, in base64url without padding: 48 characters, so that a mistyped receipt
//! is told from a stale one without the server. The first byte is the highest of a queue number,
//! which is 0 for ever, so that no receipt looks like a flag of a command.

use std::fmt;

use bytes::{Buf, BufMut, BytesMut};

use crate::wire::{DecodeError, Payload, Reader};

/// Bytes on the wire.
pub const RECEIPT_BYTES: usize = 32;
/// Characters of the text form.
pub const RECEIPT_CHARACTERS: usize = 48;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Proof of one lease of one message. Clients keep it whole; its fields are the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    /// Number of the queue, never reused, so that it also names the queue's incarnation.
    pub queue: u64,
    /// Number of the lease within its queue.
    pub lease: u64,
    /// Id of the message.
    pub id: u64,
    /// Random secret of the lease.
    pub secret: u64,
}

/// A text that never was a receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a receipt: {reason}")]
pub struct ReceiptError {
    /// The text, cut after 60 characters.
    pub text: String,
    /// What is wrong.
    pub reason: &'static str,
}

impl Payload for Receipt {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.queue);
        out.put_u64_le(self.lease);
        out.put_u64_le(self.id);
        out.put_u64_le(self.secret);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            queue: input.u64("receipt")?,
            lease: input.u64("receipt")?,
            id: input.u64("receipt")?,
            secret: input.u64("receipt")?,
        })
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = BytesMut::with_capacity(RECEIPT_BYTES + 4);
        for number in [self.queue, self.lease, self.id, self.secret] {
            bytes.put_u64(number);
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.put_u32(crc);
        for group in bytes.chunks_exact(3) {
            let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
            for shift in [18, 12, 6, 0] {
                let digit = (bits >> shift & 63) as usize;
                let character = ALPHABET.get(digit).copied().unwrap_or(b'?');
                write!(f, "{}", char::from(character))?;
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        let error =
            |reason| ReceiptError { text: text.chars().take(60).collect::<String>(), reason };
        if text.len() != RECEIPT_CHARACTERS {
            return Err(error("a receipt has 48 characters"));
        }
        let mut bytes = BytesMut::with_capacity(RECEIPT_BYTES + 4);
        for group in text.as_bytes().chunks_exact(4) {
            let mut bits = 0u32;
            for character in group {
                let digit = ALPHABET.iter().position(|known| known == character);
                let digit = digit.ok_or_else(|| error("a receipt has only A-Z a-z 0-9 - _"))?;
                bits = bits << 6 | digit as u32;
            }
            bytes.put_uint(u64::from(bits), 3);
        }
        let expected = bytes.get(..RECEIPT_BYTES).map(crc32c::crc32c);
        let mut next = || bytes.try_get_u64().map_err(|_| error("it is cut short"));
        let receipt = Self { queue: next()?, lease: next()?, id: next()?, secret: next()? };
        if bytes.try_get_u32().ok() != expected {
            return Err(error("its check sum does not fit"));
        }
        Ok(receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: Receipt = Receipt { queue: 1, lease: 2, id: u64::MAX, secret: 0x0123_4567 };

    #[test]
    fn text_form_round_trips_and_never_starts_like_a_flag() {
        let text = EXAMPLE.to_string();
        assert_eq!(text.len(), RECEIPT_CHARACTERS);
        assert_eq!(text.parse(), Ok(EXAMPLE));
        for queue in 0..=0xffff {
            let text = Receipt { queue, ..EXAMPLE }.to_string();
            assert!(text.starts_with('A'), "{text}");
        }
    }

    #[test]
    fn any_one_changed_character_is_noticed() {
        let text = EXAMPLE.to_string();
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert!(other.parse::<Receipt>().is_err(), "{other}");
        }
    }

    #[test]
    fn garbage_is_told_from_a_receipt() {
        for garbage in ["", "x", "é".repeat(24).as_str(), " ".repeat(48).as_str()] {
            assert!(garbage.parse::<Receipt>().is_err(), "{garbage:?}");
        }
    }
}
