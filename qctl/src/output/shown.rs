//! A message as people and scripts see it, received or peeked at: its fields by name.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use qd_protocol::message::Properties;
use qd_protocol::verbs::peek::State;
use qd_protocol::verbs::{PeekedMessage, ReceivedMessage};
use qd_protocol::{Body, DeadLettered, Headers, QueueName, Receipt};

use super::{Object, escape};
use crate::exit::Failure;
use crate::time::rfc3339;

/// Names of a received message's fields, in the order of JSON.
pub const RECEIVED_FIELDS: [&str; 12] = [
    "queue",
    "id",
    "receipt",
    "body",
    "headers",
    "sent_at",
    "attempt",
    LEASE_UNTIL,
    "priority",
    "group",
    "dedup_id",
    DEAD_LETTER,
];

/// Of a received message whose body was written to a file: the path, in the place of the body.
pub const FILE: &str = "file";

/// Names of the fields of a message that was peeked at, in the order of JSON.
pub const PEEKED_FIELDS: [&str; 13] = [
    "queue",
    "id",
    "body",
    "headers",
    "sent_at",
    "attempt",
    "state",
    VISIBLE_AT,
    LEASE_UNTIL,
    "priority",
    "group",
    "dedup_id",
    DEAD_LETTER,
];

/// The field that only dead letters have, unless it is asked for.
const DEAD_LETTER: &str = "dead_letter";
/// Of what is peeked at only leased messages have it, unless it is asked for.
const LEASE_UNTIL: &str = "lease_until";
/// Only messages that are not visible yet have it, unless it is asked for.
const VISIBLE_AT: &str = "visible_at";

/// What is known of a message.
#[derive(Debug)]
pub struct Shown<'a> {
    /// Its queue.
    pub queue: &'a QueueName,
    /// Its id.
    pub id: u64,
    /// Its body.
    pub body: &'a Body,
    /// The file that has the body.
    pub file: Option<&'a Path>,
    /// Where it is; a received one is with us.
    state: Option<State>,
    receipt: Option<Receipt>,
    attempt: u32,
    sent_at_ms: u64,
    /// 0: it is not leased, or it was deleted on receive.
    lease_until_ms: u64,
    /// 0: it is visible, or leased.
    visible_at_ms: u64,
    headers: Headers,
    properties: Properties,
    dead_letter: Option<DeadLettered>,
}

impl<'a> Shown<'a> {
    /// A message that was received from `queue`.
    pub fn received(queue: &'a QueueName, message: &'a ReceivedMessage) -> Result<Self, Failure> {
        let shown = Self {
            queue,
            id: message.id,
            body: &message.body,
            file: None,
            state: None,
            receipt: Some(message.receipt),
            attempt: message.attempt,
            sent_at_ms: message.sent_at_ms,
            lease_until_ms: message.lease_until_ms,
            visible_at_ms: 0,
            headers: Headers::default(),
            properties: Properties::default(),
            dead_letter: None,
        };
        shown.with_fields(&message.fields, message.headers())
    }

    /// A message of `queue` that was peeked at.
    pub fn peeked(queue: &'a QueueName, message: &'a PeekedMessage) -> Result<Self, Failure> {
        let (visible_at_ms, lease_until_ms) = match message.state {
            State::Ready => (0, 0),
            State::Delayed | State::Blocked => (message.until_ms, 0),
            State::Leased => (0, message.until_ms),
        };
        let shown = Self {
            queue,
            id: message.id,
            body: &message.body,
            file: None,
            state: Some(message.state),
            receipt: None,
            attempt: message.attempts,
            sent_at_ms: message.sent_at_ms,
            lease_until_ms,
            visible_at_ms,
            headers: Headers::default(),
            properties: Properties::default(),
            dead_letter: None,
        };
        shown.with_fields(&message.fields, message.headers())
    }

    fn with_fields(
        self,
        fields: &Bytes,
        headers: Result<Headers, qd_protocol::wire::DecodeError>,
    ) -> Result<Self, Failure> {
        let broken = |error: qd_protocol::wire::DecodeError| Failure::Protocol(error.to_string());
        Ok(Self {
            headers: headers.map_err(broken)?,
            properties: Properties::of(fields).map_err(broken)?,
            dead_letter: DeadLettered::newest(fields).map_err(broken)?,
            ..self
        })
    }

