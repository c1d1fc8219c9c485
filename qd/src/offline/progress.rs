//! How far a tool is, on standard error where that is a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it is told, from a second on.
const EVERY: Duration = Duration::from_millis(200);
/// Nothing is told of what is done by then.
const FIRST_AFTER: u32 = 5;

#[derive(Debug, Default)]
struct Shared {
    /// What is being done, and how much of it there is; 0: nobody knows.
    part: Mutex<(&'static str, u64)>,
    done: Arc<AtomicU64>,
    stop: AtomicBool,
}

/// A line that is written over again and again, and gone when this is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let its = Arc::clone(&shared);
        let named = std::thread::Builder::new().name("progress".to_owned());
        // Without the thread nothing is told, which is no reason to end.
        let thread = stderr().is_terminal().then(|| named.spawn(move || tell(&its)).ok()).flatten();
        Self { shared, thread }
    }

    /// Something else is being done, `all` of which are bytes or messages.
    pub fn begin(&self, what: &'static str, all: u64) {
        *self.shared.part.lock().unwrap_or_else(PoisonError::into_inner) = (what, all);
        self.shared.done.store(0, Ordering::Relaxed);
    }

    /// How much of it is done.
    pub fn done(&self) -> &Arc<AtomicU64> {
        &self.shared.done
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn tell(shared: &Shared) {
    let mut width = 0;
    for round in 0u32.. {
        std::thread::park_timeout(EVERY);
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        if round < FIRST_AFTER {
            continue;
        }
        let (what, all) = *shared.part.lock().unwrap_or_else(PoisonError::into_inner);
        let done = shared.done.load(Ordering::Relaxed);
        let line = match all {
            0 => what.to_owned(),
            // What is read twice is no more than all.
            all => format!("{what}: {} %", (done.saturating_mul(100) / all).min(100)),
        };
        width = width.max(line.len());
        // A terminal that is gone is no reason to end.
        let _ = write!(stderr(), "\r{line:width$}");
    }
    if width > 0 {
        let _ = write!(stderr(), "\r{:width$}\r", "");
    }
}
