//! Reads: they change nothing, and run between records.
//!
//! Between two records they take [`STEPS_PER_ROUND`] at most, and what is left goes on after the next
//! one. They take turns of [`STEPS_PER_TURN`], so that a short one does not wait for long ones. A peek is
//! one turn: what it may do is bounded where it is done. Of `stats`, whose answer may be of any length, one
//! is under way at a time, and none is begun for a connection with much to read.

mod list;
mod stats;

use std::collections::VecDeque;

use qd_protocol::ErrorCode;
use qd_protocol::verbs::Peek;
use tokio::sync::OwnedSemaphorePermit;

use list::Listing;
use stats::Counting;

use super::{Answer, Job, Work};
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
    /// Those under way.
    waiting: VecDeque<Read>,
    /// Each `stats` that has not begun.
    stats: VecDeque<Read>,
    /// One that has begun is among those under way.
    is_counting: bool,
}

struct Read {
    job: Job,
    /// Room in the mailbox.
    _permit: OwnedSemaphorePermit,
    progress: Progress,
}

/// How far a read that takes turns has come.
enum Progress {
    OneTurn,
    List(Listing),
    Stats(Counting),
}

impl Reads {
    /// True when one can go on now.
    pub fn any_ready(&self) -> bool {
        !self.waiting.is_empty() || self.next_stats().is_some()
    }

    /// True when one waits for answers to be read.
    pub fn any_held(&self) -> bool {
        !self.stats.is_empty()
    }

    pub fn push(&mut self, mut job: Job, permit: OwnedSemaphorePermit) {
        let progress = match &mut job.work {
            Work::List(list) => Progress::List(Listing::new(list.clone())),
            Work::Stats(stats) => Progress::Stats(Counting::new(std::mem::take(stats))),
            _ => Progress::OneTurn,
        };
        let to = match progress {
            Progress::Stats(_) => &mut self.stats,
            _ => &mut self.waiting,
        };
        to.push_back(Read { job, _permit: permit, progress });
    }

    /// The `stats` that can be begun.
    fn next_stats(&self) -> Option<usize> {
        let has_room = |read: &Read| read.job.peer.has_room();
        self.stats.iter().position(has_room).filter(|_| !self.is_counting)
    }

    /// Goes on with the reads; `now_ms` is state time. Returns the answers.
    pub fn go_on(&mut self, machine: &Machine, now_ms: u64) -> Result<Vec<(Job, Answer)>> {
        let begun = self.next_stats().and_then(|at| self.stats.remove(at));
        self.is_counting |= begun.is_some();
        self.waiting.extend(begun);
        let mut answers = Vec::new();
        let mut steps = 0;
        while steps < STEPS_PER_ROUND
            && let Some(mut read) = self.waiting.pop_front()
        {
            let (taken, answer) = read.turn(machine, now_ms)?;
            steps += taken;
            match answer {
                Some(answer) => {
                    self.is_counting &= !matches!(read.progress, Progress::Stats(_));
                    answers.push((read.job, answer));
                }
                None => self.waiting.push_back(read),
            }
        }
        Ok(answers)
    }

    /// Takes out all.
    pub fn drain(&mut self) -> impl Iterator<Item = Job> {
        self.waiting.drain(..).chain(self.stats.drain(..)).map(|read| read.job)
    }
}

impl Read {
    /// Returns the steps taken, and the answer when there are no more.
    fn turn(&mut self, machine: &Machine, now_ms: u64) -> Result<(usize, Option<Answer>)> {
        match &mut self.progress {
            Progress::List(listing) => {
                let (steps, listed) = listing.turn(machine, now_ms)?;
                return Ok((steps, listed.map(Answer::List)));
            }
            Progress::Stats(counting) => {
                let (steps, payload) = counting.turn(machine, now_ms)?;
                return Ok((steps, payload.map(|payload| Answer::Stats(payload, false))));
            }
            Progress::OneTurn => {}
        }
        match &self.job.work {
            Work::Describe(describe) => {
                let described = machine.describe(&describe.queue, now_ms)?;
                let answer = described.map_or_else(Answer::Refused, Answer::Describe);
                Ok((STEPS_PER_DESCRIPTION, Some(answer)))
            }
            Work::Peek(peek) => {
                let answer = machine.peek(peek)?.map_or_else(Answer::Refused, Answer::Peek);
                Ok((peek_steps(peek), Some(answer)))
            }
            // None of them is a read of one turn.
            Work::List(_) | Work::Stats(_) | Work::Change(..) | Work::Receive(..) => {
                let refusal = ErrorCode::Internal.refuse("it is no read");
                Ok((1, Some(Answer::Refused(refusal))))
            }
        }
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
