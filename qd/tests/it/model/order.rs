//! Receiving in the plain model: whose turn it is, and what holds a group.

use std::collections::BTreeSet;

use qd::shard::command::{Action as SettleAction, Receive};
use qd::shard::{Outcome, Received};
use qd_protocol::verbs::ReceivedMessage;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{Body, ErrorCode, Receipt};

use super::{Model, ModelMessage, ModelQueue, refused};

/// A receive being carried out on one queue.
struct Taking<'a> {
    receive: &'a Receive,
    now_ms: u64,
    /// Index of the queue in the command, and its number.
    index: u16,
    number: u64,
    /// How many more may be leased.
    room: u64,
    /// A message did not fit: nothing more is taken.
    full: bool,
    /// Bytes of the messages taken so far, of all queues.
    bytes: u64,
    messages: Vec<ReceivedMessage>,
}

/// What became of the try to take a message.
enum Tried {
    Taken,
    /// Its time is over, which is to be settled first.
    Over,
    /// There is no room for it.
    Stop,
}

/// The order of groups.
fn place_of(group: &str) -> (usize, &[u8]) {
    (group.len(), group.as_bytes())
}

/// The group that comes next behind the one that was served last, round the end.
fn next_in_turn<'a>(groups: &[&'a str], last: Option<&String>) -> Option<&'a str> {
    let mut groups = groups.to_vec();
    groups.sort_by_key(|group| place_of(group));
    let behind = |group: &&&str| last.is_none_or(|last| place_of(group) > place_of(last.as_str()));
    groups.iter().find(behind).or(groups.first()).copied()
}

impl ModelQueue {
    fn ready(&self) -> impl Iterator<Item = &ModelMessage> {
        self.messages.iter().filter(|message| message.is_ready())
    }

    /// The ids of the messages of a group that an ordered queue may deliver, in order.
    fn deliverable(&self, group: &str) -> Vec<u64> {
        let of_group = || self.messages.iter().filter(|m| m.properties.group == group);
        if of_group().any(|message| message.lease.is_some()) {
            return Vec::new();
        }
        let delayed = of_group().filter(|message| message.due_ms.is_some());
        let first_delayed = delayed.map(|message| message.id).min().unwrap_or(u64::MAX);
        let ids = of_group().filter(|message| message.is_ready()).map(|message| message.id);
        ids.filter(|id| *id < first_delayed).collect()
    }

    /// The groups of an ordered queue that can be served.
    fn servable(&self) -> BTreeSet<&str> {
        let groups = self.messages.iter().map(|message| message.properties.group.as_str());
        groups.filter(|group| !self.deliverable(group).is_empty()).collect()
    }

    /// How many receives of one message may be woken.
    pub fn to_be_woken(&self) -> u64 {
        let ready = self.ready().count() as u64;
        match (self.attributes.paused, self.attributes.ordered) {
            (true, _) => 0,
            (false, false) => ready,
            (false, true) => ready.min(self.servable().len() as u64),
        }
    }

    fn take(&mut self, taking: &mut Taking<'_>) {
        if self.attributes.paused {
            return;
        }
        if self.attributes.ordered {
            self.take_ordered(taking);
        } else {
            self.take_plain(taking);
        }
    }

    /// One message a turn.
    fn take_plain(&mut self, taking: &mut Taking<'_>) {
        let lane = |message: &ModelMessage| {
            (message.properties.priority, message.properties.group.clone())
        };
        let has_turns = self.ready().any(|message| lane(message) != (0, String::new()));
        let mut stopped: BTreeSet<(u8, String)> = BTreeSet::new();
        loop {
            let lanes: Vec<(u8, String)> =
                self.ready().map(lane).filter(|lane| !stopped.contains(lane)).collect();
            let Some(priority) = lanes.iter().map(|(priority, _)| *priority).max() else {
                return;
            };
            let groups: Vec<&str> = lanes
                .iter()
                .filter(|lane| lane.0 == priority)
                .map(|(_, group)| group.as_str())
                .collect();
            let group = next_in_turn(&groups, self.turns.get(&priority)).unwrap().to_owned();
            let next = (priority, group.clone());
            let id = self.ready().find(|message| lane(message) == next).unwrap().id;
            match self.try_to_take(taking, id) {
                Tried::Stop => return,
                Tried::Over => {
                    stopped.insert(next);
                }
                Tried::Taken if has_turns => {
                    self.turns.insert(priority, group);
                }
                Tried::Taken => {}
            }
        }
    }

