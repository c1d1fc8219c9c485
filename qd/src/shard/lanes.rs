//! Lanes of a queue: where the messages of a priority and a group are ready.
//!
//! Always true here:
//!
//! - The messages of a plain queue that say nothing of priority and group are in its *default lane*,
//!   which has no row: its cursor and its returned messages are its index. All others, and all of an
//!   ordered queue, have an index in an entry of `waiting` while they are ready, and none otherwise.
//! - A group of an ordered queue is in the ring when it can be served: it has a ready message, a
//!   consumer has none of its messages, and none that is delayed comes before the first ready one.
//!   This is found out once for all that happens in a record before a receive or its end.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use qd_protocol::message::Properties;

use super::dedup::stored_properties;
use super::place::Place;
use super::{CHUNKS_WALKED_PER_RECORD_MAX, Queue, Step};
use crate::store::chunk::{ChunkView, EntryView};
use crate::store::lanes::{Hold, Lane};
use crate::store::lease::{Delivered, Run};
use crate::store::spans::Spans;
use crate::store::waiting::Spot;
use crate::store::{Result, Tables};

/// True when they name a priority or a group.
pub(super) fn has_lane(properties: &Properties) -> bool {
    properties.priority != 0 || !properties.group.is_empty()
}

/// The lane of a message with these properties; `None`: the default one.
pub(super) fn lane(ordered: bool, properties: &Properties) -> Option<Lane> {
    let group = || properties.group.clone().into_bytes();
    if ordered {
        return Some(Lane { priority: 0, group: group() });
    }
    has_lane(properties).then(|| Lane { priority: properties.priority, group: group() })
}

