//! Data on standard output, everything else on standard error.
//!
//! Always true here: what [`Out::flush`] has returned from was written to the descriptor; a
//! reader that went away is [`Failure::ClosedPipe`], which ends quietly.

mod csv;
mod deed;
mod escape;
mod json;
mod message;
mod record;
mod screen;
mod sheet;
mod shell;
mod shown;

pub use deed::Deeds;
pub use escape::escape;
pub use json::Object;
pub use message::{MessagePrinter, Parting, Shape, Way};
pub use record::{Record, Records, Value};
pub use screen::{Region, Size, can_move_cursor, clipped, display_width};
pub use sheet::Sheet;
pub use shown::{FILE, PEEKED_FIELDS, RECEIVED_FIELDS, Shown};

use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::fcntl_setpipe_size;
use rustix::stdio::stdout;

use crate::args::{Format, Global};
use crate::exit::{Exit, Failure};
use crate::{progress, signals};

/// What a pipe that is ready takes without blocking: `PIPE_BUF` of pipe(7).
const PIPE_BYTES: usize = 4_096;
/// How often a write that waits for its reader looks whether something ends the command.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Bytes after which the buffer is written without being asked.
const BUFFER_BYTES: usize = 64 << 10;

/// How often a command that waits looks whether anybody still reads its output.
const READER_EVERY: Duration = Duration::from_secs(1);

/// Standard output and how it is to look.
#[derive(Debug)]
pub struct Out {
    /// The form, decided.
    pub format: Format,
    /// `--columns`; empty: the form's own choice.
    pub columns: Vec<String>,
    /// Whether a table has a header.
    pub header: bool,
    /// Whether bodies are written as they are.
    pub raw: bool,
    /// Whether a person looks on.
    pub terminal: bool,
    /// A pipe or socket, whose reader may keep us waiting.
    pipe: bool,
    /// A pipe, which says how much of what was written nobody has read.
    fifo: bool,
    buffer: Vec<u8>,
    added: u64,
    written: u64,
    #[cfg(test)]
    captured: Option<Vec<u8>>,
}

impl Out {
    /// As the flags and the kind of standard output say.
    pub fn new(global: &Global) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let default = if terminal { Format::Table } else { Format::Plain };
        let format = global.output.unwrap_or(default);
        // In a table bodies are raw only when that was asked for.
        let raw_by_default = !terminal && format != Format::Table;
        Self {
            format,
            columns: global.columns.clone(),
            header: !global.no_header,
            raw: global.raw || (raw_by_default && !global.no_raw),
            terminal,
            pipe: is_pipe(&[FileType::Fifo, FileType::Socket]),
            fifo: is_pipe(&[FileType::Fifo]),
            buffer: Vec::new(),
            added: 0,
            written: 0,
            #[cfg(test)]
            captured: None,
        }
    }

    /// True for both forms of JSON.
    pub fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// True when the output is for `eval`.
    pub fn is_shell(&self) -> bool {
        self.format == Format::Shell
    }

    /// True for the forms whose records have all fields, so that a program finds what it looks for.
    pub fn is_complete(&self) -> bool {
        self.is_json() || matches!(self.format, Format::Csv | Format::Shell)
    }

    /// True when a word of success is welcome.
    pub fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// Bytes added so far.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Bytes written so far; what was added and not written before a failure never is.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes room in the pipe for one record at a time; false where that cannot be.
    pub fn hold_one_record(&self) -> bool {
        self.fifo && fcntl_setpipe_size(stdout(), PIPE_BYTES).is_ok()
    }

    /// Waits a moment; whether by then the reader has taken all from a pipe with room for one record.
    /// What a reader that has gone away has left there does not count as written.
    pub fn is_taken(&mut self) -> Result<bool, Failure> {
        let mut wait = [PollFd::from_borrowed_fd(stdout(), PollFlags::OUT)];
        match poll(&mut wait, Some(&LOOK_EVERY)) {
            Ok(0) | Err(Errno::INTR) => signals::ended_by().map_or(Ok(false), Err),
            Ok(_) | Err(_) => self.check_reader().map(|()| true),
        }
    }

    /// Fails when nobody reads any more. What is left in the pipe then does not count as written.
    pub fn check_reader(&mut self) -> Result<(), Failure> {
        if self.pipe && reader_is_gone() {
            self.leave_unread();
            return Err(Failure::ClosedPipe);
        }
        Ok(())
    }

    fn leave_unread(&mut self) {
        if self.fifo
            && let Ok(unread) = ioctl_fionread(stdout())
        {
            self.written = self.written.saturating_sub(unread);
        }
    }

    /// Adds bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.added += bytes.len() as u64;
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
            if bytes.len() > BUFFER_BYTES {
                return self.write(bytes);
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds a line.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.put(text.as_bytes())?;
        self.put(b"\n")
    }

    /// Writes all that was added.
    pub fn flush(&mut self) -> Result<(), Failure> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.write(&buffer);
        buffer.clear();
        self.buffer = buffer;
        result
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        #[cfg(test)]
        if let Some(captured) = &mut self.captured {
            captured.extend_from_slice(bytes);
            self.written += bytes.len() as u64;
            return Ok(());
        }
        while !bytes.is_empty() {
            let mut part = bytes;
            if self.pipe {
                wait_for_room()?;
                part = bytes.get(..PIPE_BYTES).unwrap_or(bytes);
            }
            match rustix::io::write(stdout(), part) {
                Ok(written) => {
                    self.written += written as u64;
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                // Somebody else made the terminal or pipe that we share non-blocking.
                Err(Errno::AGAIN) => {
                    let mut wait = [PollFd::from_borrowed_fd(stdout(), PollFlags::OUT)];
                    let _ = poll(&mut wait, None);
                }
                Err(Errno::PIPE) => {
                    self.leave_unread();
                    return Err(Failure::ClosedPipe);
                }
                Err(error) => return Err(cannot_write(&error.into())),
            }
        }
        Ok(())
    }
}

