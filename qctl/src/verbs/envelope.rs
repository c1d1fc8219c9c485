//! The lines of `send --jsonl`: one message each, as a JSON object.
//!
//! Always true here: what a line says wins over the flags of the command; a field that is not known
//! is refused, so that one with a slip in its name is not lost.

use base64::Engine;
use bytes::Bytes;
use qd_protocol::verbs::{Due, SendEntry};
use qd_protocol::{HEADERS_BYTES_MAX, Headers, MESSAGE_BYTES_MAX, QueueName};
use serde_json::{Map, Value};

use super::attributes::check_seen;
use super::send_input::Common;
use crate::exit::Failure;
use crate::input::too_large;
use crate::{time, units};

/// Longest line: a message of 16 MiB with every byte escaped in base64 or `\u0000`.
pub const LINE_BYTES_MAX: u64 = 100 << 20;

/// What a line may say.
const FIELDS: [&str; 11] = [
    "body",
    "body_base64",
    "headers",
    "delay",
    "at",
    "ttl",
    "priority",
    "group",
    "dedup_id",
    "unique",
    "queue",
];

/// What `receive` and `peek` print besides, which says nothing about a new message.
const PASSED_OVER: [&str; 8] =
    ["id", "receipt", "sent_at", "attempt", "state", "visible_at", "lease_until", "dead_letter"];

/// One line.
#[derive(Debug)]
pub struct Envelope {
    /// The queue that it names.
    pub queue: Option<QueueName>,
    /// The message.
    pub entry: SendEntry,
}

/// Reads a line; `None`: it is empty.
pub fn parse(line: &[u8], common: &Common) -> Result<Option<Envelope>, Failure> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_slice(line);
    let Value::Object(fields) = value.map_err(|error| bad(what_is_wrong(&error)))? else {
        return Err(bad("a line is a JSON object with a \"body\""));
    };
    let mut fields: Map<String, Value> =
        fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if let Some(unknown) = fields.keys().find(|name| !is_known(name)) {
        let known = FIELDS.join(", ");
        return Err(bad(format!("unknown field {unknown:?}; there are {known}")));
    }
    let mut entry = common.entry(body(&mut fields)?);
    add_headers(&mut entry, fields.remove("headers"))?;
    add_times(&mut entry, &fields)?;
    add_properties(&mut entry, &fields)?;
    let queue = match text(&fields, "queue")? {
        None => None,
        Some(name) => {
            let name = QueueName::new(name);
            Some(name.map_err(|error| bad(format!("\"queue\": {error}")))?)
        }
    };
    Ok(Some(Envelope { queue, entry }))
}

fn bad(text: impl Into<String>) -> Failure {
    Failure::BadInput(text.into())
}

/// What is wrong with a line that is no JSON; its number is the caller's to tell.
pub fn what_is_wrong(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("bad JSON in column {}: {what}", error.column())
}

fn is_known(name: &str) -> bool {
    FIELDS.contains(&name) || PASSED_OVER.contains(&name)
}

/// A field that is text.
fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Failure> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(format!("{name:?} is not a string"))),
    }
}

fn body(fields: &mut Map<String, Value>) -> Result<Bytes, Failure> {
    let given = (fields.remove("body"), fields.remove("body_base64"));
    let body = match given {
        (Some(Value::String(text)), None) => Bytes::from(text),
        (None, Some(Value::String(text))) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            let bytes =
                bytes.map_err(|error| bad(format!("\"body_base64\" is no base64: {error}")));
            Bytes::from(bytes?)
        }
        (None, None) => return Err(bad("there is neither \"body\" nor \"body_base64\"")),
        (Some(_), Some(_)) => return Err(bad("there are both \"body\" and \"body_base64\"")),
        (_, None) => return Err(bad("\"body\" is not a string")),
        (None, _) => return Err(bad("\"body_base64\" is not a string")),
    };
    if body.len() as u64 > MESSAGE_BYTES_MAX {
        return Err(too_large("the body"));
    }
    Ok(body)
}

