//! Lanes: which messages of a priority and a group are ready, and whose turn it is.
//!
//! Always true here:
//!
//! - A row of `waiting` is there while a message of its lane and chunk is ready. The rows of a lane
//!   stand in the order of their messages; the lanes of a queue by priority, highest first, then in
//!   the order of their turns: by the length of the group, then by its bytes.
//! - There is no other row a lane: one that has no ready message costs nothing, and the ring of lanes
//!   whose turn it can be is the order of the keys.
//!
//! ```text
//! key of a lane:  u64 queue, u8 255 - priority, u8 length of the group, group (big-endian, so that
//!                 keys sort by their parts)
//! key of a group: u64 queue, u8 length of the group, group (big-endian)
//! spans:          u16 first, u16 count of neighbours, rising and apart; indexes in the chunk
//! ```

use std::collections::BTreeSet;

use redb::ReadableTable;

use super::lease::Delivered;
use super::tables::{RowOf, Tables};
use super::{Result, StoreError};

/// Priority and group of messages that take turns as one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    /// Higher ones go first; 0 for all of an ordered queue.
    pub priority: u8,
    /// At most 128 bytes.
    pub group: Vec<u8>,
}

impl Lane {
    /// True for the messages that say nothing of priority and group.
    pub fn is_default(&self) -> bool {
        self.priority == 0 && self.group.is_empty()
    }

    fn key(&self, queue: u64) -> Vec<u8> {
        let mut key = Vec::with_capacity(18 + self.group.len());
        key.extend_from_slice(&queue.to_be_bytes());
        key.extend_from_slice(&[255 - self.priority, self.group.len() as u8]);
        key.extend_from_slice(&self.group);
        key
    }

    fn row_key(&self, queue: u64, chunk: u64) -> Vec<u8> {
        let mut key = self.key(queue);
        key.extend_from_slice(&chunk.to_be_bytes());
        key
    }
}

/// Which messages of a chunk are ready in a lane, by their indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans(Vec<(u16, u16)>);

impl Spans {
    /// Adds an index behind all others.
    pub fn push(&mut self, index: u16) {
        self.push_span(index, 1);
    }

    /// True when the index is in it.
    pub fn contains(&self, index: u16) -> bool {
        let at = self.0.partition_point(|(first, _)| *first <= index);
        at.checked_sub(1).is_some_and(|at| index - self.0[at].0 < self.0[at].1)
    }

    /// The indexes in order.
    pub fn indexes(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|(first, count)| *first..=*first + (*count - 1))
    }

    /// Adds `count` neighbours behind all others.
    fn push_span(&mut self, first: u16, count: u16) {
        match self.0.last_mut() {
            _ if count == 0 => {}
            Some((before, length)) if u32::from(*before) + u32::from(*length) == first.into() => {
                *length += count;
            }
            _ => self.0.push((first, count)),
        }
    }

    /// Adds indexes and takes others out: each rising. Takes no longer for more neighbours.
    fn change(&mut self, add: &[u16], remove: &[u16]) {
        let mut left = Self::default();
        let mut add = add.iter().copied().peekable();
        let mut remove = remove.iter().copied().peekable();
        for &(first, count) in &self.0 {
            let end = first + count;
            while let Some(new) = add.next_if(|new| *new < first) {
                left.push(new);
            }
            while add.next_if(|known| *known < end).is_some() {}
            while remove.next_if(|old| *old < first).is_some() {}
            let mut at = first;
            while let Some(old) = remove.next_if(|old| *old < end) {
                left.push_span(at, old - at);
                at = old + 1;
            }
            left.push_span(at, end - at);
        }
        add.for_each(|new| left.push(new));
        *self = left;
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(4 * self.0.len());
        for (first, count) in &self.0 {
            row.extend_from_slice(&first.to_le_bytes());
            row.extend_from_slice(&count.to_le_bytes());
        }
        row
    }

    fn from_bytes(row: &[u8]) -> Result<Self> {
        let number = |low: u8, high: u8| u16::from_le_bytes([low, high]);
        let mut spans = Vec::with_capacity(row.len() / 4);
        let mut next = 0;
        for bytes in row.chunks(4) {
            let &[a, b, c, d] = bytes else {
                return Err(damaged("waiting: cut short"));
            };
            let (first, count) = (number(a, b), number(c, d));
            if u32::from(first) < next || count == 0 {
                return Err(damaged("waiting: spans cross"));
            }
            next = u32::from(first) + u32::from(count);
            if next > u32::from(u16::MAX) {
                return Err(damaged("waiting: spans cross"));
            }
            spans.push((first, count));
        }
        Ok(Self(spans))
    }
}

