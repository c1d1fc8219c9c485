//! A file that gives back what was written to it, or says that it cannot.
//!
//! redb sums up its pages, but looks at the sums only when it repairs a file: a bit that a disk has
//! flipped in a page is read as if nothing were wrong, and an index that leads past a message loses it
//! in silence. So each block of the file has a check sum here, which is compared whenever the block is
//! read from the disk, below all caches.
//!
//! ```text
//! head   4 blocks: what redb has at the front of its file, twice in two versions (`head`)
//! group  1 block: the sums of the group, CRC-32C, u32 little-endian, in order (`sums`)
//!        1,024 blocks of 4,096 bytes: what redb has there
//! group  ...
//! ```
//!
//! Always true here:
//!
//! - A block that is read is the one that was written last, or the read fails with
//!   [`DamagedBlock`], also when it is the sum that is damaged.
//! - What was synced stays readable, whichever of the writes behind the sync reach the disk, wholly or
//!   partly, in any order: redb never writes to a page that its last durable commit refers to, so the
//!   sums of such pages do not change, and writing the block of sums that they share with others
//!   puts the same bytes there. Of pages written since, block and sum may differ after a failure
//!   of the machine; nothing refers to them.
//! - A front by which redb could take new pages for current is written when these are synced. redb does
//!   so itself where its commits have two phases, as those of a checkpoint do; the others, of a
//!   compaction, it would find unfinished by its own sums of pages, which could not be read here.
//! - The one place that redb overwrites is the front of its file, 320 bytes with the flag that makes a
//!   commit the current one: see `head` for what is done there.
//!
//! Other ways were thought of. A sum in the value of each row finds no damage to redb's own branch
//! pages and lists of free pages. redb's sums of pages stand in the page above, out of reach of a
//! storage backend. A file of its own for the sums takes another sync for each checkpoint, and may be
//! forgotten in a copy.
//!
//! With messages of 100 bytes in batches the thread that writes checkpoints takes a quarter more time,
//! which is 2 % of the daemon's; the engine's time is what it was. Sums take a thousandth of the disk, and
//! at most 8 MiB of memory.

mod head;
mod sums;

use std::io;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

use super::behind::Portions;
use head::Head;
use sums::Sums;

pub(super) use head::Opened;

/// Bytes of a block.
const BLOCK: usize = 4096;
/// Blocks of a group, besides that of its sums.
const GROUP_BLOCKS: u64 = 1024;

/// What the disk gives back is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{file}: the block at offset {offset} is not what was written there, by its check sum")]
pub struct DamagedBlock {
    /// Name of the file.
    file: String,
    /// Bytes from its start.
    offset: u64,
}

/// The file as those above see it: without sums.
#[derive(Debug)]
pub(super) struct Checked {
    file: Box<dyn StorageBackend>,
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    head: Head,
    sums: Sums,
    /// Blocks were written since the last sync.
    unsynced: bool,
    /// The front that comes with the next sync.
    next_front: Option<Vec<u8>>,
    /// A write or a sync has failed: what redb has told it afterwards may lack what came before.
    failed: bool,
}

impl State {
    fn write_next_front(&mut self, file: &dyn StorageBackend) -> io::Result<()> {
        self.next_front.take().map_or(Ok(()), |front| self.head.set(file, &front))
    }
}

/// Where block `block` is in the file.
fn place(block: u64) -> u64 {
    (head::BLOCKS + block + block / GROUP_BLOCKS + 1) * BLOCK as u64
}

/// How long a file is that holds so many blocks.
fn length_of(blocks: u64) -> u64 {
    (head::BLOCKS + blocks + blocks.div_ceil(GROUP_BLOCKS)) * BLOCK as u64
}

/// How many blocks a file of this length holds.
fn blocks_of(length: u64) -> u64 {
    let behind_head = (length / BLOCK as u64).saturating_sub(head::BLOCKS);
    let (groups, rest) = (behind_head / (GROUP_BLOCKS + 1), behind_head % (GROUP_BLOCKS + 1));
    groups * GROUP_BLOCKS + rest.saturating_sub(1)
}

