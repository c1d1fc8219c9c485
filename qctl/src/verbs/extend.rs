//! `qctl extend`.

use clap::{ArgGroup, Args};
use qd_protocol::verbs::{self, Until, delete::Statuses};
use qd_protocol::{QueueName, Receipt};

use super::settle::{Receipts, Settling};
use crate::exit::{Exit, Failure};
use crate::output::{Record, Records, Value};
use crate::session::Session;
use crate::units;

/// Of the records.
pub const FIELDS: [&str; 3] = ["queue", "receipt", "lease_until"];

/// Move the end of leases
///
/// Prints each receipt with the new end of its lease. Status 1: a receipt was stale.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("end").required(true).args(["by", "to"])))]
pub struct Extend {
    /// The queue
    queue: QueueName,
    #[command(flatten)]
    receipts: Receipts,
    /// Move the end this far back; at most 365d
    #[arg(long, value_name = "D", value_parser = units::lease_ms)]
    by: Option<u64>,
    /// Let the lease end this long from now; 0 ends it at once
    #[arg(long, value_name = "D", value_parser = units::lease_ms)]
    to: Option<u64>,
}

impl Extend {
    /// Extends.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let until = self.to.map_or(Until::By(self.by.unwrap_or(0)), Until::To);
        let one = self.receipts.check(session)?.is_some_and(|receipts| receipts.len() == 1);
        let shown = ["receipt", "lease_until"];
        let records = Records::new(&session.out, !one, &FIELDS.map(str::to_owned), &shown, &shown)?;
        let mut extending = Extending { queue: &self.queue, until, records };
        let settled = self.receipts.settle(session, &mut extending).await;
        // What was moved before a failure is told all the same.
        extending.records.finish(&mut session.out)?;
        settled?.end()
    }
}

struct Extending<'a> {
    queue: &'a QueueName,
    until: Until,
    records: Records,
}

impl Settling for Extending<'_> {
    async fn settle(
        &mut self,
        session: &mut Session,
        receipts: &[Receipt],
    ) -> Result<Statuses, Failure> {
        let extend = verbs::Extend {
            queue: self.queue.clone(),
            until: self.until,
            receipts: receipts.to_vec(),
        };
        let extended = session.call(extend).await?;
        let ends = receipts.iter().zip(&extended.lease_until_ms);
        for ((receipt, end_ms), status) in ends.zip(extended.statuses.entries()) {
            if status.is_err() {
                continue;
            }
            let record: Record = vec![
                ("queue".to_owned(), Value::Text(self.queue.to_string())),
                ("receipt".to_owned(), Value::Text(receipt.to_string())),
                ("lease_until".to_owned(), Value::Time(*end_ms)),
            ];
            self.records.push(&mut session.out, &record)?;
        }
        session.out.flush()?;
        Ok(extended.statuses)
    }
}
