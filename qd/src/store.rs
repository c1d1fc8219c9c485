//! The rows of one shard in redb, and the only place that knows redb.
//!
//! Always true here:
//!
//! - There is one write transaction from checkpoint to checkpoint, with all its tables open: what
//!   [`Store::write`] changes is seen by everything behind it, and becomes durable with the next
//!   [`Store::checkpoint`], whole. What was lost with the machine before that comes back from the
//!   log. A transaction for each record took two thirds of the time of a small one: opening the
//!   tables, a commit, and a new copy of every page that it touched.
//! - After an error nothing more can be changed or saved: the transaction is given up, for what
//!   memory knows and what it holds may differ.
//! - A checkpoint has quick repair on, so opening after a crash never walks the tree. It is written
//!   behind the back of whoever makes it (see `behind`), who asks later whether it is durable.
//! - What the disk has altered is never read: every block of the file has a check sum (see `checked`).
//! - Definitions of tables, keys and the format number stand in `schema`; layouts of values in
//!   [`chunk`], [`waiting`], [`lanes`], [`marks`] and [`lease`].

mod behind;
mod check;
mod checked;
pub mod chunk;
mod compact;
mod dedup;
mod graves;
pub mod lanes;
pub mod lease;
pub mod marks;
mod overlay;
mod peek;
pub mod places;
mod producers;
mod scan;
mod schema;
pub mod spans;
mod tables;
pub mod waiting;

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use redb::backends::FileBackend;
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend,
    WriteTransaction,
};
use self_cell::self_cell;

use behind::{Behind, By, Unwritten};
use checked::{Checked, DamagedBlock, Opened};
use overlay::Overlay;

pub use check::check_file;
pub use compact::{compact_backend, compact_file};
pub use dedup::DedupWindow;
pub use schema::FORMAT;
pub use tables::{Blocked, Delayed, Position, Tables};

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is held by another process.
    #[error("the state file is in use by another process")]
    InUse,
    /// The file has another format than this release reads.
    #[error(
        "the data has format {found}, this qd reads format {FORMAT}: use the version of qd that wrote it, or its `qd dump` and then `qd load` of this one"
    )]
    Format {
        /// Number in the file.
        found: u32,
    },
    /// The file is a plain one of redb's.
    #[error(
        "this is a plain redb file, of another program or of a qd before format 7, and this qd reads format {FORMAT}; use the version of qd that wrote it, or dump there and load here"
    )]
    Plain,
    /// The file is not one of qd's.
    #[error(
        "this is no state file of qd's, or its head is damaged in all four copies; if it is damaged, restore the data directory, state and log together, from a copy"
    )]
    Foreign,
    /// The disk gives back other bytes than were written, or a row does not have its layout.
    #[error(
        "the state is damaged: {0}. Restore the data directory, state and log together, from a copy"
    )]
    Damaged(String),
    /// An earlier change failed.
    #[error("the state cannot be changed any more since a change of it failed")]
    Ended,
    /// redb or the disk failed.
    #[error("state file: {0}")]
    Redb(redb::Error),
}

fn is_damage(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<DamagedBlock>)
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Corrupted(what) => Self::Damaged(what),
            redb::Error::Io(error) if is_damage(&error) => Self::Damaged(error.to_string()),
            other => Self::Redb(other),
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),+) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )+};
}

from_redb!(
    StorageError,
    TableError,
    TransactionError,
    CommitError,
    CompactionError,
    SetDurabilityError
);

impl From<redb::DatabaseError> for StoreError {
    fn from(error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::InUse,
            other => redb::Error::from(other).into(),
        }
    }
}

impl StoreError {
    /// True when what is in the file is not what must be there; the disk itself did what it was asked.
    pub fn is_damage(&self) -> bool {
        use std::io::ErrorKind;

        use redb::Error::{
            Corrupted, Io, TableDoesNotExist, TableIsMultimap, TableTypeMismatch,
            TypeDefinitionChanged,
        };
        match self {
            Self::Damaged(_)
            | Self::Redb(
                Corrupted(_)
                | TableTypeMismatch { .. }
                | TableIsMultimap(_)
                | TypeDefinitionChanged { .. }
                | TableDoesNotExist(_),
            ) => true,
            // It is shorter than it says, or no redb file at all.
            Self::Redb(Io(error)) => {
                matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
            }
            Self::Redb(_)
            | Self::InUse
            | Self::Format { .. }
            | Self::Plain
            | Self::Foreign
            | Self::Ended => false,
        }
    }
}

/// The file as redb reads and writes it; made when it is not there.
fn file(path: &Path) -> Result<impl StorageBackend + use<>> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    Ok(FileBackend::new(options.open(path).map_err(from_io)?)?)
}

/// The database over any storage, past all that is held true of its rows: for tests that damage them.
pub fn database_backend(backend: impl StorageBackend) -> Result<Database> {
    Ok(Builder::new().create_with_backend(checked(backend, "state")?)?)
}

/// What errors call a file.
fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

/// A file of this format, with its check sums.
fn checked(file: impl StorageBackend, name: &str) -> Result<Checked> {
    match Checked::open(file, name).map_err(from_io)? {
        Opened::Whole(checked) => Ok(checked),
        Opened::Format(found) => Err(StoreError::Format { found }),
        Opened::Plain => Err(StoreError::Plain),
        Opened::Foreign => Err(StoreError::Foreign),
    }
}

