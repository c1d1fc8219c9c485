//! `qctl receive`.
//!
//! Always true here: with `--ack` a message is deleted only after its bytes were written to
//! standard output; what could not be written is left to its lease and comes back.

use std::time::Duration;

use clap::Args;
use qd_protocol::attributes::VISIBILITY_TIMEOUT_MS_MAX;
use qd_protocol::verbs::receive::WAIT_MS_MAX;
use qd_protocol::verbs::{self, ReceivedMessage};
use qd_protocol::{BATCH_ENTRIES_MAX, QueueName, Receipt};
use tokio::time::Instant;

use super::delete::{Settlement, delete_receipts};
use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::output::{MessagePrinter, Shape, reader_is_gone};
use crate::session::Session;
use crate::units;

/// Messages that the first request of --drain and --follow asks for.
const BATCH: u64 = 100;
/// Most that a request asks for when its batches are written quickly.
const BATCH_MAX: u64 = 1_000;
/// A batch written within this time may grow; one that takes longer is too large for its reader,
/// and its leases might end before the bytes are taken.
const QUICK: Duration = Duration::from_millis(100);
/// How often a waiting receive looks whether anybody still reads its output.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Take messages out of queues, under a lease
///
/// Without --ack the message stays leased: it counts as delivered and COMES BACK when the
/// visibility timeout ends, unless it is deleted by its receipt. Status 1: nothing came.
#[derive(Debug, Clone, Args)]
pub struct Receive {
    /// Queues, in order of preference
    #[arg(value_name = "QUEUE", value_delimiter = ',', required = true)]
    queues: Vec<QueueName>,
    /// Most messages [default: 1; with --follow and --drain: no limit]
    #[arg(short = 'n', long = "max", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// How long to wait for a first message [default: 0]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    wait: Option<u64>,
    /// How long the messages stay hidden [default: the queue's]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    visibility_timeout: Option<u64>,
    /// Delete each message once it is written to standard output
    #[arg(long, conflicts_with = "delete_on_receive")]
    ack: bool,
    /// Delete in the same step: delivered at most once, lost if the output is
    #[arg(long = "delete-on-receive", id = "delete_on_receive")]
    at_once: bool,
    /// Go on for ever
    #[arg(long, conflicts_with_all = ["drain", "wait"])]
    follow: bool,
    /// Go on until the queues are empty
    #[arg(long)]
    drain: bool,
    /// Print the body without the receipt
    #[arg(long)]
    body: bool,
    /// End each record with NUL instead of a newline
    #[arg(short = '0', long)]
    null: bool,
}

/// How the messages of a plan are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deleting {
    Not,
    /// After they were written.
    Ack,
    /// By the receive itself.
    OnReceive,
    /// After the receive and before they are written: at most once as well, but what cannot be
    /// written is left in the queue.
    BeforeWrite,
}

struct Receiving {
    flags: Receive,
    printer: MessagePrinter,
    deleting: Deleting,
    /// Written, and to be deleted with the next request.
    unsettled: Vec<(usize, Receipt)>,
    settlement: Settlement,
    got: u64,
    unwritten: u64,
    /// Messages that the next request of --drain and --follow asks for.
    batch: u64,
}

impl Receive {
    /// Receives.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        self.check(session)?;
        let many = self.drain || self.follow;
        let shape = Shape {
            single: !many && self.max.unwrap_or(1) == 1,
            body_only: self.body || self.ack || self.at_once,
            nul: self.null,
            // A table is written as a whole at the end, after a message could be deleted.
            endless: many || self.ack,
        };
        let printer = MessagePrinter::new(&session.out, shape)?;
        let deleting = match (self.ack, self.at_once) {
            (true, _) => Deleting::Ack,
            (_, true) if printer.may_refuse(&session.out) => Deleting::BeforeWrite,
            (_, true) => Deleting::OnReceive,
            _ => Deleting::Not,
        };
        let mut receiving = Receiving {
            printer,
            deleting,
            unsettled: Vec::new(),
            settlement: Settlement::default(),
            got: 0,
            unwritten: 0,
            batch: BATCH,
            flags: self,
        };
        let result = receiving.all(session).await;
        let ended = receiving.printer.finish(&mut session.out);
        result.and(ended)?;
        Ok(receiving.exit())
    }

    fn check(&self, session: &Session) -> Result<(), Failure> {
        let usage = |text: String| Err(Failure::Usage(text));
        if self.queues.len() > verbs::receive::QUEUES_MAX {
            return usage(format!("at most {} queues at once", verbs::receive::QUEUES_MAX));
        }
        if self.follow && session.out.format == Format::Json {
            return usage("--follow never ends a JSON document; use -o jsonl".to_owned());
        }
        if self.visibility_timeout > Some(VISIBILITY_TIMEOUT_MS_MAX) {
            return usage(format!(
                "--visibility-timeout is at most {}",
                units::show_duration(VISIBILITY_TIMEOUT_MS_MAX)
            ));
        }
        Ok(())
    }
}

impl Receiving {
    /// Receives until there is enough, or nothing more.
    async fn all(&mut self, session: &mut Session) -> Result<(), Failure> {
        let many = self.flags.drain || self.flags.follow;
        let limit = match self.flags.max {
            None if many => u64::MAX,
            limit => limit.unwrap_or(1),
        };
        while self.got < limit {
            // Only the first message of a plain receive is waited for.
            let wait_ms = match self.flags.wait {
                _ if self.flags.follow => u64::MAX,
                Some(_) if self.got > 0 && !many => 0,
                wait => wait.unwrap_or(0),
            };
            let batch = if many { self.batch } else { u64::from(BATCH_ENTRIES_MAX) };
            let max = (limit - self.got).min(batch);
            let messages = self.request(session, max, wait_ms).await?;
            if messages.is_empty() {
                break;
            }
            self.got += messages.len() as u64;
            let start = Instant::now();
            self.write(session, &messages).await?;
            self.batch = next_batch(self.batch, messages.len() as u64, start.elapsed());
        }
        self.settle_rest(session).await
    }

