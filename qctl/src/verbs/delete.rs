//! `qctl delete`.

use clap::{ArgGroup, Args};
use qd_protocol::verbs::{self, delete::Statuses};
use qd_protocol::{QueueName, Receipt};

use super::by_id;
use super::settle::{Receipts, Report, Settling};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::units;

/// The field that counts.
pub const DONE: &str = "deleted";

/// End the life of received messages, or of messages that nobody holds
///
/// Status 1: a receipt was stale, so that its message is still there or with somebody else; or
/// there is no message with an id.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["receipts", "ids"])))]
pub struct Delete {
    /// The queue
    queue: QueueName,
    /// Receipts; - reads them from standard input, one a line or JSON lines with a "receipt"
    #[arg(value_name = "RECEIPT")]
    receipts: Vec<String>,
    /// Delete messages that are ready or delayed, by their ids
    #[arg(long = "id", value_name = "ID", num_args = 1.., value_parser = units::whole::<u64>(1, u64::MAX))]
    ids: Vec<u64>,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let report = Report::new(session, DONE)?;
        let queue = &self.queue;
        let settlement = if self.ids.is_empty() {
            let receipts = Receipts { receipts: self.receipts };
            receipts.settle(session, &mut Deleting { queue }).await?
        } else {
            let request = |ids| verbs::Discard { queue: queue.clone(), ids };
            by_id::change(session, &self.ids, request).await?
        };
        report.finish(session, queue, settlement)
    }
}

struct Deleting<'a> {
    queue: &'a QueueName,
}

impl Settling for Deleting<'_> {
    async fn settle(
        &mut self,
        session: &mut Session,
        receipts: &[Receipt],
    ) -> Result<Statuses, Failure> {
        let delete = verbs::Delete { queue: self.queue.clone(), receipts: receipts.to_vec() };
        Ok(session.call(delete).await?.statuses)
    }
}
