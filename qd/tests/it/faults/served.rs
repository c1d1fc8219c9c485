//! A broker whose disk fails at any single call: it goes on soundly or ends, and an answer `ok` holds after it
//! was started again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use qd::broker::{Answer, Broker, Engine, Job, Peer, Reply, Slot, Work};
use qd::clock::{Clock, Reading};
use qd::replicator::{Local, ReplicatorError};
use qd::shard::{Entry, Outcome};
use qd_protocol::verbs::{self, IfExists, SendEntry};
use qd_protocol::{AttributeChanges, ErrorCode, Receipt};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::calls::CACHE_BYTES_FEW;
use super::{is_long, seeds};
use crate::memory::{Fails, Failure, Memory};
use crate::random_work::{drain, queue_name};

/// Rounds of requests of one run.
const ROUNDS: u32 = 8;
/// A broker that neither answers nor ends so long hangs.
const HANGS: Duration = Duration::from_secs(20);

/// What a client knows.
#[derive(Debug, Default)]
struct Client {
    asked: BTreeSet<Bytes>,
    answered: BTreeSet<Bytes>,
    /// Receipts and bodies of messages that it holds.
    held: Vec<(Receipt, Bytes)>,
    deletes_asked: BTreeSet<Bytes>,
    deleted: BTreeSet<Bytes>,
}

/// A broker in this process, and one connection to it.
struct Served {
    runtime: Runtime,
    broker: Broker,
    engine: JoinHandle<Option<Result<(), ReplicatorError>>>,
    clock: Arc<Mutex<Reading>>,
    peer: Arc<Peer>,
    replies: UnboundedReceiver<Reply>,
    slots: Arc<Semaphore>,
}

impl Served {
    fn start(disk: &Memory) -> Result<Self, ReplicatorError> {
        let (broker, mailbox) = Broker::new();
        let local = disk.try_local_with(mailbox.on_failure())?;
        let reading = Reading { boot: Duration::from_secs(1), wall: Duration::from_secs(1_000) };
        let clock = Arc::new(Mutex::new(reading));
        let engine = Engine::new(local, Clock::Manual(Arc::clone(&clock)), mailbox)?;
        // `None`: a panic.
        let run = || catch_unwind(AssertUnwindSafe(|| engine.run())).ok();
        let (sender, replies) = unbounded_channel();
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
            peer: Arc::new(broker.peer(1, sender)),
            broker,
            engine: std::thread::spawn(run),
            clock,
            replies,
            slots: Arc::new(Semaphore::new(1_000)),
        })
    }

    fn submit(&self, work: Work, is_last: bool) {
        let slot = Slot::new(Arc::clone(&self.slots).try_acquire_owned().unwrap(), None);
        let peer = Arc::clone(&self.peer);
        let job = Job { peer, correlation: 1, slot, origin: None, work };
        self.runtime.block_on(self.broker.submit(job, 100, is_last));
    }

    /// The next answer; `None`: the engine has ended without one.
    #[expect(clippy::disallowed_methods, reason = "a limit for a test that hangs")]
    fn answer(&mut self) -> Option<Answer> {
        let since = Instant::now();
        loop {
            let ended = self.engine.is_finished();
            if let Ok(reply) = self.replies.try_recv() {
                self.peer.written(reply.bytes);
                let Answer::Refused(refusal) = reply.answer else { return Some(reply.answer) };
                assert_eq!(refusal.code, ErrorCode::Closing, "{refusal:?}");
                return None;
            }
            if ended {
                return None;
            }
            assert!(since.elapsed() < HANGS, "the engine neither answers nor ends");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn pass(&self, ms: u64) {
        let mut reading = self.clock.lock().unwrap();
        reading.boot += Duration::from_millis(ms);
        reading.wall += Duration::from_millis(ms);
    }

    /// Requests of all kinds, until all are answered or one is not. `None`: the engine has ended.
    fn work(&mut self, client: &mut Client) -> Option<()> {
        let queue = queue_name(0);
        let attributes = AttributeChanges::default();
        let if_exists = IfExists::Keep;
        let create = verbs::Create { queue: queue.clone(), if_exists, attributes, with: None };
        self.submit(Work::create(create), true);
        self.answer()?;
        for round in 0..ROUNDS {
            let body = |part: u32| {
                Bytes::from(format!("{round} {part} ").repeat(40 + 900 * (part as usize % 2)))
            };
            // The first is alone; the others are on their way together.
            for part in 0..4 {
                client.asked.insert(body(part));
                let entries = vec![SendEntry::new(body(part))];
                let send = Work::send(verbs::Send { queue: queue.clone(), entries }).unwrap();
                self.submit(send, part == 0);
                if part == 0 {
                    self.note_sent(client, &body(0))?;
                }
            }
            for part in 1..4 {
                self.note_sent(client, &body(part))?;
            }
            self.submit(Work::Describe(verbs::Describe { queue: queue.clone() }), false);
            let Answer::Describe(_) = self.answer()? else {
                panic!("no description");
            };
            self.receive(client, round)?;
            // A checkpoint is due with the next round.
            self.pass(if round % 3 == 2 { 1_100 } else { 10 });
        }
        Some(())
    }

    fn note_sent(&mut self, client: &mut Client, body: &Bytes) -> Option<()> {
        match self.answer()? {
            Answer::Send(sent) if sent.entries().all(|entry| entry.is_ok()) => {
                client.answered.insert(body.clone());
                Some(())
            }
            other => panic!("{other:?}"),
        }
    }

    fn receive(&mut self, client: &mut Client, round: u32) -> Option<()> {
        let queue = queue_name(0);
        let settle = match round % 2 {
            0 => std::mem::take(&mut client.held),
            _ => Vec::new(),
        };
        client.deletes_asked.extend(settle.iter().map(|(_, body)| body.clone()));
        let receive = verbs::Receive {
            queues: vec![queue.clone()],
            max: 2,
            wait_ms: 0,
            visibility_timeout_ms: None,
            delete_on_receive: false,
            settle: settle.iter().map(|(receipt, _)| *receipt).collect(),
        };
        self.submit(Work::receive(receive).unwrap(), round % 4 < 2);
        let received = match self.answer()? {
            Answer::Receive(received) => received,
            other => panic!("{other:?}"),
        };
        client.deleted.extend(settle.into_iter().map(|(_, body)| body));
        let got = received.messages.into_iter();
        client.held.extend(got.map(|message| (message.receipt, message.body.bytes)));
        if round % 2 == 1 {
            let (receipt, body) = client.held.pop()?;
            client.deletes_asked.insert(body.clone());
            let delete = verbs::Delete { queue, receipts: vec![receipt] };
            self.submit(Work::delete(delete).unwrap(), true);
            match self.answer()? {
                Answer::Settle(settled) => {
                    assert!(settled.statuses.entries().all(|status| status.is_ok()));
                    client.deleted.insert(body);
                }
                other => panic!("{other:?}"),
            }
        }
        Some(())
    }

    /// True when the engine has ended by itself.
    fn end(mut self, expect_all: bool) -> bool {
        let failed = self.engine.is_finished();
        self.broker.stop();
        let end = self.engine.join().unwrap();
        assert!(end.is_some(), "the engine panicked");
        let is_error = end.is_some_and(|end| end.is_err());
        assert!(!failed || is_error, "an engine that ends by itself says why");
        assert!(!expect_all || !failed);
        while let Ok(reply) = self.replies.try_recv() {
            assert!(!failed || matches!(reply.answer, Answer::Refused(_)), "{:?}", reply.answer);
        }
        is_error
    }
}

/// Bodies that are there, an hour later.
fn bodies(local: &mut Local) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    let now_ms = local.machine().position().now_ms + 3_600_000;
    loop {
        let command = match drain(0) {
            crate::random_work::Action::Run(intent, _) => intent.command(&[], 1),
            other => panic!("{other:?}"),
        };
        let entries = vec![Entry { origin: None, command }];
        let applied = local.replicate(now_ms, entries, true).unwrap();
        let [Outcome::Received(received)] = &applied.outcomes[..] else { return bodies };
        if received.messages.is_empty() {
            return bodies;
        }
        bodies.extend(received.messages.iter().map(|message| message.body.bytes.clone()));
    }
}

