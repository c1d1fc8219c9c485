//! The messages of a queue in the order of their ids, each with the rows that say where it is: for
//! whoever reads all of them.
//!
//! Always true here: each row is read once, side by side with the chunks, and memory holds one of each
//! kind. Whoever asks for one id after the other must not go back; rows of ids that were passed over
//! are *strays*: they belong to no message that is there.

use bytes::Bytes;
use redb::ReadableTable;

use super::chunk::{ChunkView, Content, EntryView};
use super::lease::Delivered;
use super::marks::Marks;
use super::tables::{Blocked, Delayed, RowOf, Tables};
use super::{Result, StoreError};

/// Rows of one table of a queue, by id.
struct Side<'a, V: 'static> {
    /// What the rows say of their messages.
    what: &'static str,
    rows: redb::Range<'a, (u64, u64), &'static [u8]>,
    decode: fn(&[u8]) -> Result<V>,
    next: Option<(u64, V)>,
    is_begun: bool,
}

impl<V> Side<'_, V> {
    fn advance(&mut self) -> Result<()> {
        self.is_begun = true;
        self.next = match self.rows.next() {
            None => None,
            Some(row) => {
                let (key, row) = row?;
                Some((key.value().1, (self.decode)(row.value())?))
            }
        };
        Ok(())
    }

    /// The row of `id`. Those before it are strays.
    fn row(&mut self, id: u64, strays: &mut Strays) -> Result<Option<V>> {
        if !self.is_begun {
            self.advance()?;
        }
        while let Some((at, _)) = self.next.as_ref().filter(|(at, _)| *at < id) {
            strays.push((*at, self.what));
            self.advance()?;
        }
        match self.next.take() {
            Some((at, row)) if at == id => {
                self.advance()?;
                Ok(Some(row))
            }
            next => {
                self.next = next;
                Ok(None)
            }
        }
    }
}

/// Ids of rows that belong to no message, and what they say.
pub type Strays = Vec<(u64, &'static str)>;

/// The rows besides chunks that say where messages of a queue are.
pub struct PlaceRows<'a> {
    queue: u64,
    marks: Side<'a, Vec<u8>>,
    returned: Side<'a, Delivered>,
    tried: Side<'a, Delivered>,
    delayed: Side<'a, Delayed>,
    blocked: Side<'a, Blocked>,
    parts: redb::Range<'a, (u64, u64, u32), &'static [u8]>,
    /// The row of a part that was read and is of a later message.
    part: Option<(u64, Vec<u8>)>,
    /// Rows that belong to no message, since they were last taken.
    pub strays: Strays,
}

/// Where a message is, of what is not in its chunk or a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Ready again in the default lane.
    pub returned: Option<Delivered>,
    /// Delivered before, and ready in a lane.
    pub tried: Option<Delivered>,
    /// Not visible yet.
    pub delayed: Option<Delayed>,
    /// It waits for its dead-letter queue.
    pub blocked: Option<Blocked>,
}

impl Tables<'_> {
    /// The rows of a queue, from the first one on.
    pub fn place_rows(&self, queue: u64) -> Result<PlaceRows<'_>> {
        let whole = (queue, 0)..=(queue, u64::MAX);
        macro_rules! side {
            ($table:ident, $what:literal, $decode:expr) => {
                Side {
                    what: $what,
                    rows: self.$table.range(whole.clone())?,
                    decode: $decode,
                    next: None,
                    is_begun: false,
                }
            };
        }
        Ok(PlaceRows {
            queue,
            marks: side!(marks, "has marks", |row| Ok(row.to_vec())),
            returned: side!(returned, "is returned", Delivered::from_bytes),
            tried: side!(tried, "is tried", Delivered::from_bytes),
            delayed: side!(delayed, "is delayed", Delayed::from_bytes),
            blocked: side!(blocked, "is blocked", Blocked::from_bytes),
            parts: self.parts.range((queue, 0, 0)..=(queue, u64::MAX, u32::MAX))?,
            part: None,
            strays: Strays::new(),
        })
    }
}

impl PlaceRows<'_> {
    /// The marks of the chunk that begins with `first`.
    pub fn marks(&mut self, first: u64, count: usize) -> Result<Marks> {
        Ok(Marks::new(count, self.marks.row(first, &mut self.strays)?))
    }

    /// The rows of a live message.
    pub fn of(&mut self, id: u64) -> Result<Rows> {
        let strays = &mut self.strays;
        Ok(Rows {
            returned: self.returned.row(id, strays)?,
            tried: self.tried.row(id, strays)?,
            delayed: self.delayed.row(id, strays)?,
            blocked: self.blocked.row(id, strays)?,
        })
    }

    /// Fields and body of a live message in a chunk.
    pub fn content(
        &mut self,
        id: u64,
        view: &ChunkView<'_>,
        entry: &EntryView,
    ) -> Result<(Bytes, Bytes)> {
        match entry.content {
            Content::Inline { fields, body, end } => {
                let mut whole = Bytes::copy_from_slice(view.bytes(fields, end)?);
                Ok((whole.split_to(body - fields), whole))
            }
            Content::External { fields, body } => {
                let mut whole = Bytes::from(self.parts_of(id)?);
                if whole.len() != fields + body {
                    let (is, should) = (whole.len(), fields + body);
                    let queue = self.queue;
                    return Err(StoreError::Damaged(format!(
                        "parts of message {id} of queue {queue} have {is} bytes, not {should}"
                    )));
                }
                Ok((whole.split_to(fields), whole))
            }
        }
    }

    /// What stands in the parts of a message, one behind the other.
    fn parts_of(&mut self, id: u64) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        loop {
            let part = match self.part.take() {
                Some(part) => Some(part),
                None => self.parts.next().map(part_row).transpose()?,
            };
            match part {
                Some((of, row)) if of == id => whole.extend_from_slice(&row),
                Some((of, _)) if of < id => self.strays.push((of, "has parts")),
                later => {
                    self.part = later;
                    return Ok(whole);
                }
            }
        }
    }

    /// Passes over what is left: all of it are strays.
    pub fn end(&mut self) -> Result<()> {
        self.marks(u64::MAX, 1)?;
        self.of(u64::MAX)?;
        self.parts_of(u64::MAX)?;
        Ok(())
    }
}

fn part_row(row: RowOf<'_, (u64, u64, u32), &[u8]>) -> Result<(u64, Vec<u8>)> {
    let (key, row) = row?;
    Ok((key.value().1, row.value().to_vec()))
}
