//! Ready messages of lanes: the rows of `waiting`, which are pages of many lanes.
//!
//! Always true here:
//!
//! - An *entry* is a lane, a chunk and which of the chunk's messages are ready in that lane; it is
//!   there while one is. Entries of a queue stand in the order of their *positions*: the lanes by
//!   priority, highest first, then in the order of their turns (by the length of the group, then by
//!   its bytes), those of a lane in the order of their messages.
//! - A page holds the entries from its key's position up to the next page's; it has at least one, and is
//!   no larger than `PAGE_BYTES_MAX` unless it has only one. What grows out of a page goes into
//!   new ones behind it; a page that has become empty goes, and none are joined.
//! - There is no other row a lane: one that has no ready message costs nothing, and the ring of
//!   lanes whose turn it can be is the order of the entries.
//!
//! ```text
//! head:     u8 255 - priority, u8 length of the group, group
//! position: head, u64 id of the chunk's first message (big-endian, so that they sort by their parts)
//! key:      u64 queue (big-endian), then nothing, or the position of an entry that was once the
//!           page's first one
//! page:     sections, one a lane: head, u16 bytes of the entries (little-endian), entries
//! entry:    number: the chunk, of the first of a section its id, of others the distance from the one
//!           before; spans (see `spans`)
//! ```
//!
//! A row for each lane and chunk, as it once was, took twice as long with 100,000 groups:
//! nearly each row was in a page of the tree of its own.

use std::cmp::Ordering;
use std::ops::Bound::{Excluded, Included};

use redb::{AccessGuard, ReadableTable};

use super::lanes::Lane;
use super::spans::{Spans, put_number, skip, take_number};
use super::tables::Tables;
use super::{Result, StoreError};

/// Most bytes of a page.
const PAGE_BYTES_MAX: usize = (2 << 10) - 64;
/// Of a page that is made, what more may come into takes a quarter.
const PAGE_BYTES_NEW: usize = PAGE_BYTES_MAX / 4 * 3;

/// Neighbouring messages of a chunk and a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot<'a> {
    /// Their lane.
    pub lane: &'a Lane,
    /// Id of the chunk's first message.
    pub chunk: u64,
    /// Index of the first one in the chunk.
    pub first: u16,
    /// How many.
    pub count: u16,
}

impl Spot<'_> {
    fn position(&self) -> Vec<u8> {
        position(self.lane, self.chunk)
    }
}

/// An entry of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRow {
    /// Its lane.
    pub lane: Lane,
    /// Id of the chunk's first message.
    pub chunk: u64,
    /// Which of the chunk's messages are ready.
    pub spans: Spans,
}

/// Where a look through the lanes of a queue is: what is left of a page. It is over with the next
/// change of the lanes.
#[derive(Debug, Default)]
pub struct Walk {
    page: Vec<u8>,
    at: usize,
}

fn put_head(head: &mut Vec<u8>, lane: &Lane) {
    head.extend_from_slice(&[255 - lane.priority, lane.group.len() as u8]);
    head.extend_from_slice(&lane.group);
}

fn position(lane: &Lane, chunk: u64) -> Vec<u8> {
    let mut position = Vec::with_capacity(10 + lane.group.len());
    put_head(&mut position, lane);
    position.extend_from_slice(&chunk.to_be_bytes());
    position
}

fn key(queue: u64, position: &[u8]) -> Vec<u8> {
    [&queue.to_be_bytes()[..], position].concat()
}

/// One lane of a page.
#[derive(Clone, Copy)]
struct Section<'a> {
    head: &'a [u8],
    entries: Entries<'a>,
    /// Where it ends in the page.
    end: usize,
}

