//! Write-behind for the state file: whoever makes a checkpoint hands its pages over and goes on,
//! while they are written and synced.
//!
//! Always true here:
//!
//! - Nothing that was handed over behind a sync reaches the file before that sync is over. So the
//!   file is at any time what it would be if every sync were waited for, only later.
//! - A read sees every write before it, also one that is not in the file yet, and does not look in the
//!   file for what is to be written there.
//! - At most [`WAITING_BYTES_MAX`] and one write wait; past that whoever writes waits too.
//! - After a failure every operation fails with it, and nothing more is written.
//!
//! What is written between two syncs may reach the file in any order; it goes in the order of the
//! offsets, neighbours in one piece.
//!
//! A checkpoint of 4 MiB of records took 20 ms on a disk that syncs a block in 0.15 ms, in which
//! nobody was served: half of all time with messages of 1 KiB.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::{Bound, Range};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use redb::{BackendError, StorageBackend};

/// Most bytes that wait to be written: 64 MiB.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Bytes behind which there is a sync that nobody asked for: 512 KiB. It keeps the log, which is on
/// the same disk, from waiting 14 to 24 ms behind a whole checkpoint; the p99 of sends in batches
/// was 14 ms instead of 20 ms.
const PORTION_BYTES: usize = 512 << 10;
/// Most bytes that are written in one call.
const PIECE_BYTES_MAX: usize = PORTION_BYTES;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A thread of its own.
    Thread,
    /// Whoever asks whether everything is written, or waits for it: the same in every run of a test.
    Caller,
}

/// A file of which a part can be brought to the disk.
pub(super) trait Portions: StorageBackend {
    /// Brings what was written so far to the disk, so that the next sync has less to do. It makes
    /// nothing durable by itself.
    fn sync_portion(&self) -> io::Result<()>;
}

/// Writes up to a sync.
#[derive(Debug, Default)]
struct Batch {
    /// By offset; they do not overlap.
    writes: BTreeMap<u64, Bytes>,
    bytes: usize,
    /// It ends with a sync.
    sync: bool,
}

#[derive(Debug, Default)]
struct State {
    /// To be written, in order. The first one stays until it is in the file.
    closed: VecDeque<Arc<Batch>>,
    /// Takes writes in.
    open: Batch,
    failed: Option<io::Error>,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    file: Box<dyn Portions>,
    by: By,
    state: Mutex<State>,
    /// There is something to write.
    work: Condvar,
    /// Something is written.
    done: Condvar,
}

/// The file as redb sees it.
#[derive(Debug)]
pub(super) struct Behind {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What is not in the file yet.
#[derive(Debug, Clone)]
pub(super) struct Unwritten(Arc<Shared>);

impl Batch {
    fn put(&mut self, offset: u64, data: Bytes) {
        let end = offset + data.len() as u64;
        let mut overlapping: Vec<u64> = self.writes.range(offset..end).map(|(at, _)| *at).collect();
        overlapping.extend(self.writes.range(..offset).next_back().map(|(at, _)| *at));
        for at in overlapping {
            let old_end = at + self.writes[&at].len() as u64;
            if old_end <= offset {
                continue;
            }
            let Some(old) = self.writes.remove(&at) else {
                continue;
            };
            self.bytes -= old.len();
            if at < offset {
                self.insert(at, old.slice(..(offset - at) as usize));
            }
            if old_end > end {
                self.insert(end, old.slice((end - at) as usize..));
            }
        }
        self.insert(offset, data);
    }

    fn insert(&mut self, offset: u64, data: Bytes) {
        self.bytes += data.len();
        self.writes.insert(offset, data);
    }

    /// The writes that overlap a range.
    fn overlapping(&self, offset: u64, end: u64) -> impl Iterator<Item = (u64, &Bytes)> {
        let before = self.writes.range(..offset).next_back();
        let before = before.filter(move |(at, data)| **at + data.len() as u64 > offset);
        before.into_iter().chain(self.writes.range(offset..end)).map(|(at, data)| (*at, data))
    }

    /// The writes in pieces of neighbours.
    fn pieces(&self) -> impl Iterator<Item = (u64, Bytes)> {
        let mut writes = self.writes.iter().peekable();
        std::iter::from_fn(move || {
            let (&offset, first) = writes.next()?;
            let mut end = offset + first.len() as u64;
            let mut piece = BytesMut::new();
            while let Some((_, next)) = writes.next_if(|(at, next)| {
                **at == end && (end - offset) as usize + next.len() <= PIECE_BYTES_MAX
            }) {
                if piece.is_empty() {
                    piece.extend_from_slice(first);
                }
                piece.extend_from_slice(next);
                end += next.len() as u64;
            }
            Some((offset, if piece.is_empty() { first.clone() } else { piece.freeze() }))
        })
    }
}

impl State {
    fn bytes(&self) -> usize {
        self.open.bytes + self.closed.iter().map(|batch| batch.bytes).sum::<usize>()
    }

