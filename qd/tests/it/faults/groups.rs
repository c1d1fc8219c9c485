//! The log alone: groups of records that become durable together, some over the end of a segment.

use std::ops::Range;

use bytes::Bytes;
use qd::log::{Appender, LogError, Options, recover};
use qd_tests::Random;

use super::{coin, image, seeds};
use crate::memory::{Ignored, Memory, Operation};

const OPTIONS: Options = Options { node: 7, segment_bytes: 12 << 10 };

/// The bytes of record `sequence`: those of its number, so many that a segment holds a few records.
fn payload(sequence: u64) -> Bytes {
    let mut random = Random::new(sequence);
    let length = random.below(1_500);
    random.bytes(length as usize).into()
}

/// What was synced, and what a checkpoint covers, when so many operations were done.
#[derive(Debug, Clone, Copy)]
struct Promise {
    operations: usize,
    synced: u64,
    saved: u64,
}

struct Recorded {
    history: Vec<Operation>,
    promises: Vec<Promise>,
}

/// Opens the log behind record `saved`. Returns the number of its last record.
fn open(disk: &Memory, saved: u64) -> Result<(Appender, u64), LogError> {
    let mut last = saved;
    let appender = recover(Box::new(disk.clone()), OPTIONS, saved, |sequence, bytes| {
        assert_eq!((sequence, bytes), (last + 1, payload(sequence)));
        last = sequence;
        Ok::<(), LogError>(())
    })?;
    Ok((appender, last))
}

fn group(records: Range<u64>) -> Vec<(u64, Bytes)> {
    records.map(|sequence| (sequence, payload(sequence))).collect()
}

/// Groups of up to 12 records; one in four times the segments are recycled up to somewhere, and one in
/// eight the log is opened anew behind a group that was not synced.
fn record(seed: u64) -> Recorded {
    let mut random = Random::new(seed);
    let disk = Memory::recording(Ignored::Nothing);
    let (mut log, mut next, mut saved) = (open(&disk, 0).unwrap().0, 1, 0);
    let mut promises = vec![Promise { operations: disk.operations(), synced: 0, saved: 0 }];
    for _ in 0..24 {
        let end = next + 1 + random.below(12);
        log.append(&group(next..end)).unwrap();
        if random.below(8) == 0 {
            // A segment may have been begun, which syncs the ones before.
            (log, next) = open(&disk, saved).map(|(log, last)| (log, last + 1)).unwrap();
        } else {
            log.sync().unwrap();
            next = end;
        }
        promises.push(Promise { operations: disk.operations(), synced: next - 1, saved });
        if random.below(4) == 0 {
            saved += random.below(next - saved);
            promises.push(Promise { operations: disk.operations(), synced: next - 1, saved });
            log.recycle(saved).unwrap();
        }
    }
    Recorded { history: disk.history(), promises }
}

/// What is wrong with the log after a cut.
fn fault(recorded: &Recorded, cut: usize, survives: impl FnMut() -> bool) -> Option<String> {
    let at = recorded.promises.iter().rposition(|promise| promise.operations <= cut)?;
    let Promise { synced, saved, .. } = recorded.promises[at];
    let disk = image(&recorded.history, cut, survives);
    match open(&disk, saved) {
        Ok((_, last)) if last >= synced => None,
        Ok((_, last)) => Some(format!("{synced} was synced, {last} is the last one there")),
        Err(error) => Some(format!("does not open: {error}")),
    }
}

fn first_fault(seed: u64, recorded: &Recorded) -> Option<String> {
    for cut in recorded.promises[0].operations..=recorded.history.len() {
        let nothing = fault(recorded, cut, || false);
        let everything = fault(recorded, cut, || true);
        let some = (0..4)
            .find_map(|part| fault(recorded, cut, coin(seed << 24 | part << 20 | cut as u64)));
        if let Some(fault) = nothing.or(everything).or(some) {
            return Some(format!("seed {seed}, cut at operation {cut}: {fault}"));
        }
    }
    None
}

#[test]
fn what_was_synced_survives_in_groups_over_the_ends_of_segments() {
    for seed in seeds(1) {
        assert_eq!(first_fault(seed, &record(seed)), None);
    }
}

#[test]
fn without_the_sync_at_the_end_of_a_segment_this_suite_sees_a_loss() {
    let fault = seeds(1).find_map(|seed| {
        let Recorded { mut history, mut promises } = record(seed);
        // It stands right before the next segment gets its name.
        let mut at = 1;
        while at < history.len() {
            let begins = matches!(history[at], Operation::Create(..) | Operation::Rename(..));
            if begins
                && matches!(history[at - 1], Operation::Sync(_))
                && at > promises[0].operations
            {
                history.remove(at - 1);
                for promise in &mut promises {
                    promise.operations -= usize::from(promise.operations >= at);
                }
            }
            at += 1;
        }
        first_fault(seed, &Recorded { history, promises })
    });
    assert!(fault.is_some());
}
