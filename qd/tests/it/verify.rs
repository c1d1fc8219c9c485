//! Whatever row is missing, is too much or is another one is told, and nothing where all is right.

use qd::shard::command::{Action, Create};
use qd::shard::{Command, Machine};
use qd::store::database_backend;
use qd_protocol::AttributeChanges;
use qd_protocol::attributes::DeadLetter;
use qd_protocol::message::Properties;
use qd_protocol::verbs::{Due, IfExists, SendEntry};
use redb::{Key, TableDefinition, Value};

use crate::machine::{Run, name, plain, stored, with_dedup, with_header};
use crate::memory::Memory;

type Bytes = &'static [u8];
type Pair = (u64, u64);
type Triple = (u64, u64, u64);

const CHUNKS: TableDefinition<Pair, Bytes> = TableDefinition::new("chunks");
const PARTS: TableDefinition<(u64, u64, u32), Bytes> = TableDefinition::new("parts");
const MARKS: TableDefinition<Pair, Bytes> = TableDefinition::new("marks");
const RETURNED: TableDefinition<Pair, Bytes> = TableDefinition::new("returned");
const DELAYED: TableDefinition<Pair, Bytes> = TableDefinition::new("delayed");
const BLOCKED: TableDefinition<Pair, Bytes> = TableDefinition::new("blocked");
const DUE: TableDefinition<Triple, ()> = TableDefinition::new("due");
const EXPIRY: TableDefinition<Triple, ()> = TableDefinition::new("expiry");
const LEASES: TableDefinition<Pair, Bytes> = TableDefinition::new("leases");
const LEASE_ENDS: TableDefinition<Triple, ()> = TableDefinition::new("lease_ends");
const DEDUP: TableDefinition<(u64, Bytes, u64), ()> = TableDefinition::new("dedup");
const WINDOWS: TableDefinition<(u64, Bytes), Pair> = TableDefinition::new("dedup_windows");
const DEDUP_ENDS: TableDefinition<Triple, Bytes> = TableDefinition::new("dedup_ends");
const WAITING: TableDefinition<Bytes, Bytes> = TableDefinition::new("waiting");
const TRIED: TableDefinition<Pair, Bytes> = TableDefinition::new("tried");
const HOLDS: TableDefinition<Bytes, ()> = TableDefinition::new("holds");
const RING: TableDefinition<Bytes, ()> = TableDefinition::new("ring");
const QUEUES: TableDefinition<u64, Bytes> = TableDefinition::new("queues");

fn of_group(body: &str, priority: u8, group: &str) -> qd::shard::NewMessage {
    let properties = Properties { priority, group: group.to_owned(), dedup_id: None };
    stored(SendEntry { properties, ..SendEntry::new(body.to_owned()) })
}

fn delayed(group: &str) -> qd::shard::NewMessage {
    let properties = Properties { group: group.to_owned(), ..Properties::default() };
    stored(SendEntry { properties, due: Some(Due::After(60_000)), ..SendEntry::new("later") })
}

