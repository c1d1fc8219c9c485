//! Lines of commands: what a script and the prompt share, and scripts themselves.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use qd_protocol::ClientError;
use qd_protocol::verbs::Ping;
use tokio::runtime::Runtime;

use crate::args::{Cli, Global, Verb, asks_for_json, parse_words};
use crate::config;
use crate::descriptors::refuse_closed;
use crate::exit::{Exit, Failure};
use crate::output::{put_help, say, tell};
use crate::session::{Link, Session, StdinUse, forget_client, open_client};
use crate::signals::Listener;
use crate::verbs;
use crate::words::{self, NoWords};

/// How soon a server that was there before must answer, to be taken for the same.
const ALIVE_WITHIN: Duration = Duration::from_millis(300);

/// Runs commands one after the other on one connection.
pub struct Runner {
    /// Drives the connection while a command runs.
    pub runtime: Runtime,
    /// Ends commands.
    pub listener: Listener,
    /// Flags of the command line, which hold where a line does not say otherwise.
    pub global: Global,
    /// The connection.
    pub link: Rc<RefCell<Link>>,
    /// What standard input is for.
    pub stdin: StdinUse,
}

impl Runner {
    /// For commands under `global`.
    pub fn new(global: Global) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Io(format!("cannot start: {error}")))?;
        Ok(Self {
            runtime,
            listener: Listener::start()?,
            global,
            link: Rc::default(),
            stdin: StdinUse::Free,
        })
    }

    /// Runs the words of one line. What fails comes with whether it is to be told in JSON too.
    pub fn run_words(&self, words: Vec<Vec<u8>>) -> Result<Exit, (Failure, bool)> {
        let cli = match parse_words(words.clone()) {
            Ok(cli) => cli,
            Err(error) if error.exit_code() == 0 => {
                let put = put_help(&error).map(|()| Exit::Done);
                return put.map_err(|failure| (failure, self.global.is_json()));
            }
            Err(error) => {
                let outer = self.global.is_json().then(|| b"-ojson".to_vec());
                let json = asks_for_json(outer.into_iter().chain(words));
                return Err((error.into(), json));
            }
        };
        let misplaced = cli.file.is_some() || cli.interactive || cli.keep_going || cli.keep;
        let Some(verb) = cli.verb.filter(|_| !misplaced) else {
            let text = "a line is a verb with its flags; help shows the verbs";
            let json = cli.global.under(&self.global).is_json();
            return Err((Failure::Usage(text.to_owned()), json));
        };
        let global = self.flags(&verb, &cli.global)?;
        let json = global.is_json();
        self.run_verb(verb, cli.global, global).map_err(|failure| (failure, json))
    }

    /// The flags of a line, under those of the command line, with what the context says. What fails
    /// comes with whether it is to be told in JSON too.
    pub fn flags(&self, verb: &Verb, given: &Global) -> Result<Global, (Failure, bool)> {
        let global = given.clone().under(&self.global);
        // They are about contexts, and use none.
        if matches!(verb, Verb::Context(_) | Verb::Complete(_)) {
            return Ok(global);
        }
        let json = global.is_json();
        config::resolve(global).map_err(|failure| (failure, json))
    }

    /// Asks the server for a sign of life. One that went away while the prompt waited is
    /// connected to anew, and started if it is the user's own, rather than waited for.
    fn forget_dead_connection(&self) {
        let Some(client) = open_client(&self.link) else {
            return;
        };
        let ping = async { tokio::time::timeout(ALIVE_WITHIN, client.call(Ping)).await };
        if !matches!(self.runtime.block_on(ping), Ok(Ok(_))) {
            forget_client(&self.link);
        }
    }

    /// Runs one verb with its own flags and those that hold for it.
    pub fn run_verb(&self, verb: Verb, given: Global, global: Global) -> Result<Exit, Failure> {
        if self.stdin == StdinUse::Prompt {
            self.forget_dead_connection();
        }
        let of_context = global.of_context.clone();
        let stop = self.listener.stop(global.timeout);
        let mut session = Session::new(global, stop, Rc::clone(&self.link));
        session.stdin = self.stdin;
        session.given = given;
        let result = self.runtime.block_on(verbs::run(verb, &mut session));
        // What was written before a failure is data all the same.
        let flushed = session.out.flush();
        match &result {
            Err(Failure::Client(_)) => forget_client(&self.link),
            // The runtime stands still while the next line is typed: what was ended must be
            // cancelled on the server before, or it would still take messages.
            Err(Failure::Interrupted | Failure::Timeout(_)) if self.stdin == StdinUse::Prompt => {
                self.forget_dead_connection();
            }
            _ => {}
        }
        let result = match (result, of_context) {
            (Err(failure @ Failure::Client(ClientError::Unreachable { .. })), Some(name)) => {
                Err(failure.after(format!("context {name:?}")))
            }
            (result, _) => result,
        };
        result.and_then(|exit| flushed.map(|()| exit))
    }
}

