//! The state machine of one shard.
//!
//! Always true here:
//!
//! - [`Machine::apply`] is a deterministic function of the state and the record: no clock, no
//!   randomness, no hash-map order. Two machines that applied the same records have equal rows.
//! - Every live message is in exactly one of ready, delayed and leased, and the counters say so.
//! - State time never goes back; what is due is settled as part of every record, at most
//!   [`SETTLED_PER_RECORD_MAX`] messages at a time. A lease that is over but not yet settled gives
//!   its consumer no rights any more, and its messages count as leased until they are settled.
//! - After an error nothing more may be applied: memory and disk may differ.
//!
//! The rows are described in `store`'s schema.

mod admin;
mod attributes;
mod by_id;
pub mod command;
mod dead_letter;
mod dedup;
mod expiry;
mod lanes;
pub mod outcome;
mod peek;
mod place;
mod producers;
mod purge;
mod queue;
mod receive;
mod redrive;
mod send;
mod settle;
mod take;
mod transact;
mod verify;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

pub use command::{Command, Entry, NewMessage, Origin, Record};
pub use outcome::{Outcome, Received};
use qd_protocol::{ErrorCode, QueueDescription, QueueName, Refusal, Statistics};
use queue::Queue;
pub use settle::retry_jitter_ms;
pub use verify::{Fault, WINDOW_IDS, Watch};

use crate::store::{Position, Result, Store, Tables};

/// Most messages whose lease ended that one record settles.
pub const SETTLED_PER_RECORD_MAX: usize = 1_000;
/// Bytes of delivered messages (bodies, headers and 128 bytes each) after which a record delivers
/// no more: 8 MiB. One receive adds about 2 MiB at most, or a single large message.
pub const DELIVERED_BYTES_PER_RECORD_MAX: u64 = 8 << 20;
/// Most chunks without a ready message that the receives of one record look at.
pub const CHUNKS_WALKED_PER_RECORD_MAX: usize = 1_000;
/// Most rows of dropped queues that a record frees beside what it was made for: 11 us each, of chunks.
const FREED_BESIDE_MAX: usize = 4;
/// Most rows of dropped queues that a record without any entry frees.
const FREED_ALONE_MAX: usize = 16;
/// Most rows of idle producers that one record frees.
const SWEPT_PER_RECORD_MAX: usize = 256;

/// The state machine: rows on disk, and in memory what each queue's row holds.
#[derive(Debug)]
pub struct Machine {
    store: Store,
    queues: BTreeMap<u64, Queue>,
    names: BTreeMap<QueueName, u64>,
    position: Position,
    node: u64,
    /// Queues by when their retention may have something to remove, in state ms.
    retention: BTreeSet<(u64, u64)>,
}

/// What applying a record did.
#[derive(Debug, Default)]
pub struct Applied {
    /// One per entry of the record, in order.
    pub outcomes: Vec<Outcome>,
    /// Indexes of the entries that have dropped a queue in this record, not in an earlier one.
    pub dropped: Vec<usize>,
    /// Queues in which something has changed, by number.
    pub touched: Vec<u64>,
    /// State time, in ms, from which on the next settlement is due.
    pub next_due_ms: Option<u64>,
    /// Rows of dropped queues that were freed.
    pub freed: usize,
    /// True when rows are left to be freed: an empty record goes on with it.
    pub unfinished: bool,
}

impl Machine {
    /// Reads the state of `store`.
    pub fn open(store: Store) -> Result<Self> {
        let (node, position, rows) =
            store.read(|tables| Ok((tables.node()?, tables.position()?, tables.queues()?)))?;
        let mut queues = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (number, row) in rows {
            let queue = Queue::from_bytes(&row)?;
            names.insert(queue.name.clone(), number);
            queues.insert(number, queue);
        }
        let retention = store.read(|tables| {
            let mut retention = BTreeSet::new();
            for (number, queue) in &mut queues {
                queue.retention_due_ms = queue.find_retention_due(*number, tables)?;
                retention.extend(queue.retention_due_ms.map(|due_ms| (due_ms, *number)));
            }
            Ok(retention)
        })?;
        Ok(Self { store, queues, names, position, node, retention })
    }

