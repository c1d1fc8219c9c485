//! Leases: what one receive holds of one queue, and how often a message was delivered.
//!
//! ```text
//! lease:     u64 secret, u64 started (state ms), then runs:
//! run:       u64 id of the chunk's first message, u64 first id, u32 count, u32 attempt,
//!            u64 end (state ms), u64 first delivered (state ms)
//! delivered: u32 attempts, u64 first delivered, u64 last delivered (state ms; 0: never)
//! ```
//!
//! A run is of neighbouring ids of one chunk that were delivered equally often and whose lease
//! ends at one time. Runs stand in the order of their ids and do not overlap.

use super::{Result, StoreError};

const HEADER_BYTES: usize = 16;
const RUN_BYTES: usize = 40;

/// How often and when a message was delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Times that count.
    pub attempts: u32,
    /// State time of the first delivery in ms; 0 when there was none.
    pub first_ms: u64,
    /// State time of the last delivery in ms; 0 when there was none.
    pub last_ms: u64,
}

impl Delivered {
    /// Bytes of the encoding.
    pub const BYTES: usize = 20;

    /// The encoding.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut row = [0; Self::BYTES];
        row[..4].copy_from_slice(&self.attempts.to_le_bytes());
        row[4..12].copy_from_slice(&self.first_ms.to_le_bytes());
        row[12..].copy_from_slice(&self.last_ms.to_le_bytes());
        row
    }

    /// Reads the encoding.
    pub fn from_bytes(row: &[u8]) -> Result<Self> {
        Ok(Self { attempts: u32_at(row, 0)?, first_ms: u64_at(row, 4)?, last_ms: u64_at(row, 12)? })
    }
}

/// Neighbouring messages of one chunk with the same history and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Id of the chunk's first message.
    pub chunk: u64,
    /// Id of the run's first message.
    pub first: u64,
    /// Messages.
    pub count: u32,
    /// How often they were delivered, this lease included.
    pub attempt: u32,
    /// When the lease ends for them, in state ms.
    pub end_ms: u64,
    /// When they were delivered for the first time, in state ms.
    pub first_ms: u64,
}

impl Run {
    /// The id behind the last one.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// The ids.
    pub fn ids(&self) -> std::ops::Range<u64> {
        self.first..self.end()
    }

    /// What its messages have behind them, in a lease that began at `started_ms`.
    pub fn delivered(&self, started_ms: u64) -> Delivered {
        Delivered { attempts: self.attempt, first_ms: self.first_ms, last_ms: started_ms }
    }

    fn continues(&self, before: &Self) -> bool {
        *self == Self { first: before.end(), count: self.count, ..*before }
    }
}

/// Appends `run` to `runs`, whose ids must all be lower; neighbours become one run.
pub fn push_run(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if run.continues(last) => last.count += run.count,
        _ => runs.push(run),
    }
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Part of its receipts.
    pub secret: u64,
    /// When it was taken, in state ms.
    pub started_ms: u64,
    /// The messages still held, by id.
    pub runs: Vec<Run>,
}

impl LeaseRow {
    /// When the first of its messages is free again, in state ms.
    pub fn end_ms(&self) -> u64 {
        self.runs.iter().map(|run| run.end_ms).min().unwrap_or(0)
    }

