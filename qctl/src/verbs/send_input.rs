//! How the input of a send becomes messages.

use bytes::Bytes;
use qd_protocol::message::Properties;
use qd_protocol::verbs::{Due, SendEntry};
use qd_protocol::{Headers, MESSAGE_BYTES_MAX};

use super::envelope::{self, Envelope};
use crate::exit::Failure;
use crate::input::{Cut, Source};

/// What is the same for every message of a command.
#[derive(Debug, Clone, Default)]
pub struct Common {
    /// Headers of all.
    pub headers: Headers,
    /// When they become visible.
    pub due: Option<Due>,
    /// How long they live.
    pub ttl_ms: Option<u64>,
    /// Priority and group of all; the dedup id of the only one.
    pub properties: Properties,
    /// That one is to be there once.
    pub unique: bool,
}

impl Common {
    /// A message with this body.
    pub fn entry(&self, body: Bytes) -> SendEntry {
        let mut entry = SendEntry::new(body);
        if !self.headers.0.is_empty() {
            entry.headers = self.headers.clone();
        }
        entry.due = self.due;
        entry.ttl_ms = self.ttl_ms;
        entry.properties.clone_from(&self.properties);
        entry.unique = self.unique;
        entry
    }

    /// Whether one may be a duplicate.
    pub fn may_repeat(&self) -> bool {
        self.properties.dedup_id.is_some()
    }
}

/// Where one body comes from.
pub enum Body {
    /// The command line.
    Given(Bytes),
    /// Standard input or a file.
    Read(Source),
}

impl Body {
    /// Its bytes.
    pub async fn read(self) -> Result<Bytes, Failure> {
        match self {
            Self::Given(bytes) => Ok(bytes),
            Self::Read(source) => source.read_body().await,
        }
    }
}

/// How the input is cut into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// At newlines.
    Lines,
    /// At NULs.
    Null,
    /// At newlines, with a JSON object a line.
    Jsonl,
    /// By the lengths before them.
    LengthPrefixed,
}

impl Form {
    /// How records are told apart.
    pub fn cut(self) -> Cut {
        match self {
            Self::Lines | Self::Jsonl => Cut::At(b'\n'),
            Self::Null => Cut::At(0),
            Self::LengthPrefixed => Cut::Prefixed,
        }
    }

    /// What people call a record.
    pub fn record_name(self) -> &'static str {
        match self {
            Self::Lines | Self::Jsonl => "line",
            Self::Null | Self::LengthPrefixed => "record",
        }
    }

    /// Longest record.
    pub fn record_bytes_max(self) -> u64 {
        if self == Self::Jsonl { envelope::LINE_BYTES_MAX } else { MESSAGE_BYTES_MAX }
    }

    /// The message of a record; of an empty line of JSON none.
    pub fn read(self, record: &Bytes, common: &Common) -> Result<Option<Envelope>, Failure> {
        match self {
            Self::Lines | Self::Null | Self::LengthPrefixed => {
                Ok(Some(Envelope { queue: None, entry: common.entry(record.clone()) }))
            }
            Self::Jsonl => envelope::parse(record, common),
        }
    }
}
