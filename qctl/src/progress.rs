//! How far a command got, for a person who waits: one line on a terminal, written over and over.
//!
//! Always true here: nothing is shown in the first second, and nothing where standard error is no
//! terminal or one that cannot erase a line. The line is gone before another one is written with
//! [`crate::output::say`] or [`crate::output::tell`].

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What takes longer than this shows how far it got.
const QUICK: Duration = Duration::from_secs(1);
/// The line stays for this long.
const EVERY: Duration = Duration::from_millis(200);

/// Whether a line is shown now.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// How far a command got; the line goes with it.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    /// When the line was written last.
    last: Option<Instant>,
    visible: bool,
}

impl Progress {
    /// From now on.
    pub fn new() -> Self {
        Self::visible_if(true)
    }

    /// From now on, of a command that writes data as it goes; where a person sees these, they are the
    /// progress.
    pub fn beside_data() -> Self {
        Self::visible_if(!std::io::stdout().is_terminal())
    }

    fn visible_if(wanted: bool) -> Self {
        let erases = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let visible = wanted && erases && std::io::stderr().is_terminal();
        Self { start: Instant::now(), last: None, visible }
    }

    /// When it began.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Shows that so many of `what` are done; `part`: how much of a whole that is known.
    pub fn show(&mut self, done: u64, what: &str, part: Option<(u64, u64)>) {
        let elapsed = self.start.elapsed();
        let recent = self.last.is_some_and(|last| last.elapsed() < EVERY);
        if !self.visible || elapsed < QUICK || recent {
            return;
        }
        self.last = Some(Instant::now());
        SHOWN.store(true, Ordering::Relaxed);
        let line = format!("\r{}\u{1b}[K", line(done, what, part, elapsed));
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        clear();
    }
}

/// Leaves the line empty again.
pub fn clear() {
    if SHOWN.swap(false, Ordering::Relaxed) {
        let _ = std::io::stderr().write_all(b"\r\x1b[K");
    }
}

fn line(done: u64, what: &str, part: Option<(u64, u64)>, elapsed: Duration) -> String {
    let millis = elapsed.as_millis().max(1);
    let rate = u128::from(done) * 1_000 / millis;
    let mut line = format!("{done} {what}, {rate}/s");
    if let Some((part, whole)) = part.filter(|(part, whole)| *part > 0 && part <= whole) {
        let left = u128::from(whole - part) * millis / u128::from(part);
        let percent = u128::from(part) * 100 / u128::from(whole);
        let _ = write!(line, ", {percent} %, {} left", show_seconds(left.div_ceil(1_000)));
    }
    line
}

fn show_seconds(seconds: u128) -> String {
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_the_rate_and_the_time_that_is_left() {
        let after = |seconds| Duration::from_secs(seconds);
        assert_eq!(line(1_000, "messages sent", None, after(2)), "1000 messages sent, 500/s");
        let part = line(1_000, "messages sent", Some((250, 1_000)), after(2));
        assert_eq!(part, "1000 messages sent, 500/s, 25 %, 6s left");
        let half = line(7, "x", Some((u64::MAX / 2, u64::MAX)), after(3));
        assert!(half.ends_with(" %, 4s left") || half.ends_with(" %, 3s left"), "{half}");
        let late = line(1, "x", Some((1, 10_000)), after(1));
        assert!(late.ends_with(", 0 %, 2h46m left"), "{late}");
        assert_eq!(show_seconds(61), "1m01s");
        assert_eq!(line(0, "x", Some((0, 10)), after(2)), "0 x, 0/s", "nothing is known yet");
        assert_eq!(line(1, "x", Some((11, 10)), after(1)), "1 x, 1/s", "the file has grown");
    }
}
