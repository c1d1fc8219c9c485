//! A record being made, and whom to answer when it is durable.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use qd_protocol::QueueName;
use tokio::sync::OwnedSemaphorePermit;

use super::waiters::Take;
use super::{Peer, Slot};
use crate::shard::{Command, Entry, Origin};

/// Most requests in one record.
const RECORD_ENTRIES_MAX: usize = 4_096;
/// Messages, receipts and ids in one record past which no further request goes into it: some
/// tens of milliseconds of work. A single request has at most 10,000.
const RECORD_ITEMS_MAX: usize = 10_000;
/// Bytes of requests in one record past which no further request goes into it: 16 MiB. A single
/// request has at most 17 MiB.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// A record being made, and whom to answer.
#[derive(Default)]
pub(super) struct Batch {
    pub entries: Vec<Entry>,
    /// One per entry.
    pub askers: Vec<Asker>,
    /// Room in the mailbox, given back after the record.
    pub permits: Vec<OwnedSemaphorePermit>,
    /// Connection, correlation id and index of every receive.
    receives: BTreeSet<(u64, u32, usize)>,
    /// Index of every numbered receive, by producer and number.
    numbered: HashMap<(u64, u64), usize>,
    items: usize,
    bytes: usize,
    mails: usize,
}

/// Whom to answer.
pub(super) enum Asker {
    Change { peer: Arc<Peer>, correlation: u32, slot: Slot, opcode: u16 },
    Drop { peer: Arc<Peer>, correlation: u32, slot: Slot, queue: QueueName },
    Receive(Box<Take>),
}

impl Batch {
    /// True when what else waits is for the next record.
    pub fn is_full(&self) -> bool {
        self.mails >= RECORD_ENTRIES_MAX
            || self.entries.len() >= RECORD_ENTRIES_MAX
            || self.items >= RECORD_ITEMS_MAX
            || self.bytes >= RECORD_BYTES_MAX
    }

    /// Keeps the room that a mail took in the mailbox.
    pub fn hold(&mut self, permit: Option<OwnedSemaphorePermit>) {
        self.mails += 1;
        if let Some(permit) = permit {
            self.bytes += permit.num_permits();
            self.permits.push(permit);
        }
    }

    /// Adds a change.
    pub fn push(&mut self, origin: Option<Origin>, command: Command, asker: Asker) {
        self.items += items(&command);
        self.entries.push(Entry { origin, command });
        self.askers.push(asker);
    }

    /// Adds a receive that takes messages of `bytes_max` bytes at most, or only settles its receipts.
    pub fn push_take(&mut self, take: Take, bytes_max: u64) {
        let index = self.entries.len();
        self.receives.insert((take.peer.id(), take.correlation, index));
        if let Some(origin) = take.origin {
            self.numbered.insert((origin.producer, origin.number), index);
        }
        let mut command = take.command.clone();
        command.bytes_max = bytes_max;
        if take.cancelled || take.settling {
            command.max = 0;
        }
        self.push(take.origin, Command::Receive(command), Asker::Receive(Box::new(take)));
    }

    /// Lets the receives of a connection that are not meant any more take no message and wait for
    /// none; their receipts are settled. One request, or all of the connection.
    pub fn cancel(&mut self, peer: u64, correlation: Option<u32>) {
        let (from, to) = correlation.map_or((0, u32::MAX), |id| (id, id));
        let range = (peer, from, 0)..=(peer, to, usize::MAX);
        for (.., index) in self.receives.range(range) {
            cancel(&mut self.entries[*index], &mut self.askers[*index]);
        }
    }

    /// The same for a request that has come again.
    pub fn supersede(&mut self, origin: Origin) {
        if let Some(index) = self.numbered.remove(&(origin.producer, origin.number)) {
            cancel(&mut self.entries[index], &mut self.askers[index]);
        }
    }

    /// The queues that receives of the record name besides others, each once.
    pub fn preferred(&self) -> Vec<QueueName> {
        let queues = self.askers.iter().filter_map(|asker| match asker {
            Asker::Receive(take) if take.command.queues.len() > 1 => Some(&take.command.queues),
            Asker::Receive(_) | Asker::Change { .. } | Asker::Drop { .. } => None,
        });
        let queues: BTreeSet<&QueueName> = queues.flatten().collect();
        queues.into_iter().cloned().collect()
    }
}

fn cancel(entry: &mut Entry, asker: &mut Asker) {
    if let (Command::Receive(receive), Asker::Receive(take)) = (&mut entry.command, asker) {
        take.cancelled = true;
        receive.max = 0;
    }
}

/// What a command asks to be done, counted in messages, receipts and ids.
fn items(command: &Command) -> usize {
    match command {
        Command::Send(send) => send.messages.len(),
        Command::Settle(settle) => settle.receipts.len(),
        Command::ById(by_id) => by_id.ids.len(),
        // What it delivers is bounded where the record is applied.
        Command::Receive(receive) => receive.settle.len(),
        Command::Create(_) | Command::Drop(_) | Command::Update(_) => 1,
        // What it looks at is bounded where it is applied.
        Command::Redrive(redrive) => redrive.max as usize,
        Command::Purge(purge) => {
            if purge.is_filtered() {
                1_000
            } else {
                1
            }
        }
        Command::Transact(transact) => {
            let receipts = transact.deletes.iter().map(|(_, receipts)| receipts.len());
            let messages = transact.sends.iter().map(|send| send.messages.len());
            receipts.chain(messages).sum()
        }
    }
}
