//! Chunks: many messages in one immutable row.
//!
//! ```text
//! u8 layout (1), u8 flags (1 APART), u16 count (1 to 65,535), u64 sent at (ms since 1970 UTC),
//! u32 end of each entry, counted from the start of the first,
//! entries: u32 CRC-32C of the body, u8 flags, then by flags:
//!   0                 the body
//!   1 FIELDS          u32 size, u32 length of optional fields, optional fields, body
//!   3 FIELDS|EXTERNAL u32 size, u32 length of optional fields, u32 length of the body; fields and
//!                     body lie one behind the other in rows of `parts`
//!   4 EXPIRES, besides the others: u64 expires at (state ms) comes first
//!   8 LANE, besides the others: the optional fields name a priority or a group
//!   16 DEDUP, besides the others: the fields hold a dedup id
//! ```
//!
//! The messages of a chunk that is apart are never untouched: each began its life delayed, or in a
//! lane that has an index of its own. Where that holds for some of its messages only, the chunk is
//! not apart and their marks say so from the beginning.
//! The ids of a chunk are its key's first id and the ones that follow. *Size* is what counts
//! towards limits: body and header bytes. Rows are kept just under a power of two, because redb
//! gives a large value pages of that size to itself.

use super::marks::Marks;
use super::{Result, StoreError};

/// Most bytes of a chunk of small messages.
pub const CHUNK_BYTES_MAX: usize = (16 << 10) - 64;
/// Most bytes of a chunk that holds a message over 2 KiB, and of one part.
pub const LARGE_CHUNK_BYTES_MAX: usize = (64 << 10) - 64;
/// Entries above this size go into chunks of up to [`LARGE_CHUNK_BYTES_MAX`].
const LARGE_ENTRY_BYTES: usize = 2 << 10;

const LAYOUT: u8 = 1;
const HEADER_BYTES: usize = 12;
const CHUNK_APART: u8 = 1;
const FLAG_FIELDS: u8 = 1;
const FLAG_EXTERNAL: u8 = 2;
const FLAG_EXPIRES: u8 = 4;
const FLAG_LANE: u8 = 8;
const FLAG_DEDUP: u8 = 16;

/// A message about to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// CRC-32C of the body.
    pub crc: u32,
    /// Body and header bytes.
    pub size: u64,
    /// When it is to be removed, in state ms; `None`: only by the queue's retention.
    pub expires_ms: Option<u64>,
    /// Whether the fields name a priority or a group.
    pub has_lane: bool,
    /// Whether the fields hold a dedup id.
    pub has_dedup: bool,
    /// Optional fields as the log carries them.
    pub fields: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

impl NewEntry<'_> {
    /// True when fields and body go into `parts` instead of the chunk.
    pub fn is_external(&self) -> bool {
        // Layout, count and one end stand before the entry; up to 21 bytes before its fields.
        HEADER_BYTES + 4 + 21 + self.fields.len() + self.body.len() > LARGE_CHUNK_BYTES_MAX
    }

    fn bytes(&self) -> usize {
        let expires = if self.expires_ms.is_some() { 8 } else { 0 };
        expires
            + if self.is_external() {
                17
            } else if self.fields.is_empty() {
                5 + self.body.len()
            } else {
                13 + self.fields.len() + self.body.len()
            }
    }
}

/// Collects the messages of one record and queue into a chunk.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    /// Of each message, whether it is never untouched.
    apart: Vec<bool>,
    ends: Vec<u32>,
    data: Vec<u8>,
}

impl ChunkBuilder {
    /// Messages so far.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// True when `entry` does not fit any more: the chunk must be finished first.
    pub fn is_full_for(&self, entry: &NewEntry<'_>) -> bool {
        if self.ends.is_empty() {
            return false;
        }
        let total = HEADER_BYTES + 4 * (self.ends.len() + 1) + self.data.len() + entry.bytes();
        let limit = if entry.bytes() > LARGE_ENTRY_BYTES && !entry.is_external() {
            LARGE_CHUNK_BYTES_MAX
        } else {
            CHUNK_BYTES_MAX
        };
        total > limit || self.ends.len() >= usize::from(u16::MAX)
    }