/// Adds the headers of a line. Those of the command with the same key do not hold for it.
fn add_headers(entry: &mut SendEntry, value: Option<Value>) -> Result<(), Failure> {
    let Some(value) = value else {
        return Ok(());
    };
    let Value::Object(fields) = value else {
        return Err(bad("\"headers\" is not an object"));
    };
    let mut headers = std::mem::take(&mut entry.headers).0;
    headers.retain(|(key, _)| !fields.contains_key(key));
    for (key, value) in fields {
        let values = if let Value::Array(values) = value { values } else { vec![value] };
        for value in values {
            let Value::String(value) = value else {
                return Err(bad(format!("header {key:?} is not a string, or several")));
            };
            headers.push((key.clone(), value));
        }
    }
    if headers.iter().any(|(key, _)| key.is_empty()) {
        return Err(bad("the key of a header is empty"));
    }
    entry.headers = Headers(headers);
    if entry.headers.size() > HEADERS_BYTES_MAX {
        return Err(bad(format!("headers have at most {HEADERS_BYTES_MAX} bytes in all")));
    }
    Ok(())
}

fn add_times(entry: &mut SendEntry, fields: &Map<String, Value>) -> Result<(), Failure> {
    let read = |name: &str, read: fn(&str) -> Result<u64, String>| {
        let value = match fields.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) => read(text),
            Some(_) => Err("expected a string, like \"30s\"".to_owned()),
        };
        value.map(Some).map_err(|error| bad(format!("{name:?}: {error}")))
    };
    let delay = read("delay", units::delay_ms)?.map(Due::After);
    let at = read("at", time::parse_rfc3339)?.map(Due::At);
    if delay.is_some() && at.is_some() {
        return Err(bad("there are both \"delay\" and \"at\""));
    }
    entry.due = delay.or(at).or(entry.due);
    entry.ttl_ms = read("ttl", units::ttl_ms)?.or(entry.ttl_ms);
    if let (Some(Due::After(delay)), Some(ttl)) = (entry.due, entry.ttl_ms) {
        let seen = check_seen(("delay", delay), ("ttl", ttl));
        seen.map_err(|failure| bad(failure.to_string()))?;
    }
    Ok(())
}

