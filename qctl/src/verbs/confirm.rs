//! Questions before messages are removed.

use std::io::IsTerminal;
use std::time::Duration;

use qd_protocol::{ErrorCode, QueueName, Statistics};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;

use crate::exit::Failure;
use crate::output::write_error;
use crate::session::{Session, StdinUse};

/// How often a question looks for its answer.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether there is a person to ask.
pub fn may_ask(session: &Session) -> bool {
    std::io::stdin().is_terminal() && session.stdin != StdinUse::Script
}

/// Messages that a queue holds.
pub fn held(statistics: &Statistics) -> u64 {
    statistics.ready + statistics.delayed + statistics.leased
}

/// A number of messages, as in a sentence.
pub fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

/// True when a read of standard input does not wait.
fn line_is_there() -> bool {
    let mut ask = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ask, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Asks for the queue's name on the terminal; another answer is a failure: the queue was not `done`.
pub async fn confirm(queue: &QueueName, question: &str, done: &str) -> Result<(), Failure> {
    write_error(&format!("{question}: "));
    // Read only once a line is there: a thread left in the read by Ctrl-C would take the next
    // command away from the prompt.
    while !line_is_there() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Failure::Io(format!("cannot read the answer: {error}")))?;
    if line.trim() == queue.as_str() {
        return Ok(());
    }
    let refusal = ErrorCode::QueueNotEmpty
        .refuse(format!("queue \"{queue}\" was not {done}"))
        .with_queue(queue.as_str());
    Err(refusal.into())
}
