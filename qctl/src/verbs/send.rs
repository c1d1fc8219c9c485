//! `qctl send`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use qd_protocol::QueueName;
use qd_protocol::verbs::{self, SendEntry, Stored};

use super::message_flags::MessageFlags;
use super::send_atomic;
use super::send_input::{Body, Common, Form};
use super::send_stream::{self, BATCH_BYTES, BATCH_ENTRIES};
use crate::exit::{Exit, Failure};
use crate::input::Source;
use crate::output::{Out, Record, Records, Value, tell};
use crate::session::Session;

/// Of the records.
pub const FIELDS: [&str; 3] = ["queue", "id", "duplicate"];

/// Add messages to a queue
///
/// Without BODY and -f, standard input is one message. Prints one id a line; that of a duplicate is
/// the id of the message that was there before.
#[derive(Debug, Clone, Args)]
pub struct Send {
    /// The queue
    queue: QueueName,
    /// Bodies, one message each; - is standard input
    #[arg(allow_negative_numbers = true)]
    body: Vec<OsString>,
    /// A file whose content is one message (with --lines and the like: many)
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// One message a line, without the newline
    #[arg(long, conflicts_with_all = ["null", "jsonl", "length_prefixed"])]
    lines: bool,
    /// One message up to each NUL
    #[arg(long, conflicts_with_all = ["jsonl", "length_prefixed"])]
    null: bool,
    /// One message a line, as a JSON object with its body and what belongs to it: see qctl(1)
    #[arg(long, conflicts_with = "length_prefixed")]
    jsonl: bool,
    /// One message behind each four bytes with its length, the most significant byte first
    #[arg(long)]
    length_prefixed: bool,
    #[command(flatten)]
    message: MessageFlags,
    /// All messages in one step, or none of them; at most 10,000
    #[arg(long)]
    atomic: bool,
}

impl Send {
    /// Sends.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let form = self.form();
        self.check_dedup_id(form)?;
        let common = self.message.common().map_err(|failure| failure.of(&self.queue))?;
        // A column of ids needs no name.
        let ids_alone = !common.may_repeat() && form != Some(Form::Jsonl);
        if ids_alone && session.out.is_table() && session.out.columns.is_empty() {
            session.out.header = false;
        }
        if let Some(form) = form {
            let sources = self.sources()?;
            if sources.contains(&Source::Stdin) {
                session.stdin.refuse_unless_free()?;
            }
            if self.atomic {
                return send_atomic::stream(session, &self.queue, &common, sources, form).await;
            }
            return send_stream::run(session, self.queue, common, sources, form).await;
        }
        let bodies = self.bodies();
        let stdin = |body: &Body| matches!(body, Body::Read(Source::Stdin));
        let stdins = bodies.iter().filter(|body| stdin(body)).count();
        if stdins > 1 {
            let text = "standard input can be the body of one message only".to_owned();
            return Err(Failure::Usage(text));
        }
        if stdins > 0 {
            session.stdin.refuse_unless_free()?;
        }
        if self.atomic {
            return send_atomic::bodies(session, &self.queue, &common, bodies).await;
        }
        send_bodies(session, &self.queue, &common, bodies).await
    }

    /// Whether it sends records as they come.
    pub fn streams(&self) -> bool {
        self.form().is_some() && !self.atomic
    }

    fn form(&self) -> Option<Form> {
        let forms = [
            (self.lines, Form::Lines),
            (self.null, Form::Null),
            (self.jsonl, Form::Jsonl),
            (self.length_prefixed, Form::LengthPrefixed),
        ];
        forms.into_iter().find_map(|(given, form)| given.then_some(form))
    }

    /// Refuses one dedup id for several messages: all but one of them would be duplicates.
    fn check_dedup_id(&self, form: Option<Form>) -> Result<(), Failure> {
        let several = form.is_some() || self.body.len() + self.file.len() > 1;
        let text = match (self.message.has_dedup_id(), self.message.is_unique()) {
            (true, _) if several => {
                "--dedup-id is for one message: of several with the same id all but one would be \
                 duplicates; use --jsonl with a \"dedup_id\" in each line"
            }
            (false, true) if self.jsonl => {
                "--unique goes with --dedup-id; with --jsonl a line has \"dedup_id\" and \"unique\""
            }
            (false, true) => "--unique needs --dedup-id",
            _ => return Ok(()),
        };
        Err(Failure::Usage(text.to_owned()).of(&self.queue))
    }

    /// What `--lines` and its like read.
    fn sources(&self) -> Result<Vec<Source>, Failure> {
        let stdin_only = self.body.is_empty() || self.body == [OsStr::new("-")];
        if !stdin_only {
            let text = "--lines, --null, --jsonl and --length-prefixed read standard input or \
                        -f FILE, not BODY";
            return Err(Failure::Usage(text.to_owned()));
        }
        let mut sources: Vec<Source> = self.file.iter().cloned().map(Source::from_path).collect();
        if sources.is_empty() || !self.body.is_empty() {
            sources.insert(0, Source::Stdin);
        }
        Ok(sources)
    }

    /// Bodies first, then files, each in the order given.
    fn bodies(&self) -> Vec<Body> {
        let mut bodies: Vec<Body> = Vec::new();
        for body in &self.body {
            bodies.push(if body == "-" {
                Body::Read(Source::Stdin)
            } else {
                Body::Given(Bytes::copy_from_slice(body.as_bytes()))
            });
        }
        for file in &self.file {
            bodies.push(Body::Read(Source::from_path(file.clone())));
        }
        if bodies.is_empty() {
            bodies.push(Body::Read(Source::Stdin));
        }
        bodies
    }
}