fn add_properties(entry: &mut SendEntry, fields: &Map<String, Value>) -> Result<(), Failure> {
    let properties = &mut entry.properties;
    if let Some(value) = fields.get("priority") {
        let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
        let wrong = || bad("\"priority\" is not a whole number from 0 to 255");
        properties.priority = number.ok_or_else(wrong)?;
    }
    if let Some(group) = text(fields, "group")? {
        group.clone_into(&mut properties.group);
    }
    if let Some(dedup_id) = text(fields, "dedup_id")? {
        properties.dedup_id = Some(dedup_id.to_owned());
    }
    properties.check().map_err(|refusal| bad(refusal.text))?;
    match fields.get("unique") {
        None => {}
        Some(Value::Bool(unique)) => entry.unique = *unique,
        Some(_) => return Err(bad("\"unique\" is neither true nor false")),
    }
    if entry.unique && entry.properties.dedup_id.is_none() {
        return Err(bad("\"unique\" needs a \"dedup_id\""));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Envelope, String> {
        let parsed = parse(line.as_bytes(), &Common::default());
        parsed.map(Option::unwrap).map_err(|failure| failure.to_string())
    }

    #[test]
    fn every_field_is_read() {
        let line = r#"{"body":"x\n","headers":{"k":"v","m":["1","2"]},"delay":"5s","ttl":"1m",
            "priority":255,"group":"g","dedup_id":"d","unique":true,"queue":"other"}"#;
        let Envelope { queue, entry } = read(line).unwrap();
        assert_eq!(queue.unwrap().as_str(), "other");
        assert_eq!(entry.body.bytes, "x\n");
        let headers = [("k", "v"), ("m", "1"), ("m", "2")];
        assert_eq!(entry.headers.0, headers.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!((entry.due, entry.ttl_ms), (Some(Due::After(5_000)), Some(60_000)));
        assert_eq!((entry.properties.priority, entry.properties.group.as_str()), (255, "g"));
        assert_eq!((entry.properties.dedup_id.as_deref(), entry.unique), (Some("d"), true));
        let entry = read(r#"{"body_base64":"/wo=","at":"1970-01-01T00:00:01Z"}"#).unwrap().entry;
        assert_eq!((&entry.body.bytes[..], entry.due), (&b"\xff\n"[..], Some(Due::At(1_000))));
    }

    #[test]
    fn what_receive_prints_can_be_sent() {
        let line = r#"{"queue":"q","id":"1","receipt":"R","body":"","headers":{},"sent_at":"T",
            "attempt":1,"lease_until":null,"priority":0,"group":"","dedup_id":null,
            "dead_letter":{"queue":"x"}}"#;
        let entry = read(line).unwrap().entry;
        assert_eq!(entry, SendEntry::new(""));
        assert!(parse(b" \r", &Common::default()).unwrap().is_none());
    }

    #[test]
    fn line_wins_over_the_flags_of_the_command() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut common = Common { ttl_ms: Some(9_000), ..Common::default() };
        common.headers = Headers(vec![pair("a", "1"), pair("b", "2")]);
        common.properties.priority = 7;
        common.properties.group = "all".to_owned();
        common.due = Some(Due::After(1));
        let line = br#"{"body":"x","headers":{"a":"3"},"priority":0,"group":"own","delay":"0"}"#;
        let entry = parse(line, &common).unwrap().unwrap().entry;
        assert_eq!(entry.headers.0, [pair("b", "2"), pair("a", "3")]);
        assert_eq!((entry.properties.priority, entry.properties.group.as_str()), (0, "own"));
        assert_eq!((entry.due, entry.ttl_ms), (Some(Due::After(0)), Some(9_000)));
        let entry = parse(br#"{"body":"x"}"#, &common).unwrap().unwrap().entry;
        assert_eq!((entry.properties.priority, entry.headers.0.len()), (7, 2));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told() {
        for (line, what) in [
            ("x", "bad JSON"),
            ("{", "bad JSON"),
            ("[]", "JSON object"),
            ("{}", "neither"),
            (r#"{"body":1}"#, "not a string"),
            (r#"{"body":"x","body_base64":""}"#, "both"),
            (r#"{"body_base64":"?"}"#, "no base64"),
            (r#"{"body":"x","headers":[]}"#, "not an object"),
            (r#"{"body":"x","headers":{"k":1}}"#, "not a string"),
            (r#"{"body":"x","headers":{"":"1"}}"#, "empty"),
            (r#"{"body":"x","delay":5}"#, "expected a string"),
            (r#"{"body":"x","delay":"5"}"#, "needs a unit"),
            (r#"{"body":"x","delay":"5s","at":"2030-01-01T00:00:00Z"}"#, "both"),
            (r#"{"body":"x","delay":"5s","ttl":"5s"}"#, "is over by the time"),
            (r#"{"body":"x","ttl":"0"}"#, "at least 1ms"),
            (r#"{"body":"x","priority":256}"#, "0 to 255"),
            (r#"{"body":"x","priority":-1}"#, "0 to 255"),
            (r#"{"body":"x","priority":"5"}"#, "0 to 255"),
            (r#"{"body":"x","group":5}"#, "not a string"),
            (r#"{"body":"x","dedup_id":""}"#, "1 to 128 bytes"),
            (r#"{"body":"x","unique":true}"#, "needs a \"dedup_id\""),
            (r#"{"body":"x","unique":1}"#, "neither true nor false"),
            (r#"{"body":"x","queue":"a/b"}"#, "\"queue\": "),
            (r#"{"body":"x","prioritty":1}"#, "unknown field \"prioritty\"; there are body,"),
        ] {
            let failure = read(line).unwrap_err();
            assert!(failure.contains(what), "{line}: {failure}");
        }
        let long = format!(r#"{{"body":"x","group":"{}"}}"#, "g".repeat(129));
        assert!(read(&long).unwrap_err().contains("over the limit of 128"));
    }
}
