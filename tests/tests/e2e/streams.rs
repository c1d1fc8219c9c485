//! Streams through a queue and back, byte for byte and in constant memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use qd_tests::{Daemon, Random, cases};

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
