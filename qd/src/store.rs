//! The rows of one shard in redb, and the only place that knows redb.
//!
//! Always true here:
//!
//! - [`Store::write`] runs one write transaction: whole or not at all. It becomes durable with the
//!   next [`Store::checkpoint`]; what was lost with the machine before that comes back from the log.
//!   After an error the caller must not go on: what memory knows and what the disk holds may differ.
//! - A checkpoint has quick repair on, so opening after a crash never walks the tree.
//! - Definitions of tables, keys and the format number stand in `schema`; layouts of values in
//!   [`chunk`], [`lanes`], [`marks`] and [`lease`].

pub mod chunk;
mod dedup;
mod graves;
pub mod lanes;
pub mod lease;
pub mod marks;
mod peek;
mod scan;
mod schema;
mod tables;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend};

pub use dedup::DedupWindow;
pub use schema::FORMAT;
pub use tables::{Blocked, Delayed, Position, Tables};

/// Default budget of redb's page cache: 128 MiB. (redb's own default is 1 GiB.)
pub const CACHE_BYTES: usize = 128 << 20;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is held by another process.
    #[error("the state file is in use by another process")]
    InUse,
    /// The file has another format than this release reads.
    #[error(
        "the data has format {found}, this qd reads format {FORMAT}; use the version of qd that wrote it, or dump there and load here"
    )]
    Format {
        /// Number in the file.
        found: u32,
    },
    /// The file is a redb database, but not one of qd's.
    #[error("the state file is not one of qd's: it has no format number")]
    Foreign,
    /// A row does not have its layout.
    #[error("the state is damaged: {0}")]
    Damaged(String),
    /// redb or the disk failed.
    #[error("state file: {0}")]
    Redb(#[from] redb::Error),
}

macro_rules! from_redb {
    ($($error:ident),+) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Redb(error.into())
            }
        }
    )+};
}

from_redb!(StorageError, TableError, TransactionError, CommitError, SetDurabilityError);

impl From<redb::DatabaseError> for StoreError {
    fn from(error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::InUse,
            other => Self::Redb(other.into()),
        }
    }
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The rows of one shard.
#[derive(Debug)]
pub struct Store {
    db: Database,
}

impl Store {
    /// Opens the file, or makes it with identity `node` when it is not there or empty.
    pub fn open(path: &Path, cache_bytes: usize, node: u64) -> Result<Self> {
        let open = |path: &Path| {
            Self::prepare(Builder::new().set_cache_size(cache_bytes).create(path)?, node)
        };
        if std::fs::metadata(path).is_ok_and(|file| file.len() > 0) {
            return open(path);
        }
        // It gets its name when it is whole: what is left of an attempt that was cut off is not
        // taken for a damaged state.
        let new = path.with_extension("new");
        let failed = |error| StoreError::Redb(redb::Error::Io(error));
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => drop(open(&new)?),
        }
        std::fs::rename(&new, path).map_err(failed)?;
        open(path)
    }

    /// Opens a store over any storage, for fault tests.
    pub fn open_backend(backend: impl StorageBackend, node: u64) -> Result<Self> {
        Self::prepare(
            Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?,
            node,
        )
    }

    fn prepare(db: Database, node: u64) -> Result<Self> {
        let store = Self { db };
        match store.format()? {
            Some(FORMAT) => {}
            Some(found) => return Err(StoreError::Format { found }),
            None => {
                store.write(|tables| tables.initialise(node))?;
                store.checkpoint()?;
            }
        }
        Ok(store)
    }

    /// The format number; `None` in an empty database.
    fn format(&self) -> Result<Option<u32>> {
        let txn = self.db.begin_read()?;
        if txn.list_tables()?.next().is_none() {
            return Ok(None);
        }
        let meta = match txn.open_table(schema::META) {
            Ok(meta) => meta,
            Err(redb::TableError::Storage(error)) => return Err(error.into()),
            Err(_) => return Err(StoreError::Foreign),
        };
        let row = meta.get(schema::META_FORMAT)?.ok_or(StoreError::Foreign)?;
        let bytes = row.value().try_into().map_err(|_| StoreError::Foreign)?;
        Ok(Some(u32::from_le_bytes(bytes)))
    }

    /// Runs `change` in a write transaction.
    pub fn write<T>(&self, change: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(Durability::None)?;
        let value = change(&mut Tables::open(&txn)?)?;
        txn.commit()?;
        Ok(value)
    }

    /// Makes everything written so far durable.
    pub fn checkpoint(&self) -> Result<()> {
        let mut txn = self.db.begin_write()?;
        txn.set_quick_repair(true);
        txn.commit()?;
        Ok(())
    }

    /// Runs `look` on the tables without changing them.
    ///
    /// It takes a write transaction that is given up: the tables then have one type, and the one
    /// writer of a shard is the only caller, so nobody waits for it.
    pub fn read<T>(&self, look: impl FnOnce(&Tables<'_>) -> Result<T>) -> Result<T> {
        let txn = self.db.begin_write()?;
        let value = look(&Tables::open(&txn)?)?;
        txn.abort()?;
        Ok(value)
    }

    /// Hash over all rows in order: equal for equal content, whatever the layout of the file.
    /// `meta` is left out: it holds the node's identity, in which replicas differ.
    pub fn row_hash(&self) -> Result<u64> {
        let txn = self.db.begin_read()?;
        let mut hasher = DefaultHasher::new();
        macro_rules! hash_tables {
            ($($table:ident),+) => {$({
                let table = txn.open_table(schema::$table)?;
                stringify!($table).hash(&mut hasher);
                for row in table.iter()? {
                    let (key, value) = row?;
                    key.value().hash(&mut hasher);
                    value.value().hash(&mut hasher);
                }
            })+};
        }
        hash_tables!(
            QUEUES,
            CHUNKS,
            PARTS,
            MARKS,
            RETURNED,
            DELAYED,
            BLOCKED,
            DUE,
            EXPIRY,
            LEASES,
            LEASE_ENDS,
            DEDUP,
            DEDUP_WINDOWS,
            DEDUP_ENDS,
            PRODUCERS,
            WAITING,
            TRIED,
            HOLDS,
            RING,
            TURNS,
            GRAVES
        );
        Ok(hasher.finish())
    }
}
