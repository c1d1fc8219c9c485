//! Taking messages of lanes: by priority, the groups of one in turns.
//!
//! Always true here:
//!
//! - What is to be taken is looked up first, a block at a time, and nothing is changed by that: whatever
//!   does not fit stays where it is. What was taken leaves its places at the end, all at once.
//! - Of a plain queue each group of a priority gives one message a turn. Of an ordered one each gives
//!   what it can before the next one is looked at, so that a receive holds few groups.
//! - The turn is the group that was served last; the ring goes on behind it, in the order of the keys.

mod ring;

use bytes::Bytes;
use qd_protocol::verbs::ReceivedMessage;
use qd_protocol::{Body, Receipt};

use ring::{Candidate, Kind, Ring};

use super::receive::{Limits, Room, Taken};
use super::{CHUNKS_WALKED_PER_RECORD_MAX, Step};
use crate::store::chunk::{ChunkView, Content, EntryView};
use crate::store::lanes::Hold;
use crate::store::lease::{Delivered, Run, push_run};
use crate::store::waiting::Spot;
use crate::store::{Result, StoreError, Tables};

/// Messages that are looked up at once.
const BLOCK: usize = 128;

/// A candidate's message, without content where that is to be copied when it is taken.
struct Found {
    entry: EntryView,
    is_over: bool,
    has_content: bool,
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
        while room.left() > 0 && !room.full && self.walked < CHUNKS_WALKED_PER_RECORD_MAX {
            let Some(priority) = self.next_priority(number, below)? else {
                break;
            };
            below = u16::from(priority);
            let turn = self.tables.turn(number, priority)?;
            let mut ring = Ring::new(&self.queues[&number], priority, turn);
            while self.take_block(number, end_ms, &mut ring, room, &mut taken)? {}
            rings.push(ring);
        }
        self.leave_lanes(number, &rings)?;
        for ring in &rings {
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
        let found = find(self.tables, number, &picks, limits, room.bytes_left())?;
        let is_last = picks.is_empty();
        for ((at, pick), found) in picks.into_iter().zip(found) {
            let source = &mut ring.sources[at];
            if found.is_over && !source.is_shut {
                source.is_shut = true;
                // There may be very many such groups, of which a record settles only some.
                self.walked += 1;
            }
            if source.is_shut || !room.take(found.entry.bytes()) {
                ring.left.push((at, pick));
                continue;
            }
            let Candidate { id, chunk, delivered, .. } = pick;
            let attempt = delivered.attempts + 1;
            let first_ms = if delivered.first_ms == 0 { self.now_ms } else { delivered.first_ms };
            taken.runs.push(Run { chunk, first: id, count: 1, attempt, end_ms, first_ms });
            taken.redelivered += u64::from(delivered.attempts > 0);
            taken.messages.push(with_content(self.tables, number, chunk, found)?);
            ring.taken.push((at, pick));
        }
        Ok(!is_last && !room.full && self.walked < CHUNKS_WALKED_PER_RECORD_MAX)
    }

    /// Takes what was taken out of the lanes that have entries.
    fn leave_lanes(&mut self, number: u64, rings: &[Ring]) -> Result<()> {
        let mut spots: Vec<Spot<'_>> = Vec::new();
        for ring in rings {
            for (at, Candidate { id, chunk, .. }) in &ring.taken {
                if let Kind::Lane { lane, .. } = &ring.sources[*at].kind {
                    let first = (id - chunk) as u16;
                    spots.push(Spot { lane, chunk: *chunk, first, count: 1 });
                }
            }
        }
        self.tables.remove_waiting(number, &mut spots)
    }

    /// Takes what was taken out of its other places, and notes whose turn it was.
    fn leave_places(&mut self, number: u64, delete: bool, ring: &Ring) -> Result<()> {
        if let Some((last, _)) = ring.taken.last() {
            self.tables.put_turn(number, ring.priority, ring.sources[*last].group())?;
        }
        for taken in ring.taken.chunk_by(|(a, _), (b, _)| a == b) {
            let Kind::Lane { lane, .. } = &ring.sources[taken[0].0].kind else {
                for (_, pick) in taken.iter().filter(|(_, pick)| pick.returned) {
                    self.tables.remove_returned(number, pick.id)?;
                    self.queue(number).returned -= 1;
                }
                continue;
            };
            for (_, pick) in taken {
                if pick.delivered != Delivered::default() {
                    self.remove_tried(number, pick.id)?;
                }
                if ring.ordered && !delete {
                    self.tables.put_hold(number, &lane.group, Hold::Leased, pick.id)?;
                }
            }
            self.queue(number).waiting -= taken.len() as u64;
            self.group_changed(number, &lane.group);
        }
        for (at, source) in ring.sources.iter().enumerate() {
            if let Kind::Default(lane) = &source.kind {
                // What was looked at and not taken is untouched as before, also where nothing was taken.
                let left = ring.left.iter().filter(|(of, _)| *of == at).map(|(_, pick)| pick);
                let left = left.chain(&lane.ready).filter(|pick| !pick.returned);
                let first_left = left.map(|pick| pick.id).min();
                self.queue(number).cursor = first_left.unwrap_or(lane.cursor);
            }
        }
        Ok(())
    }
}

