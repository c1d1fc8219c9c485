//! Leases that a receive holds: deleting and releasing them, queue by queue.

use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{self, ReceivedMessage};
use qd_protocol::{BATCH_ENTRIES_MAX, QueueName, Receipt};

use crate::exit::Failure;
use crate::session::Session;

/// A message under our lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which of the receive's queues it is of.
    pub queue: usize,
    /// Its id.
    pub id: u64,
    /// The lease.
    pub receipt: Receipt,
    /// Byte of the output behind its record; `u64::MAX` while it has none.
    pub end: u64,
}

impl From<&ReceivedMessage> for Held {
    fn from(message: &ReceivedMessage) -> Self {
        Self {
            queue: usize::from(message.queue),
            id: message.id,
            receipt: message.receipt,
            end: u64::MAX,
        }
    }
}

/// What is done with leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The messages are deleted.
    Delete,
    /// The messages come back at once, and the delivery does not count.
    Release,
}

/// Ends leases on messages of `queues`; tells `outcome` the statuses of each batch.
pub async fn end_leases(
    session: &mut Session,
    queues: &[QueueName],
    held: &[Held],
    end: End,
    mut outcome: impl FnMut(&[Held], &Statuses),
) -> Result<(), Failure> {
    for (index, queue) in queues.iter().enumerate() {
        let mine: Vec<Held> = held.iter().copied().filter(|held| held.queue == index).collect();
        for batch in mine.chunks(BATCH_ENTRIES_MAX as usize) {
            let receipts = batch.iter().map(|held| held.receipt).collect();
            let statuses = end_batch(session, queue.clone(), receipts, end).await?;
            outcome(batch, &statuses);
        }
    }
    Ok(())
}

/// Ends leases on messages of one queue, at most a batch.
pub async fn end_batch(
    session: &mut Session,
    queue: QueueName,
    receipts: Vec<Receipt>,
    end: End,
) -> Result<Statuses, Failure> {
    let settled = match end {
        End::Delete => session.call(verbs::Delete { queue, receipts }).await?,
        End::Release => {
            let release = verbs::Release { queue, counted: false, delay_ms: None, receipts };
            session.call(release).await?
        }
    };
    Ok(settled.statuses)
}
