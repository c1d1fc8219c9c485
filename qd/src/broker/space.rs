//! Room on the disk: sends are refused before it is full.
//!
//! Always true here: while less than the reserve is free, whoever sends is told so and may try
//! again later; everything else goes on, and what it writes finds room in the reserve. The disk is
//! asked at most every [`LOOK_EVERY`], so that a look costs nothing; what all clients can send
//! meanwhile is far below the least default reserve.
//!
//! What was deleted leaves room inside the state file, which does not get smaller: that room counts
//! as free, as far as the file is larger than what its messages need at most.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use qd_protocol::{ErrorCode, Refusal};

/// How long a look at the disk counts: 50 ms.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Least reserve where nothing is said: 256 MiB, or 5 % of the disk where that is more.
const RESERVE_MIN: u64 = 256 << 20;
/// Largest reserve where nothing is said: 2 GiB.
const RESERVE_MAX: u64 = 2 << 30;

/// What the state file takes besides its messages: 16 MiB.
const STATE_BYTES: u64 = 16 << 20;

/// Watches the disk that holds the data.
#[derive(Debug)]
pub struct Space {
    path: PathBuf,
    state_file: PathBuf,
    /// Bytes of live messages, with 64 for each.
    live: Arc<AtomicU64>,
    reserve: u64,
    last: Mutex<Last>,
}

/// What the last look has shown.
#[derive(Debug)]
struct Last {
    at: Option<Instant>,
    free: u64,
    low: bool,
}

impl Space {
    /// Watches the disk that holds `path` and the state file there, in which `live` bytes are in
    /// use; `reserve` bytes are kept free, or the default: 5 % of the disk, at least 256 MiB and at
    /// most 2 GiB.
    pub fn new(
        path: &Path,
        state_file: PathBuf,
        live: Arc<AtomicU64>,
        reserve: Option<u64>,
    ) -> std::io::Result<Self> {
        let disk = rustix::fs::statvfs(path)?;
        let twentieth = disk.f_blocks.saturating_mul(disk.f_frsize) / 20;
        let reserve = reserve.unwrap_or_else(|| twentieth.clamp(RESERVE_MIN, RESERVE_MAX));
        let last = Mutex::new(Last { at: None, free: u64::MAX, low: false });
        Ok(Self { path: path.to_owned(), state_file, live, reserve, last })
    }

    /// Refuses a send while the disk is low.
    pub fn check(&self) -> Result<(), Refusal> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.look(&mut last);
        }
        if !last.low {
            return Ok(());
        }
        let text = format!(
            "the server's disk is low: {} bytes are free of the {} kept in reserve; sends are refused until there is room",
            last.free, self.reserve
        );
        Err(ErrorCode::DiskLow.refuse(text).with_limit("disk-reserve", last.free, self.reserve))
    }

    fn look(&self, last: &mut Last) {
        last.at = Some(now());
        match rustix::fs::statvfs(&self.path) {
            Ok(disk) => {
                let free = disk.f_bavail.saturating_mul(disk.f_frsize);
                last.free = free.saturating_add(self.free_in_state());
            }
            // A disk that cannot be asked fails at the next write, which says why.
            Err(error) => tracing::warn!("{}: free room: {error}", self.path.display()),
        }
        let low = last.free < self.reserve;
        if low != last.low {
            let (free, reserve) = (last.free, self.reserve);
            if low {
                tracing::warn!("disk low: {free} bytes free, {reserve} in reserve: no sends");
            } else {
                tracing::info!("{free} bytes free, {reserve} in reserve: sends again");
            }
        }
        last.low = low;
    }
}

impl Space {
    /// Bytes of the state file that new messages can take.
    fn free_in_state(&self) -> u64 {
        let length = std::fs::metadata(&self.state_file).map_or(0, |file| file.len());
        let live = self.live.load(Ordering::Relaxed);
        length.saturating_sub(STATE_BYTES + live + live / 2)
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing of it reaches the state")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(directory: &Path, reserve: Option<u64>) -> Space {
        let state_file = directory.join("state");
        Space::new(directory, state_file, Arc::default(), reserve).unwrap()
    }

    #[test]
    fn room_in_the_state_file_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let space = space(directory.path(), Some(0));
        assert_eq!(space.free_in_state(), 0);
        let file = std::fs::File::create(directory.path().join("state")).unwrap();
        file.set_len(1 << 30).unwrap();
        assert_eq!(space.free_in_state(), (1 << 30) - STATE_BYTES);
        space.live.store(1 << 30, Ordering::Relaxed);
        assert_eq!(space.free_in_state(), 0);
    }

    #[test]
    fn more_in_reserve_than_there_is_refuses_sends() {
        let directory = tempfile::tempdir().unwrap();
        assert!(space(directory.path(), Some(0)).check().is_ok());
        let refusal = space(directory.path(), Some(u64::MAX)).check().unwrap_err();
        assert_eq!((refusal.code, refusal.retryable), (ErrorCode::DiskLow, true));
        assert_eq!(refusal.limit.unwrap().maximum, u64::MAX);
    }

    #[test]
    fn reserve_where_nothing_is_said_is_within_its_bounds() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = space(directory.path(), None).reserve;
        assert!((RESERVE_MIN..=RESERVE_MAX).contains(&reserve));
    }
}
