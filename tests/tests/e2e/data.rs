//! The data directory and the socket: what is in the way is named, and nothing of it is touched.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use qd_protocol::Body;
use qd_tests::daemon::{run_qd, temporary_directory};
use qd_tests::{Daemon, Done, Run, programs};
use redb::{Database, TableDefinition};
use rustix::process::Signal;

use crate::wire::{create, receive, send, statistics};

/// Bytes of a block of the state file, and blocks of its head, each with the format number at 8 and a
/// CRC-32C of all else at 12.
const BLOCK: usize = 4096;
const HEAD_BLOCKS: usize = 4;

const OTHER: TableDefinition<u64, u64> = TableDefinition::new("other");

/// Runs a daemon that must end by itself.
fn refused(data: &Path, socket: &Path) -> Done {
    let listen = format!("unix:{}", socket.display());
    run_qd(&["--data", data.to_str().unwrap(), "--listen", &listen])
}

#[test]
fn locked_data_directory_names_the_holder_and_exits_75() {
    let daemon = Daemon::new();
    let done = refused(&daemon.data(), &daemon.directory().join("other"));
    assert_eq!(done.exit, 75, "{done:?}");
    let pid = daemon.pid().as_raw_nonzero();
    assert!(done.stderr.contains(&format!("pid {pid}")), "{done:?}");
    assert!(done.stderr.contains(daemon.data().to_str().unwrap()), "{done:?}");
    daemon.qctl("ping").ok();
}

#[test]
fn lock_of_a_killed_daemon_is_free() {
    let mut daemon = Daemon::new();
    daemon.kill();
    assert!(daemon.socket().exists(), "kill -9 leaves the socket's file");
    daemon.restart();
    daemon.raw().settle();
}

#[test]
fn missing_data_directory_is_made_for_its_owner_alone() {
    let daemon = Daemon::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&daemon.data()), 0o700);
    assert_eq!(mode(&daemon.data().join("log")), 0o700);
    let entries =
        [daemon.data(), daemon.data().join("log")].map(|path| fs::read_dir(path).unwrap());
    for entry in entries.into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_file() {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
}

#[test]
fn data_directory_that_is_a_file_is_told() {
    let directory = temporary_directory();
    let data = directory.path().join("file");
    fs::write(&data, "mine").unwrap();
    let done = refused(&data, &directory.path().join("s"));
    assert_eq!(done.exit, 74, "{done:?}");
    assert!(done.stderr.contains(data.to_str().unwrap()), "{done:?}");
    assert_eq!(fs::read(&data).unwrap(), b"mine");
}

#[test]
fn read_only_data_directory_is_told() {
    let directory = temporary_directory();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).unwrap();
    let socket = format!("unix:{}", directory.path().join("s").display());
    let done = as_ordinary_user(directory.path(), "qd")
        .args(["--data", data.to_str().unwrap(), "--listen", &socket])
        .run();
    assert_eq!(done.exit, 74, "{done:?}");
    assert!(done.stderr.contains(data.to_str().unwrap()), "{done:?}");
    assert!(done.stderr.contains("ermission denied"), "{done:?}");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
}

#[test]
fn socket_is_for_its_owner_and_group_and_a_stranger_gets_77() {
    let daemon = Daemon::new();
    let mode = fs::metadata(daemon.socket()).unwrap().mode() & 0o777;
    let system = rustix::process::geteuid().is_root();
    assert_eq!(mode, if system { 0o660 } else { 0o600 });
    if !system {
        println!("only root can become a stranger; the rest of this test was left out");
        return;
    }
    let ping = as_ordinary_user(daemon.directory(), "qctl").args(["-s", &daemon.server(), "ping"]);
    let done = ping.run();
    assert_eq!(done.exit, 77, "{done:?}");
    assert!(done.stderr.contains("ermission denied"), "{done:?}");
}

/// A copy of the program that runs as a user who is not root: as nobody when the tests are root.
fn as_ordinary_user(directory: &Path, program: &str) -> Run {
    if !rustix::process::geteuid().is_root() {
        return Run::new(programs::directory().join(program));
    }
    let copy = directory.join(program);
    programs::install(&programs::directory().join(program), &copy);
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    Run::new("setpriv").args(nobody).arg(copy).current_dir(directory)
}

#[test]
fn data_of_a_newer_format_is_refused_with_78_and_left_as_it_was() {
    let mut daemon = Daemon::new();
    daemon.raw().call(&create("jobs")).unwrap();
    daemon.signal(Signal::TERM);
    daemon.wait_for_end();
    let file = daemon.data().join("state.redb");
    let before = fs::read(&file).unwrap();
    let mut newer = before.clone();
    for block in newer.chunks_exact_mut(BLOCK).take(HEAD_BLOCKS) {
        block[8..12].copy_from_slice(&999u32.to_le_bytes());
        let covered = [&block[..12], &block[16..]].concat();
        block[12..16].copy_from_slice(&Body::new(covered).crc.to_le_bytes());
    }
    fs::write(&file, &newer).unwrap();
    let done = refused(&daemon.data(), &daemon.directory().join("other"));
    assert_eq!(done.exit, 78, "{done:?}");
    assert!(done.stderr.contains("999"), "{done:?}");
    assert!(done.stderr.contains(file.to_str().unwrap()), "{done:?}");
    assert_eq!(fs::read(&file).unwrap(), newer);
    fs::write(&file, &before).unwrap();
    daemon.restart();
    assert_eq!(statistics(&mut daemon.raw(), "jobs").sent, 0, "the queue is there");
}