    /// All there is of a group, then the next group.
    fn take_ordered(&mut self, taking: &mut Taking<'_>) {
        let mut left: Vec<String> = self.servable().into_iter().map(str::to_owned).collect();
        while !left.is_empty() {
            let groups: Vec<&str> = left.iter().map(String::as_str).collect();
            let group = next_in_turn(&groups, self.turns.get(&0)).unwrap().to_owned();
            left.retain(|other| *other != group);
            for id in self.deliverable(&group) {
                match self.try_to_take(taking, id) {
                    Tried::Stop => return,
                    Tried::Over => break,
                    Tried::Taken => {
                        self.turns.insert(0, group.clone());
                    }
                }
            }
        }
    }

    fn try_to_take(&mut self, taking: &mut Taking<'_>, id: u64) -> Tried {
        let Taking { receive, now_ms, index, number, .. } = *taking;
        let at = self.messages.iter().position(|message| message.id == id).unwrap();
        if self.messages[at].is_over(self.attributes.retention_ms, now_ms) {
            return Tried::Over;
        }
        if taking.room == 0 && !receive.delete {
            return Tried::Stop;
        }
        let stored = &self.messages[at].message;
        let size = (stored.fields.len() + stored.body.len()) as u64;
        let fits = taking.messages.is_empty() || taking.bytes + size <= receive.bytes_max;
        taking.full |= !fits || taking.messages.len() >= receive.max as usize;
        if taking.full {
            return Tried::Stop;
        }
        taking.bytes += size;
        taking.room = taking.room.saturating_sub(1);
        self.totals.received += 1;
        let timeout = receive.visibility_timeout_ms;
        let timeout = timeout.unwrap_or(self.attributes.visibility_timeout_ms);
        let lease = (self.next_lease, now_ms + timeout, receive.secret);
        let message = &mut self.messages[at];
        self.totals.redelivered += u64::from(message.attempt > 0);
        message.attempt += 1;
        let first_ms = message.delivered_ms.0;
        message.delivered_ms = (if first_ms == 0 { now_ms } else { first_ms }, now_ms);
        if receive.delete {
            self.totals.deleted += 1;
            let message = self.messages.remove(at);
            taking.messages.push(delivery(index, number, &message, None));
        } else {
            message.lease = Some(lease);
            taking.messages.push(delivery(index, number, message, Some(lease)));
        }
        Tried::Taken
    }
}

impl Model {
    pub fn receive(&mut self, receive: &Receive, settled: Option<Statuses>) -> Outcome {
        let numbers: Option<Vec<u64>> = receive.queues.iter().map(|name| self.find(name)).collect();
        let Some(numbers) = numbers else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let settled = settled
            .unwrap_or_else(|| self.settle(&numbers, &SettleAction::Delete, 0, &receive.settle).0);
        let mut received = Received { settled, deleted: receive.delete, ..Received::default() };
        let (mut bytes, mut full) = (0, false);
        for (index, number) in numbers.iter().enumerate() {
            if full || numbers[..index].contains(number) {
                continue;
            }
            let index = index as u16;
            let queue = self.queues.get_mut(number).unwrap();
            let leased = queue.messages.iter().filter(|message| message.lease.is_some()).count();
            let mut taking = Taking {
                receive,
                now_ms: self.now_ms,
                index,
                number: *number,
                room: queue.attributes.max_in_flight.saturating_sub(leased as u64),
                full,
                bytes,
                messages: std::mem::take(&mut received.messages),
            };
            let before = taking.messages.len();
            queue.take(&mut taking);
            (bytes, full, received.messages) = (taking.bytes, taking.full, taking.messages);
            if received.messages.len() > before && !receive.delete {
                received.leases.push((index, *number, queue.next_lease));
                queue.next_lease += 1;
            }
        }
        Outcome::Received(received)
    }
}

pub fn delivery(
    index: u16,
    queue: u64,
    message: &ModelMessage,
    lease: Option<(u64, u64, u64)>,
) -> ReceivedMessage {
    let (lease_number, end_ms, secret) = lease.unwrap_or_default();
    let queue = if lease.is_some() { queue } else { 0 };
    let id = if lease.is_some() { message.id } else { 0 };
    ReceivedMessage {
        queue: index,
        id: message.id,
        receipt: Receipt { queue, lease: lease_number, id, secret },
        attempt: message.attempt,
        sent_at_ms: message.sent_at_ms,
        lease_until_ms: end_ms,
        fields: message.message.fields.clone(),
        body: Body { bytes: message.message.body.clone(), crc: message.message.crc },
    }
}
