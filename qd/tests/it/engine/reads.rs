//! Lists, however many and however long.

use qd::broker::{Answer, Work};
use qd::shard::command::Create;
use qd::shard::{Command, Entry};
use qd_protocol::verbs::{IfExists, List, Listed};
use qd_protocol::{AttributeChanges, QueueName};

use super::{Connection, Rig, START_MS, name, send};

/// Adds a thousand queues with long names.
fn create_many(rig: &mut Rig) {
    let create = |number| {
        Command::Create(Create {
            queue: name(&format!("{}{number:04}", "a".repeat(110))),
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