#[test]
fn database_of_another_program_is_refused_with_78_and_left_as_it_was() {
    let directory = temporary_directory();
    let file = directory.path().join("state.redb");
    let db = Database::create(&file).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(OTHER).unwrap().insert(1, 2).unwrap();
    txn.commit().unwrap();
    drop(db);
    let before = fs::read(&file).unwrap();
    let done = refused(directory.path(), &directory.path().join("s"));
    assert_eq!(done.exit, 78, "{done:?}");
    assert!(done.stderr.contains("plain redb file"), "{done:?}");
    assert_eq!(fs::read(&file).unwrap(), before);
}

/// The bytes of a message's body are where they are on the disk: there one bit is another.
#[test]
fn flipped_bit_of_a_body_in_the_state_ends_the_daemon_which_names_the_place() {
    let mut daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let bodies: Vec<Vec<u8>> =
        (0..200).map(|number| format!("message {number} ").into_bytes().repeat(900)).collect();
    for body in &bodies {
        raw.call(&send("jobs", &[body])).unwrap();
    }
    daemon.signal(Signal::TERM);
    daemon.wait_for_end();
    let file = daemon.data().join("state.redb");
    let whole = fs::read(&file).unwrap();
    // Pages that are free now may hold it too.
    let body = &bodies[100];
    let places = whole.windows(body.len()).enumerate().filter(|(_, bytes)| bytes == body);
    let places: Vec<usize> = places.map(|(at, _)| at + 5_000).collect();
    let mut damaged = whole.clone();
    for at in &places {
        damaged[*at] ^= 1;
    }
    fs::write(&file, &damaged).unwrap();
    // Each answer is right, up to that which needs the damaged block. A debug build of redb reads
    // everything when it opens.
    let receive = |daemon: &Daemon| daemon.qctl("receive jobs --body").run();
    if daemon.try_restart() {
        let received = bodies.iter().take_while(|body| {
            let done = receive(&daemon);
            assert!(done.exit == 69 || done.stdout == body[..], "{done:?}");
            done.exit == 0
        });
        let received = received.count();
        assert!((50..=100).contains(&received), "{received}");
    }
    assert_eq!(qd_tests::run::exit_number(daemon.wait_for_end()), 74);
    let is_told = places.iter().any(|at| {
        let told = format!("state.redb: the block at offset {} is not", at / BLOCK * BLOCK);
        daemon.log().contains(&told)
    });
    assert!(is_told, "{places:?}: {}", daemon.log());
    assert!(daemon.log().contains("Restore the data directory"), "{}", daemon.log());
    // With the right bit all is there.
    fs::write(&file, &whole).unwrap();
    daemon.restart();
    let left = statistics(&mut daemon.raw(), "jobs");
    assert_eq!(left.ready + left.leased, 200);
}

#[test]
fn state_file_that_is_no_database_is_told_and_left_as_it_was() {
    let directory = temporary_directory();
    let file = directory.path().join("state.redb");
    let text = "a text\n".repeat(10_000);
    fs::write(&file, &text).unwrap();
    let done = refused(directory.path(), &directory.path().join("s"));
    assert!(matches!(done.exit, 74 | 78), "{done:?}");
    assert!(done.stderr.contains(file.to_str().unwrap()), "{done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn socket_of_a_living_daemon_is_not_taken_over() {
    let daemon = Daemon::new();
    let done = refused(&daemon.directory().join("other"), &daemon.socket());
    assert_eq!(done.exit, 75, "{done:?}");
    assert!(done.stderr.contains(daemon.socket().to_str().unwrap()), "{done:?}");
    daemon.raw().settle();
}

#[test]
fn file_in_the_place_of_the_socket_is_told_and_left_as_it_was() {
    let directory = temporary_directory();
    let socket = directory.path().join("s");
    fs::write(&socket, "mine").unwrap();
    let done = refused(&directory.path().join("data"), &socket);
    assert_eq!(done.exit, 74, "{done:?}");
    assert!(done.stderr.contains("not a socket"), "{done:?}");
    assert_eq!(fs::read(&socket).unwrap(), b"mine");
}

#[test]
fn socket_that_nobody_listens_on_is_replaced() {
    let mut daemon = Daemon::new();
    daemon.signal(Signal::TERM);
    daemon.wait_for_end();
    drop(UnixListener::bind(daemon.socket()).unwrap());
    let is_socket = |path: &Path| fs::symlink_metadata(path).unwrap().file_type().is_socket();
    assert!(is_socket(&daemon.socket()), "the stale socket is there");
    daemon.restart();
    daemon.raw().settle();
}

#[test]
fn messages_leases_and_counts_survive_kill_9() {
    let mut daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let large = vec![7; 100_000];
    let bodies: [&[u8]; 4] = [b"", b"\0\n\xff", b"plain", &large];
    raw.call(&send("jobs", &bodies)).unwrap();
    let mut take = receive("jobs", 1);
    take.visibility_timeout_ms = Some(3_600_000);
    let leased = raw.call(&take).unwrap().messages.remove(0);
    let before = statistics(&mut raw, "jobs");
    assert_eq!((before.ready, before.leased), (3, 1));
    daemon.kill();
    daemon.restart();
    let mut raw = daemon.raw();
    let mut after = statistics(&mut raw, "jobs");
    after.oldest_age_s = before.oldest_age_s;
    assert_eq!(after, before);
    let messages = raw.call(&receive("jobs", 10)).unwrap().messages;
    let got: Vec<_> = messages.iter().map(|message| &message.body.bytes[..]).collect();
    assert_eq!(got, bodies[1..], "in order, the leased one stays away");
    assert!(messages.iter().all(|message| message.body.is_intact()));
    let delete = qd_protocol::verbs::Delete {
        queue: crate::wire::queue("jobs"),
        receipts: vec![leased.receipt],
    };
    let deleted = raw.call(&delete).unwrap();
    assert!(deleted.statuses.entries().all(|status| status.is_ok()), "the receipt still holds");
}
