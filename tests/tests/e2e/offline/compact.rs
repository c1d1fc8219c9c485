//! `qd compact`.

use std::time::Duration;

use super::*;

fn compact(data: &Path) -> Done {
    tool("compact", data).run()
}

/// Bytes that the files of a directory take on disk.
fn allocated(directory: &Path) -> u64 {
    let bytes = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() { allocated(&path) } else { fs::metadata(path).unwrap().blocks() * 512 }
    };
    fs::read_dir(directory).unwrap().map(bytes).sum()
}

/// A daemon that was killed when most of what it once had was deleted.
fn worn() -> Daemon {
    let mut daemon = filled();
    daemon.qctl("create old").ok();
    let line = format!("{}\n", "x".repeat(1_000));
    daemon.qctl("send old --lines").stdin(line.repeat(6_000)).ok();
    daemon.qctl("create kept").ok();
    daemon.qctl("send kept --lines").stdin(line.repeat(600)).ok();
    daemon.qctl("drop old --yes").ok();
    daemon.kill();
    daemon
}

fn queues(daemon: &Daemon) -> String {
    daemon.qctl("list -o jsonl --columns name,ready,delayed,leased,bytes,sent").ok()
}

#[test]
fn compact_frees_room_and_loses_nothing() {
    let mut daemon = worn();
    daemon.restart();
    let before = queues(&daemon);
    daemon.kill();
    let room = allocated(&daemon.data());
    let done = compact(&daemon.data());
    assert_eq!(done.exit, 0, "{done:?}");
    let text = done.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("before   ") && lines[1].starts_with("after    "), "{text}");
    assert!(lines.iter().all(|line| line.contains(" of the state, ")), "{text}");
    let left = allocated(&daemon.data());
    assert!(left * 5 < room, "{left} of {room}");
    assert_eq!(tool("check", &daemon.data()).run().exit, 0);
    assert_eq!(compact(&daemon.data()).exit, 0);
    assert!(allocated(&daemon.data()) <= left);
    daemon.restart();
    assert_eq!(queues(&daemon), before);
    daemon.qctl("send kept more").ok();
    daemon.kill();
    daemon.restart();
    assert_ne!(queues(&daemon), before);
}

#[test]
fn compact_that_is_killed_at_any_moment_loses_nothing() {
    let mut daemon = worn();
    daemon.restart();
    let before = queues(&daemon);
    daemon.kill();
    let mut ms = 0;
    loop {
        let running = tool("compact", &daemon.data()).start();
        std::thread::sleep(Duration::from_millis(ms));
        running.signal(Signal::KILL);
        let done = running.finish();
        let checked = tool("check", &daemon.data()).run();
        assert_eq!(checked.exit, 0, "killed after {ms} ms: {checked:?}");
        if done.exit == 0 {
            break;
        }
        ms += 4 + ms / 2;
        assert!(ms < 60_000, "it never ends: {done:?}");
    }
    assert!(ms > 0);
    daemon.restart();
    assert_eq!(queues(&daemon), before);
}

#[test]
fn compact_keeps_away_from_what_is_not_its_own() {
    let mut daemon = Daemon::new();
    let done = compact(&daemon.data());
    assert_eq!(done.exit, 75, "{done:?}");
    assert!(done.stderr.contains(&format!("pid {}", daemon.pid().as_raw_nonzero())), "{done:?}");
    daemon.signal(Signal::TERM);
    daemon.wait_for_end();
    let lock = File::open(daemon.data().join("lock")).unwrap();
    lock.lock_shared().unwrap();
    let done = compact(&daemon.data());
    assert_eq!(done.exit, 75, "{done:?}");
    assert!(done.stderr.contains("is being read"), "{done:?}");
    let directory = temporary_directory();
    for missing in [directory.path().join("missing"), directory.path().to_owned()] {
        let done = compact(&missing);
        assert_eq!(done.exit, 66, "{done:?}");
        assert!(done.stderr.contains(missing.to_str().unwrap()), "{done:?}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn compact_of_damaged_data_says_so_and_removes_nothing() {
    let daemon = stopped();
    for entry in fs::read_dir(daemon.data().join("log")).unwrap() {
        fs::write(entry.unwrap().path(), "no log").unwrap();
    }
    let done = compact(&daemon.data());
    assert_eq!(done.exit, 1, "{done:?}");
    assert!(done.stderr.contains("the state ends with record"), "{done:?}");
    assert_eq!(fs::read_dir(daemon.data().join("log")).unwrap().count(), 1);
    let state = daemon.data().join("state.redb");
    fs::write(&state, "no state").unwrap();
    let done = compact(&daemon.data());
    assert_eq!(done.exit, 78, "{done:?}");
    assert!(done.stderr.contains(state.to_str().unwrap()), "{done:?}");
    assert_eq!(fs::read(&state).unwrap(), b"no state");
}

#[test]
fn compact_tells_when_its_sizes_cannot_be_written() {
    let daemon = stopped();
    let [closed, full] = told_of_output("compact", &daemon.data());
    assert_eq!(closed, (141, String::new()));
    assert_eq!(full.0, 74);
    assert!(full.1.contains("standard output: No space left on device"), "{full:?}");
    assert_eq!(tool("check", &daemon.data()).run().exit, 0);
}
