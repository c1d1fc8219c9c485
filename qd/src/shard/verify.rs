//! Holding the rows against the state machine's own invariants, for tests and for operators.
//!
//! Always true here: each chunk is read once or twice, in the order of its key, and memory does not grow
//! with the number of messages: of a queue with leases or lanes there is a window of some messages, two
//! bits each.

mod dedup;
mod lanes;
mod messages;
mod window;

use qd_protocol::QueueName;

use super::Machine;
use super::queue::Queue;
use crate::store::{Result, StoreError, Tables};

/// What contradicts the invariants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The queue that it is in.
    pub queue: Option<QueueName>,
    /// The message that it is about.
    pub id: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// Something cannot be read; else what can be read contradicts itself.
    pub is_damage: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(queue) = &self.queue {
            write!(f, "queue {:?}: ", queue.as_str())?;
        }
        if let Some(id) = self.id {
            write!(f, "message {id}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// Messages of a queue with leases or lanes that are held against those at a time: their two bits each take
/// 2 MiB.
pub const WINDOW_IDS: u64 = 8 << 20;
/// The same where tests look: so few that they see the ends of windows.
const WINDOW_IDS_FEW: u64 = 16;

/// Sees what a check comes across.
pub struct Watch<'a> {
    /// See [`WINDOW_IDS`].
    pub window_ids: u64,
    /// Something is wrong.
    pub fault: &'a mut dyn FnMut(Fault),
    /// A message was looked at, of so many bytes.
    pub message: &'a mut dyn FnMut(u64),
}

/// Takes what is wrong with one queue, or with none.
struct Report<'r, 'w> {
    queue: Option<QueueName>,
    watch: &'r mut Watch<'w>,
}

impl Report<'_, '_> {
    fn tell(&mut self, id: Option<u64>, what: String, is_damage: bool) {
        (self.watch.fault)(Fault { queue: self.queue.clone(), id, what, is_damage });
    }

    fn say(&mut self, id: Option<u64>, what: impl Into<String>) {
        self.tell(id, what.into(), false);
    }

    fn of(&mut self, id: u64, what: impl Into<String>) {
        self.say(Some(id), what);
    }

    /// What is damaged is told, and something else can be looked at; other errors are the end.
    fn damage<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_damage() => {
                self.tell(None, text_of(error), true);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Machine {
    /// Reads every row and returns what contradicts the invariants: one line each, none if the
    /// state is sound.
    pub fn verify(&self) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let mut fault = |fault: Fault| faults.push(fault.to_string());
        let window_ids = WINDOW_IDS_FEW;
        self.verify_watched(&mut Watch { window_ids, fault: &mut fault, message: &mut |_| () })?;
        Ok(faults)
    }

    /// Reads every row and every body, and shows what contradicts the invariants. What is damaged does
    /// not keep the rest from being looked at.
    pub fn verify_watched(&self, watch: &mut Watch<'_>) -> Result<()> {
        let is_live = |number: u64| self.queues.contains_key(&number);
        self.store.read(|tables| {
            let mut report = Report { queue: None, watch };
            let retries = report.damage(tables.retries())?.unwrap_or_default();
            for (number, queue) in &self.queues {
                report.queue = Some(queue.name.clone());
                let of_queue = retries.get(number).map_or(&[][..], Vec::as_slice);
                let verified = self.verify_queue(tables, *number, queue, of_queue, &mut report);
                report.damage(verified)?;
            }
            report.queue = None;
            let mut orphan = |number: u64, id: Option<u64>, what: String| {
                let queue = self.name(number).cloned();
                let what = match queue {
                    Some(_) => what,
                    None => format!("queue number {number}: {what}"),
                };
                (report.watch.fault)(Fault { queue, id, what, is_damage: false });
            };
            let orphans = tables.orphans(is_live, &mut orphan);
            let of_dedup = tables.dedup_orphans(is_live, &mut orphan);
            report.damage(orphans)?;
            report.damage(of_dedup)?;
            Ok(())
        })
    }

    fn verify_queue(
        &self,
        tables: &Tables<'_>,
        number: u64,
        queue: &Queue,
        retries: &[u64],
        report: &mut Report<'_, '_>,
    ) -> Result<()> {
        if number >= self.position.next_queue || self.names.get(&queue.name) != Some(&number) {
            report.say(None, format!("it has the number {number}, which is not its own"));
        }
        let now_ms = self.position.now_ms;
        let counted = messages::verify_messages(tables, (number, queue), now_ms, report)?;
        let blocked = counted.blocked;
        if queue.retry_ms.as_slice() != retries || retries.is_empty() != (blocked == 0) {
            report.say(None, format!("{blocked} blocked messages are tried again at {retries:?}"));
        }
        counted.compare(queue, report);
        let ring = lanes::verify_ring(tables, number, queue, report);
        report.damage(ring)?;
        dedup::verify_dedup(tables, number, queue, counted.with_dedup, report)
    }
}

/// What is damaged, without saying that it is.
fn text_of(error: StoreError) -> String {
    match error {
        StoreError::Damaged(what) => what,
        other => other.to_string(),
    }
}

fn damaged(what: String) -> StoreError {
    StoreError::Damaged(what)
}