/// A state with rows of every kind, each message in some place.
fn rich() -> Memory {
    let mut run = Run::new();
    run.create("plain", AttributeChanges::default());
    let ordered = AttributeChanges { ordered: Some(true), ..AttributeChanges::default() };
    run.create("ordered", ordered);
    let dead_letter = Some(DeadLetter::Queue(name("missing")));
    run.create("blocked", AttributeChanges { dead_letter, ..AttributeChanges::default() });
    for queue in ["plain", "ordered"] {
        run.send(queue, vec![plain("a"), plain("b"), plain("c"), with_dedup("x", false)]);
        run.send(queue, vec![delayed("g"), with_dedup("y", false), with_header("d", "k", "v")]);
        run.send(queue, vec![of_group("e", 0, "g"), of_group("f", 0, "h"), delayed("")]);
        run.send(queue, vec![of_group("g", 0, "g"), of_group("h", 0, "i"), plain("i")]);
        let ttl = SendEntry { ttl_ms: Some(90_000), ..SendEntry::new("short") };
        run.send(queue, vec![plain("j"), stored(ttl)]);
        run.send_one(queue, plain(&"large".repeat(50_000)));
        let receipts = run.receipts(queue, 4);
        run.settle(
            queue,
            Action::Release { counted: true, due: Some(Due::After(0)) },
            receipts[..2].to_vec(),
        );
        run.receipts(queue, 1);
        run.discard(queue, 7);
    }
    run.send("plain", vec![of_group("e", 5, "g"), of_group("f", 5, ""), of_group("x", 5, "g")]);
    let receipts = run.receipts("plain", 2);
    run.settle("plain", Action::Release { counted: true, due: Some(Due::After(0)) }, receipts);
    run.receipts("plain", 1);
    run.send("blocked", vec![plain("a"), plain("b"), plain("c")]);
    let receipts = run.receipts("blocked", 2);
    run.settle("blocked", Action::Reject { reason: "no".to_owned() }, receipts);
    run.create("returned", AttributeChanges::default());
    run.send("returned", vec![plain("a"), plain("b"), plain("c")]);
    let receipts = run.receipts("returned", 2);
    run.settle("returned", Action::Release { counted: true, due: Some(Due::After(0)) }, receipts);
    let create = Create {
        queue: name("empty"),
        if_exists: IfExists::Keep,
        attributes: AttributeChanges::default(),
        with: None,
    };
    run.run(Command::Create(create));
    run.machine.checkpoint().unwrap();
    drop(run.machine);
    run.storage
}

