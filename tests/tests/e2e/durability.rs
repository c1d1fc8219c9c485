//! "OK means on disk", from outside: kill -9 under load, round after round, with a checker that
//! knows everything that was answered.
//!
//! What the checker holds against every answer of the daemon:
//!
//! - an answered send is there exactly once until its delete is answered: it has one id, and
//!   nothing has an id that was not sent; a send without an answer is there once or not at all,
//!   and exactly once when the client repeated it until it was answered;
//! - an answered delete stays away: no receive that began after it delivers the message;
//! - a lease is exclusive: of two deliveries of a message the second begins at or behind the end
//!   of the first lease, and has a higher attempt;
//! - the counters equal what a drain finds.
//!
//! `QD_TESTS_ROUNDS` asks for another number of rounds than 50.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use qd_protocol::client::Options;
use qd_protocol::verbs::{Delete, Describe, Receive, ReceivedMessage, Send, SendEntry};
use qd_protocol::{Client, ClientError, Statistics};
use qd_tests::{Daemon, Random};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::wire::{create, queue, receive};

/// How long a lease lasts in the load, in ms.
const LEASE_MS: u64 = 300;
/// Queue that is sent to and consumed from.
const BUSY: &str = "busy";
/// Queue that is sent to, and looked at in the end.
const KEPT: &str = "kept";

#[test]
fn kill_9_under_load_loses_nothing_that_was_answered() {
    let rounds = match std::env::var("QD_TESTS_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("QD_TESTS_ROUNDS is a number"),
        Err(_) => 50,
    };
    let mut random = Random::of_environment("kill_9_under_load");
    let mut daemon = Daemon::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let checker = Arc::new(Checker::default());
    runtime.block_on(async {
        let client = daemon.client().await;
        client.call(create(BUSY)).await.unwrap();
        client.call(create(KEPT)).await.unwrap();
    });
    let mut totals = Totals::default();
    for round in 0..rounds {
        let load = Load::start(&runtime, &daemon, &checker);
        let lasts = Duration::from_millis(30 + random.below(300));
        // The instant of the kill is what is random here; there is no fact to wait for.
        std::thread::sleep(lasts);
        daemon.kill();
        load.stop.store(true, Ordering::SeqCst);
        let start = Instant::now();
        daemon.restart();
        totals.slowest_start = totals.slowest_start.max(start.elapsed());
        runtime.block_on(load.end());
        let drained = runtime.block_on(drain(&daemon, &checker, BUSY));
        checker.check_busy_is_empty(round);
        runtime.block_on(check_kept(&daemon, &checker));
        totals.drained += drained;
    }
    let kept = runtime.block_on(drain(&daemon, &checker, KEPT));
    checker.check_all_delivered();
    let counts = checker.counts();
    println!("{rounds} rounds: {counts:?}, {kept} kept, {totals:?}");
    assert!(counts.sent > rounds * 5, "too little was sent to prove anything: {counts:?}");
    assert!(counts.deleted > rounds, "too little was deleted to prove anything: {counts:?}");
    assert!(totals.drained > 0, "no message ever outlived a kill");
}

#[derive(Debug, Default)]
struct Totals {
    drained: u64,
    slowest_start: Duration,
}

/// What a producer knows of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// Asked for, or its answer was lost.
    Unknown,
    Answered(u64),
    /// Its answer was lost for good; it may be there.
    Lost,
}

#[derive(Debug)]
struct Message {
    queue: &'static str,
    sent: Sent,
    id: Option<u64>,
    /// Attempt, and first and last millisecond of the lease by the daemon's clock.
    last_lease: Option<(u32, u64)>,
    delivered: u32,
    /// Deletes asked for whose answer has not come.
    deletes_open: u32,
    /// When the delete was answered, by [`Checker::now`].
    deleted_at: Option<u64>,
}

#[derive(Debug, Default)]
struct Checker {
    messages: Mutex<HashMap<u64, Message>>,
    next: AtomicU64,
    clock: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    sent: u64,
    lost: u64,
    deleted: u64,
    redelivered: u64,
}

impl Checker {
    /// A number above all that were given out before.
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn begin_send(&self, queue: &'static str, count: u64) -> Vec<u64> {
        let first = self.next.fetch_add(count, Ordering::SeqCst);
        let mut messages = self.messages.lock().unwrap();
        for token in first..first + count {
            let message = Message {
                queue,
                sent: Sent::Unknown,
                id: None,
                last_lease: None,
                delivered: 0,
                deletes_open: 0,
                deleted_at: None,
            };
            messages.insert(token, message);
        }
        (first..first + count).collect()
    }

    fn answered(&self, token: u64, id: u64) {
        let mut messages = self.messages.lock().unwrap();
        let message = messages.get_mut(&token).unwrap();
        assert!(message.id.is_none_or(|known| known == id), "{message:?} answered as {id}");
        message.id = Some(id);
        message.sent = Sent::Answered(id);
    }

    fn lost(&self, tokens: &[u64]) {
        let mut messages = self.messages.lock().unwrap();
        for token in tokens {
            messages.get_mut(token).unwrap().sent = Sent::Lost;
        }
    }

