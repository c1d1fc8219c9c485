//! Hands out calls and takes their latencies.
//!
//! Always true here: with a rate the n-th call is due at a time fixed beforehand, and its latency
//! counts from then, so that a server that stalls cannot hide the calls that should have been made
//! meanwhile (no coordinated omission). Where there is an end by time, calls that are due by then and
//! cannot be made by then, or a moment later, are counted as missed instead of being made for ever.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::exit::Failure;

/// Longest latency that is told apart from longer ones.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// tokio's timers are this coarse; the rest of the way to a due time is spun.
const TIMER_SLACK: Duration = Duration::from_micros(1_500);
/// How long after the end calls are still made that were due before it: for the last ones of a server
/// that keeps up.
const LATE: Duration = Duration::from_millis(100);

/// What is measured of one direction.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    warm_at: Instant,
    stop_at: Option<Instant>,
    messages_max: Option<u64>,
    batch: u32,
    /// Time between two calls; all workers share the schedule.
    call_every: Option<Duration>,
    stopped: AtomicBool,
    taken: AtomicU64,
    scheduled: AtomicU64,
    /// Calls of the schedule that were handed out.
    made: AtomicU64,
    /// True when the end has come before the schedule was through.
    behind: AtomicBool,
    recorded: Mutex<Recorded>,
}

/// The figures so far.
#[derive(Debug)]
pub struct Recorded {
    /// Of calls, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Messages of these calls.
    pub messages: u64,
    /// When the last of them ended, after the start of measuring.
    pub elapsed: Duration,
}

/// Limits of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Before anything is measured.
    pub warmup: Duration,
    /// After the warm-up.
    pub duration: Option<Duration>,
    /// After the warm-up.
    pub messages: Option<u64>,
    /// Messages in one call.
    pub batch: u32,
    /// Messages a second.
    pub rate: Option<u64>,
}

impl Meter {
    /// Starts now.
    pub fn start(limits: Limits) -> Result<Self, Failure> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
            .map_err(|error| Failure::Internal(error.to_string()))?;
        let start = Instant::now();
        let warm_at = start + limits.warmup;
        #[expect(clippy::cast_precision_loss, reason = "a rate is far below 2^52")]
        let call_every =
            limits.rate.map(|rate| Duration::from_secs_f64(f64::from(limits.batch) / rate as f64));
        Ok(Self {
            start,
            warm_at,
            stop_at: limits.duration.map(|duration| warm_at + duration),
            messages_max: limits.messages,
            batch: limits.batch,
            call_every,
            stopped: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            scheduled: AtomicU64::new(0),
            made: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            recorded: Mutex::new(Recorded { latencies, messages: 0, elapsed: Duration::ZERO }),
        })
    }

    /// Ends it: no more calls are handed out.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The next call: how many messages, and from when its latency counts. `None`: enough.
    pub async fn next(&self) -> Option<(u32, Instant)> {
        let due = match self.call_every {
            None => Instant::now(),
            Some(every) => {
                let index = self.scheduled.fetch_add(1, Ordering::Relaxed);
                let due = self.start + every.mul_f64(index_as_f64(index));
                if self.stop_at.is_some_and(|stop| due >= stop) {
                    return None;
                }
                wait_until(due).await;
                if self.stop_at.is_some_and(|stop| Instant::now() >= stop + LATE) {
                    self.behind.store(true, Ordering::Relaxed);
                    return None;
                }
                self.made.fetch_add(1, Ordering::Relaxed);
                due
            }
        };
        if self.stopped.load(Ordering::Relaxed) || self.stop_at.is_some_and(|stop| due >= stop) {
            return None;
        }
        let Some(most) = self.messages_max.filter(|_| due >= self.warm_at) else {
            return Some((self.batch, due));
        };
        let before = self.taken.fetch_add(u64::from(self.batch), Ordering::Relaxed);
        let left = most.saturating_sub(before).min(u64::from(self.batch));
        (left > 0).then_some((u32::try_from(left).unwrap_or(self.batch), due))
    }

    /// Messages of calls that were due and never made, because those before them took too long.
    pub fn missed(&self) -> u64 {
        let (Some(every), Some(stop)) = (self.call_every, self.stop_at) else {
            return 0;
        };
        if !self.behind.load(Ordering::Relaxed) {
            return 0;
        }
        #[expect(clippy::cast_sign_loss, reason = "the quotient of two durations is not negative")]
        let due = (stop - self.start).div_duration_f64(every).ceil() as u64;
        due.saturating_sub(self.made.load(Ordering::Relaxed)) * u64::from(self.batch)
    }

    /// Takes back messages of a call that there were not.
    pub fn give_back(&self, messages: u64) {
        if self.messages_max.is_some() {
            self.taken.fetch_sub(messages, Ordering::Relaxed);
        }
    }

    /// Takes a call that has ended now.
    pub fn record(&self, from: Instant, messages: u64) {
        if from < self.warm_at {
            return;
        }
        let now = Instant::now();
        let nanos = u64::try_from((now - from).as_nanos()).unwrap_or(u64::MAX);
        let mut recorded = self.recorded();
        recorded.latencies.saturating_record(nanos.clamp(1, LATENCY_NS_MAX));
        recorded.messages += messages;
        recorded.elapsed = now - self.warm_at;
    }

    /// The figures so far.
    pub fn recorded(&self) -> MutexGuard<'_, Recorded> {
        // A worker that panicked has left whole figures behind.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::cast_precision_loss, reason = "calls of one run are far below 2^52")]
