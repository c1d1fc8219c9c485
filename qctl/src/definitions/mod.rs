//! Queues and their attributes in a file, as `export` writes and `apply` reads it.
//!
//! ```text
//! version = 1
//!
//! [queues.jobs]
//! max-messages = 1000
//! visibility-timeout = "5m"
//! ```
//!
//! Always true here: the keys of a queue are the names of the flags of `create`, and their values
//! what these take; an attribute that is not there has its default. What [`write()`] gives
//! [`read()`] takes for the same.

mod plan;
mod read;
mod value;
mod write;

use std::collections::BTreeMap;

use qd_protocol::{Attributes, QueueName};

use crate::document::Document;

pub use plan::{Change, Kind, Plan, plan};
pub use read::read;
pub use write::write;

/// The version of the file's form.
const VERSION: u64 = 1;

/// Attributes of a server's queues.
pub type Queues = BTreeMap<QueueName, Attributes>;

/// The content of a file.
#[derive(Debug)]
pub struct Definitions {
    /// The file, for the places of what is wrong with it.
    pub document: Document,
    /// Its queues.
    pub queues: BTreeMap<QueueName, Defined>,
    /// Whether it has a place for queues, which may be empty.
    pub has_queues: bool,
}

/// A queue of a file.
#[derive(Debug)]
pub struct Defined {
    /// Where its name stands.
    pub at: usize,
    /// All of its attributes.
    pub attributes: Attributes,
}

#[cfg(test)]
mod tests {
    use qd_protocol::attributes::{DeadLetter, OVERFLOW_DROP_OLDEST, UNLIMITED};

    use super::*;
    use crate::document::Form;

    fn name(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn queues() -> Queues {
        let all = Attributes {
            max_messages: 1 << 63,
            max_bytes: 1_000_001,
            max_message_size: 16 << 20,
            visibility_timeout_ms: 90_500,
            max_in_flight: 1,
            delay_ms: 86_400_000,
            retention_ms: 1,
            max_deliveries: UNLIMITED,
            dead_letter: DeadLetter::Queue(name("other")),
            dead_letter_expired: true,
            dead_letter_overflow: true,
            retry_delay_ms: vec![0, 1, 60_000],
            overflow: OVERFLOW_DROP_OLDEST,
            ordered: false,
            dedup_window_ms: 0,
            paused: true,
        };
        let none =
            Attributes { dead_letter: DeadLetter::None, ordered: true, ..Attributes::default() };
        Queues::from([
            (name("all"), all),
            (name("jobs"), Attributes::default()),
            (name("jobs.dead"), none),
        ])
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for form in [Form::Toml, Form::Json] {
            for every in [false, true] {
                for queues in [queues(), Queues::new()] {
                    let text = write(&queues, form, every);
                    assert_eq!(Form::of(text.as_bytes()), form, "{text}");
                    let document = Document::parse("f".to_owned(), text.clone().into_bytes(), form);
                    let read = read(document.unwrap()).unwrap_or_else(|mistakes| {
                        panic!("{mistakes:?}\n{text}");
                    });
                    assert!(read.has_queues);
                    let read = read.queues.into_iter();
                    let read: Queues = read.map(|(name, queue)| (name, queue.attributes)).collect();
                    assert_eq!(read, queues, "{text}");
                }
            }
        }
    }

    #[test]
    fn only_what_differs_from_the_defaults_is_written_unless_all_is() {
        let queues = Queues::from([
            (name("jobs"), Attributes::default()),
            (name("mail.in"), Attributes { paused: true, ..Attributes::default() }),
        ]);
        let toml = "version = 1\n\n[queues.jobs]\n\n[queues.\"mail.in\"]\npaused = true\n";
        assert_eq!(write(&queues, Form::Toml, false), toml);
        let json = "{\n  \"version\": 1,\n  \"queues\": {\n    \"jobs\": {},\n    \"mail.in\": {\n      \
                    \"paused\": true\n    }\n  }\n}\n";
        assert_eq!(write(&queues, Form::Json, false), json);
        let all = write(&queues, Form::Toml, true);
        for line in [
            "max-messages = \"unlimited\"",
            "max-message-size = \"1MiB\"",
            "retention = \"forever\"",
            "dead-letter = \"mail.in.dead\"",
            "retry-delay = [\"1s\", \"5s\", \"30s\", \"2m\", \"10m\"]",
            "overflow = \"reject\"",
            "delay = \"0\"",
        ] {
            assert!(all.lines().any(|other| other == line), "{line}:\n{all}");
        }
        assert_eq!(all.matches(" = ").count(), 1 + 2 * qd_protocol::attributes::SPECS.len());
    }
}
