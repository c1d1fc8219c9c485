//! `qctl reject`.

use clap::Args;
use qd_protocol::verbs::reject::REASON_BYTES_MAX;
use qd_protocol::verbs::{self, delete::Statuses};
use qd_protocol::{QueueName, Receipt};

use super::settle::{Receipts, Report, Settling};
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// The field that counts.
pub const DONE: &str = "rejected";

/// Give received messages up: they become dead letters
///
/// They move to the dead-letter queue with the reason, however often they were delivered. Status
/// 1: a receipt was stale. Status 65: the queue has no dead-letter queue.
#[derive(Debug, Clone, Args)]
pub struct Reject {
    /// The queue
    queue: QueueName,
    #[command(flatten)]
    receipts: Receipts,
    /// Why, for whoever looks at the dead letters; at most 1024 bytes
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
}

fn reason(text: &str) -> Result<String, String> {
    match text.len() {
        0..=REASON_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err(format!("it has {bytes} bytes; at most {REASON_BYTES_MAX}")),
    }
}

impl Reject {
    /// Rejects.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let report = Report::new(session, DONE)?;
        let settlement = self.receipts.settle(session, &mut Rejecting { flags: &self }).await?;
        report.finish(session, &self.queue, settlement)
    }
}

struct Rejecting<'a> {
    flags: &'a Reject,
}

impl Settling for Rejecting<'_> {
    async fn settle(
        &mut self,
        session: &mut Session,
        receipts: &[Receipt],
    ) -> Result<Statuses, Failure> {
        let reject = verbs::Reject {
            queue: self.flags.queue.clone(),
            reason: self.flags.reason.clone(),
            receipts: receipts.to_vec(),
        };
        Ok(session.call(reject).await?.statuses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_held_to_its_bytes() {
        assert_eq!(reason(""), Ok(String::new()));
        assert!(reason(&"ä".repeat(512)).is_ok());
        assert_eq!(reason(&"ä".repeat(513)), Err("it has 1026 bytes; at most 1024".to_owned()));
    }
}
