//! How `qctl` ends when something ends it: signals, time limits, closed pipes, strange servers.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use qd_protocol::preamble::{ServerPreamble, Status, VersionRange};
use qd_tests::daemon::temporary_directory;
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Run, Running, programs, wait_until};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::wire::statistics;

/// A `qctl receive` that waits: it has printed one message, and there is no other.
fn waiting(daemon: &Daemon) -> Running {
    daemon.qctl("create jobs").ok();
    daemon.qctl("send jobs first").ok();
    let mut waiting = daemon.qctl("receive jobs --follow --ack").start();
    waiting.wait_for(0, "first\n");
    let mut raw = daemon.raw();
    wait_until("the message is deleted", SOON, || {
        (statistics(&mut raw, "jobs").deleted == 1).then_some(())
    });
    waiting
}

#[test]
fn sigint_ends_a_waiting_receive_with_130_and_takes_nothing() {
    ends_with(Signal::INT, 130);
}

#[test]
fn sigterm_ends_a_waiting_receive_with_143_and_takes_nothing() {
    ends_with(Signal::TERM, 143);
}

fn ends_with(signal: Signal, exit: i32) {
    let daemon = Daemon::new();
    let waiting = waiting(&daemon);
    waiting.signal(signal);
    let done = waiting.finish();
    assert_eq!((done.exit, done.stderr.as_str()), (exit, ""), "{done:?}");
    daemon.qctl("send jobs second").ok();
    assert_eq!(statistics(&mut daemon.raw(), "jobs").ready, 1);
}

#[test]
fn waiting_receive_ends_with_75_when_the_server_stops() {
    let daemon = Daemon::new();
    let waiting = waiting(&daemon);
    daemon.signal(Signal::TERM);
    let done = waiting.finish();
    assert!(matches!(done.exit, 69 | 75), "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
}

#[test]
fn closed_pipe_ends_quietly() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    for arguments in [&["list"][..], &["info", "jobs"], &["receive", "jobs", "--ack"], &["--help"]]
    {
        daemon.qctl("send jobs hello").ok();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = Command::new(programs::qctl())
            .args(["--server", &daemon.server()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&done.stderr), "", "{arguments:?}");
    }
    assert_eq!(statistics(&mut daemon.raw(), "jobs").deleted, 0, "nothing of it was taken");
}

/// A server that does what `serve` does with its connections, one after the other.
fn fake_server(serve: impl Fn(UnixStream) + Send + 'static) -> (tempfile::TempDir, PathBuf) {
    let directory = temporary_directory();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            serve(stream);
        }
    });
    (directory, path)
}

fn qctl_at(path: &Path, line: &str) -> Run {
    Run::qctl(&format!("unix:{}", path.display()), line)
}