fn is_pipe(kinds: &[FileType]) -> bool {
    let kind = rustix::fs::fstat(stdout()).map(|stat| FileType::from_raw_mode(stat.st_mode));
    kind.is_ok_and(|kind| kinds.contains(&kind))
}

/// Writes all of it.
pub fn write_all(to: BorrowedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Somebody else made the terminal or pipe that we share non-blocking.
            Err(Errno::AGAIN) => {
                let mut wait = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
                let _ = poll(&mut wait, None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until a write of [`PIPE_BYTES`] does not block, or a signal or `--timeout` ends the
/// command.
fn wait_for_room() -> Result<(), Failure> {
    loop {
        let mut wait = [PollFd::from_borrowed_fd(stdout(), PollFlags::OUT)];
        match poll(&mut wait, Some(&LOOK_EVERY)) {
            Ok(0) | Err(Errno::INTR) => signals::ended_by().map_or(Ok(()), Err)?,
            // What is wrong with it the write tells.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

/// True when standard output is a pipe or socket that nobody reads any more.
pub fn reader_is_gone() -> bool {
    let mut ask = [PollFd::from_borrowed_fd(stdout(), PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ask, Some(&now)).is_ok_and(|_| {
        ask.iter()
            .any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL))
    })
}

/// Waits until nobody reads standard output any more.
pub async fn until_reader_is_gone() -> Failure {
    loop {
        tokio::time::sleep(READER_EVERY).await;
        if reader_is_gone() {
            return Failure::ClosedPipe;
        }
    }
}

/// Tells a failure on standard error, with `-o json` and `jsonl` also as an object.
pub fn tell(failure: &Failure, json: bool) {
    if failure.is_quiet() {
        return;
    }
    let mut text = told(failure);
    if json {
        text.push_str(&failure_object(failure));
        text.push('\n');
    }
    write_error(&text);
}

/// The line of a failure, and those that help behind it.
fn told(failure: &Failure) -> String {
    let mut text = format!("qctl: {}\n", escape(failure.to_string().as_bytes(), false));
    if let Some(hints) = failure.hints() {
        text.push_str(&escape(hints.as_bytes(), true));
        text.push('\n');
    }
    text
}

/// Writes to standard error in one write, so that the lines of workers that share a log stay whole.
/// One that is closed or full leaves nobody to tell.
pub fn write_error(text: &str) {
    progress::clear();
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes help, or the version, to standard output.
pub fn put_help(help: &clap::Error) -> Result<(), Failure> {
    let written = help.print().and_then(|()| std::io::stdout().flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => cannot_write(&error),
    })
}

/// Why standard output takes nothing.
pub fn cannot_write(error: &std::io::Error) -> Failure {
    Failure::Io(format!("cannot write to standard output: {error}"))
}

/// Ends an output for `eval`, so that it has the status too: what fails may have written nothing, and
/// `eval` of nothing is a success.
pub fn tell_status(exit: Exit) {
    if !matches!(exit, Exit::Done | Exit::Pipe) {
        // A standard output that is closed or full leaves nobody to tell.
        let _ = rustix::io::write(stdout(), format!("(exit {})\n", exit.code()).as_bytes());
    }
}

/// What a verb says that may have several records where the form has room for one.
fn one_record_only() -> Failure {
    let text = "-o shell is for one record, and this may be several: ask for one, or use -o jsonl";
    Failure::Usage(text.to_owned())
}

/// Says something besides the data, in one line on standard error.
pub fn say(text: &str) {
    write_error(&format!("qctl: {}\n", escape(text.as_bytes(), false)));
}

/// The object of a failure.
fn failure_object(failure: &Failure) -> String {
    let refusal = failure.refusal();
    let limit = refusal.and_then(|refusal| refusal.limit.as_ref());
    let mut object = Object::new();
    object.text("code", failure.code());
    object.text("class", failure.class().name());
    object.text("message", &failure.to_string());
    object.optional_text("queue", failure.queue());
    object.optional_text("limit", limit.map(|limit| limit.name.as_str()));
    let known = |value: u64| (value != qd_protocol::attributes::UNLIMITED).then_some(value);
    object.optional_number("current", limit.and_then(|limit| known(limit.current)));
    object.optional_number("maximum", limit.and_then(|limit| known(limit.maximum)));
    object.flag("retryable", failure.retryable());
    object.finish()
}

#[cfg(test)]
pub mod testing {
    //! An output that keeps what is written.

    use super::*;

    impl Out {
        /// As if into a pipe.
        pub fn captured(format: Format) -> Self {
            let mut out = Self::new(&Global::default());
            out.format = format;
            out.raw = format != Format::Table;
            out.terminal = false;
            out.captured = Some(Vec::new());
            out
        }

        /// All that was written.
        pub fn text(&mut self) -> String {
            self.flush().unwrap();
            String::from_utf8_lossy(self.captured.as_deref().unwrap_or_default()).into_owned()
        }
    }

    #[test]
    fn failure_is_one_line_without_control_characters() {
        let failure = Failure::Missing("cannot read a\u{1b}]0;t\u{7}\nb\u{9b}: no".to_owned());
        assert_eq!(told(&failure), "qctl: cannot read a\\x1b]0;t\\x07\\nb\\u{9b}: no\n");
        let hints = "tip\u{1b}[1m\nUsage".to_owned();
        let failure = Failure::Parse { text: "what".to_owned(), hints };
        assert_eq!(told(&failure), "qctl: what\ntip\\x1b[1m\nUsage\n");
    }

    #[test]
    fn failure_is_an_object_with_every_field_of_the_contract() {
        let refusal = qd_protocol::ErrorCode::QueueFull
            .refuse("queue \"jobs\" is full")
            .with_queue("jobs")
            .with_limit("max-messages", 10, 10);
        let object = failure_object(&refusal.into());
        assert_eq!(
            object,
            r#"{"code":"queue_full","class":"limit-reached","message":"queue \"jobs\" is full; retry later","queue":"jobs","limit":"max-messages","current":10,"maximum":10,"retryable":true}"#
        );
        let object = failure_object(&Failure::Usage("x".to_owned()));
        assert_eq!(
            object,
            r#"{"code":"usage","class":"fix-request","message":"x","queue":null,"limit":null,"current":null,"maximum":null,"retryable":false}"#
        );
    }
}
