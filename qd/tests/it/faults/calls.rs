//! Any single call of the operating system fails, once or for good: nothing answered is lost, neither
//! when the process starts again nor when the power fails too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qd::replicator::{Local, ReplicatorError};

use super::{
    Answered, CHECKPOINT_EVERY, Recorded, Script, coin, compare, image, random_actions, seeds,
};
use crate::memory::{Fails, Failure, Memory};
use crate::random_work::{Action, receipts};

/// So little of the state in memory that nearly every look at it is a read.
pub const CACHE_BYTES_FEW: usize = 16 << 10;

/// A run that is half done: the state lacks some records that are in the log.
struct HalfDone {
    disk: Memory,
    script: Script,
    from: usize,
    actions: Vec<Action>,
    /// What the whole run leaves after each record.
    recorded: Recorded,
}

impl HalfDone {
    fn new(seed: u64) -> Self {
        let actions = random_actions(seed, 60);
        let from = actions.len() / 2;
        let disk = Memory::default();
        if seed.is_multiple_of(2) {
            // Then the state is read and written all the time.
            disk.set_cache(CACHE_BYTES_FEW);
        }
        let (mut local, mut script) = (disk.local(), Script::new());
        let answered =
            |local: &Local| Answered { operations: 0, hash: local.machine().row_hash().unwrap() };
        let mut recorded = Recorded { history: Vec::new(), answered: vec![answered(&local)] };
        let mut half = None;
        for (index, action) in actions.iter().enumerate() {
            if index == from {
                half = Some((disk.copy(), script.clone()));
            }
            let entries = script.entries(index, action);
            let applied = local.replicate(script.now_ms, entries, true).unwrap();
            script.known.extend(applied.outcomes.iter().flat_map(receipts));
            recorded.answered.push(answered(&local));
            if index + 2 == from {
                local.checkpoint().unwrap();
            }
        }
        let (disk, script) = half.unwrap();
        Self { disk, script, from, actions, recorded }
    }

    /// Does the other half. `answered` is the last record that was durable.
    fn go_on(&self, disk: &Memory, answered: &Arc<AtomicUsize>) -> Result<Local, ReplicatorError> {
        let mut script = self.script.clone();
        let mut local = disk.try_local()?;
        for (index, action) in self.actions.iter().enumerate().skip(self.from) {
            let entries = script.entries(index, action);
            let applied = local.replicate(script.now_ms, entries, index % 3 > 0)?;
            script.known.extend(applied.outcomes.iter().flat_map(receipts));
            let answered = Arc::clone(answered);
            local.when_durable(Box::new(move || answered.store(index + 1, Ordering::SeqCst)));
            if index % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1 {
                local.checkpoint()?;
            }
        }
        local.checkpoint()?;
        Ok(local)
    }

    /// Goes on while calls fail, and looks at what is left. Returns how it ended.
    fn try_with(&self, failure: Option<Failure>, random: u64) -> Ended {
        let disk = self.disk.recording_copy();
        disk.fail(failure);
        let answered = Arc::new(AtomicUsize::new(self.from));
        let end = catch_unwind(AssertUnwindSafe(|| self.go_on(&disk, &answered)));
        let ended = match &end {
            Ok(Ok(_)) => Ended::Well,
            Ok(Err(_)) => Ended::WithAnError,
            Err(_) => Ended::WithAPanic,
        };
        // Closing fails too.
        drop(end);
        disk.fail(None);
        let answered = answered.load(Ordering::SeqCst);
        if ended == Ended::Well {
            assert_eq!(answered, self.actions.len(), "{failure:?}");
        }
        let history = disk.history();
        let after_power_loss = image(&history, history.len(), coin(random));
        for (what, disk) in [("restart", disk.copy()), ("power loss", after_power_loss)] {
            let fault = compare(&self.recorded, answered, &disk);
            assert_eq!(fault, None, "{what} after {failure:?}, which ended {ended:?}");
        }
        ended
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    WithAnError,
    WithAPanic,
}

fn check(fails: Fails, lasts: bool) {
    for seed in seeds(6) {
        let half = HalfDone::new(seed);
        let disk = half.disk.copy();
        disk.fail(None);
        let local = half.go_on(&disk, &Arc::default()).unwrap();
        let calls = disk.calls(fails);
        drop(local);
        let mut ends = [0, 0, 0];
        for call in 0..calls {
            let failure = Failure { fails, call, lasts };
            ends[half.try_with(Some(failure), seed << 20 | call as u64) as usize] += 1;
        }
        let [well, error, panic] = ends;
        println!(
            "seed {seed}: of {calls} failures {well} went by, {error} were told, {panic} panicked"
        );
        assert_eq!(panic, 0, "seed {seed}");
        // Of the log's spare segments and of room taken ahead nothing depends.
        assert!(error > well, "seed {seed}: {error} of {calls} failures were told");
    }
}

#[test]
fn no_room_for_any_single_call_loses_nothing_answered() {
    check(Fails::NoSpace, false);
}

#[test]
fn no_room_from_any_call_on_loses_nothing_answered() {
    check(Fails::NoSpace, true);
}

#[test]
fn input_or_output_error_of_any_single_call_loses_nothing_answered() {
    check(Fails::Io, false);
}

#[test]
fn input_or_output_errors_from_any_call_on_lose_nothing_answered() {
    check(Fails::Io, true);
}