    /// Adds a message; `apart`: it begins its life where an index of its own finds it.
    pub fn push(&mut self, entry: &NewEntry<'_>, apart: bool) {
        self.apart.push(apart);
        self.data.extend_from_slice(&entry.crc.to_le_bytes());
        let external = entry.is_external();
        let plain = entry.fields.is_empty() && !external;
        let kind = match (plain, external) {
            (true, _) => 0,
            (false, false) => FLAG_FIELDS,
            (false, true) => FLAG_FIELDS | FLAG_EXTERNAL,
        };
        let expires = if entry.expires_ms.is_some() { FLAG_EXPIRES } else { 0 };
        let dedup = if entry.has_dedup { FLAG_DEDUP } else { 0 };
        let lane = if entry.has_lane { FLAG_LANE } else { 0 };
        self.data.push(kind | expires | lane | dedup);
        if let Some(expires_ms) = entry.expires_ms {
            self.data.extend_from_slice(&expires_ms.to_le_bytes());
        }
        if plain {
            self.data.extend_from_slice(entry.body);
        } else {
            self.data.extend_from_slice(&(entry.size as u32).to_le_bytes());
            self.data.extend_from_slice(&(entry.fields.len() as u32).to_le_bytes());
            if external {
                self.data.extend_from_slice(&(entry.body.len() as u32).to_le_bytes());
            } else {
                self.data.extend_from_slice(entry.fields);
                self.data.extend_from_slice(entry.body);
            }
        }
        self.ends.push(self.data.len() as u32);
    }

    /// The row, and its marks where it has any from the beginning.
    pub fn finish(mut self, sent_at_ms: u64) -> (Vec<u8>, Option<Marks>) {
        let all_apart = self.apart.iter().all(|apart| *apart);
        let mut marks = None;
        if !all_apart {
            for (index, _) in self.apart.iter().enumerate().filter(|(_, apart)| **apart) {
                marks.get_or_insert_with(|| Marks::new(self.apart.len(), None)).touch(index);
            }
        }
        let mut row = Vec::with_capacity(HEADER_BYTES + 4 * self.ends.len() + self.data.len());
        row.extend_from_slice(&[LAYOUT, if all_apart { CHUNK_APART } else { 0 }]);
        row.extend_from_slice(&(self.ends.len() as u16).to_le_bytes());
        row.extend_from_slice(&sent_at_ms.to_le_bytes());
        for end in self.ends.drain(..) {
            row.extend_from_slice(&end.to_le_bytes());
        }
        row.append(&mut self.data);
        (row, marks)
    }
}

/// Where a stored message's fields and body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// In the chunk's row: fields from `fields`, body from `body` to `end`, offsets in the row.
    Inline {
        /// Start of the optional fields.
        fields: usize,
        /// End of the fields and start of the body.
        body: usize,
        /// End of the body.
        end: usize,
    },
    /// In rows of `parts`.
    External {
        /// Bytes of optional fields.
        fields: usize,
        /// Bytes of the body.
        body: usize,
    },
}

/// One message of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryView {
    /// CRC-32C of the body.
    pub crc: u32,
    /// Body and header bytes.
    pub size: u64,
    /// When it is to be removed, in state ms.
    pub expires_ms: Option<u64>,
    /// Whether the fields name a priority or a group.
    pub has_lane: bool,
    /// Whether the fields hold a dedup id.
    pub has_dedup: bool,
    /// Where fields and body are.
    pub content: Content,
}

impl EntryView {
    /// Bytes of fields and body.
    pub fn bytes(&self) -> u64 {
        match self.content {
            Content::Inline { fields, end, .. } => (end - fields) as u64,
            Content::External { fields, body } => (fields + body) as u64,
        }
    }

