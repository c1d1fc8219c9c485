//! Purge, pause and atomic steps where random histories do not reach.

use qd::shard::command::{Purge, Send, Transact, Update};
use qd::shard::{Command, NewMessage, Outcome};
use qd_protocol::verbs::{Purged, ReceivedMessage, Sent, SentRun};
use qd_protocol::{AttributeChanges, ErrorCode, Receipt, Refusal};

use super::{Run, message, name};

fn whole() -> Purge {
    Purge {
        queue: name("jobs"),
        older_than_ms: None,
        headers: Vec::new(),
        dry_run: false,
        after: 0,
        through: 0,
    }
}

fn purge(run: &mut Run, purge: Purge) -> Purged {
    match run.run(Command::Purge(purge)) {
        Outcome::Purged(purged) => purged,
        other => panic!("{other:?}"),
    }
}

#[test]
fn whole_of_a_large_queue_is_purged_at_once_and_its_rows_are_freed_little_by_little() {
    let mut run = Run::new(AttributeChanges::default());
    for from in (0..10_000u32).step_by(1_000) {
        let with = |at: u32| {
            let (group, dedup_id) = (format!("{}", at % 5_000), format!("{at}"));
            message(u8::try_from(at % 3).unwrap(), &group, Some(&dedup_id))
        };
        run.send("jobs", (from..from + 1_000).map(with).collect());
    }
    let held = run.receive(500);
    let dry_run = Purge { dry_run: true, ..whole() };
    assert_eq!(purge(&mut run, dry_run).messages, 10_000);
    assert_eq!(run.statistics("jobs").ready, 9_500);
    let entry = qd::shard::Entry { origin: None, command: Command::Purge(whole()) };
    let applied = run.record(vec![entry]);
    let purged = Purged { messages: 10_000, skipped: 0, last: 0, through: 0, more: false };
    assert_eq!(applied.outcomes, [Outcome::Purged(purged)]);
    // The queue is as good as new while the old rows go.
    let mut unfinished = applied.unfinished;
    let mut records = 0;
    while unfinished {
        if records % 32 == 0 {
            run.check();
        }
        records += 1;
        if records == 3 {
            run.reopen();
        }
        let at = run.send("jobs", vec![message(0, "new", Some("1"))])[0].unwrap();
        assert_eq!(at.duplicate, records > 1);
        unfinished = run.record(Vec::new()).unfinished;
    }
    assert!(records > 10, "{records} records");
    run.check();
    let statistics = run.statistics("jobs");
    assert_eq!((statistics.ready, statistics.leased, statistics.deleted), (1, 0, 10_000));
    assert_eq!((statistics.sent, statistics.received), (10_001, 500));
    let receipts: Vec<Receipt> = held.iter().map(|message| message.receipt).collect();
    let statuses = run.settle(qd::shard::command::Action::Delete, receipts);
    let mut entries = statuses.entries().map(|entry| entry.unwrap_err().code);
    assert!(entries.all(|code| code == ErrorCode::ReceiptExpired));
    let next = run.receive(10);
    assert_eq!(next.iter().map(|message| message.id).collect::<Vec<_>>(), [10_001]);
    assert!(next[0].receipt.lease > held[0].receipt.lease);
}

#[test]
fn filtered_purge_of_a_large_queue_goes_on_where_it_stopped() {
    let mut run = Run::new(AttributeChanges::default());
    for _ in 0..3 {
        run.send("jobs", vec![message(0, "old", None); 1_000]);
    }
    let held = run.receive(7);
    run.now_ms += 1_000;
    run.send("jobs", vec![message(0, "new", None); 1_000]);
    let mut request = Purge { older_than_ms: Some(1_000), ..whole() };
    let (mut messages, mut skipped, mut requests) = (0, 0, 0);
    loop {
        let purged = purge(&mut run, request.clone());
        assert!(purged.messages + purged.skipped <= 1_000);
        run.check();
        assert_eq!(purged.through, 4_000);
        messages += purged.messages;
        skipped += purged.skipped;
        requests += 1;
        if !purged.more {
            assert_eq!(purged.last, purged.through);
            break;
        }
        assert!(purged.last > request.after);
        (request.after, request.through) = (purged.last, purged.through);
        // What comes meanwhile is not meant.
        run.send("jobs", vec![message(0, "late", None)]);
    }
    assert_eq!((messages, skipped), (2_993, 7));
    assert!(requests >= 4, "{requests} requests");
    run.delete(&held);
    let statistics = run.statistics("jobs");
    assert_eq!((statistics.ready, statistics.deleted), (1_000 + requests - 1, 3_000));
}

#[test]
fn paused_queue_gives_nothing_and_takes_everything() {
    let mut run = Run::new(AttributeChanges::default());
    run.send("jobs", vec![message(0, "a", None); 3]);
    let held = run.receive(1);
    let pause = |paused| {
        let attributes = AttributeChanges { paused: Some(paused), ..AttributeChanges::default() };
        Command::Update(Update { queue: name("jobs"), attributes })
    };
    assert_eq!(run.run(pause(true)), Outcome::Updated(true));
    run.send("jobs", vec![message(0, "a", None)]);
    assert!(run.receive(10).is_empty());
    run.delete(&held);
    assert_eq!(run.statistics("jobs").ready, 3);
    assert_eq!(run.machine.ready(&name("jobs")).0, 0);
    run.run(pause(false));
    assert_eq!(run.machine.ready(&name("jobs")).0, 3);
    assert_eq!(run.receive(10).len(), 3);
}