/// Sends a few bodies in batches, one after the other.
async fn send_bodies(
    session: &mut Session,
    queue: &QueueName,
    common: &Common,
    bodies: Vec<Body>,
) -> Result<Exit, Failure> {
    let count = bodies.len();
    let records = id_records(&session.out, count > 1, common.may_repeat())?;
    let mut report = Report::new(records, queue, count);
    let mut bodies = bodies.into_iter().peekable();
    while bodies.peek().is_some() {
        let mut entries: Vec<SendEntry> = Vec::new();
        let mut bytes = 0;
        while entries.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
            let Some(body) = bodies.next() else { break };
            let body = match body.read().await {
                Ok(body) => body,
                Err(failure) => return Err(report.cut_short(failure)),
            };
            let entry = common.entry(body);
            // A frame holds one largest message, not a batch and one.
            bytes += entry.encoded_bytes();
            entries.push(entry);
        }
        for entries in frames(entries) {
            let request = verbs::Send { queue: queue.clone(), entries };
            let answer = match session.call(request).await {
                Ok(answer) => answer,
                Err(failure) => return Err(report.cut_short(failure)),
            };
            for result in answer.entries() {
                report.entry(&mut session.out, result)?;
            }
            session.out.flush()?;
        }
    }
    report.finish(&mut session.out)
}

/// Parts the entries so that each part fits into one frame: a last large one goes alone.
fn frames(mut entries: Vec<SendEntry>) -> Vec<Vec<SendEntry>> {
    let total: usize = entries.iter().map(SendEntry::encoded_bytes).sum();
    if total > 2 * BATCH_BYTES && entries.len() > 1 {
        let last = entries.split_off(entries.len() - 1);
        return vec![entries, last];
    }
    vec![entries]
}

/// What became of the messages, in their order.
struct Report {
    records: Records,
    queue: String,
    count: usize,
    stored: u64,
    refused: u64,
    first_refusal: Option<Failure>,
}

impl Report {
    fn new(records: Records, queue: &QueueName, count: usize) -> Self {
        let queue = queue.to_string();
        Self { records, queue, count, stored: 0, refused: 0, first_refusal: None }
    }

