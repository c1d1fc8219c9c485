//! `qd check` on what failing machines and disks leave: it tells all that a start or a consumer would come
//! across, nothing else, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use qd_tests::Random;

use super::flips::{Seen, When, answers, killed, seen};
use super::{Recorded, coin, image, random_actions, record, seeds};
use crate::memory::{Ignored, Memory};

/// Moments at which a run is cut off.
const CUTS: u64 = 12;
/// Bits tried.
const BITS: usize = 40;

/// Exit status and output of `qd check` on a copy of the disk.
fn check(disk: &Memory) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    disk.write_to(directory.path());
    let before = content(directory.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_qd"));
    command.arg("check").arg("--data").arg(directory.path());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(content(directory.path()), before, "check has changed something");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).unwrap())
}

fn content(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let within = content(&entry.path()).into_iter();
            found.extend(within.map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

#[test]
fn what_is_left_when_the_power_fails_is_sound() {
    for seed in seeds(6) {
        let Recorded { history, answered } = record(&random_actions(seed, 14), Ignored::Nothing);
        let mut random = Random::new(seed);
        let first = answered[0].operations;
        for _ in 0..CUTS {
            let cut = first + random.below((history.len() - first) as u64) as usize;
            let image = image(&history, cut, coin(seed ^ (cut as u64) << 20));
            let (exit, text) = check(&image);
            assert_eq!(exit, 0, "seed {seed}, cut at operation {cut}: {text}");
            assert!(text.ends_with("\nsound\n"), "{text}");
        }
    }
}

#[test]
fn flipped_bit_of_the_state_that_somebody_would_meet_is_told() {
    let mut told = 0;
    for seed in seeds(12) {
        let disk = killed(seed);
        let (exit, text) = check(&disk);
        assert_eq!(exit, 0, "{text}");
        let right = answers(&mut disk.copy().local()).unwrap();
        let (mut random, bits) = (Random::new(seed), disk.used_bits());
        for _ in 0..BITS {
            let bit = bits[random.below(bits.len() as u64) as usize];
            let damaged = disk.copy();
            damaged.flip(None, bit);
            let (exit, text) = check(&damaged);
            let seen = seen(&disk, bit, When::AtRest, &right).unwrap();
            let is_told = exit == 1 && text.contains("state.redb: ");
            // Another format, or none.
            let is_told = is_told || exit == 78;
            told += usize::from(is_told);
            assert!(is_told || exit == 0, "bit {bit}: {exit} {text}");
            assert!(is_told || seen == Seen::Nothing, "bit {bit}: {seen:?}, but {text}");
        }
    }
    assert!(told > BITS / 4, "{told} of {BITS}");
}

#[test]
fn flipped_bit_of_the_log_is_told_where_a_start_would_refuse_it() {
    let mut told = 0;
    for seed in seeds(12) {
        let disk = killed(seed);
        let mut random = Random::new(seed);
        for _ in 0..BITS {
            let files = disk.log_files();
            let name = &files[random.below(files.len() as u64) as usize];
            let bit = random.below(8 * disk.length(name) as u64) as usize;
            let damaged = disk.copy();
            damaged.flip(Some(name), bit);
            let (exit, text) = check(&damaged);
            let starts = damaged.try_local().is_ok();
            assert_eq!(exit, i32::from(!starts), "{name}, bit {bit}: {text}");
            let tells_place = text.contains(name) && text.contains("offset ");
            assert!(starts || tells_place || text.contains("the state ends with"), "{text}");
            told += usize::from(!starts);
        }
    }
    assert!(told > 0);
}
