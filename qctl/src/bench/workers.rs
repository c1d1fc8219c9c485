//! What one worker of each workload does: calls, one after the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use qd_protocol::verbs::{self, ReceivedMessage, SendEntry, SentRun};
use qd_protocol::{Client, QueueName, Receipt};

use super::meter::Meter;
use crate::exit::Failure;

/// Lease of what the benchmark receives: longer than any stall, so that nothing comes back.
const LEASE_MS: u64 = 600_000;
/// How long a consumer waits beside producers before it looks whether they have ended.
const WAIT_MS: u64 = 100;

/// Ids as they were answered: the first and how many.
pub type Ids = Vec<(u64, u32)>;

/// What all workers of one run share.
#[derive(Debug)]
pub struct Shared {
    /// Hands out calls.
    pub meter: Meter,
    /// The queue.
    pub queue: QueueName,
    /// Every body; its check sum is computed once.
    pub entry: SendEntry,
    /// True when every message received must have the body.
    pub own_queue: bool,
    /// Messages are of so many groups in turn; 0: of none.
    pub groups: u64,
    /// Messages made so far.
    made: AtomicU64,
    ids: Mutex<Ids>,
    /// Set when nobody sends any more.
    pub no_more: AtomicBool,
}

impl Shared {
    /// For one direction.
    pub fn new(meter: Meter, queue: QueueName, body: Bytes, own_queue: bool, groups: u64) -> Self {
        Self {
            meter,
            queue,
            entry: SendEntry::new(body),
            own_queue,
            groups,
            made: AtomicU64::new(0),
            ids: Mutex::default(),
            no_more: AtomicBool::new(false),
        }
    }

    /// The ids that calls were answered with.
    pub fn ids(&self) -> MutexGuard<'_, Ids> {
        // A worker that panicked has left whole entries behind.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next messages: the k-th of all, counted from 0, is of the group `k mod groups`.
    fn entries(&self, count: u32) -> Vec<SendEntry> {
        let mut entries = vec![self.entry.clone(); count as usize];
        if self.groups > 0 {
            let first = self.made.fetch_add(u64::from(count), Ordering::Relaxed);
            for (entry, k) in entries.iter_mut().zip(first..) {
                entry.properties.group = (k % self.groups).to_string();
            }
        }
        entries
    }

    fn check(&self, message: &ReceivedMessage) -> Result<(), Failure> {
        if self.own_queue && message.body.bytes != self.entry.body.bytes {
            let text = format!("message {} does not have the body it was sent with", message.id);
            return Err(Failure::Internal(text));
        }
        Ok(())
    }
}

/// Sends until the meter has enough.
pub async fn send(client: Client, shared: Arc<Shared>) -> Result<(), Failure> {
    let mut ids = Ids::new();
    let result = send_all(&client, &shared, &mut ids).await;
    shared.ids().append(&mut ids);
    result
}

async fn send_all(client: &Client, shared: &Shared, ids: &mut Ids) -> Result<(), Failure> {
    while let Some((count, from)) = shared.meter.next().await {
        let send = verbs::Send { queue: shared.queue.clone(), entries: shared.entries(count) };
        let answer = client.call(send).await?;
        shared.meter.record(from, u64::from(count));
        for run in answer.runs {
            match run {
                SentRun::Stored { first, count } => ids.push((first, count)),
                SentRun::Duplicate { id, .. } => {
                    let text = format!("a message without a dedup id is a duplicate of {id}");
                    return Err(Failure::Internal(text));
                }
                SentRun::Refused { refusal, .. } => return Err(Failure::Refused(refusal)),
            }
        }
    }
    Ok(())
}

/// Receives and deletes until the meter has enough or the queue is empty for good.
pub async fn receive(client: Client, shared: Arc<Shared>) -> Result<(), Failure> {
    let mut ids = Ids::new();
    let result = receive_all(&client, &shared, &mut ids).await;
    shared.ids().append(&mut ids);
    result
}

async fn receive_all(client: &Client, shared: &Shared, ids: &mut Ids) -> Result<(), Failure> {
    let mut held: Vec<Receipt> = Vec::new();
    while let Some((count, from)) = shared.meter.next().await {
        // Read before the call: messages sent up to then are seen by it.
        let last = shared.no_more.load(Ordering::Acquire);
        let receive = verbs::Receive {
            queues: vec![shared.queue.clone()],
            max: count,
            wait_ms: if last { 0 } else { WAIT_MS },
            visibility_timeout_ms: Some(LEASE_MS),
            delete_on_receive: false,
            settle: std::mem::take(&mut held),
        };
        let received = client.call(receive).await?;
        all_done(received.settled.entries())?;
        let got = received.messages.len();
        shared.meter.give_back(u64::from(count) - (got as u64).min(u64::from(count)));
        if got == 0 {
            if last {
                break;
            }
            continue;
        }
        shared.meter.record(from, got as u64);
        for message in &received.messages {
            shared.check(message)?;
            held.push(message.receipt);
            match ids.last_mut() {
                Some((first, count)) if *first + u64::from(*count) == message.id => *count += 1,
                _ => ids.push((message.id, 1)),
            }
        }
    }
    if held.is_empty() {
        return Ok(());
    }
    let delete = verbs::Delete { queue: shared.queue.clone(), receipts: held };
    let deleted = client.call(delete).await?;
    all_done(deleted.statuses.entries())
}

fn all_done<'a>(
    mut statuses: impl Iterator<Item = Result<(), &'a qd_protocol::Refusal>>,
) -> Result<(), Failure> {
    match statuses.find_map(Result::err) {
        Some(refusal) => Err(refusal.clone().into()),
        None => Ok(()),
    }
}

/// Pings until the meter has enough.
pub async fn ping(client: Client, shared: Arc<Shared>) -> Result<(), Failure> {
    while let Some((count, from)) = shared.meter.next().await {
        client.call(verbs::Ping).await?;
        shared.meter.record(from, u64::from(count));
    }
    Ok(())
}
