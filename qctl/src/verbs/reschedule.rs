//! `qctl reschedule`.

use clap::{ArgGroup, Args};
use qd_protocol::QueueName;
use qd_protocol::verbs::{self, Due};

use super::by_id;
use super::settle::Report;
use super::when::When;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::units;

/// The field that counts.
pub const DONE: &str = "rescheduled";

/// Change from when on messages are visible that nobody holds
///
/// Status 1: there is no message with an id. Status 75: it is leased.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("when").required(true).args(["delay", "at"])))]
pub struct Reschedule {
    /// The queue
    queue: QueueName,
    /// Ids of messages that are ready or delayed
    #[arg(long = "id", value_name = "ID", num_args = 1.., value_parser = units::whole::<u64>(1, u64::MAX), required = true)]
    ids: Vec<u64>,
    #[command(flatten)]
    when: When,
}

impl Reschedule {
    /// Reschedules.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let report = Report::new(session, DONE)?;
        let due = self.when.due().unwrap_or(Due::After(0));
        let request = |ids| verbs::Reschedule { queue: self.queue.clone(), due, ids };
        let settlement = by_id::change(session, &self.ids, request).await?;
        report.finish(session, &self.queue, settlement)
    }
}
