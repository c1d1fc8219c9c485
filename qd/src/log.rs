//! The log of a node: every record is here, and on disk, before it is answered.
//!
//! ```text
//! log/0000000000000007.segment   preallocated, written from front to back once, then recycled
//! ```
//!
//! Always true here:
//!
//! - Records have consecutive sequence numbers; each carries the check sum of the one before it.
//! - A record's check sum covers the *epoch* of its segment, a random number that a segment gets
//!   whenever it is begun, so that what an earlier use of the file left behind is no record.
//! - Every record tells how far the log was known to be on disk when it was written. A bad record
//!   below such a position is damage and stops the daemon; otherwise it is where the log was torn
//!   when the machine failed: nothing behind it was answered, and the log ends there. Damage to the
//!   very last group that was synced cannot be told from a torn end.
//! - A log that is opened goes on in a new segment, which says with which record the one before it
//!   ends: what lies behind a torn end never comes back.
//! - After one failed sync nothing more is ever called durable.
//!
//! File operations go through [`files`], so that tests can make them fail. tokio and redb do not
//! come in here.

mod appender;
pub mod files;
mod record;
mod recovery;
mod segment;
mod sync;

pub use appender::Appender;
pub use recovery::{Seen, look, recover, shrink};
pub use segment::FORMAT;
pub use sync::{OnDurable, Synced};

/// Size of a segment: 64 MiB.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// A place in the log: number of the segment, and offset in it. Later places are greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Bytes from the start of its file.
    pub offset: u64,
}

/// What the log is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Random identity of the data; a segment of other data is refused.
    pub node: u64,
    /// Size of new segments; a single larger record makes a larger one.
    pub segment_bytes: u64,
}

/// Why the log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("log: {action} {file}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// What was on disk is not there any more.
    #[error(
        "log: {file} is damaged at offset {offset}: {what}. Records behind this place were answered, so qd does not go on without them. Restore the data directory, state and log together, from a copy"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where, in bytes from its start.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// State and log do not belong together.
    #[error("log: {0}")]
    Mismatch(String),
    /// The file has another format than this release reads.
    #[error(
        "log: {file} has format {found}, this qd reads format {}; use the version of qd that wrote it",
        segment::FORMAT
    )]
    Format {
        /// The file.
        file: String,
        /// Number in the file.
        found: u32,
    },
    /// An earlier write or sync failed.
    #[error("log: {0}")]
    Failed(String),
}

/// Result of a log operation.
pub type Result<T> = std::result::Result<T, LogError>;

fn io(action: &'static str, file: &str) -> impl FnOnce(std::io::Error) -> LogError {
    move |error| LogError::Io { action, file: file.to_owned(), error }
}
