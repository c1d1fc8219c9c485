//! The state machine on a real file: records of 16 requests of 100 messages of 100 bytes, without
//! groups, in one group, in 24,000 groups of ten, and each in a group of its own; plain and ordered.
//! Before them records of one message, as a lone client makes them.
//!
//! `cargo bench -p qd`; prints messages per second, a line per kind, median of five runs.
//! The directory is `$QD_BENCH_DIR` or the system's temporary one.
#![allow(clippy::unwrap_used, reason = "in a benchmark a failure is a panic")]

use std::time::Duration;

use bytes::Bytes;
use qd::shard::command::{Action, Create, NewMessage, Receive, Send, Settle};
use qd::shard::{Applied, Command, Entry, Machine, Origin, Outcome, Record};
use qd::store::Store;
use qd_protocol::verbs::{IfExists, SendEntry};
use qd_protocol::{AttributeChanges, Body, QueueName};

const REQUESTS: u32 = 16;
const BATCH: u32 = 100;
const RECORDS: u32 = 150;

struct Bench {
    machine: Machine,
    queue: QueueName,
    number: u64,
    /// How many groups there are; 0: the messages say nothing of one.
    groups: u32,
    sent: u32,
}

impl Bench {
    fn apply(&mut self, commands: Vec<Command>) -> Applied {
        self.number += 1;
        let number = self.number;
        let entry = |(producer, command)| {
            let origin = Origin {
                producer: producer as u64 + 1,
                number,
                answered_below: number,
                continued: false,
            };
            Entry { origin: Some(origin), command }
        };
        let entries = commands.into_iter().enumerate().map(entry).collect();
        let sequence = self.machine.position().applied + 1;
        self.machine.apply(&Record { sequence, now_ms: 1_700_000_000_000, entries }).unwrap()
    }

    fn send(&mut self, batch: u32) -> Command {
        let body = Body::new(Bytes::from_static(&[b'x'; 100]));
        let messages = (0..batch).map(|_| {
            let mut entry = SendEntry::new(body.bytes.clone());
            self.sent += 1;
            if self.groups > 0 {
                entry.properties.group = (self.sent % self.groups).to_string();
            }
            NewMessage {
                crc: body.crc,
                size: 100,
                due: None,
                ttl_ms: None,
                unique: false,
                fields: entry.stored_fields(),
                body: entry.body.bytes,
            }
        });
        let messages = messages.collect();
        Command::Send(Send { queue: self.queue.clone(), messages })
    }

    fn receive(&self, max: u32) -> Command {
        Command::Receive(Receive {
            queues: vec![self.queue.clone()],
            max,
            bytes_max: 1 << 20,
            visibility_timeout_ms: None,
            delete: false,
            settle: Vec::new(),
            secret: 7,
        })
    }

    fn delete(&self, outcome: &Outcome) -> Command {
        let Outcome::Received(received) = outcome else { panic!("{outcome:?}") };
        let receipts = received.messages.iter().map(|message| message.receipt).collect();
        Command::Settle(Settle {
            queue: self.queue.clone(),
            action: Action::Delete,
            receipts,
            seed: 0,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn timed(work: impl FnOnce()) -> Duration {
    let start = std::time::Instant::now();
    work();
    start.elapsed()
}

fn open(groups: u32, ordered: bool) -> (tempfile::TempDir, Bench) {
    let parent = std::env::var_os("QD_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let store = Store::open(&dir.path().join("state.redb"), 128 << 20, 7).unwrap();
    let queue = QueueName::new("bench").unwrap();
    let machine = Machine::open(store).unwrap();
    let mut bench = Bench { machine, queue, number: 0, groups, sent: 0 };
    bench.apply(vec![Command::Create(Create {
        queue: bench.queue.clone(),
        if_exists: IfExists::Keep,
        attributes: AttributeChanges { ordered: Some(ordered), ..Default::default() },
        with: None,
    })]);
    (dir, bench)
}

/// Microseconds of a record of one message: sent; received; deleted.
fn run_alone() -> [f64; 3] {
    let mut bench = open(0, false);
    let bench = &mut bench.1;
    let records = 5_000;
    let sending = timed(|| {
        for _ in 0..records {
            let send = bench.send(1);
            bench.apply(vec![send]);
        }
    });
    let mut taken = Vec::new();
    let receiving = timed(|| {
        for _ in 0..records {
            let receive = bench.receive(1);
            taken.extend(bench.apply(vec![receive]).outcomes);
        }
    });
    let deleting = timed(|| {
        for outcome in &taken {
            let delete = bench.delete(outcome);
            bench.apply(vec![delete]);
        }
    });
    [sending, receiving, deleting].map(|time| time.as_secs_f64() * 1e6 / f64::from(records))
}

fn run(groups: u32, ordered: bool) -> [f64; 2] {
    let mut bench = open(groups, ordered);
    let bench = &mut bench.1;
    let sending = timed(|| {
        for _ in 0..RECORDS {
            let sends = (0..REQUESTS).map(|_| bench.send(BATCH)).collect();
            bench.apply(sends);
        }
    });
    let taking = timed(|| {
        for _ in 0..RECORDS {
            let taken = bench.apply((0..REQUESTS).map(|_| bench.receive(BATCH)).collect());
            bench.apply(taken.outcomes.iter().map(|outcome| bench.delete(outcome)).collect());
        }
    });
    let messages = f64::from(RECORDS * REQUESTS * BATCH);
    [messages / sending.as_secs_f64(), messages / taking.as_secs_f64()]
}

fn main() {
    let mut runs: Vec<_> = (0..5).map(|_| run_alone()).collect();
    let [send, receive, delete] = [0, 1, 2].map(|phase| {
        runs.sort_by(|a, b| a[phase].total_cmp(&b[phase]));
        runs[2][phase]
    });
    println!("one message: send {send:.1} us, receive {receive:.1} us, delete {delete:.1} us");
    let all = RECORDS * REQUESTS * BATCH;
    for (ordered, groups) in [false, true]
        .into_iter()
        .flat_map(|ordered| [0, 1, all / 10, all].map(|groups| (ordered, groups)))
    {
        if ordered && groups < 2 {
            // One lease at a time: it is the speed of one consumer.
            continue;
        }
        let mut runs: Vec<_> = (0..5).map(|_| run(groups, ordered)).collect();
        let kind = if ordered { "ordered" } else { "plain" };
        let median = [0, 1].map(|phase| {
            runs.sort_by(|a, b| a[phase].total_cmp(&b[phase]));
            runs[2][phase]
        });
        let [send, take] = median;
        println!("{kind}, {groups} groups: send {send:.0}/s, receive, then delete {take:.0}/s");
    }
}
