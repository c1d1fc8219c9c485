//! `qctl work`: runs a command for every message.
//!
//! Always true here:
//!
//! - A message is deleted only after its command has ended with status 0. Whatever else ends the
//!   command, or us, makes it come back or a dead letter.
//! - A lease is renewed from the moment it is held until its settlement is on its way. Time is that of
//!   `CLOCK_BOOTTIME`, as the server's is, so that a suspended machine knows what it has lost.
//! - Nothing that waits (for the server, for whoever reads our output) keeps leases from being
//!   renewed: the worker's loop only starts tasks and takes what they end with.
//! - A signal goes to a command only while it is not reaped, so that no other process gets it.
//! - At most as many messages are held as commands can run, and a few that hide the round trip.
//!
//! ```text
//!             ┌─► Receive (settles what is done in the same request) ─┐
//! Worker: loop┼─► Job: one command, its input, output and end ────────┼─► Event ─► Worker
//!             └─► Delete, Release, Reject, Extend ────────────────────┘
//! ```

mod command;
mod control;
mod event;
mod job;
mod ledger;
mod outcome;
mod output;
mod pace;
mod server;
mod tally;
mod worker;

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use qd_protocol::verbs::Describe;
use qd_protocol::verbs::receive::QUEUES_MAX;
use qd_protocol::{QueueDescription, QueueName};

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::server::sever_descriptors;
use crate::session::Session;
use crate::signals;
use crate::units;
use command::Command;
use output::Output;
use server::Server;
use worker::Worker;

/// Most messages for one command: their receipts, and their ids, must fit into a variable each,
/// which Linux holds to 128 KiB.
const BATCH_MAX: u64 = 1_000;
/// Most commands at once.
const PARALLEL_MAX: usize = 1_000;
/// Shortest lease: what is renewed more often costs more than it is worth.
const LEASE_MS_MIN: u64 = 1_000;

const LONG_ABOUT: &str = "Run a command for each message

The body is on the command's standard input; QCTL_QUEUE, QCTL_ID, QCTL_RECEIPT, QCTL_ATTEMPT and the \
headers, as QCTL_HDR_NAME, are in its environment. The lease is renewed while it runs. Its exit status \
says what becomes of the message: 0 deletes it, 75 gives it back without counting the attempt, 65 makes \
it a dead letter with the last lines of standard error as the reason, and anything else gives it back, \
to be tried again after the queue's retry delay.

SIGTERM or Ctrl-C: takes no more messages and lets the commands end; the next one ends them.";

const EXAMPLES: &str = "Examples:
  qctl work images -P 4 --kill-after 5m -- ./resize
  qctl work urgent,jobs --exit-when-empty -- sh -c 'read -r file; gzip \"$file\"'
  qctl work readings --batch 1000 -- xargs -0 ./insert
  qctl work jobs -- sh -c './job && qctl delete jobs $QCTL_RECEIPT --and-send done ok'";

/// Run a command for each message
#[derive(Debug, Clone, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub struct Work {
    /// Queues, in order of preference
    #[arg(value_name = "QUEUE", value_delimiter = ',', required = true, num_args = 1)]
    queues: Vec<QueueName>,
    /// Commands that run at once
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1, value_parser = units::whole::<usize>(1, PARALLEL_MAX as u64))]
    parallel: usize,
    /// Most messages for one command, each body with a NUL behind it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = units::whole::<usize>(1, BATCH_MAX))]
    batch: usize,
    /// End a command that runs for longer: SIGTERM, 5 seconds later SIGKILL [default: never]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    kill_after: Option<u64>,
    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = units::whole::<u64>(1, u64::MAX))]
    max_messages: Option<u64>,
    /// End when the queues are empty
    #[arg(long)]
    exit_when_empty: bool,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    command: Vec<OsString>,
}

/// What `QCTL_SERVER` is for the commands, where it is not ours: the server that was chosen in
/// another way.
fn server_of_commands(session: &Session) -> Result<Option<String>, Failure> {
    let global = &session.global;
    if global.server.is_empty() && !global.default_server {
        return Ok(None);
    }
    let addresses = session.target()?.addresses;
    Ok(Some(addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")))
}

impl Work {
    /// Works until there is nothing more, or a signal comes.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        self.check(session)?;
        let server = server_of_commands(session)?;
        let command = Command::new(&self.command, &self.queues, server, self.parallel > 1)?;
        let _patience = signals::patience();
        let stop = session.stop.clone();
        let prepared = tokio::select! {
            prepared = self.prepare(session) => prepared?,
            failure = stop.stopped() => return Err(failure),
        };
        // Also what a shell left open for us is none of a command's business.
        sever_descriptors();
        let output = Output::start()?;
        let server = Server::new(prepared.client, &self.queues, output.clone());
        let json = session.out.is_json();
        let worker = Worker::new(self, command, server, output, prepared.terms);
        worker.run(&stop, json).await
    }

    fn check(&self, session: &Session) -> Result<(), Failure> {
        let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
        if self.queues.len() > QUEUES_MAX {
            return usage(&format!("at most {QUEUES_MAX} queues at once"));
        }
        if self.kill_after == Some(0) {
            return usage("--kill-after 0 leaves a command no time");
        }
        let records = matches!(session.global.output, Some(Format::Csv | Format::Shell));
        if !session.out.columns.is_empty() || records {
            return usage("standard output is the commands': there are no columns");
        }
        Ok(())
    }

    async fn prepare(&self, session: &mut Session) -> Result<Prepared, Failure> {
        let client = session.client().await?;
        let mut terms = Terms { lease: Duration::MAX, ordered: false };
        for queue in &self.queues {
            let described = client.call(Describe { queue: queue.clone() }).await?;
            terms.take(&described);
        }
        Ok(Prepared { client, terms })
    }
}

/// What is known before the first message is received.
struct Prepared {
    client: qd_protocol::Client,
    terms: Terms,
}

/// What the queues ask of whoever works on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    /// The shortest visibility timeout, so that a message of no queue is held for longer by a worker
    /// that is gone.
    lease: Duration,
    /// Whether one of them keeps an order: then no two commands get messages of one answer.
    ordered: bool,
}

impl Terms {
    fn take(&mut self, queue: &QueueDescription) {
        let lease_ms = queue.attributes.visibility_timeout_ms.max(LEASE_MS_MIN);
        self.lease = self.lease.min(Duration::from_millis(lease_ms));
        self.ordered |= queue.attributes.ordered;
    }
}
