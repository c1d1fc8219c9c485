//! Received messages in every form.
//!
//! Always true here: a record that is written can be told apart from its neighbours. A body that
//! holds the terminator itself is not written where that would break.

use qd_protocol::verbs::ReceivedMessage;
use qd_protocol::{DeadLettered, QueueName};

use super::record::{checked_columns, new_table, put_table};
use super::{Object, Out, escape};
use crate::args::Format;
use crate::exit::Failure;
use crate::time::rfc3339;

/// Names of a message's fields, in the order of JSON.
pub const FIELDS: [&str; 9] =
    ["queue", "id", "receipt", "body", "headers", "sent_at", "attempt", "lease_until", DEAD_LETTER];
/// The field that only dead letters have, unless it is asked for.
const DEAD_LETTER: &str = "dead_letter";

/// How the messages of one receive are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// At most one message: its exact bytes, no terminator; in JSON one object.
    pub single: bool,
    /// The body without the receipt.
    pub body_only: bool,
    /// Records end with NUL.
    pub nul: bool,
    /// Every message is written as it comes, so that a table cannot be aligned.
    pub endless: bool,
}

/// Writes received messages.
#[derive(Debug)]
pub struct MessagePrinter {
    shape: Shape,
    columns: Vec<String>,
    table: Option<comfy_table::Table>,
    written: u64,
}

impl MessagePrinter {
    /// For messages of this shape.
    pub fn new(out: &Out, shape: Shape) -> Result<Self, Failure> {
        let known = FIELDS.map(str::to_owned);
        let columns = if out.columns.is_empty() {
            let default: &[&str] = match (shape.body_only, out.is_table() && !shape.endless) {
                (true, _) => &["body"],
                (false, false) => &["receipt", "body"],
                (false, true) => &["id", "attempt", "receipt", "body"],
            };
            default.iter().map(|&name| name.to_owned()).collect()
        } else {
            checked_columns(&out.columns, &known)?
        };
        let aligned = out.is_table() && !out.raw && !shape.endless && columns.len() > 1;
        Ok(Self { shape, columns, table: aligned.then(|| new_table(out)), written: 0 })
    }

    /// True when some body may be one that cannot be written.
    pub fn may_refuse(&self, out: &Out) -> bool {
        let terminated = !self.shape.single || self.shape.nul;
        let body = self.columns.iter().any(|column| column == "body");
        out.raw && out.format == Format::Plain && terminated && body
    }

    /// True when the body can be written and told apart from what follows.
    pub fn can_write(&self, out: &Out, message: &ReceivedMessage) -> bool {
        let terminator = if self.shape.nul { 0 } else { b'\n' };
        !self.may_refuse(out) || !message.body.bytes.contains(&terminator)
    }

    /// Writes one message of `queue`.
    pub fn push(
        &mut self,
        out: &mut Out,
        queue: &QueueName,
        message: &ReceivedMessage,
    ) -> Result<(), Failure> {
        match out.format {
            Format::Json | Format::Jsonl => self.push_json(out, queue, message)?,
            Format::Plain => self.push_plain(out, queue, message)?,
            Format::Table if out.raw => self.push_plain(out, queue, message)?,
            Format::Table => self.push_row(out, queue, message)?,
        }
        self.written += 1;
        Ok(())
    }

    /// Ends the document and writes it out.
    pub fn finish(&mut self, out: &mut Out) -> Result<(), Failure> {
        if let Some(table) = self.table.take()
            && self.written > 0
        {
            put_table(out, &table)?;
        }
        if out.format == Format::Json && !self.shape.single {
            out.put(if self.written == 0 { b"[]\n" } else { b"]\n" })?;
        }
        out.flush()
    }

    fn push_plain(
        &self,
        out: &mut Out,
        queue: &QueueName,
        message: &ReceivedMessage,
    ) -> Result<(), Failure> {
        for (at, column) in self.columns.iter().enumerate() {
            if at > 0 {
                out.put(b"\t")?;
            }
            if column == "body" && out.raw {
                out.put(&message.body.bytes)?;
            } else if column == "body" {
                let lines = self.shape.single && self.columns.len() == 1;
                out.put(escape(&message.body.bytes, lines).as_bytes())?;
            } else {
                out.put(field(column, queue, message)?.as_bytes())?;
            }
        }
        // Only a body needs its exact bytes; fields alone are a line, also for `read` in a shell.
        let exact = self.shape.single && self.columns.iter().any(|column| column == "body");
        if self.shape.nul {
            out.put(b"\0")
        } else if !exact || (out.terminal && !out.raw) {
            out.put(b"\n")
        } else {
            Ok(())
        }
    }

    fn push_row(
        &mut self,
        out: &mut Out,
        queue: &QueueName,
        message: &ReceivedMessage,
    ) -> Result<(), Failure> {
        let lines = self.columns.len() == 1 && self.shape.single;
        let mut cells = Vec::new();
        for column in &self.columns {
            cells.push(if column == "body" {
                escape(&message.body.bytes, lines)
            } else {
                escape(field(column, queue, message)?.as_bytes(), false)
            });
        }
        let Some(table) = &mut self.table else {
            return out.line(&cells.join("\t"));
        };
        if self.written == 0 && out.header {
            table.set_header(self.columns.iter().map(|name| name.to_uppercase()));
        }
        table.add_row(cells);
        Ok(())
    }

