//! Storage in memory that survives reopening, and that can remember how it came to its content.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qd::shard::Machine;
use qd::store::Store;
use redb::StorageBackend;

/// One change of the storage.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Bytes at an offset.
    Write(u64, Vec<u8>),
    /// The length.
    SetLen(u64),
    /// Everything before is on disk.
    Sync,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    history: Option<Vec<Operation>>,
    ignore_syncs: bool,
}

/// Storage in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Inner>>);

impl Memory {
    /// Storage with this content.
    pub fn with_bytes(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Inner { bytes, ..Inner::default() })))
    }

    /// Storage that remembers its operations; syncs only if `syncs`.
    pub fn recording(syncs: bool) -> Self {
        let inner = Inner { history: Some(Vec::new()), ignore_syncs: !syncs, ..Inner::default() };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Opens a state machine on it.
    pub fn open(&self) -> Machine {
        self.try_open().expect("the store opens")
    }

    /// Opens a state machine on it.
    pub fn try_open(&self) -> Result<Machine, qd::store::StoreError> {
        Machine::open(Store::open_backend(self.clone(), 7)?)
    }

    /// The operations so far.
    pub fn history(&self) -> Vec<Operation> {
        self.lock().history.clone().unwrap_or_default()
    }

    /// How many operations there were so far.
    pub fn operations(&self) -> usize {
        self.lock().history.as_ref().map_or(0, Vec::len)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let inner = self.lock();
        let bytes = inner.bytes.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        inner.bytes.resize(len as usize, 0);
        if let Some(history) = &mut inner.history {
            history.push(Operation::SetLen(len));
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let ignore = inner.ignore_syncs;
        if let Some(history) = &mut inner.history
            && !ignore
        {
            history.push(Operation::Sync);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        let mut inner = self.lock();
        let place = inner.bytes.get_mut(start..start + data.len());
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        if let Some(history) = &mut inner.history {
            history.push(Operation::Write(offset, data.to_vec()));
        }
        Ok(())
    }
}
