//! Rows of a queue that is gone: freed beside requests, and by records of their own when none comes.

use std::time::{Duration, Instant};

use qd::broker::{Answer, Work};
use qd_protocol::verbs::Purge;

use super::{ANSWER_WITHIN, Connection, Rig, name, send};

const MESSAGES: usize = 100;

/// A running engine whose queue `a` has just been purged of messages in as many rows, and how many records
/// there were by then.
fn purged() -> (Rig, Connection, usize) {
    let mut rig = Rig::new();
    for _ in 0..MESSAGES {
        let Work::Change(_, command) = send("a", &["old"]) else { panic!("it is a change") };
        rig.apply(command);
    }
    let mut client = rig.connect();
    rig.start();
    let purge = Purge {
        queue: name("a"),
        older_than_ms: None,
        headers: qd_protocol::Headers::default(),
        dry_run: false,
        after: 0,
        through: 0,
    };
    rig.submit(&client, 1, None, Work::purge(purge).unwrap());
    match rig.answer(&mut client).1 {
        Answer::Purge(purged) => assert_eq!(purged.messages, MESSAGES as u64),
        other => panic!("{other:?}"),
    }
    let records = rig.records().len();
    (rig, client, records)
}

#[test]
fn no_record_frees_rows_alone_while_requests_come() {
    let (rig, mut client, before) = purged();
    for correlation in 2..20 {
        rig.submit(&client, correlation, None, send("b", &["new"]));
        rig.answer(&mut client);
    }
    // The clock stands, so that the last request has always just come.
    let records = rig.records();
    assert_eq!(records.len(), before + 18);
    assert!(records[before..].iter().all(|(entries, _)| *entries == 1));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a limit for a test that hangs")]
fn records_of_their_own_free_all_rows_when_no_request_comes() {
    let (rig, mut client, before) = purged();
    for correlation in 2..7 {
        rig.submit(&client, correlation, None, send("b", &["new"]));
        rig.answer(&mut client);
    }
    // Of 100 rows the purge and 5 sends have freed 4 each, or the purge some more; about 70 are left,
    // at 16 a record.
    rig.pass(2);
    let until = Instant::now() + ANSWER_WITHIN;
    while rig.records().len() < before + 5 + 4 {
        assert!(Instant::now() < until, "{:?}", &rig.records()[before..]);
        std::thread::sleep(Duration::from_millis(1));
    }
    rig.submit(&client, 9, None, send("b", &["last"]));
    rig.answer(&mut client);
    let entries: Vec<usize> = rig.records()[before..].iter().map(|(entries, _)| *entries).collect();
    let (sends, alone) = entries.split_at(5);
    let (last, alone) = alone.split_last().unwrap();
    assert_eq!((sends, *last), (&[1; 5][..], 1), "{entries:?}");
    assert!(alone.len() >= 4 && alone.iter().all(|entries| *entries == 0), "{entries:?}");
}