impl Client {
    fn check(&self, disk: &Memory, failure: Option<Failure>) {
        let mut local = disk.try_local().unwrap_or_else(|error| panic!("{failure:?}: {error}"));
        assert_eq!(local.machine().verify().unwrap(), [""; 0], "{failure:?}");
        let list = bodies(&mut local);
        let found: BTreeSet<Bytes> = list.iter().cloned().collect();
        assert_eq!(list.len(), found.len(), "{failure:?}: a message is there twice");
        assert!(found.is_subset(&self.asked), "{failure:?}: what was not sent is there");
        assert!(found.is_disjoint(&self.deleted), "{failure:?}: a deleted message is back");
        let must: BTreeSet<Bytes> =
            self.answered.difference(&self.deletes_asked).cloned().collect();
        assert!(must.is_subset(&found), "{failure:?}: {} of {} are there", found.len(), must.len());
    }
}

/// Serves while calls fail. Returns how many could, and whether the broker ended.
fn serve(disk: &Memory, failure: Option<Failure>) -> ([usize; 2], bool) {
    disk.fail(failure);
    let mut client = Client::default();
    let mut ended = true;
    if let Ok(mut served) = Served::start(disk) {
        let worked = served.work(&mut client).is_some();
        ended = served.end(worked && failure.is_none());
        assert!(worked || ended, "{failure:?}: an answer is missing");
    }
    let calls = [Fails::NoSpace, Fails::Io].map(|fails| disk.calls(fails));
    disk.fail(None);
    client.check(disk, failure);
    (calls, ended)
}

/// A disk with some records in the state and some in the log only.
fn used(few: bool) -> Memory {
    let disk = Memory::default();
    if few {
        disk.set_cache(CACHE_BYTES_FEW);
    }
    serve(&disk, None);
    disk.copy()
}

#[test]
fn broker_whose_disk_fails_at_any_call_loses_nothing_that_it_answered() {
    // All of them take a minute and a half.
    let every = if is_long() { 1 } else { 4 };
    for seed in seeds(12) {
        let used = used(seed % 2 == 1);
        let (calls, ended) = serve(&used.copy(), None);
        assert!(!ended);
        for (fails, calls) in [Fails::NoSpace, Fails::Io].into_iter().zip(calls) {
            for lasts in [false, true] {
                let mut ends = 0;
                for call in (seed as usize % every..calls).step_by(every) {
                    let failure = Failure { fails, call, lasts };
                    ends += usize::from(serve(&used.copy(), Some(failure)).1);
                }
                println!(
                    "seed {seed}, {fails:?}, lasts: {lasts}: {ends} of {calls} failures end it"
                );
                assert!(ends > calls / every / 3, "{fails:?}, lasts: {lasts}: {ends} of {calls}");
            }
        }
    }
}
