//! One run: connections, workers, and what became of every message.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use qd_protocol::verbs::{Create, Describe, Drop, IfExists};
use qd_protocol::{Address, AttributeChanges, Client, QueueDescription, QueueName};
use tokio::task::JoinSet;

use super::meter::{Limits, Meter};
use super::report::Row;
use super::workers::{self, Ids, Shared};
use super::{Bench, Workload};
use crate::exit::Failure;
use crate::session::{Session, options};

/// Messages received by default.
const RECEIVE_MESSAGES: u64 = 100_000;
/// Messages put into the queue for a receive that ends by time.
const PRELOAD_FOR_DURATION: u64 = 1_000_000;
/// How long the drop of the scratch queue may take.
const DROP_WITHIN: Duration = Duration::from_secs(5);
/// Default time of the other workloads.
const DURATION: Duration = Duration::from_secs(5);
/// Bytes and messages of a call that fills the queue, and such calls under way.
const PRELOAD_BYTES: u64 = 256 << 10;
const PRELOAD_BATCH: u64 = 1_000;
const PRELOAD_WINDOW: u32 = 4;

/// Measures, with a scratch queue unless one is given. What ends the run early does not leave the
/// scratch queue behind.
pub async fn run(bench: &Bench, session: &mut Session) -> Result<Vec<Row>, Failure> {
    let stop = session.stop.clone();
    let queue = match &bench.queue {
        Some(queue) => queue.clone(),
        None => scratch_name()?,
    };
    let mut scratch = None;
    let result = tokio::select! {
        result = prepare_and_run(bench, session, queue.clone(), &mut scratch) => result,
        failure = stop.stopped() => Err(failure),
    };
    if let Some(client) = scratch {
        let drop = client.call(Drop { queue, only_if_empty: false });
        let dropped = tokio::time::timeout(DROP_WITHIN, drop).await;
        // After a failure of the run that failure is what counts.
        if let (Ok(Err(error)), Ok(_)) = (dropped, &result) {
            return Err(error.into());
        }
    }
    result
}

/// Sets `scratch` to the connection once there may be a scratch queue.
async fn prepare_and_run(
    bench: &Bench,
    session: &mut Session,
    queue: QueueName,
    scratch: &mut Option<Client>,
) -> Result<Vec<Row>, Failure> {
    // The one connection that may start a server.
    let first = session.client().await?;
    let own_queue = bench.queue.is_none();
    if own_queue {
        *scratch = Some(first.clone());
        let attributes = AttributeChanges {
            max_message_size: Some(bench.size.max(1 << 20)),
            ..AttributeChanges::default()
        };
        let if_exists = IfExists::Compare;
        first.call(Create { queue: queue.clone(), if_exists, attributes, with: None }).await?;
    }
    let addresses = session.target()?.addresses;
    Load { bench, addresses, queue, own_queue }.run().await
}

fn scratch_name() -> Result<QueueName, Failure> {
    let random = getrandom::u64().map_err(|error| Failure::Internal(error.to_string()))?;
    QueueName::new(format!("qctl-bench-{random:016x}"))
        .map_err(|error| Failure::Internal(error.to_string()))
}

struct Load<'a> {
    bench: &'a Bench,
    addresses: Vec<Address>,
    queue: QueueName,
    own_queue: bool,
}

