//! qd, through its own async client.
//!
//! Always true here: what a [`Ledger`] counts as deleted the server has said is deleted, and
//! every message is deleted by its receipt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Result, ensure};
use bytes::Bytes;
use qd_protocol::client::Options;
use qd_protocol::verbs::{Create, Delete, Drop, IfExists, Receive, Send, SendEntry};
use qd_protocol::{Address, AttributeChanges, Client, QueueName, Receipt};

use crate::peer::{Conn, Peer, Role};

/// The server.
#[derive(Debug)]
pub struct Qd {
    addr: Address,
    delete: DeleteBy,
    ledger: Arc<Ledger>,
}

/// How a consumer deletes what it received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteBy {
    /// By a `delete` after each `receive`.
    Delete,
    /// By the next `receive`, which carries the receipts: one request a batch instead of two.
    NextReceive,
}

/// A connection to it.
#[derive(Debug)]
pub struct QdConn {
    client: Client,
    queue: QueueName,
    delete: DeleteBy,
    /// Of the messages received and not yet deleted.
    held: Vec<Receipt>,
    ledger: Arc<Ledger>,
}

/// Which messages were sent, and which deleted, over all connections.
#[derive(Debug, Default)]
struct Ledger {
    sent: Ids,
    deleted: Ids,
}

/// A set of message ids, by its size and a sum of its scrambled members: two sets that are equal
/// in both are the same set but for a chance of 1 in 2^64.
#[derive(Debug, Default)]
struct Ids {
    count: AtomicU64,
    sum: AtomicU64,
}

impl Ids {
    fn add(&self, id: u64) {
        self.count.fetch_add(1, Relaxed);
        self.sum.fetch_add(scrambled(id), Relaxed);
    }

    fn clear(&self) {
        self.count.store(0, Relaxed);
        self.sum.store(0, Relaxed);
    }
}

/// The finalizer of splitmix64.
fn scrambled(id: u64) -> u64 {
    let id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    id ^ (id >> 31)
}

impl Qd {
    /// A server at `addr`, `HOST:PORT` or `unix:/PATH`.
    pub fn new(addr: &str, delete: DeleteBy) -> Result<Self> {
        Ok(Self { addr: addr.parse()?, delete, ledger: Arc::default() })
    }

    async fn client(&self) -> Result<Client> {
        let options = Options { client: "qd-peers".to_owned(), ..Options::default() };
        Ok(Client::connect(std::slice::from_ref(&self.addr), options).await?)
    }
}

impl Peer for Qd {
    type Conn = QdConn;
    const SEND_BATCH: usize = 100;
    const TAKE_BATCH: usize = 100;

    async fn create(&self, queue: &str) -> Result<()> {
        self.ledger.sent.clear();
        self.ledger.deleted.clear();
        let attributes = AttributeChanges {
            visibility_timeout_ms: Some(600_000),
            ..AttributeChanges::default()
        };
        let if_exists = IfExists::Compare;
        let create = Create { queue: QueueName::new(queue)?, if_exists, attributes, with: None };
        let made = self.client().await?.call(create).await?;
        ensure!(made.created, "queue {queue} was there before");
        Ok(())
    }

    async fn drop_queue(&self, queue: &str) -> Result<()> {
        let drop = Drop { queue: QueueName::new(queue)?, only_if_empty: false };
        let left = self.client().await?.call(drop).await?.messages;
        let Ledger { sent, deleted } = &*self.ledger;
        let [sent_count, deleted_count] = [sent, deleted].map(|ids| ids.count.load(Relaxed));
        ensure!(
            sent_count == deleted_count + left,
            "{sent_count} sent, {deleted_count} deleted, {left} left in the queue"
        );
        let same = sent.sum.load(Relaxed) == deleted.sum.load(Relaxed);
        ensure!(left > 0 || same, "the messages deleted are not those sent");
        Ok(())
    }

    async fn connect(&self, queue: &str, _role: Role, _batch: usize) -> Result<QdConn> {
        Ok(QdConn {
            client: self.client().await?,
            queue: QueueName::new(queue)?,
            delete: self.delete,
            held: vec![],
            ledger: Arc::clone(&self.ledger),
        })
    }
}

impl Conn for QdConn {
    async fn send(&mut self, body: &[u8], n: usize) -> Result<()> {
        let body = Bytes::copy_from_slice(body);
        let entries = (0..n).map(|_| SendEntry::new(body.clone())).collect();
        let sent = self.client.call(Send { queue: self.queue.clone(), entries }).await?;
        let mut count = 0;
        for stored in sent.entries() {
            let stored = stored.map_err(Clone::clone)?;
            ensure!(!stored.duplicate, "message {} was there before", stored.id);
            self.ledger.sent.add(stored.id);
            count += 1;
        }
        ensure!(count == n, "{count} of {n} messages stored");
        Ok(())
    }

    async fn take(&mut self, max: usize) -> Result<usize> {
        let settle = std::mem::take(&mut self.held);
        let receive = Receive {
            queues: vec![self.queue.clone()],
            max: u32::try_from(max)?,
            wait_ms: 0,
            visibility_timeout_ms: None,
            delete_on_receive: false,
            settle: settle.clone(),
        };
        let received = self.client.call(receive).await?;
        self.deleted(&settle, received.settled.entries())?;
        for message in &received.messages {
            let (id, attempt) = (message.id, message.attempt);
            ensure!(attempt == 1, "message {id} was delivered {attempt} times");
            self.held.push(message.receipt);
        }
        if self.delete == DeleteBy::Delete {
            self.finish().await?;
        }
        Ok(received.messages.len())
    }

    async fn finish(&mut self) -> Result<bool> {
        if self.held.is_empty() {
            return Ok(false);
        }
        let receipts = std::mem::take(&mut self.held);
        let delete = Delete { queue: self.queue.clone(), receipts: receipts.clone() };
        let settled = self.client.call(delete).await?;
        self.deleted(&receipts, settled.statuses.entries())?;
        Ok(true)
    }
}

impl QdConn {
    /// Notes what the server said of `receipts`, in their order.
    fn deleted<'a>(
        &self,
        receipts: &[Receipt],
        statuses: impl Iterator<Item = Result<(), &'a qd_protocol::Refusal>>,
    ) -> Result<()> {
        let mut count = 0;
        for (receipt, status) in receipts.iter().zip(statuses) {
            status.map_err(Clone::clone)?;
            self.ledger.deleted.add(receipt.id);
            count += 1;
        }
        ensure!(count == receipts.len(), "{count} of {} messages deleted", receipts.len());
        Ok(())
    }
}
