//! `qctl pause` and `qctl resume`.

use clap::Args;
use qd_protocol::verbs;
use qd_protocol::{AttributeChanges, QueueName};

use super::meant::with_meant;
use crate::exit::{Exit, Failure};
use crate::output::{Deeds, Record, Value, tell};
use crate::session::Session;

/// Of the records.
pub const FIELDS: [&str; 3] = ["queue", "paused", "changed"];

/// Stop the deliveries of queues
///
/// A receive finds nothing, and waits where it may. Everything else goes on: messages can be sent,
/// and what is received already can be deleted. resume ends it.
#[derive(Debug, Clone, Args)]
pub struct Pause {
    /// Their names
    #[arg(required = true, value_name = "QUEUE")]
    queues: Vec<QueueName>,
}

/// Let queues deliver again that were paused
#[derive(Debug, Clone, Args)]
pub struct Resume {
    /// Their names
    #[arg(required = true, value_name = "QUEUE")]
    queues: Vec<QueueName>,
}

impl Pause {
    /// Pauses them.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        set(session, &self.queues, true).await
    }
}

impl Resume {
    /// Resumes them.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        set(session, &self.queues, false).await
    }
}

/// Pauses or resumes the queues in order; the status is that of the first that failed.
async fn set(session: &mut Session, queues: &[QueueName], paused: bool) -> Result<Exit, Failure> {
    let mut deeds = Deeds::new(&session.out, queues.len() > 1, &FIELDS)?;
    let mut exit = Exit::Done;
    for queue in queues {
        let attributes = AttributeChanges { paused: Some(paused), ..AttributeChanges::default() };
        let update = verbs::Update { queue: queue.clone(), attributes };
        let changed = match session.call(update).await {
            Ok(answer) => answer.changed,
            Err(failure) if queues.len() == 1 || failure.refusal().is_none() => {
                return Err(failure);
            }
            Err(failure) => {
                let failure = with_meant(session, failure).await;
                tell(&failure, session.out.is_json());
                if exit == Exit::Done {
                    exit = failure.exit();
                }
                continue;
            }
        };
        let record: Record = vec![
            ("queue".to_owned(), Value::Text(queue.to_string())),
            ("paused".to_owned(), Value::Flag(paused)),
            ("changed".to_owned(), Value::Flag(changed)),
        ];
        let sentence = match (paused, changed) {
            (true, true) => format!("paused {queue}"),
            (false, true) => format!("resumed {queue}"),
            (true, false) => format!("{queue} is paused already"),
            (false, false) => format!("{queue} is not paused"),
        };
        deeds.push(&mut session.out, &record, &sentence)?;
    }
    deeds.finish(&mut session.out)?;
    Ok(exit)
}