impl Load<'_> {
    async fn run(&self) -> Result<Vec<Row>, Failure> {
        match self.bench.workload {
            Workload::Send => self.send().await,
            Workload::Receive => self.receive().await,
            Workload::Mixed => self.mixed().await,
            Workload::Ping | Workload::Disk => self.ping().await,
        }
    }

    fn limits(&self) -> Limits {
        let bench = self.bench;
        let duration = match (bench.messages, bench.duration) {
            (_, Some(ms)) => Some(Duration::from_millis(ms)),
            (None, None) => Some(DURATION),
            (Some(_), None) => None,
        };
        Limits {
            warmup: Duration::from_millis(bench.warmup),
            duration,
            messages: bench.messages,
            batch: bench.batch,
            rate: bench.rate,
        }
    }

    fn shared(&self, limits: Limits) -> Result<Arc<Shared>, Failure> {
        let body = Bytes::from(body(self.bench.size));
        let meter = Meter::start(limits)?;
        let shared =
            Shared::new(meter, self.queue.clone(), body, self.own_queue, self.bench.groups);
        Ok(Arc::new(shared))
    }

    async fn clients(&self, count: u32) -> Result<Vec<Client>, Failure> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(Client::connect(&self.addresses, options(Duration::ZERO)).await?);
        }
        Ok(clients)
    }

    async fn describe(&self, client: &Client) -> Result<QueueDescription, Failure> {
        let queue = self.queue.clone();
        Ok(client.call(Describe { queue }).await?)
    }

    async fn send(&self) -> Result<Vec<Row>, Failure> {
        let clients = self.clients(self.bench.connections).await?;
        let before = self.describe(first(&clients)?).await?.statistics.sent;
        let shared = self.shared(self.limits())?;
        run_workers(&clients, self.bench.window, &shared, workers::send).await?;
        let after = self.describe(first(&clients)?).await?.statistics.sent;
        let sent = Census::of(&shared.ids());
        let stored = after.saturating_sub(before);
        let mut row = Row::new("", &shared);
        row.lost = sent.distinct.saturating_sub(stored);
        row.duplicated = sent.repeated;
        if self.own_queue {
            row.duplicated += stored.saturating_sub(sent.distinct);
        }
        Ok(vec![row])
    }

    async fn receive(&self) -> Result<Vec<Row>, Failure> {
        let clients = self.clients(self.bench.connections).await?;
        let loaded = if self.own_queue { Some(self.preload(&clients).await?) } else { None };
        let mut limits = self.limits();
        if self.bench.duration.is_none() {
            limits.duration = None;
        }
        // All that was put in is taken out, also what is received while warming up.
        limits.messages = if self.own_queue {
            None
        } else {
            self.bench.messages.or((limits.duration.is_none()).then_some(RECEIVE_MESSAGES))
        };
        let shared = self.shared(limits)?;
        shared.no_more.store(true, Ordering::Release);
        run_workers(&clients, self.bench.window, &shared, workers::receive).await?;
        let mut row = Row::new("", &shared);
        let taken = Census::of(&shared.ids());
        row.duplicated = taken.repeated;
        if let Some(loaded) = loaded {
            row.lost = self.lost(first(&clients)?, &loaded, &taken).await?;
        }
        Ok(vec![row])
    }

    async fn mixed(&self) -> Result<Vec<Row>, Failure> {
        let consumers = (self.bench.connections / 2).max(1);
        let producers = self.bench.connections.saturating_sub(consumers).max(1);
        let senders = self.clients(producers).await?;
        let receivers = self.clients(consumers).await?;
        let sending = self.shared(self.limits())?;
        let receiving = self.shared(Limits {
            warmup: Duration::from_millis(self.bench.warmup),
            batch: self.bench.batch,
            ..Limits::default()
        })?;
        let produce = async {
            let result = run_workers(&senders, self.bench.window, &sending, workers::send).await;
            receiving.no_more.store(true, Ordering::Release);
            result
        };
        let consume = run_workers(&receivers, self.bench.window, &receiving, workers::receive);
        tokio::try_join!(produce, consume)?;
        let sent = Census::of(&sending.ids());
        let taken = Census::of(&receiving.ids());
        let lost = self.lost(first(&receivers)?, &sent, &taken).await?;
        let mut produced = Row::new("send", &sending);
        produced.duplicated = sent.repeated;
        let mut consumed = Row::new("receive", &receiving);
        consumed.duplicated = taken.repeated;
        consumed.lost = if self.own_queue { lost } else { 0 };
        Ok(vec![produced, consumed])
    }

    async fn ping(&self) -> Result<Vec<Row>, Failure> {
        let clients = self.clients(self.bench.connections).await?;
        let mut limits = self.limits();
        limits.batch = 1;
        let shared = self.shared(limits)?;
        run_workers(&clients, self.bench.window, &shared, workers::ping).await?;
        Ok(vec![Row::new("", &shared)])
    }

    /// Fills the queue; not measured.
    async fn preload(&self, clients: &[Client]) -> Result<Census, Failure> {
        let batch = (PRELOAD_BYTES / (self.bench.size + 12)).clamp(1, PRELOAD_BATCH);
        let messages = match (self.bench.messages, self.bench.duration) {
            (Some(messages), _) => messages,
            (None, Some(_)) => PRELOAD_FOR_DURATION,
            (None, None) => RECEIVE_MESSAGES,
        };
        let shared = self.shared(Limits {
            messages: Some(messages),
            batch: u32::try_from(batch).unwrap_or(1),
            ..Limits::default()
        })?;
        run_workers(clients, PRELOAD_WINDOW, &shared, workers::send).await?;
        let loaded = Census::of(&shared.ids());
        Ok(loaded)
    }

    /// Messages that were answered, were never received and are not in the queue either.
    async fn lost(&self, client: &Client, sent: &Census, taken: &Census) -> Result<u64, Failure> {
        let statistics = self.describe(client).await?.statistics;
        let left = statistics.ready + statistics.delayed + statistics.leased;
        Ok(sent.distinct.saturating_sub(taken.distinct + left))
    }
}

