//! The bytes of one record.
//!
//! ```text
//! offset  bytes  field, little-endian
//!      0      4  length of the payload
//!      4      4  CRC-32C over: u64 epoch of the segment, then all that follows this field
//!      8      8  sequence number
//!     16      8  segment known to be on disk when this was written, up to
//!     24      4  this offset
//!     28      4  CRC-32C of the record before it
//!     32      -  payload, then zeros up to a multiple of 8 (not in the check sum)
//! ```
//!
//! The length stands before the check sum but is part of it, behind the epoch.

use super::Position;

/// Bytes of a record before its payload.
pub(super) const HEADER_BYTES: usize = 32;
/// Where a header has the segment that was known to be on disk.
pub(super) const SYNCED_AT: u64 = 16;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

/// What stands before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of payload.
    pub length: u32,
    /// Check sum of the record.
    pub crc: u32,
    /// Consecutive.
    pub sequence: u64,
    /// All before this place was on disk when the record was written.
    pub synced: Position,
    /// Check sum of the record before it.
    pub previous: u32,
}

/// Bytes of a record with `payload` bytes.
pub(super) fn record_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGNMENT)
}

impl Header {
    /// Reads a header.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let u32_at = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Self {
            length: u32_at(0),
            crc: u32_at(4),
            sequence: u64_at(8),
            synced: Position { segment: u64_at(16), offset: u64::from(u32_at(24)) },
            previous: u32_at(28),
        }
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.crc.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.synced.segment.to_le_bytes());
        bytes[24..28].copy_from_slice(&(self.synced.offset as u32).to_le_bytes());
        bytes[28..].copy_from_slice(&self.previous.to_le_bytes());
        bytes
    }

    /// The check sum that a record with this header and `payload` must have.
    pub fn check_sum(self, epoch: u64, payload: &[u8]) -> u32 {
        let header = self.to_bytes();
        let crc = crc32c::crc32c(&epoch.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &header[..4]);
        let crc = crc32c::crc32c_append(crc, &header[8..]);
        crc32c::crc32c_append(crc, payload)
    }
}

/// Appends a record; returns its check sum.
pub(super) fn put(
    out: &mut Vec<u8>,
    epoch: u64,
    (sequence, synced, previous): (u64, Position, u32),
    payload: &[u8],
) -> u32 {
    let mut header = Header { length: payload.len() as u32, crc: 0, sequence, synced, previous };
    header.crc = header.check_sum(epoch, payload);
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    header.crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_its_bytes_and_no_bit_of_a_record_may_change() {
        let synced = Position { segment: 5, offset: 77 };
        let mut out = Vec::new();
        let crc = put(&mut out, 9, (3, synced, 4), b"hello");
        assert_eq!(out.len(), record_bytes(5));
        let header = Header::from_bytes(out[..HEADER_BYTES].try_into().unwrap());
        assert_eq!(header, Header { length: 5, crc, sequence: 3, synced, previous: 4 });
        assert_eq!(header.check_sum(9, b"hello"), crc);
        assert_ne!(header.check_sum(8, b"hello"), crc);
        for bit in 0..(HEADER_BYTES + 5) * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let header = Header::from_bytes(bad[..HEADER_BYTES].try_into().unwrap());
            assert_ne!(header.check_sum(9, &bad[HEADER_BYTES..HEADER_BYTES + 5]), header.crc);
        }
    }

    #[test]
    fn zeros_are_no_record() {
        let header = Header::from_bytes(&[0; HEADER_BYTES]);
        assert_ne!(header.check_sum(1, b""), header.crc);
    }
}
