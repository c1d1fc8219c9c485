//! The thread that makes the records of a shard.

mod freeing;
mod receives;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use qd_protocol::verbs::{self, Verb};
use qd_protocol::{ErrorCode, QueueName};

use super::batch::{Asker, Batch};
use super::reads::Reads;
use super::waiters::Waiters;
use super::{Answer, Job, Mail, Mailbox, Peer, Reply, Slot, Work, closing};
use crate::clock::{Clock, StateClock};
use crate::replicator::{Local, ReplicatorError, Result};
use crate::shard::{Command, Outcome};
use crate::store;
use freeing::Freeing;

/// Longest sleep while something is due later: 1 s. Sleeping takes no account of the time in
/// which the machine is suspended, and state time goes on meanwhile.
const SLEEP_MS_MAX: u64 = 1_000;
/// How often it is looked whether what holds a read back is over: every 10 ms.
const HELD_READ_POLL_MS: u64 = 10;
/// Most receives that are tried again in one record, which leaves room for requests.
const WOKEN_PER_RECORD_MAX: usize = 2_048;
/// An engine that panicked takes the process with it.
const ALONE: &str = "an engine that has not panicked";
/// Bytes of the payload of an answer past which it comes in several frames: 256 KiB.
const PART_BYTES: usize = 256 << 10;
const CANCELLED: &str = "the request was cancelled";

/// What the engine's thread does next.
enum Turn {
    /// Wait for news, so long at most; `None`: for ever.
    Sleep(Option<Duration>),
    /// There is more to do.
    GoOn,
    /// End well.
    Stop,
}