    /// The row's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(HEADER_BYTES + RUN_BYTES * self.runs.len());
        row.extend_from_slice(&self.secret.to_le_bytes());
        row.extend_from_slice(&self.started_ms.to_le_bytes());
        for run in &self.runs {
            row.extend_from_slice(&run.chunk.to_le_bytes());
            row.extend_from_slice(&run.first.to_le_bytes());
            row.extend_from_slice(&run.count.to_le_bytes());
            row.extend_from_slice(&run.attempt.to_le_bytes());
            row.extend_from_slice(&run.end_ms.to_le_bytes());
            row.extend_from_slice(&run.first_ms.to_le_bytes());
        }
        row
    }

    /// Reads the row's bytes.
    pub fn from_bytes(row: &[u8]) -> Result<Self> {
        let (secret, started_ms) = (u64_at(row, 0)?, u64_at(row, 8)?);
        let rest = row.get(HEADER_BYTES..).ok_or_else(damaged)?;
        if rest.len() % RUN_BYTES != 0 {
            return Err(damaged());
        }
        let run = |bytes: &[u8]| {
            Ok(Run {
                chunk: u64_at(bytes, 0)?,
                first: u64_at(bytes, 8)?,
                count: u32_at(bytes, 16)?,
                attempt: u32_at(bytes, 20)?,
                end_ms: u64_at(bytes, 24)?,
                first_ms: u64_at(bytes, 32)?,
            })
        };
        let runs = rest.chunks_exact(RUN_BYTES).map(run).collect::<Result<_>>()?;
        Ok(Self { secret, started_ms, runs })
    }

    /// Takes the messages `ids` (rising, each once) whose lease lasts beyond `now_ms` out of
    /// the lease. Returns those that were in it as runs; what is left stays.
    pub fn take(&mut self, ids: &[u64], now_ms: u64) -> Vec<Run> {
        let mut taken = Vec::new();
        let mut left = Vec::with_capacity(self.runs.len());
        let mut ids = ids.iter().copied().peekable();
        for run in &self.runs {
            while ids.next_if(|&id| id < run.first).is_some() {}
            let mut at = run.first;
            while let Some(id) = ids.next_if(|&id| id < run.end()) {
                if run.end_ms <= now_ms {
                    continue;
                }
                if at < id {
                    left.push(Run { first: at, count: (id - at) as u32, ..*run });
                }
                push_run(&mut taken, Run { first: id, count: 1, ..*run });
                at = id + 1;
            }
            if at < run.end() {
                left.push(Run { first: at, count: (run.end() - at) as u32, ..*run });
            }
        }
        self.runs = left;
        taken
    }

    /// Takes up to `most` messages whose lease is over at `now_ms`.
    pub fn take_due(&mut self, now_ms: u64, most: usize) -> Vec<Run> {
        let mut room = u32::try_from(most).unwrap_or(u32::MAX);
        let mut taken = Vec::new();
        for run in &mut self.runs {
            if run.end_ms > now_ms || room == 0 {
                continue;
            }
            let count = run.count.min(room);
            taken.push(Run { count, ..*run });
            room -= count;
            run.first += u64::from(count);
            run.count -= count;
        }
        self.runs.retain(|run| run.count > 0);
        taken
    }

    /// Puts messages that were taken back in, with another end.
    pub fn put_back(&mut self, taken: Vec<Run>) {
        let mut all = std::mem::take(&mut self.runs);
        all.extend(taken);
        all.sort_by_key(|run| run.first);
        for run in all {
            push_run(&mut self.runs, run);
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_le_bytes).ok_or_else(damaged)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_le_bytes).ok_or_else(damaged)
}

fn damaged() -> StoreError {
    StoreError::Damaged("lease: cut short".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32) -> Run {
        Run { chunk: 1, first, count, attempt: 1, end_ms: 50, first_ms: 7 }
    }

    fn lease(runs: &[Run]) -> LeaseRow {
        LeaseRow { secret: 6, started_ms: 5, runs: runs.to_vec() }
    }

    #[test]
    fn rows_survive_their_bytes() {
        let lease = lease(&[run(1, 2), Run { chunk: 9, attempt: 3, ..run(9, 1) }]);
        assert_eq!(LeaseRow::from_bytes(&lease.to_bytes()).unwrap(), lease);
        assert!(LeaseRow::from_bytes(&lease.to_bytes()[1..]).is_err());
        let delivered = Delivered { attempts: 1, first_ms: 2, last_ms: 3 };
        assert_eq!(Delivered::from_bytes(&delivered.to_bytes()).unwrap(), delivered);
    }

    #[test]
    fn take_splits_runs_and_ignores_ids_that_are_not_held() {
        let mut lease = lease(&[run(10, 5), run(20, 2)]);
        let taken = lease.take(&[1, 10, 12, 13, 17, 21, 99], 49);
        assert_eq!(taken, [run(10, 1), run(12, 2), run(21, 1)]);
        assert_eq!(lease.runs, [run(11, 1), run(14, 1), run(20, 1)]);
        assert_eq!(lease.take(&[11, 14, 20], 50), []);
        assert_eq!(lease.take(&[11, 14, 20], 49), [run(11, 1), run(14, 1), run(20, 1)]);
        assert!(lease.runs.is_empty());
    }

    #[test]
    fn take_due_stops_inside_a_run_and_leaves_what_lasts_longer() {
        let mut lease = lease(&[run(1, 2), Run { end_ms: 99, ..run(3, 1) }, run(5, 5)]);
        assert_eq!(lease.end_ms(), 50);
        assert_eq!(lease.take_due(49, 4), []);
        assert_eq!(lease.take_due(50, 4), [run(1, 2), run(5, 2)]);
        assert_eq!(lease.runs, [Run { end_ms: 99, ..run(3, 1) }, run(7, 3)]);
    }

    #[test]
    fn put_back_joins_what_has_become_equal() {
        let mut lease = lease(&[run(1, 5)]);
        let mut taken = lease.take(&[2, 4], 0);
        lease.put_back(taken.clone());
        assert_eq!(lease.runs, [run(1, 5)]);
        taken = lease.take(&[2], 0);
        taken[0].end_ms = 70;
        lease.put_back(taken);
        assert_eq!(lease.runs, [run(1, 1), Run { end_ms: 70, ..run(2, 1) }, run(3, 3)]);
    }
}
