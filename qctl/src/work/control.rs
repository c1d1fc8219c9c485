//! What a terminal, and whoever closes it, tell us, and commands must be told: their process groups
//! are not the one that the terminal knows.

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::exit::Failure;

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Ctrl-Z: stop, commands first.
    Suspend,
    /// Go on.
    Continue,
    /// The terminal is gone.
    HangUp,
}

/// Streams of signals.
#[derive(Debug)]
pub struct Controls {
    suspend: Stream,
    go_on: Stream,
    /// `None` under nohup(1).
    hang_up: Option<Stream>,
}

impl Controls {
    /// From now on these signals come here.
    pub fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::Io(format!("cannot take signals: {error}"));
        let number = |signal: Signal| SignalKind::from_raw(signal.as_raw());
        let ignored = is_ignored(Signal::HUP);
        let hang_up = (!ignored).then(|| signal(SignalKind::hangup())).transpose();
        Ok(Self {
            suspend: signal(number(Signal::TSTP)).map_err(failed)?,
            go_on: signal(number(Signal::CONT)).map_err(failed)?,
            hang_up: hang_up.map_err(failed)?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Control {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.suspend.recv() => Control::Suspend,
            _ = self.go_on.recv() => Control::Continue,
            _ = hang_up => Control::HangUp,
        }
    }
}

/// Stops this process; [`Control::Continue`] comes when it goes on.
pub fn suspend() {
    // That it cannot be sent leaves us running, which harms nobody.
    let _ = kill_process(getpid(), Signal::STOP);
}

/// `SigIgn` of proc(5): what nohup(1) has set.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (signal.as_raw() - 1)) != 0
}