impl IntoIterator for Spans {
    type Item = u16;
    type IntoIter = Indexes;

    fn into_iter(self) -> Indexes {
        Indexes { spans: self.0.into_iter(), at: 0, end: 0 }
    }
}

/// The indexes of spans, one by one, in as little memory.
#[derive(Debug)]
pub struct Indexes {
    spans: std::vec::IntoIter<(u16, u16)>,
    at: u16,
    end: u16,
}

impl Iterator for Indexes {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.at == self.end {
            let (first, count) = self.spans.next()?;
            (self.at, self.end) = (first, first + count);
        }
        self.at += 1;
        Some(self.at - 1)
    }
}

/// A row of `waiting`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRow {
    /// Its lane.
    pub lane: Lane,
    /// Id of the chunk's first message.
    pub chunk: u64,
    /// Which of the chunk's messages are ready.
    pub spans: Spans,
}

fn group_key(queue: u64, group: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(18 + group.len());
    key.extend_from_slice(&queue.to_be_bytes());
    key.push(group.len() as u8);
    key.extend_from_slice(group);
    key
}

/// Takes `queue` off the front of a key; what is behind it.
fn behind_queue(key: &[u8]) -> Result<(u64, &[u8])> {
    let (queue, rest) = key.split_first_chunk().ok_or_else(|| damaged("lanes: key"))?;
    Ok((u64::from_be_bytes(*queue), rest))
}

/// Takes a group off the front of a key; what is behind it.
fn behind_group(key: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = key.split_first().ok_or_else(|| damaged("lanes: key"))?;
    rest.split_at_checked(usize::from(*length)).ok_or_else(|| damaged("lanes: key"))
}

fn waiting_row(row: RowOf<'_, &[u8], &[u8]>) -> Result<WaitingRow> {
    let (key, row) = row?;
    let (_, rest) = behind_queue(key.value())?;
    let (priority, rest) = rest.split_first().ok_or_else(|| damaged("lanes: key"))?;
    let (group, chunk) = behind_group(rest)?;
    let chunk = chunk.try_into().map_err(|_| damaged("lanes: key"))?;
    Ok(WaitingRow {
        lane: Lane { priority: 255 - priority, group: group.to_vec() },
        chunk: u64::from_be_bytes(chunk),
        spans: Spans::from_bytes(row.value())?,
    })
}

/// Where keys of a queue begin, and where those of the next one do.
fn bounds(queue: u64) -> ([u8; 8], [u8; 8]) {
    (queue.to_be_bytes(), (queue + 1).to_be_bytes())
}

