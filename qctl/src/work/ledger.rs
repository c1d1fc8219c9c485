//! The leases that we hold, and until when.
//!
//! Always true here: an end that is written down is not later than the server's, by the time that
//! may have passed without us noticing (see [`Clock`]).

use std::collections::HashMap;
use std::time::Duration;

use qd_protocol::Receipt;
use rustix::time::{ClockId, clock_gettime};

/// One message under our lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Which of the worker's queues it is of.
    pub queue: usize,
    /// Its id.
    pub id: u64,
    /// Deliveries that count, this one included.
    pub attempt: u32,
    /// The proof.
    pub receipt: Receipt,
}

/// Time since the machine was started, also while it was suspended.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Knows when we were awake: an answer that is read now may have lain in its socket since the last
/// time but one that the clock ticked, while this process was stopped or the machine suspended.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    last: Duration,
    before: Duration,
}

impl Clock {
    /// Starts.
    pub fn new() -> Self {
        let last = now();
        Self { last, before: last }
    }

    /// To be called regularly.
    pub fn tick(&mut self) {
        self.before = std::mem::replace(&mut self.last, now());
    }

    /// What arrives now was not sent before this time.
    pub fn awake(&self) -> Duration {
        self.before
    }
}

/// A lease and its end.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// The lease.
    pub lease: Lease,
    /// By [`now`].
    ends: Duration,
    /// A renewal is on its way.
    renewing: bool,
    /// It ended before its time: the command, or somebody else, has settled or removed the message.
    settled: bool,
}

/// What the refusal of a receipt means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The lease was over by time; the message may be with somebody else.
    Lost,
    /// It was not: only whoever has the receipt, or removes messages, can have ended it.
    Settled,
}

/// Leases by receipt.
#[derive(Debug)]
pub struct Ledger {
    held: HashMap<Receipt, Held>,
    /// How long a lease lasts.
    length: Duration,
}

impl Ledger {
    /// Empty.
    pub fn new(length: Duration) -> Self {
        Self { held: HashMap::new(), length }
    }

    /// Takes a lease that began at `from` at the earliest.
    pub fn hold(&mut self, lease: Lease, from: Duration) {
        let held = Held { lease, ends: from + self.length, renewing: false, settled: false };
        self.held.insert(lease.receipt, held);
    }

    /// Gives leases up that are to be settled; those that are lost are not among them.
    pub fn take(&mut self, leases: &[Lease]) -> Vec<Held> {
        leases.iter().filter_map(|lease| self.held.remove(&lease.receipt)).collect()
    }

    /// Leases to be renewed now: all those that are past a sixth of their time, once one is past a
    /// third. They count as being renewed until [`Self::renewed`] or [`Self::not_renewed`].
    pub fn due(&mut self, now: Duration) -> Vec<Lease> {
        let length = self.length;
        let past = |held: &Held, part: u32| {
            !held.renewing && !held.settled && now + length > held.ends + length / part
        };
        if !self.held.values().any(|held| past(held, 3)) {
            return Vec::new();
        }
        let due = self.held.values_mut().filter(|held| past(held, 6));
        due.map(|held| {
            held.renewing = true;
            held.lease
        })
        .collect()
    }

    /// A renewal was sent at `from`, and done.
    pub fn renewed(&mut self, receipt: &Receipt, from: Duration) {
        if let Some(held) = self.held.get_mut(receipt) {
            held.ends = from + self.length;
            held.renewing = false;
        }
    }

    /// A renewal was not done, and may be tried again.
    pub fn not_renewed(&mut self, receipt: &Receipt) {
        if let Some(held) = self.held.get_mut(receipt) {
            held.renewing = false;
        }
    }

    /// A renewal was refused. A lease that is lost is held no more; nothing for one that is already on
    /// its way to be settled.
    pub fn refused(&mut self, receipt: &Receipt, now: Duration) -> Option<Refused> {
        let held = self.held.get_mut(receipt)?;
        let refused = held.refused(now, self.length);
        match refused {
            Refused::Settled => held.settled = true,
            Refused::Lost => {
                self.held.remove(receipt);
            }
        }
        Some(refused)
    }

    /// How long a lease lasts.
    pub fn length(&self) -> Duration {
        self.length
    }
}

impl Held {
    /// What it means that the server refuses the receipt at `now`. A quarter of a lease is margin
    /// for clocks and for answers on their way.
    pub fn refused(&self, now: Duration, length: Duration) -> Refused {
        if self.settled || now + length / 4 < self.ends { Refused::Settled } else { Refused::Lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(id: u64) -> Lease {
        let receipt = Receipt { queue: 1, lease: id, id, secret: 7 };
        Lease { queue: 0, id, attempt: 1, receipt }
    }

    fn ids(leases: &[Lease]) -> Vec<u64> {
        let mut ids: Vec<u64> = leases.iter().map(|lease| lease.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn leases_are_renewed_together_after_a_third_of_their_time() {
        let mut ledger = Ledger::new(30 * SECOND);
        ledger.hold(lease(1), 100 * SECOND);
        ledger.hold(lease(2), 104 * SECOND);
        ledger.hold(lease(3), 108 * SECOND);
        assert!(ledger.due(110 * SECOND).is_empty());
        assert_eq!(ids(&ledger.due(111 * SECOND)), [1, 2]);
        assert!(ledger.due(112 * SECOND).is_empty(), "they are on their way");
        ledger.renewed(&lease(1).receipt, 111 * SECOND);
        ledger.not_renewed(&lease(2).receipt);
        assert_eq!(ids(&ledger.due(115 * SECOND)), [2, 3]);
        assert_eq!(ids(&ledger.due(122 * SECOND)), [1]);
    }

    #[test]
    fn refusal_before_the_end_was_somebody_s_deed_and_behind_it_a_loss() {
        let mut ledger = Ledger::new(30 * SECOND);
        ledger.hold(lease(1), 100 * SECOND);
        ledger.hold(lease(2), 100 * SECOND);
        assert_eq!(ledger.refused(&lease(1).receipt, 110 * SECOND), Some(Refused::Settled));
        assert_eq!(ledger.refused(&lease(2).receipt, 130 * SECOND), Some(Refused::Lost));
        assert_eq!(ledger.refused(&lease(2).receipt, 130 * SECOND), None);
        assert!(ledger.due(140 * SECOND).is_empty());
        let held = ledger.take(&[lease(1), lease(2)]);
        assert_eq!(held.len(), 1);
        // What was settled once stays so, however late it is told.
        assert_eq!(held[0].refused(200 * SECOND, 30 * SECOND), Refused::Settled);
    }

    #[test]
    fn clock_knows_the_time_before_a_standstill_for_one_more_tick() {
        let mut clock = Clock::new();
        let start = clock.awake();
        std::thread::sleep(Duration::from_millis(20));
        clock.tick();
        assert_eq!(clock.awake(), start);
        clock.tick();
        assert!(clock.awake() >= start + Duration::from_millis(20));
    }
}
