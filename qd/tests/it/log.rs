//! The log on a disk that forgets and lies: torn ends are cut, damage is refused, and nothing
//! that was cut comes back.

use qd::log::LogError;
use qd::replicator::{Local, ReplicatorError};
use qd::shard::command::{Create, Send};
use qd::shard::{Command, Entry};
use qd_protocol::verbs::IfExists;
use qd_protocol::{AttributeChanges, QueueName};

use crate::memory::Memory;
use crate::random_work::message;

const NOW_MS: u64 = 1_000_000;
/// Where records begin in a segment, and the bytes before a record's payload.
const DATA_AT: usize = 8192;
const HEADER_BYTES: usize = 32;

fn name() -> QueueName {
    QueueName::new("q").unwrap()
}

fn create() -> Vec<Entry> {
    let attributes = AttributeChanges::default();
    let create = Create { queue: name(), if_exists: IfExists::Keep, attributes, with: None };
    vec![Entry { origin: None, command: Command::Create(create) }]
}

fn send(body: &[u8]) -> Vec<Entry> {
    let messages = vec![message(body.to_vec(), false)];
    vec![Entry { origin: None, command: Command::Send(Send { queue: name(), messages }) }]
}

/// A log with `records` records, the first of which makes the queue; nothing is in the state.
fn filled(records: u64) -> Memory {
    let disk = Memory::default();
    let mut local = disk.local();
    local.replicate(NOW_MS, create(), true).unwrap();
    for number in 2..=records {
        local.replicate(NOW_MS, send(format!("body {number}").as_bytes()), true).unwrap();
    }
    // As it is when the machine fails: closing saves the state.
    disk.copy()
}

fn applied(local: &Local) -> u64 {
    local.machine().position().applied
}

fn open(disk: &Memory) -> Result<u64, LogError> {
    match disk.try_local() {
        Ok(local) => Ok(applied(&local)),
        Err(ReplicatorError::Log(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

/// Offsets of the records in the first segment.
fn offsets(disk: &Memory, records: usize) -> Vec<usize> {
    let mut offsets = vec![DATA_AT];
    disk.change(&disk.log_files()[0], |bytes| {
        while offsets.len() <= records {
            let at = *offsets.last().unwrap();
            let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            offsets.push((at + HEADER_BYTES + length).next_multiple_of(8));
        }
    });
    offsets
}

#[test]
fn records_come_back_and_go_on_in_a_new_segment() {
    let disk = filled(5);
    let mut local = disk.local();
    assert_eq!(applied(&local), 5);
    local.replicate(NOW_MS, send(b"more"), true).unwrap();
    drop(local);
    assert_eq!(open(&disk).unwrap(), 6);
    assert_eq!(disk.local().machine().ready(&name()).0, 5);
}

#[test]
fn last_record_cut_at_any_byte_is_a_torn_end() {
    let disk = filled(4);
    let offsets = offsets(&disk, 4);
    let segment = disk.log_files()[0].clone();
    for cut in offsets[3]..offsets[4] - 7 {
        let torn = disk.copy();
        torn.change(&segment, |bytes| bytes[cut..].fill(0));
        let whole = cut > offsets[4] - 8;
        assert_eq!(open(&torn).unwrap(), if whole { 4 } else { 3 }, "cut at {cut}");
    }
}

#[test]
fn flipped_bit_below_what_is_known_to_be_synced_is_damage_and_names_the_place() {
    let disk = filled(6);
    let offsets = offsets(&disk, 6);
    let segment = disk.log_files()[0].clone();
    for at in (offsets[1]..offsets[4]).step_by(3) {
        let damaged = disk.copy();
        damaged.change(&segment, |bytes| bytes[at] ^= 0x10);
        let record = offsets.partition_point(|offset| *offset <= at) - 1;
        // Zeros that fill a record up are nobody's.
        let payload = |bytes: &mut Vec<u8>| {
            let start = offsets[record];
            u32::from_le_bytes(bytes[start..start + 4].try_into().unwrap()) as usize
        };
        let mut length = 0;
        disk.change(&segment, |bytes| length = payload(bytes));
        if at >= offsets[record] + HEADER_BYTES + length {
            assert_eq!(open(&damaged).unwrap(), 6);
            continue;
        }
        match open(&damaged) {
            Err(LogError::Damaged { file, offset, .. }) => {
                assert_eq!((file, offset), (segment.clone(), offsets[record] as u64));
            }
            other => panic!("byte {at}: {other:?}"),
        }
        // It says the same again, and changes nothing.
        assert!(open(&damaged).is_err());
    }
}

#[test]
fn records_behind_a_torn_end_never_come_back() {
    let disk = filled(5);
    let offsets = offsets(&disk, 5);
    let segment = disk.log_files()[0].clone();
    // The blocks of the last group reach the disk in any order: the fourth record is torn, and the
    // fifth, of the same group, is whole. (Here it says that the fourth was synced: it must not.)
    let torn = disk.copy();
    torn.change(&segment, |bytes| bytes[offsets[4]..].fill(0));
    torn.change(&segment, |bytes| bytes[offsets[3] + 20] ^= 1);
    let mut local = torn.local();
    assert_eq!(applied(&local), 3);
    local.replicate(NOW_MS, send(b"another fourth"), true).unwrap();
    let torn = torn.copy();
    // Whatever stands behind the cut now is of no use.
    torn.change(&segment, |bytes| {
        disk.change(&segment, |whole| {
            bytes[offsets[3]..offsets[5]].copy_from_slice(&whole[offsets[3]..offsets[5]]);
        });
    });
    let local = torn.local();
    assert_eq!(applied(&local), 4);
    assert_eq!(local.machine().ready(&name()).0, 3);
}

#[test]
fn header_survives_the_loss_of_one_copy_and_a_lost_segment_is_damage() {
    let disk = filled(400);
    let files = disk.log_files();
    assert!(files.len() >= 3, "{files:?}");
    let one_copy = disk.copy();
    one_copy.change(&files[0], |bytes| bytes[..100].fill(0xff));
    assert_eq!(open(&one_copy).unwrap(), 400);
    let middle = disk.copy();
    middle.lose(&files[1]);
    assert!(matches!(open(&middle), Err(LogError::Damaged { .. })));
    let first = disk.copy();
    first.lose(&files[0]);
    assert!(matches!(open(&first), Err(LogError::Mismatch(_))));
}

#[test]
fn state_without_the_log_that_it_was_made_from_is_refused() {
    let disk = filled(5);
    let mut local = disk.local();
    local.checkpoint().unwrap();
    drop(local);
    for file in disk.log_files() {
        disk.lose(&file);
    }
    assert!(matches!(open(&disk), Err(LogError::Mismatch(_))));
}

#[test]
fn segments_are_used_again_and_their_number_is_bounded() {
    let disk = Memory::default();
    let mut local = disk.local();
    local.replicate(NOW_MS, create(), true).unwrap();
    for round in 0..50 {
        for _ in 0..20 {
            local.replicate(NOW_MS, send(&[round; 1_000]), true).unwrap();
        }
        local.checkpoint().unwrap();
    }
    local.wait().unwrap();
    let files = disk.log_files();
    assert!(files.len() <= 6, "{files:?}");
    drop(local);
    assert_eq!(open(&disk).unwrap(), 1_001);
}
