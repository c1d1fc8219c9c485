//! `qctl receive`.
//!
//! Always true here: with `--ack` a message is deleted only after its bytes were written to
//! standard output. A receive that is ended from outside, or fails, releases what it holds and has
//! not written, so that it comes back at once and the delivery does not count. A message that comes
//! a second time ends a receive that is not to go on for ever.

mod files;
mod write;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use qd_protocol::attributes::VISIBILITY_TIMEOUT_MS_MAX;
use qd_protocol::client::Pending;
use qd_protocol::verbs::receive::WAIT_MS_MAX;
use qd_protocol::verbs::{self, Received, ReceivedMessage};
use qd_protocol::{Address, BATCH_ENTRIES_MAX, ClientError, QueueName};
use tokio::time::Instant;

use super::confirm::messages;
use super::held::{End, Held, end_leases};
use super::seen::Seen;
use super::settle::Settlement;
use crate::args::Format;
use crate::descriptors::refuse_closed;
use crate::exit::{Exit, Failure};
use crate::output::{MessagePrinter, Parting, Shape, Way, say, until_reader_is_gone};
use crate::progress::Progress;
use crate::session::Session;
use crate::{signals, units};
use files::Files;
use write::label;

/// Messages that the first request of --drain and --follow asks for.
const BATCH: u64 = 100;
/// Most that a request asks for when its batches are written quickly.
const BATCH_MAX: u64 = 1_000;
/// A batch written within this time may grow; one that takes longer is too large for its reader,
/// and its leases might end before the bytes are taken.
const QUICK: Duration = Duration::from_millis(100);

/// How long giving back what is held may take.
const WIND_UP: Duration = Duration::from_secs(5);

/// Take messages out of queues, under a lease
///
/// Without --ack the message stays leased: it counts as delivered and COMES BACK when the
/// visibility timeout ends, unless it is deleted by its receipt; after max-deliveries (16) it
/// moves to the dead-letter queue instead. A receive of several messages also ends, but for
/// --follow, when one comes back while it is running. Status 1: nothing came.
#[derive(Debug, Clone, Args)]
pub struct Receive {
    /// Queues, in order of preference
    #[arg(value_name = "QUEUE", value_delimiter = ',', required = true)]
    queues: Vec<QueueName>,
    /// Most messages [default: 1; with --follow and --drain: no limit]
    #[arg(short = 'n', long = "max", value_name = "N", value_parser = units::whole::<u64>(1, u64::MAX))]
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
    #[arg(short = '0', long, conflicts_with = "length_prefixed")]
    null: bool,
    /// Before each record its length, in four bytes, the most significant one first
    #[arg(long)]
    length_prefixed: bool,
    /// Write each body to a new file in DIR, and print its path instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
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
    /// The request that is under way.
    pending: Option<Pending<verbs::Receive>>,
    /// Written, and to be deleted with the request that is under way.
    settling: Vec<Held>,
    /// Written, and to be deleted with the next request.
    unsettled: Vec<Held>,
    /// Received, and not known to be written.
    held: Vec<Held>,
    /// Where bodies go instead of the output.
    files: Option<Files>,
    /// Each message waits until the reader has taken the one before.
    one_by_one: bool,
    /// Bodies that hold the terminator. They are released at the end: at once they would only
    /// come again.
    unwritten: Vec<Held>,
    seen: Seen,
    /// The server that they are of.
    node: u64,
    /// Came back while the receive was running; they are released at the end.
    again: Vec<Held>,
    settlement: Settlement,
    got: u64,
    /// Messages that the next request of --drain and --follow asks for.
    batch: u64,
}

