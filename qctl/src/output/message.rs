//! Messages in every form.
//!
//! Always true here: a record that is written can be told apart from its neighbours. A body that
//! holds the terminator itself is not written where that would break.

use super::record::{checked_columns, new_table, put_table};
use super::shown::{FILE, PEEKED_FIELDS, RECEIVED_FIELDS, Shown, with_file};
use super::{Out, csv, escape, one_record_only, say, shell};
use crate::args::Format;
use crate::exit::Failure;

/// How messages came to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Received.
    Received,
    /// Received, with the body in a file.
    Stored,
    /// Peeked at.
    Peeked,
}

impl Way {
    /// Names of all fields.
    fn fields(self) -> Vec<String> {
        let fields: &[&str] = match self {
            Self::Received | Self::Stored => &RECEIVED_FIELDS,
            Self::Peeked => &PEEKED_FIELDS,
        };
        fields.iter().map(|&name| self.of_body(name).to_owned()).collect()
    }

    /// The field's name, which is another one where the body is in a file.
    fn of_body(self, name: &'static str) -> &'static str {
        if self == Self::Stored { with_file(name) } else { name }
    }

    /// What stands before the body in plain lines, and in tables.
    fn before_body(self, aligned: bool) -> &'static [&'static str] {
        match (self, aligned) {
            (Self::Received | Self::Stored, false) => &["receipt"],
            (Self::Received | Self::Stored, true) => &["id", "attempt", "receipt"],
            (Self::Peeked, false) => &["id"],
            (Self::Peeked, true) => &["id", "state", "attempt"],
        }
    }
}

/// How the messages of one command are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How they came.
    pub way: Way,
    /// At most one message: its exact bytes, no terminator; in JSON one object.
    pub single: bool,
    /// The body without the receipt or id.
    pub body_only: bool,
    /// What tells a record from the next one.
    pub parting: Parting,
    /// Every message is written as it comes, so that a table cannot be aligned.
    pub endless: bool,
}

/// What tells a record from the next one, in plain form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// A newline behind it; behind a single body nothing.
    Newline,
    /// A NUL behind it.
    Nul,
    /// Its length before it.
    Length,
}

impl Parting {
    /// As the flags `--null` and `--length-prefixed` say.
    pub fn of(null: bool, length_prefixed: bool) -> Self {
        match (null, length_prefixed) {
            (true, _) => Self::Nul,
            (_, true) => Self::Length,
            _ => Self::Newline,
        }
    }
}

