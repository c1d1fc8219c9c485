//! Receives that are in no record, first come, first served.
//!
//! Always true here: every receive is in exactly one [`Place`], and is found in any of them by its
//! connection, by its request and by its number.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use qd_protocol::QueueName;

use super::kept::Kept;
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
    pub settled: Kept,
    /// When to stop waiting, in ms of uptime.
    pub wait_until_ms: u64,
    /// Place in the order of arrival; kept when a wake-up was in vain.
    pub ticket: u64,
    /// Nobody waits for it any more: it is not to be parked.
    pub cancelled: bool,
    /// The record that it is in settles its receipts only, for its connection has too much to read.
    pub settling: bool,
}

/// What a receive in no record waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A message in one of its queues.
    Message,
    /// The next record.
    Record,
    /// Its connection, which has too much to read.
    Connection,
}

/// Receives that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    takes: BTreeMap<u64, (Place, Take)>,
    /// Connection, correlation id and ticket; a client may use an id twice.
    by_request: BTreeSet<(u64, u32, u64)>,
    /// By producer and request number.
    by_origin: HashMap<(u64, u64), u64>,
    /// Of those that wait for a message.
    by_queue: HashMap<QueueName, BTreeSet<u64>>,
    /// Of those that wait for a message.
    by_deadline: BTreeSet<(u64, u64)>,
    /// How many of those that wait for a message delete as they receive.
    deleting: usize,
    /// Those that wait for the next record.
    woken: BTreeSet<u64>,
    /// Those that wait for their connection, with it.
    held_back: BTreeSet<(u64, u64)>,
}

impl Waiters {
    /// True when somebody waits for a message.
    pub fn any_waits(&self) -> bool {
        !self.by_deadline.is_empty()
    }

    /// True when somebody is to be tried with the next record.
    pub fn any_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// Lets a receive wait for a message, at its place in the order of arrival.
    pub fn park(&mut self, take: Take) {
        for queue in &take.command.queues {
            self.by_queue.entry(queue.clone()).or_default().insert(take.ticket);
        }
        self.by_deadline.insert((take.wait_until_ms, take.ticket));
        self.deleting += usize::from(take.command.delete);
        self.insert(Place::Message, take);
    }

    /// Lets a receive wait for the next record.
    pub fn wake(&mut self, take: Take) {
        self.woken.insert(take.ticket);
        self.insert(Place::Record, take);
    }

    /// Lets a receive wait until its connection has read its answers.
    pub fn hold_back(&mut self, take: Take) {
        self.held_back.insert((take.peer.id(), take.ticket));
        self.insert(Place::Connection, take);
    }

    fn insert(&mut self, place: Place, take: Take) {
        self.by_request.insert((take.peer.id(), take.correlation, take.ticket));
        if let Some(origin) = take.origin {
            self.by_origin.insert((origin.producer, origin.number), take.ticket);
        }
        self.takes.insert(take.ticket, (place, take));
    }

    fn remove(&mut self, ticket: u64) -> Option<Take> {
        let (place, take) = self.takes.remove(&ticket)?;
        self.by_request.remove(&(take.peer.id(), take.correlation, ticket));
        if let Some(origin) = take.origin {
            self.by_origin.remove(&(origin.producer, origin.number));
        }
        match place {
            Place::Message => {
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
            }
            Place::Record => {
                self.woken.remove(&ticket);
            }
            Place::Connection => {
                self.held_back.remove(&(take.peer.id(), ticket));
            }
        }
        Some(take)
    }

    /// Takes out the receive that came first of those that wait for a message of a queue; only one
    /// that deletes when `deleting_only`.
    pub fn pop(&mut self, queue: &QueueName, deleting_only: bool) -> Option<Take> {
        let tickets = self.by_queue.get(queue)?;
        let ticket = if deleting_only {
            if self.deleting == 0 {
                return None;
            }
            let deletes =
                |ticket: &&u64| self.takes.get(ticket).is_some_and(|(_, take)| take.command.delete);
            *tickets.iter().find(deletes)?
        } else {
            *tickets.first()?
        };
        self.remove(ticket)
    }

    /// Takes out the receive that came first of those that wait for the next record.
    pub fn pop_woken(&mut self) -> Option<Take> {
        let ticket = *self.woken.first()?;
        self.remove(ticket)
    }

    /// Takes out the receives that wait for a connection, in the order of their arrival.
    pub fn pop_held_back(&mut self, peer: u64) -> Vec<Take> {
        let range = self.held_back.range((peer, 0)..=(peer, u64::MAX));
        let tickets: Vec<u64> = range.map(|(_, ticket)| *ticket).collect();
        tickets.into_iter().filter_map(|ticket| self.remove(ticket)).collect()
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

    /// Takes out the receives of a closed connection.
    pub fn forget(&mut self, peer: u64) -> Vec<Take> {
        let range = self.by_request.range((peer, 0, 0)..=(peer, u32::MAX, u64::MAX));
        let tickets: Vec<u64> = range.map(|(.., ticket)| *ticket).collect();
        tickets.into_iter().filter_map(|ticket| self.remove(ticket)).collect()
    }

    /// Takes out the receives that have waited for a message to the end of their wait.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Take> {
        let mut over = Vec::new();
        while let Some(&(until_ms, ticket)) = self.by_deadline.first()
            && until_ms <= now_ms
        {
            over.extend(self.remove(ticket));
        }
        over
    }

    /// When the next wait for a message is over, in ms of uptime.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.by_deadline.first().map(|(until_ms, _)| *until_ms)
    }

    /// Takes out everybody.
    pub fn drain(&mut self) -> Vec<Take> {
        let takes = std::mem::take(self).takes;
        takes.into_values().map(|(_, take)| take).collect()
    }
}