    /// Applies a record. Its effects are durable after the next [`Machine::checkpoint`].
    ///
    /// `record.sequence` must follow [`Position::applied`].
    pub fn apply(&mut self, record: &Record) -> Result<Applied> {
        let Self { store, queues, names, position, retention, .. } = self;
        store.write(|tables| {
            assert_eq!(record.sequence, position.applied + 1, "records are applied in order");
            position.applied = record.sequence;
            position.now_ms = position.now_ms.max(record.now_ms);
            let now_ms = position.now_ms;
            let mut step = Step {
                now_ms,
                tables,
                queues,
                names,
                next_queue: &mut position.next_queue,
                retention,
                dropped: 0,
                delivered_bytes: 0,
                walked: 0,
                moved_bytes: 0,
                drops_nested: 0,
                looked_at: 0,
                pending: BTreeMap::new(),
                changed_groups: BTreeSet::new(),
                touched: BTreeSet::new(),
                producers: BTreeMap::new(),
            };
            step.settle_due()?;
            let mut outcomes = Vec::with_capacity(record.entries.len());
            let mut dropped = Vec::new();
            for (index, entry) in record.entries.iter().enumerate() {
                let queues_before = step.queues.len();
                outcomes.push(step.run(entry)?);
                if step.queues.len() < queues_before {
                    dropped.push(index);
                }
            }
            let touched = step.finish()?;
            let is_alone = record.entries.is_empty();
            let freed_max = if is_alone { FREED_ALONE_MAX } else { FREED_BESIDE_MAX };
            let freed = tables.free_rows(freed_max)?;
            tables.set_position(*position)?;
            Ok(Applied {
                outcomes,
                dropped,
                touched,
                next_due_ms: next_due_ms(tables, retention)?,
                freed,
                unfinished: tables.has_graves()?,
            })
        })
    }

