//! `qctl drop`.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use qd_protocol::verbs::{self, Describe};
use qd_protocol::{ErrorCode, QueueName};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;

use crate::exit::{Exit, Failure};
use crate::output::{Deeds, Out, Record, Value, tell};
use crate::session::{Session, StdinUse};

/// Of the record.
pub const FIELDS: [&str; 3] = ["queue", "dropped", "messages"];

/// How often a question looks for its answer.
const LOOK_EVERY: Duration = Duration::from_millis(50);

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
        let may_ask = std::io::stdin().is_terminal() && session.stdin != StdinUse::Script;
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
                confirm(queue, &refusal.text).await?;
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

fn held(statistics: &qd_protocol::Statistics) -> u64 {
    statistics.ready + statistics.delayed + statistics.leased
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

/// True when a read of standard input does not wait.
fn line_is_there() -> bool {
    let mut ask = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ask, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Asks for the queue's name on the terminal.
async fn confirm(queue: &QueueName, text: &str) -> Result<(), Failure> {
    eprint!("{text}; type the queue's name to drop it with them: ");
    // Read only once a line is there: a thread left in the read by Ctrl-C would take the next
    // command away from the prompt.
    while !line_is_there() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Failure::Io(format!("cannot read the answer: {error}")))?;
    if line.trim() == queue.as_str() {
        return Ok(());
    }
    let refusal = ErrorCode::QueueNotEmpty
        .refuse(format!("queue \"{queue}\" was not dropped"))
        .with_queue(queue.as_str());
    Err(refusal.into())
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
