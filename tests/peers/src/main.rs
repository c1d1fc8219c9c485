//! Puts workloads to a running queue server, qd or another one, and prints what came of them;
//! README.md beside this package says how and what for.
//!
//! Always true here:
//!
//! - Every server gets the same workloads ([`work`]) from the same single thread.
//! - A server's own words are in one file: [`beanstalk`], [`nats`], [`pg`], [`qd`], [`rabbit`],
//!   [`redis`].
//! - Any error ends the run: what was measured until then is printed.

#![expect(clippy::cast_precision_loss, reason = "what one run counts is far below 2^52")]
#![expect(clippy::cast_possible_wrap, reason = "lengths of frames are far below 2^31")]

mod beanstalk;
mod clock;
mod limits;
mod nats;
mod peer;
mod pg;
mod qd;
mod rabbit;
mod redis;
mod report;
mod row;
mod stats;
mod wire;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use peer::Peer;
use stats::Probe;
use work::{Limits, Work};

/// Measures queue servers, side by side
#[derive(Debug, Parser)]
#[command(name = "qd-peers", version, max_term_width = 100)]
enum Args {
    /// Puts workloads to a running server; prints a line of tab-separated values a phase
    Run(RunArgs),
    /// Measures the machine: durable writes in a folder, and loopback TCP
    Limits {
        /// The folder
        #[arg(long)]
        data: PathBuf,
        /// For how long each thing is measured
        #[arg(long, default_value_t = 3.0)]
        secs: f64,
    },
    /// Prints tables of the lines of one or more runs
    Report {
        /// Files with the output of `run`
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// What the server is, and how its consumers delete
    #[arg(long)]
    peer: PeerKind,
    /// What the lines call it
    #[arg(long)]
    label: String,
    /// HOST:PORT; for qd also unix: and a path
    #[arg(long)]
    addr: String,
    /// The server's process, to read its CPU time
    #[arg(long)]
    pid: u32,
    /// The server's data, to find its disk
    #[arg(long)]
    data: PathBuf,
    /// The workloads, in this order
    #[arg(long, value_delimiter = ',', default_value = "w1,w2,mix,w3,w4")]
    works: Vec<Work>,
    /// Longest time of a phase of sends of w1 and w2; mix has half of it, w3 and w4 three tenths
    #[arg(long, default_value_t = 10.0)]
    secs: f64,
    /// Most messages of a phase
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PeerKind {
    Beanstalk,
    Redis,
    Nats,
    RabbitQuorum,
    RabbitClassic,
    Pg,
    /// A receive, then a delete
    Qd,
    /// A receive that deletes what the one before it received
    QdSettle,
}

fn main() -> Result<()> {
    match Args::parse() {
        Args::Run(args) => {
            // One thread: it leaves the servers a core; the report shows where it was the limit.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(args))
        }
        Args::Limits { data, secs } => limits::print(&data, Duration::try_from_secs_f64(secs)?),
        Args::Report { files } => report::print(&files),
    }
}

async fn run(args: RunArgs) -> Result<()> {
    let addr = args.addr.clone();
    match args.peer {
        PeerKind::Beanstalk => all(&beanstalk::Beanstalk { addr }, &args).await,
        PeerKind::Redis => all(&redis::Redis { addr }, &args).await,
        PeerKind::Nats => all(&nats::Nats { addr }, &args).await,
        PeerKind::RabbitQuorum => all(&rabbit::Rabbit { addr, queue_type: "quorum" }, &args).await,
        PeerKind::RabbitClassic => {
            all(&rabbit::Rabbit { addr, queue_type: "classic" }, &args).await
        }
        PeerKind::Pg => all(&pg::Pg { addr }, &args).await,
        PeerKind::Qd => all(&qd::Qd::new(&addr, qd::DeleteBy::Delete)?, &args).await,
        PeerKind::QdSettle => all(&qd::Qd::new(&addr, qd::DeleteBy::NextReceive)?, &args).await,
    }
}

async fn all<P: Peer>(peer: &P, args: &RunArgs) -> Result<()> {
    let probe = Probe::new(args.pid, &args.data)?;
    let time = Duration::try_from_secs_f64(args.secs)?;
    let limits = Limits { messages: args.messages, time };
    for work in &args.works {
        let rows = work.run(peer, &args.label, limits, &probe).await;
        for row in rows.with_context(|| format!("{} {work:?}", args.label))? {
            println!("{}", row.cells().join("\t"));
        }
    }
    Ok(())
}
