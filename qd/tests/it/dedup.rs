//! Dedup ids: windows, unique messages, and that their rows go.

use qd::shard::command::{Action, Drop, Redrive};
use qd::shard::{Command, Outcome};
use qd_protocol::verbs::{Due, SentRun};
use qd_protocol::{AttributeChanges, ErrorCode};

use crate::machine::{Run, name, plain, with_dedup};

fn window(ms: u64) -> AttributeChanges {
    AttributeChanges { dedup_window_ms: Some(ms), ..AttributeChanges::default() }
}

fn redrive(run: &mut Run, queue: &str, to: Option<&str>) -> u64 {
    let redrive = Redrive {
        queue: name(queue),
        to: to.map(name),
        after: 0,
        through: 0,
        max: 100,
        headers: Vec::new(),
        dry_run: false,
    };
    match run.run(Command::Redrive(redrive)) {
        Outcome::Redriven(redriven) => redriven.moved,
        other => panic!("{other:?}"),
    }
}

#[test]
fn message_within_the_window_is_a_duplicate_whatever_became_of_the_original() {
    let mut run = Run::new();
    run.create("jobs", window(10_000));
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 1);
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -1);
    let receipts = run.receipts("jobs", 1);
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -1);
    run.settle("jobs", Action::Delete, receipts);
    run.now_ms += 9_999;
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -1);
    assert_eq!(run.send_one("jobs", with_dedup("b", false)), 2);
    run.now_ms += 1;
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 3);
    run.reopen();
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -3);
    let statistics = run.statistics("jobs");
    assert_eq!((statistics.sent, statistics.duplicates, statistics.ready), (3, 4, 2));
    run.replay();
}

#[test]
fn duplicates_of_one_batch_are_one_run_and_do_not_move_the_window() {
    let mut run = Run::new();
    run.create("jobs", window(10_000));
    let messages = ["a", "a", "a", "b", "a"].map(|id| with_dedup(id, false)).to_vec();
    let send = qd::shard::command::Send { queue: name("jobs"), messages };
    let Outcome::Sent(runs) = run.run(Command::Send(send)) else { panic!() };
    let expected = [
        SentRun::Stored { first: 1, count: 1 },
        SentRun::Duplicate { id: 1, count: 2 },
        SentRun::Stored { first: 2, count: 1 },
        SentRun::Duplicate { id: 1, count: 1 },
    ];
    assert_eq!(runs, expected);
    run.now_ms += 10_000;
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 3);
}

#[test]
fn unique_message_is_a_duplicate_while_one_is_live_and_only_then() {
    let mut run = Run::new();
    run.create("jobs", window(1_000));
    assert_eq!(run.send_one("jobs", with_dedup("a", true)), 1);
    run.now_ms += 100_000;
    assert_eq!(run.send_one("jobs", with_dedup("a", true)), -1);
    // Without unique only the window counts, and of two live ones the lowest is the original.
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 2);
    assert_eq!(run.send_one("jobs", with_dedup("a", true)), -1);
    run.discard("jobs", 1);
    assert_eq!(run.send_one("jobs", with_dedup("a", true)), -2);
    run.discard("jobs", 2);
    // The window of 2 is open, and one that is unique takes no notice of it.
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -2);
    assert_eq!(run.send_one("jobs", with_dedup("a", true)), 3);
    // It has opened a window of its own.
    run.discard("jobs", 3);
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -3);
    // Delayed, leased and blocked ones are live too.
    let delayed = qd::shard::NewMessage { due: Some(Due::After(50)), ..with_dedup("d", true) };
    assert_eq!(run.send_one("jobs", delayed), 4);
    assert_eq!(run.send_one("jobs", with_dedup("d", true)), -4);
    run.tick(50);
    run.receive("jobs", 1);
    assert_eq!(run.send_one("jobs", with_dedup("d", true)), -4);
    run.replay();
}

#[test]
fn window_of_a_message_sent_without_one_closes_the_one_before() {
    let mut run = Run::new();
    run.create("jobs", window(10_000));
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 1);
    run.discard("jobs", 1);
    run.update("jobs", window(0));
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -1);
    assert_eq!(run.send_one("jobs", with_dedup("a", true)), 2);
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 3);
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 4);
    assert_eq!(run.send_one("jobs", with_dedup("a", true)), -2);
}

#[test]
fn duplicate_is_known_before_a_full_queue_refuses() {
    let mut run = Run::new();
    run.create("jobs", AttributeChanges { max_messages: Some(1), ..window(10_000) });
    let sent = run.send("jobs", vec![with_dedup("a", false), with_dedup("b", false)]);
    assert_eq!(sent, [(1, None), (0, Some(ErrorCode::QueueFull))]);
    assert_eq!(run.send("jobs", vec![with_dedup("a", true)]), [(-1, None)]);
    // What was refused has opened no window.
    run.discard("jobs", 1);
    assert_eq!(run.send_one("jobs", with_dedup("b", false)), 2);
}

