//! Streams through a queue and back, byte for byte and in constant memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use qd_tests::terminal::on_terminal;
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Random, Run, cases, wait_until};
use rustix::process::Signal;

use crate::wire::statistics;

/// Bodies of a stream, together more than a program may use of memory.
const STREAM_BYTES: usize = 40 << 20;
/// What `qctl` may use: `RLIMIT_DATA` of getrlimit(2), in KiB.
const MEMORY_KIB: usize = 32 << 10;

/// Bodies of up to 200 KB with any bytes, `without` one.
fn bodies(test: &str, without: Option<u8>) -> Vec<Vec<u8>> {
    let mut random = Random::of_environment(test);
    let mut bodies = vec![Vec::new()];
    let mut bytes = 0;
    while bytes < STREAM_BYTES {
        let numbers = random.below(25_000);
        let mut body: Vec<u8> = (0..numbers).flat_map(|_| random.number().to_le_bytes()).collect();
        if let Some(without) = without {
            body.retain(|byte| *byte != without);
        }
        bytes += body.len();
        bodies.push(body);
    }
    bodies
}

/// Runs a script in which `qctl` has bounded memory.
fn run(daemon: &Daemon, work: &Path, script: &str) {
    let script = format!("set -e; ulimit -d {MEMORY_KIB}; {script}");
    cases::shell(&daemon.server(), work).args(["-c", &script]).limit(Duration::from_secs(300)).ok();
}

/// Sends the bodies with `flag`, a terminator behind each, and receives them in the same form.
fn terminated(terminator: u8, send: &str, receive: &str) {
    let daemon = Daemon::new();
    let work = daemon.directory();
    let mut stream = bodies(send, Some(terminator)).join(&terminator);
    stream.push(terminator);
    fs::write(work.join("stream"), &stream).unwrap();
    let script = format!(
        "qctl create jobs; qctl send jobs {send} < stream > ids; \
         qctl receive jobs --drain --ack {receive} > back"
    );
    run(&daemon, work, &script);
    assert!(fs::read(work.join("back")).unwrap() == stream);
}

#[test]
fn lines_come_back_byte_for_byte() {
    terminated(b'\n', "--lines", "");
}

#[test]
fn records_up_to_nul_come_back_byte_for_byte() {
    terminated(0, "--null", "-0");
}

#[test]
fn records_of_any_bytes_come_back_by_length_as_json_and_as_files() {
    let daemon = Daemon::new();
    let work = daemon.directory();
    let bodies = bodies("any bytes", None);
    let mut stream = Vec::new();
    for body in &bodies {
        stream.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        stream.extend_from_slice(body);
    }
    fs::write(work.join("stream"), &stream).unwrap();
    run(
        &daemon,
        work,
        "qctl create jobs; qctl send jobs --length-prefixed -f stream > ids; \
         qctl receive jobs --drain --ack -o jsonl > jsonl; qctl send jobs --jsonl < jsonl > ids; \
         rm jsonl; qctl receive jobs --drain --ack --length-prefixed > back; \
         qctl send jobs --length-prefixed < back > ids; mkdir files; \
         qctl receive jobs --drain --ack --dir files > paths",
    );
    assert!(fs::read(work.join("back")).unwrap() == stream);
    let paths = fs::read_to_string(work.join("paths")).unwrap();
    assert!(paths.lines().is_sorted(), "the order of names is that of the messages");
    assert_eq!(paths.lines().count(), bodies.len());
    for (path, body) in paths.lines().zip(&bodies) {
        assert!(fs::read(work.join(path)).unwrap() == *body, "{path}");
    }
    assert_eq!(fs::read_dir(work.join("files")).unwrap().count(), bodies.len());
}

/// `N messages confirmed, first unconfirmed input line M`: both numbers.
fn confirmed(stderr: &str) -> (u64, u64) {
    let numbers = stderr.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
    let [count, line] = numbers[..] else { panic!("{stderr:?}") };
    (count, line)
}

#[test]
fn interrupted_send_says_exactly_what_is_on_disk() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    let mut send = daemon.qctl("send jobs --lines").keep_stdin().start();
    send.write(&b"line\n".repeat(20_000));
    let mut raw = daemon.raw();
    wait_until("some of it is sent", SOON, || {
        (statistics(&mut raw, "jobs").sent > 0).then_some(())
    });
    send.signal(Signal::INT);
    let done = send.finish();
    assert_eq!(done.exit, 130, "{done:?}");
    assert!(done.stderr.contains("confirmed"), "{done:?}");
    let (count, line) = confirmed(&done.stderr);
    assert!(count > 0 && line == count + 1, "{done:?}");
    assert_eq!(done.text().lines().count() as u64, count, "an id each");
    assert_eq!(statistics(&mut raw, "jobs").sent, count);
}

#[test]
fn interrupted_delete_says_where_to_go_on() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    daemon.qctl("send jobs a b c").ok();
    let receipts = daemon.qctl("receive jobs -n 2 --columns receipt").ok();
    let mut delete = daemon.qctl("delete jobs -").keep_stdin().start();
    delete.write(receipts.as_bytes());
    let mut raw = daemon.raw();
    wait_until("what has arrived is deleted", SOON, || {
        (statistics(&mut raw, "jobs").deleted == 2).then_some(())
    });
    delete.signal(Signal::INT);
    let done = delete.finish();
    assert_eq!(done.exit, 130, "{done:?}");
    assert_eq!(
        done.stderr,
        "qctl: 2 receipts confirmed, first unconfirmed input line 3: interrupted\n"
    );
}

/// Sends a line, and another one more than a second later, on a terminal of this kind.
fn slow_stream(daemon: &Daemon, term: &str, redirect: &str) -> String {
    let stream = "{ echo a; sleep 1.2; echo b; sleep 0.3; echo c; }";
    on_terminal(&format!("{stream} | qctl send jobs --lines {redirect}"), |script| {
        Run::new(script).env("PATH", cases::path_with_programs())
    })
    .env("QCTL_SERVER", daemon.server())
    .env("TERM", term)
    .current_dir(daemon.directory())
    .ok()
}

#[test]
fn progress_of_what_takes_long_is_shown_on_a_terminal_and_taken_away() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    let shown = slow_stream(&daemon, "xterm", "> ids");
    assert!(shown.contains("\r2 messages sent, "), "{shown:?}");
    assert!(shown.ends_with("\r\u{1b}[K"), "{shown:?}");
    assert_eq!(slow_stream(&daemon, "dumb", "> ids"), "");
    assert_eq!(slow_stream(&daemon, "xterm", "> ids 2> told"), "");
    assert_eq!(fs::read_to_string(daemon.directory().join("told")).unwrap(), "");
    let ids = slow_stream(&daemon, "xterm", "");
    assert!(!ids.contains("messages"), "ids on the terminal are the progress: {ids:?}");
}
