//! The thread that makes the records of a shard.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::list::PAGE_MAX;
use qd_protocol::verbs::{self, Listed, Verb};
use qd_protocol::{ErrorCode, QueueName};

use super::batch::{Asker, Batch};
use super::waiters::{Take, Waiters};
use super::{Answer, Job, Mail, Mailbox, Peer, Slot, Work, closing, glob};
use crate::clock::{Clock, StateClock};
use crate::replicator::{Local, Result};
use crate::shard::{Command, Origin, Outcome, Received};
use crate::store;

/// Longest sleep while something is due later: 1 s. Sleeping takes no account of the time in
/// which the machine is suspended, and state time goes on meanwhile.
const SLEEP_MS_MAX: u64 = 1_000;
/// Most receives that are tried again in one record, which leaves room for requests.
const WOKEN_PER_RECORD_MAX: usize = 2_048;
/// Runs of statuses that a waiting receive may keep without counting as a large request.
const FEW_RUNS: usize = 16;
const CANCELLED: &str = "the request was cancelled";

/// The engine; see [`super`].
pub struct Engine {
    local: Local,
    clock: Clock,
    state_clock: StateClock,
    mailbox: Mailbox,
    waiters: Waiters,
    next_ticket: u64,
    /// Receives to be tried with the next record, before all others.
    woken: Vec<Take>,
    /// Receives of connections that have too much to read, by connection.
    held_back: HashMap<u64, Vec<Take>>,
    /// State time from which on something is to be settled.
    next_due_ms: Option<u64>,
    /// Rows are left to be freed.
    unfinished: bool,
    /// Uptime at which a checkpoint is due, in ms.
    save_due_ms: Option<u64>,
    /// Answers of this round, to be given when what they tell is durable.
    outbox: Vec<Outgoing>,
    stopping: bool,
}

/// An answer on its way out.
struct Outgoing {
    peer: Arc<Peer>,
    correlation: u32,
    opcode: u16,
    answer: Answer,
    slot: Slot,
}

impl Engine {
    /// An engine over the state of `local`.
    pub fn new(local: Local, clock: Clock, mailbox: Mailbox) -> store::Result<Self> {
        let machine = local.machine();
        let state_clock = StateClock::start(clock.clone(), machine.position().now_ms);
        let next_due_ms = machine.next_due_ms()?;
        Ok(Self {
            local,
            clock,
            state_clock,
            mailbox,
            waiters: Waiters::default(),
            next_ticket: 0,
            woken: Vec::new(),
            held_back: HashMap::new(),
            next_due_ms,
            // What an earlier run left over is found by the first record.
            unfinished: true,
            save_due_ms: None,
            outbox: Vec::new(),
            stopping: false,
        })
    }

    /// Serves until [`super::Broker::stop`], or until an error, after which nothing more is
    /// answered and the process must end.
    pub fn run(mut self) -> Result<()> {
        while !self.stopping {
            let first = self.next_mail();
            let now_ms = self.state_clock.now_ms();
            if !self.waiters.is_empty() && self.is_due(now_ms) {
                // Those who wait come before the requests of this round.
                self.commit(Batch::default(), false)?;
            }
            let mut batch = Batch::default();
            let woken = self.woken.len().min(WOKEN_PER_RECORD_MAX);
            for take in self.woken.drain(..woken).collect::<Vec<_>>() {
                self.push_take(take, &mut batch);
            }
            let mut next = first;
            while let Some(mail) = next.take() {
                self.take_in(mail, &mut batch)?;
                if !batch.is_full() {
                    next = self.mailbox.mail.try_recv().ok();
                }
            }
            if !batch.entries.is_empty() || self.unfinished || self.is_due(now_ms) {
                // Of what comes while the disk works a single request would have nothing.
                let alone = batch.entries.len() == 1 && !batch.is_full();
                self.commit(batch, alone)?;
            } else {
                self.answer_reads(batch.reads)?;
            }
            self.expire_waits();
            self.flush();
            self.save_due_ms = self.local.save(self.uptime_ms())?;
        }
        self.close()
    }