    fn entry(
        &mut self,
        out: &mut Out,
        result: Result<Stored, &qd_protocol::Refusal>,
    ) -> Result<(), Failure> {
        let refusal = match result {
            Ok(stored) => {
                self.stored += 1;
                return self.records.push(out, &id_record(&self.queue, stored));
            }
            Err(refusal) => refusal,
        };
        self.refused += 1;
        let mut failure = Failure::from(refusal.clone());
        if self.count > 1 {
            failure = failure.after(format!("message {}", self.stored + self.refused));
            tell(&failure, out.is_json());
        }
        self.first_refusal.get_or_insert(failure);
        Ok(())
    }

    /// What ends the command before all was tried.
    fn cut_short(&self, failure: Failure) -> Failure {
        if self.count > 1 {
            failure.after(format!("{} of {} messages sent", self.stored, self.count))
        } else {
            failure
        }
    }

    fn finish(self, out: &mut Out) -> Result<Exit, Failure> {
        self.records.finish(out)?;
        match self.first_refusal {
            None => Ok(Exit::Done),
            Some(failure) if self.count == 1 => Err(failure),
            Some(failure) if self.stored == 0 => Ok(failure.exit()),
            Some(_) => Ok(Exit::Negative),
        }
    }
}

/// Writes ids; where one may be that of a duplicate a table says which are.
pub fn id_records(out: &Out, many: bool, may_repeat: bool) -> Result<Records, Failure> {
    let table: &[&str] = if may_repeat { &["id", "duplicate"] } else { &["id"] };
    Records::new(out, many, &FIELDS.map(str::to_owned), &["id"], table)
}

/// The id of a message that is on disk.
pub fn id_record(queue: &str, stored: Stored) -> Record {
    vec![
        ("queue".to_owned(), Value::Text(queue.to_owned())),
        ("id".to_owned(), Value::Text(stored.id.to_string())),
        ("duplicate".to_owned(), Value::Flag(stored.duplicate)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_last_entry_gets_a_frame_of_its_own() {
        let entry = |bytes: usize| SendEntry::new(vec![0; bytes]);
        assert_eq!(frames(vec![entry(1), entry(2)]).len(), 1);
        assert_eq!(frames(vec![entry(BATCH_BYTES * 3)]).len(), 1);
        let parts = frames(vec![entry(1), entry(16 << 20)]);
        assert_eq!(parts.len(), 2);
        for part in parts {
            let bytes: usize = part.iter().map(SendEntry::encoded_bytes).sum();
            assert!(bytes < qd_protocol::FRAME_BYTES_MAX as usize);
        }
    }

    #[test]
    fn some_refused_is_the_negative_answer_and_all_refused_the_cause() {
        let full = qd_protocol::ErrorCode::QueueFull.refuse("full");
        let queue = QueueName::new("q").unwrap();
        let mut out = Out::captured(crate::args::Format::Plain);
        let stored = Stored { id: 1, duplicate: false };
        let report = |out: &Out, count| {
            Report::new(id_records(out, count > 1, false).unwrap(), &queue, count)
        };
        let mut some = report(&out, 2);
        some.entry(&mut out, Ok(stored)).unwrap();
        some.entry(&mut out, Err(&full)).unwrap();
        assert_eq!(some.finish(&mut out).unwrap(), Exit::Negative);
        assert_eq!(out.text(), "1\n");
        let mut none = report(&out, 2);
        none.entry(&mut out, Err(&full)).unwrap();
        none.entry(&mut out, Err(&full)).unwrap();
        assert_eq!(none.finish(&mut out).unwrap(), Exit::TryAgain);
        let mut only = report(&out, 1);
        only.entry(&mut out, Err(&full)).unwrap();
        assert_eq!(only.finish(&mut out).unwrap_err().exit(), Exit::TryAgain);
    }
}