fn transact(
    run: &mut Run,
    deletes: &[ReceivedMessage],
    sends: &[(&str, Vec<NewMessage>)],
) -> Result<Vec<Vec<SentRun>>, Refusal> {
    let receipts = deletes.iter().map(|message| message.receipt).collect();
    let send = |(queue, messages): &(&str, Vec<NewMessage>)| Send {
        queue: name(queue),
        messages: messages.clone(),
    };
    let step = Transact {
        deletes: vec![(name("jobs"), receipts)],
        sends: sends.iter().map(send).collect(),
    };
    match run.run(Command::Transact(step)) {
        Outcome::Transacted(parts) => Ok(parts.into_iter().map(|Sent { runs }| runs).collect()),
        Outcome::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn step_that_is_refused_says_which_part_and_does_nothing() {
    let mut run = Run::new(AttributeChanges::default());
    let limits = AttributeChanges { max_messages: Some(2), ..AttributeChanges::default() };
    run.create("b", limits);
    run.send("b", vec![message(0, "a", None)]);
    run.send("jobs", vec![message(0, "a", None); 2]);
    let held = run.receive(2);
    let plain = || message(0, "a", None);
    let refusal =
        transact(&mut run, &held, &[("other", vec![plain()]), ("b", vec![plain(), plain()])]);
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::QueueFull);
    assert_eq!(refusal.queue.as_deref(), Some("b"));
    assert!(refusal.text.starts_with("message 2 for queue \"b\": "), "{}", refusal.text);
    assert!(refusal.text.ends_with("; nothing was done"), "{}", refusal.text);
    let twice = [held[0].clone(), held[1].clone(), held[0].clone()];
    let refusal = transact(&mut run, &twice, &[("other", vec![plain()])]).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::ReceiptExpired);
    assert!(refusal.text.starts_with("receipt 3 of queue \"jobs\": "), "{}", refusal.text);
    assert!(refusal.text.ends_with("; nothing was done"), "{}", refusal.text);
    let refusal = transact(&mut run, &held, &[("none", vec![plain()])]).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::NoSuchQueue);
    assert_eq!(run.statistics("jobs").leased, 2);
    assert_eq!((run.statistics("other").sent, run.statistics("b").sent), (0, 1));
    run.check();
}

#[test]
fn step_may_use_the_room_that_its_own_deletions_free() {
    let limits = AttributeChanges { max_messages: Some(2), ..AttributeChanges::default() };
    let mut run = Run::new(limits);
    run.send("jobs", vec![message(0, "a", None), message(0, "b", Some("x"))]);
    let held = run.receive(2);
    let again = NewMessage { unique: true, ..message(0, "c", Some("x")) };
    let known = message(0, "c", Some("x"));
    let next = vec![message(0, "c", None), known.clone(), again.clone()];
    // The window of "x" is open, but no message with it is live when the deletions are done.
    let sent = transact(&mut run, &held, &[("jobs", next)]).unwrap();
    let expected = vec![
        SentRun::Stored { first: 3, count: 1 },
        SentRun::Duplicate { id: 2, count: 1 },
        SentRun::Stored { first: 4, count: 1 },
    ];
    assert_eq!(sent, [expected]);
    let statistics = run.statistics("jobs");
    assert_eq!((statistics.ready, statistics.leased, statistics.deleted), (2, 0, 2));
    // A step of duplicates only needs no room.
    let sent = transact(&mut run, &[], &[("jobs", vec![known, again])]).unwrap();
    assert_eq!(sent, [vec![SentRun::Duplicate { id: 4, count: 2 }]]);
    run.check();
}

#[test]
fn unique_message_whose_original_the_step_deletes_needs_room_like_any_other() {
    let limits = AttributeChanges { max_messages: Some(2), ..AttributeChanges::default() };
    let mut run = Run::new(limits);
    run.send("jobs", vec![message(0, "a", Some("x")), message(0, "a", None)]);
    let held = run.receive(1);
    let again = NewMessage { unique: true, ..message(0, "b", Some("x")) };
    let both = vec![message(0, "a", None), again.clone()];
    let refusal = transact(&mut run, &held, &[("jobs", both)]).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::QueueFull);
    assert!(refusal.text.starts_with("message 2 for queue \"jobs\": "), "{}", refusal.text);
    let sent = transact(&mut run, &held, &[("jobs", vec![again.clone(), again])]).unwrap();
    let expected = [SentRun::Stored { first: 3, count: 1 }, SentRun::Duplicate { id: 3, count: 1 }];
    assert_eq!(sent, [expected]);
    run.check();
}

#[test]
fn step_that_makes_a_queue_drop_messages_never_overfills_it() {
    // The original of a duplicate is dropped to make room for the message before it.
    let ring = AttributeChanges {
        max_messages: Some(2),
        overflow: Some(1),
        dead_letter_overflow: Some(true),
        ..AttributeChanges::default()
    };
    let mut run = Run::new(ring);
    let dead = AttributeChanges { max_messages: Some(1), ..AttributeChanges::default() };
    run.create("jobs.dead", dead);
    run.send("jobs", vec![message(0, "a", Some("x")), message(0, "b", None)]);
    let again = NewMessage { unique: true, ..message(0, "c", Some("x")) };
    let plain = message(0, "d", None);
    let next = [("jobs", vec![plain.clone(), again]), ("jobs.dead", vec![plain])];
    let refusal = transact(&mut run, &[], &next).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::QueueFull);
    for (queue, most) in [("jobs", 2), ("jobs.dead", 1)] {
        let statistics = run.statistics(queue);
        assert!(statistics.ready <= most, "{queue}: {statistics:?}");
    }
    run.check();
}
