//! `qctl create`.

use clap::Args;
use qd_protocol::attributes::{AttributeSpec, UNLIMITED, Unit};
use qd_protocol::verbs::{self, IfExists};
use qd_protocol::{AttributeChanges, QueueName};

use crate::exit::{Exit, Failure};
use crate::output::{Record, Records, Value};
use crate::session::Session;
use crate::units;

/// Make a queue, or check or change one that exists
///
/// When the queue exists, the attributes given are compared: equal is fine, different is status 73.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// Its name: 1 to 128 of A-Z a-z 0-9 . _ -
    queue: QueueName,
    /// Most live messages [default: unlimited]
    #[arg(long, value_name = "N", value_parser = units::count_or_unlimited)]
    max_messages: Option<u64>,
    /// Most bytes of live messages, bodies and headers [default: unlimited]
    #[arg(long, value_name = "SIZE", value_parser = units::size_or_unlimited)]
    max_bytes: Option<u64>,
    /// Largest message, at most 16MiB [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    max_message_size: Option<u64>,
    /// How long a received message stays hidden unless it is deleted [default: 30s]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    visibility_timeout: Option<u64>,
    /// Leave a queue that exists as it is
    #[arg(long, conflicts_with = "or_update")]
    if_not_exists: bool,
    /// Change the attributes given of a queue that exists
    #[arg(long)]
    or_update: bool,
}

impl Create {
    /// Makes the queue.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let attributes = self.attributes()?;
        let if_exists = match (self.if_not_exists, self.or_update) {
            (true, _) => IfExists::Keep,
            (_, true) => IfExists::Update,
            _ => IfExists::Compare,
        };
        let queue = self.queue.clone();
        let create = verbs::Create { queue: self.queue, if_exists, attributes };
        let answer = session.call(create).await?;
        let out = &mut session.out;
        if out.is_json() {
            let record: Record = vec![
                ("queue".to_owned(), Value::Text(queue.to_string())),
                ("created".to_owned(), Value::Flag(answer.created)),
            ];
            let mut records = Records::new(out, false, &[], &[], &[])?;
            records.push(out, &record)?;
            records.finish(out)?;
        } else if out.is_table() {
            let what = match (answer.created, if_exists) {
                (true, _) => "created",
                (false, IfExists::Update) => "updated",
                (false, _) => "exists:",
            };
            out.line(&format!("{what} {queue}"))?;
            out.flush()?;
        }
        Ok(Exit::Done)
    }

    /// The attributes given, each within its range.
    fn attributes(&self) -> Result<AttributeChanges, Failure> {
        let attributes = AttributeChanges {
            max_messages: self.max_messages,
            max_bytes: self.max_bytes,
            max_message_size: self.max_message_size,
            visibility_timeout_ms: self.visibility_timeout,
        };
        for (spec, value) in attributes.values() {
            if value.is_some_and(|value| !spec.allows(value)) {
                return Err(Failure::Usage(out_of_range(spec)));
            }
        }
        Ok(attributes)
    }
}

fn out_of_range(spec: &AttributeSpec) -> String {
    let show = |value: u64| match spec.unit {
        Unit::Messages => value.to_string(),
        Unit::Bytes => units::show_size(value),
        Unit::Milliseconds => units::show_duration(value),
    };
    let unlimited = if spec.default == UNLIMITED { ", or unlimited" } else { "" };
    format!("--{} must be {} to {}{unlimited}", spec.name, show(spec.least), show(spec.most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_out_of_range_are_a_usage_error() {
        let create = |max_messages, max_message_size| Create {
            queue: QueueName::new("q").unwrap(),
            max_messages,
            max_bytes: None,
            max_message_size,
            visibility_timeout: None,
            if_not_exists: false,
            or_update: false,
        };
        assert!(create(Some(1), Some(0)).attributes().is_ok());
        assert!(create(Some(UNLIMITED), None).attributes().is_ok());
        for bad in [
            create(Some(0), None),
            create(None, Some((16 << 20) + 1)),
            create(None, Some(UNLIMITED)),
        ] {
            let failure = bad.attributes().unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.to_string().starts_with("--max-"), "{failure}");
        }
    }

    #[test]
    fn every_attribute_has_its_flag() {
        use clap::Args as _;
        let command = Create::augment_args(clap::Command::new("create"));
        for spec in qd_protocol::attributes::SPECS {
            let found = command.get_arguments().any(|flag| flag.get_long() == Some(spec.name));
            assert!(found, "--{}", spec.name);
        }
    }
}