    /// Rows of `parts` that the message has.
    pub fn parts(&self) -> u32 {
        match self.content {
            Content::Inline { .. } => 0,
            Content::External { fields, body } => {
                (fields + body).div_ceil(LARGE_CHUNK_BYTES_MAX) as u32
            }
        }
    }
}

/// A chunk's row, read in place.
#[derive(Debug, Clone, Copy)]
pub struct ChunkView<'a> {
    row: &'a [u8],
    count: usize,
}

impl<'a> ChunkView<'a> {
    /// Checks the row's outline.
    pub fn new(row: &'a [u8]) -> Result<Self> {
        let count = match row {
            [LAYOUT, _, low, high, ..] => usize::from(u16::from_le_bytes([*low, *high])),
            _ => return Err(damaged("unknown layout")),
        };
        if count == 0 || row.len() < HEADER_BYTES + 4 * count {
            return Err(damaged("cut short"));
        }
        Ok(Self { row, count })
    }

    /// Messages in the chunk, deleted ones included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// True when none of its messages is untouched.
    pub fn is_apart(&self) -> bool {
        self.row.get(1).is_some_and(|flags| flags & CHUNK_APART != 0)
    }

    /// When the messages were sent, ms since 1970 UTC.
    pub fn sent_at_ms(&self) -> u64 {
        self.row.get(4..12).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    /// The row's bytes from `start` to `end`.
    pub fn bytes(&self, start: usize, end: usize) -> Result<&'a [u8]> {
        self.row.get(start..end).ok_or_else(|| damaged("an entry's end is outside"))
    }

    fn u32_at(&self, at: usize) -> Result<usize> {
        let bytes = self.bytes(at, at + 4)?;
        let bytes: [u8; 4] = bytes.try_into().map_err(|_| damaged("cut short"))?;
        Ok(u32::from_le_bytes(bytes) as usize)
    }

    /// The message at `index`, counted from 0.
    pub fn entry(&self, index: usize) -> Result<EntryView> {
        if index >= self.count {
            return Err(damaged("an id behind its end"));
        }
        let data = HEADER_BYTES + 4 * self.count;
        let end = data + self.u32_at(HEADER_BYTES + 4 * index)?;
        let start = match index {
            0 => data,
            _ => data + self.u32_at(HEADER_BYTES + 4 * (index - 1))?,
        };
        let crc = self.u32_at(start)? as u32;
        let flags = self.bytes(start + 4, start + 5)?.first().copied().unwrap_or(0);
        let mut at = start + 5;
        let mut expires_ms = None;
        if flags & FLAG_EXPIRES != 0 {
            let bytes = self.bytes(at, at + 8)?.try_into().map_err(|_| damaged("cut short"))?;
            expires_ms = Some(u64::from_le_bytes(bytes));
            at += 8;
        }
        let (size, content) = match flags & !(FLAG_EXPIRES | FLAG_LANE | FLAG_DEDUP) {
            0 => {
                let body = at;
                let size = end.checked_sub(body).ok_or_else(|| damaged("ends cross"))?;
                (size, Content::Inline { fields: body, body, end })
            }
            FLAG_FIELDS => {
                let fields = at + 8;
                let body = fields + self.u32_at(at + 4)?;
                if body > end {
                    return Err(damaged("ends cross"));
                }
                (self.u32_at(at)?, Content::Inline { fields, body, end })
            }
            flags if flags == FLAG_FIELDS | FLAG_EXTERNAL => {
                let (fields, body) = (self.u32_at(at + 4)?, self.u32_at(at + 8)?);
                (self.u32_at(at)?, Content::External { fields, body })
            }
            _ => return Err(damaged("unknown flags of an entry")),
        };
        let (has_lane, has_dedup) = (flags & FLAG_LANE != 0, flags & FLAG_DEDUP != 0);
        let size = size as u64;
        Ok(EntryView { crc, size, expires_ms, has_lane, has_dedup, content })
    }
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("chunk: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(fields: &'a [u8], body: &'a [u8]) -> NewEntry<'a> {
        NewEntry {
            crc: 7,
            size: (fields.len() + body.len()) as u64,
            expires_ms: fields.first().map(|_| 77),
            has_lane: fields == b"lane",
            has_dedup: !fields.is_empty(),
            fields,
            body,
        }
    }

