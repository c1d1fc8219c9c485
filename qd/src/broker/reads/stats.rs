//! The counters of queues at one moment.
//!
//! Always true here: all counters of an answer are copied between the same two records. What takes long
//! is done in turns before and after that: looking up which message of a queue is the oldest, and
//! choosing and encoding what was asked for. Copying takes 1 ms with 10,000 queues.

use std::collections::BTreeSet;

use bytes::Bytes;
use qd_protocol::verbs::Stats;
use qd_protocol::verbs::stats::CountedWriter;
use qd_protocol::{QueueName, Statistics};

use super::super::glob;
use super::{STEPS_PER_DESCRIPTION, STEPS_PER_NAME, STEPS_PER_TURN};
use crate::shard::Machine;
use crate::store::Result;

/// How far a `stats` has come.
pub(super) struct Counting {
    names: BTreeSet<QueueName>,
    patterns: Vec<String>,
    /// The last queue whose oldest message was looked up.
    after: Option<QueueName>,
    /// The counters that are not encoded yet, once they are copied.
    copied: Option<std::vec::IntoIter<(QueueName, Statistics)>>,
    out: CountedWriter,
}

impl Counting {
    /// At its beginning.
    pub fn new(stats: Stats) -> Self {
        let Stats { names, patterns } = stats;
        let names = names.into_iter().collect();
        Self { names, patterns, after: None, copied: None, out: CountedWriter::default() }
    }

    /// Returns the steps taken, and the payload of the answer when there are no more.
    pub fn turn(&mut self, machine: &Machine, now_ms: u64) -> Result<(usize, Option<Bytes>)> {
        if self.copied.is_some() {
            return Ok(self.encode());
        }
        let (mut steps, are_known) = self.find_oldest(machine)?;
        if are_known {
            let copied = machine.counters(self.only(), now_ms)?;
            steps += copied.len() * STEPS_PER_NAME;
            self.copied = Some(copied.into_iter());
        }
        Ok((steps, None))
    }

    /// The only queues that can be asked for; `None`: it may be any.
    fn only(&self) -> Option<&BTreeSet<QueueName>> {
        (!self.names.is_empty() && self.patterns.is_empty()).then_some(&self.names)
    }

    /// Looks up oldest messages. Returns the steps taken, and whether all are known.
    fn find_oldest(&mut self, machine: &Machine) -> Result<(usize, bool)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = self.after.as_ref();
        let names: Box<dyn Iterator<Item = &QueueName>> = match self.only() {
            Some(names) => Box::new(names.range((after.map_or(Unbounded, Excluded), Unbounded))),
            None => Box::new(machine.names_behind(after)),
        };
        let (mut steps, mut last) = (0, None);
        for name in names {
            steps += STEPS_PER_NAME;
            if machine.find_oldest(name)? {
                steps += STEPS_PER_DESCRIPTION;
            }
            if steps >= STEPS_PER_TURN {
                last = Some(name.clone());
                break;
            }
        }
        let are_known = last.is_none();
        self.after = last;
        Ok((steps, are_known))
    }

    /// Encodes what was asked for. Returns the steps taken, and the payload when it is whole.
    fn encode(&mut self) -> (usize, Option<Bytes>) {
        let mut steps = 0;
        let is_any = self.names.is_empty() && self.patterns.is_empty();
        for (name, statistics) in self.copied.iter_mut().flatten() {
            steps += STEPS_PER_NAME;
            let mut matches = |pattern: &String| glob::matches(pattern, name.as_str(), &mut steps);
            if is_any || self.names.contains(&name) || self.patterns.iter().any(&mut matches) {
                self.out.push(&name, &statistics);
            }
            if steps >= STEPS_PER_TURN {
                return (steps, None);
            }
        }
        (steps, Some(std::mem::take(&mut self.out).finish()))
    }
}
