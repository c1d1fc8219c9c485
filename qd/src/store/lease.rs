//! Leases: what one receive holds of one queue.
//!
//! ```text
//! u64 end (state ms), u64 secret, then runs:
//! u64 id of the chunk's first message, u64 first id, u32 count, u32 attempt
//! ```
//!
//! A run is of neighbouring ids of one chunk that were delivered equally often. Runs stand in
//! the order of their ids and do not overlap.

use super::{Result, StoreError};

const HEADER_BYTES: usize = 16;
const RUN_BYTES: usize = 24;

/// Neighbouring messages of one chunk with one delivery count.
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
}

impl Run {
    /// The id behind the last one.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// Appends a message to `runs`, which it must follow.
pub fn push_message(runs: &mut Vec<Run>, chunk: u64, id: u64, attempt: u32) {
    match runs.last_mut() {
        Some(last) if last.chunk == chunk && last.end() == id && last.attempt == attempt => {
            last.count += 1;
        }
        _ => runs.push(Run { chunk, first: id, count: 1, attempt }),
    }
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// End in state time, ms since 1970 UTC.
    pub end_ms: u64,
    /// Part of its receipts.
    pub secret: u64,
    /// The messages still held, by id.
    pub runs: Vec<Run>,
}

impl LeaseRow {
    /// The row's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(HEADER_BYTES + RUN_BYTES * self.runs.len());
        row.extend_from_slice(&self.end_ms.to_le_bytes());
        row.extend_from_slice(&self.secret.to_le_bytes());
        for run in &self.runs {
            row.extend_from_slice(&run.chunk.to_le_bytes());
            row.extend_from_slice(&run.first.to_le_bytes());
            row.extend_from_slice(&run.count.to_le_bytes());
            row.extend_from_slice(&run.attempt.to_le_bytes());
        }
        row
    }

    /// Reads the row's bytes.
    pub fn from_bytes(row: &[u8]) -> Result<Self> {
        let damaged = || StoreError::Damaged("lease: cut short".to_owned());
        let u64_at = |bytes: &[u8], at: usize| {
            let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_le_bytes).ok_or_else(damaged)
        };
        let u32_at = |bytes: &[u8], at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or_else(damaged)
        };
        let (end_ms, secret) = (u64_at(row, 0)?, u64_at(row, 8)?);
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
            })
        };
        let runs = rest.chunks_exact(RUN_BYTES).map(run).collect::<Result<_>>()?;
        Ok(Self { end_ms, secret, runs })
    }

    /// Takes the messages `ids` (rising, each once) out of the lease. Returns those that were
    /// in it as runs; what is left stays.
    pub fn take(&mut self, ids: &[u64]) -> Vec<Run> {
        let mut taken = Vec::new();
        let mut left = Vec::with_capacity(self.runs.len());
        let mut ids = ids.iter().copied().peekable();
        for run in &self.runs {
            while ids.next_if(|&id| id < run.first).is_some() {}
            let mut at = run.first;
            while let Some(id) = ids.next_if(|&id| id < run.end()) {
                if at < id {
                    left.push(Run { first: at, count: (id - at) as u32, ..*run });
                }
                push_message(&mut taken, run.chunk, id, run.attempt);
                at = id + 1;
            }
            if at < run.end() {
                left.push(Run { first: at, count: (run.end() - at) as u32, ..*run });
            }
        }
        self.runs = left;
        taken
    }

    /// Takes up to `most` messages from the front.
    pub fn take_front(&mut self, most: usize) -> Vec<Run> {
        let mut room = most;
        let mut taken = Vec::new();
        while let (Some(run), true) = (self.runs.first_mut(), room > 0) {
            let count = run.count.min(u32::try_from(room).unwrap_or(u32::MAX));
            taken.push(Run { count, ..*run });
            room -= count as usize;
            run.first += u64::from(count);
            run.count -= count;
            if run.count == 0 {
                self.runs.remove(0);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32) -> Run {
        Run { chunk: 1, first, count, attempt: 1 }
    }

    fn lease(runs: &[Run]) -> LeaseRow {
        LeaseRow { end_ms: 5, secret: 6, runs: runs.to_vec() }
    }

    #[test]
    fn row_survives_its_bytes() {
        let lease = lease(&[run(1, 2), Run { chunk: 9, first: 9, count: 1, attempt: 3 }]);
        assert_eq!(LeaseRow::from_bytes(&lease.to_bytes()).unwrap(), lease);
        assert!(LeaseRow::from_bytes(&lease.to_bytes()[1..]).is_err());
    }

    #[test]
    fn take_splits_runs_and_ignores_ids_that_are_not_held() {
        let mut lease = lease(&[run(10, 5), run(20, 2)]);
        assert_eq!(lease.take(&[1, 10, 12, 13, 17, 21, 99]), [run(10, 1), run(12, 2), run(21, 1)]);
        assert_eq!(lease.runs, [run(11, 1), run(14, 1), run(20, 1)]);
        assert_eq!(lease.take(&[11, 14, 20]), [run(11, 1), run(14, 1), run(20, 1)]);
        assert!(lease.runs.is_empty());
    }

    #[test]
    fn take_front_stops_inside_a_run() {
        let mut lease = lease(&[run(1, 2), run(5, 5)]);
        assert_eq!(lease.take_front(4), [run(1, 2), run(5, 2)]);
        assert_eq!(lease.runs, [run(7, 3)]);
    }
}
