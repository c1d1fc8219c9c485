//! Programs on a terminal: `script` from util-linux gives them a pseudo-terminal of their own,
//! and what is typed there comes from the test.

mod screen;

pub use screen::Screen;

use crate::Run;

/// Runs a shell command on a terminal of 80 columns; what the terminal shows is the standard
/// output, what is written to its standard input is typed. `run` makes the program that gives
/// the terminal.
pub fn on_terminal(command: &str, run: impl FnOnce(&str) -> Run) -> Run {
    let command = format!("stty cols 80 rows 24; {command}");
    run("script")
        .env("SHELL", "/bin/sh")
        .args(["-q", "-f", "-e", "-c", &command, "/dev/null"])
        .keep_stdin()
}

/// What a terminal shows of `output`, less the sequences that move the cursor or set colours.
pub fn plain(output: &str) -> String {
    let mut out = String::new();
    let mut characters = output.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' if characters.next_if_eq(&'[').is_some() => {
                // The final byte of a control sequence is one of @ to ~ (ECMA-48).
                while characters.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\r' | '\u{7}' => {}
            other => out.push(other),
        }
    }
    out
}