fn from_io(error: std::io::Error) -> StoreError {
    StoreError::Redb(redb::Error::Io(error))
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

self_cell!(
    /// The transaction since the last checkpoint, and its tables.
    struct Session {
        owner: WriteTransaction,
        #[not_covariant]
        dependent: Tables,
    }
);

impl Session {
    fn begin(db: &Database) -> Result<Self> {
        let mut txn = db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_quick_repair(true);
        Self::try_new(txn, |txn| Tables::open(txn))
    }
}

/// The rows of one shard.
pub struct Store {
    /// `None`: a change has failed. It ends before the database.
    session: Option<Session>,
    db: Database,
    unwritten: Unwritten,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the file, or makes it with identity `node` when it is not there or empty. Pages of the
    /// file take `cache_bytes` of memory at most.
    pub fn open(path: &Path, cache_bytes: usize, node: u64) -> Result<Self> {
        let name = name(path);
        let open =
            |path: &Path| Self::open_behind(file(path)?, &name, By::Thread, cache_bytes, node);
        if std::fs::metadata(path).is_ok_and(|file| file.len() > 0) {
            return open(path);
        }
        // It gets its name when it is whole: what is left of an attempt that was cut off is not
        // taken for a damaged state.
        let new = path.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(from_io(error));
            }
            _ => drop(open(&new)?),
        }
        std::fs::rename(&new, path).map_err(from_io)?;
        open(path)
    }

    /// Opens a store over any storage, for fault tests: it is written to when somebody asks for a
    /// checkpoint's end, and so in the same order every time.
    pub fn open_backend(
        backend: impl StorageBackend,
        cache_bytes: usize,
        node: u64,
    ) -> Result<Self> {
        Self::open_behind(backend, "state", By::Caller, cache_bytes, node)
    }

    /// Opens the file to look at it: whatever is changed here, nothing is written to it. What is read of
    /// it is added to `read`.
    pub fn open_overlaid(path: &Path, cache_bytes: usize, read: Arc<AtomicU64>) -> Result<Self> {
        let file = Overlay::open(path, read).map_err(from_io)?;
        Self::open_behind(file, &name(path), By::Caller, cache_bytes, 0)
    }

    fn open_behind(
        backend: impl StorageBackend,
        name: &str,
        by: By,
        cache_bytes: usize,
        node: u64,
    ) -> Result<Self> {
        let checked = checked(backend, name)?;
        let (behind, unwritten) = Behind::new(checked, by).map_err(from_io)?;
        let db = Builder::new().set_cache_size(cache_bytes).create_with_backend(behind)?;
        let is_new = db.begin_read()?.list_tables()?.next().is_none();
        let mut store = Self { session: Some(Session::begin(&db)?), db, unwritten };
        if is_new {
            store.write(|tables| tables.initialise(node))?;
            store.checkpoint()?;
        }
        Ok(store)
    }

    /// Runs `change` on the tables.
    pub fn write<T>(&mut self, change: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        let session = self.session.as_mut().ok_or(StoreError::Ended)?;
        let changed = session.with_dependent_mut(|_, tables| change(tables));
        if changed.is_err() {
            self.session = None;
        }
        changed
    }

    /// Makes everything written so far durable.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.begin_checkpoint()?;
        self.wait_saved()
    }

    /// Begins to make everything written so far durable.
    pub fn begin_checkpoint(&mut self) -> Result<()> {
        let session = self.session.take().ok_or(StoreError::Ended)?;
        session.into_owner().commit()?;
        self.session = Some(Session::begin(&self.db)?);
        Ok(())
    }

    /// Waits until every checkpoint that was begun is durable.
    pub fn wait_saved(&self) -> Result<()> {
        self.unwritten.wait().map_err(from_io)
    }

    /// True when every checkpoint that was begun is durable.
    pub fn is_saved(&self) -> Result<bool> {
        self.unwritten.is_empty().map_err(from_io)
    }

    /// Runs `look` on the tables without changing them.
    pub fn read<T>(&self, look: impl FnOnce(&Tables<'_>) -> Result<T>) -> Result<T> {
        let session = self.session.as_ref().ok_or(StoreError::Ended)?;
        session.with_dependent(|_, tables| look(tables))
    }

    /// Hash over all rows in order: equal for equal content, whatever the layout of the file.
    /// `meta` is left out: it holds the node's identity, in which replicas differ.
    pub fn row_hash(&self) -> Result<u64> {
        self.read(|tables| {
            let mut hasher = DefaultHasher::new();
            macro_rules! hash_tables {
                ($($table:ident),+ $(,)?) => {$({
                    stringify!($table).hash(&mut hasher);
                    for row in tables.$table.iter()? {
                        let (key, value) = row?;
                        key.value().hash(&mut hasher);
                        value.value().hash(&mut hasher);
                    }
                })+};
            }
            hash_tables!(
                queues,
                chunks,
                parts,
                marks,
                returned,
                delayed,
                blocked,
                due,
                expiry,
                leases,
                lease_ends,
                dedup,
                dedup_windows,
                dedup_ends,
                producers,
                waiting,
                tried,
                holds,
                ring,
                turns,
                graves
            );
            Ok(hasher.finish())
        })
    }
}