fn index_as_f64(index: u64) -> f64 {
    index as f64
}

async fn wait_until(due: Instant) {
    if due > Instant::now() + TIMER_SLACK {
        tokio::time::sleep_until(due - TIMER_SLACK).await;
    }
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_handed_out_exactly() {
        let meter =
            Meter::start(Limits { messages: Some(25), batch: 10, ..Limits::default() }).unwrap();
        let mut sizes = Vec::new();
        while let Some((size, from)) = meter.next().await {
            meter.record(from, u64::from(size));
            sizes.push(size);
        }
        assert_eq!(sizes, [10, 10, 5]);
        assert_eq!(meter.recorded().messages, 25);
        assert_eq!(meter.recorded().latencies.len(), 3);
    }

    #[tokio::test]
    async fn latency_counts_from_the_due_time() {
        let meter = Meter::start(Limits {
            messages: Some(20),
            batch: 1,
            rate: Some(1_000),
            ..Limits::default()
        })
        .unwrap();
        // The first call stalls for 15 ms, so that those behind it were due long before.
        let mut first = true;
        while let Some((_, from)) = meter.next().await {
            if std::mem::take(&mut first) {
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
            meter.record(from, 1);
        }
        let median = meter.recorded().latencies.value_at_quantile(0.5);
        assert!(median > 2_000_000, "{median} ns");
    }

    #[tokio::test]
    async fn overload_ends_in_time_and_tells_what_it_missed() {
        let meter = Meter::start(Limits {
            duration: Some(Duration::from_millis(100)),
            batch: 10,
            rate: Some(100_000),
            ..Limits::default()
        })
        .unwrap();
        let start = Instant::now();
        let mut made = 0;
        while let Some((size, from)) = meter.next().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
            meter.record(from, u64::from(size));
            made += u64::from(size);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(made + meter.missed(), 10_000);
    }

    #[tokio::test]
    async fn nothing_is_missed_where_calls_keep_up() {
        let meter = Meter::start(Limits {
            duration: Some(Duration::from_millis(50)),
            batch: 1,
            rate: Some(1_000),
            ..Limits::default()
        })
        .unwrap();
        while let Some((size, from)) = meter.next().await {
            meter.record(from, u64::from(size));
        }
        assert_eq!((meter.recorded().messages, meter.missed()), (50, 0));
    }

    #[tokio::test]
    async fn nothing_is_measured_before_it_is_warm() {
        let meter = Meter::start(Limits {
            warmup: Duration::from_secs(60),
            messages: Some(1),
            batch: 1,
            ..Limits::default()
        })
        .unwrap();
        for _ in 0..5 {
            let (_, from) = meter.next().await.unwrap();
            meter.record(from, 1);
        }
        assert_eq!(meter.recorded().messages, 0);
    }
}
