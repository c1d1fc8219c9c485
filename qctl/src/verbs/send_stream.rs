//! `qctl send --lines`, `--null`, `--jsonl` and `--length-prefixed`: a stream of any size in
//! constant memory.
//!
//! Always true here: requests leave in the order of the input, at most [`WINDOW`] of them are
//! unanswered, and the ids printed are those of the first input records without a gap. What has
//! arrived is sent when the input pauses.

use std::collections::VecDeque;

use bytes::Bytes;
use qd_protocol::client::Pending;
use qd_protocol::verbs::{self, SendEntry, Sent};
use qd_protocol::{Client, QueueName};
use tokio::time::timeout;

use super::confirm::messages;
use super::send::{id_record, id_records};
use super::send_input::{Common, Form};
use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::input::{PREFIX_BYTES, Ready, Records as Input, Source};
use crate::output::{Out, Records};
use crate::progress::Progress;
use crate::session::Session;
use crate::signals::ANSWERS_WITHIN;

/// Bytes after which a batch is sent.
pub const BATCH_BYTES: usize = 256 << 10;
/// Messages after which a batch is sent.
pub const BATCH_ENTRIES: usize = 1_000;
/// Requests that may be unanswered.
const WINDOW: usize = 8;
/// Unanswered requests beside which a batch that is not full waits for more input.
const WINDOW_OF_PARTIAL: usize = 2;

type Answer = Pending<verbs::Send>;

struct Stream {
    client: Client,
    queue: QueueName,
    common: Common,
    form: Form,
    input: Input,
    batch: Vec<SendEntry>,
    batch_bytes: usize,
    /// A large entry that waits for a frame of its own.
    next: Option<SendEntry>,
    window: VecDeque<Answer>,
    confirmed: Confirmed,
    shown: Progress,
}

/// What is known of the records, in the order of the input.
struct Confirmed {
    records: Records,
    queue: String,
    /// Only ids, the fast way.
    bare: bool,
    form: Form,
    count: u64,
    lines: Lines,
    /// Confirmed behind the first one that was not.
    later: u64,
    failure: Option<Failure>,
}

/// Which input line is the first that is not confirmed.
#[derive(Debug, Default)]
struct Lines {
    /// Those before it.
    passed: u64,
    /// Those behind it that are no messages.
    empty: VecDeque<u64>,
    /// Bytes before it, where lines are no lines.
    passed_bytes: u64,
    /// Of those behind it.
    bytes: VecDeque<usize>,
}

impl Lines {
    fn sized(&mut self, bytes: usize) {
        self.bytes.push_back(bytes);
    }

    fn empty(&mut self, line: u64) {
        self.empty.push_back(line);
        self.pass_over();
    }

    fn confirm(&mut self) {
        self.passed += 1;
        self.passed_bytes += self.bytes.pop_front().unwrap_or(0) as u64;
        self.pass_over();
    }

    fn pass_over(&mut self) {
        while self.empty.front() == Some(&(self.passed + 1)) {
            self.empty.pop_front();
            self.passed += 1;
        }
    }

    /// Where to go on.
    fn place(&self, form: Form) -> String {
        let place = format!("input {} {}", form.record_name(), self.passed + 1);
        match form {
            // As `tail -c +N` counts them.
            Form::LengthPrefixed => format!("{place} at byte {}", self.passed_bytes + 1),
            _ => place,
        }
    }
}

/// Sends every record of `sources`.
pub async fn run(
    session: &mut Session,
    queue: QueueName,
    common: Common,
    sources: Vec<Source>,
    form: Form,
) -> Result<Exit, Failure> {
    let confirmed = Confirmed::new(&session.out, &queue, form)?;
    let stop = session.stop.clone();
    let client = tokio::select! {
        biased;
        client = session.client() => client?,
        failure = stop.stopped() => return Err(failure),
    };
    let input = Input::start(sources, form.cut(), form.record_bytes_max())?;
    let mut stream = Stream {
        client,
        queue,
        common,
        form,
        input,
        batch: Vec::new(),
        batch_bytes: 0,
        next: None,
        window: VecDeque::new(),
        confirmed,
        shown: Progress::beside_data(),
    };
    let stopped = tokio::select! {
        biased;
        ended = stream.pump(&mut session.out) => Ok(ended),
        failure = stop.stopped() => Err(failure),
    };
    let ended = match stopped {
        Ok(ended) => ended,
        Err(failure) => {
            // What is under way may be on disk already.
            let answers = timeout(ANSWERS_WITHIN, stream.answers(&mut session.out)).await;
            answers.unwrap_or(Ok(())).and(Err(failure))
        }
    };
    drop(stream.shown);
    if let Err(failure) = ended {
        if failure.is_quiet() && failure.exit() == Exit::Pipe {
            return Err(failure);
        }
        stream.confirmed.failure.get_or_insert(failure);
    }
    stream.confirmed.finish(&mut session.out)
}

