//! The flags of `create` and `update` that set a queue's attributes.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use qd_protocol::attributes::{
    AttributeSpec, DeadLetter, LIST_MEMBERS_MAX, OVERFLOW_DROP_OLDEST, OVERFLOW_NAMES,
    SOURCE_NAME_CHARACTERS_MAX, UNLIMITED, Unit,
};
use qd_protocol::{AttributeChanges, Attributes, QueueName};

use crate::exit::Failure;
use crate::units;

/// One flag an attribute; those not given are left alone.
#[derive(Debug, Clone, Default, Args)]
pub struct AttributeFlags {
    /// Most live messages [default: unlimited]
    #[arg(long, value_name = "N", value_parser = units::count_or_unlimited)]
    max_messages: Option<u64>,
    /// Most bytes of live messages, bodies and headers [default: unlimited]
    #[arg(long, value_name = "SIZE", value_parser = units::size_or_unlimited)]
    max_bytes: Option<u64>,
    /// Largest message, at most 16MiB [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    max_message_size: Option<u64>,
    /// Most leased messages; at the limit receives find nothing [default: unlimited]
    #[arg(long, value_name = "N", value_parser = units::count_or_unlimited)]
    max_in_flight: Option<u64>,
    /// How long a received message stays hidden unless it is deleted [default: 30s]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    visibility_timeout: Option<u64>,
    /// How long a message sent without a delay of its own is not visible [default: 0]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    delay: Option<u64>,
    /// How long after it was sent a message is removed, or forever [default: forever]
    #[arg(long, value_name = "D", value_parser = units::duration_ms_or_forever)]
    retention: Option<u64>,
    /// How often a message is delivered at most, then it becomes a dead letter [default: 16]
    #[arg(long, value_name = "N", value_parser = units::count_or_unlimited)]
    max_deliveries: Option<u64>,
    /// Where dead letters go, or none [default: QUEUE.dead, made when first needed]
    #[arg(long, value_name = "QUEUE", value_parser = dead_letter)]
    dead_letter: Option<DeadLetter>,
    /// Messages whose time is over become dead letters [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    dead_letter_expired: Option<bool>,
    /// Messages dropped to make room become dead letters [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    dead_letter_overflow: Option<bool>,
    /// Waits after counted releases without --delay, the last repeats [default: 1s,5s,30s,2m,10m]
    #[arg(long, value_name = "D", value_delimiter = ',', value_parser = units::duration_ms)]
    retry_delay: Option<Vec<u64>>,
    /// What a full queue does with a message that comes [default: reject]
    #[arg(long, value_name = "CHOICE", value_parser = overflow_parser())]
    overflow: Option<u64>,
    /// Messages of a group come strictly in their order, one lease at a time [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    ordered: Option<bool>,
    /// How long a dedup id makes later messages with it duplicates, at most 14d [default: 5m]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    dedup_window: Option<u64>,
}

impl AttributeFlags {
    /// The attributes given, each within its range.
    pub fn changes(&self) -> Result<AttributeChanges, Failure> {
        let attributes = AttributeChanges {
            max_messages: self.max_messages,
            max_bytes: self.max_bytes,
            max_message_size: self.max_message_size,
            visibility_timeout_ms: self.visibility_timeout,
            max_in_flight: self.max_in_flight,
            delay_ms: self.delay,
            retention_ms: self.retention,
            max_deliveries: self.max_deliveries,
            dead_letter: self.dead_letter.clone(),
            dead_letter_expired: self.dead_letter_expired,
            dead_letter_overflow: self.dead_letter_overflow,
            retry_delay_ms: self.retry_delay.clone(),
            overflow: self.overflow,
            ordered: self.ordered,
            dedup_window_ms: self.dedup_window,
            // `pause` and `resume` set it.
            paused: None,
        };
        for (spec, value) in attributes.values() {
            if value.is_some_and(|value| !spec.allows(&value)) {
                return Err(Failure::Usage(format!("--{} {}", spec.name, must_be(spec))));
            }
        }
        if let (Some(delay), Some(retention)) = (self.delay, self.retention) {
            check_seen(("--delay", delay), ("--retention", retention))?;
        }
        if self.ordered == Some(true) && self.overflow == Some(OVERFLOW_DROP_OLDEST) {
            let text = "--ordered contradicts --overflow drop-oldest: what is dropped would leave a \
                        gap in the order";
            return Err(Failure::Usage(text.to_owned()));
        }
        if self.dead_letter == Some(DeadLetter::None) {
            self.check_without_dead_letters()?;
        }
        Ok(attributes)
    }