impl Tables<'_> {
    /// Notes the ready messages of a lane in a new chunk.
    pub fn put_waiting(
        &mut self,
        queue: u64,
        lane: &Lane,
        chunk: u64,
        spans: &Spans,
    ) -> Result<()> {
        self.waiting.insert(&lane.row_key(queue, chunk)[..], &spans.to_bytes()[..])?;
        Ok(())
    }

    /// Makes messages of a chunk ready in a lane, and takes others out: indexes, each rising.
    pub fn change_waiting(
        &mut self,
        queue: u64,
        lane: &Lane,
        chunk: u64,
        add: &[u16],
        remove: &[u16],
    ) -> Result<()> {
        let key = lane.row_key(queue, chunk);
        // As a rule the row is there for one message only.
        let mut spans = match self.waiting.remove(&key[..])? {
            Some(row) => Spans::from_bytes(row.value())?,
            None => Spans::default(),
        };
        spans.change(add, remove);
        if !spans.0.is_empty() {
            self.waiting.insert(&key[..], &spans.to_bytes()[..])?;
        }
        Ok(())
    }

    /// True when the message with this index of a chunk is ready in a lane.
    pub fn is_waiting(&self, queue: u64, lane: &Lane, chunk: u64, index: u16) -> Result<bool> {
        Ok(self.waiting_in(queue, lane, chunk)?.contains(index))
    }

    /// Which messages of a chunk are ready in a lane.
    pub fn waiting_in(&self, queue: u64, lane: &Lane, chunk: u64) -> Result<Spans> {
        let row = self.waiting.get(&lane.row_key(queue, chunk)[..])?;
        row.map_or(Ok(Spans::default()), |row| Spans::from_bytes(row.value()))
    }

    /// The first row of a lane whose chunk is not below `chunk`.
    pub fn waiting_from(&self, queue: u64, lane: &Lane, chunk: u64) -> Result<Option<WaitingRow>> {
        let (from, to) = (lane.row_key(queue, chunk), lane.row_key(queue, u64::MAX));
        let row = self.waiting.range(&from[..]..=&to[..])?.next();
        row.map(waiting_row).transpose()
    }

    /// The first row of the lane with the highest priority that is below `below` (256: any).
    pub fn highest_waiting(&self, queue: u64, below: u16) -> Result<Option<WaitingRow>> {
        let Some(most) = below.checked_sub(1) else {
            return Ok(None);
        };
        let mut from = queue.to_be_bytes().to_vec();
        from.push(255 - most as u8);
        let (_, end) = bounds(queue);
        let row = self.waiting.range(&from[..]..&end[..])?.next();
        row.map(waiting_row).transpose()
    }

    /// The first row of the next lane of a priority, in the order of turns: behind the group `after`,
    /// or the first one.
    pub fn next_waiting(
        &self,
        queue: u64,
        priority: u8,
        after: Option<&[u8]>,
    ) -> Result<Option<WaitingRow>> {
        let from = match after {
            Some(group) => {
                let lane = Lane { priority, group: group.to_vec() };
                let mut key = lane.row_key(queue, u64::MAX);
                key.push(0);
                key
            }
            None => [&queue.to_be_bytes()[..], &[255 - priority]].concat(),
        };
        let mut end = [&queue.to_be_bytes()[..], &[255 - priority]].concat();
        end.push(u8::MAX);
        let row = self.waiting.range(&from[..]..&end[..])?.next();
        row.map(waiting_row).transpose()
    }

    /// All rows of a queue.
    pub fn all_waiting(&self, queue: u64) -> Result<Vec<WaitingRow>> {
        let (from, to) = bounds(queue);
        self.waiting.range(&from[..]..&to[..])?.map(waiting_row).collect()
    }

    /// Notes what a message that is ready in a lane has behind it.
    pub fn put_tried(&mut self, queue: u64, id: u64, delivered: Delivered) -> Result<()> {
        self.tried.insert((queue, id), &delivered.to_bytes()[..])?;
        Ok(())
    }

    /// What a message that is ready in a lane has behind it.
    pub fn tried(&self, queue: u64, id: u64) -> Result<Option<Delivered>> {
        let row = self.tried.get((queue, id))?;
        row.map(|row| Delivered::from_bytes(row.value())).transpose()
    }

    /// Forgets what a message had behind it when it was ready in a lane.
    pub fn remove_tried(&mut self, queue: u64, id: u64) -> Result<Option<Delivered>> {
        let row = self.tried.remove((queue, id))?;
        row.map(|row| Delivered::from_bytes(row.value())).transpose()
    }

    /// Ids of the messages that are ready in a lane and were delivered before.
    pub fn tried_ids(&self, queue: u64) -> Result<Vec<u64>> {
        let rows = self.tried.range((queue, 0)..=(queue, u64::MAX))?;
        rows.map(|row| Ok(row?.0.value().1)).collect()
    }

    /// The group of a priority that was served last.
    pub fn turn(&self, queue: u64, priority: u8) -> Result<Option<Vec<u8>>> {
        Ok(self.turns.get((queue, priority))?.map(|row| row.value().to_vec()))
    }

    /// Notes the group of a priority that was served last.
    pub fn put_turn(&mut self, queue: u64, priority: u8, group: &[u8]) -> Result<()> {
        self.turns.insert((queue, priority), group)?;
        Ok(())
    }
}

