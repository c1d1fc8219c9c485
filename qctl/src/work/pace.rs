//! How many messages to hold beyond those that are worked on, and when a slot rests.

use std::time::Duration;

use tokio::time::Instant;

/// First and longest rest of a slot whose command has said "not now".
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Weight of the newest of the times measured.
const NEWEST: f64 = 0.2;
/// Jobs that end during one round trip, below which none is held in advance: then the slots are idle
/// for less than a twentieth of their time.
const WORTH_HIDING: f64 = 0.05;
/// How far the estimate of them is overdone.
const RESERVE: f64 = 1.5;

/// Times of late.
#[derive(Debug, Default)]
pub struct Pace {
    /// Of a command, in seconds.
    job: Option<f64>,
    /// Of a receive that does not wait, in seconds.
    round_trip: Option<f64>,
    rests: Vec<Instant>,
    /// Commands in a row that have said "not now".
    refusals: u32,
}

impl Pace {
    /// A command has taken this long.
    pub fn job_took(&mut self, time: Duration) {
        mix(&mut self.job, time);
    }

    /// A receive has taken this long.
    pub fn receive_took(&mut self, time: Duration) {
        mix(&mut self.round_trip, time);
    }

    /// How many jobs' messages to hold in advance, so that `slots` commands need not wait for a
    /// round trip.
    pub fn ahead(&self, slots: usize) -> usize {
        let (Some(job), Some(round_trip)) = (self.job, self.round_trip) else {
            return 0;
        };
        #[expect(clippy::cast_precision_loss, reason = "there are few slots")]
        let ended = slots as f64 * round_trip / job.max(1e-6);
        if ended < WORTH_HIDING {
            return 0;
        }
        #[expect(clippy::cast_sign_loss, reason = "it is a product of what is not negative")]
        let ahead = (ended * RESERVE).ceil() as usize;
        ahead.min(slots)
    }

    /// A command has said "not now": its slot rests, the longer the more have said so.
    pub fn rest(&mut self) {
        let (first, longest) = REST;
        let rest = first.saturating_mul(1 << self.refusals.min(10)).min(longest);
        self.refusals += 1;
        self.rests.push(Instant::now() + rest);
    }

    /// A command has done something else.
    pub fn go_on(&mut self) {
        self.refusals = 0;
    }

    /// Slots that rest now.
    pub fn resting(&mut self) -> usize {
        let now = Instant::now();
        self.rests.retain(|until| *until > now);
        self.rests.len()
    }

    /// When the next slot will have rested.
    pub fn rested_at(&self) -> Option<Instant> {
        let now = Instant::now();
        self.rests.iter().filter(|until| **until > now).min().copied()
    }
}

fn mix(mean: &mut Option<f64>, time: Duration) {
    let newest = time.as_secs_f64();
    *mean = Some(mean.map_or(newest, |mean| mean + NEWEST * (newest - mean)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(slots: usize, job_us: u64, round_trip_us: u64) -> usize {
        let mut pace = Pace::default();
        pace.job_took(Duration::from_micros(job_us));
        pace.receive_took(Duration::from_micros(round_trip_us));
        pace.ahead(slots)
    }

    #[test]
    fn only_short_jobs_have_messages_held_in_advance() {
        assert_eq!(Pace::default().ahead(8), 0);
        assert_eq!(ahead(8, 1_000_000, 1_000), 0);
        assert_eq!(ahead(1, 1_000, 500), 1);
        assert_eq!(ahead(8, 4_000, 1_000), 3);
        assert_eq!(ahead(8, 100, 10_000), 8, "never more than can be run at once");
    }

    #[test]
    fn slots_rest_longer_and_longer_until_something_works() {
        let mut pace = Pace::default();
        pace.rest();
        pace.rest();
        let first = pace.rested_at().unwrap();
        assert!(first <= Instant::now() + Duration::from_millis(100));
        assert_eq!(pace.resting(), 2);
        for _ in 0..20 {
            pace.rest();
        }
        assert!(pace.rests.iter().max().unwrap() <= &(Instant::now() + Duration::from_secs(5)));
        pace.go_on();
        assert_eq!(pace.refusals, 0);
    }

    #[test]
    fn slot_that_has_rested_wakes_nobody_again() {
        let mut pace = Pace::default();
        pace.rest();
        let until = pace.rested_at().unwrap();
        std::thread::sleep(until.duration_since(Instant::now()) + Duration::from_millis(2));
        assert_eq!(pace.rested_at(), None);
        assert_eq!(pace.resting(), 0);
    }
}