    fn check(&self) -> io::Result<()> {
        self.failed.as_ref().map_or(Ok(()), |error| Err(again(error)))
    }

    fn close_batch(&mut self, sync: bool) {
        let mut batch = std::mem::take(&mut self.open);
        batch.sync = sync;
        self.closed.push_back(Arc::new(batch));
    }
}

/// The same error once more.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// What of a range none of these writes covers.
fn gaps(range: Range<u64>, writes: &[(u64, Bytes)]) -> Vec<Range<u64>> {
    let mut covered: Vec<Range<u64>> =
        writes.iter().map(|(at, data)| *at..at + data.len() as u64).collect();
    covered.sort_unstable_by_key(|write| write.start);
    let mut gaps = Vec::new();
    let mut at = range.start;
    for write in covered {
        if at < write.start {
            gaps.push(at..write.start);
        }
        at = at.max(write.end);
    }
    if at < range.end {
        gaps.push(at..range.end);
    }
    gaps
}

impl Behind {
    /// A file that is written to behind its user's back.
    pub fn new(file: impl Portions, by: By) -> io::Result<(Self, Unwritten)> {
        let shared = Arc::new(Shared {
            file: Box::new(file),
            by,
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let mut thread = None;
        if by == By::Thread {
            let its = Arc::clone(&shared);
            let named = std::thread::Builder::new().name("state".to_owned());
            thread = Some(named.spawn(move || its.run())?);
        }
        let unwritten = Unwritten(Arc::clone(&shared));
        Ok((Self { shared, thread: Mutex::new(thread) }, unwritten))
    }
}

impl Unwritten {
    /// True when everything that was synced is in the file.
    pub fn is_empty(&self) -> io::Result<bool> {
        let mut state = self.0.state();
        if self.0.by == By::Caller && !state.closed.is_empty() {
            state = self.0.write_first(state);
        }
        state.check()?;
        Ok(state.closed.is_empty())
    }

    /// Waits until everything that was synced is in the file.
    pub fn wait(&self) -> io::Result<()> {
        self.0.wait(self.0.state(), |state| state.closed.is_empty()).check()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.state();
        loop {
            if !state.closed.is_empty() {
                state = self.write_first(state);
            } else if state.stop {
                return;
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Writes until `is_enough`, or waits for the thread to do so; a failure is always enough.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        is_enough: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        while state.failed.is_none() && !is_enough(&state) {
            state = match self.by {
                By::Caller => self.write_first(state),
                By::Thread => self.done.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state
    }

    /// Writes the first batch, without holding others up.
    fn write_first<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let Some(batch) = state.closed.front().cloned() else {
            return state;
        };
        drop(state);
        let written = self.write_batch(&batch);
        let mut state = self.state();
        match written {
            Ok(()) => drop(state.closed.pop_front()),
            Err(error) => {
                state.failed.get_or_insert(error);
                state.closed.clear();
                state.open = Batch::default();
            }
        }
        self.done.notify_all();
        state
    }
}

impl Shared {
    fn write_batch(&self, batch: &Batch) -> io::Result<()> {
        let mut portion = 0;
        for (offset, piece) in batch.pieces() {
            if portion >= PORTION_BYTES {
                self.file.sync_portion()?;
                portion = 0;
            }
            self.file.write(offset, &piece)?;
            portion += piece.len();
        }
        if batch.sync { self.file.sync_data() } else { Ok(()) }
    }
}

impl StorageBackend for Behind {
    fn len(&self) -> io::Result<u64> {
        self.shared.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        let state = self.shared.state();
        state.check()?;
        let batches = state.closed.iter().map(AsRef::as_ref).chain([&state.open]);
        let unwritten: Vec<(u64, Bytes)> = batches
            .flat_map(|batch| batch.overlapping(offset, end))
            .map(|(at, data)| (at, data.clone()))
            .collect();
        drop(state);
        for gap in gaps(offset..end, &unwritten) {
            let part = (gap.start - offset) as usize..(gap.end - offset) as usize;
            self.shared.file.read(gap.start, &mut out[part])?;
        }
        for (at, data) in unwritten {
            let from = at.max(offset);
            let to = (at + data.len() as u64).min(end);
            let part = &data[(from - at) as usize..(to - at) as usize];
            out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        Ok(())
    }

    /// A longer file is one at once, as it would be without a sync. A shorter one must not lose what
    /// waits to be written.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.shared.state();
        if len < self.shared.file.len()? {
            state.close_batch(false);
            self.shared.work.notify_one();
            state = self.shared.wait(state, |state| state.closed.is_empty());
        }
        state.check()?;
        drop(state);
        self.shared.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        state.check()?;
        state.close_batch(true);
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.shared.state();
        if state.bytes() > WAITING_BYTES_MAX {
            if state.open.bytes > WAITING_BYTES_MAX / 2 {
                state.close_batch(false);
                self.shared.work.notify_one();
            }
            state = self
                .shared
                .wait(state, |state| state.bytes() <= WAITING_BYTES_MAX || state.closed.is_empty());
        }
        state.check()?;
        state.open.put(offset, Bytes::copy_from_slice(data));
        Ok(())
    }

    /// Writes what is left, and ends the thread.
    fn close(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        state.close_batch(false);
        state.stop = true;
        self.shared.work.notify_one();
        let written = self.shared.wait(state, |state| state.closed.is_empty()).check();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        self.shared.file.close().and(written)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.shared.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.shared.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.shared.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.shared.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.shared.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.shared.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    impl Portions for InMemoryBackend {
        fn sync_portion(&self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Portions for Failing {
        fn sync_portion(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A file that fails from some write on.
    #[derive(Debug)]
    struct Failing(InMemoryBackend, Mutex<usize>);

    impl StorageBackend for Failing {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let mut left = self.1.lock().unwrap();
            *left = left.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(28))?;
            self.0.write(offset, data)
        }
    }

    fn read(file: &Behind, offset: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        file.read(offset, &mut out).unwrap();
        out
    }

    #[test]
    fn reads_see_every_write_wherever_it_is() {
        for by in [By::Caller, By::Thread] {
            let (file, unwritten) = Behind::new(InMemoryBackend::new(), by).unwrap();
            file.set_len(64).unwrap();
            let mut plain = [0u8; 64];
            // A small generator, so that every run is the same.
            let mut state = 12_345u64;
            let mut next = |most: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % most
            };
            for round in 0..4_000u32 {
                let offset = next(64) as usize;
                let length = 1 + next(64 - offset as u64) as usize;
                match next(8) {
                    0 => file.sync_data().unwrap(),
                    1 => drop(unwritten.is_empty().unwrap()),
                    2 => unwritten.wait().unwrap(),
                    _ => {
                        let data = vec![round as u8; length];
                        file.write(offset as u64, &data).unwrap();
                        plain[offset..offset + length].copy_from_slice(&data);
                    }
                }
                let seen = read(&file, offset as u64, length);
                assert_eq!(seen, plain[offset..offset + length], "{by:?} {round}");
            }
            let shared = Arc::clone(&file.shared);
            file.close().unwrap();
            let mut out = [0; 64];
            shared.file.read(0, &mut out).unwrap();
            assert_eq!(out, plain);
        }
    }

    #[test]
    fn nothing_behind_a_sync_is_written_before_it_is_over() {
        let (file, unwritten) = Behind::new(InMemoryBackend::new(), By::Caller).unwrap();
        file.set_len(8).unwrap();
        let written = |file: &Behind| {
            let mut out = [0; 8];
            file.shared.file.read(0, &mut out).unwrap();
            out
        };
        file.write(4, &[1; 4]).unwrap();
        file.write(0, &[1; 4]).unwrap();
        assert!(unwritten.is_empty().unwrap(), "nobody has asked for a sync");
        file.sync_data().unwrap();
        file.write(0, &[2; 2]).unwrap();
        file.sync_data().unwrap();
        assert_eq!(written(&file), [0; 8]);
        assert!(!unwritten.is_empty().unwrap());
        assert_eq!(written(&file), [1; 8]);
        assert!(unwritten.is_empty().unwrap());
        assert_eq!(written(&file), [2, 2, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn shorter_file_keeps_what_waits() {
        let (file, _) = Behind::new(InMemoryBackend::new(), By::Caller).unwrap();
        file.set_len(16).unwrap();
        file.write(0, &[7; 16]).unwrap();
        file.set_len(8).unwrap();
        assert_eq!(read(&file, 0, 8), [7; 8]);
        assert_eq!(file.len().unwrap(), 8);
    }

    #[test]
    fn neighbours_are_written_in_one_piece() {
        let mut batch = Batch::default();
        for page in [3u64, 1, 2, 7] {
            batch.put(page * 4, Bytes::from(vec![page as u8; 4]));
        }
        let pieces: Vec<(u64, usize)> = batch.pieces().map(|(at, data)| (at, data.len())).collect();
        assert_eq!(pieces, [(4, 12), (28, 4)]);
        assert_eq!(batch.bytes, 16);
    }

    #[test]
    fn after_a_failure_everything_fails_with_it() {
        for by in [By::Caller, By::Thread] {
            let failing = Failing(InMemoryBackend::new(), Mutex::new(1));
            let (file, unwritten) = Behind::new(failing, by).unwrap();
            file.set_len(64).unwrap();
            file.write(0, &[1; 4]).unwrap();
            file.sync_data().unwrap();
            unwritten.wait().unwrap();
            file.write(0, &[2; 4]).unwrap();
            file.sync_data().unwrap();
            let full = |result: io::Result<()>| result.unwrap_err().raw_os_error() == Some(28);
            assert!(full(unwritten.wait()), "{by:?}");
            assert!(full(unwritten.is_empty().map(drop)));
            assert!(full(file.write(0, &[3; 4])));
            assert!(full(file.sync_data()));
            assert!(full(file.read(0, &mut [0; 4])));
            assert!(full(file.close()));
        }
    }
}