impl<'a> Section<'a> {
    /// The one that begins at `at`; `None`: the page ends there.
    fn at(page: &'a [u8], at: usize) -> Result<Option<Self>> {
        let rest = page.get(at..).unwrap_or_default();
        let Some(&length) = rest.get(1) else {
            return if rest.is_empty() { Ok(None) } else { Err(damaged("cut short")) };
        };
        let (head, rest) =
            rest.split_at_checked(2 + usize::from(length)).ok_or_else(|| damaged("cut short"))?;
        let (bytes, rest) = rest.split_first_chunk().ok_or_else(|| damaged("cut short"))?;
        let bytes = usize::from(u16::from_le_bytes(*bytes));
        let rest = rest.get(..bytes).ok_or_else(|| damaged("cut short"))?;
        let entries = Entries { rest, before: 0, is_first: true };
        Ok(Some(Self { head, entries, end: at + head.len() + 2 + bytes }))
    }

    fn lane(&self) -> Result<Lane> {
        let (first, group) = self.head.split_at_checked(2).ok_or_else(|| damaged("cut short"))?;
        Ok(Lane { priority: 255 - first[0], group: group.to_vec() })
    }

    /// Its first entry at or behind a position.
    fn first_from(mut self, position: &[u8]) -> Result<Option<Entry<'a>>> {
        let Some(chunk) = position.strip_prefix(self.head) else {
            return if self.head < position { Ok(None) } else { self.entries.next() };
        };
        while let Some(entry) = self.entries.next()? {
            if &entry.chunk.to_be_bytes()[..] >= chunk {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

/// What is left of the entries of a section.
#[derive(Clone, Copy)]
struct Entries<'a> {
    rest: &'a [u8],
    before: u64,
    is_first: bool,
}

#[derive(Clone, Copy)]
struct Entry<'a> {
    chunk: u64,
    spans: &'a [u8],
}

impl<'a> Entries<'a> {
    fn next(&mut self) -> Result<Option<Entry<'a>>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let distance = take_number(&mut self.rest)?;
        if distance == 0 && !self.is_first {
            return Err(damaged("entries cross"));
        }
        self.is_first = false;
        let chunk = self.before.checked_add(distance).ok_or_else(|| damaged("entries cross"))?;
        self.before = chunk;
        Ok(Some(Entry { chunk, spans: skip(&mut self.rest)? }))
    }
}

/// A page that is being written.
#[derive(Default)]
struct Writer {
    page: Vec<u8>,
    /// Where the entries of the last section begin.
    entries_at: usize,
    before: u64,
    /// Spans of an entry, to be used again.
    spans: Vec<u8>,
}

impl Writer {
    fn begin_section(&mut self, head: &[u8]) {
        self.page.extend_from_slice(head);
        self.page.extend_from_slice(&[0, 0]);
        (self.entries_at, self.before) = (self.page.len(), 0);
    }

    fn push(&mut self, entry: Entry<'_>) {
        put_number(&mut self.page, entry.chunk - self.before);
        self.page.extend_from_slice(entry.spans);
        self.before = entry.chunk;
    }

    /// Notes how long the section is; one without entries goes.
    fn end_section(&mut self, head: &[u8]) -> Result<()> {
        let bytes = self.page.len() - self.entries_at;
        let start = self.entries_at - 2;
        if bytes == 0 {
            self.page.truncate(start - head.len());
            return Ok(());
        }
        let bytes = u16::try_from(bytes).map_err(|_| damaged("a lane of over 64 KiB"))?;
        self.page[start..start + 2].copy_from_slice(&bytes.to_le_bytes());
        Ok(())
    }
}

/// What is to be done with messages.
#[derive(Clone, Copy)]
enum Change {
    Add,
    Remove,
}

