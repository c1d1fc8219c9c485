//! A disk in memory that survives reopening, and that can remember how it came to its content: the
//! state and the files of the log, each write, sync and change of names in one history.

use std::collections::BTreeMap;
use std::io;
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

/// ENOSPC.
const NO_SPACE: i32 = 28;

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
    /// Syncs of the log's directory.
    NameSyncs,
}

#[derive(Debug)]
struct Inner {
    files: Vec<Vec<u8>>,
    names: BTreeMap<String, usize>,
    history: Option<Vec<Operation>>,
    ignored: Ignored,
    calls: usize,
    fail_from: Option<usize>,
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
        let ignored = Ignored::Nothing;
        let (history, calls, fail_from) = (None, 0, None);
        Self(Arc::new(Mutex::new(Inner { files, names, history, ignored, calls, fail_from })))
    }

    /// A disk that remembers its operations.
    pub fn recording(ignored: Ignored) -> Self {
        let disk = Self::default();
        disk.lock().history = Some(Vec::new());
        disk.lock().ignored = ignored;
        disk
    }

    /// Opens a state machine on it, without its log.
    pub fn open(&self) -> Machine {
        self.try_open().expect("the store opens")
    }

    /// Opens a state machine on it, without its log.
    pub fn try_open(&self) -> Result<Machine, StoreError> {
        Machine::open(Store::open_backend(self.clone(), 7)?)
    }

    /// Opens state and log.
    pub fn try_local(&self) -> Result<Local, ReplicatorError> {
        let files = Box::new(self.clone());
        Local::open(self.try_open()?, files, SEGMENT_BYTES, Box::new(|| ()))
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
        Self::with(inner.files.clone(), inner.names.clone())
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

    /// Lets the call with this number of those that change the disk fail, and all behind it.
    pub fn fail_from(&self, call: Option<usize>) {
        let mut inner = self.lock();
        (inner.calls, inner.fail_from) = (0, call);
    }

    /// Calls since [`Memory::fail_from`] that change the disk.
    pub fn calls(&self) -> usize {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Counts a call, and lets it fail if it is to.
    fn call(&mut self) -> io::Result<()> {
        let call = self.calls;
        self.calls += 1;
        match self.fail_from {
            Some(from) if call >= from => Err(io::Error::from_raw_os_error(NO_SPACE)),
            _ => Ok(()),
        }
    }

    fn note(&mut self, operation: Operation) {
        if let Some(history) = &mut self.history {
            history.push(operation);
        }
    }

    fn sync(&mut self, file: usize) {
        let ignored = if file == STATE { Ignored::StateSyncs } else { Ignored::LogSyncs };
        if self.ignored != ignored {
            self.note(Operation::Sync(file));
        }
    }

    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) {
        let end = offset as usize + bytes.len();
        let content = &mut self.files[file];
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(bytes);
        self.note(Operation::Write(file, offset, bytes.to_vec()));
    }

    fn set_len(&mut self, file: usize, bytes: u64) {
        self.files[file].resize(bytes as usize, 0);
        self.note(Operation::SetLen(file, bytes));
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().files[STATE].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let inner = self.lock();
        let bytes = inner.files[STATE].get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        inner.call()?;
        inner.set_len(STATE, len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.call()?;
        inner.sync(STATE);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.files[STATE].len() < offset as usize + data.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inner.call()?;
        inner.write(STATE, offset, data);
        Ok(())
    }
}

impl Files for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let mut inner = self.lock();
        let number = if let Some(number) = inner.names.get(name) {
            *number
        } else {
            inner.call()?;
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
        inner.call()?;
        let number = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.to_owned(), number);
        inner.note(Operation::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.call()?;
        inner.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        inner.note(Operation::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.call()?;
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
        Ok(self.disk.lock().files[self.number].len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let inner = self.disk.lock();
        let from = inner.files[self.number].get(offset as usize..).unwrap_or_default();
        let read = from.len().min(out.len());
        out[..read].copy_from_slice(&from[..read]);
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.call()?;
        inner.write(self.number, offset, bytes);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.call()?;
        if (inner.files[self.number].len() as u64) < bytes {
            inner.set_len(self.number, bytes);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.call()?;
        inner.sync(self.number);
        Ok(())
    }
}