    #[test]
    fn entries_come_back_as_they_went_in() {
        let large = vec![1; LARGE_CHUNK_BYTES_MAX];
        let mut builder = ChunkBuilder::default();
        for entry in [entry(b"", b""), entry(b"f", b"body"), entry(b"", b"x"), entry(b"", &large)] {
            builder.push(&entry, true);
        }
        let (row, marks) = builder.finish(99);
        assert_eq!(marks, None);
        let view = ChunkView::new(&row).unwrap();
        assert_eq!((view.count(), view.sent_at_ms()), (4, 99));
        assert!(view.is_apart());
        let inline = |index: usize| match view.entry(index).unwrap().content {
            Content::Inline { fields, body, end } => {
                (view.bytes(fields, body).unwrap(), view.bytes(body, end).unwrap())
            }
            Content::External { .. } => panic!("{index} is external"),
        };
        assert_eq!(inline(0), (&b""[..], &b""[..]));
        assert_eq!(inline(1), (&b"f"[..], &b"body"[..]));
        assert_eq!(inline(2), (&b""[..], &b"x"[..]));
        let expires = |index: usize| view.entry(index).unwrap().expires_ms;
        assert_eq!((expires(0), expires(1)), (None, Some(77)));
        let has_dedup = |index: usize| view.entry(index).unwrap().has_dedup;
        assert!(!has_dedup(0) && has_dedup(1) && !has_dedup(3));
        let last = view.entry(3).unwrap();
        assert_eq!(last.content, Content::External { fields: 0, body: large.len() });
        assert_eq!((last.size, last.parts()), (large.len() as u64, 1));
        assert!(view.entry(4).is_err());
    }

    #[test]
    fn messages_apart_among_others_are_marked_from_the_beginning() {
        for apart in [[false, false], [false, true], [true, true]] {
            let mut builder = ChunkBuilder::default();
            builder.push(&entry(b"lane", b"body"), apart[0]);
            builder.push(&entry(b"", b"body"), apart[1]);
            let (row, marks) = builder.finish(1);
            let view = ChunkView::new(&row).unwrap();
            assert_eq!(view.is_apart(), apart == [true, true]);
            let marked = marks.map(|marks| [0, 1].map(|index| marks.is_marked(index)));
            assert_eq!(marked, (apart == [false, true]).then_some(apart));
            assert!(view.entry(0).unwrap().has_lane && !view.entry(1).unwrap().has_lane);
        }
    }

    #[test]
    fn rows_stay_under_their_limits() {
        for (body_bytes, limit) in
            [(0, CHUNK_BYTES_MAX), (100, CHUNK_BYTES_MAX), (5000, LARGE_CHUNK_BYTES_MAX)]
        {
            let body = vec![0; body_bytes];
            let entry = entry(b"", &body);
            let mut builder = ChunkBuilder::default();
            while !builder.is_full_for(&entry) {
                builder.push(&entry, false);
            }
            let row = builder.finish(0).0.len();
            assert!(row <= limit && row + body_bytes + 9 > limit, "{body_bytes}: {row}");
        }
    }

    #[test]
    fn damaged_rows_are_errors_not_panics() {
        let mut builder = ChunkBuilder::default();
        builder.push(&entry(b"ff", b"body"), true);
        builder.push(&entry(b"", b"body"), true);
        let (row, _) = builder.finish(1);
        for at in 0..row.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut bad = row.clone();
                bad[at] = value;
                if let Ok(view) = ChunkView::new(&bad) {
                    for index in 0..view.count() {
                        if let Ok(EntryView {
                            content: Content::Inline { body, end, .. }, ..
                        }) = view.entry(index)
                        {
                            let _ = view.bytes(body, end);
                        }
                    }
                }
            }
            assert!(ChunkView::new(&row[..at]).is_err() || at >= HEADER_BYTES + 8);
        }
    }
}