impl Change {
    /// A page with messages of some of its lanes changed; `spots` are in order.
    fn of_page(self, page: &[u8], spots: &[Spot<'_>]) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        writer.page.reserve(page.len() + 16 * spots.len());
        // What is before this is written.
        let mut from = 0;
        let mut next = Section::at(page, 0)?;
        let mut head = Vec::new();
        for of_lane in spots.chunk_by(|a, b| a.lane == b.lane) {
            head.clear();
            put_head(&mut head, of_lane[0].lane);
            let mut at = from;
            while let Some(section) = next.filter(|section| section.head < &head[..]) {
                at = section.end;
                next = Section::at(page, at)?;
            }
            writer.page.extend_from_slice(&page[from..at]);
            let mut old = Entries { rest: &[], before: 0, is_first: true };
            if let Some(section) = next.filter(|section| section.head == head) {
                old = section.entries;
                at = section.end;
                next = Section::at(page, at)?;
            }
            from = at;
            writer.begin_section(&head);
            self.of_entries(old, of_lane, &mut writer)?;
            writer.end_section(&head)?;
        }
        writer.page.extend_from_slice(&page[from..]);
        Ok(writer.page)
    }

    /// Writes the entries of a lane with some of its messages changed.
    fn of_entries(
        self,
        mut old: Entries<'_>,
        spots: &[Spot<'_>],
        writer: &mut Writer,
    ) -> Result<()> {
        let mut next = old.next()?;
        for of_chunk in spots.chunk_by(|a, b| a.chunk == b.chunk) {
            let chunk = of_chunk[0].chunk;
            while let Some(entry) = next.filter(|entry| entry.chunk < chunk) {
                writer.push(entry);
                next = old.next()?;
            }
            let entry = next.filter(|entry| entry.chunk == chunk);
            if entry.is_some() {
                next = old.next()?;
            }
            let mut bytes = std::mem::take(&mut writer.spans);
            bytes.clear();
            self.of_spans(entry, of_chunk, &mut bytes)?;
            if !bytes.is_empty() {
                writer.push(Entry { chunk, spans: &bytes });
            }
            writer.spans = bytes;
        }
        if let Some(entry) = next {
            writer.push(entry);
            writer.page.extend_from_slice(old.rest);
        }
        Ok(())
    }

    /// Writes the spans of an entry, or of one that is not there yet, with some of its messages
    /// changed; nothing when none is left.
    fn of_spans(
        self,
        old: Option<Entry<'_>>,
        spots: &[Spot<'_>],
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        // As a rule the entry is there for these messages only.
        if let [Spot { first, count, .. }] = *spots {
            Spans::put_one(bytes, first, count);
            match (self, old) {
                (Self::Add, None) => return Ok(()),
                (Self::Remove, Some(entry)) if entry.spans == bytes => {
                    bytes.clear();
                    return Ok(());
                }
                _ => bytes.clear(),
            }
        }
        let mut spans = match old {
            Some(mut entry) => Spans::take(&mut entry.spans)?,
            None => Spans::default(),
        };
        let changed = spots.iter().map(|spot| (spot.first, spot.count));
        match self {
            Self::Add => spans.add(changed),
            Self::Remove => spans.remove(changed),
        }
        if !spans.is_empty() {
            spans.put(bytes);
        }
        Ok(())
    }
}

/// Cuts what has become too large for a page: of each further one the position of its first entry.
fn split(whole: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let enough = whole.len() / whole.len().div_ceil(PAGE_BYTES_NEW);
    let mut pages: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut writer = Writer::default();
    let mut first = Vec::new();
    let mut at = 0;
    while let Some(Section { head, mut entries, end }) = Section::at(whole, at)? {
        at = end;
        writer.begin_section(head);
        while let Some(entry) = entries.next()? {
            // A number has 10 bytes at most.
            let bytes = writer.page.len() + 10 + entry.spans.len();
            let is_empty = writer.page.len() == head.len() + 2;
            if !is_empty && (writer.page.len() >= enough || bytes > PAGE_BYTES_MAX) {
                writer.end_section(head)?;
                pages.push((first, std::mem::take(&mut writer.page)));
                first = [head, &entry.chunk.to_be_bytes()].concat();
                writer.begin_section(head);
            }
            writer.push(entry);
        }
        writer.end_section(head)?;
    }
    pages.push((first, writer.page));
    Ok(pages)
}

type PageOf<'a> = Option<(AccessGuard<'a, &'static [u8]>, AccessGuard<'a, &'static [u8]>)>;

impl Tables<'_> {
    /// Makes messages ready in their lanes; each must be named once.
    pub fn add_waiting(&mut self, queue: u64, spots: &mut [Spot<'_>]) -> Result<()> {
        self.change_waiting(queue, spots, Change::Add)
    }

    /// Takes ready messages out of their lanes; each must be named once.
    pub fn remove_waiting(&mut self, queue: u64, spots: &mut [Spot<'_>]) -> Result<()> {
        self.change_waiting(queue, spots, Change::Remove)
    }

    fn change_waiting(&mut self, queue: u64, spots: &mut [Spot<'_>], change: Change) -> Result<()> {
        spots.sort_unstable();
        let mut rest = &*spots;
        while !rest.is_empty() {
            let (row_key, changed, count) = self.changed_page(queue, rest, change)?;
            rest = &rest[count..];
            if changed.is_empty() {
                self.waiting.remove(&row_key[..])?;
            } else if changed.len() <= PAGE_BYTES_MAX {
                self.waiting.insert(&row_key[..], &changed[..])?;
            } else {
                for (position, page) in split(&changed)? {
                    let new = key(queue, &position);
                    let key = if position.is_empty() { &row_key } else { &new };
                    self.waiting.insert(&key[..], &page[..])?;
                }
            }
        }
        Ok(())
    }

    /// The page of the first of some messages that are in order, with them changed: its key, what is to
    /// be in it, and how many of the messages it has.
    fn changed_page(
        &self,
        queue: u64,
        spots: &[Spot<'_>],
        change: Change,
    ) -> Result<(Vec<u8>, Vec<u8>, usize)> {
        let (page, behind) = self.page_of(queue, &spots[0].position())?;
        let count = match behind {
            Some((behind, _)) => {
                let behind = &behind.value()[8..];
                spots.partition_point(|spot| &spot.position()[..] < behind)
            }
            None => spots.len(),
        };
        let spots = &spots[..count];
        Ok(match page {
            Some((key, row)) => (key.value().to_vec(), change.of_page(row.value(), spots)?, count),
            None => (key(queue, &[]), change.of_page(&[], spots)?, count),
        })
    }

    /// The page of a queue for entries of a position, if there is one, and the next one.
    fn page_of(&self, queue: u64, position: &[u8]) -> Result<(PageOf<'_>, PageOf<'_>)> {
        let of_queue =
            |page: &(AccessGuard<'_, &[u8]>, _)| page.0.value().starts_with(&queue.to_be_bytes());
        let mut cursor = self.waiting.upper_bound(Included(&key(queue, position)[..]))?;
        let page = cursor.peek_prev()?.filter(of_queue);
        Ok((page, cursor.peek_next()?.filter(of_queue)))
    }

    /// The first entry at or behind a position; `walk` is left behind its lane.
    fn waiting_at(
        &self,
        queue: u64,
        position: &[u8],
        mut walk: Option<&mut Walk>,
    ) -> Result<Option<WaitingRow>> {
        let mut cursor = self.waiting.upper_bound(Included(&key(queue, position)[..]))?;
        // What is behind the position in its page, or else the next page's first entry.
        for page in [cursor.peek_prev()?, cursor.peek_next()?] {
            let Some((key, row)) = page else { continue };
            if !key.value().starts_with(&queue.to_be_bytes()) {
                continue;
            }
            let page = row.value();
            let mut at = 0;
            while let Some(section) = Section::at(page, at)? {
                at = section.end;
                if let Some(entry) = section.first_from(position)? {
                    if let Some(walk) = walk.take() {
                        walk.page.clear();
                        walk.page.extend_from_slice(&page[at..]);
                        walk.at = 0;
                    }
                    return waiting_row(&section, entry).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// True when the message with this index of a chunk is ready in a lane.
    pub fn is_waiting(&self, queue: u64, lane: &Lane, chunk: u64, index: u16) -> Result<bool> {
        Ok(self.waiting_in(queue, lane, chunk)?.contains(index))
    }

    /// Which messages of a chunk are ready in a lane.
    pub fn waiting_in(&self, queue: u64, lane: &Lane, chunk: u64) -> Result<Spans> {
        let row = self.waiting_from(queue, lane, chunk)?.filter(|row| row.chunk == chunk);
        Ok(row.map(|row| row.spans).unwrap_or_default())
    }

    /// The first entry of a lane whose chunk is not below `chunk`.
    pub fn waiting_from(&self, queue: u64, lane: &Lane, chunk: u64) -> Result<Option<WaitingRow>> {
        let row = self.waiting_at(queue, &position(lane, chunk), None)?;
        Ok(row.filter(|row| row.lane == *lane))
    }

    /// The first entry of the lane with the highest priority that is below `below` (256: any).
    pub fn highest_waiting(&self, queue: u64, below: u16) -> Result<Option<WaitingRow>> {
        let Some(most) = below.checked_sub(1) else {
            return Ok(None);
        };
        self.waiting_at(queue, &[255 - most as u8], None)
    }

    /// The first entry of the next lane of a priority, in the order of turns: behind the group
    /// `after`, or the first one. `walk` is new, or from the call that gave `after`.
    pub fn next_waiting(
        &self,
        queue: u64,
        priority: u8,
        after: Option<&[u8]>,
        walk: &mut Walk,
    ) -> Result<Option<WaitingRow>> {
        let row = if let Some(mut section) = Section::at(&walk.page, walk.at)? {
            walk.at = section.end;
            let entry = section.entries.next()?.ok_or_else(|| damaged("an empty lane"))?;
            Some(waiting_row(&section, entry)?)
        } else {
            let mut from = vec![255 - priority];
            if let Some(group) = after {
                from = position(&Lane { priority, group: group.to_vec() }, u64::MAX);
                from.push(0);
            }
            self.waiting_at(queue, &from, Some(walk))?
        };
        Ok(row.filter(|row| row.lane.priority == priority))
    }

    /// True when a queue has ready messages in lanes.
    pub(super) fn has_waiting(&self, queue: u64) -> Result<bool> {
        Ok(self.waiting_at(queue, &[], None)?.is_some())
    }

    /// Shows all entries of a queue, held against the invariants of pages.
    pub fn each_waiting(
        &self,
        queue: u64,
        mut show: impl FnMut(&WaitingRow) -> Result<()>,
    ) -> Result<()> {
        let mut last: Option<WaitingRow> = None;
        let (from, to) = (queue.to_be_bytes(), (queue + 1).to_be_bytes());
        for row in self.waiting.range::<&[u8]>((Included(&from[..]), Excluded(&to[..])))? {
            let (key, row) = row?;
            let (start, page) = (&key.value()[8..], row.value());
            // Those before it must be below its key.
            let before = last.as_ref().map(|last| position(&last.lane, last.chunk));
            let (mut at, mut entries) = (0, 0);
            while let Some(mut section) = Section::at(page, at)? {
                at = section.end;
                if section.entries.rest.is_empty() {
                    return Err(damaged("an empty lane"));
                }
                while let Some(entry) = section.entries.next()? {
                    let row = waiting_row(&section, entry)?;
                    let rises = last.as_ref().is_none_or(|last| {
                        (&last.lane, last.chunk).cmp(&(&row.lane, row.chunk)) == Ordering::Less
                    });
                    if !rises || row.spans.is_empty() || position(&row.lane, row.chunk)[..] < *start
                    {
                        return Err(damaged("an entry out of its place"));
                    }
                    entries += 1;
                    show(&row)?;
                    last = Some(row);
                }
            }
            let is_large = page.len() > PAGE_BYTES_MAX && entries > 1;
            if entries == 0 || is_large || before.is_some_and(|before| before[..] >= *start) {
                return Err(damaged("a page that is empty, too large or out of its place"));
            }
        }
        Ok(())
    }
}

fn waiting_row(section: &Section<'_>, mut entry: Entry<'_>) -> Result<WaitingRow> {
    let spans = Spans::take(&mut entry.spans)?;
    Ok(WaitingRow { lane: section.lane()?, chunk: entry.chunk, spans })
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("waiting: {what}"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use redb::backends::InMemoryBackend;

    use super::super::Store;
    use super::*;

    type Model = BTreeMap<(Lane, u64), BTreeSet<u16>>;

    fn store() -> Store {
        Store::open_backend(InMemoryBackend::new(), 1 << 20, 1).unwrap()
    }

    fn lane(priority: u8, group: &str) -> Lane {
        Lane { priority, group: group.as_bytes().to_vec() }
    }

    fn rows(tables: &Tables<'_>, queue: u64) -> Model {
        let mut rows = Model::new();
        let show = |row: &WaitingRow| {
            rows.insert((row.lane.clone(), row.chunk), row.spans.indexes().collect());
            Ok(())
        };
        tables.each_waiting(queue, show).unwrap();
        rows
    }

    /// A number below `below` that follows from `seed` (`SplitMix64`).
    fn pick(seed: &mut u64, below: u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) % below
    }

    #[test]
    fn pages_hold_what_a_map_holds() {
        for case in 0..8 {
            let mut seed = case;
            let lanes: Vec<Lane> = (0..=pick(&mut seed, 300))
                .map(|_| lane((pick(&mut seed, 2) * 7) as u8, &pick(&mut seed, 9_999).to_string()))
                .collect();
            let mut model = Model::new();
            let mut store = store();
            for step in 0..60 {
                // More comes in at first and more goes out in the end.
                let add = pick(&mut seed, 60) > step;
                let mut spots = BTreeMap::new();
                for _ in 0..pick(&mut seed, 200) {
                    let lane = &lanes[pick(&mut seed, lanes.len() as u64) as usize];
                    let chunk = 1 + 300 * pick(&mut seed, 1 + step);
                    let (first, count) = (pick(&mut seed, 40) * 7, 1 + pick(&mut seed, 7));
                    spots.insert((lane, chunk, first as u16), count as u16);
                }
                for ((lane, chunk, first), count) in &spots {
                    let entry = model.entry(((*lane).clone(), *chunk)).or_default();
                    for index in *first..*first + *count {
                        if add {
                            entry.insert(index)
                        } else {
                            entry.remove(&index)
                        };
                    }
                }
                model.retain(|_, indexes| !indexes.is_empty());
                let spot = |((lane, chunk, first), count)| Spot { lane, chunk, first, count };
                let mut spots: Vec<Spot<'_>> = spots.into_iter().map(spot).collect();
                spots.reverse();
                let change = if add { Change::Add } else { Change::Remove };
                store.write(|tables| tables.change_waiting(7, &mut spots, change)).unwrap();
                assert_eq!(store.read(|tables| Ok(rows(tables, 7))).unwrap(), model, "{case}");
            }
            for other in [6, 8] {
                assert_eq!(store.read(|tables| Ok(rows(tables, other))).unwrap(), Model::new());
            }
        }
    }

    #[test]
    fn lanes_are_found_one_behind_the_other() {
        let mut store = store();
        let groups: Vec<String> = (0..500).map(|group| (group * 3).to_string()).collect();
        let mut lanes: Vec<Lane> = groups.iter().map(|group| lane(3, group)).collect();
        lanes.extend([lane(9, ""), lane(3, ""), lane(0, "x"), lane(255, "y")]);
        let chunks = |lane: &Lane| if lane.group == b"300" { 2_000 } else { 2 };
        store
            .write(|tables| {
                for lane in &lanes {
                    for at in 0..chunks(lane) {
                        let spot = Spot { lane, chunk: 10 + at * 1_000, first: 5, count: 2 };
                        tables.add_waiting(7, &mut [spot])?;
                        tables.add_waiting(8, &mut [spot])?;
                    }
                }
                Ok(())
            })
            .unwrap();
        lanes.sort();
        store
            .read(|tables| {
                assert!(tables.waiting.iter()?.count() > 20);
                let of_3: Vec<&Lane> = lanes.iter().filter(|lane| lane.priority == 3).collect();
                for keeps_walk in [true, false] {
                    let (mut walk, mut after) = (Walk::default(), None);
                    for lane in &of_3 {
                        if !keeps_walk {
                            walk = Walk::default();
                        }
                        let row = tables.next_waiting(7, 3, after.as_deref(), &mut walk)?.unwrap();
                        assert_eq!((&row.lane, row.chunk), (*lane, 10));
                        after = Some(row.lane.group);
                    }
                    assert_eq!(tables.next_waiting(7, 3, after.as_deref(), &mut walk)?, None);
                }
                for lane in &lanes {
                    for at in 0..chunks(lane) {
                        let chunk = 10 + at * 1_000;
                        let row = tables.waiting_from(7, lane, chunk - 9)?.unwrap();
                        assert_eq!((&row.lane, row.chunk), (lane, chunk));
                        assert!(tables.is_waiting(7, lane, chunk, 6)?);
                        assert!(!tables.is_waiting(7, lane, chunk, 7)?);
                    }
                    assert_eq!(tables.waiting_from(7, lane, 10 + chunks(lane) * 1_000)?, None);
                }
                let highest = |below| {
                    tables.highest_waiting(7, below).map(|row| row.map(|row| row.lane.priority))
                };
                for (below, priority) in [(256, 255), (255, 9), (9, 3), (3, 0)] {
                    assert_eq!(highest(below)?, Some(priority), "{below}");
                }
                assert_eq!((highest(0)?, tables.highest_waiting(9, 256)?), (None, None));
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn an_entry_too_large_for_a_page_has_one_of_its_own() {
        let mut store = store();
        let (a, b) = (lane(0, "a"), lane(0, "b"));
        let spot = |lane, chunk, first| Spot { lane, chunk, first, count: 1 };
        let mut spots: Vec<Spot<'_>> =
            (0..1_500).map(|at| spot(&a, 500, at * 2)).chain([spot(&b, 1, 1)]).collect();
        spots.extend([spot(&a, 1, 1), spot(&a, 9_999, 1)]);
        store.write(|tables| tables.add_waiting(7, &mut spots)).unwrap();
        let found = store.read(|tables| Ok(rows(tables, 7))).unwrap();
        assert_eq!(found.values().map(BTreeSet::len).collect::<Vec<_>>(), [1, 1_500, 1, 1]);
        store.write(|tables| tables.remove_waiting(7, &mut spots)).unwrap();
        assert_eq!(store.read(|tables| Ok(tables.waiting.iter()?.count())).unwrap(), 0);
    }

    #[test]
    fn damaged_pages_are_errors() {
        let spans = [1, 0, 1];
        let section =
            |chunk: u64, bytes: u8| [&[255, 1, b'g', bytes, 0, chunk as u8][..], &spans].concat();
        let good = section(4, 4);
        let twice = [&good[..], &good].concat();
        for (start, page) in [
            (&[][..], &[][..]),
            (&[], &good[..8]),
            (&[], &good[..1]),
            (&[], &section(4, 9)),
            (&[], &section(4, 0)),
            (&[], &twice),
            (&[255, 1, b'h'], &good),
            (&[], &[&[255, 1, b'g', 8, 0, 4][..], &spans, &[0], &spans].concat()),
        ] {
            let mut store = store();
            let key = key(7, start);
            let put =
                |tables: &mut Tables<'_>| Ok(tables.waiting.insert(&key[..], page)?.is_some());
            store.write(put).unwrap();
            assert!(store.read(|tables| tables.each_waiting(7, |_| Ok(()))).is_err(), "{page:?}");
        }
    }

    #[test]
    fn lanes_stand_as_their_positions_do() {
        let sorted = [
            position(&lane(9, "b"), 1),
            position(&lane(0, ""), u64::MAX),
            position(&lane(0, "a"), 2),
            position(&lane(0, "a"), 256),
            position(&lane(0, "b"), 1),
            position(&lane(0, "aa"), 0),
        ];
        assert!(sorted.is_sorted());
        assert!([lane(9, "b"), lane(0, ""), lane(0, "a"), lane(0, "b"), lane(0, "aa")].is_sorted());
    }
}
