//! Taking messages of lanes: by priority, the groups of one in turns.
//!
//! Always true here:
//!
//! - What is to be taken is looked up first, a block at a time, and nothing is changed by that: whatever
//!   does not fit stays where it is. What was taken leaves its places at the end, row by row.
//! - Of a plain queue each group of a priority gives one message a turn. Of an ordered one each gives
//!   what it can before the next one is looked at, so that a receive holds few groups.
//! - The turn is the group that was served last; the ring goes on behind it, in the order of the keys.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use qd_protocol::verbs::ReceivedMessage;
use qd_protocol::{Body, Receipt};

use super::receive::{Limits, Room, Taken};
use super::{CHUNKS_WALKED_PER_RECORD_MAX, Queue, Step};
use crate::store::chunk::{ChunkView, Content, EntryView};
use crate::store::lanes::{Hold, Lane, WaitingRow};
use crate::store::lease::{Delivered, Run, push_run};
use crate::store::{Result, StoreError, Tables};

/// Messages that are looked up at once.
const BLOCK: usize = 128;
/// Rows of returned messages that are read at once.
const RETURNED_PAGE: usize = 64;

/// A message that may be taken.
#[derive(Clone, Copy)]
struct Candidate {
    id: u64,
    /// First id of its chunk.
    chunk: u64,
    delivered: Delivered,
    /// Of the default lane, whether it has a row in `returned`.
    returned: bool,
}

/// The ready messages of one lane in the order of their ids, read a row at a time.
struct Source {
    kind: Kind,
    ready: VecDeque<Candidate>,
    /// There is nothing more to be read.
    is_over: bool,
    /// It gives nothing more in this receive: the time of its next message is over.
    is_shut: bool,
    taken: Vec<Candidate>,
    /// Candidates that were not taken.
    left: Vec<Candidate>,
}

enum Kind {
    /// A lane with rows in `waiting`.
    Lane {
        lane: Lane,
        /// The first chunk that was not read.
        from: u64,
        /// Ids from here on must wait.
        until: u64,
    },
    /// The default lane.
    Default(DefaultLane),
}

/// How far the default lane was read.
struct DefaultLane {
    cursor: u64,
    untouched: u64,
    /// Rows of `returned` that were read and are not candidates yet.
    returned: VecDeque<(u64, Delivered)>,
    returned_from: u64,
    returned_left: u64,
}

impl Source {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            ready: VecDeque::new(),
            is_over: false,
            is_shut: false,
            taken: Vec::new(),
            left: Vec::new(),
        }
    }

    fn of_row(row: WaitingRow, until: u64) -> Self {
        let WaitingRow { lane, chunk, spans } = row;
        let mut source = Self::new(Kind::Lane { lane, from: chunk + 1, until });
        source.push_row(chunk, spans.indexes(), until);
        source
    }

    fn of_default(queue: &Queue) -> Self {
        Self::new(Kind::Default(DefaultLane {
            cursor: queue.cursor,
            untouched: queue.untouched(),
            returned: VecDeque::new(),
            returned_from: 0,
            returned_left: queue.returned,
        }))
    }

    fn push_row(&mut self, chunk: u64, indexes: impl Iterator<Item = u16>, until: u64) {
        let ids = indexes.map(|index| chunk + u64::from(index)).take_while(|id| *id < until);
        let delivered = Delivered::default();
        self.ready.extend(ids.map(|id| Candidate { id, chunk, delivered, returned: false }));
    }

    fn group(&self) -> &[u8] {
        match &self.kind {
            Kind::Lane { lane, .. } => &lane.group,
            Kind::Default(_) => &[],
        }
    }
}