    /// One request, repeated while its wait is longer than a request may have.
    async fn request(
        &mut self,
        session: &mut Session,
        max: u64,
        wait_ms: u64,
    ) -> Result<Vec<ReceivedMessage>, Failure> {
        let client = session.client().await?;
        let start = Instant::now();
        loop {
            let waited = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let left = wait_ms.saturating_sub(waited);
            let unsettled = std::mem::take(&mut self.unsettled);
            let receive = verbs::Receive {
                queues: self.flags.queues.clone(),
                max: u32::try_from(max).unwrap_or(BATCH_ENTRIES_MAX),
                wait_ms: left.min(WAIT_MS_MAX),
                visibility_timeout_ms: self.flags.visibility_timeout,
                delete_on_receive: self.deleting == Deleting::OnReceive,
                settle: unsettled.iter().map(|&(_, receipt)| receipt).collect(),
            };
            let received = tokio::select! {
                biased;
                received = client.call(receive) => received?,
                failure = closed_output(wait_ms) => return Err(failure),
            };
            self.settlement.take(&received.settled, session.out.is_json());
            if !received.messages.is_empty() || left <= WAIT_MS_MAX {
                return Ok(received.messages);
            }
        }
    }

    /// Writes a batch, and marks what of it is to be deleted.
    async fn write(
        &mut self,
        session: &mut Session,
        messages: &[ReceivedMessage],
    ) -> Result<(), Failure> {
        let gone = if self.deleting == Deleting::BeforeWrite {
            self.delete_before_write(session, messages).await?
        } else {
            Vec::new()
        };
        let out = &mut session.out;
        for (at, message) in messages.iter().enumerate() {
            let index = usize::from(message.queue);
            let Some(queue) = self.flags.queues.get(index) else {
                let text = "the answer names a queue that was not asked for".to_owned();
                return Err(Failure::Protocol(text));
            };
            if gone.contains(&at) {
                continue;
            }
            if !message.body.is_intact() {
                let text = format!(
                    "message {} of queue \"{queue}\" does not have its CRC-32C; it was not printed",
                    message.id
                );
                return Err(Failure::Protocol(text));
            }
            if !self.printer.can_write(out, message) {
                self.unwritten += 1;
                eprintln!(
                    "qctl: message {} of queue \"{queue}\" holds the record's terminator and was not \
                     printed or deleted; it comes back when its lease ends; use {}-o jsonl",
                    message.id,
                    if self.flags.null { "" } else { "-0 or " }
                );
                continue;
            }
            self.printer.push(out, queue, message)?;
            if self.deleting == Deleting::Ack {
                self.unsettled.push((index, message.receipt));
            }
        }
        out.flush()
    }

    /// Deletes what can be written; the indices of messages that somebody else got meanwhile.
    async fn delete_before_write(
        &mut self,
        session: &mut Session,
        messages: &[ReceivedMessage],
    ) -> Result<Vec<usize>, Failure> {
        let writable = |message: &ReceivedMessage| self.printer.can_write(&session.out, message);
        let receipts: Vec<(usize, Receipt)> = messages
            .iter()
            .filter(|message| writable(message))
            .map(|message| (usize::from(message.queue), message.receipt))
            .collect();
        let places: Vec<usize> =
            (0..messages.len()).filter(|&at| messages.get(at).is_some_and(writable)).collect();
        let mut gone = Vec::new();
        let queues = &self.flags.queues;
        delete_receipts(session, queues, &receipts, |at, refused| {
            if refused && let Some(&place) = places.get(at) {
                gone.push(place);
            }
        })
        .await?;
        Ok(gone)
    }

    /// Deletes what was written last.
    async fn settle_rest(&mut self, session: &mut Session) -> Result<(), Failure> {
        if self.unsettled.is_empty() {
            return Ok(());
        }
        let unsettled = std::mem::take(&mut self.unsettled);
        let mut refused = 0;
        delete_receipts(session, &self.flags.queues, &unsettled, |_, was_refused| {
            refused += u64::from(was_refused);
        })
        .await?;
        self.settlement.refused += refused;
        Ok(())
    }

    fn exit(&self) -> Exit {
        if self.unwritten > 0 {
            Exit::BadInput
        } else if self.got == 0 || self.settlement.refused > 0 {
            Exit::Negative
        } else {
            Exit::Done
        }
    }
}

/// How many messages to ask for after a batch of `got` took `time` to be written.
fn next_batch(batch: u64, got: u64, time: Duration) -> u64 {
    if time > QUICK {
        (batch / 2).max(1)
    } else if got >= batch {
        (batch * 2).min(BATCH_MAX)
    } else {
        batch
    }
}

/// Ends a receive that waits while the reader of its output goes away.
async fn closed_output(wait_ms: u64) -> Failure {
    if wait_ms == 0 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if reader_is_gone() {
            return Failure::ClosedPipe;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_for_a_quick_reader_and_shrink_for_a_slow_one() {
        let quick = Duration::from_millis(1);
        assert_eq!(next_batch(100, 100, quick), 200);
        assert_eq!(next_batch(800, 800, quick), BATCH_MAX);
        assert_eq!(next_batch(100, 5, quick), 100);
        assert_eq!(next_batch(100, 100, Duration::from_secs(1)), 50);
        assert_eq!(next_batch(1, 1, Duration::from_secs(1)), 1);
    }
}