    fn push_json(
        &self,
        out: &mut Out,
        queue: &QueueName,
        message: &ReceivedMessage,
    ) -> Result<(), Failure> {
        let array = out.format == Format::Json && !self.shape.single;
        if array {
            out.put(if self.written == 0 { b"[" } else { b",\n" })?;
        }
        let asked = if out.columns.is_empty() {
            let is_dead_letter = dead_letter(message)?.is_some();
            let fields = FIELDS.iter().filter(|name| is_dead_letter || **name != DEAD_LETTER);
            fields.map(|&name| name.to_owned()).collect()
        } else {
            self.columns.clone()
        };
        out.put(object(&asked, queue, message)?.as_bytes())?;
        if array { Ok(()) } else { out.put(b"\n") }
    }
}

fn object(
    fields: &[String],
    queue: &QueueName,
    message: &ReceivedMessage,
) -> Result<String, Failure> {
    let mut object = Object::new();
    for name in fields {
        match name.as_str() {
            "body" => object.bytes("body", &message.body.bytes),
            "headers" => object.pairs("headers", &headers(message)?),
            "attempt" => object.number("attempt", u64::from(message.attempt)),
            "lease_until" if message.lease_until_ms == 0 => object.null("lease_until"),
            DEAD_LETTER => match dead_letter(message)? {
                Some(dead_letter) => object.object(DEAD_LETTER, origin(&dead_letter)),
                None => object.null(DEAD_LETTER),
            },
            name => object.text(name, &field(name, queue, message)?),
        }
    }
    Ok(object.finish())
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

/// One field as text.
fn field(name: &str, queue: &QueueName, message: &ReceivedMessage) -> Result<String, Failure> {
    Ok(match name {
        "queue" => queue.to_string(),
        "id" => message.id.to_string(),
        "receipt" => message.receipt.to_string(),
        "headers" => {
            let pairs = headers(message)?;
            let pairs = pairs.iter().map(|(key, value)| {
                let text = format!("{key}={value}");
                escape(text.as_bytes(), false)
            });
            pairs.collect::<Vec<_>>().join(",")
        }
        "sent_at" => rfc3339(message.sent_at_ms),
        "attempt" => message.attempt.to_string(),
        "lease_until" if message.lease_until_ms == 0 => String::new(),
        "lease_until" => rfc3339(message.lease_until_ms),
        DEAD_LETTER => match dead_letter(message)? {
            Some(dead_letter) => escape(dead_letter.reason.to_string().as_bytes(), false),
            None => String::new(),
        },
        _ => String::from_utf8_lossy(&message.body.bytes).into_owned(),
    })
}

fn headers(message: &ReceivedMessage) -> Result<Vec<(String, String)>, Failure> {
    let headers = message.headers();
    let headers = headers.map_err(|error| Failure::Protocol(error.to_string()))?;
    Ok(headers.0)
}

fn dead_letter(message: &ReceivedMessage) -> Result<Option<DeadLettered>, Failure> {
    message.dead_letter().map_err(|error| Failure::Protocol(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use qd_protocol::{Body, Headers, Reason, Receipt};

    fn message(body: &[u8]) -> ReceivedMessage {
        ReceivedMessage {
            queue: 0,
            id: 7,
            receipt: Receipt { queue: 1, lease: 2, id: 7, secret: 4 },
            attempt: 1,
            sent_at_ms: 0,
            lease_until_ms: 30_000,
            fields: Headers(vec![("k".to_owned(), "v".to_owned())]).to_fields(),
            body: Body::new(body.to_vec()),
        }
    }

    const MANY: Shape = Shape { single: false, body_only: true, nul: false, endless: false };
    const ONE: Shape = Shape { single: true, ..MANY };

    fn printed(mut out: Out, shape: Shape, bodies: &[&[u8]]) -> String {
        let queue = QueueName::new("jobs").unwrap();
        let mut printer = MessagePrinter::new(&out, shape).unwrap();
        for body in bodies {
            let message = message(body);
            if printer.can_write(&out, &message) {
                printer.push(&mut out, &queue, &message).unwrap();
            }
        }
        printer.finish(&mut out).unwrap();
        out.text()
    }

    #[test]
    fn single_body_is_its_exact_bytes() {
        let text = printed(Out::captured(Format::Plain), ONE, &[b"a\nb\0"]);
        assert_eq!(text, "a\nb\0");
        let nul = Shape { nul: true, ..ONE };
        let text = printed(Out::captured(Format::Plain), nul, &[b"a\nb"]);
        assert_eq!(text, "a\nb\0");
    }

    #[test]
    fn several_bodies_end_with_newline_or_nul_and_never_hold_it() {
        let bodies: &[&[u8]] = &[b"a", b"b\nc", b"", b"d\0"];
        let text = printed(Out::captured(Format::Plain), MANY, bodies);
        assert_eq!(text, "a\n\nd\0\n");
        let nul = Shape { nul: true, ..MANY };
        let text = printed(Out::captured(Format::Plain), nul, bodies);
        assert_eq!(text, "a\0b\nc\0\0");
    }

    #[test]
    fn receipt_stands_before_the_body() {
        let shape = Shape { body_only: false, ..ONE };
        let text = printed(Out::captured(Format::Plain), shape, &[b"x"]);
        let receipt = message(b"").receipt.to_string();
        assert_eq!(text, format!("{receipt}\tx"));
    }

    #[test]
    fn dead_letter_tells_where_it_came_from() {
        let origin = DeadLettered {
            queue: QueueName::new("jobs").unwrap(),
            id: 3,
            sent_at_ms: 1_000,
            attempts: 2,
            first_delivered_ms: 0,
            last_delivered_ms: 2_000,
            reason: Reason::Rejected("no\tcustomer".to_owned()),
        };
        let mut dead = message(b"x");
        dead.fields = origin.appended_to(&dead.fields).unwrap();
        let expected = r#"{"queue":"jobs","id":"3","reason":"rejected: no\tcustomer","attempts":2,"sent_at":"1970-01-01T00:00:01.000Z","first_delivered_at":null,"last_delivered_at":"1970-01-01T00:00:02.000Z"}"#;
        let queue = QueueName::new("jobs.dead").unwrap();
        let printed = |format, columns: &[&str], message: &ReceivedMessage| {
            let mut out = Out::captured(format);
            out.columns = columns.iter().map(|&name| name.to_owned()).collect();
            let mut printer = MessagePrinter::new(&out, ONE).unwrap();
            printer.push(&mut out, &queue, message).unwrap();
            printer.finish(&mut out).unwrap();
            out.text()
        };
        let json = printed(Format::Jsonl, &[], &dead);
        assert!(json.ends_with(&format!(",\"dead_letter\":{expected}}}\n")), "{json}");
        assert!(!printed(Format::Jsonl, &[], &message(b"x")).contains("dead_letter"));
        let column: &[&str] = &["dead_letter"];
        assert_eq!(
            printed(Format::Json, column, &dead),
            format!("{{\"dead_letter\":{expected}}}\n")
        );
        assert_eq!(printed(Format::Json, column, &message(b"x")), "{\"dead_letter\":null}\n");
        assert_eq!(printed(Format::Plain, column, &message(b"x")), "\n");
        assert_eq!(printed(Format::Plain, column, &dead), "rejected: no\\tcustomer\n");
    }

    #[test]
    fn json_has_every_field() {
        let text = printed(Out::captured(Format::Json), ONE, &[b"x"]);
        let receipt = message(b"").receipt.to_string();
        assert_eq!(
            text,
            format!(
                r#"{{"queue":"jobs","id":"7","receipt":"{receipt}","body":"x","headers":{{"k":"v"}},"sent_at":"1970-01-01T00:00:00.000Z","attempt":1,"lease_until":"1970-01-01T00:00:30.000Z"}}"#
            ) + "\n"
        );
        let text = printed(Out::captured(Format::Json), MANY, &[b"x", b"y\n"]);
        assert!(text.starts_with("[{") && text.ends_with("}]\n"), "{text}");
        let text = printed(Out::captured(Format::Jsonl), MANY, &[b"x", b"\xff\n"]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains(r#""body_base64":"/wo=""#), "{text}");
        assert_eq!(printed(Out::captured(Format::Json), MANY, &[]), "[]\n");
    }

    #[test]
    fn escaped_bodies_are_all_written_on_one_line_each() {
        let mut out = Out::captured(Format::Plain);
        out.raw = false;
        let text = printed(out, MANY, &[b"a\nb\x1b[0m"]);
        assert_eq!(text, "a\\nb\\x1b[0m\n");
    }

    #[test]
    fn tables_escape_bodies_unless_raw_is_asked_for() {
        let text = printed(Out::captured(Format::Table), ONE, &[b"\x1b[2J"]);
        assert_eq!(text, "\\x1b[2J\n");
        let mut out = Out::captured(Format::Table);
        out.raw = true;
        assert_eq!(printed(out, ONE, &[b"\x1b[2J"]), "\x1b[2J");
    }

    #[test]
    fn columns_are_taken_as_asked() {
        let mut out = Out::captured(Format::Plain);
        out.columns = vec!["id".to_owned(), "lease-until".to_owned()];
        let text = printed(out, MANY, &[b"x"]);
        assert_eq!(text, "7\t1970-01-01T00:00:30.000Z\n");
        let mut out = Out::captured(Format::Plain);
        out.columns = vec!["id".to_owned(), "attempt".to_owned()];
        assert_eq!(printed(out, ONE, &[b"x"]), "7\t1\n");
        let mut out = Out::captured(Format::Plain);
        out.columns = vec!["id".to_owned(), "body".to_owned()];
        assert_eq!(printed(out, ONE, &[b"x"]), "7\tx");
    }
}