impl Receive {
    /// Receives.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        self.check(session)?;
        let many = self.drain || self.follow;
        let shape = Shape {
            way: if self.dir.is_some() { Way::Stored } else { Way::Received },
            single: !many && self.max.unwrap_or(1) == 1,
            body_only: self.body || self.ack || self.at_once,
            parting: Parting::of(self.null, self.length_prefixed),
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
        let receiving = Receiving {
            printer,
            deleting,
            pending: None,
            settling: Vec::new(),
            unsettled: Vec::new(),
            held: Vec::new(),
            files: self.dir.as_deref().map(Files::open).transpose()?,
            // What ends has an end to wait for, maybe before anybody reads.
            one_by_one: self.ack && self.follow && session.out.hold_one_record(),
            unwritten: Vec::new(),
            seen: Seen::default(),
            node: 0,
            again: Vec::new(),
            settlement: Settlement::default(),
            got: 0,
            batch: BATCH,
            flags: self,
        };
        receiving.run(session).await
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
        if self.ack || self.at_once {
            let failed = |error| {
                let text = "cannot write to standard output, and so deletes nothing";
                Failure::Io(format!("{text}: {error}"))
            };
            refuse_closed(std::io::stdout()).map_err(failed)?;
        }
        Ok(())
    }
}

impl Receiving {
    async fn run(mut self, session: &mut Session) -> Result<Exit, Failure> {
        let stop = session.stop.clone();
        let result = tokio::select! {
            biased;
            result = self.all(session) => result,
            failure = stop.stopped() => Err(failure),
        };
        // A connection that is lost, after all repeats, takes no more requests.
        let mut wound_up = Ok(());
        if !matches!(result, Err(Failure::Client(_))) {
            let within = match &result {
                Err(Failure::Interrupted | Failure::Terminated) => signals::ANSWERS_WITHIN,
                _ => WIND_UP,
            };
            wound_up = match tokio::time::timeout(within, self.wind_up(session)).await {
                Ok(wound_up) => wound_up,
                Err(_) => Err(Failure::Internal("what is held could not be released".to_owned())),
            };
        }
        let ended = self.printer.finish(&mut session.out);
        result.and(wound_up).and(ended)?;
        Ok(self.exit())
    }

