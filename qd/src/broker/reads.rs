//! Reads: they change nothing, and run between records.
//!
//! Between two records they take [`STEPS_PER_ROUND`] at most, and what is left goes on after the next
//! one. They take turns of [`STEPS_PER_TURN`], so that a short one does not wait for long ones. A peek is
//! one turn: what it may do is bounded where it is done.

use std::collections::VecDeque;

use qd_protocol::verbs::list::PAGE_MAX;
use qd_protocol::verbs::{List, Listed, Peek};
use qd_protocol::{ErrorCode, QueueDescription, QueueName};
use tokio::sync::OwnedSemaphorePermit;

use super::{Answer, Job, Work, glob};
use crate::shard::Machine;
use crate::store::Result;

/// Comparisons of a byte, or as much work: some milliseconds.
const STEPS_PER_ROUND: usize = 4_000_000;
const STEPS_PER_TURN: usize = 250_000;
const STEPS_PER_NAME: usize = 16;
/// The rows of a queue are looked up, and its attributes copied.
const STEPS_PER_DESCRIPTION: usize = 2_000;
/// A message is looked up in its rows and copied: 5 us each, measured over pages of 500.
const STEPS_PER_PEEKED: usize = 4_000;
/// Most messages that a peek looks at; see `shard::peek`.
const PEEKED_MAX: usize = 500;

/// Reads that are not answered yet.
#[derive(Default)]
pub(super) struct Reads {
    waiting: VecDeque<Read>,
}

struct Read {
    job: Job,
    /// Room in the mailbox.
    _permit: OwnedSemaphorePermit,
    /// Of a list, what has been found so far.
    found: Vec<QueueDescription>,
    /// Of a list, the last name that has been looked at.
    after: Option<QueueName>,
}

impl Reads {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn push(&mut self, job: Job, permit: OwnedSemaphorePermit) {
        let after = match &job.work {
            Work::List(list) => list.after.clone(),
            _ => None,
        };
        self.waiting.push_back(Read { job, _permit: permit, found: Vec::new(), after });
    }

    /// Goes on with the reads; `now_ms` is state time. Returns the answers.
    pub fn go_on(&mut self, machine: &Machine, now_ms: u64) -> Result<Vec<(Job, Answer)>> {
        let mut answers = Vec::new();
        let mut steps = 0;
        while steps < STEPS_PER_ROUND
            && let Some(mut read) = self.waiting.pop_front()
        {
            let (taken, answer) = read.turn(machine, now_ms)?;
            steps += taken;
            match answer {
                Some(answer) => answers.push((read.job, answer)),
                None => self.waiting.push_back(read),
            }
        }
        Ok(answers)
    }

    /// Takes out all.
    pub fn drain(&mut self) -> impl Iterator<Item = Job> {
        self.waiting.drain(..).map(|read| read.job)
    }
}

impl Read {
    /// Returns the steps taken, and the answer when there are no more.
    fn turn(&mut self, machine: &Machine, now_ms: u64) -> Result<(usize, Option<Answer>)> {
        let list = match &self.job.work {
            Work::List(list) => list,
            Work::Describe(describe) => {
                let described = machine.describe(&describe.queue, now_ms)?;
                let answer = described.map_or_else(Answer::Refused, Answer::Describe);
                return Ok((STEPS_PER_DESCRIPTION, Some(answer)));
            }
            Work::Peek(peek) => {
                let answer = machine.peek(peek)?.map_or_else(Answer::Refused, Answer::Peek);
                return Ok((peek_steps(peek), Some(answer)));
            }
            // Neither is a read.
            Work::Change(..) | Work::Receive(..) => {
                let refusal = ErrorCode::Internal.refuse("it is no read");
                return Ok((1, Some(Answer::Refused(refusal))));
            }
        };
        let Turn { names, looked_at, more, steps } =
            look(list, self.found.len(), machine.names_behind(self.after.as_ref()));
        self.after = looked_at.or(self.after.take());
        self.found.append(&mut machine.describe_all(&names, now_ms)?);
        let answer = more.map(|more| {
            let queues = std::mem::take(&mut self.found);
            Answer::List(Listed { queues, more })
        });
        Ok((steps, answer))
    }
}

/// What a peek takes at most.
fn peek_steps(peek: &Peek) -> usize {
    let filtered = peek.state.is_some() || !peek.headers.0.is_empty();
    let looked_at = match peek.max as usize {
        _ if peek.id.is_some() => 1,
        max if !filtered => max.min(PEEKED_MAX),
        _ => PEEKED_MAX,
    };
    STEPS_PER_DESCRIPTION + STEPS_PER_PEEKED * looked_at
}

/// What a list did in its turn.
struct Turn {
    /// Those that match.
    names: Vec<QueueName>,
    /// The last one that was looked at.
    looked_at: Option<QueueName>,
    /// Whether there are more than were asked for; `None`: it is not known yet.
    more: Option<bool>,
    steps: usize,
}

/// Looks through names for those that match, when `found` are found already.
fn look<'a>(list: &List, found: usize, names: impl Iterator<Item = &'a QueueName>) -> Turn {
    let pattern = list.pattern.as_deref().unwrap_or("*");
    let most = list.limit.clamp(1, PAGE_MAX) as usize;
    let mut turn = Turn { names: Vec::new(), looked_at: None, more: Some(false), steps: 0 };
    let mut looked_at = None;
    for name in names {
        if turn.steps >= STEPS_PER_TURN {
            turn.more = None;
            break;
        }
        turn.steps += STEPS_PER_NAME;
        if glob::matches(pattern, name.as_str(), &mut turn.steps) {
            if found + turn.names.len() == most {
                turn.more = Some(true);
                break;
            }
            turn.names.push(name.clone());
            turn.steps += STEPS_PER_DESCRIPTION;
        }
        looked_at = Some(name);
    }
    turn.looked_at = looked_at.cloned();
    turn
}
