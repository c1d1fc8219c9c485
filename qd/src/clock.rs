//! The one door through which time and randomness enter.
//!
//! *State time* is the time that the state machine sees: milliseconds since 1970 UTC that never
//! go back. It advances with the machine's own uptime (`CLOCK_BOOTTIME`, which goes on during
//! suspend) and is slewed towards the wall clock by at most 10 %, so that neither a jump of the
//! wall clock nor a restart ends leases early or freezes them. At start it is the later one of
//! the time stored with the state and the wall clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// A source of time.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clocks.
    #[default]
    System,
    /// Clocks that a test moves by hand.
    Manual(Arc<Mutex<Reading>>),
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Since the machine was started, suspends included.
    pub boot: Duration,
    /// Since 1970-01-01 UTC.
    pub wall: Duration,
}

impl Clock {
    /// Both clocks now.
    pub fn read(&self) -> Reading {
        match self {
            Self::System => Reading { boot: boot_time(), wall: wall_time() },
            Self::Manual(reading) => *reading.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// State time; see the module.
#[derive(Debug, Clone)]
pub struct StateClock {
    clock: Clock,
    now: Duration,
    last_boot: Duration,
}

impl StateClock {
    /// Starts from the time stored with the state.
    pub fn start(clock: Clock, stored_ms: u64) -> Self {
        let reading = clock.read();
        let now = reading.wall.max(Duration::from_millis(stored_ms));
        Self { clock, now, last_boot: reading.boot }
    }

    /// State time now, in milliseconds since 1970 UTC.
    pub fn now_ms(&mut self) -> u64 {
        let Reading { boot, wall } = self.clock.read();
        let elapsed = boot.saturating_sub(self.last_boot);
        self.last_boot = self.last_boot.max(boot);
        let slew_max = elapsed / 10;
        let target = self.now + elapsed;
        let ahead = wall.saturating_sub(target).min(slew_max);
        let behind = target.saturating_sub(wall).min(slew_max);
        // One of the two is zero, and `behind` is at most a tenth of what was just added.
        self.now = (target + ahead).saturating_sub(behind);
        self.now.as_millis() as u64
    }
}

/// Time since the machine was started, suspends included.
pub fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Time since 1970-01-01 UTC; 0 on a machine whose clock stands before that.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn wall_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A random number from the operating system.
pub fn random_u64() -> u64 {
    // getrandom(2) fails only before the kernel's pool is first filled on systems without the
    // call; there is nothing to go on with then.
    getrandom::u64().expect("the operating system gives random numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hand(Arc<Mutex<Reading>>);

    impl Hand {
        fn pass(&self, boot_ms: u64, wall_ms: i64) {
            let mut reading = self.0.lock().unwrap();
            reading.boot += Duration::from_millis(boot_ms);
            let wall = reading.wall.as_millis() as i64 + wall_ms;
            reading.wall = Duration::from_millis(wall.cast_unsigned());
        }
    }

    fn start(stored_ms: u64) -> (Hand, StateClock) {
        let reading = Reading { boot: Duration::from_secs(5), wall: Duration::from_secs(10_000) };
        let reading = Arc::new(Mutex::new(reading));
        (Hand(reading.clone()), StateClock::start(Clock::Manual(reading), stored_ms))
    }

    #[test]
    fn starts_at_the_later_of_stored_and_wall() {
        assert_eq!(start(7).1.now_ms(), 10_000_000);
        assert_eq!(start(20_000_000).1.now_ms(), 20_000_000);
    }

    #[test]
    fn wall_clock_an_hour_ahead_is_approached_by_a_tenth() {
        let (hand, mut clock) = start(0);
        hand.pass(1000, 3_601_000);
        assert_eq!(clock.now_ms(), 10_001_100);
        hand.pass(1000, 1000);
        assert_eq!(clock.now_ms(), 10_002_200);
    }

    #[test]
    fn wall_clock_an_hour_back_slows_but_never_turns_back() {
        let (hand, mut clock) = start(0);
        hand.pass(1000, -3_600_000);
        assert_eq!(clock.now_ms(), 10_000_900);
        hand.pass(0, -1000);
        assert_eq!(clock.now_ms(), 10_000_900);
        for _ in 0..1000 {
            hand.pass(1, 1);
        }
        assert_eq!(clock.now_ms(), 10_001_800);
    }

    #[test]
    fn follows_the_wall_clock_when_they_agree() {
        let (hand, mut clock) = start(0);
        hand.pass(1234, 1234);
        assert_eq!(clock.now_ms(), 10_001_234);
    }
}
