//! Receives that wait, are woken, or are held back, and end before they took anything.

use std::sync::Arc;
use std::time::Duration;

use qd::broker::Answer;
use qd::shard::command::Send as SendCommand;
use qd::shard::{Command, NewMessage, Record};
use qd_protocol::verbs::Due;
use qd_protocol::{ErrorCode, Receipt};

use super::{Connection, Rig, START_MS, name, origin, receive, send};
use crate::random_work::message;

/// Adds a message that becomes visible a second after the start.
fn send_later(rig: &mut Rig) {
    let later = NewMessage { due: Some(Due::After(1_000)), ..message(b"later".to_vec(), false) };
    rig.apply(Command::Send(SendCommand { queue: name("a"), messages: vec![later] }));
}

/// Adds messages of 1 MiB to queue `b`.
fn send_large(rig: &mut Rig, count: usize) {
    for _ in 0..count {
        let large = message(vec![b'x'; 1 << 20], false);
        rig.apply(Command::Send(SendCommand { queue: name("b"), messages: vec![large] }));
    }
}

/// Asks for three messages of [`send_large`], which is more than a connection may leave unread.
fn fill(rig: &Rig, slow: &Connection) {
    for correlation in 101..104 {
        rig.submit(slow, correlation, None, receive("b", 0, |_| ()));
    }
}

/// Reads the answers to [`fill`].
fn read(rig: &Rig, slow: &mut Connection) {
    for _ in 0..3 {
        let bodies = rig.bodies(slow);
        assert_eq!(bodies.concat().len(), 1 << 20);
    }
    rig.broker.drained(slow.peer.id());
}

/// Runs `then` during the record in which the message of [`send_later`] becomes ready.
fn as_it_becomes_ready(mut then: impl FnMut() + Send + 'static) -> impl FnMut(&Record) + Send {
    let mut done = false;
    move |record| {
        if !done && record.entries.is_empty() && record.now_ms >= START_MS + 1_000 {
            done = true;
            then();
        }
    }
}

#[test]
fn woken_receives_of_a_connection_that_is_gone_take_nothing() {
    let mut rig = Rig::new();
    let messages: Vec<_> = (0..16).map(|_| message(vec![b'x'; 65_536], false)).collect();
    for _ in 0..40 {
        let (queue, messages) = (name("a"), messages.clone());
        rig.apply(Command::Send(SendCommand { queue, messages }));
    }
    let clients: Vec<Connection> = (0..3).map(|_| rig.connect()).collect();
    for client in &clients {
        for correlation in 0..1_024 {
            let work = receive("a", 60_000, |receive| receive.delete_on_receive = true);
            rig.submit(client, correlation, None, work);
        }
    }
    // All are gone during the first record, which delivers 8 MiB and leaves the others for later.
    let (broker, mut first) = (rig.broker.clone(), true);
    let peers: Vec<u64> = clients.iter().map(|client| client.peer.id()).collect();
    let left: Vec<_> = clients.iter().map(|client| Arc::downgrade(&client.peer)).collect();
    rig.start_with(move |record| {
        if std::mem::take(&mut first) {
            assert!(record.entries.len() > 1_000);
            for peer in &peers {
                broker.gone(*peer);
            }
        }
    });
    drop(clients);
    let ready = rig.ready("a");
    assert!(ready >= 640 - 130, "{} messages were deleted for nobody", 640 - ready);
    // Nothing waits any more that could take one.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(rig.ready("a"), ready);
    assert!(left.iter().all(|peer| peer.upgrade().is_none()), "a connection is kept");
}

#[test]
fn message_goes_to_the_next_one_when_the_receive_that_was_woken_for_it_is_gone() {
    let mut rig = Rig::new();
    let (gone, mut waits) = (rig.connect(), rig.connect());
    send_later(&mut rig);
    rig.submit(&gone, 1, None, receive("a", 600_000, |_| ()));
    rig.submit(&waits, 1, None, receive("a", 600_000, |_| ()));
    let (broker, id) = (rig.broker.clone(), gone.peer.id());
    rig.start_with(as_it_becomes_ready(move || broker.gone(id)));
    assert_eq!(rig.ready("a"), 0);
    rig.pass(1_000);
    assert_eq!(rig.bodies(&mut waits), ["later"]);
}

#[test]
fn message_goes_to_the_next_one_when_the_receive_that_was_woken_for_it_is_cancelled() {
    let mut rig = Rig::new();
    let (mut cancelled, mut waits) = (rig.connect(), rig.connect());
    send_later(&mut rig);
    rig.submit(&cancelled, 1, None, receive("a", 600_000, |_| ()));
    rig.submit(&waits, 1, None, receive("a", 600_000, |_| ()));
    let (broker, id) = (rig.broker.clone(), cancelled.peer.id());
    rig.start_with(as_it_becomes_ready(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(broker.cancel(id, 1));
    }));
    assert_eq!(rig.ready("a"), 0);
    rig.pass(1_000);
    assert_eq!(rig.bodies(&mut waits), ["later"]);
    assert_eq!(rig.refusal(&mut cancelled), ErrorCode::Cancelled);
}