/// Why a message holds its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// A consumer has it: nothing of the group can be delivered.
    Leased,
    /// It is not visible yet: nothing behind it can be delivered.
    Delayed,
}

fn hold_key(queue: u64, group: &[u8], hold: Hold, id: u64) -> Vec<u8> {
    let mut key = group_key(queue, group);
    key.push(hold as u8);
    key.extend_from_slice(&id.to_be_bytes());
    key
}

/// Groups of ordered queues.
impl Tables<'_> {
    /// Lets a message hold its group.
    pub fn put_hold(&mut self, queue: u64, group: &[u8], hold: Hold, id: u64) -> Result<()> {
        self.holds.insert(&hold_key(queue, group, hold, id)[..], ())?;
        Ok(())
    }

    /// Ends a message's hold.
    pub fn remove_hold(&mut self, queue: u64, group: &[u8], hold: Hold, id: u64) -> Result<()> {
        self.holds.remove(&hold_key(queue, group, hold, id)[..])?;
        Ok(())
    }

    /// What holds a group: a leased message, or else the delayed one with the lowest id.
    pub fn hold(&self, queue: u64, group: &[u8]) -> Result<Option<(Hold, u64)>> {
        let from = hold_key(queue, group, Hold::Leased, 0);
        let to = hold_key(queue, group, Hold::Delayed, u64::MAX);
        let row = self.holds.range(&from[..]..=&to[..])?.next().transpose()?;
        row.map(|(key, _)| Ok(hold_of(key.value())?.1)).transpose()
    }

    /// Every hold of a queue: group, why, id.
    pub fn holds(&self, queue: u64) -> Result<Vec<(Vec<u8>, Hold, u64)>> {
        let (from, to) = bounds(queue);
        let rows = self.holds.range(&from[..]..&to[..])?;
        rows.map(|row| {
            let (group, (hold, id)) = hold_of(row?.0.value())?;
            Ok((group, hold, id))
        })
        .collect()
    }

    /// Notes whether a group can be served. Returns whether it was so before.
    pub fn set_servable(&mut self, queue: u64, group: &[u8], can_be: bool) -> Result<bool> {
        let key = group_key(queue, group);
        let before = if can_be {
            self.ring.insert(&key[..], ())?.is_some()
        } else {
            self.ring.remove(&key[..])?.is_some()
        };
        Ok(before)
    }

    /// The next group that can be served, in the order of turns: behind `after`, or the first one.
    pub fn next_servable(&self, queue: u64, after: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        use std::ops::Bound::{Excluded, Included};
        let (start, end) = bounds(queue);
        let key = after.map(|group| group_key(queue, group));
        let from = key.as_deref().map_or(Included(&start[..]), Excluded);
        let row = self.ring.range::<&[u8]>((from, Excluded(&end[..])))?.next().transpose()?;
        row.map(|(key, _)| Ok(behind_group(behind_queue(key.value())?.1)?.0.to_vec())).transpose()
    }
}

