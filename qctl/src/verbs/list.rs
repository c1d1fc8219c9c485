//! `qctl list`.

use clap::Args;
use qd_protocol::attributes::{self, Unit};
use qd_protocol::verbs;
use qd_protocol::verbs::list::{PAGE_MAX, PATTERN_BYTES_MAX};
use qd_protocol::{Attributes, Client, QueueDescription, QueueName, Statistics};

use super::attributes::show_overflow;
use crate::exit::{Exit, Failure};
use crate::output::{Record, Records, Value};
use crate::session::Session;

/// Show the queues
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only names that match; * is any run of characters, ? any one
    #[arg(value_parser = pattern)]
    pattern: Option<String>,
}

/// Reads a pattern of names.
pub fn pattern(text: &str) -> Result<String, String> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(format!("a pattern has at most {PATTERN_BYTES_MAX} bytes, not {}", text.len()));
    }
    Ok(text.to_owned())
}

const TABLE: &[&str] = &["name", "ready", "delayed", "leased", "bytes", "oldest_age_s"];

impl List {
    /// Shows the queues, page by page.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let mut records = Records::new(&session.out, true, &columns(), &["name"], TABLE)?;
        let client = session.client().await?;
        let mut pages = Pages::new(self.pattern);
        while let Some(queues) = pages.next(&client).await? {
            for queue in &queues {
                records.push(&mut session.out, &record(queue))?;
            }
        }
        records.finish(&mut session.out)?;
        Ok(Exit::Done)
    }
}

/// The queues that match a pattern, in the order of their names.
pub struct Pages {
    pattern: Option<String>,
    after: Option<QueueName>,
    more: bool,
}

impl Pages {
    /// From the first one on.
    pub fn new(pattern: Option<String>) -> Self {
        Self { pattern, after: None, more: true }
    }

    /// The next ones; `None` behind the last.
    pub async fn next(
        &mut self,
        client: &Client,
    ) -> Result<Option<Vec<QueueDescription>>, Failure> {
        if !self.more {
            return Ok(None);
        }
        let (pattern, after) = (self.pattern.clone(), self.after.take());
        let page = client.call(verbs::List { pattern, after, limit: PAGE_MAX }).await?;
        self.after = page.queues.last().map(|queue| queue.name.clone());
        self.more = page.more && self.after.is_some();
        Ok(Some(page.queues))
    }
}

/// Every field of a queue.
pub fn record(queue: &QueueDescription) -> Record {
    let mut record = vec![
        ("name".to_owned(), Value::Text(queue.name.to_string())),
        ("created_at".to_owned(), Value::Time(queue.created_at_ms)),
    ];
    for (spec, value) in queue.attributes.values() {
        let name = spec.name.replace('-', "_");
        let name = if spec.unit == Unit::Milliseconds { format!("{name}_ms") } else { name };
        let value = match value {
            attributes::Value::Number(number) => match spec.unit {
                Unit::Bytes => Value::Bytes(number),
                Unit::Milliseconds => Value::Millis(number),
                Unit::Overflow => Value::Text(show_overflow(number)),
                Unit::Flag => Value::Flag(number != 0),
                Unit::Messages | Unit::Deliveries | Unit::DeadLetter => Value::Count(number),
            },
            attributes::Value::DeadLetter(dead_letter) => {
                Value::Name(dead_letter.queue_of(&queue.name).map(|queue| queue.to_string()))
            }
            attributes::Value::List(members) => Value::MillisList(members),
        };
        record.push((name, value));
    }
    record.extend(counters(&queue.statistics));
    record
}

/// Its counters.
pub fn counters(statistics: &Statistics) -> impl Iterator<Item = (String, Value)> {
    statistics.values().into_iter().map(|(name, value)| {
        let value = if name == "bytes" { Value::Bytes(value) } else { Value::Count(value) };
        (name.to_owned(), value)
    })
}

/// The names of a queue's fields.
pub fn columns() -> Vec<String> {
    let name = QueueName::new("x").map(|name| QueueDescription {
        name,
        created_at_ms: 0,
        attributes: Attributes::default(),
        statistics: Statistics::default(),
    });
    let record = name.map(|queue| record(&queue)).unwrap_or_default();
    record.into_iter().map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_has_every_field_of_the_contract() {
        let columns = columns();
        for name in [
            "name",
            "max_messages",
            "max_bytes",
            "max_message_size",
            "visibility_timeout_ms",
            "retention_ms",
            "max_deliveries",
            "dead_letter",
            "dead_letter_expired",
            "dead_letter_overflow",
            "retry_delay_ms",
            "overflow",
            "ordered",
            "dedup_window_ms",
            "paused",
            "ready",
            "delayed",
            "leased",
            "bytes",
            "oldest_age_s",
            "sent",
            "received",
            "deleted",
            "expired",
            "dropped",
            "dead_lettered",
            "dead_letter_blocked",
            "redriven",
            "duplicates",
        ] {
            assert!(columns.iter().any(|column| column == name), "{name}");
        }
        for name in TABLE {
            assert!(columns.iter().any(|column| column == name), "{name}");
        }
    }
}