/// Looks the candidates up, each chunk once, and copies contents of `bytes` in all: there is no room
/// for more.
fn find(
    tables: &Tables<'_>,
    number: u64,
    picks: &[(usize, Candidate)],
    limits: Limits,
    mut bytes: u64,
) -> Result<Vec<Found>> {
    let mut order: Vec<usize> = (0..picks.len()).collect();
    order.sort_unstable_by_key(|&at| picks[at].1.id);
    let mut found: Vec<Option<Found>> = picks.iter().map(|_| None).collect();
    // One allocation for all of them: fields and body of each stand one behind the other.
    let (mut contents, mut ranges) = (Vec::new(), Vec::new());
    for same in order.chunk_by(|a, b| picks[*a].1.chunk == picks[*b].1.chunk) {
        let chunk = picks[same[0]].1.chunk;
        let row = tables.chunk(number, chunk)?;
        let view = row.view()?;
        for &at in same {
            let Candidate { id, delivered, .. } = picks[at].1;
            let entry = view.entry((id - chunk) as usize)?;
            let is_over = limits.is_over(&entry, view.sent_at_ms());
            let is_inline = matches!(entry.content, Content::Inline { .. });
            let has_content = is_inline && !is_over && entry.bytes() <= bytes;
            let message = message(&view, &entry, id, delivered.attempts + 1);
            if let Content::Inline { fields, body, end } = entry.content
                && has_content
            {
                bytes -= entry.bytes();
                let start = contents.len();
                contents.extend_from_slice(view.bytes(fields, end)?);
                ranges.push((at, start, start + (body - fields)));
            }
            found[at] = Some(Found { entry, is_over, has_content, message });
        }
    }
    let mut contents = Bytes::from(contents);
    for (at, start, body) in ranges.into_iter().rev() {
        if let Some(found) = &mut found[at] {
            found.message.body.bytes = contents.split_off(body);
            found.message.fields = contents.split_off(start);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// A message without content.
fn message(view: &ChunkView<'_>, entry: &EntryView, id: u64, attempt: u32) -> ReceivedMessage {
    ReceivedMessage {
        queue: 0,
        id,
        receipt: Receipt { queue: 0, lease: 0, id: 0, secret: 0 },
        attempt,
        sent_at_ms: view.sent_at_ms(),
        lease_until_ms: 0,
        fields: Bytes::new(),
        body: Body { bytes: Bytes::new(), crc: entry.crc },
    }
}

/// Copies what stands in the chunk.
fn copy_inline(
    view: &ChunkView<'_>,
    entry: &EntryView,
    message: &mut ReceivedMessage,
) -> Result<()> {
    if let Content::Inline { fields, body, end } = entry.content {
        let mut whole = Bytes::copy_from_slice(view.bytes(fields, end)?);
        message.fields = whole.split_to(body - fields);
        message.body.bytes = whole;
    }
    Ok(())
}

/// The message with its content, held against its check sum.
fn with_content(
    tables: &Tables<'_>,
    number: u64,
    chunk: u64,
    found: Found,
) -> Result<ReceivedMessage> {
    let Found { entry, has_content, mut message, .. } = found;
    if let Content::External { fields, body } = entry.content {
        let mut whole = Bytes::from(tables.parts(number, message.id, fields + body)?);
        message.fields = whole.split_to(fields);
        message.body.bytes = whole;
    } else if !has_content {
        copy_inline(&tables.chunk(number, chunk)?.view()?, &entry, &mut message)?;
    }
    if !message.body.is_intact() {
        let what = format!("message {} of queue {number} does not have its CRC-32C", message.id);
        return Err(StoreError::Damaged(what));
    }
    Ok(message)
}
