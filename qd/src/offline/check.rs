//! `qd check`: whether log and state are sound.
//!
//! Always true here: nothing on disk is changed. The state is looked at as a start would see it, with the
//! log's end applied to it, in an overlay that is never written.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytesize::ByteSize;
use serde::Serialize;

use super::output::{finish, output};
use super::progress::Progress;
use super::{ToolError, is_damage};
use crate::data_dir::ReadDir;
use crate::log::files::ReadOnly;
use crate::log::{LogError, Seen};
use crate::replicator::{ReplicatorError, replay};
use crate::shard::{Fault, Machine, WINDOW_IDS, Watch};
use crate::store::{FORMAT, Store, check_file};
use crate::{log, memory};

/// Most problems that are listed; others are counted.
const PROBLEMS_MAX: usize = 1_000;

/// What helps against damage that is nowhere else known of.
const RESTORE: &str = "restore the data directory, state and log together, from a copy";
/// What helps against one damaged message.
const DELETE: &str =
    "restore a copy, or do without this message: `qctl delete QUEUE --id ID` removes it unread";
/// What helps where rows contradict each other.
const RELOAD: &str = "all messages can be read: `qd dump` here and `qd load` into another directory make \
                      them agree again. It is a fault of qd: please report it";

/// What is wrong, and where.
#[derive(Debug, Serialize)]
struct Problem {
    file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "problem")]
    what: String,
    advice: &'static str,
}

/// What was looked at, and what is wrong with it.
#[derive(Debug, Serialize)]
struct Report {
    data: PathBuf,
    sound: bool,
    /// Number of the last record, in the log or else in the state.
    position: u64,
    queues: u64,
    messages: u64,
    bytes: u64,
    state: State,
    /// `None`: it could not be looked at.
    log: Option<LogFiles>,
    problems: Vec<Problem>,
    problems_not_listed: u64,
}

#[derive(Debug, Default, Serialize)]
struct State {
    file: PathBuf,
    format: u32,
    bytes: u64,
    /// Number of the last record in it.
    position: u64,
}

#[derive(Debug, Serialize)]
struct LogFiles {
    directory: PathBuf,
    format: u32,
    segments: usize,
    spares: usize,
    records: u64,
    bytes: u64,
    /// Records behind the state.
    behind_state: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_offset: Option<u64>,
    torn: bool,
}

/// Checks a data directory and prints what was found. Returns whether all is sound.
pub(super) fn check(data: &Path, json: bool) -> Result<bool, ToolError> {
    let dir = ReadDir::open(data)?;
    let mut check = Check::new(&dir);
    check.run()?;
    let Check { report, .. } = check;
    let mut out = output();
    if json {
        let text = serde_json::to_string(&report).map_err(std::io::Error::from)?;
        writeln!(out, "{text}")?;
    } else {
        write!(out, "{report}")?;
    }
    finish(out)?;
    Ok(report.sound)
}

struct Check<'a> {
    dir: &'a ReadDir,
    report: Report,
    progress: Progress,
    cache_bytes: usize,
}

impl<'a> Check<'a> {
    fn new(dir: &'a ReadDir) -> Self {
        let state = State { file: dir.state_file(), format: FORMAT, ..State::default() };
        let report = Report {
            data: dir.path().to_owned(),
            sound: true,
            position: 0,
            queues: 0,
            messages: 0,
            bytes: 0,
            state,
            log: None,
            problems: Vec::new(),
            problems_not_listed: 0,
        };
        Self { dir, report, progress: Progress::start(), cache_bytes: memory::cache_bytes() }
    }

    fn run(&mut self) -> Result<(), ToolError> {
        let file = self.dir.state_file();
        let length = std::fs::metadata(&file).map_or(0, |file| file.len());
        self.report.state.bytes = length;
        if length == 0 {
            self.state_problem("there is no state, but a log".to_owned(), RESTORE);
            return Ok(());
        }
        self.progress.begin("reading the state", length);
        let done = Arc::clone(self.progress.done());
        let faults =
            check_file(&file, self.cache_bytes, &done).map_err(|error| self.fails(error))?;
        for fault in faults {
            self.state_problem(fault, RESTORE);
        }
        let Some(mut machine) = self.open()? else {
            return Ok(());
        };
        self.report.state.position = machine.position().applied;
        if !self.replay(&mut machine)? {
            // It may be half of a record further: it is looked at as it is without the log.
            let Some(again) = self.open()? else {
                return Ok(());
            };
            machine = again;
        }
        self.report.position = machine.position().applied;
        self.verify(&machine)
    }

    /// The state without the log; `None`: it cannot be opened.
    fn open(&mut self) -> Result<Option<Machine>, ToolError> {
        let file = self.dir.state_file();
        let store = Store::open_overlaid(&file, self.cache_bytes, Arc::<AtomicU64>::default());
        match store.and_then(Machine::open) {
            Ok(machine) => Ok(Some(machine)),
            Err(error) if error.is_damage() => {
                self.state_problem(error.to_string(), RESTORE);
                Ok(None)
            }
            Err(error) => Err(self.fails(error)),
        }
    }

