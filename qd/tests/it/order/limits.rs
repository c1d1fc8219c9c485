//! Work of a record that is bounded, whatever a client asks for.

use qd::shard::command::{Purge, Receive, Send, Transact};
use qd::shard::{Command, Entry, NewMessage, Outcome, SETTLED_PER_RECORD_MAX};
use qd_protocol::verbs::{SendEntry, Sent, SentRun};
use qd_protocol::{AttributeChanges, ErrorCode};

use super::{Run, group, message, name};
use crate::random_work::stored;

#[test]
fn receive_does_not_pass_over_all_groups_whose_time_is_over() {
    for ordered in [false, true] {
        let ordered = AttributeChanges { ordered: Some(ordered), ..AttributeChanges::default() };
        let mut run = Run::new(ordered);
        let groups = 4 * SETTLED_PER_RECORD_MAX;
        let dying = |at: usize| {
            let group = format!("{at:04}");
            NewMessage { ttl_ms: Some(10), ..message(0, &group, None) }
        };
        run.send("jobs", (0..groups).map(dying).collect());
        run.send("jobs", vec![message(0, "living", None)]);
        run.now_ms += 10;
        let receive = Receive {
            queues: vec![name("jobs")],
            max: 1,
            bytes_max: 1 << 20,
            visibility_timeout_ms: None,
            delete: true,
            settle: Vec::new(),
            secret: 1,
        };
        let mut put_off = 0;
        let received = loop {
            let outcome = run.run(Command::Receive(receive.clone()));
            let Outcome::Received(received) = outcome else { panic!("{outcome:?}") };
            run.check();
            if !received.unfinished {
                break received;
            }
            assert_eq!(received.messages, []);
            put_off += 1;
        };
        // Each record settles some, and looks at no more than it may.
        assert!((1..8).contains(&put_off), "{put_off} times");
        assert_eq!(received.messages.iter().map(group).collect::<Vec<_>>(), ["living"]);
    }
}

#[test]
fn step_looks_one_dedup_id_up_once_however_many_messages_have_it() {
    // Each look-up passes over all that the step deletes: thousands of them would take minutes.
    let window = AttributeChanges { dedup_window_ms: Some(0), ..AttributeChanges::default() };
    let mut run = Run::new(window);
    run.send("jobs", vec![message(0, "", Some("x")); 5_000]);
    let held = run.receive(4_999);
    let receipts = held.iter().map(|message| message.receipt).collect();
    let again = NewMessage { unique: true, ..message(0, "", Some("x")) };
    let send = Send { queue: name("jobs"), messages: vec![again; 10_000] };
    let step = Transact { deletes: vec![(name("jobs"), receipts)], sends: vec![send] };
    let known = Sent { runs: vec![SentRun::Duplicate { id: 5_000, count: 10_000 }] };
    assert_eq!(run.run(Command::Transact(step)), Outcome::Transacted(vec![known]));
    run.check();
}

#[test]
fn full_queue_drops_the_oldest_of_its_lanes_behind_however_many_leased_ones() {
    let mut run = Run::new(AttributeChanges {
        max_messages: Some(2_503),
        overflow: Some(1),
        ..AttributeChanges::default()
    });
    run.send("jobs", vec![message(1, "", None)]);
    for _ in 0..2_500 {
        run.send("jobs", vec![message(5, "", None)]);
    }
    let held = run.receive(2_500);
    run.send("jobs", vec![message(5, "a", None), message(5, "b", None)]);
    assert!(run.send("jobs", vec![message(5, "c", None)])[0].is_ok());
    // A record looks so far only; the next one goes on from there, also after a restart.
    let mut refused = 0;
    while run.send("jobs", vec![message(5, "e", None)])[0] == Err(ErrorCode::QueueFull) {
        refused += 1;
        assert!(refused < 10, "it is refused for ever");
        run.check();
        run.reopen();
    }
    assert_eq!(refused, 2);
    assert!(run.send("jobs", vec![message(5, "f", None)])[0].is_ok());
    // What comes back before it is older.
    run.pass(10_000);
    assert!(run.send("jobs", vec![message(5, "g", None)])[0].is_ok());
    run.check();
    assert_eq!(run.statistics("jobs").dropped, 4);
    let ids: Vec<u64> = run.receive(2_503).iter().map(|message| message.id).collect();
    assert!([1, held[0].id, 2_502, 2_503].iter().all(|id| !ids.contains(id)));
    assert!(ids.contains(&held[1].id) && ids.contains(&2_504));
}

#[test]
fn messages_of_lanes_come_whole_whether_they_fit_or_are_the_first_that_does_not() {
    let mut run = Run::new(AttributeChanges::default());
    let large = |at: u8| {
        let mut entry = SendEntry::new(vec![at; 50_000]);
        entry.properties.group = format!("{}", at % 3);
        stored(entry)
    };
    run.send("jobs", (0..20).map(large).collect());
    let mut count = 0;
    for (bytes_max, most) in [(1, 1), (120_000, 2), (1 << 20, 20), (1, 0)] {
        let received = run.receive_with(100, |receive| receive.bytes_max = bytes_max);
        assert!(received.len() <= most && received.iter().all(|message| message.body.is_intact()));
        assert!(received.iter().all(|message| message.body.bytes.len() == 50_000));
        count += received.len();
        run.check();
    }
    assert_eq!(count, 20);
}

/// Purges all of `jobs`. Returns whether rows of it are left.
fn purge(run: &mut Run) -> bool {
    let purge = Purge {
        queue: name("jobs"),
        older_than_ms: None,
        headers: Vec::new(),
        dry_run: false,
        after: 0,
        through: 0,
    };
    run.record(vec![Entry { origin: None, command: Command::Purge(purge) }]).unfinished
}

#[test]
fn rows_of_a_purged_queue_that_are_not_freed_yet_are_no_faults() {
    let mut run = Run::new(AttributeChanges::default());
    // Each is stored outside its chunk.
    run.send("jobs", vec![stored(SendEntry::new(vec![7; 66_000])); 300]);
    // Each has a chunk of its own, with marks.
    for _ in 0..300 {
        run.send("jobs", vec![message(0, "", None), message(0, "a", None)]);
    }
    let mut unfinished = purge(&mut run);
    assert!(unfinished);
    while unfinished {
        run.check();
        unfinished = run.record(Vec::new()).unfinished;
    }
    run.check();
}

#[test]
fn times_to_live_of_a_purged_queue_are_forgotten_little_by_little() {
    let mut run = Run::new(AttributeChanges::default());
    let mortal = NewMessage { ttl_ms: Some(1_000_000), ..message(0, "", None) };
    for _ in 0..4 {
        run.send("jobs", vec![mortal.clone(); 5_000]);
    }
    let (mut unfinished, mut records) = (purge(&mut run), 1);
    while unfinished {
        run.check();
        unfinished = run.record(Vec::new()).unfinished;
        records += 1;
    }
    // A chunk has about a thousand such messages, and goes as a whole.
    assert!(records > 10, "{records} records");
    assert_eq!(run.machine.next_due_ms().unwrap(), None);
    run.check();
}
