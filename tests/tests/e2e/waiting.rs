//! Long polling.

use std::time::Duration;

use qd_protocol::ErrorCode;
use qd_protocol::verbs::{Cancel, Drop, Receive};
use qd_tests::wait::SOON;
use qd_tests::{Daemon, Raw, wait_until};
use tokio::time::Instant;

use crate::wire::{create, queue, receive, send, statistics};

fn parked(name: &str, wait_ms: u64) -> Receive {
    Receive { wait_ms, ..receive(name, 1) }
}

fn body(raw: &mut Raw) -> Vec<u8> {
    let messages = raw.answer::<Receive>().1.unwrap().messages;
    assert_eq!(messages.len(), 1);
    messages[0].body.bytes.to_vec()
}

#[test]
fn parked_receivers_are_served_in_the_order_they_came() {
    let daemon = Daemon::new();
    let mut producer = daemon.raw();
    producer.call(&create("jobs")).unwrap();
    let mut waiting: Vec<Raw> = (0..5).map(|_| daemon.raw()).collect();
    for raw in &mut waiting {
        raw.send(&parked("jobs", 60_000));
        raw.settle();
    }
    for (at, raw) in waiting.iter_mut().enumerate() {
        let text = format!("message {at}");
        let start = Instant::now();
        producer.call(&send("jobs", &[text.as_bytes()])).unwrap();
        assert_eq!(body(raw), text.as_bytes());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "woken after {took:?} of 60 s");
    }
}

#[test]
fn batch_wakes_as_many_receivers_as_it_has_messages_for() {
    let daemon = Daemon::new();
    let mut producer = daemon.raw();
    producer.call(&create("jobs")).unwrap();
    let mut waiting: Vec<Raw> = (0..3).map(|_| daemon.raw()).collect();
    for raw in &mut waiting {
        raw.send(&parked("jobs", 60_000));
        raw.settle();
    }
    producer.call(&send("jobs", &[b"a", b"b", b"c"])).unwrap();
    let bodies: Vec<_> = waiting.iter_mut().map(body).collect();
    assert_eq!(bodies, [b"a", b"b", b"c"]);
}

#[test]
fn receiver_of_several_queues_is_woken_by_any_of_them() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("first")).unwrap();
    raw.call(&create("second")).unwrap();
    let mut waiting = daemon.raw();
    let mut take = parked("first", 60_000);
    take.queues.push(queue("second"));
    waiting.send(&take);
    waiting.settle();
    raw.call(&send("second", &[b"here"])).unwrap();
    let messages = waiting.answer::<Receive>().1.unwrap().messages;
    assert_eq!((messages[0].queue, &messages[0].body.bytes[..]), (1, &b"here"[..]));
}

#[test]
fn lease_that_ends_brings_the_message_to_a_parked_receiver_in_time() {
    let daemon = Daemon::new();
    let mut holder = daemon.raw();
    holder.call(&create("jobs")).unwrap();
    holder.call(&send("jobs", &[b"again"])).unwrap();
    let lease = Duration::from_millis(700);
    let mut take = receive("jobs", 1);
    take.visibility_timeout_ms = Some(700);
    let before = Instant::now();
    let first = holder.call(&take).unwrap().messages.remove(0);
    let after = Instant::now();
    let mut waiting = daemon.raw();
    waiting.send(&parked("jobs", 60_000));
    let second = waiting.answer::<Receive>().1.unwrap().messages.remove(0);
    let came = Instant::now();
    assert_eq!((second.id, second.attempt), (first.id, 2));
    assert_ne!(second.receipt, first.receipt);
    assert!(came >= before + lease - Duration::from_millis(1), "before the lease was over");
    let late = came.duration_since(after + lease);
    assert!(late < Duration::from_millis(500), "{late:?} after the end of the lease");
}