    /// Refuses what would move dead letters where there shall be none.
    fn check_without_dead_letters(&self) -> Result<(), Failure> {
        // What it has anyway, as `info` shows it, says nothing.
        let default = Attributes::default().max_deliveries;
        let deliveries =
            self.max_deliveries.filter(|number| ![UNLIMITED, default].contains(number));
        let given = [
            deliveries.map(|number| format!("--max-deliveries {number}")),
            (self.dead_letter_expired == Some(true)).then(|| "--dead-letter-expired".to_owned()),
            (self.dead_letter_overflow == Some(true)).then(|| "--dead-letter-overflow".to_owned()),
        ];
        match given.into_iter().flatten().next() {
            None => Ok(()),
            Some(flag) => {
                let text = format!(
                    "{flag} contradicts --dead-letter none: messages would have nowhere to go"
                );
                Err(Failure::Usage(text))
            }
        }
    }

    /// Refuses a name for a new queue that leaves no room for that of its default dead-letter
    /// queue.
    pub fn check_name(&self, queue: &QueueName) -> Result<(), Failure> {
        if queue.as_str().len() <= SOURCE_NAME_CHARACTERS_MAX || self.dead_letter.is_some() {
            return Ok(());
        }
        let text = format!(
            "the name has {} characters: at most {SOURCE_NAME_CHARACTERS_MAX} where the dead-letter \
             queue is QUEUE.dead; give another --dead-letter, or none",
            queue.as_str().len(),
        );
        Err(Failure::Usage(text))
    }
}

/// Reads the name of a dead-letter queue, or `none`.
pub fn dead_letter(text: &str) -> Result<DeadLetter, String> {
    if text == "none" {
        return Ok(DeadLetter::None);
    }
    if text.eq_ignore_ascii_case("none") {
        return Err("without a dead-letter queue it is none, in small letters".to_owned());
    }
    QueueName::new(text).map(DeadLetter::Queue).map_err(|error| error.to_string())
}

/// Refuses a life that is over before its delay: nobody would ever see the message.
pub fn check_seen(delay: (&str, u64), life: (&str, u64)) -> Result<(), Failure> {
    if delay.1 < life.1 {
        return Ok(());
    }
    let [delay_ms, life_ms] = [delay.1, life.1].map(units::show_duration);
    let text = format!(
        "{} {life_ms} is over by the time {} {delay_ms} ends: no message would be received",
        life.0, delay.0,
    );
    Err(Failure::Usage(text))
}

/// Reads a choice for `--overflow` to its number.
fn overflow_parser() -> impl TypedValueParser<Value = u64> {
    let number = |name: String| OVERFLOW_NAMES.iter().position(|known| *known == name);
    PossibleValuesParser::new(OVERFLOW_NAMES).map(move |name| number(name).unwrap_or(0) as u64)
}

/// The name of a choice for `--overflow`; the number, where it is one of a newer server.
pub fn show_overflow(value: u64) -> String {
    let name = usize::try_from(value).ok().and_then(|number| OVERFLOW_NAMES.get(number));
    name.map_or_else(|| value.to_string(), |name| (*name).to_owned())
}