    /// Applies what the state lacks. False: the log is damaged, or does not belong to the state.
    fn replay(&mut self, machine: &mut Machine) -> Result<bool, ToolError> {
        let directory = self.dir.log();
        self.progress.begin("reading the log", 0);
        match replay(machine, &ReadOnly(directory.clone()), |_| ()) {
            Ok(seen) => {
                self.report.log = Some(self.log_files(seen));
                Ok(true)
            }
            Err(error) if is_damage(&error) => {
                let (mut file, mut offset, mut text) = (directory, None, error.to_string());
                if let ReplicatorError::Log(LogError::Damaged { file: name, offset: at, what }) =
                    error
                {
                    file.push(name);
                    (offset, text) = (Some(at), what);
                }
                let (queue, id, what) = (None, None, text);
                self.add(Problem { file, offset, queue, id, what, advice: RESTORE });
                Ok(false)
            }
            Err(error) => Err(ToolError::Data { path: self.dir.path().to_owned(), error }),
        }
    }

    fn log_files(&self, seen: Seen) -> LogFiles {
        let (end_file, end_offset) = seen.end.unzip();
        LogFiles {
            directory: self.dir.log(),
            format: log::FORMAT,
            segments: seen.segments,
            spares: seen.spares,
            records: seen.records,
            bytes: seen.bytes,
            behind_state: seen.last.saturating_sub(self.report.state.position),
            end_file,
            end_offset,
            torn: seen.is_torn,
        }
    }

    fn verify(&mut self, machine: &Machine) -> Result<(), ToolError> {
        let file = self.dir.state_file();
        self.report.queues = machine.names_behind(None).count() as u64;
        self.progress.begin("reading messages", machine.live_messages());
        let done = Arc::clone(self.progress.done());
        let (mut messages, mut bytes) = (0, 0);
        let report = &mut self.report;
        let mut fault = |fault: Fault| {
            let advice = match (fault.is_damage, fault.id) {
                (false, _) => RELOAD,
                (true, Some(_)) => DELETE,
                (true, None) => RESTORE,
            };
            report.add(Problem {
                file: file.clone(),
                offset: None,
                queue: fault.queue.map(|queue| queue.to_string()),
                id: fault.id.map(|id| id.to_string()),
                what: fault.what,
                advice,
            });
        };
        let mut message = |size: u64| {
            messages += 1;
            bytes += size;
            done.store(messages, Ordering::Relaxed);
        };
        let mut watch = Watch { window_ids: WINDOW_IDS, fault: &mut fault, message: &mut message };
        let verified = machine.verify_watched(&mut watch);
        (self.report.messages, self.report.bytes) = (messages, bytes);
        verified.map_err(|error| self.fails(error))
    }

    fn fails(&self, error: crate::store::StoreError) -> ToolError {
        ToolError::Data { path: self.dir.state_file(), error: error.into() }
    }

    fn state_problem(&mut self, what: String, advice: &'static str) {
        let file = self.dir.state_file();
        self.add(Problem { file, offset: None, queue: None, id: None, what, advice });
    }

    fn add(&mut self, problem: Problem) {
        self.report.add(problem);
    }
}

impl Report {
    fn add(&mut self, problem: Problem) {
        self.sound = false;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.problems_not_listed += 1;
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "problem  {}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, ", offset {offset}")?;
        }
        if let Some(queue) = &self.queue {
            write!(f, ", queue {queue:?}")?;
        }
        if let Some(id) = &self.id {
            write!(f, ", message {id}")?;
        }
        writeln!(f, ": {}", self.what)?;
        writeln!(f, "         {}", self.advice)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { file, format, bytes, position } = &self.state;
        let size = ByteSize(*bytes);
        writeln!(
            f,
            "state    {}: format {format}, {size}, up to record {position}",
            file.display()
        )?;
        if let Some(log) = &self.log {
            let LogFiles { directory, format, segments, spares, records, .. } = log;
            writeln!(
                f,
                "log      {}: format {format}, {} and {spares} to be used again, {}, {}, {} of them behind the \
                 state",
                directory.display(),
                count(*segments as u64, "segment"),
                count(*records, "record"),
                ByteSize(log.bytes),
                log.behind_state,
            )?;
            if let (Some(file), Some(offset)) = (&log.end_file, log.end_offset) {
                let torn = if log.torn {
                    "; behind it is a record that was cut off before it was answered"
                } else {
                    ""
                };
                writeln!(f, "         it ends in {file} at offset {offset}{torn}")?;
            }
        }
        let Self { position, .. } = self;
        let (queues, messages) = (count(self.queues, "queue"), count(self.messages, "message"));
        let bytes = ByteSize(self.bytes);
        writeln!(f, "content  {queues}, {messages}, {bytes}, up to record {position}")?;
        for problem in &self.problems {
            write!(f, "{problem}")?;
        }
        let problems = self.problems.len() as u64 + self.problems_not_listed;
        match (problems, self.problems_not_listed) {
            (0, _) => writeln!(f, "sound"),
            (_, 0) => writeln!(f, "{}", count(problems, "problem")),
            (_, more) => writeln!(f, "{problems} problems, {more} of them not listed"),
        }
    }
}

/// A number and what it counts.
fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
