//! `qctl stats`.

use std::collections::BTreeSet;

use clap::Args;
use qd_protocol::verbs::Describe;
use qd_protocol::{QueueDescription, QueueName, Statistics};

use super::list::{self, pattern};
use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::output::{Out, Record, Records, Value, tell};
use crate::session::Session;

const TABLE: &[&str] = &[
    "name",
    "ready",
    "delayed",
    "leased",
    "sent",
    "received",
    "deleted",
    "expired",
    "dropped",
    "dead_lettered",
    "duplicates",
];

/// Show the counters of queues
#[derive(Debug, Clone, Args)]
pub struct Stats {
    /// Names, or patterns as for list [default: all queues]
    #[arg(value_name = "QUEUE", value_parser = pattern)]
    queues: Vec<String>,
}

impl Stats {
    /// Shows them, each queue once.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let known = columns();
        let plain: Vec<&str> = known.iter().map(String::as_str).collect();
        let mut counters = Counters {
            records: Records::new(&session.out, !self.is_one(session), &known, &plain, TABLE)?,
            shown: BTreeSet::new(),
        };
        let mut exit = Exit::Done;
        let all = [None];
        let asked: Vec<Option<&String>> = if self.queues.is_empty() {
            all.to_vec()
        } else {
            self.queues.iter().map(Some).collect()
        };
        for asked in asked {
            match counters.show(session, asked).await {
                Ok(()) => {}
                Err(failure) if self.queues.len() > 1 && failure.refusal().is_some() => {
                    tell(&failure, session.out.is_json());
                    if exit == Exit::Done {
                        exit = failure.exit();
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        counters.records.finish(&mut session.out)?;
        Ok(exit)
    }
}

impl Stats {
    /// Whether there is one record and no room for more.
    fn is_one(&self, session: &Session) -> bool {
        let name = self.queues.first().filter(|name| !is_pattern(name));
        session.out.format == Format::Shell && self.queues.len() == 1 && name.is_some()
    }
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

struct Counters {
    records: Records,
    /// Names shown so far.
    shown: BTreeSet<String>,
}

impl Counters {
    /// Shows the queue with a name, those that match a pattern, or all.
    async fn show(&mut self, session: &mut Session, asked: Option<&String>) -> Result<(), Failure> {
        let name = asked.filter(|text| !is_pattern(text));
        if let Some(name) = name {
            let queue = QueueName::new(name.clone());
            let queue = queue.map_err(|error| Failure::Usage(error.to_string()))?;
            let queue = session.call(Describe { queue }).await?;
            return self.push(&mut session.out, &queue);
        }
        let mut pages = list::Pages::new(asked.cloned());
        while let Some(queues) = pages.next(session).await? {
            for queue in &queues {
                self.push(&mut session.out, queue)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, out: &mut Out, queue: &QueueDescription) -> Result<(), Failure> {
        if !self.shown.insert(queue.name.to_string()) {
            return Ok(());
        }
        self.records.push(out, &record(queue.name.as_str(), &queue.statistics))
    }
}

fn record(name: &str, statistics: &Statistics) -> Record {
    let mut record = vec![("name".to_owned(), Value::Text(name.to_owned()))];
    record.extend(list::counters(statistics));
    record
}

/// The names of the fields.
pub fn columns() -> Vec<String> {
    record("", &Statistics::default()).into_iter().map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_name_and_every_counter() {
        let columns = columns();
        assert_eq!(columns.len(), 1 + Statistics::SPECS.len());
        for name in TABLE {
            assert!(columns.iter().any(|column| column == name), "{name}");
        }
    }
}
