//! How a receive writes what it has got, and what becomes of it then.
//!
//! Always true here: with `--ack` a message is deleted only after its bytes were written. Into a pipe
//! `--follow` writes one message at a time, and only once its reader has taken the one before: a
//! reader that goes away in the middle has taken all that was deleted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{self, ReceivedMessage, Until};
use qd_protocol::{QueueName, Receipt};
use tokio::time::Instant;

use super::super::held::{End, Held, end_leases};
use super::{Deleting, Receiving};
use crate::exit::Failure;
use crate::output::Shown;
use crate::session::Session;

/// A reader that takes longer for a message is slow: what it would get next is for others.
const SLOW: Duration = Duration::from_secs(1);
/// A lease is renewed this many times in its length.
const RENEWALS: u32 = 3;

impl Receiving {
    /// Writes a batch, and marks what of it is to be deleted.
    pub async fn write(
        &mut self,
        session: &mut Session,
        messages: &[ReceivedMessage],
    ) -> Result<(), Failure> {
        let gone = if self.deleting == Deleting::BeforeWrite {
            self.delete_before_write(session).await?
        } else {
            Vec::new()
        };
        // In the order of the messages, so that one walk finds them all.
        let mut place = 0;
        let messages: Vec<&ReceivedMessage> =
            messages.iter().filter(|message| !gone.contains(&message.receipt)).collect();
        let mut files = Vec::new().into_iter();
        if !self.one_by_one {
            files = self.store(&messages)?.into_iter();
        }
        for message in messages {
            if self.one_by_one {
                files = self.store(&[message])?.into_iter();
            }
            if !self.push(session, message, files.next().as_deref())? {
                continue;
            }
            let same = |held: &Held| held.receipt == message.receipt;
            if let Some(at) = self.held.iter().skip(place).position(same) {
                place += at;
                if let Some(held) = self.held.get_mut(place) {
                    held.end = session.out.added();
                }
            }
            if self.one_by_one {
                session.out.flush()?;
                if !self.hand_over(session, message).await? {
                    break;
                }
            }
        }
        session.out.flush()?;
        if self.deleting == Deleting::Ack {
            session.out.check_reader()?;
        }
        self.sort_written(session);
        Ok(())
    }

    /// Writes bodies to files, where they are to go there. Gives the paths.
    fn store(&self, messages: &[&ReceivedMessage]) -> Result<Vec<PathBuf>, Failure> {
        let Some(files) = &self.files else {
            return Ok(Vec::new());
        };
        let mut bodies = Vec::new();
        for message in messages {
            let queue = queue_of(&self.flags.queues, message)?;
            check_body(queue, message)?;
            bodies.push((queue, message.id, &message.body.bytes[..]));
        }
        files.store(&bodies)
    }

    /// Adds a message to the output; `false` when it cannot be written.
    fn push(
        &mut self,
        session: &mut Session,
        message: &ReceivedMessage,
        file: Option<&Path>,
    ) -> Result<bool, Failure> {
        let queue = queue_of(&self.flags.queues, message)?;
        check_body(queue, message)?;
        let mut shown = Shown::received(queue, message)?;
        shown.file = file;
        let out = &mut session.out;
        if !self.printer.can_write(out, &message.body.bytes) {
            self.printer.tell_unwritable(out, &shown, "it is released; ");
            return Ok(false);
        }
        self.printer.push(out, &shown)?;
        Ok(true)
    }

    /// Waits until the reader has taken a message. One that is slow keeps it for as long as that
    /// takes; what is behind it is given back, and the answer is `false`.
    async fn hand_over(
        &mut self,
        session: &mut Session,
        message: &ReceivedMessage,
    ) -> Result<bool, Failure> {
        let start = Instant::now();
        let mut renewal = None;
        while !session.out.is_taken()? {
            if start.elapsed() < SLOW {
                continue;
            }
            if renewal.is_none() {
                self.give_back_unwritten(session).await?;
                renewal = Some(Renewal::new(session, self, message).await?);
            }
            if let Some(renewal) = &mut renewal {
                renewal.keep(session).await?;
            }
        }
        Ok(renewal.is_none())
    }

    /// Gives back what has no place in the output yet.
    async fn give_back_unwritten(&mut self, session: &mut Session) -> Result<(), Failure> {
        let (rest, held): (Vec<Held>, _) = self.held.iter().partition(|held| held.end == u64::MAX);
        end_leases(session, &self.flags.queues, &rest, End::Release, |_, _| {}).await?;
        self.got -= rest.len() as u64;
        // Not before: it may be ended while it waits for the answer.
        self.held = held;
        self.batch = 1;
        Ok(())
    }

