//! Text cases: conversations with a private daemon.
//!
//! ```text
//! # A comment.
//! qctl create jobs
//! qctl send jobs hello
//! ----
//! 1
//!
//! qctl receive jobs --visibility-timeout 1m
//! ----
//! <R=receipt>     hello\c
//!
//! qctl delete jobs "$R" nonsense
//! ----
//! stderr:
//! qctl: <line>
//! exit: 65
//! ```
//!
//! The lines above `----` are run by `sh`, one shell a block, with the daemon's address in
//! `QCTL_SERVER`. Below it, up to an empty line, stands what comes out: standard output, then
//! standard error behind `stderr:` unless it is empty, then the exit status unless it is 0.
//! [`crate::pattern`] has the places for what varies; a place with a name becomes a variable of
//! the blocks below.
//!
//! Output is shown so that every byte of it can be seen: an empty line as `<blank>`, output that
//! does not end with a newline with `\c` at its end, control characters and bytes that are no
//! UTF-8 as `\xNN`, and the daemon's directory as `$DIR`, which is also a variable.
//!
//! With `QD_TESTS_REWRITE=1` the expected output is replaced by the one that comes out; look at
//! the difference before you keep it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::pattern::{Piece, fit, pieces, receipt_at, time_at};
use crate::{Daemon, Done, Run, programs};

/// Commands, and what comes out.
#[derive(Debug)]
struct Block {
    /// Everything above the commands: comments and empty lines.
    above: String,
    commands: String,
    expected: String,
    /// Line of the first command, counted from 1.
    line: usize,
}

/// The directory of the cases.
pub fn directory() -> PathBuf {
    programs::sources().join("tests/cases")
}

/// Runs the case `NAME.txt` against a daemon of its own.
///
/// # Panics
///
/// When something else comes out than the case says.
pub fn run(name: &str) {
    let path = directory().join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut blocks = parse(&text);
    assert!(!blocks.is_empty(), "{name} has no commands");
    let daemon = Daemon::new();
    let work = daemon.directory().join("work");
    fs::create_dir(&work).expect("a directory for the case");
    let rewrite = std::env::var_os("QD_TESTS_REWRITE").is_some_and(|value| value == "1");
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut failures = String::new();
    for block in &mut blocks {
        let mut run = shell(&daemon.server(), &work).env("DIR", daemon.directory());
        for (name, value) in &variables {
            run = run.env(name, value);
        }
        let done = run.arg("-c").arg(&block.commands).run();
        let shown = show(&done, daemon.directory());
        match fit(&pieces(&block.expected), &shown) {
            Some(found) => variables.extend(found),
            None if rewrite => {
                block.expected = with_places(&shown, &block.expected);
                variables.extend(fit(&pieces(&block.expected), &shown).unwrap_or_default());
            }
            None => {
                let Block { line, commands, expected, .. } = block;
                let _ = write!(
                    failures,
                    "{}:{line}:\n{commands}---- expected\n{expected}---- came out\n{shown}\n",
                    path.display()
                );
            }
        }
    }
    if rewrite {
        fs::write(&path, render(&blocks)).expect("the case is rewritten");
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// A shell with the programs in its `PATH`.
pub fn shell(server: &str, home: &Path) -> Run {
    Run::new("sh")
        .env("PATH", path_with_programs())
        .env("QCTL_SERVER", server)
        .env("HOME", home)
        .current_dir(home)
}

/// `PATH` with the programs under test first.
///
/// # Panics
///
/// When a directory has a colon in its name.
pub fn path_with_programs() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(programs::directory().to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(all).expect("directories without a colon")
}

fn parse(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    loop {
        let mut above = String::new();
        while let Some((_, line)) =
            lines.next_if(|(_, line)| line.is_empty() || line.starts_with('#'))
        {
            above.push_str(line);
            above.push('\n');
        }
        let Some(&(at, _)) = lines.peek() else {
            return blocks;
        };
        let mut commands = String::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| *line != "----") {
            commands.push_str(line);
            commands.push('\n');
        }
        assert!(lines.next().is_some(), "line {}: commands without ----", at + 1);
        let mut expected = String::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
            expected.push_str(line);
            expected.push('\n');
        }
        blocks.push(Block { above, commands, expected, line: at + 1 });
    }
}

fn render(blocks: &[Block]) -> String {
    let mut out = String::new();
    for Block { above, commands, expected, .. } in blocks {
        let _ = write!(out, "{above}{commands}----\n{expected}");
    }
    out
}

/// What came out, as it stands in a case.
fn show(done: &Done, directory: &Path) -> String {
    let mut out = show_stream(&done.stdout);
    if !done.stderr.is_empty() {
        out.push_str("stderr:\n");
        out.push_str(&show_stream(done.stderr.as_bytes()));
    }
    if done.exit != 0 {
        let _ = writeln!(out, "exit: {}", done.exit);
    }
    out.replace(&directory.display().to_string(), "$DIR")
}

fn show_stream(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\n' if out.is_empty() || out.ends_with('\n') => out.push_str("<blank>\n"),
                '\n' | '\t' => out.push(character),
                '\\' if matches!(characters.peek(), Some('x' | 'c')) => out.push_str("\\x5c"),
                other if other.is_control() => {
                    let _ = write!(out, "\\x{:02x}", u32::from(other));
                }
                other => out.push(other),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    if !out.is_empty() && !out.ends_with('\n') {
        out.push_str("\\c\n");
    }
    out
}

/// `shown` with places for receipts and times; receipts get the names that they had in `before`.
fn with_places(shown: &str, before: &str) -> String {
    let mut names = pieces(before).into_iter().filter_map(|piece| match piece {
        Piece::Place(crate::pattern::Kind::Receipt, name) => Some(name),
        _ => None,
    });
    let mut out = String::new();
    let mut rest = shown;
    let mut inside_word = false;
    while let Some(character) = rest.chars().next() {
        let mut length = character.len_utf8();
        if !inside_word && receipt_at(rest) {
            match names.next().flatten() {
                Some(name) => {
                    let _ = write!(out, "<{name}=receipt>");
                }
                None => out.push_str("<receipt>"),
            }
            length = crate::pattern::RECEIPT_CHARACTERS;
        } else if let Some(time) = time_at(rest) {
            out.push_str("<time>");
            length = time;
        } else {
            out.push(character);
        }
        let last = rest[..length].chars().next_back().unwrap_or(character);
        inside_word = last.is_ascii_alphanumeric() || last == '-' || last == '_';
        rest = &rest[length..];
    }
    out
}
