//! `qctl drop`.

use clap::Args;
use qd_protocol::verbs::{self, Describe};
use qd_protocol::{ErrorCode, QueueName};

use super::confirm::{confirm, held, may_ask};
use super::meant::with_meant;
use crate::exit::{Exit, Failure};
use crate::output::{Deeds, Out, Record, Value, tell};
use crate::session::Session;

/// Of the record.
pub const FIELDS: [&str; 3] = ["queue", "dropped", "messages"];

/// Remove queues and all their messages
///
/// A queue that holds messages is dropped after a question on a terminal, and only with --yes
/// elsewhere.
#[derive(Debug, Clone, Args)]
pub struct Drop {
    /// Their names
    #[arg(required = true, value_name = "QUEUE")]
    queues: Vec<QueueName>,
    /// A queue that is not there is fine
    #[arg(long)]
    if_exists: bool,
    /// Leave a queue that holds messages, with status 1
    #[arg(long)]
    if_empty: bool,
    /// Drop queues that hold messages without a question
    #[arg(long)]
    yes: bool,
}

/// What became of one queue.
enum Outcome {
    Dropped(u64),
    NotThere,
}

impl Drop {
    /// Drops the queues in order; the status is that of the first that failed.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let may_ask = may_ask(session);
        let many = self.queues.len() > 1;
        let mut deeds = Deeds::new(&session.out, many, &FIELDS)?;
        if !self.yes && !self.if_empty && !may_ask {
            self.refuse_unless_empty(session).await?;
        }
        let mut exit = Exit::Done;
        for queue in &self.queues {
            match self.drop_one(session, queue, may_ask).await {
                Ok(outcome) => say(&mut session.out, &mut deeds, queue, &outcome)?,
                // What ends the whole command, not this queue alone.
                Err(failure) if failure.refusal().is_none() && failure.exit() != Exit::Negative => {
                    return Err(failure);
                }
                Err(failure) => {
                    let failure = with_meant(session, failure).await;
                    tell(&failure, session.out.is_json());
                    if exit == Exit::Done {
                        exit = failure.exit();
                    }
                }
            }
        }
        deeds.finish(&mut session.out)?;
        Ok(exit)
    }

    /// Without a person to ask: nothing is done when any of the queues holds messages.
    async fn refuse_unless_empty(&self, session: &mut Session) -> Result<(), Failure> {
        for queue in &self.queues {
            let describe = Describe { queue: queue.clone() };
            match session.call(describe).await {
                Ok(description) => {
                    let held = held(&description.statistics);
                    if held > 0 {
                        return Err(needs_yes(queue, held));
                    }
                }
                // Told when its turn comes.
                Err(failure) if is_missing(&failure) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    async fn drop_one(
        &self,
        session: &mut Session,
        queue: &QueueName,
        may_ask: bool,
    ) -> Result<Outcome, Failure> {
        let drop = |only_if_empty| verbs::Drop { queue: queue.clone(), only_if_empty };
        let only_if_empty = self.if_empty || !self.yes;
        let result = match session.call(drop(only_if_empty)).await {
            Err(Failure::Refused(refusal)) if refusal.code == ErrorCode::QueueNotEmpty => {
                let held = refusal.limit.as_ref().map_or(0, |limit| limit.current);
                if self.if_empty {
                    return Err(Failure::Refused(refusal));
                }
                if !may_ask {
                    return Err(needs_yes(queue, held));
                }
                let question =
                    format!("{}; type the queue's name to drop it with them", refusal.text);
                confirm(queue, &question, "dropped").await?;
                session.call(drop(false)).await
            }
            other => other,
        };
        match result {
            Ok(dropped) => Ok(Outcome::Dropped(dropped.messages)),
            Err(failure) if self.if_exists && is_missing(&failure) => Ok(Outcome::NotThere),
            Err(failure) => Err(failure),
        }
    }
}

fn is_missing(failure: &Failure) -> bool {
    failure.refusal().is_some_and(|refusal| refusal.code == ErrorCode::NoSuchQueue)
}

fn needs_yes(queue: &QueueName, held: u64) -> Failure {
    let held = match held {
        0 => "messages".to_owned(),
        1 => "1 message".to_owned(),
        many => format!("{many} messages"),
    };
    Failure::Usage(format!(
        "queue \"{queue}\" holds {held}; nothing was dropped (--yes drops it with them)"
    ))
    .of(queue)
}

fn say(
    out: &mut Out,
    deeds: &mut Deeds,
    queue: &QueueName,
    outcome: &Outcome,
) -> Result<(), Failure> {
    let (dropped, messages) = match outcome {
        Outcome::Dropped(messages) => (true, *messages),
        Outcome::NotThere => (false, 0),
    };
    let record: Record = vec![
        ("queue".to_owned(), Value::Text(queue.to_string())),
        ("dropped".to_owned(), Value::Flag(dropped)),
        ("messages".to_owned(), Value::Count(messages)),
    ];
    let sentence = match outcome {
        Outcome::Dropped(0) => format!("dropped {queue}"),
        Outcome::Dropped(1) => format!("dropped {queue} with 1 message"),
        Outcome::Dropped(many) => format!("dropped {queue} with {many} messages"),
        Outcome::NotThere => format!("{queue} is not there"),
    };
    deeds.push(out, &record, &sentence)
}
