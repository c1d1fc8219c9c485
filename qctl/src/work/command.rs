//! The command: where it is found, its environment, and how it is started.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, PipeReader, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use qd_protocol::{Headers, QueueName};
use rustix::fs::{Access, access};
use tokio::process::Child;

use super::ledger::Lease;
use crate::exit::Failure;

/// What a new pipe takes without anybody reading it, whatever the limits of the user.
const PIPE_BYTES: usize = 4_096;
/// Variables that are ours, in all commands and in none that a command of ours starts by itself.
const VARIABLES: [&str; 5] =
    ["QCTL_QUEUE", "QCTL_ID", "QCTL_RECEIPT", "QCTL_ATTEMPT", "QCTL_COUNT"];
const HEADER_PREFIX: &str = "QCTL_HDR_";

/// A message to be worked on.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its lease.
    pub lease: Lease,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
}

/// What is started for messages.
#[derive(Debug)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    queues: Vec<QueueName>,
    /// `QCTL_SERVER`, where another one was given.
    server: Option<String>,
    /// Several run at once: their output goes through us, line by line.
    parallel: bool,
    /// Inherited variables that are to be left out.
    stale: Vec<OsString>,
}

/// A command that has been started.
#[derive(Debug)]
pub struct Started {
    /// The process, leader of a group of its own.
    pub child: Child,
    /// What it has not got yet, and where it goes.
    pub input: Option<(PipeWriter, Vec<u8>)>,
    /// Where its output comes from, unless it is ours.
    pub output: Option<PipeReader>,
    /// Where its errors come from.
    pub errors: PipeReader,
}

impl Command {
    /// Looks whether it can be run at all, before a message is received for it.
    pub fn new(
        words: &[OsString],
        queues: &[QueueName],
        server: Option<String>,
        parallel: bool,
    ) -> Result<Self, Failure> {
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| Failure::Usage("there is no command behind --".to_owned()))?;
        look_up(program, std::env::var_os("PATH").as_deref())
            .map_err(|kind| cannot_run(program, &std::io::Error::from(kind)))?;
        let names = std::env::vars_os().map(|(name, _)| name);
        let stale = names.filter(|name| {
            let is_ours = VARIABLES.iter().any(|ours| name == ours);
            is_ours || name.as_bytes().starts_with(HEADER_PREFIX.as_bytes())
        });
        Ok(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
            queues: queues.to_vec(),
            server,
            parallel,
            stale: stale.collect(),
        })
    }

    /// Starts it for messages of one queue. `batch`: several bodies may be passed, each with a NUL behind
    /// it. Names of headers that no variable can hold are added to `left_out`.
    pub fn start(
        &self,
        messages: &[Message],
        batch: bool,
        left_out: &mut Vec<String>,
    ) -> std::io::Result<Started> {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.arguments);
        for name in &self.stale {
            command.env_remove(name);
        }
        let queue = messages.first().and_then(|message| self.queues.get(message.lease.queue));
        if let Some(queue) = queue {
            command.env("QCTL_QUEUE", queue.as_str());
        }
        if let Some(server) = &self.server {
            command.env("QCTL_SERVER", server);
        }
        command.envs(environment(messages, batch, left_out));
        let (reader, mut writer) = std::io::pipe()?;
        let input = input(messages, batch);
        let small = input.len() <= PIPE_BYTES;
        if small {
            writer.write_all(&input)?;
        }
        let input = (!small).then_some((writer, input));
        let mut output = None;
        let (errors, stderr) = std::io::pipe()?;
        command.stdin(OwnedFd::from(reader)).stderr(OwnedFd::from(stderr));
        if self.parallel {
            let (ours, stdout) = std::io::pipe()?;
            output = Some(ours);
            command.stdout(OwnedFd::from(stdout));
        } else {
            command.stdout(Stdio::inherit());
        }
        let mut command = tokio::process::Command::from(command);
        let child = command.process_group(0).spawn()?;
        Ok(Started { child, input, output, errors })
    }

    /// Why it could not be started.
    pub fn cannot_run(&self, error: &std::io::Error) -> Failure {
        cannot_run(&self.program, error)
    }

    /// Whether several run at once.
    pub fn is_parallel(&self) -> bool {
        self.parallel
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.program.display().to_string()
    }
}

/// What goes to standard input.
fn input(messages: &[Message], batch: bool) -> Vec<u8> {
    let mut input = Vec::new();
    for message in messages {
        input.extend_from_slice(&message.body);
        if batch {
            input.push(0);
        }
    }
    input
}

/// Variables of the messages but for the queue; see qctl(1).
fn environment(
    messages: &[Message],
    batch: bool,
    left_out: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let list = |of: fn(&Lease) -> String| {
        let each = messages.iter().map(|message| of(&message.lease));
        each.collect::<Vec<_>>().join(" ")
    };
    let mut variables = BTreeMap::from([
        ("QCTL_ID".to_owned(), list(|lease| lease.id.to_string())),
        ("QCTL_RECEIPT".to_owned(), list(|lease| lease.receipt.to_string())),
        ("QCTL_ATTEMPT".to_owned(), list(|lease| lease.attempt.to_string())),
    ]);
    if batch {
        variables.insert("QCTL_COUNT".to_owned(), messages.len().to_string());
        return variables;
    }
    for (key, value) in messages.iter().flat_map(|message| &message.headers.0) {
        if value.contains('\0') {
            left_out.push(key.clone());
            continue;
        }
        let name = header_variable(key);
        variables
            .entry(name)
            .and_modify(|values| {
                values.push('\n');
                values.push_str(value);
            })
            .or_insert_with(|| value.clone());
    }
    variables
}