    /// Makes the effects of all records so far durable.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.store.checkpoint()
    }

    /// Begins to make everything applied so far durable.
    pub fn begin_checkpoint(&mut self) -> Result<()> {
        self.store.begin_checkpoint()
    }

    /// Waits until every checkpoint that was begun is durable.
    pub fn wait_saved(&self) -> Result<()> {
        self.store.wait_saved()
    }

    /// True when every checkpoint that was begun is durable.
    pub fn is_saved(&self) -> Result<bool> {
        self.store.is_saved()
    }

    /// Bytes of all live messages, with 64 for each.
    pub fn live_bytes(&self) -> u64 {
        self.queues.values().map(|queue| queue.statistics.bytes + 64 * queue.live()).sum()
    }

    /// How many live messages there are.
    pub fn live_messages(&self) -> u64 {
        self.queues.values().map(Queue::live).sum()
    }

    /// How far the state is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Random identity of the data.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// State time, in ms, from which on the next settlement is due.
    pub fn next_due_ms(&self) -> Result<Option<u64>> {
        self.store.read(|tables| next_due_ms(tables, &self.retention))
    }

    /// Name of the queue with this number.
    pub fn name(&self, number: u64) -> Option<&QueueName> {
        self.queues.get(&number).map(|queue| &queue.name)
    }

    /// How many messages of the named queue can be delivered, at least (0: none), and how many more
    /// of them may be leased.
    pub fn ready(&self, name: &QueueName) -> (u64, u64) {
        let queue = self.names.get(name).map(|number| &self.queues[number]);
        queue.map_or((0, 0), |queue| (queue.deliverable(), queue.room_in_flight()))
    }

    /// True when the named queue delivers nothing, whatever it holds.
    pub fn is_paused(&self, name: &QueueName) -> bool {
        let number = self.names.get(name);
        number.is_some_and(|number| self.queues[number].attributes.paused)
    }

    /// Attributes and statistics of the named queue; `now_ms` is state time, for ages.
    pub fn describe(
        &self,
        name: &QueueName,
        now_ms: u64,
    ) -> Result<std::result::Result<QueueDescription, Refusal>> {
        let Some(number) = self.names.get(name) else {
            return Ok(Err(no_such_queue(name)));
        };
        self.store.read(|tables| Ok(Ok(self.description(tables, *number, now_ms)?)))
    }

    /// Names of the queues behind `after`, in order.
    pub fn names_behind(
        &self,
        after: Option<&QueueName>,
    ) -> impl Iterator<Item = &QueueName> + use<'_> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.names.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(name, _)| name)
    }

    /// Attributes and statistics of those of the named queues that are there.
    pub fn describe_all(&self, names: &[QueueName], now_ms: u64) -> Result<Vec<QueueDescription>> {
        let numbers = names.iter().filter_map(|name| self.names.get(name));
        self.store.read(|tables| {
            numbers.map(|number| self.description(tables, *number, now_ms)).collect()
        })
    }

    /// Looks up the oldest message of the named queue, so that [`Machine::counters`] need not. True: it was
    /// not known.
    pub fn find_oldest(&self, name: &QueueName) -> Result<bool> {
        let queue = self.names.get(name).map(|number| (*number, &self.queues[number]));
        let Some((number, queue)) = queue.filter(|(_, queue)| queue.oldest.get().is_none()) else {
            return Ok(false);
        };
        self.store.read(|tables| queue.oldest_sent_at_ms(number, tables))?;
        Ok(true)
    }

    /// The counters of those of the named queues that are there, or of all, in the order of their
    /// names; `now_ms` is state time, for ages.
    pub fn counters(
        &self,
        names: Option<&BTreeSet<QueueName>>,
        now_ms: u64,
    ) -> Result<Vec<(QueueName, Statistics)>> {
        let counters = |tables: &Tables<'_>, name: &QueueName, number: &u64| {
            Ok((name.clone(), self.queues[number].counters(*number, tables, now_ms)?))
        };
        self.store.read(|tables| match names {
            None => {
                self.names.iter().map(|(name, number)| counters(tables, name, number)).collect()
            }
            Some(names) => names
                .iter()
                .filter_map(|name| {
                    self.names.get(name).map(|number| counters(tables, name, number))
                })
                .collect(),
        })
    }

    fn description(
        &self,
        tables: &Tables<'_>,
        number: u64,
        now_ms: u64,
    ) -> Result<QueueDescription> {
        let queue = &self.queues[&number];
        Ok(QueueDescription {
            name: queue.name.clone(),
            created_at_ms: queue.created_at_ms,
            attributes: queue.attributes.clone(),
            statistics: queue.counters(number, tables, now_ms)?,
        })
    }

    /// Hash over all rows; equal after the same records.
    pub fn row_hash(&self) -> Result<u64> {
        self.store.row_hash()
    }
}

/// One record being applied.
struct Step<'a, 't> {
    now_ms: u64,
    tables: &'a mut Tables<'t>,
    queues: &'a mut BTreeMap<u64, Queue>,
    names: &'a mut BTreeMap<QueueName, u64>,
    next_queue: &'a mut u64,
    retention: &'a mut BTreeSet<(u64, u64)>,
    /// Messages that this record has removed to make room.
    dropped: usize,
    /// Of messages that this record has delivered.
    delivered_bytes: u64,
    /// Chunks without a ready message that the receives of this record have looked at.
    walked: usize,
    /// Of messages that this record has moved to other queues.
    moved_bytes: u64,
    /// Queues that are making room for one another just now.
    drops_nested: u8,
    /// Messages and chunks that the walks of this record have looked at.
    looked_at: usize,
    /// Messages of this record that are in no chunk yet, by queue.
    pending: BTreeMap<u64, send::Pending>,
    /// Groups of ordered queues in which something has changed.
    changed_groups: BTreeSet<(u64, Vec<u8>)>,
    /// Queues whose row is to be written.
    touched: BTreeSet<u64>,
    /// Producers whose row is to be written.
    producers: BTreeMap<u64, producers::Producer>,
}

