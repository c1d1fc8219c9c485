//! `qctl bench`: load on a server, measured from the client.
//!
//! ```text
//! connections x window workers ─► Meter: hands out calls (and with --rate the times they are due)
//!                              ◄─ and takes their latencies
//! ```

mod disk;
mod load;
mod meter;
mod report;
mod workers;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qd_protocol::{BATCH_ENTRIES_MAX, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, QueueName};

use crate::exit::{Exit, Failure};
use crate::output::say;
use crate::session::Session;
use crate::units;
use crate::verbs::messages;

/// Most bytes that a message takes in a request besides its body: lengths, check sum and a group.
const ENTRY_BYTES: u64 = 12 + 5 + 20;

/// Measure the server
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// What to measure
    #[arg(value_enum)]
    workload: Workload,
    /// A queue to use [default: a scratch queue, dropped at the end]
    #[arg(long)]
    queue: Option<QueueName>,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = units::whole::<u32>(1, 10_000))]
    connections: u32,
    /// Messages in one call
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = units::whole::<u32>(1, BATCH_ENTRIES_MAX.into()))]
    batch: u32,
    /// Calls that each connection has under way
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = units::whole::<u32>(1, 1024))]
    window: u32,
    /// Bytes of each body
    #[arg(long, default_value = "100", value_parser = units::size)]
    size: u64,
    /// Send messages of this many groups in turn [default: of no group]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = units::whole::<u64>(0, u64::MAX))]
    groups: u64,
    /// How many messages to measure
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = units::whole::<u64>(1, u64::MAX))]
    messages: Option<u64>,
    /// How long to measure [default: 5s; receive: 100,000 messages]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    duration: Option<u64>,
    /// Messages a second, all connections together; a latency then counts from the moment the call was due
    #[arg(long, value_name = "N/s", value_parser = units::rate_per_second)]
    rate: Option<u64>,
    /// Time before anything is measured
    #[arg(long, value_name = "D", default_value = "0", value_parser = units::duration_ms)]
    warmup: u64,
    /// disk: where to write
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Send
    Send,
    /// Receive and delete, every message of it
    Receive,
    /// Both at once, half of the connections each
    Mixed,
    /// Round trips without any work
    Ping,
    /// fdatasync of a recycled 4 KiB block of a local file, without a server
    Disk,
}

impl Workload {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Mixed => "mixed",
            Self::Ping => "ping",
            Self::Disk => "disk",
        }
    }
}

impl Bench {
    /// Measures and reports.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        self.check()?;
        let records = report::records(&session.out, &self)?;
        let rows = if self.workload == Workload::Disk {
            let stop = session.stop.clone();
            tokio::select! {
                row = disk::run(&self) => vec![row?],
                failure = stop.stopped() => return Err(failure),
            }
        } else {
            load::run(&self, session).await?
        };
        report::write(&mut session.out, records, &self, &rows)?;
        let missed: u64 = rows.iter().map(|row| row.missed).sum();
        if missed > 0 {
            say(&format!(
                "--rate was not kept: {} came due and could not be sent or received in time; the \
                 latencies are those of the others",
                messages(missed)
            ));
        }
        Ok(if rows.iter().any(|row| row.lost + row.duplicated > 0) {
            Exit::Internal
        } else {
            Exit::Done
        })
    }

    fn check(&self) -> Result<(), Failure> {
        if self.size > MESSAGE_BYTES_MAX {
            return Err(Failure::Usage("--size is at most 16MiB".to_owned()));
        }
        let frame = u64::from(self.batch) * (self.size + ENTRY_BYTES) + 200;
        if frame > u64::from(FRAME_BYTES_MAX) {
            let text = "--batch times --size is more than one request can hold (17 MiB)";
            return Err(Failure::Usage(text.to_owned()));
        }
        Ok(())
    }
}
