//! `qd compact`: as little room on disk as the data can do with.
//!
//! Always true here: at any moment the directory is one that a daemon starts on, with all that it had.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytesize::ByteSize;

use super::ToolError;
use super::output::{finish, output};
use super::progress::Progress;
use crate::clock::random_u64;
use crate::data_dir::DataDir;
use crate::log::files::Directory;
use crate::log::{self, SEGMENT_BYTES};
use crate::memory;
use crate::replicator::{Local, ReplicatorError};
use crate::shard::Machine;
use crate::store::{Store, compact_file};

/// Bytes of a block of `st_blocks`: see `inode(7)`.
const STAT_BLOCK: u64 = 512;

/// Room that is taken on disk.
struct Sizes {
    state: u64,
    log: u64,
}

impl Sizes {
    fn of(dir: &DataDir) -> io::Result<Self> {
        let allocated = |path: &Path| match std::fs::metadata(path) {
            Ok(file) => Ok(file.blocks() * STAT_BLOCK),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        };
        let mut log = 0;
        match std::fs::read_dir(dir.log()) {
            Ok(entries) => {
                for entry in entries {
                    log += allocated(&entry?.path())?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self { state: allocated(&dir.state_file())?, log })
    }

    fn show(&self) -> String {
        let [all, state, log] = [self.state + self.log, self.state, self.log].map(ByteSize);
        format!("{all} on disk: {state} of the state, {log} of the log")
    }
}

/// Compacts the data, and prints its sizes before and after.
pub(super) fn compact(data: &Path) -> Result<(), ToolError> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let dir = DataDir::existing(data)?;
    let sizes =
        || Sizes::of(&dir).map_err(|error| ToolError::Io { path: dir.path().to_owned(), error });
    let before = sizes()?;
    let progress = Progress::start();
    progress.begin("bringing the state up to date", 0);
    let cache_bytes = memory::cache_bytes();
    let of_dir = |error: ReplicatorError| ToolError::Data { path: dir.path().to_owned(), error };
    let (node, applied) = replay(&dir, cache_bytes)?;
    progress.begin("freeing segments of the log", 0);
    let files = Directory::open(&dir.log());
    let files = files.map_err(|error| ToolError::Io { path: dir.log(), error })?;
    log::shrink(Box::new(files), node, applied).map_err(|error| of_dir(error.into()))?;
    progress.begin("compacting the state", 0);
    let compacted = compact_file(&dir.state_file(), cache_bytes);
    compacted.map_err(|error| ToolError::Data { path: dir.state_file(), error: error.into() })?;
    dir.sync()?;
    drop(progress);
    let after = sizes()?;
    let mut out = output();
    writeln!(out, "before   {}", before.show())?;
    writeln!(out, "after    {}", after.show())?;
    finish(out)?;
    Ok(())
}

/// Applies what the state lacks, as a start does, and makes it durable. Returns whose data it is, and the
/// number of the last record.
fn replay(dir: &DataDir, cache_bytes: usize) -> Result<(u64, u64), ToolError> {
    let path = dir.state_file();
    let store = Store::open(&path, cache_bytes, random_u64());
    let machine = store.and_then(Machine::open);
    let machine = machine.map_err(|error| ToolError::Data { path, error: error.into() })?;
    let files = Directory::open(&dir.log());
    let files = files.map_err(|error| ToolError::Io { path: dir.log(), error })?;
    let failed = |error| ToolError::Data { path: dir.path().to_owned(), error };
    let local = Local::open(machine, Box::new(files), SEGMENT_BYTES, Box::new(|| ()));
    let mut local = local.map_err(failed)?;
    local.checkpoint().map_err(failed)?;
    Ok((local.machine().node(), local.machine().position().applied))
}
