//! `qctl release`.

use clap::Args;
use qd_protocol::verbs::{self, delete::Statuses};
use qd_protocol::{QueueName, Receipt};

use super::settle::{Receipts, Report, Settling};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::units;

/// The field that counts.
pub const DONE: &str = "released";

/// Give received messages back
///
/// They are visible again after the queue's retry-delay, or a --delay. One that was delivered
/// max-deliveries times becomes a dead letter. Status 1: a receipt was stale.
#[derive(Debug, Clone, Args)]
pub struct Release {
    /// The queue
    queue: QueueName,
    #[command(flatten)]
    receipts: Receipts,
    /// Not visible for this long; at most 36500d [default: the queue's retry-delay for this
    /// attempt; with --no-count 0]
    #[arg(long, value_name = "D", value_parser = units::delay_ms)]
    delay: Option<u64>,
    /// The delivery does not count as an attempt
    #[arg(long)]
    no_count: bool,
}

impl Release {
    /// Releases.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let report = Report::new(session, DONE)?;
        let settlement = self.receipts.settle(session, &mut Releasing { flags: &self }).await?;
        report.finish(session, &self.queue, settlement)
    }
}

struct Releasing<'a> {
    flags: &'a Release,
}

impl Settling for Releasing<'_> {
    async fn settle(
        &mut self,
        session: &mut Session,
        receipts: &[Receipt],
    ) -> Result<Statuses, Failure> {
        let release = verbs::Release {
            queue: self.flags.queue.clone(),
            counted: !self.flags.no_count,
            delay_ms: self.flags.delay,
            receipts: receipts.to_vec(),
        };
        Ok(session.call(release).await?.statuses)
    }
}
