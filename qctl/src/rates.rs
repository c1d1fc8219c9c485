//! How fast messages come into queues and leave them, between two looks at their counters.
//!
//! Always true here: a rate is that of one and the same queue; one that was dropped and made anew
//! in between has none.

use std::collections::HashMap;

use qd_protocol::{QueueDescription, QueueName};
use tokio::time::Instant;

/// Messages a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Sent, those that came as dead letters or by a redrive included.
    pub into: f64,
    /// Gone, for whatever reason: deleted, expired, dropped, moved elsewhere.
    pub out: f64,
}

/// What one look has shown of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    at: Instant,
    created_at_ms: u64,
    /// All that ever came.
    came: u64,
    /// Of these, those that are there no more.
    gone: u64,
}

impl Sample {
    /// Of a queue that was seen `at` this time.
    pub fn new(queue: &QueueDescription, at: Instant) -> Self {
        let counters = &queue.statistics;
        let live = counters.ready.saturating_add(counters.delayed).saturating_add(counters.leased);
        let came = counters.sent;
        let gone = came.saturating_sub(live);
        Self { at, created_at_ms: queue.created_at_ms, came, gone }
    }

    /// Since the look `before`, if it was one at the same queue.
    pub fn rates_since(&self, before: &Self) -> Option<Rates> {
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64();
        if seconds <= 0.0 || self.created_at_ms != before.created_at_ms {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three decimals")]
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Some(Rates { into: rate(self.came, before.came), out: rate(self.gone, before.gone) })
    }
}

/// Compares each look with the one before.
#[derive(Debug, Default)]
pub struct Meter {
    before: HashMap<QueueName, Sample>,
    now: HashMap<QueueName, Sample>,
}

impl Meter {
    /// The rates of a queue that was seen `at` this time, once it was seen in the look before.
    pub fn take(&mut self, queue: &QueueDescription, at: Instant) -> Option<Rates> {
        let sample = Sample::new(queue, at);
        let before = self.now.insert(queue.name.clone(), sample);
        // Seen a second time in this look: since the first time in it.
        let before = before.or_else(|| self.before.get(&queue.name).copied());
        before.and_then(|before| sample.rates_since(&before))
    }

    /// Ends the look: queues that were not in it are forgotten.
    pub fn end_look(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use qd_protocol::{Attributes, Statistics};

    fn queue(sent: u64, ready: u64, leased: u64) -> QueueDescription {
        QueueDescription {
            name: QueueName::new("jobs").unwrap(),
            created_at_ms: 7,
            attributes: Attributes::default(),
            statistics: Statistics { sent, ready, leased, ..Statistics::default() },
        }
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let mut meter = Meter::default();
        let start = Instant::now();
        assert_eq!(meter.take(&queue(100, 100, 0), start), None);
        meter.end_look();
        // 50 more came, and 30 are gone, whether the others are leased or not.
        let rates = meter.take(&queue(150, 20, 100), start + Duration::from_secs(10));
        assert_eq!(rates, Some(Rates { into: 5.0, out: 3.0 }));
        meter.end_look();
        let rates = meter.take(&queue(150, 120, 0), start + Duration::from_secs(11));
        assert_eq!(rates, Some(Rates { into: 0.0, out: 0.0 }));
    }

    #[test]
    fn queue_made_anew_or_not_seen_before_has_no_rates() {
        let mut meter = Meter::default();
        let start = Instant::now();
        meter.take(&queue(100, 100, 0), start);
        meter.end_look();
        let anew = QueueDescription { created_at_ms: 8, ..queue(500, 500, 0) };
        let second = start + Duration::from_secs(1);
        assert_eq!(meter.take(&anew, second), None);
        meter.end_look();
        meter.end_look();
        assert_eq!(meter.take(&anew, second + Duration::from_secs(1)), None);
        assert_eq!(Meter::default().take(&anew, start), None);
    }

    #[test]
    fn no_time_between_two_looks_is_no_rate() {
        let mut meter = Meter::default();
        let start = Instant::now();
        meter.take(&queue(1, 1, 0), start);
        meter.end_look();
        assert_eq!(meter.take(&queue(2, 2, 0), start), None);
    }
}