    /// Gives an answer when what it may tell is durable.
    fn reply(&mut self, peer: Arc<Peer>, request: (u32, u16), answer: Answer, slot: Slot) {
        let (correlation, opcode) = request;
        self.outbox.push(Outgoing { peer, correlation, opcode, answer, slot });
    }

    fn reply_to_take(&mut self, take: Take, answer: Answer) {
        self.reply(take.peer, (take.correlation, verbs::Receive::OPCODE), answer, take.slot);
    }

    fn refuse(&mut self, take: Take, code: ErrorCode, text: &str) {
        self.reply_to_take(take, Answer::Refused(code.refuse(text)));
    }

    /// Hands the answers of this round to the log.
    fn flush(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        let outbox = std::mem::take(&mut self.outbox);
        self.local.when_durable(Box::new(move || {
            for Outgoing { peer, correlation, opcode, answer, slot } in outbox {
                peer.reply(correlation, opcode, answer, slot);
            }
        }));
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.next_due_ms.is_some_and(|due_ms| due_ms <= now_ms)
    }

    fn uptime_ms(&self) -> u64 {
        self.clock.read().boot.as_millis() as u64
    }

    /// The next mail; `None` when something else is to be done first.
    fn next_mail(&mut self) -> Option<Mail> {
        if self.unfinished || !self.woken.is_empty() {
            return self.mailbox.mail.try_recv().ok();
        }
        let until_due = self.next_due_ms.map(|ms| ms.saturating_sub(self.state_clock.now_ms()));
        let uptime_ms = self.uptime_ms();
        let until_wait_over =
            self.waiters.next_deadline_ms().map(|ms| ms.saturating_sub(uptime_ms));
        let until_save = self.save_due_ms.map(|ms| ms.saturating_sub(uptime_ms));
        let sleep_ms = until_due.into_iter().chain(until_wait_over).chain(until_save).min();
        let mail = match sleep_ms {
            // Sender and engine end together; without senders there is nothing left to do.
            None => self.mailbox.mail.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(ms) => self.mailbox.mail.recv_timeout(Duration::from_millis(ms.min(SLEEP_MS_MAX))),
        };
        match mail {
            Ok(mail) => Some(mail),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Mail::Stop),
        }
    }

    fn take_in(&mut self, mail: Mail, batch: &mut Batch) -> Result<()> {
        match mail {
            Mail::Job(job, permit) => {
                batch.hold(Some(permit));
                self.take_in_job(*job, batch);
            }
            Mail::Cancel(peer, correlation, permit) => {
                batch.hold(Some(permit));
                if let Some(take) = self.find_waiting(peer, correlation) {
                    self.refuse(take, ErrorCode::Cancelled, CANCELLED);
                } else {
                    batch.cancel(peer, Some(correlation));
                }
            }
            Mail::Gone(peer) => {
                batch.hold(None);
                batch.cancel(peer, None);
                self.waiters.forget(peer);
                self.held_back.remove(&peer);
            }
            Mail::Drained(peer) => {
                batch.hold(None);
                for take in self.held_back.remove(&peer).unwrap_or_default() {
                    self.push_take(take, batch);
                }
            }
            Mail::Stop => self.stopping = true,
            Mail::Failed => self.local.check()?,
        }
        Ok(())
    }

    fn find_waiting(&mut self, peer: u64, correlation: u32) -> Option<Take> {
        if let Some(take) = self.waiters.cancel(peer, correlation) {
            return Some(take);
        }
        let held = self.held_back.get_mut(&peer)?;
        let at = held.iter().position(|take| take.correlation == correlation)?;
        Some(held.remove(at))
    }

    fn take_in_job(&mut self, job: Job, batch: &mut Batch) {
        let Job { peer, correlation, slot, origin, work } = job;
        match work {
            Work::Describe(_) | Work::List(_) => {
                batch.reads.push(Job { peer, correlation, slot, origin, work });
            }
            Work::Receive(command, wait_ms) => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                if let Some(origin) = origin {
                    self.supersede(origin, batch);
                }
                let wait_until_ms = self.uptime_ms().saturating_add(wait_ms);
                let settled = Statuses::default();
                let take = Take {
                    peer,
                    correlation,
                    slot,
                    origin,
                    command,
                    settled,
                    wait_until_ms,
                    ticket,
                    cancelled: false,
                };
                self.push_take(take, batch);
            }
            Work::Change(opcode, command) => {
                let woken = match &command {
                    Command::Send(send) if !self.waiters.is_empty() => {
                        let (_, room) = self.local.machine().ready(&send.queue);
                        self.wake(&send.queue, send.messages.len() as u64, room)
                    }
                    _ => Vec::new(),
                };
                let asker = match &command {
                    Command::Drop(drop) => {
                        Asker::Drop { peer, correlation, slot, queue: drop.queue.clone() }
                    }
                    _ => Asker::Change { peer, correlation, slot, opcode },
                };
                batch.push(origin, command, asker);
                for take in woken {
                    self.push_take(take, batch);
                }
            }
        }
    }

    /// Ends the wait of the receive that is now repeated: its connection is lost, and what it took
    /// would be known to nobody before the lease ends.
    fn supersede(&mut self, origin: Origin, batch: &mut Batch) {
        batch.supersede(origin);
        if let Some(take) = self.waiters.supersede(origin) {
            let text = "the request came again over another connection";
            self.refuse(take, ErrorCode::Cancelled, text);
        }
    }

    /// Takes out the waiting receives that came first for a queue: enough for `ready` messages,
    /// of which `room` may be leased.
    fn wake(&mut self, queue: &QueueName, mut ready: u64, mut room: u64) -> Vec<Take> {
        let mut woken = Vec::new();
        while ready > 0
            && let Some(take) = self.waiters.pop(queue, room == 0)
        {
            if take.peer.hold_back() {
                self.held_back.entry(take.peer.id()).or_default().push(take);
                continue;
            }
            let most = u64::from(take.command.max);
            ready = ready.saturating_sub(most);
            if !take.command.delete {
                room = room.saturating_sub(most);
            }
            woken.push(take);
        }
        woken
    }

    /// Adds a receive to the record, unless its connection has too much to read already.
    fn push_take(&mut self, take: Take, batch: &mut Batch) {
        if take.peer.hold_back() {
            self.held_back.entry(take.peer.id()).or_default().push(take);
            return;
        }
        let bytes_max = take.peer.answer_bytes_max().min(take.command.bytes_max);
        batch.push_take(take, bytes_max);
    }

    /// Makes a record of the batch and prepares its answers.
    fn commit(&mut self, batch: Batch, alone: bool) -> Result<()> {
        let now_ms = self.state_clock.now_ms();
        let named = batch.preferred();
        let applied = self.local.replicate(now_ms, batch.entries, alone)?;
        self.next_due_ms = applied.next_due_ms;
        self.unfinished = applied.unfinished;
        let mut dropped = applied.dropped.iter().peekable();
        for (index, (asker, outcome)) in batch.askers.into_iter().zip(applied.outcomes).enumerate()
        {
            let has_dropped = dropped.next_if_eq(&&index).is_some();
            self.answer(asker, outcome, has_dropped);
        }
        if !self.waiters.is_empty() {
            self.wake_touched(&applied.touched, named);
        }
        drop(batch.permits);
        self.answer_reads(batch.reads)
    }

    /// Wakes receives for what can be delivered in the queues that a record has touched or that
    /// its receives named: messages that became ready by themselves, that a receive left because
    /// its answer was full or another queue had enough, or that came behind it in the record.
    fn wake_touched(&mut self, touched: &[u64], named: Vec<QueueName>) {
        let machine = self.local.machine();
        let touched = touched.iter().filter_map(|number| machine.name(*number).cloned());
        let queues: Vec<QueueName> = touched.chain(named).collect();
        for queue in queues {
            let (ready, room) = self.local.machine().ready(&queue);
            let mut woken = self.wake(&queue, ready, room);
            self.woken.append(&mut woken);
        }
    }

    /// `has_dropped`: the request has dropped its queue now, not in an earlier record.
    fn answer(&mut self, asker: Asker, outcome: Outcome, has_dropped: bool) {
        match asker {
            Asker::Change { peer, correlation, slot, opcode } => {
                self.reply(peer, (correlation, opcode), outcome.into(), slot);
            }
            Asker::Drop { peer, correlation, slot, queue } => {
                if has_dropped {
                    while let Some(take) = self.waiters.pop(&queue, false) {
                        let text = format!("queue {:?} was dropped", queue.as_str());
                        self.refuse(take, ErrorCode::QueueDropped, &text);
                    }
                }
                self.reply(peer, (correlation, verbs::Drop::OPCODE), outcome.into(), slot);
            }
            Asker::Receive(take) => self.answer_take(*take, outcome),
        }
    }

    fn answer_take(&mut self, mut take: Take, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Deferred => {
                self.defer(take);
                return;
            }
            Outcome::Received(mut received) => {
                if received.settled.runs.is_empty() {
                    received.settled = std::mem::take(&mut take.settled);
                }
                let is_over = take.wait_until_ms <= self.uptime_ms();
                if received.messages.is_empty() && take.cancelled {
                    self.refuse(take, ErrorCode::Cancelled, CANCELLED);
                    return;
                }
                if received.messages.is_empty() && (!is_over || received.unfinished) {
                    take.settled = received.settled;
                    take.command.settle = Vec::new();
                    if take.settled.runs.len() <= FEW_RUNS {
                        take.slot.release_entries();
                    }
                    if received.unfinished {
                        self.defer(take);
                    } else {
                        self.waiters.park(take);
                    }
                    return;
                }
                Outcome::Received(received)
            }
            other => other,
        };
        self.reply_to_take(take, outcome.into());
    }

    /// Tries a receive again with the next record.
    fn defer(&mut self, take: Take) {
        if take.cancelled {
            self.refuse(take, ErrorCode::Cancelled, CANCELLED);
        } else {
            self.woken.push(take);
        }
    }

    fn answer_reads(&mut self, reads: Vec<Job>) -> Result<()> {
        for job in reads {
            let now_ms = self.state_clock.now_ms();
            let machine = self.local.machine();
            let opcode = job.work.opcode();
            let answer = match job.work {
                Work::Describe(describe) => match machine.describe(&describe.queue, now_ms)? {
                    Ok(description) => Answer::Describe(description),
                    Err(refusal) => Answer::Refused(refusal),
                },
                Work::List(list) => {
                    let pattern = list.pattern.as_deref().unwrap_or("*");
                    let most = list.limit.clamp(1, PAGE_MAX) as usize;
                    let matches = |name: &str| glob::matches(pattern, name);
                    let (queues, more) =
                        machine.list(list.after.as_ref(), most, now_ms, matches)?;
                    Answer::List(Listed { queues, more })
                }
                // `take_in_job` collects nothing else.
                Work::Change(..) | Work::Receive(..) => continue,
            };
            self.reply(job.peer, (job.correlation, opcode), answer, job.slot);
        }
        Ok(())
    }

    /// Answers those whose wait is over with nothing.
    fn expire_waits(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        for mut take in self.waiters.expire(self.uptime_ms()) {
            let settled = std::mem::take(&mut take.settled);
            let received = Received { settled, ..Received::default() };
            self.reply_to_take(take, Outcome::Received(received).into());
        }
    }

    /// Refuses whoever still waits; everything asked for before the stop is done, and saved.
    fn close(mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held_back).into_values().flatten();
        let woken = std::mem::take(&mut self.woken);
        for take in self.waiters.drain().into_iter().chain(held).chain(woken) {
            self.refuse(take, ErrorCode::Closing, &closing().text);
        }
        while let Ok(mail) = self.mailbox.mail.try_recv() {
            if let Mail::Job(job, _) = mail {
                let request = (job.correlation, job.work.opcode());
                self.reply(job.peer, request, Answer::Refused(closing()), job.slot);
            }
        }
        self.flush();
        self.local.checkpoint()
    }
}