/// The engine; see [`super`].
pub struct Engine {
    local: Local,
    clock: Clock,
    state_clock: StateClock,
    mailbox: Mailbox,
    waiters: Waiters,
    next_ticket: u64,
    /// Queues of receives that were to take messages and did not: others are to be woken.
    left: BTreeSet<QueueName>,
    reads: Reads,
    /// State time from which on something is to be settled.
    next_due_ms: Option<u64>,
    freeing: Freeing,
    /// Uptime at which a checkpoint is due, in ms.
    save_due_ms: Option<u64>,
    /// Uptime until which its thread sleeps, in ms.
    asleep_until_ms: u64,
    /// The last round was of one mail at most.
    is_calm: bool,
    /// What went wrong in another thread.
    failure: Option<ReplicatorError>,
    /// Answers of this round, to be given when what they tell is durable.
    outbox: Vec<(Arc<Peer>, Reply)>,
    stopping: bool,
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
            left: BTreeSet::new(),
            reads: Reads::default(),
            next_due_ms,
            freeing: Freeing::new(),
            save_due_ms: None,
            asleep_until_ms: 0,
            is_calm: true,
            failure: None,
            outbox: Vec::new(),
            stopping: false,
        })
    }

    /// Serves until [`super::Broker::stop`], or until an error, after which nothing more is
    /// answered and the process must end.
    pub fn run(self) -> Result<()> {
        let shared = Arc::clone(&self.mailbox.shared);
        *shared.engine().expect(ALONE) = Some(self);
        loop {
            let mut slot = shared.engine().expect(ALONE);
            let engine = slot.as_mut().expect(ALONE);
            let most = match engine.turn() {
                Ok(Turn::Sleep(most)) => most,
                Ok(Turn::GoOn) => continue,
                Ok(Turn::Stop) => {
                    let engine = slot.take();
                    drop(slot);
                    return engine.expect(ALONE).close();
                }
                Err(error) => {
                    // Nobody is to go on with it, nor to wait for it.
                    let engine = slot.take();
                    drop((slot, shared.close(), engine));
                    return Err(error);
                }
            };
            drop(slot);
            shared.wait(most);
        }
    }

    /// A round in the engine's own thread.
    fn turn(&mut self) -> Result<Turn> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.round(None)?;
        if self.stopping {
            return Ok(Turn::Stop);
        }
        self.save_due_ms = self.local.save(self.uptime_ms())?;
        Ok(if self.has_work() { Turn::GoOn } else { Turn::Sleep(self.sleep()) })
    }

    /// Takes in what waits, or this mail alone, and answers it.
    fn round(&mut self, alone: Option<Mail>) -> Result<()> {
        let now_ms = self.state_clock.now_ms();
        if self.waiters.any_waits() && self.is_due(now_ms) {
            // Those who wait come before the requests of this round.
            self.commit(Batch::default(), false)?;
        }
        let mut batch = Batch::default();
        self.push_woken(&mut batch);
        let mut mails = 0;
        let is_alone = alone.is_some();
        // Whoever has just been woken may be gone meanwhile.
        let mut next = alone.or_else(|| self.mailbox.next());
        while let Some(mail) = next.take() {
            mails += 1;
            self.take_in(mail, &mut batch)?;
            if !batch.is_full() && !is_alone {
                next = self.mailbox.next();
            }
        }
        self.is_calm = mails <= 1;
        if mails > 0 && self.freeing.unfinished {
            self.freeing.request_came(self.uptime());
        }
        let frees = self.freeing.is_due(|| self.uptime());
        if !batch.entries.is_empty() || frees || self.is_due(now_ms) {
            // Of what comes while the disk works a single request would have nothing.
            let alone = batch.entries.len() == 1 && !batch.is_full();
            self.commit(batch, alone)?;
        }
        self.answer_reads()?;
        let left = std::mem::take(&mut self.left);
        self.wake_for(left);
        self.expire_waits();
        self.flush();
        Ok(())
    }

    /// True when there is something to be done before any mail.
    fn has_work(&self) -> bool {
        self.freeing.is_due(|| self.uptime()) || self.waiters.any_woken() || self.reads.any_ready()
    }

    /// True when a mail that comes now may be the only one.
    pub(super) fn rests(&self) -> bool {
        self.is_calm && !self.stopping && self.failure.is_none() && !self.has_work()
    }

    /// Carries one mail out in the thread of whoever brings it. Returns whether the engine's thread
    /// has something to do before it wanted to.
    pub(super) fn work_alone(&mut self, mail: Mail) -> bool {
        if let Err(error) = self.round(Some(mail)) {
            self.failure = Some(error);
            return true;
        }
        if self.save_due_ms.is_none() {
            self.save_due_ms = self.local.save_due_ms(self.uptime_ms());
        }
        let asleep_until_ms = self.asleep_until_ms;
        let sleep = self.sleep();
        self.stopping
            || self.has_work()
            || sleep.is_some() && self.asleep_until_ms < asleep_until_ms
    }

    /// Gives an answer when what it may tell is durable. It counts as unread from now on: the engine
    /// may be far ahead of the disk.
    fn reply(&mut self, peer: Arc<Peer>, request: (u32, u16), answer: Answer, slot: Slot) {
        let (correlation, opcode) = request;
        let mut answer = answer;
        // A client takes no frame over a limit, nor is one of any length to be copied whole.
        while let Answer::Stats(payload, _) = &mut answer
            && payload.len() > PART_BYTES
        {
            let part = Answer::Stats(payload.split_to(PART_BYTES), true);
            let reply = peer.count(correlation, opcode, part, None);
            self.outbox.push((Arc::clone(&peer), reply));
        }
        let reply = peer.count(correlation, opcode, answer, Some(slot));
        self.outbox.push((peer, reply));
    }

    /// Hands the answers of this round to the log.
    fn flush(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        let outbox = std::mem::take(&mut self.outbox);
        self.local.when_durable(Box::new(move || {
            for (peer, reply) in outbox {
                peer.send(reply);
            }
        }));
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.next_due_ms.is_some_and(|due_ms| due_ms <= now_ms)
    }

    fn uptime(&self) -> Duration {
        self.clock.read().boot
    }

    fn uptime_ms(&self) -> u64 {
        self.uptime().as_millis() as u64
    }

    /// How long the engine's thread may sleep without any news; `None`: for ever.
    fn sleep(&mut self) -> Option<Duration> {
        let until_due = self.next_due_ms.map(|ms| ms.saturating_sub(self.state_clock.now_ms()));
        let uptime_ms = self.uptime_ms();
        let until_wait_over =
            self.waiters.next_deadline_ms().map(|ms| ms.saturating_sub(uptime_ms));
        let until_save = self.save_due_ms.map(|ms| ms.saturating_sub(uptime_ms));
        let until_read = self.reads.any_held().then_some(HELD_READ_POLL_MS);
        let until_free = self.freeing.until_due_ms(|| self.uptime());
        let untils = [until_due, until_wait_over, until_save, until_read, until_free];
        let sleep_ms = untils.into_iter().flatten().min();
        let sleep_ms = sleep_ms.map(|ms| ms.min(SLEEP_MS_MAX));
        self.asleep_until_ms = sleep_ms.map_or(u64::MAX, |ms| uptime_ms + ms);
        sleep_ms.map(Duration::from_millis)
    }

    fn take_in(&mut self, mail: Mail, batch: &mut Batch) -> Result<()> {
        match mail {
            Mail::Job(job, permit) if job.work.is_read() => {
                batch.hold(None);
                self.reads.push(*job, permit);
            }
            Mail::Job(job, permit) => {
                batch.hold(Some(permit));
                self.take_in_job(*job, batch);
            }
            Mail::Cancel(peer, correlation, permit) => {
                batch.hold(Some(permit));
                self.cancel(peer, correlation, batch);
            }
            Mail::Gone(peer) => {
                batch.hold(None);
                self.forget(peer, batch);
            }
            Mail::Drained(peer) => {
                batch.hold(None);
                self.push_held_back(peer, batch);
            }
            Mail::Stop => self.stopping = true,
            Mail::Failed => self.local.check()?,
        }
        Ok(())
    }

    fn take_in_job(&mut self, job: Job, batch: &mut Batch) {
        let Job { peer, correlation, slot, origin, work } = job;
        match work {
            // `take_in` has put those elsewhere.
            Work::Describe(_) | Work::List(_) | Work::Peek(_) | Work::Stats(_) => {}
            Work::Receive(..) => {
                self.take_in_receive(Job { peer, correlation, slot, origin, work }, batch);
            }
            Work::Change(opcode, command) => {
                let woken = match &command {
                    Command::Send(send)
                        if self.waiters.any_waits()
                            && !self.local.machine().is_paused(&send.queue) =>
                    {
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

    /// Makes a record of the batch and prepares its answers.
    fn commit(&mut self, batch: Batch, alone: bool) -> Result<()> {
        let now_ms = self.state_clock.now_ms();
        let named = batch.preferred();
        let applied = self.local.replicate(now_ms, batch.entries, alone)?;
        self.next_due_ms = applied.next_due_ms;
        self.freeing.unfinished = applied.unfinished;
        let mut dropped = applied.dropped.iter().peekable();
        for (index, (asker, outcome)) in batch.askers.into_iter().zip(applied.outcomes).enumerate()
        {
            let has_dropped = dropped.next_if_eq(&&index).is_some();
            self.answer(asker, outcome, has_dropped);
        }
        if self.waiters.any_waits() {
            let machine = self.local.machine();
            let touched = applied.touched.iter().filter_map(|number| machine.name(*number));
            let queues: Vec<QueueName> = touched.cloned().chain(named).collect();
            self.wake_for(queues);
        }
        drop(batch.permits);
        Ok(())
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

    /// Goes on with the reads.
    fn answer_reads(&mut self) -> Result<()> {
        let now_ms = self.state_clock.now_ms();
        for (job, answer) in self.reads.go_on(self.local.machine(), now_ms)? {
            self.reply(job.peer, (job.correlation, job.work.opcode()), answer, job.slot);
        }
        Ok(())
    }

    /// Refuses whoever still waits; everything asked for before the stop is done, and saved.
    fn close(mut self) -> Result<()> {
        for take in self.waiters.drain() {
            self.refuse(take, ErrorCode::Closing, &closing().text);
        }
        for job in self.reads.drain().collect::<Vec<_>>() {
            let request = (job.correlation, job.work.opcode());
            self.reply(job.peer, request, Answer::Refused(closing()), job.slot);
        }
        for mail in self.mailbox.shared.close() {
            if let Mail::Job(job, _) = mail {
                let request = (job.correlation, job.work.opcode());
                self.reply(job.peer, request, Answer::Refused(closing()), job.slot);
            }
        }
        self.flush();
        self.local.checkpoint()
    }
}
