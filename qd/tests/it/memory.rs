//! A disk in memory that survives reopening, and that can remember how it came to its content: the
//! state and the files of the log, each write, sync and change of names in one history.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qd::log::files::{Files, LogFile};
use qd::replicator::{Local, ReplicatorError};
use qd::shard::Machine;
use qd::store::{Store, StoreError};
use redb::StorageBackend;

/// The file that is the state; the others are of the log.
pub const STATE: usize = 0;
/// Size of the log's segments here: small, so that many are begun and used again.
const SEGMENT_BYTES: u64 = 24 << 10;

/// How calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fails {
    /// ENOSPC, of calls that change the disk.
    NoSpace,
    /// EIO, of any call, reads too.
    Io,
}

/// Which calls fail. What a write that fails has written is the front half.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// How.
    pub fails: Fails,
    /// Number, from 0, of the first one of those that can fail so.
    pub call: usize,
    /// Whether all behind it fail too.
    pub lasts: bool,
}

/// One change of the disk. A file has a number, whatever its name.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Bytes at an offset of a file.
    Write(usize, u64, Vec<u8>),
    /// The length of a file.
    SetLen(usize, u64),
    /// Everything before in this file is on disk.
    Sync(usize),
    /// A file gets a name.
    Create(usize, String),
    /// A file gets another name; one that has it loses it.
    Rename(String, String),
    /// A file loses its name.
    Remove(String),
    /// All names are on disk.
    SyncNames,
}

/// Calls that do nothing, to see that somebody notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// All do what they say.
    Nothing,
    /// Syncs of the state.
    StateSyncs,
    /// Syncs of the log's files.
    LogSyncs,
    /// Syncs of the log's files while the log is opened.
    RecoverySyncs,
    /// Syncs of the log's directory.
    NameSyncs,
}

#[derive(Debug)]
struct Inner {
    files: Vec<Vec<u8>>,
    names: BTreeMap<String, usize>,
    history: Option<Vec<Operation>>,
    ignored: Ignored,
    /// Calls that change the disk, and all calls.
    calls: [usize; 2],
    failure: Option<Failure>,
    /// Syncs of the log's files fail.
    no_log_syncs: bool,
    /// State and log are being opened.
    opening: bool,
    cache_bytes: usize,
}

impl Fails {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::NoSpace => 28,
            Self::Io => 5,
        })
    }
}

/// A disk in memory; clones share it.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Mutex<Inner>>);

impl Default for Memory {
    fn default() -> Self {
        Self::with(vec![Vec::new()], BTreeMap::new())
    }
}

