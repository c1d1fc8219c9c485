//! Dedup ids: sent as often as you like, stored once.

use std::collections::BTreeMap;

use proptest::prelude::*;
use qd::shard::command::{Purge, Update};
use qd::shard::{Command, NewMessage, Outcome};
use qd_protocol::AttributeChanges;
use qd_protocol::verbs::{Due, Stored};

use super::{Run, few, message, name};

/// Milliseconds.
const WINDOW: u64 = 5_000;

fn window(ms: u64) -> AttributeChanges {
    AttributeChanges { dedup_window_ms: Some(ms), ..AttributeChanges::default() }
}

/// Sends one message with this dedup id.
fn send(run: &mut Run, dedup_id: &str, unique: bool) -> Stored {
    let message = NewMessage { unique, ..message(0, "", Some(dedup_id)) };
    run.send("jobs", vec![message])[0].unwrap()
}

proptest! {
    #![proptest_config(few(60))]

    #[test]
    fn message_sent_again_within_the_window_is_stored_once(
        steps in proptest::collection::vec(
            (proptest::collection::vec(0u8..12, 1..12), 0u64..3_000, 0u8..8), 1..60),
    ) {
        let mut run = Run::new(window(WINDOW));
        // Id and end of the window by dedup id.
        let mut known: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
        let mut duplicates = 0;
        for (sent, ms, what) in steps {
            run.now_ms += ms;
            let now_ms = run.now_ms;
            let dedup_id = |number: &u8| format!("order-{number}");
            let messages = sent.iter().map(|number| message(0, "", Some(&dedup_id(number))));
            let fates = run.send("jobs", messages.collect());
            for (number, fate) in sent.iter().zip(fates) {
                let Stored { id, duplicate } = fate.unwrap();
                let open = known.get(number).filter(|(_, until_ms)| *until_ms > now_ms);
                if let Some((first, _)) = open {
                    prop_assert_eq!((id, duplicate), (*first, true));
                    duplicates += 1;
                } else {
                    prop_assert!(!duplicate && known.values().all(|(before, _)| *before < id));
                    known.insert(*number, (id, now_ms + WINDOW));
                }
            }
            match what {
                0 => run.reopen(),
                // That it is gone changes nothing.
                1 => drop(run.receive_with(5, |receive| receive.delete = true)),
                2 => drop(run.pass(0)),
                _ => {}
            }
            let statistics = run.statistics("jobs");
            prop_assert_eq!(statistics.duplicates, duplicates);
            prop_assert!(known.values().all(|(id, _)| *id <= statistics.sent));
            run.check();
        }
        // Nothing is left of them.
        run.pass(WINDOW);
        while !run.receive_with(100, |receive| receive.delete = true).is_empty() {}
        prop_assert_eq!(run.machine.next_due_ms().unwrap(), None);
        run.check();
    }
}

#[test]
fn unique_is_a_duplicate_while_a_message_with_its_id_is_live_and_no_longer() {
    let mut run = Run::new(window(0));
    let first = send(&mut run, "x", false);
    assert_eq!(send(&mut run, "x", true), Stored { id: first.id, duplicate: true });
    // Leased, delayed, and after any time.
    let received = run.receive(1);
    run.pass(1_000);
    assert!(send(&mut run, "x", true).duplicate);
    run.reopen();
    assert!(send(&mut run, "x", true).duplicate);
    run.delete(&received);
    let second = send(&mut run, "x", true);
    assert!(!second.duplicate);
    // Without a window, what is not unique is stored beside it; the lowest id is named.
    assert!(!send(&mut run, "x", false).duplicate);
    assert_eq!(send(&mut run, "x", true), Stored { id: second.id, duplicate: true });
    assert_eq!(run.statistics("jobs").duplicates, 4);
    run.check();
}

#[test]
fn newest_message_that_was_accepted_says_how_long_the_window_is() {
    let mut run = Run::new(window(WINDOW));
    send(&mut run, "x", false);
    let received = run.receive(1);
    run.delete(&received);
    assert!(send(&mut run, "x", false).duplicate);
    let update = |ms| Command::Update(Update { queue: name("jobs"), attributes: window(ms) });
    // A change is for messages accepted from then on.
    run.run(update(0));
    assert!(send(&mut run, "x", false).duplicate);
    assert!(!send(&mut run, "x", true).duplicate);
    assert!(!send(&mut run, "x", false).duplicate);
    run.run(update(WINDOW));
    let newest = {
        while !run.receive_with(9, |receive| receive.delete = true).is_empty() {}
        send(&mut run, "x", true)
    };
    run.pass(WINDOW - 1);
    assert_eq!(send(&mut run, "x", false), Stored { id: newest.id, duplicate: true });
    run.pass(1);
    assert!(!send(&mut run, "x", false).duplicate);
    run.check();
}

#[test]
fn duplicate_is_one_also_where_the_message_would_be_refused() {
    let full = AttributeChanges {
        max_messages: Some(1),
        paused: Some(true),
        ordered: Some(true),
        ..AttributeChanges::default()
    };
    let mut run = Run::new(full);
    assert!(!send(&mut run, "x", false).duplicate);
    let other = NewMessage { due: Some(Due::After(9)), ..message(0, "", Some("x")) };
    let fates = run.send("jobs", vec![message(0, "", None), other, message(3, "", None)]);
    assert_eq!(fates[1], Ok(Stored { id: 1, duplicate: true }));
    assert!(fates[0].is_err() && fates[2].is_err());
    assert_eq!(run.statistics("jobs").duplicates, 1);
}

#[test]
fn purge_forgets_dedup_ids_and_reopening_does_not() {
    let mut run = Run::new(window(WINDOW));
    send(&mut run, "x", false);
    run.reopen();
    assert!(send(&mut run, "x", false).duplicate && send(&mut run, "x", true).duplicate);
    let purge = Purge {
        queue: name("jobs"),
        older_than_ms: None,
        headers: Vec::new(),
        dry_run: false,
        after: 0,
        through: 0,
    };
    assert!(matches!(run.run(Command::Purge(purge)), Outcome::Purged(_)));
    run.check();
    assert!(!send(&mut run, "x", false).duplicate);
    run.pass(WINDOW);
    run.check();
}

#[test]
fn very_many_windows_end_in_bounded_records() {
    let mut run = Run::new(window(WINDOW));
    for from in (0..10_000).step_by(1_000) {
        let messages = from..from + 1_000;
        run.send("jobs", messages.map(|at| message(0, "", Some(&format!("{at}")))).collect());
    }
    while !run.receive_with(1_000, |receive| receive.delete = true).is_empty() {}
    run.reopen();
    run.check();
    assert!(run.pass(WINDOW) > 5);
    assert_eq!(run.machine.next_due_ms().unwrap(), None);
    run.check();
}
