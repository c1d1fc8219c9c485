//! A file that is looked at as if it could be changed.
//!
//! Always true here: the file itself is only read. What is written goes, in blocks, to a scratch file
//! in the directory for temporary files, which has no name and is gone with this process; it is
//! made when it is first needed. A read sees every write before it. Memory holds about 50 bytes for each
//! block that was written.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::clock::random_u64;

/// Bytes of a block.
const BLOCK: u64 = 4096;

/// The file as redb sees it.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    changed: Mutex<Changed>,
    /// Bytes that were read of the file.
    read: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Changed {
    len: u64,
    /// Bytes of the file that can still be seen: all behind them was cut off once.
    visible: u64,
    /// Where in the scratch file a block is, by its number.
    blocks: BTreeMap<u64, u64>,
    /// Blocks in the scratch file.
    used: u64,
    scratch: Option<File>,
}

impl Overlay {
    /// The file at `path` with nothing changed; what is read of it is added to `read`.
    pub fn open(path: &Path, read: Arc<AtomicU64>) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let blocks = BTreeMap::new();
        let changed = Mutex::new(Changed { len, visible: len, blocks, used: 0, scratch: None });
        Ok(Self { file, changed, read })
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what was there when `changed` was.
    fn read_with(&self, changed: &Changed, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > changed.len {
            let text = format!("bytes {offset} to {end} of a file of {} bytes", changed.len);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let visible = changed.visible.saturating_sub(offset).min(out.len() as u64) as usize;
        let (of_file, behind) = out.split_at_mut(visible);
        self.file.read_exact_at(of_file, offset)?;
        self.read.fetch_add(visible as u64, Ordering::Relaxed);
        behind.fill(0);
        for (&block, &slot) in changed.blocks.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let start = (block * BLOCK).max(offset);
            let stop = ((block + 1) * BLOCK).min(end);
            let part = &mut out[(start - offset) as usize..(stop - offset) as usize];
            changed.scratch()?.read_exact_at(part, slot * BLOCK + (start - block * BLOCK))?;
        }
        Ok(())
    }
}

impl Changed {
    fn scratch(&self) -> io::Result<&File> {
        self.scratch.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn put(&mut self, block: u64, content: &[u8]) -> io::Result<()> {
        if self.scratch.is_none() {
            self.scratch = Some(scratch_file().map_err(|error| in_scratch(&error))?);
        }
        let slot = self.blocks.get(&block).copied().unwrap_or(self.used);
        self.scratch()?.write_all_at(content, slot * BLOCK).map_err(|error| in_scratch(&error))?;
        self.blocks.insert(block, slot);
        self.used = self.used.max(slot + 1);
        Ok(())
    }
}

fn scratch_file() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("qd-scratch-{:016x}", random_u64()));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Says which file it is: not one of the data.
fn in_scratch(error: &io::Error) -> io::Error {
    let text = format!("a scratch file in {} (TMPDIR): {error}", std::env::temp_dir().display());
    io::Error::new(error.kind(), text)
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changed().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_with(&self.changed(), offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changed = self.changed();
        if len < changed.len {
            let last = len / BLOCK;
            let kept = (len - last * BLOCK) as usize;
            if kept > 0 && changed.blocks.contains_key(&last) {
                let mut block = vec![0; BLOCK as usize];
                self.read_with(&changed, last * BLOCK, &mut block[..kept])?;
                changed.put(last, &block)?;
            }
            changed.blocks.split_off(&len.div_ceil(BLOCK));
        }
        changed.visible = changed.visible.min(len);
        changed.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = self.changed();
        let end = offset + data.len() as u64;
        changed.len = changed.len.max(end);
        for number in offset / BLOCK..end.div_ceil(BLOCK) {
            let (start, stop) = (number * BLOCK, (number + 1) * BLOCK);
            let (from, to) = (start.max(offset), stop.min(end));
            let part = &data[(from - offset) as usize..(to - offset) as usize];
            if part.len() as u64 == BLOCK {
                changed.put(number, part)?;
                continue;
            }
            let mut block = vec![0; BLOCK as usize];
            let there = changed.len.min(stop) - start;
            self.read_with(&changed, start, &mut block[..there as usize])?;
            block[(from - start) as usize..(to - start) as usize].copy_from_slice(part);
            changed.put(number, &block)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_see_every_write_and_the_file_none() {
        let mut base = tempfile::NamedTempFile::new().unwrap();
        let original: Vec<u8> = (0..20_000u32).map(|at| at as u8).collect();
        io::Write::write_all(&mut base, &original).unwrap();
        let file = Overlay::open(base.path(), Arc::default()).unwrap();
        let mut plain = original.clone();
        // A small generator, so that every run is the same.
        let mut state = 12_345u64;
        let mut next = |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % most
        };
        for round in 0..3_000u32 {
            if round % 50 == 0 {
                let len = 1 + next(40_000) as usize;
                file.set_len(len as u64).unwrap();
                plain.resize(len, 0);
            }
            let offset = next(plain.len() as u64) as usize;
            let length = 1 + next((plain.len() - offset) as u64) as usize;
            if round % 3 > 0 {
                let data = vec![round as u8; length];
                file.write(offset as u64, &data).unwrap();
                plain[offset..offset + length].copy_from_slice(&data);
            }
            let mut seen = vec![0; length];
            file.read(offset as u64, &mut seen).unwrap();
            assert_eq!(seen, plain[offset..offset + length], "round {round}");
        }
        let behind = plain.len() as u64;
        assert_eq!(file.len().unwrap(), behind);
        let error = file.read(behind, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(std::fs::read(base.path()).unwrap(), original);
    }
}