impl Memory {
    /// A disk with this content; the first file is the state.
    pub fn with(files: Vec<Vec<u8>>, names: BTreeMap<String, usize>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            files,
            names,
            history: None,
            ignored: Ignored::Nothing,
            calls: [0, 0],
            failure: None,
            no_log_syncs: false,
            opening: false,
            cache_bytes: 64 << 20,
        })))
    }

    /// A disk that remembers its operations.
    pub fn recording(ignored: Ignored) -> Self {
        let disk = Self::default();
        disk.lock().history = Some(Vec::new());
        disk.lock().ignored = ignored;
        disk
    }

    /// The same content on a disk that remembers its operations, which begin with making that content.
    pub fn recording_copy(&self) -> Self {
        let copy = self.copy();
        let mut inner = copy.lock();
        let mut history = Vec::new();
        for (name, number) in &inner.names {
            history.push(Operation::Create(*number, name.clone()));
        }
        for (number, content) in inner.files.iter().enumerate() {
            history.push(Operation::Write(number, 0, content.clone()));
            history.push(Operation::Sync(number));
        }
        history.push(Operation::SyncNames);
        inner.history = Some(history);
        drop(inner);
        copy
    }

    /// Opens a state machine on it, without its log.
    pub fn open(&self) -> Machine {
        self.try_open().expect("the store opens")
    }

    /// Opens a state machine on it, without its log.
    pub fn try_open(&self) -> Result<Machine, StoreError> {
        let cache_bytes = self.lock().cache_bytes;
        Machine::open(Store::open_backend(self.clone(), cache_bytes, 7)?)
    }

    /// Opens state and log.
    pub fn try_local(&self) -> Result<Local, ReplicatorError> {
        self.try_local_with(Box::new(|| ()))
    }

    /// Opens state and log; `on_failure` is told when the log fails.
    pub fn try_local_with(
        &self,
        on_failure: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Local, ReplicatorError> {
        self.lock().opening = true;
        let files = Box::new(self.clone());
        let open = |machine| Local::open(machine, files, SEGMENT_BYTES, on_failure);
        let local = self.try_open().map_err(ReplicatorError::from).and_then(open);
        self.lock().opening = false;
        local
    }

    /// Opens state and log.
    pub fn local(&self) -> Local {
        self.try_local().expect("state and log open")
    }

    /// The operations so far.
    pub fn history(&self) -> Vec<Operation> {
        self.lock().history.clone().unwrap_or_default()
    }

    /// How many operations there were so far.
    pub fn operations(&self) -> usize {
        self.lock().history.as_ref().map_or(0, Vec::len)
    }

    /// The same content on a disk of its own.
    pub fn copy(&self) -> Self {
        let inner = self.lock();
        let copy = Self::with(inner.files.clone(), inner.names.clone());
        copy.lock().cache_bytes = inner.cache_bytes;
        copy
    }

    /// Names of the log's files, in order.
    pub fn log_files(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// Changes the content of one of the log's files.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        let number = inner.names[name];
        change(&mut inner.files[number]);
    }

    /// Takes one of the log's files away.
    pub fn lose(&self, name: &str) {
        self.lock().names.remove(name);
    }

    /// Flips one bit of a file: of the state, or of that with this name in the log.
    pub fn flip(&self, name: Option<&str>, bit: usize) {
        let mut inner = self.lock();
        let number = name.map_or(STATE, |name| inner.names[name]);
        inner.files[number][bit / 8] ^= 1 << (bit % 8);
    }

    /// Lets so little of the state be kept in memory.
    pub fn set_cache(&self, bytes: usize) {
        self.lock().cache_bytes = bytes;
    }

    /// Writes state and log into a data directory.
    pub fn write_to(&self, data: &Path) {
        let inner = self.lock();
        std::fs::create_dir_all(data.join("log")).unwrap();
        std::fs::write(data.join("state.redb"), &inner.files[STATE]).unwrap();
        for (name, number) in &inner.names {
            std::fs::write(data.join("log").join(name), &inner.files[*number]).unwrap();
        }
    }

    /// Bytes of the state.
    pub fn state_length(&self) -> usize {
        self.lock().files[STATE].len()
    }

    /// Lets calls do nothing from now on.
    pub fn ignore(&self, ignored: Ignored) {
        self.lock().ignored = ignored;
    }

    /// Bytes of one of the log's files.
    pub fn length(&self, name: &str) -> usize {
        let inner = self.lock();
        inner.files[inner.names[name]].len()
    }

    /// One bit of each byte of the state in blocks that are not all zeros.
    pub fn used_bits(&self) -> Vec<usize> {
        let inner = self.lock();
        let blocks = inner.files[STATE].chunks(4096).enumerate();
        let used = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        used.flat_map(|(at, _)| at * 4096..(at + 1) * 4096).map(|at| at * 8 + at % 8).collect()
    }

    /// Lets calls fail, counted from now on.
    pub fn fail(&self, failure: Option<Failure>) {
        let mut inner = self.lock();
        (inner.calls, inner.failure) = ([0, 0], failure);
    }

    /// Lets syncs of the log's files fail.
    pub fn fail_log_syncs(&self, fail: bool) {
        self.lock().no_log_syncs = fail;
    }

    /// Calls since [`Memory::fail`] that can fail so.
    pub fn calls(&self, fails: Fails) -> usize {
        self.lock().calls[fails as usize]
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Counts a call that changes the disk, and lets it fail if it is to.
    fn change(&mut self) -> io::Result<()> {
        self.call(&[Fails::NoSpace, Fails::Io])
    }

    /// The same of a call that changes nothing.
    fn look(&mut self) -> io::Result<()> {
        self.call(&[Fails::Io])
    }

    fn call(&mut self, may_fail: &[Fails]) -> io::Result<()> {
        let mut result = Ok(());
        for fails in may_fail {
            let call = self.calls[*fails as usize];
            self.calls[*fails as usize] += 1;
            let is_meant = |failure: &Failure| {
                let is_call = failure.call == call || failure.lasts && failure.call < call;
                failure.fails == *fails && is_call
            };
            if self.failure.as_ref().is_some_and(is_meant) {
                result = Err(fails.error());
            }
        }
        result
    }

    fn note(&mut self, operation: Operation) {
        if let Some(history) = &mut self.history {
            history.push(operation);
        }
    }

    fn sync(&mut self, file: usize) {
        let is_ignored = match self.ignored {
            Ignored::Nothing | Ignored::NameSyncs => false,
            Ignored::StateSyncs => file == STATE,
            Ignored::LogSyncs => file != STATE,
            Ignored::RecoverySyncs => file != STATE && self.opening,
        };
        if !is_ignored {
            self.note(Operation::Sync(file));
        }
    }

    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let done = self.change();
        let bytes = if done.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let end = offset as usize + bytes.len();
        let content = &mut self.files[file];
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(bytes);
        self.note(Operation::Write(file, offset, bytes.to_vec()));
        done
    }

    fn set_len(&mut self, file: usize, bytes: u64) {
        self.files[file].resize(bytes as usize, 0);
        self.note(Operation::SetLen(file, bytes));
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        let mut inner = self.lock();
        inner.look()?;
        Ok(inner.files[STATE].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let mut inner = self.lock();
        inner.look()?;
        let bytes = inner.files[STATE].get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        inner.set_len(STATE, len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        inner.sync(STATE);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.files[STATE].len() < offset as usize + data.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inner.write(STATE, offset, data)
    }
}

impl Files for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut inner = self.lock();
        inner.look()?;
        Ok(inner.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let mut inner = self.lock();
        let number = if let Some(number) = inner.names.get(name).copied() {
            inner.look()?;
            number
        } else {
            inner.change()?;
            inner.files.push(Vec::new());
            let number = inner.files.len() - 1;
            inner.names.insert(name.to_owned(), number);
            inner.note(Operation::Create(number, name.to_owned()));
            number
        };
        Ok(Box::new(MemoryFile { disk: self.clone(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let number = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.to_owned(), number);
        inner.note(Operation::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        inner.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        inner.note(Operation::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        if inner.ignored != Ignored::NameSyncs {
            inner.note(Operation::SyncNames);
        }
        Ok(())
    }
}

struct MemoryFile {
    disk: Memory,
    number: usize,
}

impl LogFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        let mut inner = self.disk.lock();
        inner.look()?;
        Ok(inner.files[self.number].len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.disk.lock();
        inner.look()?;
        let from = inner.files[self.number].get(offset as usize..).unwrap_or_default();
        let read = from.len().min(out.len());
        out[..read].copy_from_slice(&from[..read]);
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.write(self.number, offset, bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.change()?;
        if (inner.files[self.number].len() as u64) < bytes {
            inner.set_len(self.number, bytes);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.change()?;
        if inner.no_log_syncs {
            return Err(Fails::Io.error());
        }
        inner.sync(self.number);
        Ok(())
    }
}