    /// A delivery by a receive that began at `began` with leases of `lease_ms`.
    fn delivered(
        &self,
        queue: &'static str,
        received: &ReceivedMessage,
        began: u64,
        lease_ms: u64,
    ) {
        let token = read_token(&received.body.bytes);
        let mut messages = self.messages.lock().unwrap();
        let message = messages.get_mut(&token).expect("what is delivered was sent");
        assert_eq!(message.queue, queue);
        let id = *message.id.get_or_insert(received.id);
        assert_eq!(id, received.id, "message {token} is there twice: {message:?}");
        if let Some(deleted_at) = message.deleted_at {
            assert!(deleted_at > began, "message {token} came back: {message:?} {received:?}");
        }
        let start = received.lease_until_ms - lease_ms;
        if let Some((attempt, until)) = message.last_lease {
            // Answers may be looked at in another order than they were given in.
            if received.attempt > attempt {
                assert!(start >= until, "two leases at once: {message:?} {received:?}");
            } else {
                assert!(received.attempt < attempt, "one attempt twice: {message:?} {received:?}");
            }
        }
        if message.last_lease.is_none_or(|(attempt, _)| attempt < received.attempt) {
            message.last_lease = Some((received.attempt, received.lease_until_ms));
        }
        message.delivered += 1;
    }

    fn begin_delete(&self, asked: &[ReceivedMessage]) {
        let mut messages = self.messages.lock().unwrap();
        for message in asked {
            messages.get_mut(&read_token(&message.body.bytes)).unwrap().deletes_open += 1;
        }
    }

    fn end_delete(&self, asked: &ReceivedMessage, done: bool) {
        let now = self.now();
        let mut messages = self.messages.lock().unwrap();
        let message = messages.get_mut(&read_token(&asked.body.bytes)).unwrap();
        message.deletes_open -= 1;
        if done {
            assert_eq!(message.deleted_at, None, "deleted twice: {message:?}");
            message.deleted_at = Some(now);
        }
    }

    /// After a drain: what was sent is gone only because somebody deleted it, or asked for that.
    fn check_busy_is_empty(&self, round: u64) {
        let messages = self.messages.lock().unwrap();
        for (token, message) in messages.iter().filter(|(_, message)| message.queue == BUSY) {
            if let Sent::Answered(_) = message.sent {
                let gone = message.deleted_at.is_some() || message.deletes_open > 0;
                assert!(gone, "round {round}: message {token} was lost: {message:?}");
            }
            assert_ne!(message.sent, Sent::Unknown, "a producer has ended without a result");
        }
    }

    fn check_all_delivered(&self) {
        for (token, message) in &*self.messages.lock().unwrap() {
            if let Sent::Answered(_) = message.sent {
                assert!(message.delivered > 0, "message {token} was lost: {message:?}");
            }
        }
    }

    /// How many messages of the kept queue must be there, and how many may.
    fn kept_range(&self) -> (u64, u64) {
        let messages = self.messages.lock().unwrap();
        let kept = messages.values().filter(|message| message.queue == KEPT);
        let (mut least, mut most) = (0, 0);
        for message in kept {
            least += u64::from(matches!(message.sent, Sent::Answered(_)));
            most += 1;
        }
        (least, most)
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for message in self.messages.lock().unwrap().values() {
            counts.sent += u64::from(matches!(message.sent, Sent::Answered(_)));
            counts.lost += u64::from(message.sent == Sent::Lost);
            counts.deleted += u64::from(message.deleted_at.is_some());
            counts.redelivered += u64::from(message.delivered > 1);
        }
        counts
    }
}

/// The token in front, then bytes that depend on it: damage and mix-ups show.
fn body(token: u64) -> Bytes {
    let mut random = Random::new(token);
    let length = match random.below(20) {
        0 => 20_000,
        other => other * 20,
    };
    let mut body = token.to_le_bytes().to_vec();
    body.extend(random.bytes(length as usize));
    body.into()
}

fn read_token(bytes: &Bytes) -> u64 {
    let token = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(*bytes, body(token), "the body was altered");
    token
}

/// Producers and consumers that run until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    fn start(runtime: &tokio::runtime::Runtime, daemon: &Daemon, checker: &Arc<Checker>) -> Self {
        let mut load = Self { stop: Arc::default(), tasks: JoinSet::new() };
        let _guard = runtime.enter();
        for (queue, retry) in [(BUSY, false), (BUSY, true), (KEPT, false), (KEPT, true)] {
            let (stop, checker) = (Arc::clone(&load.stop), Arc::clone(checker));
            let options = options(retry);
            let address = daemon.address();
            load.tasks.spawn(async move {
                if let Ok(client) = Client::connect(&[address], options).await {
                    produce(&client, &checker, queue, retry, &stop).await;
                }
            });
        }
        for retry in [false, false, true] {
            let (stop, checker) = (Arc::clone(&load.stop), Arc::clone(checker));
            let options = options(retry);
            let address = daemon.address();
            load.tasks.spawn(async move {
                if let Ok(client) = Client::connect(&[address], options).await {
                    consume(&client, &checker, &stop).await;
                }
            });
        }
        load
    }

    async fn end(mut self) {
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap();
        }
    }
}