/// Writes messages.
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
        if out.format == Format::Shell && !shape.single {
            return Err(one_record_only());
        }
        if shape.parting == Parting::Length && !(out.format == Format::Plain && out.raw) {
            let text = "--length-prefixed is for plain output of bodies as they are: into a pipe or \
                        file, or with -o plain --raw";
            return Err(Failure::Usage(text.to_owned()));
        }
        let all = match out.format {
            Format::Csv => !shape.body_only,
            format => format == Format::Shell,
        };
        let columns = if out.columns.is_empty() && all {
            shape.way.fields()
        } else if out.columns.is_empty() {
            let before = shape.way.before_body(out.is_table() && !shape.endless);
            let before = before.iter().filter(|_| !shape.body_only);
            let body = shape.way.of_body("body");
            before.chain(&[body]).map(|&name| name.to_owned()).collect()
        } else {
            checked_columns(&out.columns, &shape.way.fields())?
        };
        let aligned = out.is_table() && !out.raw && !shape.endless && columns.len() > 1;
        Ok(Self { shape, columns, table: aligned.then(|| new_table(out)), written: 0 })
    }

    /// True when some body may be one that cannot be written.
    pub fn may_refuse(&self, out: &Out) -> bool {
        out.raw && self.forbidden(out).is_some() && self.columns.iter().any(|name| name == "body")
    }

    /// The byte that no body may hold.
    fn forbidden(&self, out: &Out) -> Option<u8> {
        match out.format {
            Format::Plain => match self.shape.parting {
                Parting::Newline => Some(b'\n').filter(|_| !self.shape.single),
                Parting::Nul => Some(0),
                Parting::Length => None,
            },
            // No shell has it in a variable.
            Format::Shell => Some(0),
            _ => None,
        }
    }

    /// True when the body can be written and told apart from what follows.
    pub fn can_write(&self, out: &Out, body: &[u8]) -> bool {
        let forbidden = self.forbidden(out).filter(|_| self.may_refuse(out));
        forbidden.is_none_or(|byte| memchr::memchr(byte, body).is_none())
    }

    /// Says that a body cannot be written, and what can be done; `instead`: what becomes of it.
    pub fn tell_unwritable(&self, out: &Out, message: &Shown, instead: &str) {
        let Shown { queue, id, .. } = message;
        let (what, or) = match out.format {
            Format::Shell => ("a NUL byte, which no shell variable can hold,", ""),
            _ if self.shape.parting == Parting::Nul => ("the record's terminator", ""),
            _ => ("the record's terminator", "-0 or "),
        };
        say(&format!(
            "message {id} of queue \"{queue}\" holds {what} and was not printed; {instead}use \
             {or}-o jsonl"
        ));
    }

    /// Writes one message.
    pub fn push(&mut self, out: &mut Out, message: &Shown) -> Result<(), Failure> {
        match out.format {
            Format::Json | Format::Jsonl => self.push_json(out, message)?,
            Format::Csv => self.push_csv(out, message)?,
            Format::Shell => self.push_assignments(out, message)?,
            Format::Plain => self.push_plain(out, message)?,
            Format::Table if out.raw => self.push_plain(out, message)?,
            Format::Table => self.push_row(out, message)?,
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
        if out.format == Format::Csv {
            self.put_csv_header(out)?;
        }
        if out.format == Format::Json && !self.shape.single {
            out.put(if self.written == 0 { b"[]\n" } else { b"]\n" })?;
        }
        out.flush()
    }

    fn push_plain(&self, out: &mut Out, message: &Shown) -> Result<(), Failure> {
        if self.shape.parting == Parting::Length {
            self.put_length(out, message)?;
        }
        for (at, column) in self.columns.iter().enumerate() {
            if at > 0 {
                out.put(b"\t")?;
            }
            if column == "body" && out.raw {
                out.put(&message.body.bytes)?;
            } else if column == "body" {
                let lines = self.shape.single && self.columns.len() == 1;
                out.put(escape(&message.body.bytes, lines).as_bytes())?;
            } else if column == FILE && out.raw {
                out.put(message.path())?;
            } else if column == FILE {
                out.put(escape(message.path(), false).as_bytes())?;
            } else {
                out.put(message.field(column).as_bytes())?;
            }
        }
        // Only a body needs its exact bytes; fields alone are a line, also for `read` in a shell.
        let exact = self.shape.single && self.columns.iter().any(|column| column == "body");
        match self.shape.parting {
            Parting::Nul => out.put(b"\0"),
            Parting::Newline if !exact || (out.terminal && !out.raw) => out.put(b"\n"),
            Parting::Newline | Parting::Length => Ok(()),
        }
    }

    /// The length of a record, the most significant byte first.
    fn put_length(&self, out: &mut Out, message: &Shown) -> Result<(), Failure> {
        let tabs = self.columns.len().saturating_sub(1);
        let cells = self.columns.iter().map(|column| match column.as_str() {
            "body" => message.body.bytes.len(),
            FILE => message.path().len(),
            column => message.field(column).len(),
        });
        let length = u32::try_from(tabs + cells.sum::<usize>());
        let over = |_| Failure::Internal("a record over 4 GiB has no length before it".to_owned());
        out.put(&length.map_err(over)?.to_be_bytes())
    }

    fn push_csv(&self, out: &mut Out, message: &Shown) -> Result<(), Failure> {
        self.put_csv_header(out)?;
        let cells = self.columns.iter().map(|column| cell(out, message, column));
        let line = csv::line(cells);
        out.put(&line)
    }

    fn push_assignments(&self, out: &mut Out, message: &Shown) -> Result<(), Failure> {
        let mut text = Vec::new();
        for column in &self.columns {
            shell::put_assignment(&mut text, column, &cell(out, message, column));
        }
        out.put(&text)
    }

    /// Before the first message; also where there is none.
    fn put_csv_header(&self, out: &mut Out) -> Result<(), Failure> {
        if self.written > 0 || !out.header {
            return Ok(());
        }
        out.put(&csv::line(self.columns.iter().map(String::as_bytes)))
    }

    fn push_row(&mut self, out: &mut Out, message: &Shown) -> Result<(), Failure> {
        let lines = self.columns.len() == 1 && self.shape.single;
        let mut cells = Vec::new();
        for column in &self.columns {
            cells.push(if column == "body" {
                escape(&message.body.bytes, lines)
            } else if column == FILE {
                escape(message.path(), false)
            } else {
                escape(message.field(column).as_bytes(), false)
            });
        }
        let header = self.written == 0 && out.header && self.columns.len() > 1;
        let header = header.then(|| self.columns.iter().map(|name| name.to_uppercase()));
        let Some(table) = &mut self.table else {
            if let Some(header) = header {
                out.line(&header.collect::<Vec<_>>().join("\t"))?;
            }
            return out.line(&cells.join("\t"));
        };
        if let Some(header) = header {
            table.set_header(header);
        }
        table.add_row(cells);
        Ok(())
    }

    fn push_json(&self, out: &mut Out, message: &Shown) -> Result<(), Failure> {
        let array = out.format == Format::Json && !self.shape.single;
        if array {
            out.put(if self.written == 0 { b"[" } else { b",\n" })?;
        }
        let asked: &[String] = if out.columns.is_empty() { &[] } else { &self.columns };
        out.put(message.object(asked).as_bytes())?;
        if array { Ok(()) } else { out.put(b"\n") }
    }
}