impl Stream {
    async fn pump(&mut self, out: &mut Out) -> Result<(), Failure> {
        let mut over = false;
        let mut paused = false;
        loop {
            let full = self.is_full();
            let room = if full || over { WINDOW } else { WINDOW_OF_PARTIAL };
            if !self.batch.is_empty()
                && (full || paused || over)
                && self.window.len() < room
                && self.confirmed.failure.is_none()
            {
                self.launch().await?;
                continue;
            }
            if self.window.is_empty() {
                out.flush()?;
                if over || self.confirmed.failure.is_some() {
                    return Ok(());
                }
            }
            let wants_input = !over && !full && self.confirmed.failure.is_none();
            tokio::select! {
                biased;
                answer = first(&mut self.window) => {
                    self.window.pop_front();
                    self.confirmed.answered(out, answer)?;
                    let confirmed = self.confirmed.count + self.confirmed.later;
                    self.shown.show(confirmed, "messages sent", self.input.part());
                }
                more = self.input.arrive(), if wants_input => {
                    // What was read before the failure is sent all the same.
                    match more.and_then(|_| self.fill()) {
                        Ok(ready) => {
                            paused = ready == Ready::Paused;
                            over = ready == Ready::Over;
                        }
                        Err(failure) => {
                            self.drain(out).await?;
                            return Err(failure);
                        }
                    }
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.next.is_some() || self.batch.len() >= BATCH_ENTRIES || self.batch_bytes >= BATCH_BYTES
    }

    /// Takes what has arrived, up to a full batch.
    fn fill(&mut self) -> Result<Ready, Failure> {
        loop {
            if self.is_full() {
                return Ok(Ready::Paused);
            }
            match self.input.ready()? {
                Ready::Record(record) => {
                    let Some(entry) = self.entry(&record)? else {
                        self.confirmed.lines.empty(self.input.count);
                        continue;
                    };
                    if self.form == Form::LengthPrefixed {
                        self.confirmed.lines.sized(PREFIX_BYTES + record.len());
                    }
                    let bytes = entry.encoded_bytes();
                    // One frame holds one largest message, not a batch and one.
                    if bytes > BATCH_BYTES && !self.batch.is_empty() {
                        self.next = Some(entry);
                        return Ok(Ready::Paused);
                    }
                    self.batch_bytes += bytes;
                    self.batch.push(entry);
                }
                other => return Ok(other),
            }
        }
    }

    /// The message of a record; of an empty line of JSON none.
    fn entry(&self, record: &Bytes) -> Result<Option<SendEntry>, Failure> {
        let Some(read) = self.form.read(record, &self.common)? else {
            return Ok(None);
        };
        match read.queue {
            Some(queue) if queue != self.queue => Err(Failure::BadInput(format!(
                "the line is for queue \"{queue}\", not \"{}\": only --atomic sends to several",
                self.queue
            ))),
            _ => Ok(Some(read.entry)),
        }
    }

    async fn launch(&mut self) -> Result<(), Failure> {
        let send =
            verbs::Send { queue: self.queue.clone(), entries: std::mem::take(&mut self.batch) };
        self.batch_bytes = 0;
        if let Some(entry) = self.next.take() {
            self.batch_bytes = entry.encoded_bytes();
            self.batch.push(entry);
        }
        let answer = self.client.start(send).await?;
        self.window.push_back(answer);
        Ok(())
    }

    /// Sends what is there and waits for all answers.
    async fn drain(&mut self, out: &mut Out) -> Result<(), Failure> {
        while !self.batch.is_empty() && self.confirmed.failure.is_none() {
            self.launch().await?;
        }
        self.answers(out).await
    }

    /// Waits for all answers.
    async fn answers(&mut self, out: &mut Out) -> Result<(), Failure> {
        while !self.window.is_empty() {
            let answer = first(&mut self.window).await;
            self.window.pop_front();
            self.confirmed.answered(out, answer)?;
        }
        Ok(())
    }
}

/// Waits for the oldest request's answer; for ever when there is none.
async fn first(window: &mut VecDeque<Answer>) -> Result<Sent, Failure> {
    match window.front_mut() {
        None => std::future::pending().await,
        Some(answer) => Ok(answer.await?),
    }
}

impl Confirmed {
    fn new(out: &Out, queue: &QueueName, form: Form) -> Result<Self, Failure> {
        Ok(Self {
            records: id_records(out, true, form == Form::Jsonl)?,
            queue: queue.to_string(),
            bare: out.format == Format::Plain && out.columns.is_empty(),
            form,
            count: 0,
            lines: Lines::default(),
            later: 0,
            failure: None,
        })
    }

    fn answered(&mut self, out: &mut Out, answer: Result<Sent, Failure>) -> Result<(), Failure> {
        let sent = match answer {
            Ok(sent) => sent,
            Err(failure) => {
                self.failure.get_or_insert(failure);
                return Ok(());
            }
        };
        for result in sent.entries() {
            match result {
                Ok(_) if self.failure.is_some() => self.later += 1,
                Ok(stored) => {
                    self.count += 1;
                    self.lines.confirm();
                    if self.bare {
                        out.line(&stored.id.to_string())?;
                    } else {
                        self.records.push(out, &id_record(&self.queue, stored))?;
                    }
                }
                Err(refusal) => {
                    self.failure.get_or_insert_with(|| Failure::from(refusal.clone()));
                }
            }
        }
        Ok(())
    }

    /// Tells how far it got.
    fn finish(self, out: &mut Out) -> Result<Exit, Failure> {
        if self.bare {
            out.flush()?;
        } else {
            self.records.finish(out)?;
        }
        let Some(failure) = self.failure else {
            return Ok(Exit::Done);
        };
        let mut text = format!(
            "{} confirmed, first unconfirmed {}",
            messages(self.count),
            self.lines.place(self.form)
        );
        if self.later > 0 {
            let were = if self.later == 1 { "was" } else { "were" };
            let later = self.form.record_name();
            text = format!("{text} ({} of later {later}s {were} stored too)", self.later);
        }
        Err(failure.after(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_count_as_lines() {
        let mut lines = Lines::default();
        lines.empty(1);
        lines.empty(3);
        lines.empty(4);
        assert_eq!(lines.place(Form::Jsonl), "input line 2");
        lines.confirm();
        assert_eq!(lines.place(Form::Jsonl), "input line 5");
        lines.confirm();
        assert_eq!(lines.place(Form::Jsonl), "input line 6");
    }

    #[test]
    fn records_with_lengths_have_a_place_in_bytes() {
        let mut lines = Lines::default();
        lines.sized(5);
        lines.sized(4);
        assert_eq!(lines.place(Form::LengthPrefixed), "input record 1 at byte 1");
        lines.confirm();
        assert_eq!(lines.place(Form::LengthPrefixed), "input record 2 at byte 6");
    }

    use qd_protocol::ErrorCode;
    use qd_protocol::verbs::SentRun;

    #[test]
    fn ids_stop_at_the_first_record_that_was_refused() {
        let mut out = Out::captured(Format::Plain);
        let queue = QueueName::new("q").unwrap();
        let mut progress = Confirmed::new(&out, &queue, Form::Lines).unwrap();
        let stored = |first, count| SentRun::Stored { first, count };
        let refused =
            SentRun::Refused { refusal: Box::new(ErrorCode::QueueFull.refuse("full")), count: 2 };
        let first = Sent { runs: vec![stored(5, 2), refused] };
        let again = SentRun::Duplicate { id: 5, count: 1 };
        let second = Sent { runs: vec![stored(7, 2), again] };
        progress.answered(&mut out, Ok(first)).unwrap();
        progress.answered(&mut out, Ok(second)).unwrap();
        let failure = progress.finish(&mut out).unwrap_err();
        assert_eq!(out.text(), "5\n6\n");
        assert_eq!(failure.exit(), Exit::TryAgain);
        assert_eq!(
            failure.to_string(),
            "2 messages confirmed, first unconfirmed input line 3 (3 of later lines were stored too): full; retry later"
        );
    }
}
