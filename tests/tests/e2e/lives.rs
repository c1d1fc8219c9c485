//! The ends of messages: by their time to live, by the retention of their queue, and to make room.

use std::time::Duration;

use qd_protocol::attributes::{DELAY_MS_MAX, OVERFLOW_DROP_OLDEST};
use qd_protocol::verbs::{Receive, SendEntry, Update};
use qd_protocol::{AttributeChanges, ErrorCode, Statistics};
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Raw, wait_until};

use crate::wire::{create, queue, receive, send, statistics};

fn wait_for(raw: &mut Raw, what: &str, done: impl Fn(&Statistics) -> bool) -> Statistics {
    wait_until(what, SOON, || Some(statistics(raw, "jobs")).filter(|now| done(now)))
}

/// Changes the queue `jobs`.
fn update(attributes: AttributeChanges) -> Update {
    Update { queue: queue("jobs"), attributes }
}

#[test]
fn time_that_is_over_on_the_wire_or_never_comes_is_refused() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    for ms in [0, DELAY_MS_MAX + 1, u64::MAX] {
        let mut request = send("jobs", &[b"good"]);
        request.entries.push(SendEntry { ttl_ms: Some(ms), ..SendEntry::new("bad") });
        let refusal = raw.call(&request).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::AttributeOutOfRange, "{ms}");
        let limit = refusal.limit.unwrap();
        assert_eq!((&limit.name[..], limit.current, limit.maximum), ("ttl", ms, DELAY_MS_MAX));
    }
    assert_eq!(statistics(&mut raw, "jobs").sent, 0);
    let retention = |ms| AttributeChanges { retention_ms: Some(ms), ..AttributeChanges::default() };
    let overflow = |to| AttributeChanges { overflow: Some(to), ..AttributeChanges::default() };
    for (attributes, name) in [
        (retention(0), "retention"),
        (retention(u64::MAX - 1), "retention"),
        (overflow(2), "overflow"),
        (overflow(u64::MAX), "overflow"),
    ] {
        let refusal = raw.call(&update(attributes)).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::AttributeOutOfRange, "{name}");
        assert_eq!(refusal.limit.unwrap().name, name);
    }
}

#[test]
fn times_go_on_while_the_daemon_is_dead() {
    let mut daemon = Daemon::new();
    daemon.qctl("create jobs --visibility-timeout 1h").ok();
    daemon.qctl("create kept --retention 5s").ok();
    let held = daemon.qctl("send jobs held --ttl 5s").ok();
    assert_eq!(held, "1\n");
    let receipt = daemon.qctl("receive jobs --columns receipt").ok();
    daemon.qctl("send jobs ready --ttl 5s").ok();
    daemon.qctl("send jobs delayed --delay 1s --ttl 5s").ok();
    daemon.qctl("send jobs stays").ok();
    daemon.qctl("send kept a b").ok();
    daemon.kill();
    std::thread::sleep(Duration::from_secs(6));
    daemon.restart();
    // Nothing of it is delivered, removed yet or not.
    assert_eq!(daemon.qctl("receive jobs --drain --ack").ok(), "stays\n");
    assert_eq!(daemon.qctl("receive kept").run().exit, 1);
    let mut raw = daemon.raw();
    let now = wait_for(&mut raw, "all are gone", |now| now.expired == 2);
    assert_eq!((now.ready, now.delayed, now.leased), (0, 0, 1));
    wait_until("the kept are gone", SOON, || {
        let now = statistics(&mut raw, "kept");
        (now.expired == 2 && now.ready == 0 && now.bytes == 0).then_some(())
    });
    daemon.qctl(&format!("release jobs {receipt}")).ok();
    let now = statistics(&mut raw, "jobs");
    assert_eq!((now.leased, now.ready, now.bytes, now.expired), (0, 0, 0, 3));
}

#[test]
fn message_that_is_over_does_not_wake_a_parked_receiver() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    let mut raw = daemon.raw();
    // It is due and over at nearly the same time, long before the receive ends.
    let mut request = send("jobs", &[]);
    let due = Some(qd_protocol::verbs::Due::After(1_000));
    request.entries.push(SendEntry { due, ttl_ms: Some(1_000), ..SendEntry::new("never") });
    raw.call(&request).unwrap();
    let parked = Receive { wait_ms: 2_500, ..receive("jobs", 1) };
    assert_eq!(raw.call(&parked).unwrap().messages.len(), 0);
    let now = statistics(&mut raw, "jobs");
    assert_eq!((now.expired, now.received, now.ready, now.delayed), (1, 0, 0, 0));
}

#[test]
fn room_for_one_message_is_made_in_steps_when_there_is_much_to_drop() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let bodies = vec![&b"x"[..]; 10_000];
    raw.call(&send("jobs", &bodies)).unwrap();
    raw.call(&send("jobs", &bodies)).unwrap();
    let attributes = AttributeChanges {
        max_bytes: Some(20_000),
        overflow: Some(OVERFLOW_DROP_OLDEST),
        ..AttributeChanges::default()
    };
    raw.call(&update(attributes)).unwrap();
    let large = vec![b'y'; 15_000];
    let sent = raw.call(&send("jobs", &[&large])).unwrap();
    let refusal = sent.entries().next().unwrap().unwrap_err();
    assert_eq!((refusal.code, refusal.retryable), (ErrorCode::QueueFull, true));
    let now = statistics(&mut raw, "jobs");
    assert_eq!((now.ready, now.dropped, now.sent), (10_000, 10_000, 20_000));
    let sent = raw.call(&send("jobs", &[&large])).unwrap();
    assert_eq!(sent.entries().next().unwrap().unwrap().id, 20_001);
    let now = statistics(&mut raw, "jobs");
    assert_eq!((now.ready, now.bytes, now.dropped), (5_001, 20_000, 15_000));
}