#[test]
fn message_that_comes_from_another_queue_is_live_there_and_leaves_windows_alone() {
    let mut run = Run::new();
    run.create("jobs", window(10_000));
    run.create("other", window(10_000));
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 1);
    let receipts = run.receipts("jobs", 1);
    run.settle("jobs", Action::Reject { reason: String::new() }, receipts);
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -1);
    // It keeps its dedup id as a dead letter.
    assert_eq!(run.send_one("jobs.dead", with_dedup("a", true)), -1);
    assert_eq!(run.send_one("jobs.dead", with_dedup("a", false)), 2);
    assert_eq!(run.send_one("other", with_dedup("a", false)), 1);
    run.discard("other", 1);
    assert_eq!(redrive(&mut run, "jobs.dead", Some("other")), 2);
    // The window is that of the one that was sent, the live ones are those that have come.
    assert_eq!(run.send_one("other", with_dedup("a", false)), -1);
    assert_eq!(run.send_one("other", with_dedup("a", true)), -2);
    run.now_ms += 10_000;
    assert_eq!(run.send_one("other", with_dedup("a", false)), 4);
    run.replay();
}

#[test]
fn expired_and_dropped_messages_keep_their_windows_and_nothing_else() {
    let mut run = Run::new();
    let ring = AttributeChanges {
        max_messages: Some(2),
        overflow: Some(1),
        retention_ms: Some(2_000),
        ..window(10_000)
    };
    run.create("jobs", ring);
    for (id, number) in [("a", 1), ("b", 2), ("c", 3)] {
        assert_eq!(run.send_one("jobs", with_dedup(id, false)), number);
    }
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -1);
    run.tick(2_000);
    assert_eq!(run.statistics("jobs").ready, 0);
    assert_eq!(run.send_one("jobs", with_dedup("c", false)), -3);
    assert_eq!(run.send_one("jobs", with_dedup("c", true)), 4);
    run.replay();
}

#[test]
fn large_message_has_its_dedup_id_in_its_parts() {
    let mut run = Run::new();
    run.create("jobs", window(0));
    let large = |unique| qd::shard::NewMessage {
        body: vec![1u8; 200_000].into(),
        crc: qd_protocol::Body::new(vec![1u8; 200_000]).crc,
        size: 200_000,
        ..with_dedup("a", unique)
    };
    assert_eq!(run.send("jobs", vec![plain("x"), large(true), large(true)])[2].0, -2);
    run.discard("jobs", 2);
    assert_eq!(run.send_one("jobs", large(true)), 3);
}

#[test]
fn windows_that_are_over_are_freed_by_and_by_and_wake_the_machine_once_a_second() {
    let mut run = Run::new();
    run.create("jobs", window(10_000));
    let messages: Vec<_> = (0..2_000).map(|id| with_dedup(&format!("id {id}"), false)).collect();
    let empty = run.machine.row_hash().unwrap();
    run.now_ms += 1;
    run.send("jobs", messages.clone());
    assert_eq!(run.machine.next_due_ms().unwrap(), Some(1_011_000));
    run.now_ms = 1_011_000;
    for _ in 0..7 {
        run.tick(0);
        assert_eq!(run.machine.next_due_ms().unwrap(), Some(1_011_000));
    }
    // New windows free old ones besides.
    run.send("jobs", messages[..50].to_vec());
    for _ in 0..3 {
        run.tick(0);
    }
    assert_eq!(run.machine.next_due_ms().unwrap(), Some(1_021_000));
    run.run(Command::Drop(Drop { queue: name("jobs"), only_if_empty: false }));
    for _ in 0..150 {
        run.tick(0);
    }
    assert_eq!(run.machine.next_due_ms().unwrap(), None);
    run.replay();
    let mut other = Run::new();
    other.create("jobs", window(10_000));
    assert_eq!(other.machine.row_hash().unwrap(), empty);
    other.run(Command::Drop(Drop { queue: name("jobs"), only_if_empty: false }));
    other.tick(0);
    assert_eq!(other.machine.row_hash().unwrap(), run.machine.row_hash().unwrap());
}

#[test]
fn queue_made_anew_knows_no_dedup_id() {
    let mut run = Run::new();
    run.create("jobs", window(10_000));
    run.send_one("jobs", with_dedup("a", false));
    run.run(Command::Drop(Drop { queue: name("jobs"), only_if_empty: false }));
    run.create("jobs", window(10_000));
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 1);
}