/// Runs the lines of `path` (`-`: standard input) up to the first that fails, or all of them.
pub fn run(cli: &Cli, path: Option<&Path>) -> Result<Exit, Failure> {
    let stdin = path.is_none_or(|path| path.as_os_str() == OsStr::new("-"));
    let (name, input): (String, Box<dyn Read>) = match path {
        Some(path) if !stdin => {
            let failed =
                |error| Failure::Missing(format!("cannot read {}: {error}", path.display()));
            let file = File::open(path).map_err(failed)?;
            (path.display().to_string(), Box::new(file))
        }
        _ => {
            let failed = |error| Failure::Io(format!("cannot read standard input: {error}"));
            refuse_closed(std::io::stdin()).map_err(failed)?;
            ("standard input".to_owned(), Box::new(std::io::stdin()))
        }
    };
    let mut runner = Runner::new(cli.global.clone())?;
    if stdin {
        runner.stdin = StdinUse::Script;
    }
    let mut lines = Lines { input: BufReader::new(input), name, number: 0, ended_at: 0 };
    let mut first = Exit::Done;
    while let Some(words) = lines.next_command()? {
        if words.is_empty() {
            continue;
        }
        let exit = match runner.run_words(words) {
            Ok(Exit::Done) => continue,
            Ok(exit) => {
                say(&format!("{}: status {}", lines.place(), exit.code()));
                exit
            }
            Err((failure, _)) if failure.is_quiet() => return Err(failure),
            Err((failure, json)) => {
                let exit = failure.exit();
                tell(&failure.after(lines.place()), json);
                exit
            }
        };
        if first == Exit::Done {
            first = exit;
        }
        if !cli.keep_going {
            break;
        }
    }
    Ok(first)
}

/// Commands of a script; a command goes on over lines while a quote is open.
struct Lines<R> {
    input: R,
    name: String,
    /// Line where the last command began, counted from 1.
    number: u64,
    ended_at: u64,
}

impl<R: BufRead> Lines<R> {
    /// The words of the next command, none for an empty line.
    fn next_command(&mut self) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let mut text = Vec::new();
        self.number = self.ended_at + 1;
        loop {
            let read = self.input.read_until(b'\n', &mut text);
            let read = read.map_err(|error| self.cannot_read(&error))?;
            if read > 0 {
                self.ended_at += 1;
            }
            let command = text.strip_suffix(b"\n").unwrap_or(&text);
            match words::split(command) {
                Ok(words) if read > 0 => return Ok(Some(words)),
                Ok(words) => return Ok((!words.is_empty()).then_some(words)),
                Err(error) if read == 0 || !error.is_unfinished() => {
                    return Err(self.no_words(error));
                }
                Err(_) => {}
            }
        }
    }

    fn place(&self) -> String {
        format!("{}, line {}", self.name, self.number)
    }

    fn cannot_read(&self, error: &std::io::Error) -> Failure {
        let text = format!("cannot read {}: {error}", self.name);
        match error.kind() {
            std::io::ErrorKind::IsADirectory => Failure::Missing(text),
            _ => Failure::Io(text),
        }
    }

    fn no_words(&self, error: NoWords) -> Failure {
        Failure::Usage(format!("{}: {error}", self.place()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Result<Vec<(u64, Vec<String>)>, Failure> {
        let mut lines =
            Lines { input: text.as_bytes(), name: "script".to_owned(), number: 0, ended_at: 0 };
        let mut found = Vec::new();
        while let Some(words) = lines.next_command()? {
            let words = words.into_iter().map(|word| String::from_utf8(word).unwrap());
            found.push((lines.number, words.collect()));
        }
        Ok(found)
    }

    #[test]
    fn commands_keep_the_number_of_their_first_line() {
        let found = commands("ping\n\n# x\nsend q 'a\nb'\nlist").unwrap();
        let expected: [(u64, &[&str]); 5] =
            [(1, &["ping"]), (2, &[]), (3, &[]), (4, &["send", "q", "a\nb"]), (6, &["list"])];
        assert_eq!(found.len(), expected.len());
        for ((line, words), (at, given)) in found.iter().zip(expected) {
            assert_eq!(*line, at);
            assert_eq!(words, given);
        }
    }

    #[test]
    fn quote_open_at_the_end_is_a_usage_error_with_its_line() {
        let failure = commands("ping\nsend q 'a\n\n").unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("line 2"), "{failure}");
    }

    #[test]
    fn here_document_ends_a_script_before_its_lines_are_taken_for_commands() {
        let failure = commands("ping\nsend q <<EOF\ndrop q\nEOF\n").unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("line 2: here-documents"), "{failure}");
    }
}