/// Keeps a connection until the other side closes it.
fn hold(mut stream: UnixStream) {
    std::thread::spawn(move || {
        let mut bytes = [0; 1_024];
        while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
}

#[test]
fn server_that_hangs_ends_with_124_at_the_timeout() {
    let (_directory, path) = fake_server(hold);
    let start = Instant::now();
    let done = qctl_at(&path, "ping --timeout 300ms").run();
    assert_eq!(done.exit, 124, "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn server_that_hangs_ends_with_69_without_a_timeout() {
    let (_directory, path) = fake_server(hold);
    let done = qctl_at(&path, "ping").limit(Duration::from_secs(40)).run();
    assert_eq!(done.exit, 69, "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
}

#[test]
fn server_that_hangs_can_be_interrupted() {
    let (_directory, path) = fake_server(hold);
    let ping = qctl_at(&path, "ping").start();
    wait_until("qctl handles signals", SOON, || handles_sigint(&ping).then_some(()));
    ping.signal(Signal::INT);
    assert_eq!(ping.finish().exit, 130);
}

/// True when the process has a handler for SIGINT: `SigCgt` of proc(5).
fn handles_sigint(running: &Running) -> bool {
    let path = format!("/proc/{}/status", running.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    caught & (1 << (Signal::INT.as_raw() - 1)) != 0
}

#[test]
fn server_that_speaks_something_else_ends_with_76() {
    let (_directory, path) = fake_server(|mut stream| {
        let _ = stream.write_all(&b"HTTP/1.1 400 Bad Request\r\n\r\n".repeat(10));
        hold(stream);
    });
    let done = qctl_at(&path, "ping").run();
    assert_eq!(done.exit, 76, "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
}

#[test]
fn server_of_another_version_ends_with_76_and_both_ranges() {
    let (_directory, path) = fake_server(|mut stream| {
        let answer = ServerPreamble {
            versions: VersionRange { lowest: 7, highest: 9 },
            chosen: 0,
            status: Status::NoCommonVersion,
            frame_bytes_max: 1,
            in_flight_max: 1,
            message_bytes_max: 1,
            node: 1,
            time_ms: 1,
        };
        let _ = stream.write_all(&answer.to_bytes());
        hold(stream);
    });
    let done = qctl_at(&path, "ping").run();
    assert_eq!(done.exit, 76, "{done:?}");
    assert!(done.stderr.contains("7 to 9") && done.stderr.contains('1'), "{done:?}");
}

#[test]
fn server_that_closes_at_once_ends_with_69() {
    let (_directory, path) = fake_server(drop);
    let done = qctl_at(&path, "ping").run();
    assert!(matches!(done.exit, 69 | 76), "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
}

#[test]
fn stream_from_a_pipe_is_sent_as_it_comes_and_its_ids_are_told() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    let mut send = Run::qctl(&daemon.server(), "send jobs --lines").keep_stdin().start();
    send.write(b"one\ntwo\n");
    let place = send.wait_for(0, "1\n2\n");
    assert_eq!(statistics(&mut daemon.raw(), "jobs").ready, 2, "on disk while the input pauses");
    send.write(b"three\nfour");
    send.wait_for(place, "3\n");
    send.close_stdin();
    let done = send.finish();
    assert_eq!((done.exit, done.text().as_str()), (0, "1\n2\n3\n4\n"), "{done:?}");
}

#[test]
fn slow_reader_keeps_what_it_has_in_front_of_it_and_nothing_else() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs --visibility-timeout 3s").ok();
    daemon.qctl("send jobs a b c").ok();
    let mut follow = Command::new(programs::qctl())
        .args(["--server", &daemon.server(), "receive", "jobs", "--follow", "--ack"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut raw = daemon.raw();
    wait_until("the messages that wait are given back", SOON, || {
        let now = statistics(&mut raw, "jobs");
        (now.received == 3 && (now.ready, now.leased) == (2, 1)).then_some(())
    });
    let others = daemon.qctl("receive jobs -n 2 --ack --columns attempt,body").ok();
    assert_eq!(others, "1\tb\n1\tc\n", "uncounted");
    // Longer than a lease that is not renewed.
    assert_eq!(daemon.qctl("receive jobs --wait 5s").run().exit, 1);
    let mut line = [0; 2];
    follow.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"a\n");
    wait_until("what was taken is deleted", SOON, || {
        (statistics(&mut raw, "jobs").deleted == 3).then_some(())
    });
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn failure_is_told_in_one_write() {
    // What is written at once to a socket of datagrams is one of them.
    let (told, stderr) = UnixDatagram::pair().unwrap();
    let status = Command::new(programs::qctl())
        .args(["--server", "unix:/nonexistent/s", "-o", "json", "ping"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(OwnedFd::from(stderr))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(69));
    told.set_nonblocking(true).unwrap();
    let mut text = [0; 4_096];
    let length = told.recv(&mut text).unwrap();
    let lines: Vec<&str> = std::str::from_utf8(&text[..length]).unwrap().lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("qctl: cannot connect"), "{lines:?}");
    assert!(lines[1].starts_with('{') && lines[1].ends_with('}'), "{lines:?}");
}