fn first(clients: &[Client]) -> Result<&Client, Failure> {
    let none = || Failure::Internal("no connection".to_owned());
    clients.first().ok_or_else(none)
}

/// Runs `window` workers on every connection; the first failure ends them all.
async fn run_workers<F>(
    clients: &[Client],
    window: u32,
    shared: &Arc<Shared>,
    worker: impl Fn(Client, Arc<Shared>) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let mut workers = JoinSet::new();
    for client in clients {
        for _ in 0..window {
            workers.spawn(worker(client.clone(), Arc::clone(shared)));
        }
    }
    while let Some(ended) = workers.join_next().await {
        let ended = ended.unwrap_or_else(|error| Err(Failure::Internal(error.to_string())));
        if let Err(failure) = ended {
            shared.meter.stop();
            return Err(failure);
        }
    }
    Ok(())
}

/// Bytes that look like text and do not compress to nothing.
fn body(size: u64) -> Vec<u8> {
    let alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) as usize % alphabet.len();
        alphabet.get(at).copied().unwrap_or(b'x')
    };
    (0..size).map(next).collect()
}

/// How often ids were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Census {
    distinct: u64,
    repeated: u64,
}

impl Census {
    fn of(ids: &Ids) -> Self {
        let mut ranges: Vec<(u64, u64)> =
            ids.iter().map(|&(first, count)| (first, first + u64::from(count))).collect();
        ranges.sort_unstable();
        let mut census = Self { distinct: 0, repeated: 0 };
        // End of all ranges before.
        let mut covered = 0;
        for (start, end) in ranges {
            let new = end.saturating_sub(start.max(covered));
            census.distinct += new;
            census.repeated += (end - start) - new;
            covered = covered.max(end);
        }
        census
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn census_finds_what_came_twice() {
        let census = |ids: &[(u64, u32)]| {
            let census = Census::of(&ids.to_vec());
            (census.distinct, census.repeated)
        };
        assert_eq!(census(&[]), (0, 0));
        assert_eq!(census(&[(11, 5), (1, 10)]), (15, 0));
        assert_eq!(census(&[(1, 10), (1, 10)]), (10, 10));
        assert_eq!(census(&[(1, 10), (3, 2), (9, 4)]), (12, 4));
    }

    #[test]
    fn body_has_its_size() {
        assert_eq!(body(0).len(), 0);
        assert_eq!(body(100).len(), 100);
    }
}
