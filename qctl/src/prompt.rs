//! The prompt.
//!
//! Always true here: completion never holds the user up for more than a tenth of a second, and no
//! failure of a command ends the prompt.

use std::borrow::Cow;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use qd_protocol::BATCH_ENTRIES_MAX;
use qd_protocol::verbs::List;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use crate::args::{Global, command};
use crate::complete::{Asked, Others};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::output::{escape, say, tell, write_error};
use crate::script::Runner;
use crate::server::state_directory;
use crate::session::{Leases, Session, StdinUse, open_client, take_leases};
use crate::verbs::held::{End, end_batch};
use crate::words;

/// What completion may take.
const COMPLETE_WITHIN: Duration = Duration::from_millis(100);
/// What releasing leases at the end may take.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);
/// Lines kept in the history.
const HISTORY_LINES: usize = 10_000;
/// Words that end the prompt.
const LEAVE: [&[u8]; 3] = [b"q", b"exit", b"quit"];

/// The terminal's settings before the prompt changed them.
static TERMINAL: OnceLock<Termios> = OnceLock::new();

/// Gives the terminal back as it was; nothing before the prompt.
pub fn restore_terminal() {
    if let Some(settings) = TERMINAL.get() {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, settings);
    }
}

/// Reads commands and runs them until the end of the input. Then releases the leases that they
/// took, unless these are to be kept.
pub fn run(global: Global, keep: bool) -> Result<Exit, Failure> {
    let mut runner = Runner::new(global)?;
    runner.stdin = StdinUse::Prompt;
    runner.listener.at_prompt();
    let runner = Rc::new(runner);
    if let Ok(settings) = tcgetattr(rustix::stdio::stdin()) {
        let _ = TERMINAL.set(settings);
    }
    greet(&runner);
    let result = read_lines(&runner);
    if !keep {
        release_leases(&runner);
    }
    result
}

fn read_lines(runner: &Rc<Runner>) -> Result<Exit, Failure> {
    let history = history_file();
    let mut editor = editor(runner).map_err(|error| cannot_read(&error))?;
    if let Some(file) = &history {
        // The first time there is none.
        let _ = editor.load_history(file);
    }
    loop {
        let line = match editor.readline("qctl> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(Exit::Done),
            Err(error) => return Err(cannot_read(&error)),
        };
        let words = match words_of(&line) {
            Ok(words) => words,
            Err(failure) => {
                tell(&failure, runner.global.is_json());
                continue;
            }
        };
        let Some(first) = words.first() else {
            continue;
        };
        let _ = editor.add_history_entry(line.as_str());
        if let Some(file) = &history {
            let _ = editor.append_history(file);
        }
        if LEAVE.contains(&first.as_slice()) {
            return Ok(Exit::Done);
        }
        runner.listener.forget();
        let result = runner.run_words(words);
        runner.listener.forget();
        match result {
            Ok(_) => {}
            Err((Failure::Interrupted, _)) => write_error("\n"),
            Err((failure, _)) if failure.exit() == Exit::Terminated => return Err(failure),
            Err((failure, json)) => tell(&failure, json),
        }
    }
}

/// The words of a line; of `\?` and `\q` those that they stand for.
fn words_of(line: &str) -> Result<Vec<Vec<u8>>, Failure> {
    match line.trim() {
        "\\?" => Ok(vec![b"help".to_vec()]),
        "\\q" => Ok(vec![b"exit".to_vec()]),
        other if other.starts_with('\\') => Err(Failure::Usage(format!(
            "{other} is no command; of those with a backslash there are \\? (help) and \\q (leave)"
        ))),
        line => words::split(line.as_bytes()).map_err(|error| Failure::Usage(error.to_string())),
    }
}