/// What an attribute must be, to stand behind its name.
pub fn must_be(spec: &AttributeSpec) -> String {
    let show = |value: u64| match spec.unit {
        Unit::Messages | Unit::Deliveries | Unit::Flag | Unit::DeadLetter => value.to_string(),
        Unit::Bytes => units::show_size(value),
        Unit::Milliseconds => units::show_duration(value),
        Unit::Overflow => show_overflow(value),
    };
    let unlimited = match spec.unit {
        _ if !spec.unlimited => "",
        Unit::Milliseconds => ", or forever",
        _ => ", or unlimited",
    };
    let (least, most) = (show(spec.least), show(spec.most));
    // The only list.
    if spec.name == "retry-delay" {
        return format!("must be 1 to {LIST_MEMBERS_MAX} times {least} to {most}");
    }
    format!("must be {least} to {most}{unlimited}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn attributes_out_of_range_are_a_usage_error() {
        let none = AttributeFlags::default;
        let count = |max_messages| AttributeFlags { max_messages, ..none() };
        let size = |max_message_size| AttributeFlags { max_message_size, ..none() };
        assert!(count(Some(1)).changes().is_ok());
        assert!(count(Some(UNLIMITED)).changes().is_ok());
        assert!(size(Some(0)).changes().is_ok());
        for bad in [
            count(Some(0)),
            size(Some((16 << 20) + 1)),
            size(Some(UNLIMITED)),
            AttributeFlags { max_in_flight: Some(0), ..none() },
            AttributeFlags { delay: Some(u64::MAX), ..none() },
            AttributeFlags { retention: Some(0), ..none() },
            AttributeFlags { overflow: Some(2), ..none() },
            AttributeFlags { max_deliveries: Some(0), ..none() },
            AttributeFlags { max_deliveries: Some(1_000_001), ..none() },
            AttributeFlags { retry_delay: Some(vec![0; 17]), ..none() },
            AttributeFlags { retry_delay: Some(vec![1, u64::MAX]), ..none() },
            AttributeFlags { dedup_window: Some(14 * 86_400_000 + 1), ..none() },
        ] {
            let failure = bad.changes().unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.to_string().contains(" must be "), "{failure}");
        }
    }

    #[test]
    fn dead_letters_that_have_nowhere_to_go_are_a_usage_error() {
        let none = || AttributeFlags {
            dead_letter: Some(dead_letter("none").unwrap()),
            ..AttributeFlags::default()
        };
        for good in [
            none(),
            AttributeFlags { max_deliveries: Some(UNLIMITED), ..none() },
            AttributeFlags { max_deliveries: Some(16), ..none() },
            AttributeFlags { dead_letter_expired: Some(false), ..none() },
        ] {
            assert!(good.changes().is_ok(), "{good:?}");
        }
        for bad in [
            AttributeFlags { max_deliveries: Some(5), ..none() },
            AttributeFlags { dead_letter_expired: Some(true), ..none() },
            AttributeFlags { dead_letter_overflow: Some(true), ..none() },
        ] {
            let failure = bad.changes().unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.to_string().contains("--dead-letter none"), "{failure}");
        }
    }

    #[test]
    fn ordered_queue_that_drops_its_oldest_is_a_usage_error() {
        let flags = |ordered, overflow| AttributeFlags {
            ordered: Some(ordered),
            overflow: Some(overflow),
            ..AttributeFlags::default()
        };
        assert!(flags(true, 0).changes().is_ok());
        assert!(flags(false, OVERFLOW_DROP_OLDEST).changes().is_ok());
        let failure = flags(true, OVERFLOW_DROP_OLDEST).changes().unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
    }

    #[test]
    fn dead_letter_queue_is_a_name_or_none() {
        let jobs = QueueName::new("jobs.dead").unwrap();
        assert_eq!(dead_letter("jobs.dead"), Ok(DeadLetter::Queue(jobs)));
        assert_eq!(dead_letter("none"), Ok(DeadLetter::None));
        assert!(dead_letter("a/b").is_err());
        assert!(dead_letter("None").unwrap_err().contains("none"));
    }

    #[test]
    fn long_name_needs_another_dead_letter_queue() {
        let name = |length: usize| QueueName::new("x".repeat(length)).unwrap();
        let flags = AttributeFlags::default();
        assert!(flags.check_name(&name(120)).is_ok());
        assert_eq!(flags.check_name(&name(121)).unwrap_err().exit(), Exit::Usage);
        let none = AttributeFlags { dead_letter: Some(DeadLetter::None), ..flags };
        assert!(none.check_name(&name(128)).is_ok());
    }

    #[test]
    fn life_that_ends_before_its_delay_is_a_usage_error() {
        assert!(check_seen(("--delay", 0), ("--ttl", 1)).is_ok());
        assert!(check_seen(("--delay", 1), ("--retention", UNLIMITED)).is_ok());
        for (delay, life) in [(1, 1), (60_000, 1_000)] {
            let failure = check_seen(("--delay", delay), ("--ttl", life)).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
        }
    }

    #[test]
    fn choices_are_shown_by_their_names() {
        assert_eq!([0, 1, 2].map(show_overflow), ["reject", "drop-oldest", "2"]);
    }

    #[test]
    fn every_attribute_has_its_flag() {
        let command = AttributeFlags::augment_args(clap::Command::new("create"));
        // For `paused` there are verbs.
        let specs = qd_protocol::attributes::SPECS.iter().filter(|spec| spec.name != "paused");
        for spec in specs {
            let found = command.get_arguments().any(|flag| flag.get_long() == Some(spec.name));
            assert!(found, "--{}", spec.name);
        }
    }
}