    /// Receives until there is enough, or nothing more.
    async fn all(&mut self, session: &mut Session) -> Result<(), Failure> {
        let many = self.flags.drain || self.flags.follow;
        let limit = match self.flags.max {
            None if many => u64::MAX,
            limit => limit.unwrap_or(1),
        };
        let mut progress = Progress::beside_data();
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
            if messages.is_empty() && self.again.is_empty() {
                self.tell_behind(session).await;
                break;
            }
            self.got += messages.len() as u64;
            let start = Instant::now();
            self.write(session, &messages).await?;
            progress.show(self.got, "messages received", self.flags.max.map(|max| (self.got, max)));
            if !self.again.is_empty() {
                self.tell_again();
                break;
            }
            // What has no lease comes first again.
            if !many && self.flags.visibility_timeout == Some(0) {
                break;
            }
            self.batch = next_batch(self.batch, messages.len() as u64, start.elapsed());
        }
        self.settle_rest(session).await
    }

    /// Says that a drain ends while there are messages. Of a receive of so many at most nobody
    /// expects that it finds more.
    fn tell_again(&self) {
        if let Some(held) = self.again.first().filter(|_| self.flags.drain)
            && let Some(queue) = self.flags.queues.get(held.queue)
        {
            say(&format!(
                "message {} of queue \"{queue}\" came back meanwhile (its visibility timeout was \
                 over): the drain ends here",
                held.id
            ));
        }
    }

    /// Says of ordered queues that a drain ends while there are messages, behind those that it has
    /// received and holds.
    async fn tell_behind(&self, session: &mut Session) {
        if !self.flags.drain || self.deleting != Deleting::Not || self.got == 0 {
            return;
        }
        for queue in &self.flags.queues {
            // It is only a word: the receive has done what it can.
            let Ok(is) = session.call(verbs::Describe { queue: queue.clone() }).await else {
                continue;
            };
            if is.attributes.ordered && is.statistics.ready > 0 && is.statistics.leased > 0 {
                let (ready, come) = match is.statistics.ready {
                    1 => (messages(1), "comes"),
                    ready => (messages(ready), "come"),
                };
                say(&format!(
                    "{ready} of queue \"{queue}\" {come} only when what is leased of the same \
                     group is deleted or given back: the drain ends here"
                ));
            }
        }
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
            self.settling = std::mem::take(&mut self.unsettled);
            let receive = verbs::Receive {
                queues: self.flags.queues.clone(),
                max: u32::try_from(max).unwrap_or(BATCH_ENTRIES_MAX),
                wait_ms: left.min(WAIT_MS_MAX),
                visibility_timeout_ms: self.flags.visibility_timeout,
                delete_on_receive: self.deleting == Deleting::OnReceive,
                settle: self.settling.iter().map(|held| held.receipt).collect(),
            };
            let pending = self.pending.insert(client.start(receive).await?);
            let received = tokio::select! {
                biased;
                received = pending => received,
                failure = closed_output(wait_ms) => return Err(failure),
            };
            self.pending = None;
            let received = match received {
                Err(ClientError::Lost { address, .. }) if address != client.address() => {
                    self.leave_behind(&address);
                    continue;
                }
                received => received?,
            };
            if std::mem::replace(&mut self.node, client.server().node) != client.server().node {
                self.seen = Seen::default();
            }
            let messages = self.received(session, received);
            if !messages.is_empty() || !self.again.is_empty() || left <= WAIT_MS_MAX {
                return Ok(messages);
            }
        }
    }

    /// Says what may come back at a server that was lost before it answered; another one has taken
    /// its place.
    fn leave_behind(&mut self, lost: &Address) {
        let settling = std::mem::take(&mut self.settling);
        self.settlement.refused += settling.len() as u64;
        for held in settling {
            say(&format!(
                "message {} was written, and may come back: the connection to {lost} was lost \
                 before it was known to be deleted",
                held.id
            ));
        }
    }

    /// Takes an answer to the books.
    fn received(&mut self, session: &Session, received: Received) -> Vec<ReceivedMessage> {
        let settling = std::mem::take(&mut self.settling);
        let json = session.out.is_json();
        self.settlement.take(&received.settled, json, |at| label(&settling, at));
        let mut messages = received.messages;
        if !self.flags.follow && self.deleting != Deleting::OnReceive {
            let (seen, again) = (&mut self.seen, &mut self.again);
            messages.retain(|message| {
                let first = seen.add(&message.receipt);
                again.extend((!first).then(|| Held::from(message)));
                first
            });
        }
        for message in &messages {
            if !self.printer.can_write(&session.out, &message.body.bytes) {
                self.unwritten.push(Held::from(message));
            } else if self.deleting != Deleting::OnReceive {
                self.held.push(Held::from(message));
            }
        }
        messages
    }

    /// Ends what is under way: what was written is deleted, what was not is released and does
    /// not count as a delivery.
    async fn wind_up(&mut self, session: &mut Session) -> Result<(), Failure> {
        if let Some(mut pending) = self.pending.take() {
            pending.cancel();
            // A refusal: the receive had got nothing.
            if let Ok(received) = pending.await {
                let messages = self.received(session, received);
                if self.deleting == Deleting::OnReceive {
                    // They are gone from the queue: this is the only chance to see them.
                    self.write(session, &messages).await?;
                }
            }
        }
        self.sort_written(session);
        // What was to be deleted by a request that failed may be deleted or not.
        let mut written = std::mem::take(&mut self.settling);
        written.append(&mut self.unsettled);
        end_leases(session, &self.flags.queues, &written, End::Delete, |_, _| {}).await?;
        let mut rest = std::mem::take(&mut self.held);
        rest.append(&mut self.unwritten.clone());
        rest.append(&mut self.again);
        // A lease that has ended meanwhile was given back already.
        end_leases(session, &self.flags.queues, &rest, End::Release, |_, _| {}).await
    }

    fn exit(&self) -> Exit {
        if !self.unwritten.is_empty() {
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
    until_reader_is_gone().await
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
