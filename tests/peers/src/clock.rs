//! The one place where this program reads the clock.

use std::time::{Duration, Instant};

/// Now.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Whole microseconds from `since` to now.
pub fn micros_since(since: Instant) -> u32 {
    micros(now() - since)
}

/// Whole microseconds; `u32::MAX` for more than 71 minutes.
pub fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
