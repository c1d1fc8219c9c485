//! What the engine does while the disk of the log is slow, and when it fails.

use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use qd::log::files::{Files, LogFile};
use qd::log::{Options, Synced, recover};
use qd::shard::Command;
use qd::shard::command::Send as SendCommand;

use super::{Rig, name, receive, send};
use crate::memory::Memory;
use crate::random_work::message;

/// What a sync of the log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    Works,
    Waits,
    Fails,
    Panics,
}

/// A log in memory whose syncs do what they are told; clones share it.
#[derive(Clone)]
struct Disk(Memory, Arc<(Mutex<Sync>, Condvar)>);

struct DiskFile(Box<dyn LogFile>, Arc<(Mutex<Sync>, Condvar)>);

impl Disk {
    fn new() -> Self {
        Self(Memory::default(), Arc::new((Mutex::new(Sync::Works), Condvar::new())))
    }

    fn rig(&self) -> Rig {
        Rig::with_log(&self.0, Box::new(self.clone()))
    }

    fn set(&self, sync: Sync) {
        *self.1.0.lock().unwrap() = sync;
        self.1.1.notify_all();
    }
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(DiskFile(Files::open(&self.0, name)?, Arc::clone(&self.1))))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        Files::sync(&self.0)
    }
}

impl LogFile for DiskFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let (sync, changed) = &*self.1;
        let waits = |sync: &mut Sync| *sync == Sync::Waits;
        let does = *changed.wait_while(sync.lock().unwrap(), waits).unwrap();
        match does {
            Sync::Works | Sync::Waits => self.0.sync(),
            Sync::Fails => Err(io::Error::other("a test")),
            Sync::Panics => panic!("a test"),
        }
    }
}

#[test]
fn answers_that_are_not_durable_yet_count_as_unread() {
    let disk = Disk::new();
    let mut rig = disk.rig();
    for _ in 0..20 {
        let large = message(vec![b'x'; 1 << 20], false);
        rig.apply(Command::Send(SendCommand { queue: name("b"), messages: vec![large] }));
    }
    // Otherwise one is due, which waits for the disk.
    rig.local.as_mut().unwrap().checkpoint().unwrap();
    let client = rig.connect();
    for correlation in 0..20 {
        rig.submit(&client, correlation, None, receive("b", 60_000, |_| ()));
    }
    disk.set(Sync::Waits);
    rig.start();
    // Until nothing moves any more: the engine goes on while the disk works.
    let mut before = 0;
    while before == 0 || rig.records().len() > before {
        before = rig.records().len();
        std::thread::sleep(Duration::from_millis(300));
    }
    disk.set(Sync::Works);
    // One record delivers 8 MiB, which is more than one connection may leave unread.
    assert_eq!(rig.ready("b"), 12);
}

/// True when the engine ends soon although its log does `what` when it is to sync records of so
/// many requests, and nobody is answered.
fn engine_ends(what: Sync, requests: u32) -> bool {
    let disk = Disk::new();
    let mut rig = disk.rig();
    let mut client = rig.connect();
    for correlation in 0..requests {
        rig.submit(&client, correlation, None, send("a", &["never stored"]));
    }
    let engine = rig.engine(|_| ());
    disk.set(what);
    let (ended, end) = channel();
    let engine = std::thread::spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.run()));
        ended.send(!matches!(result, Ok(Ok(())))).unwrap();
    });
    let failed = end.recv_timeout(Duration::from_secs(10)).unwrap_or(false);
    if failed {
        engine.join().unwrap();
        assert!(client.replies.try_recv().is_err(), "nobody is answered");
    }
    failed
}

#[test]
fn engine_ends_without_an_answer_when_its_log_fails() {
    for what in [Sync::Fails, Sync::Panics] {
        // One request syncs in the engine's thread, more than one in the log's.
        for requests in [1, 2] {
            assert!(engine_ends(what, requests), "{what:?} with {requests} requests");
        }
    }
}

#[test]
fn callbacks_run_in_the_order_of_their_records_one_after_the_other() {
    let options = Options { node: 1, segment_bytes: 1 << 20 };
    let files = Box::new(Memory::default());
    let replay = |_, _| Ok::<(), qd::log::LogError>(());
    let appender = recover(files, options, 0, replay).unwrap();
    let log = Synced::start(appender, 0, Box::new(|| ())).unwrap();
    let (seen, order) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let first = seen.clone();
    log.append(1, "one".into(), false).unwrap();
    log.when_durable(
        1,
        Box::new(move || {
            may_go_on.recv().unwrap();
            first.send(1).unwrap();
        }),
    );
    log.wait(1).unwrap();
    let second = seen.clone();
    log.when_durable(1, Box::new(move || second.send(2).unwrap()));
    log.append(2, "two".into(), true).unwrap();
    log.when_durable(2, Box::new(move || seen.send(3).unwrap()));
    std::thread::sleep(Duration::from_millis(50));
    assert!(order.try_recv().is_err(), "nobody overtakes the first one");
    go_on.send(()).unwrap();
    assert_eq!(order.iter().collect::<Vec<i32>>(), [1, 2, 3]);
}
