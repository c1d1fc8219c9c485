//! `qctl stats`.

use std::collections::BTreeSet;

use clap::Args;
use qd_protocol::verbs::{self, Describe};
use qd_protocol::{Client, ErrorCode, QueueDescription, QueueName, Statistics};

use super::list::{self, pattern};
use super::meant::with_meant;
use super::watch;
use crate::exit::{Exit, Failure};
use crate::output::{Record, Records, Value, tell};
use crate::session::Session;
use crate::units;

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
    /// Look again and again, this long after the look before, and show how fast messages come and go
    #[arg(long, value_name = "D", value_parser = units::interval_ms)]
    watch: Option<u64>,
    /// End after this many looks; only with --watch
    #[arg(long, value_name = "N", requires = "watch", value_parser = units::whole::<u64>(1, u64::MAX))]
    count: Option<u64>,
}

impl Stats {
    /// True when it goes on until something ends it.
    pub fn watches(&self) -> bool {
        self.watch.is_some()
    }

    /// Shows them, each queue once, as they were at one moment.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let asked = Asked(self.queues);
        if let Some(every_ms) = self.watch {
            return watch::run(&asked, every_ms, self.count, session).await;
        }
        let known = columns();
        if let Some(column) = watch::own_column(&session.out.columns) {
            return Err(Failure::Usage(format!("the column {column} is only there with --watch")));
        }
        let plain: Vec<&str> = known.iter().map(String::as_str).collect();
        let one_record = session.out.is_shell() && asked.is_one_name();
        let mut records = Records::new(&session.out, !one_record, &known, &plain, TABLE)?;
        let (patterns, names): (Vec<String>, Vec<String>) =
            asked.0.into_iter().partition(|text| is_pattern(text));
        let names = names.into_iter().map(QueueName::new).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|error| Failure::Usage(error.to_string()))?;
        let stats = verbs::Stats { names: names.clone(), patterns };
        stats.check().map_err(|refusal| Failure::Usage(refusal.text))?;
        let counted = session.call(stats).await?;
        for (name, statistics) in &counted.queues {
            records.push(&mut session.out, &record(name.as_str(), statistics))?;
        }
        records.finish(&mut session.out)?;
        let mut missing = names;
        missing.retain(|name| counted.queues.binary_search_by(|(at, _)| at.cmp(name)).is_err());
        missing.sort();
        missing.dedup();
        for name in &missing {
            let refusal = ErrorCode::NoSuchQueue
                .refuse(format!("no queue is named {:?}", name.as_str()))
                .with_queue(name.as_str());
            let failure = with_meant(session, refusal.into()).await;
            tell(&failure, session.out.is_json());
        }
        Ok(if missing.is_empty() { Exit::Done } else { Exit::Missing })
    }
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Which queues: names and patterns, or nothing for all.
#[derive(Debug)]
pub struct Asked(Vec<String>);

/// A queue that was named and cannot be shown.
#[derive(Debug)]
pub struct Refused {
    /// Its name.
    pub name: String,
    /// Why.
    pub failure: Failure,
}

impl Asked {
    /// True when there is one word, which may be a pattern.
    pub fn is_one(&self) -> bool {
        self.0.len() == 1
    }

    /// True when there is the name of one queue.
    fn is_one_name(&self) -> bool {
        self.is_one() && !is_pattern(&self.0[0])
    }

    /// Gives each queue to `take`, once. Returns those that were named and are not there.
    pub async fn look(
        &self,
        client: &Client,
        mut take: impl FnMut(&QueueDescription) -> Result<(), Failure>,
    ) -> Result<Vec<Refused>, Failure> {
        let mut taken = BTreeSet::new();
        let mut take = |queue: &QueueDescription| {
            if taken.insert(queue.name.clone()) { take(queue) } else { Ok(()) }
        };
        let mut refused = Vec::new();
        let all = [None];
        let words: Vec<Option<&String>> =
            if self.0.is_empty() { all.to_vec() } else { self.0.iter().map(Some).collect() };
        for word in words {
            if let Some(name) = word.filter(|word| !is_pattern(word)) {
                let queue = QueueName::new(name.clone());
                let queue = queue.map_err(|error| Failure::Usage(error.to_string()))?;
                match client.call(Describe { queue }).await.map_err(Failure::from) {
                    Ok(queue) => take(&queue)?,
                    Err(failure) if failure.refusal().is_some() && !failure.is_absence() => {
                        refused.push(Refused { name: name.clone(), failure });
                    }
                    Err(failure) => return Err(failure),
                }
                continue;
            }
            let mut pages = list::Pages::new(word.cloned());
            while let Some(queues) = pages.next(client).await? {
                queues.iter().try_for_each(&mut take)?;
            }
        }
        Ok(refused)
    }
}

/// The fields of a queue.
pub fn record(name: &str, statistics: &Statistics) -> Record {
    let mut record = vec![("name".to_owned(), Value::Text(name.to_owned()))];
    record.extend(list::counters(statistics));
    record
}

/// The names of the fields.
fn columns() -> Vec<String> {
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