/// Gives back what was received and neither deleted nor released. Where that fails the messages
/// come back when their leases end.
fn release_leases(runner: &Runner) {
    let mut released = 0;
    let release = async {
        for Leases { addresses, queue, receipts } in take_leases(&runner.link) {
            // An address given explicitly never starts a server.
            let global = Global { server: addresses, ..runner.global.clone() };
            let stop = runner.listener.stop(None);
            let mut session = Session::new(global, stop, Rc::clone(&runner.link));
            for batch in receipts.chunks(BATCH_ENTRIES_MAX as usize) {
                let ended = end_batch(&mut session, queue.clone(), batch.to_vec(), End::Release);
                let Ok(statuses) = ended.await else { break };
                released += statuses.entries().flatten().count();
            }
        }
    };
    let within = async { tokio::time::timeout(RELEASE_WITHIN, release).await };
    let _ = runner.runtime.block_on(within);
    match released {
        0 => {}
        1 => say("released 1 message received here"),
        released => say(&format!("released {released} messages received here")),
    }
}

fn cannot_read(error: &ReadlineError) -> Failure {
    Failure::Io(format!("cannot read the next command: {error}"))
}

/// Connects, so that completion knows the queues; the prompt comes up without a server too.
fn greet(runner: &Runner) {
    let stop = runner.listener.stop(None);
    let connected = config::resolve(runner.global.clone()).and_then(|global| {
        let mut session = Session::new(global, stop.clone(), Rc::clone(&runner.link));
        runner.runtime.block_on(async {
            tokio::select! {
                client = session.client() => client,
                failure = stop.stopped() => Err(failure),
            }
        })
    });
    match connected {
        Ok(client) => {
            let version = env!("CARGO_PKG_VERSION");
            let address = escape(client.address().to_string().as_bytes(), false);
            write_error(&format!(
                "qctl {version}, connected to {address}; help shows the verbs, Ctrl-D leaves\n"
            ));
        }
        Err(failure) => tell(&failure, runner.global.is_json()),
    }
    runner.listener.forget();
}

/// `$XDG_STATE_HOME/qctl/history`; without such a place there is no history.
fn history_file() -> Option<PathBuf> {
    let directory = state_directory().ok()?.join("qctl");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.ok().map(|()| directory.join("history"))
}

fn editor(runner: &Rc<Runner>) -> rustyline::Result<Editor<Completion, FileHistory>> {
    let config = Config::builder()
        .max_history_size(HISTORY_LINES)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Completion { runner: Rc::clone(runner), command: command() }));
    Ok(editor)
}

/// Completes what [`Asked`] knows, and the names of queues; asks for more lines while a quote is
/// open.
struct Completion {
    runner: Rc<Runner>,
    command: clap::Command,
}

impl Helper for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        _default: bool,
    ) -> Cow<'b, str> {
        Cow::Borrowed(prompt)
    }
}

impl Validator for Completion {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match words::split(context.input().as_bytes()) {
            Err(error) if error.is_unfinished() => ValidationResult::Incomplete,
            // What is wrong with others is told when the line is read.
            Ok(_) | Err(_) => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..position).unwrap_or_default();
        let asked = Asked::at(&self.command, before);
        let mut found = asked.words;
        if asked.others == Others::Queues {
            found.extend(self.queue_names(asked.prefix));
        }
        found.retain(|name| name.starts_with(asked.prefix));
        if let [only] = &mut found[..] {
            only.push(' ');
        }
        Ok((asked.start, found))
    }
}

impl Completion {
    fn queue_names(&self, prefix: &str) -> Vec<String> {
        let Some(client) = open_client(&self.runner.link) else {
            return Vec::new();
        };
        let list = List { pattern: Some(format!("{prefix}*")), after: None, limit: 1_000 };
        let answer = async { tokio::time::timeout(COMPLETE_WITHIN, client.call(list)).await };
        match self.runner.runtime.block_on(answer) {
            Ok(Ok(page)) => page.queues.iter().map(|queue| queue.name.to_string()).collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_with_a_backslash_is_one_of_those_that_there_are() {
        assert_eq!(words_of(" \\? ").unwrap(), [b"help"]);
        assert_eq!(words_of("\\q").unwrap(), [b"exit"]);
        let failure = words_of("\\timing on").unwrap_err();
        let text = "\\timing on is no command; of those with a backslash there are \\? (help) and \\q (leave)";
        assert_eq!(failure.to_string(), text);
        assert_eq!(words_of("send jobs a\\ b").unwrap()[2], b"a b");
    }

    #[test]
    fn here_document_is_refused() {
        assert!(words_of("send jobs <<EOF").unwrap_err().to_string().contains("here-documents"));
    }
}