fn options(retry: bool) -> Options {
    let retry_for = if retry { Duration::from_secs(30) } else { Duration::ZERO };
    Options { client: "qd-tests".to_owned(), retry_for, ..Options::default() }
}

async fn produce(
    client: &Client,
    checker: &Checker,
    to: &'static str,
    retry: bool,
    stop: &AtomicBool,
) {
    let mut count = 1;
    while !stop.load(Ordering::SeqCst) {
        let tokens = checker.begin_send(to, count);
        let entries = tokens.iter().map(|token| SendEntry::new(body(*token))).collect();
        match client.call(Send { queue: queue(to), entries }).await {
            Ok(sent) => {
                for (token, id) in tokens.iter().zip(sent.entries()) {
                    checker.answered(*token, id.unwrap().id);
                }
            }
            Err(error) => {
                assert!(!retry, "a call that repeats itself failed: {error}");
                assert_lost(&error);
                checker.lost(&tokens);
                return;
            }
        }
        count = count % 7 + 1;
    }
}

async fn consume(client: &Client, checker: &Checker, stop: &AtomicBool) {
    let mut settle_with_receive = false;
    let mut settle: Vec<ReceivedMessage> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let take = Receive {
            max: 5,
            wait_ms: 20,
            visibility_timeout_ms: Some(LEASE_MS),
            settle: settle.iter().map(|message| message.receipt).collect(),
            ..receive(BUSY, 1)
        };
        checker.begin_delete(&settle);
        let began = checker.now();
        let received = match client.call(take).await {
            Ok(received) => received,
            Err(error) => return assert_lost(&error),
        };
        for (message, status) in settle.drain(..).zip(received.settled.entries()) {
            checker.end_delete(&message, status.is_ok());
        }
        let mut messages = received.messages;
        for message in &messages {
            checker.delivered(BUSY, message, began, LEASE_MS);
        }
        settle_with_receive = !settle_with_receive;
        // One in five is left to come back by itself.
        messages.retain(|message| message.id % 5 != 0 || message.attempt > 1);
        if settle_with_receive {
            settle = messages;
        } else if !messages.is_empty() && delete(client, checker, BUSY, &messages).await.is_none() {
            return;
        }
    }
}

/// Deletes, and notes what was deleted. `None` when the answer was lost.
async fn delete(
    client: &Client,
    checker: &Checker,
    of: &str,
    messages: &[ReceivedMessage],
) -> Option<u64> {
    let receipts = messages.iter().map(|message| message.receipt).collect();
    checker.begin_delete(messages);
    match client.call(Delete { queue: queue(of), receipts }).await {
        Ok(deleted) => {
            let mut count = 0;
            for (message, status) in messages.iter().zip(deleted.statuses.entries()) {
                checker.end_delete(message, status.is_ok());
                count += u64::from(status.is_ok());
            }
            Some(count)
        }
        Err(error) => {
            assert_lost(&error);
            None
        }
    }
}

fn assert_lost(error: &ClientError) {
    let lost = matches!(error, ClientError::Lost { .. } | ClientError::Unreachable { .. });
    assert!(lost, "only the connection may fail: {error}");
}

async fn statistics(client: &Client, name: &str) -> Statistics {
    client.call(Describe { queue: queue(name) }).await.unwrap().statistics
}

/// Receives and deletes until nothing is left, also what was leased when the daemon was killed.
/// The counters must equal what comes. Returns how much that was.
async fn drain(daemon: &Daemon, checker: &Checker, from: &'static str) -> u64 {
    let client = daemon.client().await;
    let before = statistics(&client, from).await;
    let live = before.ready + before.leased + before.delayed;
    let lease_ms = 60_000;
    let until = Instant::now() + Duration::from_secs(30);
    let mut drained = 0;
    while drained < live {
        let take = Receive {
            max: 1_000,
            wait_ms: 1_000,
            visibility_timeout_ms: Some(lease_ms),
            ..receive(from, 1)
        };
        let began = checker.now();
        let messages = client.call(take).await.unwrap().messages;
        for message in &messages {
            checker.delivered(from, message, began, lease_ms);
        }
        if !messages.is_empty() {
            drained += delete(&client, checker, from, &messages).await.unwrap();
        }
        assert!(Instant::now() < until, "{drained} of {live} came: {before:?}");
    }
    let after = statistics(&client, from).await;
    assert_eq!((after.ready, after.leased, after.delayed, after.bytes), (0, 0, 0, 0));
    assert_eq!(after.sent, after.deleted, "all that was ever sent is deleted");
    let nothing = client.call(receive(from, 10)).await.unwrap();
    assert!(nothing.messages.is_empty(), "more came than was counted");
    drained
}

async fn check_kept(daemon: &Daemon, checker: &Checker) {
    let client = daemon.client().await;
    let (least, most) = checker.kept_range();
    let statistics = statistics(&client, KEPT).await;
    let ready = statistics.ready;
    assert!((least..=most).contains(&ready), "{least} to {most} sent, {ready} there");
    assert_eq!((statistics.leased, statistics.sent), (0, ready));
}