/// Changes one table of the state, past the state machine.
fn change<K: Key + 'static, V: Value + 'static>(
    storage: &Memory,
    table: TableDefinition<'_, K, V>,
    change: impl FnOnce(&mut redb::Table<'_, K, V>),
) {
    let db = database_backend(storage.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    change(&mut txn.open_table(table).unwrap());
    txn.commit().unwrap();
}

fn faults(storage: &Memory) -> Vec<String> {
    let machine = storage.try_open();
    machine
        .and_then(|machine: Machine| machine.verify())
        .unwrap_or_else(|error| vec![format!("{error}")])
}

/// Takes every row of a table out, one at a time. Returns how many there are.
fn lose_each<K: Key + 'static, V: Value + 'static>(
    state: &Memory,
    table: TableDefinition<'_, K, V>,
) -> usize {
    let mut lost = 0;
    loop {
        let storage = state.copy();
        let mut at = 0;
        change(&storage, table, |table| {
            table
                .retain(|_, _| {
                    at += 1;
                    at - 1 != lost
                })
                .unwrap();
        });
        if at == lost {
            return lost;
        }
        assert!(!faults(&storage).is_empty(), "row {lost} of {table} is missing");
        lost += 1;
    }
}

#[test]
fn each_missing_row_is_told() {
    let state = rich();
    assert_eq!(faults(&state), [""; 0]);
    let rows = [
        lose_each(&state, CHUNKS),
        lose_each(&state, PARTS),
        lose_each(&state, MARKS),
        lose_each(&state, RETURNED),
        lose_each(&state, DELAYED),
        lose_each(&state, BLOCKED),
        lose_each(&state, DUE),
        lose_each(&state, EXPIRY),
        lose_each(&state, LEASES),
        lose_each(&state, LEASE_ENDS),
        lose_each(&state, DEDUP),
        lose_each(&state, WINDOWS),
        lose_each(&state, DEDUP_ENDS),
        lose_each(&state, WAITING),
        lose_each(&state, TRIED),
        lose_each(&state, HOLDS),
        lose_each(&state, RING),
    ];
    assert!(rows.iter().all(|rows| *rows > 0), "{rows:?}");
    // Of an empty queue nothing is missed.
    assert_eq!(lose_each_but_last(&state), 4);
}

fn lose_each_but_last(state: &Memory) -> usize {
    let mut queues = Vec::new();
    change(state, QUEUES, |table| {
        use redb::ReadableTable;
        queues = table.iter().unwrap().map(|row| row.unwrap().0.value()).collect();
    });
    queues.pop();
    for queue in &queues {
        let storage = state.copy();
        change(&storage, QUEUES, |table| drop(table.remove(queue).unwrap()));
        assert!(!faults(&storage).is_empty(), "queue {queue} is missing");
    }
    queues.len()
}

#[test]
fn rows_of_messages_that_are_not_there_are_told() {
    let state = rich();
    let delivered = [0; 20];
    for id in [7, 900] {
        for table in [RETURNED, TRIED, BLOCKED, MARKS] {
            let storage = state.copy();
            change(&storage, table, |table| drop(table.insert((1, id), &delivered[..]).unwrap()));
            let told =
                faults(&storage).iter().any(|fault| fault.contains(&format!("message {id}: ")));
            assert!(told, "{table} {id}: {:?}", faults(&storage));
        }
        let storage = state.copy();
        change(&storage, PARTS, |table| drop(table.insert((1, id, 0), &delivered[..]).unwrap()));
        assert!(faults(&storage)[0].contains(&format!("message {id}: it has parts")));
    }
    for table in [CHUNKS, MARKS, RETURNED, DELAYED, BLOCKED, TRIED] {
        let storage = state.copy();
        change(&storage, table, |table| drop(table.insert((99, 1), &[0; 40][..]).unwrap()));
        assert!(faults(&storage).iter().any(|fault| fault.contains("queue number 99")), "{table}");
    }
}

/// Sets the last byte of each row of a table to another value, one row at a time.
fn alter_each(state: &Memory, table: TableDefinition<'_, Pair, Bytes>) -> Vec<Vec<String>> {
    use redb::ReadableTable;
    let mut rows: Vec<(Pair, Vec<u8>)> = Vec::new();
    change(&state.copy(), table, |table| {
        let row = |row: Result<(redb::AccessGuard<'_, Pair>, redb::AccessGuard<'_, Bytes>), _>| {
            let (key, row) = row.unwrap();
            (key.value(), row.value().to_vec())
        };
        rows = table.iter().unwrap().map(row).collect();
    });
    let altered = rows.into_iter().map(|(key, mut row)| {
        let storage = state.copy();
        *row.last_mut().unwrap() ^= 0x40;
        change(&storage, table, |table| drop(table.insert(key, &row[..]).unwrap()));
        faults(&storage)
    });
    altered.collect()
}

#[test]
fn altered_bodies_are_told_with_queue_and_id() {
    let altered = alter_each(&rich(), CHUNKS);
    // In each of two queues the last message of a chunk is deleted.
    assert_eq!(altered.iter().filter(|faults| faults.is_empty()).count(), 2);
    let altered = altered.iter().filter(|faults| !faults.is_empty());
    assert!(altered.clone().count() > 8);
    for faults in altered {
        let first = &faults[0];
        let named = first.starts_with("queue \"") && first.contains(": message ");
        let counted = first.contains("have ") && first.contains(" bytes, not ");
        assert!(named && first.contains("CRC-32C") || counted, "{faults:?}");
    }
}

#[test]
fn message_in_a_lane_or_group_not_its_own_is_told() {
    let state = rich();
    for (table, what) in [(WAITING, "it is ready in a lane not its own"), (WAITING, "")] {
        let mut changed = 0;
        loop {
            use redb::ReadableTable;
            let storage = state.copy();
            let mut found = false;
            change(&storage, table, |table| {
                let row = table.iter().unwrap().nth(changed).map(|row| {
                    let (key, row) = row.unwrap();
                    (key.value().to_vec(), row.value().to_vec())
                });
                let Some((key, mut row)) = row else { return };
                found = true;
                // The group of the last lane that has one.
                let at = row.iter().rposition(|byte| (b'g'..=b'i').contains(byte)).unwrap();
                row[at] = b'z';
                table.insert(&key[..], &row[..]).unwrap();
            });
            if !found {
                break;
            }
            let told = faults(&storage);
            assert!(told.iter().any(|fault| fault.contains(what)), "{told:?}");
            assert!(!told.is_empty());
            changed += 1;
        }
        assert_eq!(changed, 2, "one page of each queue with lanes");
    }
}
