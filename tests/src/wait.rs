//! Waiting for facts.

use std::time::Duration;

use tokio::time::Instant;

/// How long a fact that should hold at once may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
/// How often a fact is looked at that cannot be waited for.
const INTERVAL: Duration = Duration::from_millis(2);

/// Waits until `fact` gives a value, at most `limit`.
///
/// # Panics
///
/// When it does not; `what` says what was waited for.
pub fn wait_until<T>(what: &str, limit: Duration, mut fact: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(Instant::now() < until, "{what}: not within {limit:?}");
        std::thread::sleep(INTERVAL);
    }
}
