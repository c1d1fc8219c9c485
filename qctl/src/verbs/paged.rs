//! What verbs share whose work is many requests, each carried out as a whole or not at all.

use std::io::IsTerminal;
use std::time::Duration;

use qd_protocol::verbs::Verb;
use tokio::time::{Instant, timeout};

use crate::exit::Failure;
use crate::session::Session;

/// How long the answer to a request that is under way is waited for after a signal: less than the
/// time that is left until the process ends.
const ANSWER_AFTER_STOP: Duration = Duration::from_millis(400);
/// What takes longer than this shows on a terminal how far it got.
const QUICK: Duration = Duration::from_secs(1);

/// One request. A signal lets it be answered first, so that what it did is counted: `take` gets the
/// answer.
pub async fn ask<V: Verb>(
    session: &mut Session,
    request: V,
    take: impl FnOnce(Result<V::Answer, Failure>) -> Result<V::Answer, Failure>,
) -> Result<V::Answer, Failure> {
    let stop = session.stop.clone();
    let mut call = std::pin::pin!(session.call(request));
    let (answer, stopped) = tokio::select! {
        biased;
        answer = &mut call => (Some(answer), None),
        failure = stop.stopped() => {
            (timeout(ANSWER_AFTER_STOP, call).await.ok(), Some(failure))
        }
    };
    let answer = answer.map(take);
    match (stopped, answer) {
        (None, Some(answer)) => answer,
        (Some(failure), _) => Err(failure),
        // Only a stop leaves the request without an answer.
        (None, None) => Err(Failure::Internal("a request has no answer".to_owned())),
    }
}

/// How far it got, for a person who waits.
pub struct Progress {
    start: Instant,
    shown: bool,
}

impl Progress {
    /// From now on.
    pub fn new() -> Self {
        Self { start: Instant::now(), shown: false }
    }

    /// When it began.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Shows `text` once it takes long.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.start.elapsed() > QUICK && std::io::stderr().is_terminal() {
            eprint!("\r{}", text());
            self.shown = true;
        }
    }

    /// Leaves the line empty again.
    pub fn clear(&self) {
        if self.shown {
            eprint!("\r\u{1b}[K");
        }
    }
}
