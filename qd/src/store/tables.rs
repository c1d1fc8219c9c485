//! The tables of one open transaction, as the state machine uses them.

use redb::{AccessGuard, ReadableTable, Table, WriteTransaction};

use super::chunk::{ChunkView, LARGE_CHUNK_BYTES_MAX};
use super::lease::{Delivered, LeaseRow};
use super::marks::Marks;
use super::schema::{
    BLOCKED, CHUNKS, DEDUP, DEDUP_ENDS, DEDUP_WINDOWS, DELAYED, DUE, EXPIRY, GRAVES, HOLDS,
    LEASE_ENDS, LEASES, MARKS, META, META_NODE, META_POSITION, PARTS, PRODUCERS, QUEUES, RETURNED,
    RING, TRIED, TURNS, WAITING,
};
use super::{Result, StoreError};

/// How far the state is: written with every record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Sequence number of the last record applied; 0 before the first.
    pub applied: u64,
    /// State time of that record, ms since 1970 UTC.
    pub now_ms: u64,
    /// Number that the next queue gets.
    pub next_queue: u64,
}

/// What a range of rows gives, one by one.
pub(super) type RowOf<'a, K, V> =
    std::result::Result<(AccessGuard<'a, K>, AccessGuard<'a, V>), redb::StorageError>;

/// All tables of one transaction.
pub struct Tables<'t> {
    pub(super) meta: Table<'t, &'static str, &'static [u8]>,
    pub(super) queues: Table<'t, u64, &'static [u8]>,
    pub(super) chunks: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) parts: Table<'t, (u64, u64, u32), &'static [u8]>,
    pub(super) marks: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) returned: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) delayed: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) blocked: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) due: Table<'t, (u64, u64, u64), ()>,
    pub(super) expiry: Table<'t, (u64, u64, u64), ()>,
    pub(super) leases: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) lease_ends: Table<'t, (u64, u64, u64), ()>,
    pub(super) dedup: Table<'t, (u64, &'static [u8], u64), ()>,
    pub(super) dedup_windows: Table<'t, (u64, &'static [u8]), (u64, u64)>,
    pub(super) dedup_ends: Table<'t, (u64, u64, u64), &'static [u8]>,
    pub(super) producers: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) waiting: Table<'t, &'static [u8], &'static [u8]>,
    pub(super) tried: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) holds: Table<'t, &'static [u8], ()>,
    pub(super) ring: Table<'t, &'static [u8], ()>,
    pub(super) turns: Table<'t, (u64, u8), &'static [u8]>,
    pub(super) graves: Table<'t, u64, u8>,
}

/// A message that is not visible yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delayed {
    /// When it becomes ready, in state ms.
    pub due_ms: u64,
    /// What it has behind it.
    pub delivered: Delivered,
}

impl Delayed {
    pub(super) fn from_bytes(row: &[u8]) -> Result<Self> {
        let (due_ms, delivered) = row.split_first_chunk().ok_or_else(|| damaged("delayed"))?;
        Ok(Self {
            due_ms: u64::from_le_bytes(*due_ms),
            delivered: Delivered::from_bytes(delivered)?,
        })
    }
}

/// A message that waits for its dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// What it has behind it.
    pub delivered: Delivered,
    /// Why it is a dead letter; see `shard::dead_letter`.
    pub reason: Vec<u8>,
}

impl Blocked {
    pub(super) fn from_bytes(row: &[u8]) -> Result<Self> {
        let parts = row.split_at_checked(Delivered::BYTES);
        let (delivered, reason) = parts.ok_or_else(|| damaged("blocked"))?;
        Ok(Self { delivered: Delivered::from_bytes(delivered)?, reason: reason.to_vec() })
    }
}

/// A chunk's row and the id of its first message.
pub struct ChunkRow<'a> {
    /// Id of its first message.
    pub first: u64,
    guard: AccessGuard<'a, &'static [u8]>,
}

