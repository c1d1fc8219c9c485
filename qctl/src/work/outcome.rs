//! What the end of a command means for its messages.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use qd_protocol::verbs::reject::REASON_BYTES_MAX;

/// `EX_DATAERR` of sysexits.h: the message is no good, and never will be.
const REJECTED: i32 = 65;
/// `EX_TEMPFAIL`: not now.
const LATER: i32 = 75;
/// What a shell ends with when it cannot run, or cannot find, a command.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// What becomes of the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// They are deleted.
    Done,
    /// They are given back, and the attempt does not count.
    Later,
    /// They become dead letters, for this reason.
    Rejected(String),
    /// They are given back; how the command ended.
    Failed(String),
    /// The command cannot work at all: the same, but that the attempt does not count and nothing
    /// more is received.
    Broken(i32),
}

impl Outcome {
    /// By the exit status, and what was written to standard error.
    pub fn of(status: ExitStatus, stderr: &[u8]) -> Self {
        match status.code() {
            Some(0) => Self::Done,
            Some(LATER) => Self::Later,
            Some(REJECTED) => Self::Rejected(reason(stderr)),
            Some(code @ (NOT_EXECUTABLE | NOT_FOUND)) => Self::Broken(code),
            Some(code) => Self::Failed(format!("the command ended with status {code}")),
            None => {
                let signal = status.signal().unwrap_or_default();
                Self::Failed(format!("the command was killed by {}", signal_name(signal)))
            }
        }
    }
}

fn signal_name(signal: i32) -> String {
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => name.to_owned(),
        None => format!("signal {signal}"),
    }
}

/// The last lines of standard error, as many as a reason has room for.
fn reason(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    if text.is_empty() {
        return "the command ended with status 65".to_owned();
    }
    let mut from = text.len().saturating_sub(REASON_BYTES_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let tail = text.get(from..).unwrap_or_default();
    if from == 0 {
        return tail.to_owned();
    }
    // The first line is only a part of one, but where it is the only one.
    tail.split_once('\n').map_or(tail, |(_, whole)| whole).trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(wait_status: i32, stderr: &str) -> Outcome {
        Outcome::of(ExitStatus::from_raw(wait_status), stderr.as_bytes())
    }

    #[test]
    fn statuses_mean_what_the_manual_says() {
        assert_eq!(of(0, "noise\n"), Outcome::Done);
        assert_eq!(of(75 << 8, ""), Outcome::Later);
        assert_eq!(of(65 << 8, "bad\n"), Outcome::Rejected("bad".to_owned()));
        assert_eq!(of(1 << 8, ""), Outcome::Failed("the command ended with status 1".to_owned()));
        assert_eq!(
            of(255 << 8, ""),
            Outcome::Failed("the command ended with status 255".to_owned())
        );
        assert_eq!(of(9, ""), Outcome::Failed("the command was killed by SIGKILL".to_owned()));
        assert_eq!(of(127 << 8, ""), Outcome::Broken(127));
        assert_eq!(of(126 << 8, ""), Outcome::Broken(126));
    }

    #[test]
    fn reason_is_the_last_lines_that_have_room() {
        assert_eq!(reason(b" \n"), "the command ended with status 65");
        assert_eq!(reason(b"one\ntwo\n\n"), "one\ntwo");
        assert_eq!(reason(b"\xff\n"), "\u{fffd}");
        let long = format!("first\n{}\nlast\n", "x".repeat(1_015));
        assert_eq!(reason(long.as_bytes()), format!("{}\nlast", "x".repeat(1_015)));
        let long = format!("{}\nlast\n", "x".repeat(1_030));
        assert_eq!(reason(long.as_bytes()), "last");
        let one = "\u{e4}".repeat(600);
        assert_eq!(reason(one.as_bytes()), "\u{e4}".repeat(512));
        let odd = format!("x{}", "\u{e4}".repeat(600));
        assert!(reason(odd.as_bytes()).len() <= REASON_BYTES_MAX);
    }
}
