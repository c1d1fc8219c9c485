//! Leases and delays through `qctl`: they end on time without traffic, outlive a crash, and are
//! given back by who cannot use them.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use qd_protocol::verbs::{Due, Receive, SendEntry};
use qd_tests::wait::SOON;
use qd_tests::{Daemon, programs, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::wire::{create, receive, send, statistics};

/// Whether anybody waits or not, time passes.
const LATE: Duration = Duration::from_millis(500);

#[test]
fn message_that_becomes_due_wakes_a_parked_receiver_in_time() {
    let daemon = Daemon::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = daemon.client().await;
        client.call(create("jobs")).await.unwrap();
        let delay = Duration::from_millis(700);
        let mut request = send("jobs", &[]);
        let mut entry = SendEntry::new("later");
        entry.due = Some(Due::After(700));
        request.entries.push(entry);
        let before = Instant::now();
        client.call(request).await.unwrap();
        let after = Instant::now();
        let parked = Receive { wait_ms: 60_000, ..receive("jobs", 1) };
        let received = client.call(parked).await.unwrap();
        let came = Instant::now();
        assert_eq!(received.messages[0].attempt, 1);
        assert!(came >= before + delay - Duration::from_millis(1), "before it was due");
        let late = came.duration_since(after + delay);
        println!("{late:?} after it was due");
        assert!(late < LATE, "{late:?} after it was due");
    });
}

#[test]
fn leases_delays_and_attempts_survive_kill_9() {
    let mut daemon = Daemon::new();
    daemon.qctl("create jobs --visibility-timeout 1h --max-in-flight 3").ok();
    daemon.qctl("send jobs held released tried").ok();
    daemon.qctl("send jobs later --delay 1h").ok();
    daemon.qctl("send jobs soon --at 2001-01-01T00:00:00Z").ok();
    let leased = daemon.qctl("receive jobs -n 3 --columns receipt").ok();
    let receipts: Vec<&str> = leased.lines().collect();
    daemon.qctl(&format!("extend jobs {} --to 14d", receipts[0])).ok();
    daemon.qctl(&format!("release jobs {} --delay 1h", receipts[1])).ok();
    daemon.qctl(&format!("release jobs {} --delay 0", receipts[2])).ok();
    let before = statistics(&mut daemon.raw(), "jobs");
    daemon.kill();
    daemon.restart();
    let after = statistics(&mut daemon.raw(), "jobs");
    assert_eq!((after.ready, after.delayed, after.leased), (2, 2, 1));
    assert_eq!((after.sent, after.received), (before.sent, before.received));
    // The lease, and what is no lease any more.
    daemon.qctl(&format!("extend jobs {} --by 1h", receipts[0])).ok();
    assert_eq!(daemon.qctl(&format!("release jobs {}", receipts[2])).run().exit, 1);
    daemon.qctl("reschedule jobs --id 2 4 --delay 0").ok();
    let columns = "receive jobs -n 9 --columns id,attempt,body";
    // One is leased: there is room for two more.
    assert_eq!(daemon.qctl(columns).ok(), "2\t2\treleased\n3\t2\ttried\n");
    daemon.qctl("update jobs --max-in-flight unlimited").ok();
    assert_eq!(daemon.qctl(columns).ok(), "4\t1\tlater\n5\t1\tsoon\n");
}

/// `qctl receive` into a pipe that is full and that nobody reads, once it is stuck there.
fn stuck(daemon: &Daemon, flags: &[&str]) -> (Child, std::io::PipeReader) {
    daemon.qctl("create jobs --visibility-timeout 1h").ok();
    let body = vec![b'x'; 100_000];
    let mut raw = daemon.raw();
    for _ in 0..5 {
        raw.call(&send("jobs", &[&body])).unwrap();
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let child = Command::new(programs::qctl())
        .args(["--server", &daemon.server(), "receive", "jobs"])
        .args(flags)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    wait_until("the messages are leased", SOON, || {
        (statistics(&mut raw, "jobs").leased == 5).then_some(())
    });
    (child, reader)
}

/// All messages are ready, and none of them was delivered.
fn assert_given_back(daemon: &Daemon) {
    let statistics = statistics(&mut daemon.raw(), "jobs");
    assert_eq!((statistics.ready, statistics.leased, statistics.deleted), (5, 0, 0));
    let attempts = daemon.qctl("receive jobs -n 5 --columns attempt").ok();
    assert_eq!(attempts, "1\n".repeat(5));
}

#[test]
fn receive_stuck_in_a_write_gives_back_what_it_holds_at_sigint() {
    for flags in [&["--drain", "--ack"][..], &["--follow"], &["-n", "5"]] {
        let daemon = Daemon::new();
        let (mut child, _reader) = stuck(&daemon, flags);
        // Nothing tells that the write has begun; before it, the signal has the same effect.
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{flags:?}");
        assert_given_back(&daemon);
    }
}

#[test]
fn receive_stuck_in_a_write_gives_back_what_it_holds_at_its_timeout() {
    let daemon = Daemon::new();
    let (mut child, _reader) = stuck(&daemon, &["--drain", "--ack", "--timeout", "1s"]);
    assert_eq!(child.wait().unwrap().code(), Some(124));
    assert_given_back(&daemon);
}

#[test]
fn receive_whose_reader_goes_away_gives_back_what_it_holds() {
    let daemon = Daemon::new();
    let (mut child, reader) = stuck(&daemon, &["--drain", "--ack"]);
    drop(reader);
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert_given_back(&daemon);
}

#[test]
fn what_was_written_before_the_end_stays_out() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs --visibility-timeout 1h").ok();
    daemon.qctl("send jobs one two").ok();
    let mut follow = daemon.qctl("receive jobs --follow --body").start();
    follow.wait_for(0, "one\ntwo\n");
    follow.signal(Signal::INT);
    assert_eq!(follow.finish().exit, 130);
    assert_eq!(statistics(&mut daemon.raw(), "jobs").leased, 2);
}