/// The blocks of a range of bytes, in pieces that are in one piece in the file too.
fn runs(offset: u64, bytes: usize) -> io::Result<impl Iterator<Item = Range<u64>>> {
    if !offset.is_multiple_of(BLOCK as u64) || !bytes.is_multiple_of(BLOCK) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no whole blocks"));
    }
    let mut at = offset / BLOCK as u64;
    let end = at + (bytes / BLOCK) as u64;
    Ok(std::iter::from_fn(move || {
        let run = at..end.min((at / GROUP_BLOCKS + 1) * GROUP_BLOCKS);
        at = run.end;
        (!run.is_empty()).then_some(run)
    }))
}

impl Checked {
    /// Looks at a file; `name` is what errors call it.
    pub fn open(file: impl StorageBackend, name: &str) -> io::Result<Opened<Self>> {
        Ok(match Head::read(&file)? {
            Opened::Whole(mut head) => {
                // It may have been read from memory only.
                file.sync_data()?;
                head.synced(head.generation());
                let sums = Sums::new(blocks_of(file.len()?));
                let state = State { head, sums, unsynced: false, next_front: None, failed: false };
                let state = Mutex::new(state);
                Opened::Whole(Self { file: Box::new(file), name: name.to_owned(), state })
            }
            Opened::Format(found) => Opened::Format(found),
            Opened::Plain => Opened::Plain,
            Opened::Foreign => Opened::Foreign,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_blocks(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut rest = out;
        for run in runs(offset, rest.len())? {
            let known = self.state().sums.of(&*self.file, run.clone())?;
            let (part, behind) = rest.split_at_mut(known.len() * BLOCK);
            self.file.read(place(run.start), part)?;
            for ((block, sum), bytes) in run.zip(known).zip(part.chunks_exact(BLOCK)) {
                if crc32c::crc32c(bytes) != sum {
                    let damaged = DamagedBlock { file: self.name.clone(), offset: place(block) };
                    return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
                }
            }
            rest = behind;
        }
        Ok(())
    }

    /// Runs `change`, unless one has failed before.
    fn change(&self, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.state().failed {
            return Err(io::Error::other("an earlier write or sync of the file has failed"));
        }
        let changed = change();
        self.state().failed |= changed.is_err();
        changed
    }

    fn write_front_and_blocks(&self, data: &[u8]) -> io::Result<()> {
        let (front, behind) = data.split_at(data.len().min(BLOCK));
        {
            let mut state = self.state();
            if state.next_front.is_some() || state.head.shows_new_pages(front) {
                state.next_front = Some(front.to_vec());
            } else {
                state.head.set(&*self.file, front)?;
            }
        }
        self.write_blocks(BLOCK as u64, behind)
    }

    fn sync(&self) -> io::Result<()> {
        let (unsynced, has_front) = {
            let mut state = self.state();
            state.sums.write(&*self.file)?;
            (std::mem::take(&mut state.unsynced), state.next_front.is_some())
        };
        if unsynced && has_front {
            self.file.sync_data()?;
        }
        let generation = {
            let mut state = self.state();
            state.write_next_front(&*self.file)?;
            state.head.generation()
        };
        self.file.sync_data()?;
        self.state().head.synced(generation);
        Ok(())
    }

    fn write_blocks(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        for run in runs(offset, data.len())? {
            let (part, behind) = rest.split_at((run.end - run.start) as usize * BLOCK);
            let sums: Vec<u32> = part.chunks_exact(BLOCK).map(crc32c::crc32c).collect();
            self.file.write(place(run.start), part)?;
            let mut state = self.state();
            state.unsynced = true;
            state.sums.set(&*self.file, run, &sums)?;
            rest = behind;
        }
        Ok(())
    }
}

impl Portions for Checked {
    /// The sums come with the sync: those of a group would be written again and again.
    fn sync_portion(&self) -> io::Result<()> {
        self.change(|| self.file.sync_data())
    }
}

impl StorageBackend for Checked {
    fn len(&self) -> io::Result<u64> {
        Ok(blocks_of(self.file.len()?) * BLOCK as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset > 0 {
            return self.read_blocks(offset, out);
        }
        let state = self.state();
        match &state.next_front {
            None => state.head.get(out),
            Some(front) => {
                state.head.get(out)?;
                let known = front.len().min(out.len());
                out[..known].copy_from_slice(&front[..known]);
                Ok(())
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let blocks = len.div_ceil(BLOCK as u64);
        self.change(|| {
            self.file.set_len(length_of(blocks))?;
            self.state().sums.set_len(blocks);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|| self.sync())
    }

    /// What is at the front may be followed by blocks.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|| {
            if offset > 0 {
                self.write_blocks(offset, data)
            } else {
                self.write_front_and_blocks(data)
            }
        })
    }

    fn close(&self) -> io::Result<()> {
        let written = self.change(|| {
            if self.state().next_front.is_some() {
                return self.sync();
            }
            self.state().sums.write(&*self.file)
        });
        self.file.close().and(written)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redb::backends::InMemoryBackend;

    use super::*;

    /// A file that tests look into.
    #[derive(Debug, Clone, Default)]
    struct Shared(Arc<InMemoryBackend>);

    impl StorageBackend for Shared {
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
            self.0.write(offset, data)
        }
    }

    fn open(file: &Shared) -> Checked {
        match Checked::open(file.clone(), "name").unwrap() {
            Opened::Whole(checked) => checked,
            other => panic!("{other:?}"),
        }
    }

    fn flip(file: &Shared, offset: u64) {
        let mut byte = [0];
        file.read(offset, &mut byte).unwrap();
        file.write(offset, &[byte[0] ^ 4]).unwrap();
    }

    fn front(checked: &Checked) -> u8 {
        let mut out = [0; 320];
        checked.read(0, &mut out).unwrap();
        out[319]
    }

    #[test]
    fn lengths_and_places_agree() {
        for blocks in (0..3 * GROUP_BLOCKS).step_by(7).chain([1023, 1024, 1025, 2048, 2049]) {
            assert_eq!(blocks_of(length_of(blocks)), blocks);
            if blocks > 0 {
                assert_eq!(place(blocks - 1) + BLOCK as u64, length_of(blocks), "{blocks}");
            }
        }
        assert_eq!((blocks_of(0), blocks_of(5 * BLOCK as u64)), (0, 0));
    }

    #[test]
    fn blocks_over_the_ends_of_groups_come_back_also_when_opened_again() {
        let file = Shared::default();
        let written: Vec<u8> = (0..1500 * BLOCK).map(|at| (at / 1000) as u8).collect();
        let checked = open(&file);
        checked.set_len((2000 * BLOCK) as u64).unwrap();
        let offset = (400 * BLOCK) as u64;
        checked.write(offset, &written).unwrap();
        let read = |checked: &Checked| {
            let mut out = vec![0; written.len()];
            checked.read(offset, &mut out).map(|()| assert!(out == written))
        };
        read(&checked).unwrap();
        checked.write(0, &[1; 320]).unwrap();
        checked.sync_data().unwrap();
        let checked = open(&file);
        read(&checked).unwrap();
        assert_eq!(checked.len().unwrap(), 2000 * BLOCK as u64);
        flip(&file, place(1023) + 9);
        let error = read(&checked).unwrap_err();
        let expected = DamagedBlock { file: "name".to_owned(), offset: place(1023) };
        assert_eq!(error.to_string(), expected.to_string());
        flip(&file, place(1023) + 9);
        read(&checked).unwrap();
        // A damaged sum is damage too, and so is a block that was never written.
        flip(&file, place(1024) - BLOCK as u64);
        read(&open(&file)).unwrap_err();
        open(&file).read(1999 * BLOCK as u64, &mut [0; BLOCK]).unwrap_err();
    }

    #[test]
    fn each_version_of_the_front_is_whole_whatever_becomes_of_the_next() {
        let file = Shared::default();
        let checked = open(&file);
        checked.set_len(BLOCK as u64).unwrap();
        // As redb has them in commits of two phases.
        let front_of = |version| {
            let mut front = [version; 320];
            front[9] = 4;
            front
        };
        checked.write(0, &front_of(0)).unwrap();
        checked.sync_data().unwrap();
        for version in 1..9 {
            let before = front(&checked);
            // Several versions may come before a sync.
            for _ in 0..version % 3 {
                checked.write(0, &front_of(100 + version)).unwrap();
            }
            checked.write(0, &front_of(version)).unwrap();
            assert_eq!(front(&open(&file)), version);
            let of_version: Vec<u64> = (0..4)
                .filter(|at| {
                    let mut byte = [0];
                    file.read(at * BLOCK as u64 + 24 + 319, &mut byte).unwrap();
                    byte[0] == version
                })
                .collect();
            assert_eq!(of_version.len(), 2);
            flip(&file, of_version[0] * BLOCK as u64 + 4000);
            assert_eq!(front(&open(&file)), version, "the other copy counts");
            flip(&file, of_version[1] * BLOCK as u64 + 12);
            if version > 1 {
                assert_eq!(front(&open(&file)), before, "the write was lost");
            }
            // As they were.
            flip(&file, of_version[0] * BLOCK as u64 + 4000);
            flip(&file, of_version[1] * BLOCK as u64 + 12);
            checked.sync_data().unwrap();
        }
    }

    /// redb would look at such pages, and compare sums of its own, which it cannot where they are not
    /// read.
    #[test]
    fn front_that_shows_new_pages_is_written_behind_them() {
        let file = Shared::default();
        let checked = open(&file);
        checked.set_len(9 * BLOCK as u64).unwrap();
        let mut bytes = [4; 320];
        checked.write(0, &bytes).unwrap();
        checked.sync_data().unwrap();
        for (god_byte, waits) in
            [(4, false), (5, true), (1, false), (1, true), (5, true), (5, false)]
        {
            bytes[9] = god_byte;
            bytes[319] += 1;
            checked.write(0, &bytes).unwrap();
            checked.write(5 * BLOCK as u64, &[bytes[319]; BLOCK]).unwrap();
            let mut seen = [0; 320];
            checked.read(0, &mut seen).unwrap();
            assert_eq!(seen, bytes);
            let on_disk = front(&open(&file));
            assert_eq!(on_disk == bytes[319], !waits, "{god_byte}");
            checked.sync_data().unwrap();
            assert_eq!(front(&open(&file)), bytes[319]);
            open(&file).read(5 * BLOCK as u64, &mut [0; BLOCK]).unwrap();
        }
        bytes[9] = 0;
        checked.write(0, &bytes).unwrap();
        checked.close().unwrap();
        let mut seen = [0; 320];
        open(&file).read(0, &mut seen).unwrap();
        assert_eq!(seen, bytes);
    }

    #[test]
    fn files_of_others_are_told_apart() {
        let file = Shared::default();
        let checked = open(&file);
        checked.set_len(BLOCK as u64).unwrap();
        checked.write(0, &[1; 320]).unwrap();
        checked.sync_data().unwrap();
        let with = |change: &dyn Fn(&mut [u8])| {
            let changed = Shared::default();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read(0, &mut bytes).unwrap();
            change(&mut bytes);
            changed.set_len(bytes.len() as u64).unwrap();
            changed.write(0, &bytes).unwrap();
            Checked::open(changed, "name").unwrap()
        };
        assert!(matches!(with(&|_| ()), Opened::Whole(_)));
        assert!(matches!(with(&|bytes| bytes[..4].copy_from_slice(b"redb")), Opened::Plain));
        assert!(matches!(with(&|bytes| bytes.fill(b'x')), Opened::Foreign));
        let of_format_999 = with(&|bytes| {
            for block in bytes.chunks_exact_mut(BLOCK).take(head::BLOCKS as usize) {
                block[8..12].copy_from_slice(&999u32.to_le_bytes());
                let crc = crc32c::crc32c(&[&block[..12], &block[16..]].concat());
                block[12..16].copy_from_slice(&crc.to_le_bytes());
            }
        });
        assert!(matches!(of_format_999, Opened::Format(999)), "{of_format_999:?}");
    }
}