impl ChunkRow<'_> {
    /// Reads the row in place.
    pub fn view(&self) -> Result<ChunkView<'_>> {
        ChunkView::new(self.guard.value())
    }
}

impl<'t> Tables<'t> {
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self> {
        Ok(Self {
            meta: txn.open_table(META)?,
            queues: txn.open_table(QUEUES)?,
            chunks: txn.open_table(CHUNKS)?,
            parts: txn.open_table(PARTS)?,
            marks: txn.open_table(MARKS)?,
            returned: txn.open_table(RETURNED)?,
            delayed: txn.open_table(DELAYED)?,
            blocked: txn.open_table(BLOCKED)?,
            due: txn.open_table(DUE)?,
            expiry: txn.open_table(EXPIRY)?,
            leases: txn.open_table(LEASES)?,
            lease_ends: txn.open_table(LEASE_ENDS)?,
            dedup: txn.open_table(DEDUP)?,
            dedup_windows: txn.open_table(DEDUP_WINDOWS)?,
            dedup_ends: txn.open_table(DEDUP_ENDS)?,
            producers: txn.open_table(PRODUCERS)?,
            waiting: txn.open_table(WAITING)?,
            tried: txn.open_table(TRIED)?,
            holds: txn.open_table(HOLDS)?,
            ring: txn.open_table(RING)?,
            turns: txn.open_table(TURNS)?,
            graves: txn.open_table(GRAVES)?,
        })
    }

    pub(super) fn initialise(&mut self, node: u64) -> Result<()> {
        self.meta.insert(META_NODE, &node.to_le_bytes()[..])?;
        self.set_position(Position { applied: 0, now_ms: 0, next_queue: 1 })
    }

    /// Random identity of the node, from when the store was made.
    pub fn node(&self) -> Result<u64> {
        let row = self.meta.get(META_NODE)?.ok_or(StoreError::Foreign)?;
        let bytes = row.value().try_into().map_err(|_| damaged("meta: node"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// How far the state is.
    pub fn position(&self) -> Result<Position> {
        let row = self.meta.get(META_POSITION)?.ok_or(StoreError::Foreign)?;
        let bytes: [u8; 24] = row.value().try_into().map_err(|_| damaged("meta: position"))?;
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Ok(Position { applied: number(0), now_ms: number(8), next_queue: number(16) })
    }

    /// Notes how far the state is.
    pub fn set_position(&mut self, position: Position) -> Result<()> {
        let mut row = [0; 24];
        row[..8].copy_from_slice(&position.applied.to_le_bytes());
        row[8..16].copy_from_slice(&position.now_ms.to_le_bytes());
        row[16..].copy_from_slice(&position.next_queue.to_le_bytes());
        self.meta.insert(META_POSITION, &row[..])?;
        Ok(())
    }

    /// Number and row of every queue, in the order of their numbers.
    pub fn queues(&self) -> Result<Vec<(u64, Vec<u8>)>> {
        let row = |row: RowOf<'_, u64, &[u8]>| {
            let (number, row) = row?;
            Ok((number.value(), row.value().to_vec()))
        };
        self.queues.iter()?.map(row).collect()
    }

    /// Writes a queue's row.
    pub fn put_queue(&mut self, queue: u64, row: &[u8]) -> Result<()> {
        self.queues.insert(queue, row)?;
        Ok(())
    }

    /// Removes a queue's row and marks all its other rows to be freed; `has_ttl`: messages of it have
    /// times to live.
    pub fn bury_queue(&mut self, queue: u64, has_ttl: bool) -> Result<()> {
        self.queues.remove(queue)?;
        self.graves.insert(queue, u8::from(has_ttl))?;
        Ok(())
    }

    /// Writes a chunk.
    pub fn put_chunk(&mut self, queue: u64, first: u64, row: &[u8]) -> Result<()> {
        self.chunks.insert((queue, first), row)?;
        Ok(())
    }

    /// The chunk whose first message has the id `first`.
    pub fn chunk(&self, queue: u64, first: u64) -> Result<ChunkRow<'_>> {
        match self.chunks.get((queue, first))? {
            Some(guard) => Ok(ChunkRow { first, guard }),
            None => Err(damaged(&format!("queue {queue} has no chunk at {first}"))),
        }
    }

    /// The chunk that holds the id, or else the next one behind it.
    pub fn chunk_from(&self, queue: u64, id: u64) -> Result<Option<ChunkRow<'_>>> {
        if let Some(guard) = self.chunks.get((queue, id))? {
            return Ok(Some(ChunkRow { first: id, guard }));
        }
        if let Some(row) = self.chunks.range((queue, 0)..(queue, id))?.next_back() {
            let (key, guard) = row?;
            let row = ChunkRow { first: key.value().1, guard };
            if row.first + row.view()?.count() as u64 > id {
                return Ok(Some(row));
            }
        }
        let next = self.chunks.range((queue, id)..(queue, u64::MAX))?.next();
        let row = next.transpose()?;
        Ok(row.map(|(key, guard)| ChunkRow { first: key.value().1, guard }))
    }