    /// Deletes what can be written; the receipts of messages that somebody else got meanwhile.
    async fn delete_before_write(
        &mut self,
        session: &mut Session,
    ) -> Result<Vec<Receipt>, Failure> {
        let mut gone = Vec::new();
        let (queues, settlement) = (&self.flags.queues, &mut self.settlement);
        let json = session.out.is_json();
        let outcome = |batch: &[Held], statuses: &Statuses| {
            let both = batch.iter().zip(statuses.entries());
            gone.extend(both.filter(|(_, status)| status.is_err()).map(|(held, _)| held.receipt));
            settlement.take(statuses, json, |at| label(batch, at));
        };
        end_leases(session, queues, &self.held, End::Delete, outcome).await?;
        // Not before: it may be ended while it waits for the answer.
        self.held.clear();
        Ok(gone)
    }

    /// Parts what is held by what was written: that is to be deleted, or left to its reader.
    pub fn sort_written(&mut self, session: &mut Session) {
        let written = session.out.written();
        let (written, held) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.end <= written);
        self.held = held;
        let written: Vec<Held> = written;
        match self.deleting {
            Deleting::Ack => self.unsettled.extend(written),
            Deleting::Not => {
                for held in written {
                    if let Some(queue) = self.flags.queues.get(held.queue) {
                        session.remember_lease(queue, held.receipt);
                    }
                }
            }
            Deleting::OnReceive | Deleting::BeforeWrite => {}
        }
    }

    /// Deletes what was written last.
    pub async fn settle_rest(&mut self, session: &mut Session) -> Result<(), Failure> {
        let json = session.out.is_json();
        let (queues, settlement) = (&self.flags.queues, &mut self.settlement);
        let outcome = |batch: &[Held], statuses: &Statuses| {
            settlement.take(statuses, json, |at| label(batch, at));
        };
        end_leases(session, queues, &self.unsettled, End::Delete, outcome).await?;
        // Not before: it may be ended while it waits for the answer.
        self.unsettled.clear();
        Ok(())
    }
}

/// The queue that a message is of.
fn queue_of<'a>(
    queues: &'a [QueueName],
    message: &ReceivedMessage,
) -> Result<&'a QueueName, Failure> {
    let text = || "the answer names a queue that was not asked for".to_owned();
    queues.get(usize::from(message.queue)).ok_or_else(|| Failure::Protocol(text()))
}

/// Refuses a body that was damaged on its way.
fn check_body(queue: &QueueName, message: &ReceivedMessage) -> Result<(), Failure> {
    if message.body.is_intact() {
        return Ok(());
    }
    let text = format!(
        "message {} of queue \"{queue}\" does not have its CRC-32C; it was not printed",
        message.id
    );
    Err(Failure::Protocol(text))
}

/// Keeps the lease of a message that its reader takes its time for.
struct Renewal {
    extend: verbs::Extend,
    every: Duration,
    last: Option<Instant>,
}

impl Renewal {
    async fn new(
        session: &mut Session,
        receiving: &Receiving,
        message: &ReceivedMessage,
    ) -> Result<Self, Failure> {
        let queue = queue_of(&receiving.flags.queues, message)?.clone();
        let described = session.call(verbs::Describe { queue: queue.clone() }).await?;
        let queues_own = described.attributes.visibility_timeout_ms;
        let timeout_ms = receiving.flags.visibility_timeout.unwrap_or(queues_own);
        let receipts = vec![message.receipt];
        let extend = verbs::Extend { queue, until: Until::To(timeout_ms), receipts };
        let every = Duration::from_millis(timeout_ms) / RENEWALS;
        Ok(Self { extend, every, last: None })
    }

    /// Renews the lease where it is time. One that has ended nevertheless is told when the message is
    /// to be deleted.
    async fn keep(&mut self, session: &mut Session) -> Result<(), Failure> {
        let due = self.last.is_none_or(|last| last.elapsed() >= self.every);
        if due && !self.every.is_zero() {
            session.call(self.extend.clone()).await?;
            self.last = Some(Instant::now());
        }
        Ok(())
    }
}

/// A message in a line for people.
pub fn label(held: &[Held], at: usize) -> Option<String> {
    held.get(at).map(|held| format!("message {}", held.id))
}
