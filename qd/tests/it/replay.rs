//! The same records give the same rows, on any store, whatever happened in between.

use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::test_runner::Config;
use qd::shard::{Entry, Origin, Record};

use crate::memory::Memory;
use crate::random_work::{Action, actions, receipts};

proptest! {
    #![proptest_config(Config { cases: 100, max_shrink_iters: 200, failure_persistence: None, ..Config::default() })]

    #[test]
    fn recorded_commands_replayed_on_a_second_store_give_equal_rows(actions in actions(60)) {
        let recorded: Arc<Mutex<Vec<bytes::Bytes>>> = Arc::default();
        let tap = {
            let recorded = Arc::clone(&recorded);
            Box::new(move |record: &Record| {
                let mut bytes = BytesMut::new();
                record.encode(&mut bytes);
                recorded.lock().unwrap().push(bytes.freeze());
            })
        };
        let mut first = Memory::default().local().with_tap(tap);
        let mut known = Vec::new();
        let mut now_ms = 1_000_000;
        let mut entries = Vec::new();
        for (index, action) in actions.iter().enumerate() {
            match action {
                Action::Pass(ms) => now_ms += ms,
                Action::Run(intent, _) => {
                    let command = intent.command(&known, index as u64);
                    let number = index as u64 + 1;
                    let origin = Origin { producer: number % 3 + 1, number, answered_below: 1, continued: false };
                    entries.push(Entry { origin: Some(origin), command });
                }
                Action::Tick | Action::Reopen => {
                    let applied = first.replicate(now_ms, std::mem::take(&mut entries), false).unwrap();
                    known.extend(applied.outcomes.iter().flat_map(receipts));
                }
            }
        }
        first.replicate(now_ms, entries, false).unwrap();

        let storage = Memory::default();
        let mut second = storage.open();
        for (index, bytes) in recorded.lock().unwrap().iter().enumerate() {
            let record = Record::decode(bytes.clone()).unwrap();
            second.apply(&record).unwrap();
            if index % 3 == 0 {
                second.checkpoint().unwrap();
                drop(second);
                second = storage.open();
            }
        }
        prop_assert_eq!(first.machine().row_hash().unwrap(), second.row_hash().unwrap());
        prop_assert_eq!(second.verify().unwrap(), Vec::<String>::new());
    }
}
