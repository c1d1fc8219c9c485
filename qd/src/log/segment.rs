//! A segment: its header, and reading its records.
//!
//! ```text
//! offset  bytes  field, little-endian
//!      0      8  "qd log\r\n"
//!      8      4  format number (1)
//!     12      4  CRC-32C of all that follows
//!     16      8  number, as in the file's name
//!     24      8  node
//!     32      8  epoch
//!     40      8  sequence number of its first record
//!     48      4  CRC-32C of the record before that, in the segment before
//! ```
//!
//! The same again at 4096, on another block: one of the two may be damaged. Records begin at 8192.
//!
//! # Changing the format
//!
//! 1. Raise [`FORMAT`].
//! 2. Change the layout here or in `record`, with its page.
//! 3. Before 1.0 the way from one format to the next is dump and load; say so in the CHANGELOG.

use memchr::memmem;

use super::files::LogFile;
use super::record::{ALIGNMENT, HEADER_BYTES, Header, SYNCED_AT, record_bytes};
use super::{LogError, Position, Result, io};

/// Number of the format of segments and records.
pub const FORMAT: u32 = 1;
/// Where records begin.
pub(super) const DATA_AT: u64 = 8192;
/// Distance of the two copies of the header.
const COPY_AT: u64 = 4096;
/// Bytes of a header.
const BYTES: usize = 52;
const MAGIC: &[u8; 8] = b"qd log\r\n";
/// What is read of a segment at once.
const READ_BYTES: usize = 1 << 20;

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub number: u64,
    pub node: u64,
    /// Random; part of the check sum of each record.
    pub epoch: u64,
    /// Sequence number of its first record.
    pub first: u64,
    /// Check sum of the record before that one.
    pub previous: u32,
}

/// The name of segment `number`.
pub(super) fn name(number: u64) -> String {
    format!("{number:016}.segment")
}

/// The number in the name of a segment.
pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".segment").filter(|digits| digits.len() == 16)?.parse().ok()
}

impl SegmentHeader {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        for (at, number) in [self.number, self.node, self.epoch, self.first].iter().enumerate() {
            bytes[16 + 8 * at..24 + 8 * at].copy_from_slice(&number.to_le_bytes());
        }
        bytes[48..].copy_from_slice(&self.previous.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `Ok(None)`: these bytes are no whole header. `Err`: one of another format.
    fn from_bytes(bytes: &[u8; BYTES]) -> std::result::Result<Option<Self>, u32> {
        let u32_at = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..8] != MAGIC[..] {
            return Ok(None);
        }
        if u32_at(8) != FORMAT {
            return Err(u32_at(8));
        }
        if crc32c::crc32c(&bytes[16..]) != u32_at(12) {
            return Ok(None);
        }
        Ok(Some(Self {
            number: u64_at(16),
            node: u64_at(24),
            epoch: u64_at(32),
            first: u64_at(40),
            previous: u32_at(48),
        }))
    }

    /// Writes both copies.
    pub fn write(self, file: &dyn LogFile) -> std::io::Result<()> {
        let mut block = [0; COPY_AT as usize + BYTES];
        block[..BYTES].copy_from_slice(&self.to_bytes());
        block[COPY_AT as usize..].copy_from_slice(&self.to_bytes());
        file.write_at(0, &block)
    }

    /// Reads the header of the file `name`; `None`: it was never written whole.
    pub fn read(file: &dyn LogFile, name: &str) -> Result<Option<Self>> {
        let mut other = None;
        for at in [0, COPY_AT] {
            let mut bytes = [0; BYTES];
            if file.read_at(at, &mut bytes).map_err(io("read", name))? < BYTES {
                continue;
            }
            match Self::from_bytes(&bytes) {
                Ok(Some(header)) => return Ok(Some(header)),
                Ok(None) => {}
                Err(found) => other = Some(found),
            }
        }
        match other {
            Some(found) => Err(LogError::Format { file: name.to_owned(), found }),
            None => Ok(None),
        }
    }
}

/// Reads the records of one segment, front to back.
pub(super) struct SegmentReader<'a> {
    file: &'a dyn LogFile,
    name: &'a str,
    header: SegmentHeader,
    length: u64,
    /// Where the next record begins.
    pub offset: u64,
    /// Its sequence number.
    pub sequence: u64,
    /// The check sum of the record before it.
    pub previous: u32,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    buffer_at: u64,
}

impl<'a> SegmentReader<'a> {
    pub fn new(file: &'a dyn LogFile, name: &'a str, header: SegmentHeader) -> Result<Self> {
        let length = file.length().map_err(io("read", name))?;
        let (sequence, previous) = (header.first, header.previous);
        let (offset, buffer, buffer_at) = (DATA_AT, Vec::new(), DATA_AT);
        Ok(Self { file, name, header, length, offset, sequence, previous, buffer, buffer_at })
    }

