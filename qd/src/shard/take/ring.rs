//! The messages that can be taken of a queue's lanes, in the order of their turns.
//!
//! Nothing here changes anything: a ring reads rows as far as it is asked for messages.

use std::collections::VecDeque;

use super::super::{CHUNKS_WALKED_PER_RECORD_MAX, Queue};
use crate::store::lanes::Lane;
use crate::store::lease::Delivered;
use crate::store::spans::Indexes;
use crate::store::waiting::{WaitingRow, Walk};
use crate::store::{Result, StoreError, Tables};

/// Rows of returned messages that are read at once.
const RETURNED_PAGE: usize = 64;

/// A message that may be taken.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub id: u64,
    /// First id of its chunk.
    pub chunk: u64,
    pub delivered: Delivered,
    /// Of the default lane, whether it has a row in `returned`.
    pub returned: bool,
}

/// The ready messages of one lane in the order of their ids, read an entry at a time.
pub(super) struct Source {
    pub kind: Kind,
    /// There is nothing more to be read.
    is_over: bool,
    /// It gives nothing more in this receive: the time of its next message is over.
    pub is_shut: bool,
}

pub(super) enum Kind {
    /// A lane with entries in `waiting`.
    Lane {
        lane: Lane,
        /// The chunk that was read last.
        chunk: u64,
        /// What is left of it.
        indexes: Indexes,
        /// Ids from here on must wait.
        until: u64,
    },
    /// The default lane.
    Default(DefaultLane),
}

/// How far the default lane was read.
pub(super) struct DefaultLane {
    pub cursor: u64,
    /// Candidates of what was read.
    pub ready: VecDeque<Candidate>,
    untouched: u64,
    /// Rows of `returned` that were read and are not candidates yet.
    returned: VecDeque<(u64, Delivered)>,
    returned_from: u64,
    returned_left: u64,
}

impl Source {
    fn new(kind: Kind) -> Self {
        Self { kind, is_over: false, is_shut: false }
    }

    fn of_row(row: WaitingRow, until: u64) -> Self {
        let WaitingRow { lane, chunk, spans } = row;
        Self::new(Kind::Lane { lane, chunk, indexes: spans.into_iter(), until })
    }

    fn of_default(queue: &Queue) -> Self {
        Self::new(Kind::Default(DefaultLane {
            cursor: queue.cursor,
            ready: VecDeque::new(),
            untouched: queue.untouched(),
            returned: VecDeque::new(),
            returned_from: 0,
            returned_left: queue.returned,
        }))
    }

    /// Its group.
    pub fn group(&self) -> &[u8] {
        match &self.kind {
            Kind::Lane { lane, .. } => &lane.group,
            Kind::Default(_) => &[],
        }
    }
}

impl DefaultLane {
    /// Reads on until there is a candidate or no more. Counts the chunks that had none.
    fn read(&mut self, tables: &Tables<'_>, number: u64, walked: &mut usize) -> Result<()> {
        let ready = &mut self.ready;
        while ready.is_empty() && *walked < CHUNKS_WALKED_PER_RECORD_MAX {
            if self.returned.is_empty() && self.returned_left > 0 {
                let page = tables.returned(number, self.returned_from, RETURNED_PAGE)?;
                self.returned_from = page.last().map_or(u64::MAX, |(id, _)| id + 1);
                self.returned_left -= self.returned_left.min(page.len() as u64);
                self.returned.extend(page);
            }
            let front = self.returned.front().map(|(id, _)| *id);
            if front.is_some_and(|id| self.untouched == 0 || id <= self.cursor) {
                if let Some((id, delivered)) = self.returned.pop_front() {
                    let row = tables.chunk_from(number, id)?.ok_or_else(|| missing(number, id))?;
                    ready.push_back(Candidate { id, chunk: row.first, delivered, returned: true });
                }
                return Ok(());
            }
            if self.untouched == 0 {
                return Ok(());
            }
            let row = tables.chunk_from(number, self.cursor)?;
            let row = row.ok_or_else(|| missing(number, self.cursor))?;
            let view = row.view()?;
            let chunk = row.first;
            let marks = tables.marks(number, chunk, view.count())?;
            let first = self.cursor.max(chunk);
            let end = (chunk + view.count() as u64).min(front.unwrap_or(u64::MAX)).max(first);
            if !view.is_apart() {
                let delivered = Delivered::default();
                let ids = (first..end).filter(|id| !marks.is_marked((id - chunk) as usize));
                ready.extend(ids.map(|id| Candidate { id, chunk, delivered, returned: false }));
            }
            self.cursor = end;
            self.untouched -= self.untouched.min(ready.len() as u64);
            *walked += usize::from(ready.is_empty());
        }
        Ok(())
    }
}

/// The lanes of one priority, or the groups of an ordered queue, in the order of their turns.
pub(super) struct Ring {
    pub priority: u8,
    pub ordered: bool,
    pub sources: Vec<Source>,
    /// Of a plain queue, the sources that have something left, in the order of their next turns.
    turns: VecDeque<usize>,
    /// What was taken, in this order, with its source.
    pub taken: Vec<(usize, Candidate)>,
    /// Candidates that were not taken.
    pub left: Vec<(usize, Candidate)>,
    /// The group that was served last.
    turn: Option<Vec<u8>>,
    /// The group that was looked at last.
    after: Option<Vec<u8>>,
    /// Of a plain queue, where that is.
    walk: Walk,
    /// It has come round to the first group.
    is_round: bool,
    /// Every group was looked at.
    is_whole: bool,
    /// The default lane is one of them and has not had its turn.
    has_default: bool,
}

