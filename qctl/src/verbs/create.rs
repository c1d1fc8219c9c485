//! `qctl create`.

use clap::Args;
use qd_protocol::QueueName;
use qd_protocol::verbs::{self, IfExists};

use super::attributes::AttributeFlags;
use crate::exit::{Exit, Failure};
use crate::output::{Deeds, Record, Value};
use crate::session::Session;

/// Of the record.
pub const FIELDS: [&str; 2] = ["queue", "created"];

/// Make a queue, or check or change one that exists
///
/// When the queue exists, the attributes given are compared: equal is fine, different is status 73.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// Its name: 1 to 128 of A-Z a-z 0-9 . _ -, at most 120 without --dead-letter
    queue: QueueName,
    #[command(flatten)]
    attributes: AttributeFlags,
    /// Leave a queue that exists as it is
    #[arg(long, conflicts_with = "or_update")]
    if_not_exists: bool,
    /// Change the attributes given of a queue that exists
    #[arg(long)]
    or_update: bool,
    /// A queue that must exist, and with which atomic steps shall be possible
    #[arg(long, value_name = "QUEUE")]
    with: Option<QueueName>,
}

impl Create {
    /// Makes the queue.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let of = |failure: Failure| failure.of(&self.queue);
        self.attributes.check_name(&self.queue).map_err(of)?;
        let attributes = self.attributes.changes().map_err(of)?;
        let mut deeds = Deeds::new(&session.out, false, &FIELDS)?;
        let if_exists = match (self.if_not_exists, self.or_update) {
            (true, _) => IfExists::Keep,
            (_, true) => IfExists::Update,
            _ => IfExists::Compare,
        };
        let queue = self.queue.clone();
        let create = verbs::Create { queue: self.queue, if_exists, attributes, with: self.with };
        let answer = session.call(create).await?;
        let record: Record = vec![
            ("queue".to_owned(), Value::Text(queue.to_string())),
            ("created".to_owned(), Value::Flag(answer.created)),
        ];
        let what = match (answer.created, if_exists) {
            (true, _) => "created",
            (false, IfExists::Update) => "updated",
            (false, _) => "exists:",
        };
        deeds.push(&mut session.out, &record, &format!("{what} {queue}"))?;
        deeds.finish(&mut session.out)?;
        Ok(Exit::Done)
    }
}