/// All lanes of a queue.
impl Tables<'_> {
    /// Frees up to `most` rows of the lanes of a dropped queue; fewer only when none is left.
    pub(super) fn free_lanes(&mut self, queue: u64, most: usize) -> Result<usize> {
        let (from, to) = bounds(queue);
        let mut freed = 0;
        macro_rules! free {
            ($($table:ident),+) => {$(
                let mut found: Vec<Vec<u8>> = Vec::new();
                for row in self.$table.range(&from[..]..&to[..])?.take(most - freed) {
                    found.push(row?.0.value().to_vec());
                }
                freed += found.len();
                for key in found {
                    self.$table.remove(&key[..])?;
                }
            )+};
        }
        free!(waiting, holds, ring);
        Ok(freed)
    }

    /// Numbers of the queues that have rows of lanes.
    pub(super) fn queues_with_lanes(&self) -> Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        for row in self.waiting.iter()? {
            found.insert(behind_queue(row?.0.value())?.0);
        }
        for table in [&self.holds, &self.ring] {
            for row in table.iter()? {
                found.insert(behind_queue(row?.0.value())?.0);
            }
        }
        for row in self.tried.iter()? {
            found.insert(row?.0.value().0);
        }
        for row in self.turns.iter()? {
            found.insert(row?.0.value().0);
        }
        Ok(found)
    }
}

fn hold_of(key: &[u8]) -> Result<(Vec<u8>, (Hold, u64))> {
    let (group, rest) = behind_group(behind_queue(key)?.1)?;
    let (kind, id) = rest.split_first().ok_or_else(|| damaged("holds: key"))?;
    let id = id.try_into().map_err(|_| damaged("holds: key"))?;
    let hold = match kind {
        0 => Hold::Leased,
        1 => Hold::Delayed,
        _ => return Err(damaged("holds: kind")),
    };
    Ok((group.to_vec(), (hold, u64::from_be_bytes(id))))
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(indexes: &[u16]) -> Spans {
        let mut spans = Spans::default();
        for index in indexes {
            spans.push(*index);
        }
        spans
    }

    #[test]
    fn spans_survive_their_bytes_and_join_neighbours() {
        let some = spans(&[0, 1, 2, 7, 9, 10]);
        assert_eq!(some.0, [(0, 3), (7, 1), (9, 2)]);
        assert_eq!(Spans::from_bytes(&some.to_bytes()).unwrap(), some);
        assert_eq!(some.indexes().collect::<Vec<_>>(), [0, 1, 2, 7, 9, 10]);
        assert_eq!(some.clone().into_iter().collect::<Vec<_>>(), [0, 1, 2, 7, 9, 10]);
        for index in 0..12 {
            assert_eq!(some.contains(index), [0, 1, 2, 7, 9, 10].contains(&index), "{index}");
        }
        for bad in [&[0, 0, 1][..], &[0, 0, 0, 0], &[5, 0, 1, 0, 5, 0, 1, 0], &[255, 255, 2, 0]] {
            assert!(Spans::from_bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spans_take_in_and_give_out() {
        let mut some = spans(&[1, 2, 3, 8]);
        some.change(&[0, 2, 9], &[1, 8, 20]);
        assert_eq!(some, spans(&[0, 2, 3, 9]));
        some.change(&[], &[0, 2, 3, 9]);
        assert_eq!(some, Spans::default());
        some.change(&[4], &[]);
        assert_eq!(some, spans(&[4]));
        some.change(&[3, 4, 5, 65_534], &[]);
        assert_eq!(some, spans(&[3, 4, 5, 65_534]));
        some.change(&[2, 6], &[4, 65_534]);
        assert_eq!(some.0, [(2, 2), (5, 2)]);
    }

    #[test]
    fn keys_sort_by_priority_then_length_of_group_then_group_then_chunk() {
        let key = |priority, group: &str, chunk| {
            Lane { priority, group: group.as_bytes().to_vec() }.row_key(7, chunk)
        };
        let sorted = [
            key(9, "b", 1),
            key(0, "", u64::MAX),
            key(0, "a", 2),
            key(0, "a", 256),
            key(0, "b", 1),
            key(0, "aa", 0),
            Lane::default().row_key(8, 0),
        ];
        assert!(sorted.is_sorted());
    }
}
