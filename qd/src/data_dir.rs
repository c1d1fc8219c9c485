//! The data directory and its lock.
//!
//! ```text
//! DIR/lock        held by the one daemon that uses the directory; its content is the pid
//! DIR/state.redb  the state
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A data directory that this process alone uses.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked as long as the process lives.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another daemon uses it.
    #[error("data directory {path} is in use by another qd (pid {pid})")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the lock file says.
        pid: String,
    },
    /// The operating system refused.
    #[error("data directory {path}: {action}: {error}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl DataDir {
    /// Makes the directory if it is not there (mode 0700) and locks it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |action: &'static str| {
            move |error| DataDirError::Io { path: path.to_owned(), action, error }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create"))?;
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .map_err(failed("open its lock file"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The holder may be about to write its pid; then the message does without.
                let _ = lock.read_to_string(&mut pid);
                let pid = match pid.trim() {
                    "" => "unknown".to_owned(),
                    pid => pid.to_owned(),
                };
                return Err(DataDirError::Locked { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        let write = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write(&mut lock).map_err(failed("write its lock file"))?;
        // The state file that is about to be made must not be lost with its directory entry.
        File::open(path).and_then(|dir| dir.sync_all()).map_err(failed("sync"))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state file.
    pub fn state_file(&self) -> PathBuf {
        self.path.join("state.redb")
    }

    /// Makes the entries of the directory durable, after the state file was made.
    pub fn sync(&self) -> Result<(), DataDirError> {
        let sync = |path: &Path| File::open(path).and_then(|dir| dir.sync_all());
        let failed = |error| DataDirError::Io { path: self.path.clone(), action: "sync", error };
        sync(&self.path).map_err(failed)?;
        match self.path.parent() {
            // The directory itself may be new; a parent that may not be read cannot be helped.
            Some(parent) if !parent.as_os_str().is_empty() => match sync(parent) {
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(failed(error)),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