/// As CGI names the headers of HTTP (RFC 3875, 4.1.18).
fn header_variable(key: &str) -> String {
    let letter = |letter: char| {
        if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' }
    };
    HEADER_PREFIX.chars().chain(key.chars().map(letter)).collect()
}

fn cannot_run(program: &OsStr, error: &std::io::Error) -> Failure {
    let text = format!("cannot run \"{}\": {error}", program.display());
    match error.kind() {
        ErrorKind::NotFound => {
            Failure::NotFound(format!("cannot run \"{}\": command not found", program.display()))
        }
        ErrorKind::PermissionDenied => Failure::NotExecutable(text),
        // Exec format error has no kind.
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            Failure::NotExecutable(text)
        }
        _ => Failure::Io(text),
    }
}

/// Finds the program as execvp(3) does. Without a `PATH` the system's own decides later.
fn look_up(program: &OsStr, path: Option<&OsStr>) -> Result<(), ErrorKind> {
    if program.as_bytes().contains(&b'/') {
        return executable(Path::new(program));
    }
    if program.is_empty() {
        return Err(ErrorKind::NotFound);
    }
    let Some(path) = path else {
        return Ok(());
    };
    let mut found = Err(ErrorKind::NotFound);
    for directory in std::env::split_paths(path) {
        let directory =
            if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
        match executable(&directory.join(program)) {
            Ok(()) => return Ok(()),
            Err(ErrorKind::NotFound) => {}
            Err(kind) => found = Err(kind),
        }
    }
    found
}

fn executable(path: &Path) -> Result<(), ErrorKind> {
    match path.metadata() {
        Ok(is) if is.is_file() && access(path, Access::EXEC_OK).is_ok() => Ok(()),
        Ok(_) => Err(ErrorKind::PermissionDenied),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error.kind()),
        Err(_) => Err(ErrorKind::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qd_protocol::Receipt;

    fn message(id: u64, headers: &[(&str, &str)], body: &'static str) -> Message {
        let receipt = Receipt { queue: 1, lease: 2, id, secret: 4 };
        let headers = headers.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        Message {
            lease: Lease { queue: 0, id, attempt: 3, receipt },
            headers: Headers(headers.collect()),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn headers_become_variables_with_one_name_each() {
        let headers = [
            ("content-type", "a"),
            ("Content.Type", "b"),
            ("\u{e4}", "c"),
            ("bad", "d\0"),
            ("n", ""),
        ];
        let mut left_out = Vec::new();
        let variables = environment(&[message(7, &headers, "")], false, &mut left_out);
        assert_eq!(variables["QCTL_HDR_CONTENT_TYPE"], "a\nb");
        assert_eq!(variables["QCTL_HDR__"], "c");
        assert_eq!(variables["QCTL_HDR_N"], "");
        assert_eq!(left_out, ["bad"]);
        assert_eq!((variables["QCTL_ID"].as_str(), variables["QCTL_ATTEMPT"].as_str()), ("7", "3"));
        assert!(!variables.contains_key("QCTL_COUNT"));
    }

    #[test]
    fn batch_has_lists_and_ends_each_body_with_nul() {
        let messages = [message(7, &[("k", "v")], "a"), message(9, &[], ""), message(10, &[], "c")];
        let variables = environment(&messages, true, &mut Vec::new());
        assert_eq!(
            (variables["QCTL_ID"].as_str(), variables["QCTL_COUNT"].as_str()),
            ("7 9 10", "3")
        );
        assert_eq!(variables["QCTL_RECEIPT"].split(' ').count(), 3);
        assert!(!variables.contains_key("QCTL_HDR_K"));
        assert_eq!(input(&messages, true), b"a\0\0c\0");
        assert_eq!(input(&messages[..1], false), b"a");
    }

    #[test]
    fn program_is_looked_up_as_a_shell_does() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        let path = directory.path().as_os_str();
        assert_eq!(look_up(OsStr::new("plain"), Some(path)), Err(ErrorKind::PermissionDenied));
        assert_eq!(look_up(plain.as_os_str(), None), Err(ErrorKind::PermissionDenied));
        assert_eq!(look_up(OsStr::new("none"), Some(path)), Err(ErrorKind::NotFound));
        assert_eq!(look_up(path, None), Err(ErrorKind::PermissionDenied), "a directory");
        assert_eq!(look_up(OsStr::new(""), Some(path)), Err(ErrorKind::NotFound));
        assert_eq!(look_up(OsStr::new("/bin/sh"), None), Ok(()));
        assert_eq!(look_up(OsStr::new("sh"), Some(OsStr::new("/nowhere:/bin"))), Ok(()));
    }
}