/// A field whose form has quotes of its own: a body as it is, unless that is not wanted.
fn cell(out: &Out, message: &Shown, column: &str) -> Vec<u8> {
    match column {
        "body" if out.raw => message.body.bytes.to_vec(),
        "body" => escape(&message.body.bytes, false).into_bytes(),
        FILE if out.raw => message.path().to_vec(),
        FILE => escape(message.path(), false).into_bytes(),
        column => message.field(column).into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qd_protocol::verbs::peek::State;
    use qd_protocol::verbs::{PeekedMessage, ReceivedMessage};
    use qd_protocol::{Body, DeadLettered, Headers, QueueName, Reason, Receipt};

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

    const MANY: Shape = Shape {
        way: Way::Received,
        single: false,
        body_only: true,
        parting: Parting::Newline,
        endless: false,
    };
    const ONE: Shape = Shape { single: true, ..MANY };

    fn printed(mut out: Out, shape: Shape, bodies: &[&[u8]]) -> String {
        let queue = QueueName::new("jobs").unwrap();
        let mut printer = MessagePrinter::new(&out, shape).unwrap();
        for body in bodies {
            let message = message(body);
            if printer.can_write(&out, body) {
                let shown = Shown::received(&queue, &message).unwrap();
                printer.push(&mut out, &shown).unwrap();
            }
        }
        printer.finish(&mut out).unwrap();
        out.text()
    }

    #[test]
    fn single_body_is_its_exact_bytes() {
        let text = printed(Out::captured(Format::Plain), ONE, &[b"a\nb\0"]);
        assert_eq!(text, "a\nb\0");
        let nul = Shape { parting: Parting::Nul, ..ONE };
        let text = printed(Out::captured(Format::Plain), nul, &[b"a\nb"]);
        assert_eq!(text, "a\nb\0");
    }

    #[test]
    fn several_bodies_end_with_newline_or_nul_and_never_hold_it() {
        let bodies: &[&[u8]] = &[b"a", b"b\nc", b"", b"d\0"];
        let text = printed(Out::captured(Format::Plain), MANY, bodies);
        assert_eq!(text, "a\n\nd\0\n");
        let nul = Shape { parting: Parting::Nul, ..MANY };
        let text = printed(Out::captured(Format::Plain), nul, bodies);
        assert_eq!(text, "a\0b\nc\0\0");
    }

    #[test]
    fn lengths_stand_before_records_of_any_bytes() {
        let lengths = Shape { parting: Parting::Length, ..MANY };
        let bodies: &[&[u8]] = &[b"a\n\0", b""];
        assert_eq!(
            printed(Out::captured(Format::Plain), lengths, bodies),
            "\0\0\0\x03a\n\0\0\0\0\0"
        );
        let receipts = Shape { body_only: false, ..lengths };
        let receipt = message(b"").receipt.to_string();
        let text = printed(Out::captured(Format::Plain), receipts, &[b"x"]);
        assert_eq!(text, format!("\0\0\0\x32{receipt}\tx"));
        for format in [Format::Table, Format::Json, Format::Csv] {
            let failure = MessagePrinter::new(&Out::captured(format), lengths).unwrap_err();
            assert_eq!(failure.exit().code(), 2);
        }
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
            printer.push(&mut out, &Shown::received(&queue, message).unwrap()).unwrap();
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
                r#"{{"queue":"jobs","id":"7","receipt":"{receipt}","body":"x","headers":{{"k":"v"}},"sent_at":"1970-01-01T00:00:00.000Z","attempt":1,"lease_until":"1970-01-01T00:00:30.000Z","priority":0,"group":"","dedup_id":null}}"#
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
    fn peeked_message_has_the_time_of_its_state() {
        let queue = QueueName::new("jobs").unwrap();
        let mut entry = qd_protocol::verbs::SendEntry::new("x");
        entry.properties.priority = 9;
        entry.properties.group = "g\n".to_owned();
        entry.properties.dedup_id = Some("d".to_owned());
        let printed = |format, columns: &[&str], state, until_ms| {
            let message = PeekedMessage {
                id: 7,
                state,
                attempts: 2,
                sent_at_ms: 0,
                until_ms,
                fields: entry.stored_fields(),
                body: entry.body.clone(),
            };
            let mut out = Out::captured(format);
            out.columns = columns.iter().map(|&name| name.to_owned()).collect();
            let shape = Shape { way: Way::Peeked, body_only: false, ..MANY };
            let mut printer = MessagePrinter::new(&out, shape).unwrap();
            printer.push(&mut out, &Shown::peeked(&queue, &message).unwrap()).unwrap();
            printer.finish(&mut out).unwrap();
            out.text()
        };
        for (state, until_ms, shown) in [
            (State::Ready, 0, r#""state":"ready""#),
            (State::Delayed, 5, r#""state":"delayed","visible_at":"1970-01-01T00:00:00.005Z""#),
            (State::Leased, 5, r#""state":"leased","lease_until":"1970-01-01T00:00:00.005Z""#),
            (State::Blocked, 5, r#""state":"blocked","visible_at":"1970-01-01T00:00:00.005Z""#),
        ] {
            let expected = format!(
                r#"{{"queue":"jobs","id":"7","body":"x","headers":{{}},"sent_at":"1970-01-01T00:00:00.000Z","attempt":2,{shown},"priority":9,"group":"g\n","dedup_id":"d"}}"#
            );
            assert_eq!(printed(Format::Jsonl, &[], state, until_ms), expected + "\n");
        }
        assert_eq!(printed(Format::Plain, &[], State::Ready, 0), "7\tx\n");
        let columns = ["lease_until", "state", "group", "dedup_id"];
        assert_eq!(printed(Format::Plain, &columns, State::Ready, 0), "\tready\tg\\n\td\n");
        let none = printed(Format::Json, &["visible_at"], State::Ready, 0);
        assert_eq!(none, "[{\"visible_at\":null}]\n");
    }

    #[test]
    fn csv_has_every_field_and_bodies_as_they_are() {
        let text =
            printed(Out::captured(Format::Csv), Shape { body_only: false, ..ONE }, &[b"a\n,"]);
        let receipt = message(b"").receipt.to_string();
        let header = "queue,id,receipt,body,headers,sent_at,attempt,lease_until,priority,group,dedup_id,dead_letter";
        let row = format!(
            "jobs,7,{receipt},\"a\n,\",k=v,1970-01-01T00:00:00.000Z,1,1970-01-01T00:00:30.000Z,0,,,"
        );
        assert_eq!(text, format!("{header}\n{row}\n"));
        assert_eq!(printed(Out::captured(Format::Csv), MANY, &[b"a", b"b"]), "body\na\nb\n");
        assert_eq!(printed(Out::captured(Format::Csv), MANY, &[]), "body\n");
    }

    #[test]
    fn assignments_are_of_one_message_without_a_nul() {
        let text = printed(Out::captured(Format::Shell), ONE, &[b"it's\n"]);
        let receipt = message(b"").receipt.to_string();
        let (before, behind) = text.split_once("QCTL_BODY='it'\\''s\n'\n").unwrap();
        assert_eq!(before, format!("QCTL_QUEUE='jobs'\nQCTL_ID='7'\nQCTL_RECEIPT='{receipt}'\n"));
        assert!(behind.starts_with("QCTL_HEADERS='k=v'\n"), "{text}");
        assert_eq!(text.matches("\nQCTL_").count(), RECEIVED_FIELDS.len() - 1);
        assert_eq!(printed(Out::captured(Format::Shell), ONE, &[b"a\0b"]), "");
        let failure = MessagePrinter::new(&Out::captured(Format::Shell), MANY).unwrap_err();
        assert_eq!(failure.exit().code(), 2);
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
