//! What became of the messages, in numbers.

use std::time::Duration;

use crate::output::Object;

/// Counts of messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Deleted, or settled by the command itself.
    pub done: u64,
    /// Given back, and the attempt counts.
    pub failed: u64,
    /// Made dead letters.
    pub rejected: u64,
    /// Given back, and the attempt does not count.
    pub released: u64,
    /// The lease ended before the work did, or its outcome could not be told to the server.
    pub lost: u64,
}

impl Tally {
    /// Whether a command ended badly, or might as well have.
    pub fn is_good(&self) -> bool {
        self.failed + self.rejected + self.lost == 0
    }

    /// The summary, for people or as JSON.
    pub fn summary(&self, time: Duration, json: bool) -> String {
        let Self { done, failed, rejected, released, lost } = *self;
        if json {
            let mut object = Object::new();
            object.number("done", done);
            object.number("failed", failed);
            object.number("rejected", rejected);
            object.number("released", released);
            object.number("lost", lost);
            object.decimal("seconds", time.as_secs_f64());
            return object.finish();
        }
        let seconds = time.as_secs_f64();
        format!(
            "qctl: {done} done, {failed} failed, {rejected} rejected, {released} released, {lost} lost \
             in {seconds:.1}s"
        )
    }
}
