//! The server as the worker's tasks see it: requests that outlast its absence.
//!
//! Always true here: a request that changes something is repeated until it is answered, or the server
//! has been away for too long; that it is away is told once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::extend::Until;
use qd_protocol::verbs::{self, Extended, Received, Verb};
use qd_protocol::{Class, Client, ErrorCode, QueueName, Receipt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::event::{Answer, Event, Settle};
use super::ledger::{Held, Lease, now};
use super::output::Output;
use crate::exit::Failure;

/// How long the server may be away, behind the time that the client itself reconnects: while messages are
/// taken, and while we end.
const AWAY_MAX: Duration = Duration::from_secs(600);
const AWAY_MAX_AT_END: Duration = Duration::ZERO;
/// Between two attempts, each of which lasts as long as the client reconnects.
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Since when the server is away.
#[derive(Debug)]
struct Away {
    since: Option<Instant>,
    longest: Duration,
}

/// A handle, shared by the tasks.
#[derive(Debug, Clone)]
pub struct Server {
    client: Client,
    queues: Arc<[QueueName]>,
    output: Output,
    away: Arc<Mutex<Away>>,
}

impl Server {
    /// At the other end of `client`.
    pub fn new(client: Client, queues: &[QueueName], output: Output) -> Self {
        let away = Arc::new(Mutex::new(Away { since: None, longest: AWAY_MAX }));
        Self { client, queues: queues.into(), output, away }
    }

    /// From now on it is not waited for as long.
    pub fn end_soon(&self) {
        self.away().longest = AWAY_MAX_AT_END;
    }

    /// A queue's name.
    pub fn queue(&self, index: usize) -> String {
        self.queues.get(index).map(ToString::to_string).unwrap_or_default()
    }

    /// Settles messages of one queue.
    pub async fn settle(self, how: Settle, held: Vec<Held>) -> Event {
        let receipts: Vec<Receipt> = held.iter().map(|held| held.lease.receipt).collect();
        let queue = held.first().and_then(|held| self.queues.get(held.lease.queue)).cloned();
        let result = match queue {
            None => Ok(Statuses::default()),
            Some(queue) => self.settle_in(queue, &how, receipts).await,
        };
        Event::Settled { how, held, result }
    }

    async fn settle_in(
        &self,
        queue: QueueName,
        how: &Settle,
        receipts: Vec<Receipt>,
    ) -> Result<Statuses, Failure> {
        let delay_ms = None;
        let settled = match how {
            Settle::Delete => self.persist(verbs::Delete { queue, receipts }).await?,
            Settle::Fail => {
                self.persist(verbs::Release { queue, counted: true, delay_ms, receipts }).await?
            }
            Settle::Release => {
                self.persist(verbs::Release { queue, counted: false, delay_ms, receipts }).await?
            }
            Settle::Reject(reason) => {
                self.persist(verbs::Reject { queue, reason: reason.clone(), receipts }).await?
            }
        };
        Ok(settled.statuses)
    }

    /// Renews leases on messages of one queue, to last this long from now.
    pub async fn renew(self, leases: Vec<Lease>, length: Duration) -> Event {
        let from = now();
        let receipts = leases.iter().map(|lease| lease.receipt).collect();
        let queue = leases.first().and_then(|lease| self.queues.get(lease.queue)).cloned();
        let until = Until::To(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        let result = match queue {
            None => Ok(Extended { statuses: Statuses::default(), lease_until_ms: Vec::new() }),
            // Not repeated here: what is still held is due again, and by then more may be.
            Some(queue) => self.once(verbs::Extend { queue, until, receipts }).await,
        };
        Event::Renewed { leases, from, result }
    }

    /// Receives, after deleting what is `settled`; not repeated. `cancel` ends a wait.
    pub async fn receive(self, ask: Ask, settled: Vec<Held>, cancel: Arc<Notify>) -> Event {
        let start = Instant::now();
        let receive = verbs::Receive {
            queues: self.queues.to_vec(),
            max: ask.max,
            wait_ms: ask.wait_ms,
            visibility_timeout_ms: Some(u64::try_from(ask.lease.as_millis()).unwrap_or(u64::MAX)),
            delete_on_receive: false,
            settle: settled.iter().map(|held| held.lease.receipt).collect(),
        };
        let result = self.receive_or_cancel(receive, &cancel).await;
        let took = start.elapsed();
        Event::Received(Answer { settled, waited: ask.wait_ms > 0, took, result })
    }

    async fn receive_or_cancel(
        &self,
        receive: verbs::Receive,
        cancel: &Notify,
    ) -> Result<Received, Failure> {
        let cancelled = || Failure::from(ErrorCode::Cancelled.refuse("not asked"));
        let mut pending = tokio::select! {
            biased;
            () = cancel.notified() => return Err(cancelled()),
            pending = self.client.start(receive) => pending?,
        };
        let answer = tokio::select! {
            biased;
            answer = &mut pending => answer,
            () = cancel.notified() => {
                pending.cancel();
                pending.await
            }
        };
        if answer.is_ok() {
            self.is_back();
        }
        Ok(answer?)
    }

    async fn persist<V: Verb + Clone>(&self, verb: V) -> Result<V::Answer, Failure> {
        loop {
            match self.once(verb.clone()).await {
                Err(failure) if self.may_come_back(&failure) => sleep(RETRY_PAUSE).await,
                result => return result,
            }
        }
    }

    async fn once<V: Verb>(&self, verb: V) -> Result<V::Answer, Failure> {
        let result = self.client.call(verb).await;
        if result.is_ok() {
            self.is_back();
        }
        Ok(result?)
    }

    /// Whether another attempt may succeed; tells the first failure.
    pub fn may_come_back(&self, failure: &Failure) -> bool {
        let refused = failure
            .refusal()
            .is_some_and(|refusal| refusal.retryable && refusal.class == Class::TryAgain);
        if !refused && !failure.is_absence() {
            return false;
        }
        let mut away = self.away();
        let first = away.since.is_none();
        let since = *away.since.get_or_insert_with(Instant::now);
        if first {
            self.output.say(&format!(
                "qctl: {failure}; commands that run go on, and the server is tried again"
            ));
        }
        since.elapsed() < away.longest
    }

    fn is_back(&self) {
        if self.away().since.take().is_some() {
            self.output.say("qctl: the server answers again");
        }
    }

    fn away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Most messages.
    pub max: u32,
    /// How long to wait for a first one.
    pub wait_ms: u64,
    /// For how long they are leased.
    pub lease: Duration,
}
