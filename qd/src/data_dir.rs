//! The data directory and its lock.
//!
//! ```text
//! DIR/lock        held by the one daemon that uses the directory; its content is the pid, or
//!                 nothing when that could not be written. Held together by those that only read
//! DIR/state.redb  the state
//! DIR/log/        the log
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

/// A data directory that nobody changes as long as this lives, and this process neither.
#[derive(Debug)]
pub struct ReadDir {
    path: PathBuf,
    /// `None`: there is no lock file, so that no daemon has ever used the directory.
    _lock: Option<File>,
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
    /// It is being read.
    #[error("data directory {path} is being read by `qd check` or `qd dump`")]
    Read {
        /// The directory.
        path: PathBuf,
    },
    /// There is none.
    #[error("there is no data directory {path}")]
    NoDirectory {
        /// Where it should be.
        path: PathBuf,
    },
    /// It has neither a state nor a log.
    #[error("data directory {path} is empty: it has neither state.redb nor a log")]
    NoData {
        /// The directory.
        path: PathBuf,
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
        let file = lock_file(path);
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
            // Its content is of whoever had it before those that only read.
            Err(TryLockError::WouldBlock) if lock.try_lock_shared().is_ok() => {
                return Err(DataDirError::Read { path: path.to_owned() });
            }
            Err(TryLockError::WouldBlock) => return Err(locked(path, &mut lock)),
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        if let Err(error) = note_pid(&mut lock) {
            // It only tells people who holds the lock, and a full disk has no room for it.
            tracing::warn!("cannot write the pid into {}: {error}", file.display());
        }
        // The state file that is about to be made must not be lost with its directory entry.
        File::open(path).and_then(|dir| dir.sync_all()).map_err(failed("sync"))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The same of a directory that is there and has data.
    pub fn existing(path: &Path) -> Result<Self, DataDirError> {
        has_data(path)?;
        Self::open(path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the log.
    pub fn log(&self) -> PathBuf {
        log_directory(&self.path)
    }

    /// The state file.
    pub fn state_file(&self) -> PathBuf {
        state_file(&self.path)
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

impl ReadDir {
    /// Keeps others from changing a directory that has data, without changing anything in it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        has_data(path)?;
        let failed = |action: &'static str| {
            move |error| DataDirError::Io { path: path.to_owned(), action, error }
        };
        let mut lock = match File::open(lock_file(path)) {
            Ok(lock) => lock,
            // A copy of a directory may do without.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path: path.to_owned(), _lock: None });
            }
            Err(error) => return Err(failed("open its lock file")(error)),
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: Some(lock) }),
            Err(TryLockError::WouldBlock) => Err(locked(path, &mut lock)),
            Err(TryLockError::Error(error)) => Err(failed("lock")(error)),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the log.
    pub fn log(&self) -> PathBuf {
        log_directory(&self.path)
    }

    /// The state file.
    pub fn state_file(&self) -> PathBuf {
        state_file(&self.path)
    }
}

fn lock_file(path: &Path) -> PathBuf {
    path.join("lock")
}

fn log_directory(path: &Path) -> PathBuf {
    path.join("log")
}

fn state_file(path: &Path) -> PathBuf {
    path.join("state.redb")
}

/// An error where there is nothing to be read.
fn has_data(path: &Path) -> Result<(), DataDirError> {
    let failed = |error| DataDirError::Io { path: path.to_owned(), action: "read", error };
    if let Err(error) = std::fs::metadata(path) {
        return Err(match error.kind() {
            io::ErrorKind::NotFound => DataDirError::NoDirectory { path: path.to_owned() },
            _ => failed(error),
        });
    }
    if state_file(path).try_exists().map_err(failed)? {
        return Ok(());
    }
    let has_log = match std::fs::read_dir(log_directory(path)) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(failed(error)),
    };
    if has_log { Ok(()) } else { Err(DataDirError::NoData { path: path.to_owned() }) }
}

fn locked(path: &Path, lock: &mut File) -> DataDirError {
    let mut pid = String::new();
    // The holder may be about to write its pid; then the message does without.
    let _ = lock.read_to_string(&mut pid);
    let pid = match pid.trim() {
        "" => "unknown".to_owned(),
        pid => pid.to_owned(),
    };
    DataDirError::Locked { path: path.to_owned(), pid }
}

/// Makes this process's pid the content of the lock file, or nothing if that cannot be written:
/// no pid is better than one of the past.
fn note_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    let pid = format!("{}\n", std::process::id());
    lock.write_all(pid.as_bytes()).or_else(|error| lock.set_len(0).and(Err(error)))
}

#[cfg(test)]
mod tests {
    use std::io::Seek;
    use std::os::fd::AsRawFd;

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    use super::*;

    #[test]
    fn lock_file_that_cannot_grow_keeps_nobody_from_starting_and_tells_no_old_pid() {
        let directory = tempfile::tempdir().unwrap();
        let sealed = memfd_create("lock", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let mut sealed = File::from(sealed);
        sealed.write_all(b"999999\n").unwrap();
        // As on a full disk, but for the number of the error.
        fcntl_add_seals(&sealed, SealFlags::GROW).unwrap();
        let proc = format!("/proc/self/fd/{}", sealed.as_raw_fd());
        std::os::unix::fs::symlink(proc, directory.path().join("lock")).unwrap();
        let _dir = DataDir::open(directory.path()).unwrap();
        let mut content = String::new();
        sealed.rewind().unwrap();
        sealed.read_to_string(&mut content).unwrap();
        assert_eq!(content, "");
        let second = DataDir::open(directory.path()).unwrap_err();
        assert!(
            matches!(&second, DataDirError::Locked { pid, .. } if pid == "unknown"),
            "{second}"
        );
    }

    #[test]
    fn lock_file_holds_the_pid_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lock");
        std::fs::write(&file, "12345678901234567890\n").unwrap();
        let _dir = DataDir::open(directory.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{}\n", std::process::id()));
    }
}
