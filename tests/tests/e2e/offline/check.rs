//! `qd check`.

use super::*;

fn check(data: &Path) -> Done {
    tool("check", data).run()
}

/// Changes a file of the data.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn stopped_and_killed_data_are_sound_and_left_as_they_were() {
    let mut daemon = stopped();
    for killed in [false, true] {
        if killed {
            daemon.restart();
            daemon.qctl("send jobs again").ok();
            daemon.kill();
        }
        let before = content(&daemon.data());
        let done = check(&daemon.data());
        assert_eq!(done.exit, 0, "{done:?}");
        let text = done.text();
        assert!(text.ends_with("\nsound\n"), "{text}");
        assert!(text.contains("4 queues, 585 messages") != killed, "{text}");
        assert!(text.contains("4 queues, 586 messages") == killed, "{text}");
        assert_eq!(done.stderr, "");
        assert_eq!(content(&daemon.data()), before);
    }
    daemon.restart();
    daemon.raw().settle();
}

#[test]
fn json_has_what_was_looked_at() {
    let daemon = stopped();
    let text = tool("check --json", &daemon.data()).ok();
    for part in [
        "\"sound\":true",
        "\"queues\":4",
        "\"messages\":585",
        "\"format\":",
        "\"position\":",
        "\"records\":",
        "\"behind_state\":0",
        "\"torn\":false",
        "\"problems\":[]",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn running_daemon_keeps_check_out_and_is_named() {
    let daemon = Daemon::new();
    let done = check(&daemon.data());
    assert_eq!(done.exit, 75, "{done:?}");
    let pid = format!("pid {}", daemon.pid().as_raw_nonzero());
    assert!(done.stderr.contains(&pid), "{done:?}");
    daemon.qctl("ping").ok();
}

#[test]
fn no_daemon_starts_while_the_data_is_read() {
    let mut daemon = stopped();
    let lock = File::open(daemon.data().join("lock")).unwrap();
    lock.lock_shared().unwrap();
    let other = format!("unix:{}", daemon.directory().join("other").display());
    let done = run_qd(&["--data", daemon.data().to_str().unwrap(), "--listen", &other]);
    assert_eq!(done.exit, 75, "{done:?}");
    assert!(done.stderr.contains("is being read by `qd check`"), "{done:?}");
    assert_eq!(check(&daemon.data()).exit, 0, "two of them do not mind each other");
    drop(lock);
    daemon.restart();
}

#[test]
fn missing_and_empty_directories_are_66_and_stay_so() {
    let directory = temporary_directory();
    let missing = directory.path().join("missing");
    let done = check(&missing);
    assert_eq!(done.exit, 66, "{done:?}");
    assert!(done.stderr.contains(missing.to_str().unwrap()), "{done:?}");
    let done = check(directory.path());
    assert_eq!(done.exit, 66, "{done:?}");
    assert!(done.stderr.contains("empty"), "{done:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let file = directory.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert_eq!(check(&file).exit, 74);
}

#[test]
fn truncated_files_are_told_by_name() {
    let daemon = stopped();
    let state = daemon.data().join("state.redb");
    let whole = fs::read(&state).unwrap();
    // Without its head nobody can say what it was.
    for (length, exit) in [(whole.len() - 4096, 1), (whole.len() / 2, 1), (5000, 1), (100, 78)] {
        change(&state, |bytes| bytes.truncate(length));
        let done = check(&daemon.data());
        assert_eq!(done.exit, exit, "{length}: {done:?}");
        let told = done.text() + &done.stderr;
        assert!(told.contains(state.to_str().unwrap()), "{done:?}");
        fs::write(&state, &whole).unwrap();
    }
    fs::write(&state, "").unwrap();
    let done = check(&daemon.data());
    assert_eq!((done.exit, done.text().contains("there is no state, but a log")), (1, true));
    fs::write(&state, &whole).unwrap();
    let log = daemon.data().join("log");
    for entry in fs::read_dir(&log).unwrap() {
        change(&entry.unwrap().path(), |bytes| bytes.truncate(9000));
    }
    let done = check(&daemon.data());
    assert_eq!(done.exit, 1, "{done:?}");
    assert!(done.text().contains("its end is missing"), "{done:?}");
    assert!(done.text().contains("from a copy"), "{done:?}");
    fs::remove_dir_all(&log).unwrap();
    let done = check(&daemon.data());
    assert_eq!((done.exit, done.text().contains("there is no log")), (1, true), "{done:?}");
}

#[test]
fn torn_end_of_the_log_is_no_damage() {
    let mut daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    daemon.kill();
    let log = daemon.data().join("log");
    let segment = fs::read_dir(&log).unwrap().next().unwrap().unwrap().path();
    change(&segment, |bytes| {
        let mut last = 8192;
        let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let behind = |at: usize| (at + 32 + length(at)).next_multiple_of(8);
        while length(behind(last)) > 0 {
            last = behind(last);
        }
        bytes[last + 32] ^= 1;
    });
    let done = check(&daemon.data());
    assert_eq!(done.exit, 0, "{done:?}");
    assert!(done.text().contains("cut off before it was answered"), "{done:?}");
    daemon.restart();
}

#[test]
fn full_disk_and_closed_pipe_of_the_output_are_told_apart() {
    let daemon = stopped();
    let [closed, full] = told_of_output("check", &daemon.data());
    assert_eq!(closed, (141, String::new()));
    assert_eq!(full.0, 74);
    assert!(full.1.contains("standard output: No space left on device"), "{full:?}");
}
