//! A compaction that ends at any operation, or whose calls fail, loses nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use qd::log;
use qd::replicator::ReplicatorError;
use qd::shard::command::{Create, Send};
use qd::shard::{Command, Entry};
use qd::store::compact_backend;
use qd_protocol::AttributeChanges;
use qd_protocol::verbs::IfExists;

use super::{coin, image};
use crate::memory::{Fails, Failure, Ignored, Memory};
use crate::random_work::{drain, message, queue_name};

/// The node of a disk in memory.
const NODE: u64 = 7;
const CACHE_BYTES: usize = 1 << 20;

/// A state of which most was deleted, and a log with records that it lacks.
fn worn() -> Memory {
    let disk = Memory::default();
    let mut local = disk.local();
    let mut run = |command| {
        let entries = vec![Entry { origin: None, command }];
        local.replicate(1_000_000, entries, true).unwrap();
    };
    for queue in 0..2 {
        let (if_exists, attributes) = (IfExists::Keep, AttributeChanges::default());
        let queue = queue_name(queue);
        run(Command::Create(Create { queue, if_exists, attributes, with: None }));
    }
    // Short messages between long ones.
    for round in 0..40u8 {
        let bodies = [(0, vec![round; 6_000]), (1, vec![round; 40]), (0, vec![round; 9_000])];
        for (queue, body) in bodies {
            let messages = vec![message(body, round % 2 == 0)];
            run(Command::Send(Send { queue: queue_name(queue), messages }));
        }
    }
    let mut script = super::Script::new();
    for _ in 0..20 {
        let entries = script.entries(0, &drain(0));
        local.replicate(script.now_ms, entries, true).unwrap();
    }
    local.checkpoint().unwrap();
    for round in 0..10 {
        let messages = vec![message(vec![round; 500], false)];
        let command = Command::Send(Send { queue: queue_name(1), messages });
        local.replicate(script.now_ms, vec![Entry { origin: None, command }], true).unwrap();
    }
    // As when the process is killed: closing saves the state.
    disk.copy()
}

/// What `qd compact` does.
fn compact(disk: &Memory) -> Result<(), ReplicatorError> {
    let mut local = disk.try_local()?;
    local.checkpoint()?;
    let applied = local.machine().position().applied;
    drop(local);
    log::shrink(Box::new(disk.clone()), NODE, applied)?;
    compact_backend(disk.clone(), CACHE_BYTES)?;
    Ok(())
}

/// Rows of the data, and what is wrong with it.
fn content(disk: &Memory) -> Result<(u64, Vec<String>), ReplicatorError> {
    let local = disk.try_local()?;
    Ok((local.machine().row_hash()?, local.machine().verify()?))
}

#[test]
fn compaction_makes_state_and_log_small_and_changes_no_row() {
    let disk = worn();
    let before = content(&disk.copy()).unwrap();
    assert_eq!(before.1, [""; 0]);
    let (state, log) = (disk.state_length(), disk.log_files().len());
    compact(&disk).unwrap();
    assert!(disk.state_length() * 2 < state, "{} of {state}", disk.state_length());
    assert!(log > 1);
    let [segment] = &disk.log_files()[..] else { panic!("{:?}", disk.log_files()) };
    assert!(disk.length(segment) <= 8192);
    assert_eq!(content(&disk.copy()).unwrap(), before);
    // Again there is nothing to gain, and the log goes on.
    let state = disk.state_length();
    compact(&disk).unwrap();
    assert!(disk.state_length() <= state);
    let mut local = disk.local();
    let messages = vec![message(vec![1; 500], false)];
    let command = Command::Send(Send { queue: queue_name(1), messages });
    let applied = local.machine().position().applied;
    local.replicate(2_000_000, vec![Entry { origin: None, command }], true).unwrap();
    drop(local);
    assert_eq!(disk.local().machine().position().applied, applied + 1);
}

#[test]
fn compaction_that_is_cut_off_at_any_operation_loses_nothing() {
    let worn = worn();
    let before = content(&worn.copy()).unwrap();
    let disk = worn.recording_copy();
    let first = disk.operations();
    compact(&disk).unwrap();
    let history = disk.history();
    println!("{} operations", history.len() - first);
    assert!(history.len() > first + 20);
    for cut in first..=history.len() {
        for (what, image) in [
            ("nothing", image(&history, cut, || false)),
            ("everything", image(&history, cut, || true)),
            ("something", image(&history, cut, coin(cut as u64))),
        ] {
            let after = content(&image);
            let after = after.unwrap_or_else(|error| panic!("{what} of {cut}: {error}"));
            assert_eq!(after, before, "{what} that was not synced survives a cut at {cut}");
        }
    }
}

#[test]
fn sync_taken_out_of_a_compaction_is_seen_by_these_tests() {
    let worn = worn();
    let before = content(&worn.copy()).unwrap();
    for ignored in [Ignored::StateSyncs, Ignored::LogSyncs] {
        let disk = worn.recording_copy();
        disk.ignore(ignored);
        let first = disk.operations();
        compact(&disk).unwrap();
        let history = disk.history();
        // redb meets some kinds of damage with a panic.
        let is_kept = |image: &Memory| {
            let after = catch_unwind(AssertUnwindSafe(|| content(image)));
            after.is_ok_and(|after| after.is_ok_and(|after| after == before))
        };
        let is_safe = |cut: usize| {
            let images = [image(&history, cut, || false), image(&history, cut, coin(cut as u64))];
            images.iter().all(is_kept)
        };
        assert!(!(first..=history.len()).all(is_safe), "{ignored:?}");
    }
}

#[test]
fn compaction_whose_calls_fail_says_so_and_loses_nothing() {
    let worn = worn();
    let before = content(&worn.copy()).unwrap();
    for fails in [Fails::NoSpace, Fails::Io] {
        let disk = worn.copy();
        disk.fail(None);
        compact(&disk).unwrap();
        let calls = disk.calls(fails);
        assert!(calls > 20);
        for call in 0..calls {
            for lasts in [false, true] {
                let disk = worn.copy();
                disk.fail(Some(Failure { fails, call, lasts }));
                let ended = compact(&disk);
                assert!(!lasts || ended.is_err(), "{fails:?} of call {call} is not told");
                disk.fail(None);
                assert_eq!(content(&disk).unwrap(), before, "{fails:?} of call {call}: {ended:?}");
            }
        }
    }
}