    /// The place of the next record.
    pub fn position(&self) -> Position {
        Position { segment: self.header.number, offset: self.offset }
    }

    /// Bytes of the file from `at`, as many as there are up to `bytes`.
    fn bytes(&mut self, at: u64, bytes: usize) -> Result<&[u8]> {
        let start = at.checked_sub(self.buffer_at).map(|start| start as usize);
        if start.is_none_or(|start| start + bytes > self.buffer.len()) {
            let left = self.length.saturating_sub(at) as usize;
            self.buffer.resize(bytes.max(READ_BYTES).min(left), 0);
            let read = self.file.read_at(at, &mut self.buffer).map_err(io("read", self.name))?;
            self.buffer.truncate(read);
            self.buffer_at = at;
        }
        let start = (at - self.buffer_at) as usize;
        Ok(&self.buffer[start..self.buffer.len().min(start + bytes)])
    }

    /// The record at `at` if there is a whole one there that `may_be` meant, and how long it is in
    /// the file.
    fn record_at(
        &mut self,
        at: u64,
        may_be: impl Fn(&Header) -> bool,
    ) -> Result<Option<(Header, usize)>> {
        let epoch = self.header.epoch;
        let left = self.length.saturating_sub(at);
        let Some(header) = self.bytes(at, HEADER_BYTES)?.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::from_bytes(header);
        let length = header.length as usize;
        if (HEADER_BYTES + length) as u64 > left || !may_be(&header) {
            return Ok(None);
        }
        let whole = self.bytes(at, HEADER_BYTES + length)?;
        let good = whole.get(HEADER_BYTES..HEADER_BYTES + length);
        let good = good.is_some_and(|payload| header.check_sum(epoch, payload) == header.crc);
        Ok(good.then_some((header, record_bytes(length))))
    }

    /// The payload of the next record; `None`: there is no good one.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let at = self.offset;
        let (sequence, previous) = (self.sequence, self.previous);
        let is_next = |header: &Header| (header.sequence, header.previous) == (sequence, previous);
        let Some((header, length)) = self.record_at(at, is_next)? else {
            return Ok(None);
        };
        let whole = self.bytes(at, HEADER_BYTES + header.length as usize)?;
        let payload = whole[HEADER_BYTES..].to_vec();
        self.offset += length as u64;
        self.sequence += 1;
        self.previous = header.crc;
        Ok(Some(payload))
    }

    /// True when the next record was begun: what stands there is its header, if not all of it.
    pub fn is_begun(&mut self) -> Result<bool> {
        let (at, next) = (self.offset, (self.sequence, self.previous));
        let header = self.bytes(at, HEADER_BYTES)?.first_chunk::<HEADER_BYTES>();
        let header = header.map(Header::from_bytes);
        Ok(header.is_some_and(|header| (header.sequence, header.previous) == next))
    }

    /// Where behind the next record a good one says that the next one was on disk; `None`:
    /// nowhere, so that the log may have been torn here.
    pub fn find_proof(&mut self) -> Result<Option<u64>> {
        let (torn, sequence) = (self.position(), self.sequence);
        // Whatever proves it names this segment as that which was synced: a search for its number
        // passes over nearly all of what is here.
        let needle = torn.segment.to_le_bytes();
        let mut from = self.offset + ALIGNMENT as u64 + SYNCED_AT;
        while from + needle.len() as u64 <= self.length {
            let window = self.bytes(from, READ_BYTES)?;
            let Some(found) = memmem::find(window, &needle) else {
                from += (window.len().saturating_sub(needle.len()) + 1) as u64;
                continue;
            };
            let at = from + found as u64 - SYNCED_AT;
            from += found as u64 + 1;
            // Looked at before the check sum: bytes that look like a header announce any length.
            let here = Position { offset: at, ..torn };
            let is_proof = |header: &Header| {
                header.sequence > sequence && torn < header.synced && header.synced <= here
            };
            if at.is_multiple_of(ALIGNMENT as u64) && self.record_at(at, is_proof)?.is_some() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_its_bytes_and_no_other_bit() {
        let header = SegmentHeader { number: 1, node: 2, epoch: 3, first: 4, previous: 5 };
        let bytes = header.to_bytes();
        assert_eq!(SegmentHeader::from_bytes(&bytes), Ok(Some(header)));
        for bit in 0..BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(SegmentHeader::from_bytes(&bad), Ok(Some(header)), "bit {bit}");
        }
        assert_eq!(SegmentHeader::from_bytes(&[0; BYTES]), Ok(None));
    }

    #[test]
    fn names_carry_their_numbers() {
        assert_eq!(number(&name(7)), Some(7));
        for other in ["7.segment", "lock", "000000000000000x.segment", ""] {
            assert_eq!(number(other), None);
        }
    }
}