    /// The fields that JSON has unless others are asked for.
    fn own_fields(&self) -> impl Iterator<Item = &'static str> {
        let all: &[&str] = if self.state.is_some() { &PEEKED_FIELDS } else { &RECEIVED_FIELDS };
        let stored = self.file.is_some();
        let all = all.iter().map(move |name| if stored { with_file(name) } else { name });
        all.filter(|name| match *name {
            DEAD_LETTER => self.dead_letter.is_some(),
            VISIBLE_AT => self.visible_at_ms > 0,
            LEASE_UNTIL => self.state.is_none() || self.lease_until_ms > 0,
            _ => true,
        })
    }

    /// As JSON, with the fields `asked`, or its own.
    pub fn object(&self, asked: &[String]) -> String {
        let mut object = Object::new();
        if asked.is_empty() {
            for name in self.own_fields() {
                self.json(name, &mut object);
            }
        }
        for name in asked {
            self.json(name, &mut object);
        }
        object.finish()
    }

    fn json(&self, name: &str, object: &mut Object) {
        let time = |ms: u64| (ms > 0).then(|| rfc3339(ms));
        match name {
            "body" => object.bytes("body", &self.body.bytes),
            FILE => object.bytes(FILE, self.path()),
            "headers" => object.pairs("headers", &self.headers.0),
            "attempt" => object.number("attempt", u64::from(self.attempt)),
            "priority" => object.number("priority", u64::from(self.properties.priority)),
            "group" => object.text("group", &self.properties.group),
            "dedup_id" => object.optional_text("dedup_id", self.properties.dedup_id.as_deref()),
            LEASE_UNTIL => object.optional_text(name, time(self.lease_until_ms).as_deref()),
            VISIBLE_AT => object.optional_text(name, time(self.visible_at_ms).as_deref()),
            DEAD_LETTER => match &self.dead_letter {
                Some(dead_letter) => object.object(DEAD_LETTER, origin(dead_letter)),
                None => object.null(DEAD_LETTER),
            },
            name => object.text(name, &self.field(name)),
        }
    }

    /// The bytes of the file's path.
    pub fn path(&self) -> &[u8] {
        self.file.map(|file| file.as_os_str().as_bytes()).unwrap_or_default()
    }

    /// One field as text without control characters, but for the body.
    pub fn field(&self, name: &str) -> String {
        let time = |ms: u64| if ms > 0 { rfc3339(ms) } else { String::new() };
        let line = |text: &str| escape(text.as_bytes(), false);
        match name {
            "queue" => self.queue.to_string(),
            "id" => self.id.to_string(),
            "receipt" => self.receipt.map(|receipt| receipt.to_string()).unwrap_or_default(),
            "headers" => {
                let pairs =
                    self.headers.0.iter().map(|(key, value)| line(&format!("{key}={value}")));
                pairs.collect::<Vec<_>>().join(",")
            }
            "sent_at" => rfc3339(self.sent_at_ms),
            "attempt" => self.attempt.to_string(),
            "state" => self.state.map(State::name).unwrap_or_default().to_owned(),
            VISIBLE_AT => time(self.visible_at_ms),
            LEASE_UNTIL => time(self.lease_until_ms),
            "priority" => self.properties.priority.to_string(),
            "group" => line(&self.properties.group),
            "dedup_id" => line(self.properties.dedup_id.as_deref().unwrap_or_default()),
            DEAD_LETTER => {
                let reason = self.dead_letter.as_ref().map(|dead| dead.reason.to_string());
                line(&reason.unwrap_or_default())
            }
            _ => String::from_utf8_lossy(&self.body.bytes).into_owned(),
        }
    }
}

/// The field's name where the body is in a file.
pub fn with_file(name: &'static str) -> &'static str {
    if name == "body" { FILE } else { name }
}

/// Where a dead letter came from, and why.
fn origin(dead_letter: &DeadLettered) -> Object {
    let mut object = Object::new();
    object.text("queue", dead_letter.queue.as_str());
    object.text("id", &dead_letter.id.to_string());
    object.text("reason", &dead_letter.reason.to_string());
    object.number("attempts", u64::from(dead_letter.attempts));
    object.text("sent_at", &rfc3339(dead_letter.sent_at_ms));
    for (name, ms) in [
        ("first_delivered_at", dead_letter.first_delivered_ms),
        ("last_delivered_at", dead_letter.last_delivered_ms),
    ] {
        let time = (ms > 0).then(|| rfc3339(ms));
        object.optional_text(name, time.as_deref());
    }
    object
}