    /// Removes a chunk and its marks.
    pub fn remove_chunk(&mut self, queue: u64, first: u64) -> Result<()> {
        self.chunks.remove((queue, first))?;
        self.marks.remove((queue, first))?;
        Ok(())
    }

    /// The marks of a chunk of `count` messages.
    pub fn marks(&self, queue: u64, first: u64, count: usize) -> Result<Marks> {
        let row = self.marks.get((queue, first))?;
        Ok(Marks::new(count, row.map(|row| row.value().to_vec())))
    }

    /// Writes the marks of a chunk.
    pub fn put_marks(&mut self, queue: u64, first: u64, marks: &Marks) -> Result<()> {
        self.marks.insert((queue, first), marks.to_bytes())?;
        Ok(())
    }

    /// Stores fields and body of a large message outside its chunk.
    pub fn put_parts(&mut self, queue: u64, id: u64, fields: &[u8], body: &[u8]) -> Result<()> {
        let mut number = 0;
        let mut row = Vec::with_capacity(LARGE_CHUNK_BYTES_MAX);
        for piece in [fields, body] {
            let mut rest = piece;
            while !rest.is_empty() {
                let room = LARGE_CHUNK_BYTES_MAX - row.len();
                let (now, later) = rest.split_at(rest.len().min(room));
                row.extend_from_slice(now);
                rest = later;
                if row.len() == LARGE_CHUNK_BYTES_MAX {
                    self.parts.insert((queue, id, number), &row[..])?;
                    number += 1;
                    row.clear();
                }
            }
        }
        if !row.is_empty() {
            self.parts.insert((queue, id, number), &row[..])?;
        }
        Ok(())
    }

    /// Fields and body of a large message, `bytes` in all.
    pub fn parts(&self, queue: u64, id: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut whole = Vec::with_capacity(bytes);
        for row in self.parts.range((queue, id, 0)..=(queue, id, u32::MAX))? {
            whole.extend_from_slice(row?.1.value());
        }
        if whole.len() != bytes {
            return Err(damaged(&format!("parts of message {id} of queue {queue}: cut short")));
        }
        Ok(whole)
    }

    /// The fields alone, `bytes` of them, of a large message.
    pub fn parts_start(&self, queue: u64, id: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut start = Vec::with_capacity(bytes);
        for row in self.parts.range((queue, id, 0)..=(queue, id, u32::MAX))? {
            let left = bytes - start.len();
            if left == 0 {
                break;
            }
            let row = row?.1;
            start.extend_from_slice(row.value().get(..left).unwrap_or(row.value()));
        }
        if start.len() < bytes {
            return Err(damaged(&format!("parts of message {id} of queue {queue}: cut short")));
        }
        Ok(start)
    }

