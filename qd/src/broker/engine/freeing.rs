//! When rows of queues that are gone are freed.
//!
//! Always true here: as long as there are such rows every record frees a few of them; records for
//! nothing else are made while no request comes, one after the other. So whoever asks for something
//! waits for one of those at most, and the engine rests between requests as ever.

use std::time::Duration;

/// How long no request has come when records are made only to free rows: 2 ms.
const QUIET: Duration = Duration::from_millis(2);

/// See the module. Times are uptimes.
#[derive(Debug)]
pub(super) struct Freeing {
    /// Rows are left to be freed.
    pub unfinished: bool,
    /// When the last request came.
    last_request: Duration,
}

impl Freeing {
    /// What an earlier run left over is found by the first record.
    pub fn new() -> Self {
        Self { unfinished: true, last_request: Duration::ZERO }
    }

    /// Notes that a request has come.
    pub fn request_came(&mut self, uptime: Duration) {
        self.last_request = uptime;
    }

    /// When a record is to be made; `None`: there is nothing to be freed.
    fn due(&self) -> Option<Duration> {
        self.unfinished.then(|| self.last_request + QUIET)
    }

    /// True when a record is to be made.
    pub fn is_due(&self, uptime: impl FnOnce() -> Duration) -> bool {
        self.due().is_some_and(|due| due <= uptime())
    }

    /// How long that takes, in ms.
    pub fn until_due_ms(&self, uptime: impl FnOnce() -> Duration) -> Option<u64> {
        let left = self.due()?.saturating_sub(uptime());
        Some(left.as_micros().div_ceil(1_000) as u64)
    }
}
