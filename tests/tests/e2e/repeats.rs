//! Requests repeated under their number after a lost answer: carried out once.

use qd_protocol::verbs::{Delete, Drop, Receive, Send};
use qd_protocol::{ErrorCode, Numbering};
use qd_tests::{Daemon, Raw};

use crate::wire::{create, queue, receive, send, statistics};

const PRODUCER: u64 = 0x5eed;

fn producer(daemon: &Daemon) -> Raw {
    let mut raw = Raw::connect(&daemon.address());
    raw.greet();
    raw.hello(PRODUCER);
    raw
}

fn number(number: u64) -> impl Into<Option<Numbering>> {
    Numbering { number, answered_below: 1 }
}

#[test]
fn repeated_send_is_stored_once_and_has_the_same_ids() {
    let mut daemon = Daemon::new();
    let mut first = producer(&daemon);
    first.call_numbered(number(1), &create("jobs")).unwrap();
    let messages = send("jobs", &[b"a", b"b"]);
    let sent = first.call_numbered(number(2), &messages).unwrap();
    let again = producer(&daemon).call_numbered(number(2), &messages).unwrap();
    assert_eq!(again, sent);
    assert_eq!(statistics(&mut first, "jobs").ready, 2);
    daemon.kill();
    daemon.restart();
    let mut third = producer(&daemon);
    assert_eq!(third.call_numbered(number(2), &messages).unwrap(), sent, "after kill -9");
    assert_eq!(statistics(&mut third, "jobs").ready, 2);
}

#[test]
fn send_whose_answer_nobody_read_is_stored_once() {
    let daemon = Daemon::new();
    let mut checker = daemon.raw();
    checker.call(&create("jobs")).unwrap();
    for at in 0..20 {
        let body = [at];
        let messages = send("jobs", &[&body]);
        let at = u64::from(at) + 1;
        let mut lost = producer(&daemon);
        lost.send_numbered(number(at), &messages);
        drop(lost);
        let sent = producer(&daemon).call_numbered(number(at), &messages).unwrap();
        let ids: Vec<_> = sent.entries().collect();
        assert!(matches!(ids[..], [Ok(_)]), "{ids:?}");
        assert_eq!(statistics(&mut checker, "jobs").ready, at);
    }
}

#[test]
fn same_numbers_of_another_producer_are_other_requests() {
    let daemon = Daemon::new();
    let mut first = producer(&daemon);
    first.call_numbered(number(1), &create("jobs")).unwrap();
    first.call_numbered(number(2), &send("jobs", &[b"a"])).unwrap();
    let mut other = Raw::connect(&daemon.address());
    other.greet();
    other.hello(PRODUCER + 1);
    other.call_numbered(number(2), &send("jobs", &[b"b"])).unwrap();
    assert_eq!(statistics(&mut first, "jobs").ready, 2);
}

#[test]
fn repeated_receive_gives_the_same_lease_and_takes_nothing_more() {
    let daemon = Daemon::new();
    let mut first = producer(&daemon);
    first.call_numbered(number(1), &create("jobs")).unwrap();
    first.call_numbered(number(2), &send("jobs", &[b"a", b"b", b"c"])).unwrap();
    let take: Receive = receive("jobs", 2);
    let received = first.call_numbered(number(3), &take).unwrap();
    let again = producer(&daemon).call_numbered(number(3), &take).unwrap();
    assert_eq!(again, received);
    let statistics = statistics(&mut first, "jobs");
    assert_eq!((statistics.leased, statistics.ready, statistics.received), (2, 1, 2));
}

#[test]
fn repeated_delete_has_the_same_answer() {
    let daemon = Daemon::new();
    let mut first = producer(&daemon);
    first.call_numbered(number(1), &create("jobs")).unwrap();
    first.call_numbered(number(2), &send("jobs", &[b"a"])).unwrap();
    let message = first.call_numbered(number(3), &receive("jobs", 1)).unwrap().messages.remove(0);
    let delete = Delete { queue: queue("jobs"), receipts: vec![message.receipt] };
    let deleted = first.call_numbered(number(4), &delete).unwrap();
    assert!(deleted.statuses.entries().all(|status| status.is_ok()));
    assert_eq!(producer(&daemon).call_numbered(number(4), &delete).unwrap(), deleted);
    assert_eq!(statistics(&mut first, "jobs").deleted, 1);
    let new = first.call_numbered(number(5), &delete).unwrap();
    let code = new.statuses.entries().next().unwrap().unwrap_err().code;
    assert_eq!(code, ErrorCode::ReceiptExpired, "a new request under another number");
}

#[test]
fn repeated_drop_does_not_drop_the_queue_that_came_after() {
    let daemon = Daemon::new();
    let mut first = producer(&daemon);
    first.call_numbered(number(1), &create("jobs")).unwrap();
    let drop = Drop { queue: queue("jobs"), only_if_empty: false };
    first.call_numbered(number(2), &drop).unwrap();
    first.call_numbered(number(3), &create("jobs")).unwrap();
    producer(&daemon).call_numbered(number(2), &drop).unwrap();
    assert_eq!(statistics(&mut first, "jobs").sent, 0, "the queue is there");
}

#[test]
fn number_whose_answer_is_no_longer_kept_is_refused_not_carried_out() {
    let daemon = Daemon::new();
    let mut first = producer(&daemon);
    first.call_numbered(number(1), &create("jobs")).unwrap();
    let messages = send("jobs", &[b"a"]);
    first.call_numbered(number(2), &messages).unwrap();
    let numbering = Numbering { number: 3, answered_below: 3 };
    first.call_numbered(numbering, &messages).unwrap();
    let correlation = first.send_numbered(number(2), &messages);
    assert_eq!(first.refusal::<Send>(correlation).code, ErrorCode::AnswerForgotten);
    assert_eq!(statistics(&mut first, "jobs").ready, 2);
}

#[test]
fn repeat_takes_the_place_of_the_waiting_receive_that_it_repeats() {
    let daemon = Daemon::new();
    let mut sender = daemon.raw();
    sender.call(&create("jobs")).unwrap();
    let mut take = receive("jobs", 1);
    take.wait_ms = 20_000;
    // The first connection is dead for its client, but the daemon does not know that yet.
    let mut dead = producer(&daemon);
    dead.send_numbered(number(1), &take);
    dead.settle();
    let mut again = producer(&daemon);
    let correlation = again.send_numbered(number(1), &take);
    again.settle();
    sender.call(&send("jobs", &[b"work"])).unwrap();
    let (answered, received) = again.answer::<Receive>();
    assert_eq!(answered, correlation);
    assert_eq!(received.unwrap().messages.len(), 1);
}