    /// Frees the parts of a large message.
    pub fn remove_parts(&mut self, queue: u64, id: u64, parts: u32) -> Result<()> {
        for part in 0..parts {
            self.parts.remove((queue, id, part))?;
        }
        Ok(())
    }

    /// Makes a message ready that is not untouched.
    pub fn put_returned(&mut self, queue: u64, id: u64, delivered: Delivered) -> Result<()> {
        self.returned.insert((queue, id), &delivered.to_bytes()[..])?;
        Ok(())
    }

    /// Takes a message out of the returned ones; `None`: it was not there.
    pub fn remove_returned(&mut self, queue: u64, id: u64) -> Result<Option<Delivered>> {
        let row = self.returned.remove((queue, id))?;
        row.map(|row| Delivered::from_bytes(row.value())).transpose()
    }

    /// The returned messages with the lowest ids from `id` on.
    pub fn returned(&self, queue: u64, id: u64, most: usize) -> Result<Vec<(u64, Delivered)>> {
        let row = |row: RowOf<'_, (u64, u64), &[u8]>| {
            let (key, row) = row?;
            Ok((key.value().1, Delivered::from_bytes(row.value())?))
        };
        self.returned.range((queue, id)..(queue, u64::MAX))?.take(most).map(row).collect()
    }

    /// True when the message is among the returned ones.
    pub fn is_returned(&self, queue: u64, id: u64) -> Result<bool> {
        Ok(self.returned.get((queue, id))?.is_some())
    }

    /// Delays a message that is in no other place.
    pub fn put_delayed(&mut self, queue: u64, id: u64, delayed: Delayed) -> Result<()> {
        let mut row = [0; 8 + Delivered::BYTES];
        row[..8].copy_from_slice(&delayed.due_ms.to_le_bytes());
        row[8..].copy_from_slice(&delayed.delivered.to_bytes());
        self.delayed.insert((queue, id), &row[..])?;
        self.due.insert((delayed.due_ms, queue, id), ())?;
        Ok(())
    }

    /// A delayed message; `None`: it is not delayed.
    pub fn delayed(&self, queue: u64, id: u64) -> Result<Option<Delayed>> {
        let row = self.delayed.get((queue, id))?;
        row.map(|row| Delayed::from_bytes(row.value())).transpose()
    }

    /// Takes a message out of the delayed ones.
    pub fn remove_delayed(&mut self, queue: u64, id: u64) -> Result<Option<Delayed>> {
        let row = self.delayed.remove((queue, id))?;
        let delayed = row.map(|row| Delayed::from_bytes(row.value())).transpose()?;
        if let Some(delayed) = &delayed {
            self.due.remove((delayed.due_ms, queue, id))?;
        }
        Ok(delayed)
    }

    /// The delayed message that is due first: when in state ms, queue and id (0: those that are
    /// blocked).
    pub fn first_due(&self) -> Result<Option<(u64, u64, u64)>> {
        Ok(self.due.first()?.map(|(key, _)| key.value()))
    }

    /// Takes a due time whose queue was dropped away.
    pub fn remove_due(&mut self, due_ms: u64, queue: u64, id: u64) -> Result<()> {
        self.due.remove((due_ms, queue, id))?;
        Ok(())
    }

    /// Notes when a message is to be removed.
    pub fn put_expiry(&mut self, expires_ms: u64, queue: u64, id: u64) -> Result<()> {
        self.expiry.insert((expires_ms, queue, id), ())?;
        Ok(())
    }

    /// Forgets when a message is to be removed.
    pub fn remove_expiry(&mut self, expires_ms: u64, queue: u64, id: u64) -> Result<()> {
        self.expiry.remove((expires_ms, queue, id))?;
        Ok(())
    }

    /// The message that is to be removed first: when in state ms, queue and id.
    pub fn first_expiry(&self) -> Result<Option<(u64, u64, u64)>> {
        Ok(self.expiry.first()?.map(|(key, _)| key.value()))
    }

    /// The delayed message of a queue with the lowest id.
    pub fn first_delayed(&self, queue: u64) -> Result<Option<u64>> {
        let row = self.delayed.range((queue, 0)..=(queue, u64::MAX))?.next().transpose()?;
        Ok(row.map(|(key, _)| key.value().1))
    }

    /// Lets a message that is in no other place wait for its dead-letter queue.
    pub fn put_blocked(&mut self, queue: u64, id: u64, blocked: &Blocked) -> Result<()> {
        let row = [&blocked.delivered.to_bytes()[..], &blocked.reason].concat();
        self.blocked.insert((queue, id), &row[..])?;
        Ok(())
    }

    /// True when the message waits for its dead-letter queue.
    pub fn is_blocked(&self, queue: u64, id: u64) -> Result<bool> {
        Ok(self.blocked.get((queue, id))?.is_some())
    }

    /// Takes a message out of the blocked ones.
    pub fn remove_blocked(&mut self, queue: u64, id: u64) -> Result<Option<Blocked>> {
        let row = self.blocked.remove((queue, id))?;
        row.map(|row| Blocked::from_bytes(row.value())).transpose()
    }

    /// The blocked message with the lowest id from `id` on.
    pub fn blocked_from(&self, queue: u64, id: u64) -> Result<Option<u64>> {
        let row = self.blocked.range((queue, id)..=(queue, u64::MAX))?.next().transpose()?;
        Ok(row.map(|(key, _)| key.value().1))
    }

    /// Notes when the blocked messages of a queue are tried again.
    pub fn put_retry(&mut self, due_ms: u64, queue: u64) -> Result<()> {
        self.due.insert((due_ms, queue, 0), ())?;
        Ok(())
    }

    /// A lease; `None`: it is over.
    pub fn lease(&self, queue: u64, lease: u64) -> Result<Option<LeaseRow>> {
        let row = self.leases.get((queue, lease))?;
        row.map(|row| LeaseRow::from_bytes(row.value())).transpose()
    }

    /// Writes a lease and its place in the order of ends; removes it when it holds nothing.
    /// `end_ms` is where its end was before; `None`: the lease is new.
    pub fn put_lease(
        &mut self,
        queue: u64,
        lease: u64,
        row: &LeaseRow,
        end_ms: Option<u64>,
    ) -> Result<()> {
        let new_end_ms = (!row.runs.is_empty()).then(|| row.end_ms());
        if let Some(old) = end_ms.filter(|_| end_ms != new_end_ms) {
            self.lease_ends.remove((old, queue, lease))?;
        }
        match new_end_ms {
            None => {
                self.leases.remove((queue, lease))?;
            }
            Some(new) => {
                self.leases.insert((queue, lease), &row.to_bytes()[..])?;
                if end_ms != new_end_ms {
                    self.lease_ends.insert((new, queue, lease), ())?;
                }
            }
        }
        Ok(())
    }

    /// The lease that ends first: its end in state ms, queue and number.
    pub fn first_lease_end(&self) -> Result<Option<(u64, u64, u64)>> {
        Ok(self.lease_ends.first()?.map(|(key, _)| key.value()))
    }

    /// Takes the place of a lease without a row (its queue was dropped) out of the order of ends.
    pub fn remove_lease_end(&mut self, end_ms: u64, queue: u64, lease: u64) -> Result<()> {
        self.lease_ends.remove((end_ms, queue, lease))?;
        Ok(())
    }
}

/// The first keys of a range.
pub(super) fn keys<T, K, V>(range: redb::Range<'_, K, V>, most: usize) -> Result<Vec<T>>
where
    K: for<'a> redb::Key<SelfType<'a> = T> + 'static,
    V: redb::Value + 'static,
{
    range.take(most).map(|row| Ok(row?.0.value())).collect()
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}