/// The lane of a message in its chunk; `None`: the default one.
pub(super) fn lane_in_chunk(
    tables: &Tables<'_>,
    number: u64,
    queue: &Queue,
    id: u64,
    (view, entry): (&ChunkView<'_>, &EntryView),
) -> Result<Option<Lane>> {
    let ordered = queue.attributes.ordered;
    if !entry.has_lane {
        return Ok(lane(ordered, &Properties::default()));
    }
    Ok(lane(ordered, &stored_properties(tables, number, id, *view, entry)?))
}

impl Step<'_, '_> {
    /// The lane of a new message; `None`: the default one.
    pub(super) fn lane_for(&self, number: u64, properties: &Properties) -> Option<Lane> {
        lane(self.queues[&number].attributes.ordered, properties)
    }

    /// The lane of a live message and the first id of its chunk; `None`: the default lane.
    pub(super) fn lane_of(&mut self, number: u64, id: u64) -> Result<Option<(Lane, u64)>> {
        if self.queues[&number].has_one_lane() {
            return Ok(None);
        }
        self.flush(number)?;
        let Some(row) = self.tables.chunk_from(number, id)? else {
            return Ok(None);
        };
        let view = row.view()?;
        let entry = view.entry((id - row.first) as usize)?;
        let lane = lane_in_chunk(self.tables, number, &self.queues[&number], id, (&view, &entry))?;
        Ok(lane.map(|lane| (lane, row.first)))
    }

    /// The group of a live message of an ordered queue; `None`: the queue is none.
    pub(super) fn group_of(&mut self, number: u64, id: u64) -> Result<Option<Vec<u8>>> {
        if !self.queues[&number].attributes.ordered {
            return Ok(None);
        }
        Ok(self.lane_of(number, id)?.map(|(lane, _)| lane.group))
    }

    /// Makes a message ready in its lane again.
    pub(super) fn give_back_to(
        &mut self,
        number: u64,
        lane: &Lane,
        chunk: u64,
        id: u64,
        delivered: Delivered,
    ) -> Result<()> {
        let spot = Spot { lane, chunk, first: (id - chunk) as u16, count: 1 };
        self.tables.add_waiting(number, &mut [spot])?;
        let was_tried = delivered != Delivered::default();
        if was_tried {
            self.tables.put_tried(number, id, delivered)?;
        }
        let queue = self.queue(number);
        queue.statistics.ready += 1;
        queue.waiting += 1;
        queue.waiting_from = queue.waiting_from.min(id);
        queue.tried += u64::from(was_tried);
        self.group_changed(number, &lane.group);
        Ok(())
    }

    /// Takes a ready message out of its lane. Returns what it has behind it.
    pub(super) fn take_out_of_lane(
        &mut self,
        number: u64,
        chunk: u64,
        id: u64,
    ) -> Result<Delivered> {
        if let Some((lane, _)) = self.lane_of(number, id)? {
            let spot = Spot { lane: &lane, chunk, first: (id - chunk) as u16, count: 1 };
            self.tables.remove_waiting(number, &mut [spot])?;
            self.group_changed(number, &lane.group);
        }
        let delivered = self.remove_tried(number, id)?;
        let queue = self.queue(number);
        queue.statistics.ready -= 1;
        queue.waiting -= 1;
        Ok(delivered)
    }

    /// Forgets what a message that was ready in a lane had behind it, and returns it.
    pub(super) fn remove_tried(&mut self, number: u64, id: u64) -> Result<Delivered> {
        if self.queues[&number].tried == 0 {
            return Ok(Delivered::default());
        }
        let delivered = self.tables.remove_tried(number, id)?;
        self.queue(number).tried -= u64::from(delivered.is_some());
        Ok(delivered.unwrap_or_default())
    }

    /// Notes that something has changed in a group, in case its queue is ordered.
    pub(super) fn group_changed(&mut self, number: u64, group: &[u8]) {
        if self.queues[&number].attributes.ordered {
            self.changed_groups.insert((number, group.to_vec()));
        }
    }

    /// Ends the hold of a message on its group, in case its queue is ordered.
    pub(super) fn end_hold(&mut self, number: u64, id: u64, hold: Hold) -> Result<()> {
        if let Some(group) = self.group_of(number, id)? {
            self.tables.remove_hold(number, &group, hold, id)?;
            self.group_changed(number, &group);
        }
        Ok(())
    }

    /// Ends the holds of messages that were leased.
    pub(super) fn end_holds(&mut self, number: u64, runs: &[Run]) -> Result<()> {
        if self.queues[&number].attributes.ordered {
            for id in runs.iter().flat_map(Run::ids) {
                self.end_hold(number, id, Hold::Leased)?;
            }
        }
        Ok(())
    }

    /// Finds out of the groups that have changed which can be served now: of one queue, or of all.
    pub(super) fn refresh_groups(&mut self, only: Option<u64>) -> Result<()> {
        let changed = match only {
            None => std::mem::take(&mut self.changed_groups),
            Some(number) => {
                let mut of_it = self.changed_groups.split_off(&(number, Vec::new()));
                let mut behind = of_it.split_off(&(number + 1, Vec::new()));
                self.changed_groups.append(&mut behind);
                of_it
            }
        };
        for (number, group) in changed {
            if self.queues.contains_key(&number) {
                self.refresh_group(number, group)?;
            }
        }
        Ok(())
    }

    fn refresh_group(&mut self, number: u64, group: Vec<u8>) -> Result<()> {
        let lane = Lane { priority: 0, group };
        let hold = self.tables.hold(number, &lane.group)?;
        let can_be = match hold {
            Some((Hold::Leased, _)) => false,
            _ => match self.tables.waiting_from(number, &lane, 0)? {
                None => false,
                Some(row) => {
                    let first =
                        row.spans.indexes().next().map(|index| row.chunk + u64::from(index));
                    first.is_some_and(|first| hold.is_none_or(|(_, delayed)| first < delayed))
                }
            },
        };
        let could_be = self.tables.set_servable(number, &lane.group, can_be)?;
        let queue = self.queue(number);
        queue.servable = queue.servable + u64::from(can_be) - u64::from(could_be);
        Ok(())
    }

    /// The message with the lowest id that is ready in a lane; `None` also when a record would have to
    /// look too far for it: the next one goes on from there.
    pub(super) fn oldest_waiting(&mut self, number: u64) -> Result<Option<(u64, Place)>> {
        if self.queues[&number].waiting == 0 {
            return Ok(None);
        }
        let mut from = self.queues[&number].waiting_from;
        let (mut found, mut found_in) = (None, 0);
        while self.walked < CHUNKS_WALKED_PER_RECORD_MAX && found.is_none() {
            let Some(row) = self.tables.chunk_from(number, from)? else {
                break;
            };
            let (chunk, view) = (row.first, row.view()?);
            found = self.first_waiting_in(number, (chunk, view), from)?;
            found_in = chunk;
            from = found.unwrap_or(chunk + view.count() as u64);
            drop(row);
            self.walked += usize::from(found.is_none());
        }
        self.queue(number).waiting_from = from;
        Ok(found.map(|id| (id, Place::Waiting(found_in))))
    }

    /// The first message of a chunk, from `from` on, that is ready in a lane: each lane is looked up
    /// once, however many of its messages somebody holds.
    fn first_waiting_in(
        &self,
        number: u64,
        (chunk, view): (u64, ChunkView<'_>),
        from: u64,
    ) -> Result<Option<u64>> {
        let marks = self.tables.marks(number, chunk, view.count())?;
        let mut lanes: BTreeMap<Lane, Spans> = BTreeMap::new();
        for index in 0..view.count() {
            let id = chunk + index as u64;
            if id < from || marks.is_deleted(index) {
                continue;
            }
            let entry = view.entry(index)?;
            let queue = &self.queues[&number];
            let lane = lane_in_chunk(self.tables, number, queue, id, (&view, &entry))?;
            let spans = match lane.map(|lane| lanes.entry(lane)) {
                None => continue,
                Some(Entry::Occupied(known)) => known.into_mut(),
                Some(Entry::Vacant(new)) => {
                    let spans = self.tables.waiting_in(number, new.key(), chunk)?;
                    new.insert(spans)
                }
            };
            if spans.contains(index as u16) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}
