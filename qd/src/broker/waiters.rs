//! Receives that wait for a message, first come, first served.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use qd_protocol::QueueName;
use qd_protocol::verbs::delete::Statuses;

use super::{Peer, Slot};
use crate::shard::Origin;
use crate::shard::command;

/// A receive in progress.
#[derive(Debug)]
pub(super) struct Take {
    /// Whom to answer.
    pub peer: Arc<Peer>,
    /// The request's correlation id.
    pub correlation: u32,
    /// Its place among the connection's unanswered requests.
    pub slot: Slot,
    /// The request's number.
    pub origin: Option<Origin>,
    /// What to do; the receipts are gone once they are settled.
    pub command: command::Receive,
    /// What the receipts' settlement gave.
    pub settled: Statuses,
    /// When to stop waiting, in ms of uptime.
    pub wait_until_ms: u64,
    /// Place in the order of arrival; kept when a wake-up was in vain.
    pub ticket: u64,
    /// Nobody waits for it any more: it is not to be parked.
    pub cancelled: bool,
}

/// Receives that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    takes: BTreeMap<u64, Take>,
    by_queue: HashMap<QueueName, BTreeSet<u64>>,
    by_deadline: BTreeSet<(u64, u64)>,
    /// Connection, correlation id and ticket; a client may use an id twice.
    by_request: BTreeSet<(u64, u32, u64)>,
    /// How many of them delete as they receive.
    deleting: usize,
    /// By producer and request number.
    by_origin: HashMap<(u64, u64), u64>,
}

impl Waiters {
    pub fn is_empty(&self) -> bool {
        self.takes.is_empty()
    }

    /// Lets a receive wait, at its place in the order of arrival.
    pub fn park(&mut self, take: Take) {
        for queue in &take.command.queues {
            self.by_queue.entry(queue.clone()).or_default().insert(take.ticket);
        }
        self.by_deadline.insert((take.wait_until_ms, take.ticket));
        self.deleting += usize::from(take.command.delete);
        self.by_request.insert((take.peer.id(), take.correlation, take.ticket));
        if let Some(origin) = take.origin {
            self.by_origin.insert((origin.producer, origin.number), take.ticket);
        }
        self.takes.insert(take.ticket, take);
    }

    fn remove(&mut self, ticket: u64) -> Option<Take> {
        let take = self.takes.remove(&ticket)?;
        for queue in &take.command.queues {
            if let Some(tickets) = self.by_queue.get_mut(queue) {
                tickets.remove(&ticket);
                if tickets.is_empty() {
                    self.by_queue.remove(queue);
                }
            }
        }
        self.by_deadline.remove(&(take.wait_until_ms, ticket));
        self.deleting -= usize::from(take.command.delete);
        self.by_request.remove(&(take.peer.id(), take.correlation, ticket));
        if let Some(origin) = take.origin {
            self.by_origin.remove(&(origin.producer, origin.number));
        }
        Some(take)
    }

    /// Takes out the receive that came first for a queue; only one that deletes when
    /// `deleting_only`.
    pub fn pop(&mut self, queue: &QueueName, deleting_only: bool) -> Option<Take> {
        let tickets = self.by_queue.get(queue)?;
        let ticket = if deleting_only {
            if self.deleting == 0 {
                return None;
            }
            let deletes = |ticket: &&u64| self.takes.get(ticket).is_some_and(|t| t.command.delete);
            *tickets.iter().find(deletes)?
        } else {
            *tickets.first()?
        };
        self.remove(ticket)
    }

    /// Takes out a receive by its request.
    pub fn cancel(&mut self, peer: u64, correlation: u32) -> Option<Take> {
        let requests = (peer, correlation, 0)..=(peer, correlation, u64::MAX);
        let (.., ticket) = *self.by_request.range(requests).next()?;
        self.remove(ticket)
    }

    /// Takes out the receive of which `origin` is a repeat.
    pub fn supersede(&mut self, origin: Origin) -> Option<Take> {
        let ticket = *self.by_origin.get(&(origin.producer, origin.number))?;
        self.remove(ticket)
    }

    /// Forgets the receives of a closed connection.
    pub fn forget(&mut self, peer: u64) {
        let tickets: Vec<u64> = self
            .by_request
            .range((peer, 0, 0)..=(peer, u32::MAX, u64::MAX))
            .map(|(.., ticket)| *ticket)
            .collect();
        for ticket in tickets {
            self.remove(ticket);
        }
    }

    /// Takes out the receives whose wait is over.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Take> {
        let mut over = Vec::new();
        while let Some(&(until_ms, ticket)) = self.by_deadline.first()
            && until_ms <= now_ms
        {
            over.extend(self.remove(ticket));
        }
        over
    }

    /// When the next wait is over, in ms of uptime.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.by_deadline.first().map(|(until_ms, _)| *until_ms)
    }

    /// Takes out everybody.
    pub fn drain(&mut self) -> Vec<Take> {
        let takes = std::mem::take(&mut self.takes);
        *self = Self::default();
        takes.into_values().collect()
    }
}