impl Step<'_, '_> {
    /// Carries one entry out, unless it was carried out before.
    fn run(&mut self, entry: &Entry) -> Result<Outcome> {
        let Some(origin) = entry.origin else {
            return self.carry_out(&entry.command, None);
        };
        match self.recall(origin, &entry.command)? {
            producers::Recalled::Answer(outcome) => Ok(outcome),
            producers::Recalled::Settled(statuses) => {
                let outcome = self.carry_out(&entry.command, Some(statuses))?;
                self.remember(origin, &outcome);
                Ok(outcome)
            }
            producers::Recalled::New => {
                let outcome = self.carry_out(&entry.command, None)?;
                self.remember(origin, &outcome);
                Ok(outcome)
            }
        }
    }

    fn carry_out(
        &mut self,
        command: &Command,
        settled: Option<qd_protocol::verbs::delete::Statuses>,
    ) -> Result<Outcome> {
        match command {
            Command::Create(create) => self.create(create),
            Command::Drop(drop) => self.drop_queue(drop),
            Command::Send(send) => self.send(send),
            Command::Receive(receive) => self.receive(receive, settled),
            Command::Settle(settle) => self.settle(settle),
            Command::ById(by_id) => self.by_id(by_id),
            Command::Update(update) => self.update(update),
            Command::Redrive(redrive) => self.redrive(redrive),
            Command::Purge(purge) => self.purge(purge),
            Command::Transact(transact) => self.transact(transact),
        }
    }

    /// The number of the named queue.
    fn find(&self, name: &QueueName) -> std::result::Result<u64, Refusal> {
        self.names.get(name).copied().ok_or_else(|| no_such_queue(name))
    }

    /// The queue, which will be written with the record.
    fn queue(&mut self, number: u64) -> &mut Queue {
        self.touched.insert(number);
        // Numbers come from `find` or from rows of live queues, and the map holds all of those.
        self.queues.get_mut(&number).expect("a live queue")
    }

    /// Writes what was collected during the record. Returns the queues that were touched.
    fn finish(mut self) -> Result<Vec<u64>> {
        for number in self.pending.keys().copied().collect::<Vec<_>>() {
            self.flush(number)?;
        }
        self.refresh_groups(None)?;
        self.write_producers()?;
        for number in &self.touched {
            if let Some(queue) = self.queues.get(number) {
                self.tables.put_queue(*number, &queue.to_bytes())?;
            }
        }
        Ok(self.touched.into_iter().collect())
    }
}

/// When the next settlement is due, in state ms.
fn next_due_ms(tables: &Tables<'_>, retention: &BTreeSet<(u64, u64)>) -> Result<Option<u64>> {
    let lease_end_ms = tables.first_lease_end()?.map(|(end_ms, ..)| end_ms);
    let due_ms = tables.first_due()?.map(|(due_ms, ..)| due_ms);
    let expires_ms = tables.first_expiry()?.map(|(expires_ms, ..)| expires_ms);
    let retained_ms = retention.first().map(|(due_ms, _)| *due_ms);
    let window_ms = dedup::next_end_ms(tables)?;
    Ok([lease_end_ms, due_ms, expires_ms, retained_ms, window_ms].into_iter().flatten().min())
}

fn no_such_queue(name: &QueueName) -> Refusal {
    ErrorCode::NoSuchQueue
        .refuse(format!("no queue is named {:?}", name.as_str()))
        .with_queue(name.as_str())
}
