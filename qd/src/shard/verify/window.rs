//! Which messages of a part of a queue are leased, and which are ready in lanes: rows that are not in the
//! order of ids.
//!
//! Always true here: the windows of a queue are behind one another and leave nothing out, so that what a
//! lease or a lane says of a message that is not there is told once.

use super::Report;
use super::lanes::{hold_hash, lane_hash};
use crate::shard::queue::Queue;
use crate::store::{Result, Tables};

/// Most chunks in a window: 16 bytes each.
const CHUNKS_MAX: usize = 256 << 10;

/// A bit for each message of a window.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(bits: u64) -> Self {
        Self(vec![0; bits.div_ceil(64) as usize])
    }

    fn get(&self, at: u64) -> bool {
        self.0[(at / 64) as usize] >> (at % 64) & 1 == 1
    }

    /// Sets a bit. Returns whether it was set before.
    fn set(&mut self, at: u64) -> bool {
        let before = self.get(at);
        self.0[(at / 64) as usize] |= 1 << (at % 64);
        before
    }
}

/// Part of a queue: the ids from `from` on and below `to`.
pub(super) struct Window {
    pub from: u64,
    pub to: u64,
    /// First id of each chunk, and the index of that id among the bits; empty where no message of the
    /// queue is leased or in a lane.
    chunks: Vec<(u64, u64)>,
    /// Messages in those chunks.
    ids: u64,
    leased: Bits,
    waiting: Bits,
    /// Sum over the messages that are ready in lanes, each with the lane that it is in.
    pub lane_sum: u64,
    /// Sum over the holds of messages on groups.
    pub hold_sum: u64,
}

impl Window {
    /// The window that begins with `from`.
    pub fn read(
        tables: &Tables<'_>,
        (number, queue): (u64, &Queue),
        from: u64,
        report: &mut Report<'_, '_>,
    ) -> Result<Self> {
        let mut window = Self {
            from,
            to: u64::MAX,
            chunks: Vec::new(),
            ids: 0,
            leased: Bits::default(),
            waiting: Bits::default(),
            lane_sum: 0,
            hold_sum: 0,
        };
        if tables.has_leases_or_lanes(number)? {
            window.find_chunks(tables, number, report.watch.window_ids)?;
            window.leased = Bits::new(window.ids);
            window.waiting = Bits::new(window.ids);
            window.read_leases(tables, number, report)?;
            window.read_lanes(tables, (number, queue), report)?;
        }
        let (from, to) = (window.from, window.to);
        tables.each_hold(number, |group, hold, id| {
            if (from..to).contains(&id) {
                window.hold_sum = window.hold_sum.wrapping_add(hold_hash(group, hold, id));
            }
            Ok(())
        })?;
        Ok(window)
    }

    /// True when the message, which is in a chunk of the window, is leased.
    pub fn is_leased(&self, id: u64) -> bool {
        self.index(id).is_some_and(|(at, _)| self.leased.get(at))
    }

    /// True when the message, which is in a chunk of the window, is ready in a lane.
    pub fn is_waiting(&self, id: u64) -> bool {
        self.index(id).is_some_and(|(at, _)| self.waiting.get(at))
    }

    /// The index of a message among the bits, and its chunk; `None`: there is no chunk with it.
    fn index(&self, id: u64) -> Option<(u64, u64)> {
        let at = self.chunks.partition_point(|(first, _)| *first <= id).checked_sub(1)?;
        let (first, base) = self.chunks[at];
        let end = self.chunks.get(at + 1).map_or(self.ids, |(_, base)| *base);
        let index = base + (id - first);
        (index < end).then_some((index, first))
    }

    fn find_chunks(&mut self, tables: &Tables<'_>, number: u64, ids_max: u64) -> Result<()> {
        tables.each_chunk(number, (self.from, u64::MAX), |first, view| {
            if self.ids >= ids_max || self.chunks.len() >= CHUNKS_MAX {
                self.to = first;
                return Ok(false);
            }
            self.chunks.push((first, self.ids));
            self.ids += view.count() as u64;
            Ok(true)
        })
    }

    fn read_leases(
        &mut self,
        tables: &Tables<'_>,
        number: u64,
        report: &mut Report<'_, '_>,
    ) -> Result<()> {
        tables.each_lease(number, |lease| {
            for run in &lease.runs {
                for id in run.first.max(self.from)..run.end().min(self.to) {
                    match self.index(id) {
                        None => report.of(id, "it is leased, but not there"),
                        Some((_, chunk)) if chunk != run.chunk => {
                            let is = run.chunk;
                            report.of(id, format!("its lease has it in chunk {is}, not {chunk}"));
                        }
                        Some((at, _)) if self.leased.set(at) => report.of(id, "it is leased twice"),
                        Some(_) => {}
                    }
                }
            }
            true
        })
    }

    fn read_lanes(
        &mut self,
        tables: &Tables<'_>,
        (number, queue): (u64, &Queue),
        report: &mut Report<'_, '_>,
    ) -> Result<()> {
        tables.each_waiting(number, |row| {
            if !(self.from..self.to).contains(&row.chunk) {
                return Ok(());
            }
            for index in row.spans.indexes() {
                let id = row.chunk + u64::from(index);
                match self.index(id).filter(|(_, chunk)| *chunk == row.chunk) {
                    None => report.of(id, "it is ready in a lane, but not there"),
                    Some((at, _)) if self.waiting.set(at) => {
                        report.of(id, "it is ready in two lanes");
                    }
                    Some(_) => {
                        self.lane_sum = self.lane_sum.wrapping_add(lane_hash(id, &row.lane));
                    }
                }
                if id < queue.waiting_from {
                    report.of(id, "it is ready in a lane where none is to be looked for");
                }
            }
            Ok(())
        })
    }
}