#[test]
fn wait_without_a_message_ends_with_nothing_after_its_time() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let start = Instant::now();
    let received = raw.call(&parked("jobs", 400)).unwrap();
    let took = start.elapsed();
    assert!(received.messages.is_empty());
    assert!(took >= Duration::from_millis(399), "ended after {took:?}");
    assert!(took < Duration::from_secs(10), "ended after {took:?}");
}

#[test]
fn receiver_that_is_gone_takes_nothing() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let mut gone = daemon.raw();
    gone.send(&parked("jobs", 60_000));
    gone.settle();
    let mut waiting = daemon.raw();
    waiting.send(&parked("jobs", 60_000));
    waiting.settle();
    gone.end_output();
    gone.wait_for_close();
    raw.call(&send("jobs", &[b"for the one who stayed"])).unwrap();
    assert_eq!(body(&mut waiting), b"for the one who stayed");
    let statistics = statistics(&mut raw, "jobs");
    assert_eq!((statistics.leased, statistics.received), (1, 1));
}

#[test]
fn cancelled_receive_is_refused_and_takes_nothing() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let mut waiting = daemon.raw();
    let correlation = waiting.send(&parked("jobs", 60_000));
    waiting.send(&Cancel { correlation });
    assert_eq!(waiting.refusal::<Receive>(correlation).code, ErrorCode::Cancelled);
    raw.call(&send("jobs", &[b"still there"])).unwrap();
    assert_eq!(statistics(&mut raw, "jobs").ready, 1);
}

#[test]
fn receiver_of_a_dropped_queue_is_told_so() {
    let daemon = Daemon::new();
    let mut raw = daemon.raw();
    raw.call(&create("jobs")).unwrap();
    let mut waiting = daemon.raw();
    let correlation = waiting.send(&parked("jobs", 60_000));
    waiting.settle();
    raw.call(&Drop { queue: queue("jobs"), only_if_empty: false }).unwrap();
    assert_eq!(waiting.refusal::<Receive>(correlation).code, ErrorCode::QueueDropped);
}

#[test]
fn waiting_qctl_is_woken_by_a_send() {
    let daemon = Daemon::with(&["--log-level", "debug"]);
    daemon.qctl("create jobs").ok();
    let start = Instant::now();
    let waiting = daemon.qctl("receive jobs --wait 60s --body").start();
    wait_until("the second qctl is welcome", SOON, || {
        (daemon.log().matches("hello from").count() >= 2).then_some(())
    });
    daemon.qctl("send jobs hello").ok();
    let done = waiting.finish();
    assert_eq!((done.exit, done.text().as_str()), (0, "hello"), "{done:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "the wait is not what ended it");
}

#[test]
fn waiting_qctl_ends_with_1_and_no_output_after_its_time() {
    let daemon = Daemon::new();
    daemon.qctl("create jobs").ok();
    let start = Instant::now();
    let done = daemon.qctl("receive jobs --wait 300ms").run();
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!((done.exit, done.text().as_str(), done.stderr.as_str()), (1, "", ""));
}

#[test]
fn waiting_call_of_the_client_is_woken_and_one_that_is_dropped_takes_nothing() {
    let daemon = Daemon::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = daemon.client().await;
        client.call(create("jobs")).await.unwrap();
        // Dropped while it waits: the time limit is what ends it.
        let dropped = client.call(parked("jobs", 60_000));
        let limit = Duration::from_millis(200);
        assert!(tokio::time::timeout(limit, dropped).await.is_err(), "nothing was there");
        let waiting = client.start(parked("jobs", 60_000)).await.unwrap();
        let other = daemon.client().await;
        other.call(send("jobs", &[b"for the one who waits"])).await.unwrap();
        let received = waiting.await.unwrap();
        assert_eq!(&received.messages[0].body.bytes[..], b"for the one who waits");
    });
    let statistics = statistics(&mut daemon.raw(), "jobs");
    assert_eq!((statistics.received, statistics.leased), (1, 1));
}
