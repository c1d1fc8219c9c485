//! Tools for the data of a daemon that does not run.
//!
//! Always true here: whoever only looks changes nothing on disk, and no daemon can start meanwhile; what is
//! printed is on standard output, all else on standard error.

mod check;
mod compact;
mod output;
mod progress;

use std::io;
use std::path::PathBuf;

use crate::config::{ConfigError, Data, Tool, data_directory};
use crate::data_dir::DataDirError;
use crate::log::LogError;
use crate::replicator::ReplicatorError;
use crate::store::StoreError;

/// Exit status when what was looked at is not sound.
const NOT_SOUND: u8 = 1;

/// Why a tool did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    /// No data directory is known.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// State or log cannot be used.
    #[error("{path}: {error}")]
    Data {
        /// The data directory, or the state file.
        path: PathBuf,
        /// Why.
        error: ReplicatorError,
    },
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Standard output takes no more.
    #[error("standard output: {0}")]
    Output(io::Error),
    /// Nobody reads standard output any more.
    #[error("standard output was closed")]
    ClosedPipe,
}

impl ToolError {
    /// Exit status as in `sysexits.h`; the same table stands in `qd(8)`.
    fn exit_code(&self) -> u8 {
        match self {
            Self::DataDir(DataDirError::NoDirectory { .. } | DataDirError::NoData { .. }) => 66,
            Self::DataDir(DataDirError::Locked { .. } | DataDirError::Read { .. })
            | Self::Data { error: ReplicatorError::Store(StoreError::InUse), .. } => 75,
            Self::Config(_) => 78,
            Self::Data { error, .. } if is_other_format(error) => 78,
            Self::Data { error, .. } if is_damage(error) => NOT_SOUND,
            Self::DataDir(_) | Self::Data { .. } | Self::Io { .. } | Self::Output(_) => 74,
            // As of a program that is killed by SIGPIPE.
            Self::ClosedPipe => 141,
        }
    }
}

impl From<io::Error> for ToolError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Output(error),
        }
    }
}

/// True when another version of qd has written the data.
fn is_other_format(error: &ReplicatorError) -> bool {
    matches!(
        error,
        ReplicatorError::Store(StoreError::Format { .. } | StoreError::Plain | StoreError::Foreign,)
            | ReplicatorError::Log(LogError::Format { .. })
    )
}

/// True when the disk did what it was asked, and what is on it is not what must be there.
fn is_damage(error: &ReplicatorError) -> bool {
    match error {
        ReplicatorError::Log(error) => {
            matches!(error, LogError::Damaged { .. } | LogError::Mismatch(_))
        }
        ReplicatorError::Store(error) => error.is_damage(),
        ReplicatorError::Record { .. } => true,
        ReplicatorError::Thread(_) => false,
    }
}

/// Runs a tool. Returns its exit status.
pub fn run(tool: &Tool) -> u8 {
    let ended = match tool {
        Tool::Check { data, json } => {
            directory(data).and_then(|data| check::check(&data, *json)).map(|is_sound| !is_sound)
        }
        Tool::Compact { data } => {
            directory(data).and_then(|data| compact::compact(&data)).map(|()| false)
        }
    };
    match ended {
        Ok(is_unsound) => u8::from(is_unsound) * NOT_SOUND,
        Err(ToolError::ClosedPipe) => ToolError::ClosedPipe.exit_code(),
        Err(error) => {
            eprintln!("qd: {error}");
            error.exit_code()
        }
    }
}

fn directory(data: &Data) -> Result<PathBuf, ToolError> {
    Ok(data_directory(data.data.as_deref())?)
}