impl Ring {
    pub fn new(queue: &Queue, priority: u8, turn: Option<Vec<u8>>) -> Self {
        let ordered = queue.attributes.ordered;
        let default_ready = queue.statistics.ready - queue.waiting;
        Self {
            priority,
            ordered,
            sources: Vec::new(),
            turns: VecDeque::new(),
            taken: Vec::new(),
            left: Vec::new(),
            is_round: turn.is_none(),
            after: turn.clone(),
            walk: Walk::default(),
            turn,
            is_whole: false,
            has_default: !ordered && priority == 0 && default_ready > 0,
        }
    }

    /// Adds the next group that was not looked at. False: all were.
    fn next_source(&mut self, tables: &Tables<'_>, number: u64, queue: &Queue) -> Result<bool> {
        while !self.is_whole {
            if self.is_round && self.has_default {
                self.has_default = false;
                self.sources.push(Source::of_default(queue));
                return Ok(true);
            }
            let found = self.next_row(tables, number)?;
            let Some((row, until)) = found else {
                self.is_whole = self.is_round;
                self.is_round = true;
                self.after = None;
                self.walk = Walk::default();
                continue;
            };
            let is_past = |turn: &Vec<u8>| {
                let group = &row.lane.group;
                (group.len(), group) > (turn.len(), turn)
            };
            if self.is_round && self.turn.as_ref().is_some_and(is_past) {
                self.is_whole = true;
                break;
            }
            self.after.get_or_insert_default().clone_from(&row.lane.group);
            self.sources.push(Source::of_row(row, until));
            return Ok(true);
        }
        Ok(false)
    }

    /// The first entry of the group behind the one that was looked at last, and the id from which on its
    /// messages must wait.
    fn next_row(&mut self, tables: &Tables<'_>, number: u64) -> Result<Option<(WaitingRow, u64)>> {
        if !self.ordered {
            let after = self.after.as_deref();
            let row = tables.next_waiting(number, self.priority, after, &mut self.walk)?;
            return Ok(row.map(|row| (row, u64::MAX)));
        }
        let Some(group) = tables.next_servable(number, self.after.as_deref())? else {
            return Ok(None);
        };
        let until = tables.hold(number, &group)?.map_or(u64::MAX, |(_, id)| id);
        let lane = Lane { priority: 0, group };
        let row = tables.waiting_from(number, &lane, 0)?;
        row.map(|row| Ok((row, until))).transpose()
    }

    /// The next message to be taken, and its source; `None`: there is none.
    pub fn next(
        &mut self,
        tables: &Tables<'_>,
        number: u64,
        queue: &Queue,
        walked: &mut usize,
    ) -> Result<Option<(usize, Candidate)>> {
        loop {
            // An ordered queue goes on with the group that it is at; a plain one with the next one.
            let last = self.sources.len().checked_sub(1).filter(|_| self.ordered);
            if let Some(at) = last
                && let Some(candidate) = self.sources[at].pop(tables, number, walked)?
            {
                return Ok(Some((at, candidate)));
            }
            if !self.next_source(tables, number, queue)? {
                break;
            }
            let at = self.sources.len() - 1;
            if let Some(candidate) = self.sources[at].pop(tables, number, walked)? {
                if !self.ordered {
                    self.turns.push_back(at);
                }
                return Ok(Some((at, candidate)));
            }
        }
        // One that has given all it had has no turn any more.
        while let Some(at) = self.turns.pop_front() {
            if let Some(candidate) = self.sources[at].pop(tables, number, walked)? {
                self.turns.push_back(at);
                return Ok(Some((at, candidate)));
            }
        }
        Ok(None)
    }
}

impl Source {
    /// The next candidate, after reading on if need be.
    fn pop(
        &mut self,
        tables: &Tables<'_>,
        number: u64,
        walked: &mut usize,
    ) -> Result<Option<Candidate>> {
        if self.is_over || self.is_shut {
            return Ok(None);
        }
        let candidate = match &mut self.kind {
            Kind::Default(lane) => {
                lane.read(tables, number, walked)?;
                lane.ready.pop_front()
            }
            Kind::Lane { lane, chunk, indexes, until } => {
                let mut index = indexes.next();
                if index.is_none()
                    && let Some(row) = tables.waiting_from(number, lane, *chunk + 1)?
                {
                    (*chunk, *indexes) = (row.chunk, row.spans.into_iter());
                    index = indexes.next();
                }
                let (chunk, delivered) = (*chunk, Delivered::default());
                let id = index.map(|index| chunk + u64::from(index)).filter(|id| *id < *until);
                id.map(|id| Candidate { id, chunk, delivered, returned: false })
            }
        };
        self.is_over = candidate.is_none();
        Ok(candidate)
    }
}

fn missing(queue: u64, id: u64) -> StoreError {
    StoreError::Damaged(format!("queue {queue} has no chunk that holds message {id}"))
}