impl DefaultLane {
    /// Reads on until there is a candidate or no more. Counts the chunks that had none.
    fn read(
        &mut self,
        tables: &Tables<'_>,
        number: u64,
        walked: &mut usize,
        ready: &mut VecDeque<Candidate>,
    ) -> Result<()> {
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
struct Ring {
    priority: u8,
    ordered: bool,
    sources: Vec<Source>,
    /// The source whose turn it is, once all are there.
    at: usize,
    /// The source of the message that was taken last.
    last: Option<usize>,
    /// The group that was served last.
    turn: Option<Vec<u8>>,
    /// The group that was looked at last.
    after: Option<Vec<u8>>,
    /// It has come round to the first group.
    is_round: bool,
    /// Every group was looked at.
    is_whole: bool,
    /// The default lane is one of them and has not had its turn.
    has_default: bool,
}

impl Ring {
    fn new(queue: &Queue, priority: u8, turn: Option<Vec<u8>>) -> Self {
        let ordered = queue.attributes.ordered;
        let default_ready = queue.statistics.ready - queue.waiting;
        Self {
            priority,
            ordered,
            sources: Vec::new(),
            at: 0,
            last: None,
            is_round: turn.is_none(),
            after: turn.clone(),
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
            self.after = Some(row.lane.group.clone());
            self.sources.push(Source::of_row(row, until));
            return Ok(true);
        }
        Ok(false)
    }

    /// The first row of the group behind the one that was looked at last, and the id from which on its
    /// messages must wait.
    fn next_row(&self, tables: &Tables<'_>, number: u64) -> Result<Option<(WaitingRow, u64)>> {
        if !self.ordered {
            let row = tables.next_waiting(number, self.priority, self.after.as_deref())?;
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
    fn next(
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
                return Ok(Some((at, candidate)));
            }
        }
        if self.ordered {
            return Ok(None);
        }
        let count = self.sources.len();
        for _ in 0..count {
            let at = self.at % count;
            self.at = at + 1;
            if let Some(candidate) = self.sources[at].pop(tables, number, walked)? {
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
        if self.ready.is_empty() && !self.is_over {
            match &mut self.kind {
                Kind::Default(lane) => lane.read(tables, number, walked, &mut self.ready)?,
                Kind::Lane { lane, from, until } => {
                    let until = *until;
                    let row = tables.waiting_from(number, lane, *from)?;
                    if let Some(WaitingRow { chunk, spans, .. }) = row {
                        *from = chunk + 1;
                        self.push_row(chunk, spans.indexes(), until);
                    }
                }
            }
            self.is_over = self.ready.is_empty();
        }
        if self.is_shut { Ok(None) } else { Ok(self.ready.pop_front()) }
    }
}

/// A candidate's message, but for the content of a large one.
struct Found {
    entry: EntryView,
    is_over: bool,
    message: ReceivedMessage,
}

impl Step<'_, '_> {
    /// Takes ready messages of a queue that has lanes out of their places, for a lease that ends at
    /// `end_ms` unless they are deleted at once.
    pub(super) fn take_from_lanes(
        &mut self,
        number: u64,
        end_ms: u64,
        delete: bool,
        room: &mut Room,
    ) -> Result<Taken> {
        self.refresh_groups(Some(number))?;
        let mut taken = Taken::default();
        let mut rings = Vec::new();
        let mut below = 256;
        while room.left() > 0 && !room.full {
            let Some(priority) = self.next_priority(number, below)? else {
                break;
            };
            below = u16::from(priority);
            let turn = self.tables.turn(number, priority)?;
            let mut ring = Ring::new(&self.queues[&number], priority, turn);
            while self.take_block(number, end_ms, &mut ring, room, &mut taken)? {}
            rings.push(ring);
        }
        for ring in rings {
            self.leave_places(number, delete, ring)?;
        }
        taken.unfinished = self.walked >= CHUNKS_WALKED_PER_RECORD_MAX;
        let mut runs = std::mem::take(&mut taken.runs);
        runs.sort_unstable_by_key(|run| run.first);
        for run in runs {
            push_run(&mut taken.runs, run);
        }
        Ok(taken)
    }

    /// The highest priority below `below` that has ready messages.
    fn next_priority(&self, number: u64, below: u16) -> Result<Option<u8>> {
        let queue = &self.queues[&number];
        if queue.attributes.ordered {
            return Ok((below == 256).then_some(0));
        }
        let row = self.tables.highest_waiting(number, below)?;
        let has_default = below > 0 && queue.statistics.ready > queue.waiting;
        Ok(row.map(|row| row.lane.priority).or(has_default.then_some(0)))
    }

    /// Takes some messages of a priority, in turns. False: there are no more, or they do not fit.
    fn take_block(
        &mut self,
        number: u64,
        end_ms: u64,
        ring: &mut Ring,
        room: &mut Room,
        taken: &mut Taken,
    ) -> Result<bool> {
        let queue = &self.queues[&number];
        let mut picks = Vec::new();
        while picks.len() < BLOCK.min(room.left()) {
            let Some((at, mut pick)) = ring.next(self.tables, number, queue, &mut self.walked)?
            else {
                break;
            };
            if queue.tried > 0 && !pick.returned {
                pick.delivered = self.tables.tried(number, pick.id)?.unwrap_or_default();
            }
            picks.push((at, pick));
        }
        let limits = Limits { now_ms: self.now_ms, retention_ms: queue.attributes.retention_ms };
        let found = find(self.tables, number, &picks, limits)?;
        let is_last = picks.is_empty();
        for ((at, pick), found) in picks.into_iter().zip(found) {
            let source = &mut ring.sources[at];
            source.is_shut |= found.is_over;
            if source.is_shut || !room.take(found.entry.bytes()) {
                source.left.push(pick);
                continue;
            }
            let Candidate { id, chunk, delivered, .. } = pick;
            let attempt = delivered.attempts + 1;
            let first_ms = if delivered.first_ms == 0 { self.now_ms } else { delivered.first_ms };
            taken.runs.push(Run { chunk, first: id, count: 1, attempt, end_ms, first_ms });
            taken.redelivered += u64::from(delivered.attempts > 0);
            taken.messages.push(with_content(self.tables, number, found)?);
            source.taken.push(pick);
            ring.last = Some(at);
        }
        Ok(!is_last && !room.full)
    }

    /// Takes what was taken out of its places, and notes whose turn it was.
    fn leave_places(&mut self, number: u64, delete: bool, ring: Ring) -> Result<()> {
        let Some(last) = ring.last else {
            // Where nothing was taken the default lane may have been walked all the same.
            for source in ring.sources {
                self.leave_source(number, delete, ring.ordered, source)?;
            }
            return Ok(());
        };
        let group = ring.sources[last].group().to_vec();
        self.tables.put_turn(number, ring.priority, &group)?;
        for source in ring.sources {
            self.leave_source(number, delete, ring.ordered, source)?;
        }
        Ok(())
    }

    fn leave_source(
        &mut self,
        number: u64,
        delete: bool,
        ordered: bool,
        source: Source,
    ) -> Result<()> {
        let Source { kind, ready, taken, left, .. } = source;
        match kind {
            Kind::Default(lane) => {
                for pick in taken.iter().filter(|pick| pick.returned) {
                    self.tables.remove_returned(number, pick.id)?;
                    self.queue(number).returned -= 1;
                }
                // What was looked at and not taken is untouched as before.
                let left = left.iter().chain(&ready).filter(|pick| !pick.returned);
                let first_left = left.map(|pick| pick.id).min();
                self.queue(number).cursor = first_left.unwrap_or(lane.cursor);
            }
            Kind::Lane { lane, .. } if !taken.is_empty() => {
                for of_chunk in taken.chunk_by(|a, b| a.chunk == b.chunk) {
                    let chunk = of_chunk[0].chunk;
                    let indexes: Vec<u16> =
                        of_chunk.iter().map(|pick| (pick.id - chunk) as u16).collect();
                    self.tables.change_waiting(number, &lane, chunk, &[], &indexes)?;
                }
                for pick in &taken {
                    if pick.delivered != Delivered::default() {
                        self.remove_tried(number, pick.id)?;
                    }
                    if ordered && !delete {
                        self.tables.put_hold(number, &lane.group, Hold::Leased, pick.id)?;
                    }
                }
                self.queue(number).waiting -= taken.len() as u64;
                self.group_changed(number, lane.group);
            }
            Kind::Lane { .. } => {}
        }
        Ok(())
    }
}

/// Looks the candidates up, each chunk once.
fn find(
    tables: &Tables<'_>,
    number: u64,
    picks: &[(usize, Candidate)],
    limits: Limits,
) -> Result<Vec<Found>> {
    let mut order: Vec<usize> = (0..picks.len()).collect();
    order.sort_unstable_by_key(|&at| picks[at].1.id);
    let mut found = BTreeMap::new();
    for same in order.chunk_by(|a, b| picks[*a].1.chunk == picks[*b].1.chunk) {
        let chunk = picks[same[0]].1.chunk;
        let row = tables.chunk(number, chunk)?;
        let view = row.view()?;
        for &at in same {
            let Candidate { id, delivered, .. } = picks[at].1;
            let entry = view.entry((id - chunk) as usize)?;
            let is_over = limits.is_over(&entry, view.sent_at_ms());
            let message = message(&view, &entry, id, delivered.attempts + 1)?;
            found.insert(at, Found { entry, is_over, message });
        }
    }
    Ok(found.into_values().collect())
}

/// A message without the content of a large one.
fn message(
    view: &ChunkView<'_>,
    entry: &EntryView,
    id: u64,
    attempt: u32,
) -> Result<ReceivedMessage> {
    let (fields, bytes) = match entry.content {
        Content::Inline { fields, body, end } => {
            let mut whole = Bytes::copy_from_slice(view.bytes(fields, end)?);
            (whole.split_to(body - fields), whole)
        }
        Content::External { .. } => (Bytes::new(), Bytes::new()),
    };
    Ok(ReceivedMessage {
        queue: 0,
        id,
        receipt: Receipt { queue: 0, lease: 0, id: 0, secret: 0 },
        attempt,
        sent_at_ms: view.sent_at_ms(),
        lease_until_ms: 0,
        fields,
        body: Body { bytes, crc: entry.crc },
    })
}

/// The message with its content, held against its check sum.
fn with_content(tables: &Tables<'_>, number: u64, found: Found) -> Result<ReceivedMessage> {
    let Found { entry, mut message, .. } = found;
    if let Content::External { fields, body } = entry.content {
        let mut whole = Bytes::from(tables.parts(number, message.id, fields + body)?);
        message.fields = whole.split_to(fields);
        message.body.bytes = whole;
    }
    if !message.body.is_intact() {
        let what = format!("message {} of queue {number} does not have its CRC-32C", message.id);
        return Err(StoreError::Damaged(what));
    }
    Ok(message)
}

fn missing(queue: u64, id: u64) -> StoreError {
    StoreError::Damaged(format!("queue {queue} has no chunk that holds message {id}"))
}
