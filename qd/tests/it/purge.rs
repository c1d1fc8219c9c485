//! Purging: all at once, and what matches.

use qd::shard::command::{Action, Purge, Send};
use qd::shard::{Command, NewMessage, Outcome};
use qd_protocol::verbs::{Due, Purged};
use qd_protocol::{AttributeChanges, ErrorCode, Receipt, Refusal};

use crate::machine::{Run, name, plain, with_dedup, with_header};

fn purge(queue: &str) -> Purge {
    Purge {
        queue: name(queue),
        older_than_ms: None,
        headers: Vec::new(),
        dry_run: false,
        after: 0,
        through: 0,
    }
}

fn purged(run: &mut Run, purge: Purge) -> Purged {
    match run.run(Command::Purge(purge)) {
        Outcome::Purged(purged) => purged,
        other => panic!("{other:?}"),
    }
}

fn all(messages: u64) -> Purged {
    Purged { messages, skipped: 0, last: 0, through: 0, more: false }
}

fn refusals(run: &mut Run, queue: &str, receipts: Vec<Receipt>) -> Vec<Option<ErrorCode>> {
    match run.settle(queue, Action::Delete, receipts) {
        Outcome::Settled(statuses) => {
            statuses.entries().map(|entry| entry.err().map(|r: &Refusal| r.code)).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// A queue with messages in all places: 1 leased, 2 blocked, 3 returned, 4 delayed, 5 with a time to
/// live, 6 untouched.
fn one_of_each(run: &mut Run) -> Vec<Receipt> {
    let attributes = AttributeChanges {
        dead_letter: Some(qd_protocol::attributes::DeadLetter::Queue(name("missing"))),
        retention_ms: Some(1 << 40),
        ..AttributeChanges::default()
    };
    run.create("jobs", attributes);
    let messages = ["a", "b", "c"].map(|id| with_dedup(id, false)).to_vec();
    run.send("jobs", messages);
    let receipts = run.receipts("jobs", 3);
    run.settle("jobs", Action::Reject { reason: String::new() }, vec![receipts[1]]);
    run.settle(
        "jobs",
        Action::Release { counted: true, due: Some(Due::After(0)) },
        vec![receipts[2]],
    );
    let delayed = NewMessage { due: Some(Due::After(5_000)), ..plain("d") };
    let mortal = NewMessage { ttl_ms: Some(50_000), ..plain("e") };
    run.send("jobs", vec![delayed, mortal, plain("f")]);
    let statistics = run.statistics("jobs");
    assert_eq!((statistics.ready, statistics.delayed, statistics.leased), (3, 2, 1));
    assert_eq!(statistics.dead_letter_blocked, 1);
    receipts
}

#[test]
fn purge_removes_all_messages_and_dedup_ids_and_ends_all_leases_at_once() {
    let mut run = Run::new();
    let receipts = one_of_each(&mut run);
    let before = run.machine.row_hash().unwrap();
    assert_eq!(purged(&mut run, Purge { dry_run: true, ..purge("jobs") }), all(6));
    assert_eq!(run.machine.row_hash().unwrap(), before);
    let described = |run: &Run| run.machine.describe(&name("jobs"), run.now_ms).unwrap().unwrap();
    let old = described(&run);
    run.now_ms += 1_000;
    assert_eq!(purged(&mut run, purge("jobs")), all(6));
    let new = described(&run);
    assert_eq!((new.created_at_ms, &new.attributes), (old.created_at_ms, &old.attributes));
    let statistics = qd_protocol::Statistics {
        sent: 6,
        received: 3,
        deleted: 6,
        ..qd_protocol::Statistics::default()
    };
    assert_eq!(new.statistics, statistics);
    let expired = Some(ErrorCode::ReceiptExpired);
    assert_eq!(refusals(&mut run, "jobs", receipts), [expired; 3]);
    assert!(run.receive("jobs", 10).messages.is_empty());
    // Nothing of it is due any more, nor comes back.
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), 7);
    run.reopen();
    run.tick(100_000);
    let received = run.receive("jobs", 10);
    assert_eq!(received.messages.iter().map(|message| message.id).collect::<Vec<_>>(), [7]);
    assert_eq!(received.messages[0].receipt.lease, 2);
    run.replay();
}

#[test]
fn rows_of_a_purged_queue_are_all_freed() {
    let mut run = Run::new();
    let large = vec![0u8; 100_000];
    one_of_each(&mut run);
    for _ in 0..5 {
        let mut messages: Vec<_> = (0..300).map(|id| with_dedup(&format!("{id}"), true)).collect();
        let crc = qd_protocol::Body::new(large.clone()).crc;
        messages.push(NewMessage { body: large.clone().into(), crc, size: 100_000, ..plain("") });
        run.send("jobs", messages);
        run.receive("jobs", 5);
        purged(&mut run, purge("jobs"));
    }
    for _ in 0..230 {
        run.tick(0);
    }
    let mut other = Run::new();
    one_of_each(&mut other);
    other.send("jobs", vec![plain(""); 4 * 301]);
    other.receive("jobs", 1);
    // The only row left of both is that of the queue.
    for queue in [&mut run, &mut other] {
        queue.run(Command::Drop(qd::shard::command::Drop {
            queue: name("jobs"),
            only_if_empty: false,
        }));
        for _ in 0..230 {
            queue.tick(0);
        }
        assert_eq!(queue.machine.next_due_ms().unwrap(), None);
    }
    assert_eq!(run.machine.row_hash().unwrap(), other.machine.row_hash().unwrap());
    run.replay();
}

#[test]
fn purge_takes_what_the_same_record_sent_before_it_and_not_what_comes_behind() {
    let mut run = Run::new();
    run.create("jobs", AttributeChanges { retention_ms: Some(1_000), ..Default::default() });
    let send = |body: &str| {
        Command::Send(Send { queue: name("jobs"), messages: vec![plain(body), plain(body)] })
    };
    let outcomes = run.record(vec![send("a"), Command::Purge(purge("jobs")), send("b")]);
    assert_eq!(outcomes[1], Outcome::Purged(all(2)));
    let received = run.receive("jobs", 10);
    assert_eq!(received.messages.iter().map(|message| message.id).collect::<Vec<_>>(), [3, 4]);
    run.tick(10_000);
    assert_eq!(run.statistics("jobs").expired, 2);
    assert_eq!(run.statistics("jobs").deleted, 2);
    run.replay();
}

#[test]
fn purge_with_a_filter_passes_over_leased_messages_and_what_does_not_match() {
    let mut run = Run::new();
    one_of_each(&mut run);
    let header = ("kind".to_owned(), "x".to_owned());
    let marked = |body| with_header(body, "kind", "x");
    run.send("jobs", vec![marked("g"), with_header("h", "kind", "y"), marked("i")]);
    let some = Purge { headers: vec![header.clone()], ..purge("jobs") };
    let result = Purged { messages: 2, skipped: 0, last: 9, through: 9, more: false };
    assert_eq!(purged(&mut run, Purge { dry_run: true, ..some.clone() }), result);
    assert_eq!(run.statistics("jobs").deleted, 0);
    assert_eq!(purged(&mut run, Purge { after: 7, ..some.clone() }).messages, 1);
    assert_eq!(purged(&mut run, Purge { through: 6, ..some.clone() }).messages, 0);
    assert_eq!(purged(&mut run, some).messages, 1);
    // Windows stay open: only a purge of all forgets dedup ids.
    run.now_ms += 1_000;
    run.send("jobs", vec![plain("young")]);
    let old = Purge { older_than_ms: Some(1_000), ..purge("jobs") };
    let result = Purged { messages: 6, skipped: 1, last: 10, through: 10, more: false };
    assert_eq!(purged(&mut run, old), result);
    assert_eq!(run.send_one("jobs", with_dedup("a", false)), -1);
    let statistics = run.statistics("jobs");
    assert_eq!((statistics.ready, statistics.delayed, statistics.leased), (1, 0, 1));
    assert_eq!((statistics.deleted, statistics.dead_letter_blocked), (8, 0));
    run.replay();
}

#[test]
fn purge_with_a_filter_goes_on_where_the_one_before_ended() {
    let mut run = Run::new();
    run.create("jobs", AttributeChanges::default());
    run.send("jobs", vec![plain("x"); 2_500]);
    run.now_ms += 1;
    run.send("jobs", vec![plain("young"); 10]);
    let mut next = Purge { older_than_ms: Some(1), ..purge("jobs") };
    let mut counts = Vec::new();
    loop {
        let Purged { messages, last, through, more, .. } = purged(&mut run, next.clone());
        counts.push(messages);
        // What is sent meanwhile is not meant.
        run.send("jobs", vec![plain("new")]);
        if !more {
            break;
        }
        next = Purge { after: last, through, ..next };
    }
    assert_eq!(counts.iter().sum::<u64>(), 2_500);
    assert!(counts.len() >= 3, "{counts:?}");
    assert_eq!(run.statistics("jobs").ready, 10 + counts.len() as u64);
    run.replay();
}

#[test]
fn queue_that_is_not_there_cannot_be_purged() {
    let mut run = Run::new();
    let outcome = run.run(Command::Purge(purge("jobs")));
    let Outcome::Refused(refusal) = outcome else { panic!("{outcome:?}") };
    assert_eq!(refusal.code, ErrorCode::NoSuchQueue);
}
