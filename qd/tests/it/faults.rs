//! What was answered survives a disk that loses everything it has not been told to sync.
//!
//! A run is recorded: every write, sync and change of names of state and log, and after which
//! operation each answer was given. The machine is then cut off at every operation: what was written
//! since the last sync of its file is lost, wholly, partly, or in part blocks, and so are names. The
//! state found must be the one after some record at or behind the last answer. The process is killed
//! in between too, with a record that is written and not synced.
//!
//! `QD_FAULT_RUNS` sets the number of recorded runs, `QD_FAULT_SEED` the seed of the first one: a few
//! by default, thousands by hand.

mod calls;
mod checks;
mod compact;
mod flips;
mod groups;
mod served;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use qd::replicator::Local;
use qd::shard::command::Send;
use qd::shard::{Command, Entry};
use qd_protocol::Receipt;

use crate::memory::{Ignored, Memory, Operation, STATE};
use crate::random_work::{Action, actions, message, queue_name, receipts};

/// Bytes that the disk writes as one.
const BLOCK: usize = 4096;
/// Records between two checkpoints.
const CHECKPOINT_EVERY: usize = 5;
/// Records between two kills.
const KILL_EVERY: usize = 7;

/// Operations so far when the record was answered, and the rows it left.
struct Answered {
    operations: usize,
    hash: u64,
}

struct Recorded {
    history: Vec<Operation>,
    answered: Vec<Answered>,
}

/// What random actions become, one record each.
#[derive(Clone)]
struct Script {
    known: Vec<Receipt>,
    now_ms: u64,
}

impl Script {
    fn new() -> Self {
        Self { known: Vec::new(), now_ms: 1_000_000 }
    }

    fn entries(&mut self, index: usize, action: &Action) -> Vec<Entry> {
        match action {
            Action::Pass(ms) => self.now_ms += ms,
            Action::Tick | Action::Reopen => {}
            Action::Run(intent, _) => {
                let command = intent.command(&self.known, index as u64);
                return vec![Entry { origin: None, command }];
            }
        }
        Vec::new()
    }
}

fn record(actions: &[Action], ignored: Ignored) -> Recorded {
    let storage = Memory::recording(ignored);
    let mut local = storage.local();
    let mut script = Script::new();
    let answer = |local: &Local| Answered {
        operations: storage.operations(),
        hash: local.machine().row_hash().unwrap(),
    };
    let mut answered = vec![answer(&local)];
    for (index, action) in actions.iter().enumerate() {
        let entries = script.entries(index, action);
        // Some wait for the thread of the log, with another record behind them.
        let applied = local.replicate(script.now_ms, entries, index % 3 > 0).unwrap();
        local.wait().unwrap();
        script.known.extend(applied.outcomes.iter().flat_map(receipts));
        answered.push(answer(&local));
        // What is saved reaches the disk piece by piece, between the records behind it.
        local.is_saved().unwrap();
        if index % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1 {
            local.begin_checkpoint().unwrap();
        }
        if index % KILL_EVERY == KILL_EVERY - 1 {
            local = kill_and_restart(&storage, local, script.now_ms);
            answered.push(answer(&local));
        }
    }
    // Taken before it is closed: what closing writes is no part of the run.
    Recorded { history: storage.history(), answered }
}

/// The process ends when a record is written and not synced. It is found again, and may be told to
/// anybody from then on.
fn kill_and_restart(storage: &Memory, mut local: Local, now_ms: u64) -> Local {
    let messages = vec![message(b"when the process was killed".to_vec(), false)];
    let command = Command::Send(Send { queue: queue_name(0), messages });
    storage.fail_log_syncs(true);
    let replicated = local.replicate(now_ms, vec![Entry { origin: None, command }], true);
    // Where the log's thread is at work it meets the failure, and whoever waits for it.
    replicated.and_then(|_| local.wait()).unwrap_err();
    drop(local);
    storage.fail_log_syncs(false);
    storage.local()
}

/// What is on the disk when the power fails behind operation `cut`: all that was synced, and of
/// what came later the blocks and names that `survives` picks.
fn image(history: &[Operation], cut: usize, mut survives: impl FnMut() -> bool) -> Memory {
    let history = &history[..cut];
    let last = |is_sync: &dyn Fn(&Operation) -> bool| history.iter().rposition(is_sync);
    let names_synced = last(&|operation| matches!(operation, Operation::SyncNames));
    let mut files: Vec<Vec<u8>> = vec![Vec::new()];
    let mut names = BTreeMap::new();
    // Names are kept in the order of their changes: of those not synced the first ones survive.
    let mut keeps_names = true;
    for (at, operation) in history.iter().enumerate() {
        let is_name = matches!(
            operation,
            Operation::Create(..) | Operation::Rename(..) | Operation::Remove(_)
        );
        if is_name && names_synced.is_none_or(|synced| at > synced) {
            keeps_names = keeps_names && survives();
        }
        match operation {
            Operation::Create(number, name) => {
                files.resize(files.len().max(number + 1), Vec::new());
                if keeps_names {
                    names.insert(name.clone(), *number);
                }
            }
            Operation::Rename(from, to) if keeps_names => {
                let number = names.remove(from).expect("a file that is renamed");
                names.insert(to.clone(), number);
            }
            Operation::Remove(name) if keeps_names => {
                names.remove(name);
            }
            Operation::Rename(..)
            | Operation::Remove(_)
            | Operation::SyncNames
            | Operation::Sync(_) => {}
            // The length is kept: a file that lost it would be shorter than its own header says.
            Operation::SetLen(file, length) => files[*file].resize(*length as usize, 0),
            Operation::Write(file, offset, data) => {
                let is_of = |other: &Operation| matches!(other, Operation::Sync(of) if of == file);
                let is_synced = history[at..].iter().any(is_of);
                write(&mut files[*file], *offset as usize, data, || is_synced || survives());
            }
        }
    }
    Memory::with(files, names)
}

