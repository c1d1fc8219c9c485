//! Who waits for what: groups that are held, queues that are paused or purged, and atomic steps.

use qd::broker::{Answer, Work};
use qd::shard::Command;
use qd::shard::command::{Create, Send as SendCommand};
use qd_protocol::verbs::{self, IfExists, SendEntry};
use qd_protocol::{AttributeChanges, ErrorCode, Headers, Receipt};

use super::{Connection, Rig, name, receive, send};
use crate::random_work::stored;

fn of_group(group: &str, body: &str) -> SendEntry {
    let mut entry = SendEntry::new(body.to_owned());
    group.clone_into(&mut entry.properties.group);
    entry
}

/// Queue `a` is ordered.
fn ordered(messages: &[(&str, &str)]) -> Rig {
    let mut rig = Rig::new();
    rig.apply(Command::Create(Create {
        queue: name("a"),
        if_exists: IfExists::Update,
        attributes: AttributeChanges { ordered: Some(true), ..AttributeChanges::default() },
        with: None,
    }));
    let messages = messages.iter().map(|(group, body)| stored(of_group(group, body))).collect();
    rig.apply(Command::Send(SendCommand { queue: name("a"), messages }));
    rig
}

/// Takes messages and returns their bodies and receipts.
fn take(rig: &Rig, client: &mut Connection, max: u32) -> Vec<(String, Receipt)> {
    rig.submit(client, 1, None, receive("a", 0, |receive| receive.max = max));
    match rig.answer(client).1 {
        Answer::Receive(received) => {
            let body = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            received.messages.iter().map(|m| (body(&m.body.bytes), m.receipt)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn update(paused: bool) -> Work {
    let attributes = AttributeChanges { paused: Some(paused), ..AttributeChanges::default() };
    Work::update(verbs::Update { queue: name("a"), attributes })
}

#[test]
fn rest_of_a_group_goes_to_who_waits_when_the_one_before_is_deleted_or_its_lease_is_over() {
    for is_deleted in [true, false] {
        let mut rig = ordered(&[("g", "one"), ("g", "two"), ("g", "three")]);
        let (mut first, mut second) = (rig.connect(), rig.connect());
        rig.start();
        let held = take(&rig, &mut first, 1);
        assert_eq!(held[0].0, "one");
        rig.submit(&second, 7, None, receive("a", 600_000, |receive| receive.max = 9));
        // Another message of the group changes nothing.
        let entries = vec![of_group("g", "four")];
        let send = Work::send(verbs::Send { queue: name("a"), entries }).unwrap();
        rig.submit(&first, 2, None, send);
        assert!(matches!(rig.answer(&mut first).1, Answer::Send(_)));
        assert_eq!(rig.ready("a"), 3);
        if is_deleted {
            let delete = verbs::Delete { queue: name("a"), receipts: vec![held[0].1] };
            rig.submit(&first, 3, None, Work::delete(delete).unwrap());
            assert!(matches!(rig.answer(&mut first).1, Answer::Settle(_)));
            assert_eq!(rig.bodies(&mut second), ["two", "three", "four"]);
        } else {
            rig.pass(31_000);
            rig.submit(&first, 3, None, super::send("b", &["tick"]));
            assert_eq!(rig.bodies(&mut second), ["one", "two", "three", "four"]);
        }
    }
}

#[test]
fn each_group_that_can_be_served_wakes_one_receive() {
    let mut rig = ordered(&[]);
    let mut consumers: Vec<Connection> = (0..3).map(|_| rig.connect()).collect();
    let mut producer = rig.connect();
    rig.start();
    for consumer in &consumers {
        rig.submit(consumer, 1, None, receive("a", 600_000, |receive| receive.max = 2));
    }
    let entries = ["x", "x", "y", "y", "z"].map(|group| of_group(group, group)).into();
    let send = Work::send(verbs::Send { queue: name("a"), entries }).unwrap();
    rig.submit(&producer, 1, None, send);
    assert!(matches!(rig.answer(&mut producer).1, Answer::Send(_)));
    let mut taken: Vec<_> = consumers.iter_mut().map(|consumer| rig.bodies(consumer)).collect();
    taken.sort();
    assert_eq!(taken, [vec!["x", "x"], vec!["y", "y"], vec!["z"]]);
}

#[test]
fn receive_that_waits_is_woken_when_its_queue_is_resumed_and_not_before() {
    let mut rig = Rig::new();
    let (mut admin, mut consumer) = (rig.connect(), rig.connect());
    rig.start();
    rig.submit(&admin, 1, None, update(true));
    assert!(matches!(rig.answer(&mut admin).1, Answer::Update(_)));
    rig.submit(&consumer, 1, None, receive("a", 600_000, |_| ()));
    rig.submit(&admin, 2, None, send("a", &["one"]));
    assert!(matches!(rig.answer(&mut admin).1, Answer::Send(_)));
    // One that does not wait is answered at once.
    rig.submit(&admin, 3, None, receive("a", 0, |_| ()));
    assert!(rig.bodies(&mut admin).is_empty());
    assert_eq!(rig.ready("a"), 1);
    rig.submit(&admin, 4, None, update(false));
    assert!(matches!(rig.answer(&mut admin).1, Answer::Update(_)));
    assert_eq!(rig.bodies(&mut consumer), ["one"]);
}

#[test]
fn receive_goes_on_waiting_when_its_queue_is_purged() {
    let mut rig = Rig::new();
    let (mut admin, mut consumer) = (rig.connect(), rig.connect());
    rig.start();
    rig.submit(&consumer, 1, None, receive("a", 600_000, |_| ()));
    let purge = verbs::Purge {
        queue: name("a"),
        older_than_ms: None,
        headers: Headers::default(),
        dry_run: false,
        after: 0,
        through: 0,
    };
    for correlation in 1..3 {
        rig.submit(&admin, correlation, None, Work::purge(purge.clone()).unwrap());
        assert!(matches!(rig.answer(&mut admin).1, Answer::Purge(_)));
    }
    rig.submit(&admin, 3, None, send("a", &["one"]));
    assert!(matches!(rig.answer(&mut admin).1, Answer::Send(_)));
    assert_eq!(rig.bodies(&mut consumer), ["one"]);
}

#[test]
fn what_a_step_sends_wakes_those_who_wait_and_a_repeat_of_it_does_nothing() {
    let mut rig = Rig::new();
    let (mut worker, mut consumer) = (rig.connect(), rig.connect());
    rig.start();
    rig.submit(&worker, 1, None, send("a", &["job"]));
    assert!(matches!(rig.answer(&mut worker).1, Answer::Send(_)));
    let held = take(&rig, &mut worker, 1);
    rig.submit(&consumer, 1, None, receive("b", 600_000, |_| ()));
    let step = verbs::Transact {
        deletes: vec![verbs::Delete { queue: name("a"), receipts: vec![held[0].1] }],
        sends: vec![verbs::Send { queue: name("b"), entries: vec![SendEntry::new("next")] }],
    };
    for correlation in 2..4 {
        let work = Work::transact(step.clone()).unwrap();
        rig.submit(&worker, correlation, Some(super::origin(1)), work);
        assert!(matches!(rig.answer(&mut worker).1, Answer::Transact(_)));
    }
    assert_eq!(rig.bodies(&mut consumer), ["next"]);
    assert_eq!((rig.statistics("a").leased, rig.statistics("b").sent), (0, 1));
    // With another number it is another step, whose receipt is over.
    rig.submit(&worker, 4, Some(super::origin(2)), Work::transact(step).unwrap());
    assert_eq!(rig.refusal(&mut worker), ErrorCode::ReceiptExpired);
    assert_eq!(rig.statistics("b").sent, 1);
}
