//! What was answered survives a disk that loses everything it has not been told to sync.
//!
//! A run is recorded: every write and sync of the storage, and after which operation each answer
//! was given. The machine is then cut off at every operation: what was written since the last
//! sync is lost, wholly, partly, or in part blocks. The state found must be the one after some
//! record at or behind the last answer.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use qd::shard::{Entry, Machine, Record};

use crate::memory::{Memory, Operation};
use crate::random_work::{Action, actions, receipts};

/// Bytes that the disk writes as one.
const BLOCK: usize = 4096;

/// Operations so far when the record was answered, and the rows it left.
struct Answered {
    operations: usize,
    hash: u64,
}

struct Recorded {
    history: Vec<Operation>,
    answered: Vec<Answered>,
}

fn record(actions: &[Action], syncs: bool) -> Recorded {
    let storage = Memory::recording(syncs);
    let mut machine = storage.open();
    let mut known = Vec::new();
    let mut now_ms = 1_000_000;
    let mut answered =
        vec![Answered { operations: storage.operations(), hash: machine.row_hash().unwrap() }];
    for (index, action) in actions.iter().enumerate() {
        let mut entries = Vec::new();
        match action {
            Action::Pass(ms) => now_ms += ms,
            Action::Tick | Action::Reopen => {}
            Action::Run(intent, _) => {
                let command = intent.command(&known, index as u64);
                entries.push(Entry { origin: None, command });
            }
        }
        let sequence = machine.position().applied + 1;
        let applied = machine.apply(&Record { sequence, now_ms, entries }).unwrap();
        known.extend(applied.outcomes.iter().flat_map(receipts));
        answered
            .push(Answered { operations: storage.operations(), hash: machine.row_hash().unwrap() });
    }
    // Taken before the machine is closed: what closing writes is no part of the run.
    Recorded { history: storage.history(), answered }
}

/// What is on the disk when the power fails behind operation `cut`: all that was synced, and of
/// what came later the blocks that `survives` picks.
fn image(history: &[Operation], cut: usize, mut survives: impl FnMut() -> bool) -> Vec<u8> {
    let synced = history[..cut].iter().rposition(|operation| matches!(operation, Operation::Sync));
    let synced = synced.map_or(0, |at| at + 1);
    let mut bytes = Vec::new();
    for (at, operation) in history[..cut].iter().enumerate() {
        match operation {
            // The length is kept: a file that lost it would be shorter than its own header says.
            Operation::SetLen(length) => bytes.resize(*length as usize, 0),
            Operation::Sync => {}
            Operation::Write(offset, data) => {
                let start = *offset as usize;
                if at < synced {
                    bytes[start..start + data.len()].copy_from_slice(data);
                    continue;
                }
                let mut from = 0;
                while from < data.len() {
                    let end = ((start + from) / BLOCK + 1) * BLOCK - start;
                    let end = end.min(data.len());
                    if survives() {
                        bytes[start + from..start + end].copy_from_slice(&data[from..end]);
                    }
                    from = end;
                }
            }
        }
    }
    bytes
}

/// What is wrong with the state that a machine cut off at `cut` comes back with.
fn fault(recorded: &Recorded, cut: usize, survives: impl FnMut() -> bool) -> Option<String> {
    let answered = recorded.answered.iter().rposition(|answered| answered.operations <= cut)?;
    let bytes = image(&recorded.history, cut, survives);
    // redb meets some kinds of damage with a panic.
    std::panic::catch_unwind(move || compare(recorded, answered, bytes))
        .unwrap_or_else(|_| Some("panics".to_owned()))
}

fn compare(recorded: &Recorded, answered: usize, bytes: Vec<u8>) -> Option<String> {
    let machine: Machine = match Memory::with_bytes(bytes).try_open() {
        Ok(machine) => machine,
        Err(error) => return Some(format!("does not open: {error}")),
    };
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

fn random_actions(seed: u64) -> Vec<Action> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let mut history = actions(14).new_tree(&mut runner).unwrap().current();
    history.insert(0, create());
    history
}

fn create() -> Action {
    use crate::random_work::{Intent, Numbered};
    let intent = Intent::Create(0, qd_protocol::verbs::IfExists::Keep, Box::default());
    Action::Run(intent, Numbered::No)
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

/// `QD_FAULT_RUNS` sets the number of recorded runs: a few by default, thousands by hand.
fn runs() -> u64 {
    std::env::var("QD_FAULT_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(12)
}

fn first_fault(syncs: bool) -> Option<String> {
    for seed in 1..=runs() {
        let recorded = record(&random_actions(seed), syncs);
        let from = recorded.answered[0].operations;
        for cut in from..=recorded.history.len() {
            let nothing = fault(&recorded, cut, || false);
            let everything = fault(&recorded, cut, || true);
            let some = fault(&recorded, cut, coin(seed ^ (cut as u64) << 20));
            if let Some(fault) = nothing.or(everything).or(some) {
                return Some(format!("seed {seed}, cut at operation {cut}: {fault}"));
            }
        }
    }
    None
}

#[test]
fn what_was_answered_survives_the_loss_of_unsynced_writes_at_every_operation() {
    assert_eq!(first_fault(true), None);
}

#[test]
fn with_the_sync_call_taken_out_answers_are_lost_and_this_suite_sees_it() {
    assert!(first_fault(false).is_some());
}