#[test]
fn message_goes_to_the_next_one_when_the_receive_that_was_woken_for_it_is_held_back() {
    let mut rig = Rig::new();
    let (mut slow, mut waits) = (rig.connect(), rig.connect());
    // Of what becomes ready at once a record delivers 8 MiB, and then the connection that they go to
    // has too much to read to be given the message in the other queue, too.
    for _ in 0..9 {
        let large = message(vec![b'x'; 1 << 20], false);
        let later = NewMessage { due: Some(Due::After(1_000)), ..large };
        rig.apply(Command::Send(SendCommand { queue: name("b"), messages: vec![later] }));
    }
    send_later(&mut rig);
    for correlation in 0..9 {
        rig.submit(&slow, correlation, None, receive("b", 600_000, |_| ()));
    }
    rig.submit(&slow, 9, None, receive("a", 600_000, |_| ()));
    rig.submit(&waits, 1, None, receive("a", 600_000, |_| ()));
    rig.start();
    assert_eq!(rig.ready("a"), 0);
    rig.pass(1_000);
    assert_eq!(rig.bodies(&mut waits), ["later"]);
    assert_eq!(rig.ready("b"), 1);
    // Those that were held back go on when it has read.
    for _ in 0..8 {
        assert_eq!(rig.bodies(&mut slow).len(), 1);
    }
    rig.broker.drained(slow.peer.id());
    assert_eq!(rig.bodies(&mut slow).len(), 1);
    rig.submit(&waits, 2, None, send("a", &["more"]));
    assert_eq!(rig.bodies(&mut slow), ["more"]);
}

#[test]
fn receive_that_is_held_back_ends_when_it_comes_again() {
    let mut rig = Rig::new();
    let (mut slow, mut anew) = (rig.connect(), rig.connect());
    send_large(&mut rig, 3);
    rig.start();
    fill(&rig, &slow);
    assert_eq!(rig.ready("b"), 0);
    rig.submit(&slow, 1, Some(origin(1)), receive("a", 600_000, |_| ()));
    rig.submit(&anew, 1, Some(origin(1)), receive("a", 600_000, |_| ()));
    assert_eq!(rig.ready("a"), 0);
    read(&rig, &mut slow);
    assert_eq!(rig.refusal(&mut slow), ErrorCode::Cancelled);
    rig.submit(&slow, 2, None, send("a", &["one", "two"]));
    assert_eq!(rig.bodies(&mut anew), ["one"]);
    assert_eq!(rig.ready("a"), 1, "nothing is taken for the connection that was lost");
}

/// Sends a message to queue `a` and receives it.
fn lease(rig: &Rig, client: &mut Connection) -> Receipt {
    rig.submit(client, 91, None, send("a", &["one"]));
    rig.submit(client, 92, None, receive("a", 0, |_| ()));
    rig.answer(client);
    match rig.answer(client).1 {
        Answer::Receive(received) => received.messages[0].receipt,
        other => panic!("{other:?}"),
    }
}

#[test]
fn receipts_of_a_receive_that_is_held_back_are_settled_at_once() {
    let mut rig = Rig::new();
    let mut slow = rig.connect();
    send_large(&mut rig, 3);
    rig.start();
    let receipt = lease(&rig, &mut slow);
    fill(&rig, &slow);
    assert_eq!(rig.ready("b"), 0);
    rig.submit(&slow, 1, Some(origin(1)), receive("a", 600_000, |r| r.settle = vec![receipt]));
    let statistics = rig.statistics("a");
    assert_eq!((statistics.leased, statistics.deleted), (0, 1));
    // It has its message and its statuses when the connection has read.
    rig.submit(&slow, 2, None, send("a", &["two"]));
    read(&rig, &mut slow);
    assert_eq!(rig.answer(&mut slow).0, 2);
    let Answer::Receive(received) = rig.answer(&mut slow).1 else { panic!() };
    assert_eq!(received.settled.runs, [(1, None)]);
    assert_eq!(received.messages[0].body.bytes, "two");
}

#[test]
fn receive_that_has_settled_and_waits_outlives_the_answers_of_others() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    rig.start();
    let receipt = lease(&rig, &mut client);
    let settles = |receive: &mut qd_protocol::verbs::Receive| receive.settle = vec![receipt];
    rig.submit(&client, 3, Some(origin(1)), receive("a", 600_000, settles));
    // More requests than answers are kept of, each answered before the next.
    for number in 2..2_052 {
        rig.submit(&client, 4, Some(origin(number)), send("b", &["x"]));
    }
    for _ in 2..2_052 {
        assert!(matches!(rig.answer(&mut client), (4, Answer::Send(_))));
    }
    let mut other = rig.connect();
    rig.submit(&other, 1, None, send("a", &["two"]));
    assert!(matches!(rig.answer(&mut other).1, Answer::Send(_)));
    let Answer::Receive(received) = rig.answer(&mut client).1 else { panic!() };
    assert_eq!(received.settled.runs, [(1, None)]);
    assert_eq!(received.messages[0].body.bytes, "two");
    // A repeat gets the message again; of the receipt only that nothing is known any more.
    rig.submit(&other, 2, Some(origin(1)), receive("a", 600_000, settles));
    let Answer::Receive(again) = rig.answer(&mut other).1 else { panic!() };
    assert_eq!(again.messages, received.messages);
    let refusal = again.settled.entries().next().unwrap().unwrap_err();
    assert_eq!(refusal.code, ErrorCode::AnswerForgotten);
}
