//! Lists and counters, however many and however long.

use bytes::BytesMut;
use qd::broker::{Answer, Work};
use qd::shard::command::Create;
use qd::shard::{Command, Entry};
use qd_protocol::verbs::{self, Counted, IfExists, List, Listed, SendEntry, Stats};
use qd_protocol::wire::{Payload, Reader};
use qd_protocol::{AttributeChanges, QueueName, Statistics};

use super::{Connection, Rig, START_MS, name, receive, send};

/// Adds a thousand queues with long names.
fn create_many(rig: &mut Rig) {
    create_thousand(rig, "a");
}

/// Adds another thousand.
fn create_more(rig: &mut Rig) {
    create_thousand(rig, "c");
}

fn create_thousand(rig: &mut Rig, letter: &str) {
    let create = |number| {
        Command::Create(Create {
            queue: name(&format!("{}{number:04}", letter.repeat(110))),
            if_exists: IfExists::Compare,
            attributes: AttributeChanges::default(),
            with: None,
        })
    };
    let entries = (0..1_000).map(|number| Entry { origin: None, command: create(number) });
    rig.local.as_mut().unwrap().replicate(START_MS, entries.collect(), true).unwrap();
}

fn listed(rig: &Rig, client: &mut Connection) -> Listed {
    match rig.answer(client).1 {
        Answer::List(listed) => listed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lists_hold_up_nobody_until_they_are_done() {
    let mut rig = Rig::new();
    create_many(&mut rig);
    let (mut lists, mut other) = (rig.connect(), rig.connect());
    // Each takes as many steps as the product of the lengths, a thousand times.
    let pattern = format!("*{}b", "a".repeat(60));
    for correlation in 0..20 {
        let list = List { pattern: Some(pattern.clone()), after: None, limit: 1 };
        rig.submit(&lists, correlation, None, Work::List(list));
    }
    rig.start();
    rig.submit(&other, 1, None, send("a", &["meanwhile"]));
    assert!(matches!(rig.answer(&mut other).1, Answer::Send(_)));
    assert_eq!(rig.ready("a"), 1);
    assert!(lists.replies.try_recv().is_err(), "they are not done yet");
    for _ in 0..20 {
        let listed = listed(&rig, &mut lists);
        assert!(listed.queues.is_empty() && !listed.more);
    }
}

#[test]
fn list_that_goes_on_after_other_records_finds_all() {
    let mut rig = Rig::new();
    create_many(&mut rig);
    let mut client = rig.connect();
    rig.start();
    let mut names: Vec<QueueName> = Vec::new();
    for (at, count) in [(0, 400), (1, 400), (2, 200)] {
        let pattern = Some(format!("*{}*", "a".repeat(60)));
        let list = List { pattern, after: names.last().cloned(), limit: 400 };
        rig.submit(&client, at, None, Work::List(list));
        let listed = listed(&rig, &mut client);
        assert_eq!((listed.queues.len(), listed.more), (count, at < 2));
        names.extend(listed.queues.into_iter().map(|queue| queue.name));
    }
    assert!(names.is_sorted() && names.first() < names.last());
    names.dedup();
    assert_eq!(names.len(), 1_000);
}

fn stats(names: &[&str], patterns: &[&str]) -> Work {
    let names = names.iter().map(|queue| name(queue)).collect();
    let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    Work::stats(Stats { names, patterns }).unwrap()
}

/// One answer of a `stats`, and in how many parts it came.
fn counted(rig: &Rig, client: &mut Connection) -> (Vec<(QueueName, Statistics)>, usize) {
    let (mut payload, mut parts) = (BytesMut::new(), 0);
    loop {
        match rig.answer(client).1 {
            Answer::Stats(part, more) => {
                payload.extend_from_slice(&part);
                parts += 1;
                if !more {
                    let input = &mut Reader::new(payload.freeze());
                    return (Counted::decode(input).unwrap().queues, parts);
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn stats_have_what_was_asked_for_once() {
    let mut rig = Rig::new();
    create_many(&mut rig);
    let mut client = rig.connect();
    rig.start();
    rig.submit(&client, 1, None, send("b", &["1", "2"]));
    assert!(matches!(rig.answer(&mut client).1, Answer::Send(_)));
    rig.pass(7_000);
    let first = format!("{}0000", "a".repeat(110));
    for (names, patterns, expected) in [
        (&["b", "a", "b", "missing"][..], &[][..], &["a", "b"][..]),
        (&["b", "missing"], &["?", "*a0000"], &["a", &first, "b"]),
        (&[], &["*a0000", "none*"], &[&first]),
        (&[], &["none*"], &[]),
        (&["missing"], &[], &[]),
    ] {
        rig.submit(&client, 1, None, stats(names, patterns));
        let (found, _) = counted(&rig, &mut client);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, expected);
        for (queue, statistics) in found {
            let is_b = queue.as_str() == "b";
            let Statistics { ready, sent, oldest_age_s, .. } = statistics;
            assert_eq!((ready, sent, oldest_age_s), if is_b { (2, 2, 7) } else { (0, 0, 0) });
        }
    }
}

#[test]
fn oldest_age_follows_the_oldest_message() {
    let mut rig = Rig::new();
    rig.start();
    let mut client = rig.connect();
    let mut age = |rig: &mut Rig, expected| {
        rig.submit(&client, 1, None, stats(&["a"], &[]));
        let found = counted(rig, &mut client).0[0].1;
        assert_eq!(found.oldest_age_s, expected);
        assert_eq!(rig.statistics("a").oldest_age_s, expected);
    };
    let mut worker = rig.connect();
    age(&mut rig, 0);
    for body in ["old", "new"] {
        rig.submit(&worker, 1, None, send("a", &[body]));
        rig.answer(&mut worker);
        rig.pass(5_000);
    }
    age(&mut rig, 10);
    rig.pass(1_000);
    age(&mut rig, 11);
    for expected in [6, 0] {
        rig.submit(&worker, 1, None, receive("a", 0, |receive| receive.delete_on_receive = true));
        assert_eq!(rig.bodies(&mut worker).len(), 1);
        age(&mut rig, expected);
    }
    rig.submit(&worker, 1, None, send("a", &["newest"]));
    rig.answer(&mut worker);
    rig.pass(3_000);
    age(&mut rig, 3);
}

#[test]
fn stats_of_many_queues_are_of_one_moment() {
    let mut rig = Rig::new();
    create_many(&mut rig);
    let (lists, mut client, mut sender) = (rig.connect(), rig.connect(), rig.connect());
    let pattern = format!("*{}b", "a".repeat(60));
    // With these the looks at a thousand queues take many rounds, with a record before each.
    for correlation in 0..20 {
        let list = List { pattern: Some(pattern.clone()), after: None, limit: 1 };
        rig.submit(&lists, correlation, None, Work::List(list));
    }
    rig.submit(&client, 1, None, stats(&[], &[]));
    rig.start();
    let (first, last) = (format!("{}0000", "a".repeat(110)), "b");
    let mut sent = 0;
    let queues = loop {
        let sends = [&first, last].map(|queue| {
            let entries = vec![SendEntry::new("both or neither")];
            verbs::Send { queue: name(queue), entries }
        });
        let both = verbs::Transact { deletes: Vec::new(), sends: sends.into() };
        rig.submit(&sender, 1, None, Work::transact(both).unwrap());
        assert!(matches!(rig.answer(&mut sender).1, Answer::Transact(_)));
        sent += 1;
        if !client.replies.is_empty() {
            break counted(&rig, &mut client).0;
        }
    };
    assert!(sent > 2, "it took {sent} records");
    assert_eq!(queues.len(), 1_002);
    let of = |queue: &str| queues.iter().find(|(name, _)| name.as_str() == queue).unwrap().1.sent;
    assert_eq!(of(&first), of(last));
    assert!((1..=sent).contains(&of(last)));
}

#[test]
fn long_answers_come_in_parts_and_wait_for_those_before_them_to_be_read() {
    let mut rig = Rig::new();
    create_many(&mut rig);
    create_more(&mut rig);
    let (mut slow, mut other) = (rig.connect(), rig.connect());
    rig.start();
    rig.submit(&slow, 1, None, stats(&[], &[]));
    rig.submit(&slow, 2, None, stats(&[], &[]));
    // Whoever comes behind the one that has not read does not wait for it.
    rig.submit(&other, 3, None, stats(&[], &[]));
    assert_eq!(counted(&rig, &mut other).0.len(), 2_002);
    rig.submit(&other, 4, None, stats(&["a"], &[]));
    assert_eq!(counted(&rig, &mut other), (vec![(name("a"), Statistics::default())], 1));
    assert_eq!(slow.replies.len(), 2, "the two parts of one answer");
    assert_eq!(counted(&rig, &mut slow).1, 2);
    let (queues, parts) = counted(&rig, &mut slow);
    assert_eq!((queues.len(), parts), (2_002, 2));
    assert!(queues.is_sorted_by_key(|(name, _)| name));
}