/// Writes the blocks of `data` that survive.
fn write(file: &mut Vec<u8>, start: usize, data: &[u8], mut survives: impl FnMut() -> bool) {
    if file.len() < start + data.len() {
        file.resize(start + data.len(), 0);
    }
    let mut from = 0;
    while from < data.len() {
        let end = (((start + from) / BLOCK + 1) * BLOCK - start).min(data.len());
        if survives() {
            file[start + from..start + end].copy_from_slice(&data[from..end]);
        }
        from = end;
    }
}

/// What is wrong with the state that a machine cut off at `cut` comes back with.
fn fault(recorded: &Recorded, cut: usize, survives: impl FnMut() -> bool) -> Option<String> {
    let answered = recorded.answered.iter().rposition(|answered| answered.operations <= cut)?;
    let image = image(&recorded.history, cut, survives);
    // redb meets some kinds of damage with a panic.
    std::panic::catch_unwind(move || compare(recorded, answered, &image))
        .unwrap_or_else(|_| Some("panics".to_owned()))
}

fn compare(recorded: &Recorded, answered: usize, image: &Memory) -> Option<String> {
    let local = match image.try_local() {
        Ok(local) => local,
        Err(error) => return Some(format!("does not open: {error}")),
    };
    let machine = local.machine();
    let faults = match machine.verify() {
        Ok(faults) => faults,
        Err(error) => return Some(format!("cannot be read: {error}")),
    };
    if !faults.is_empty() {
        return Some(faults.join("; "));
    }
    let applied = machine.position().applied as usize;
    if applied < answered {
        return Some(format!("record {answered} was answered, {applied} is the last one there"));
    }
    let hash = machine.row_hash().unwrap();
    (hash != recorded.answered[applied].hash).then(|| format!("rows differ from record {applied}"))
}

fn random_actions(seed: u64, most: usize) -> Vec<Action> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    actions(most).new_tree(&mut runner).unwrap().current()
}

/// A small generator of coin throws, so that a seed names a whole run.
fn coin(seed: u64) -> impl FnMut() -> bool {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state & 1 == 1
    }
}

/// True when more is asked for than what is done each time.
fn is_long() -> bool {
    std::env::var("QD_FAULT_RUNS").is_ok()
}

/// Seeds of the recorded runs; `part`: of fewer runs, because each takes longer.
fn seeds(part: u64) -> std::ops::Range<u64> {
    let number = |name, default: u64| {
        let value = std::env::var(name).ok();
        value.map_or(default, |value: String| value.parse().expect("a number"))
    };
    let (first, runs) = (number("QD_FAULT_SEED", 1), number("QD_FAULT_RUNS", 12));
    let seeds = first..first + runs.div_ceil(part);
    println!("seeds {seeds:?} (others with QD_FAULT_SEED and QD_FAULT_RUNS)");
    seeds
}

fn first_fault(ignored: Ignored) -> Option<String> {
    seeds(1).find_map(|seed| first_fault_of(seed, &record(&random_actions(seed, 14), ignored)))
}

fn first_fault_of(seed: u64, recorded: &Recorded) -> Option<String> {
    for cut in recorded.answered[0].operations..=recorded.history.len() {
        let nothing = fault(recorded, cut, || false);
        let everything = fault(recorded, cut, || true);
        let some = fault(recorded, cut, coin(seed ^ (cut as u64) << 20));
        if let Some(fault) = nothing.or(everything).or(some) {
            return Some(format!("seed {seed}, cut at operation {cut}: {fault}"));
        }
    }
    None
}

#[test]
fn what_was_answered_survives_the_loss_of_unsynced_writes_at_every_operation() {
    assert_eq!(first_fault(Ignored::Nothing), None);
}

#[test]
fn with_any_sync_call_taken_out_answers_are_lost_and_this_suite_sees_it() {
    use Ignored::{LogSyncs, NameSyncs, RecoverySyncs, StateSyncs};
    for ignored in [LogSyncs, RecoverySyncs, StateSyncs, NameSyncs] {
        assert!(first_fault(ignored).is_some(), "{ignored:?}");
    }
}

/// Each commit of redb syncs what it refers to, then the header that refers to it.
#[test]
fn with_one_of_the_two_syncs_of_a_commit_taken_out_this_suite_sees_it() {
    for taken in [0, 1] {
        let fault = seeds(1).find_map(|seed| {
            let mut recorded = record(&random_actions(seed, 14), Ignored::Nothing);
            let mut syncs = 0;
            let mut operations = 0;
            let mut lost = Vec::new();
            recorded.history.retain(|operation| {
                operations += 1;
                let is_state = matches!(operation, Operation::Sync(STATE));
                syncs += usize::from(is_state);
                let keep = !(is_state && syncs % 2 == taken);
                if !keep {
                    lost.push(operations);
                }
                keep
            });
            for answered in &mut recorded.answered {
                answered.operations -= lost.partition_point(|at| *at <= answered.operations);
            }
            first_fault_of(seed, &recorded)
        });
        assert!(fault.is_some(), "{taken}");
    }
}
