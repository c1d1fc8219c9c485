//! The worker's loop: what is received, what is started, and when it is over.

mod ending;
mod receiving;
mod settling;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use qd_protocol::BATCH_ENTRIES_MAX;
use qd_protocol::verbs::receive::WAIT_MS_MAX;
use rustix::process::Signal;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until};

use super::command::{Command, Message};
use super::control::{Control, Controls, suspend};
use super::event::{Event, Settle};
use super::job::{Group, Job, Order};
use super::ledger::{Clock, Held, Lease, Ledger, now};
use super::output::Output;
use super::pace::Pace;
use super::server::{Ask, Server};
use super::tally::Tally;
use super::{Terms, Work};
use crate::exit::{Exit, Failure};
use crate::signals::Stop;
use crate::verbs::messages;

/// How long a message may be held while no command is free for it.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// How often leases are looked at: so often within one, but at least as often.
const TICKS: u32 = 12;
const TICK_MAX: Duration = Duration::from_secs(1);

/// How long whoever reads our output has for the rest of it once we are to end at once.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A command that runs.
struct Running {
    leases: Vec<Lease>,
    group: Arc<Group>,
    orders: watch::Sender<Order>,
    /// A lease was lost: the command is ended, and its status means nothing any more.
    lost: bool,
}

/// A receive that is under way.
struct Asking {
    cancel: Arc<Notify>,
    waits: bool,
}

/// See the module.
pub struct Worker {
    flags: Work,
    command: Command,
    terms: Terms,
    server: Server,
    output: Output,
    ledger: Ledger,
    tally: Tally,
    tasks: JoinSet<Event>,
    running: HashMap<u64, Running>,
    started: u64,
    /// Received, for the next commands.
    ready: VecDeque<Message>,
    /// When there was none last, or a command got some.
    ready_since: Instant,
    /// Done, to be deleted with the next request.
    finished: Vec<Held>,
    /// Said to be done later, to be given back at the end: at once they would only come again.
    postponed: Vec<Lease>,
    /// A command has said "not now".
    later: bool,
    asking: Option<Asking>,
    /// Settlements that are under way.
    settling: usize,
    /// The last receive that did not wait has found nothing.
    dry: bool,
    ask_at: Option<Instant>,
    clock: Clock,
    pace: Pace,
    /// Messages that commands were or will be started for.
    taken: u64,
    stopping: Option<Result<(), Failure>>,
    start: Instant,
}

impl Worker {
    pub fn new(
        flags: Work,
        command: Command,
        server: Server,
        output: Output,
        terms: Terms,
    ) -> Self {
        Self {
            flags,
            command,
            server,
            output,
            ledger: Ledger::new(terms.lease),
            terms,
            tally: Tally::default(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            started: 0,
            ready: VecDeque::new(),
            ready_since: Instant::now(),
            finished: Vec::new(),
            postponed: Vec::new(),
            later: false,
            asking: None,
            settling: 0,
            dry: false,
            ask_at: None,
            clock: Clock::new(),
            pace: Pace::default(),
            taken: 0,
            stopping: None,
            start: Instant::now(),
        }
    }

    /// Works until it is over, and tells what became of the messages.
    pub async fn run(mut self, stop: &Stop, json: bool) -> Result<Exit, Failure> {
        let result = self.work(stop).await;
        if result.is_err() {
            self.signal(Signal::KILL);
        }
        self.output.say(&self.tally.summary(self.start.elapsed(), json));
        // Who does not read our output must not keep us for longer than a signal may.
        tokio::select! {
            () = self.output.flush() => {}
            () = async { stop.signal(3).await; sleep(LAST_WORDS).await } => {}
        }
        result?;
        // What the last commands wrote may have gone nowhere.
        let broken = self.output.broken();
        match self.stopping {
            Some(Err(failure)) => Err(failure),
            _ if broken.is_some() => broken.map_or(Ok(Exit::Done), Err),
            _ if self.tally.is_good() && !self.later => Ok(Exit::Done),
            _ => Ok(Exit::Negative),
        }
    }

    async fn work(&mut self, stop: &Stop) -> Result<(), Failure> {
        let mut controls = Controls::new()?;
        let tick = (self.terms.lease / TICKS).min(TICK_MAX);
        let mut ticks: Interval = interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signals = 0;
        loop {
            self.dispatch();
            self.ask();
            if self.is_over() {
                return Ok(());
            }
            let wake_at = self.wake_at();
            tokio::select! {
                Some(event) = self.tasks.join_next() => {
                    let event = event.map_err(|error| Failure::Internal(error.to_string()))?;
                    self.take(event);
                }
                failure = stop.signal(signals + 1) => {
                    signals += 1;
                    self.signalled(signals, failure);
                }
                failure = stop.timed_out(), if self.stopping.is_none() => self.stop(Err(failure)),
                control = controls.next() => self.control(control),
                () = at(wake_at) => self.ask_at = self.ask_at.filter(|at| *at > Instant::now()),
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Ended(ended) => self.ended(ended),
            Event::Received(answer) => self.received(answer),
            Event::Settled { how, held, result } => {
                self.settling -= 1;
                self.dry = false;
                self.settled(&how, &held, result);
            }
            Event::Renewed { leases, from, result } => self.renewed(&leases, from, result),
        }
    }

    /// Slots without a command.
    fn free(&mut self) -> usize {
        let resting = self.pace.resting();
        self.flags.parallel.saturating_sub(self.running.len() + resting)
    }

    fn is_batch(&self) -> bool {
        self.flags.batch > 1
    }

    fn wake_at(&self) -> Option<Instant> {
        let rested = self.pace.rested_at();
        [self.ask_at, rested].into_iter().flatten().min()
    }

    /// Starts commands while there are messages and slots.
    fn dispatch(&mut self) {
        while self.stopping.is_none() && !self.ready.is_empty() && self.free() > 0 {
            let mut batch: Vec<Message> = Vec::new();
            while batch.len() < self.flags.batch
                && let Some(next) = self.ready.pop_front()
            {
                if batch.first().is_some_and(|first| first.lease.queue != next.lease.queue) {
                    self.ready.push_front(next);
                    break;
                }
                batch.push(next);
            }
            self.ready_since = Instant::now();
            self.start_command(&batch);
        }
    }

    fn start_command(&mut self, batch: &[Message]) {
        let leases: Vec<Lease> = batch.iter().map(|message| message.lease).collect();
        let mut left_out = Vec::new();
        let started = self.command.start(batch, self.is_batch(), &mut left_out);
        for header in left_out {
            let name = self.label(&leases);
            self.output.say(&format!(
                "qctl: {name}: the header \"{}\" holds a NUL byte, which no variable can",
                header.escape_debug()
            ));
        }
        let number = self.started;
        let limit = self.flags.kill_after.map(Duration::from_millis);
        let whole = self.command.is_parallel();
        let job = started.and_then(|started| Job::new(number, started, &self.output, whole, limit));
        match job {
            Ok((job, group, orders)) => {
                self.started += 1;
                self.running.insert(number, Running { leases, group, orders, lost: false });
                self.tasks.spawn(async { Event::Ended(job.run().await) });
            }
            // The headers of this message, with everything else, are too much: others may be not.
            Err(error) if error.kind() == std::io::ErrorKind::ArgumentListTooLong => {
                self.fail(&leases, &format!("failed: it cannot be passed to the command: {error}"));
            }
            Err(error) => {
                let failure = self.command.cannot_run(&error);
                self.settle(&leases, &Settle::Release);
                self.stop(Err(failure));
            }
        }
    }

    /// Asks for messages if there are slots for them, or will be soon. What is done is deleted by the
    /// same request, or by one of its own.
    fn ask(&mut self) {
        let quick = self.asking.as_ref().is_some_and(|asking| !asking.waits);
        if quick {
            return;
        }
        let paused = self.ask_at.is_some_and(|at| Instant::now() < at);
        let max = if self.asking.is_none() && self.stopping.is_none() && !paused {
            self.wanted()
        } else {
            0
        };
        if max == 0 {
            self.delete_finished();
            return;
        }
        let waits = self.dry && (!self.flags.exit_when_empty || !self.running.is_empty());
        let settled =
            self.finished.split_off(self.finished.len().saturating_sub(BATCH_ENTRIES_MAX as usize));
        let wait_ms = if waits { WAIT_MS_MAX } else { 0 };
        let ask = Ask { max, wait_ms, lease: self.terms.lease };
        let cancel = Arc::new(Notify::new());
        self.asking = Some(Asking { cancel: Arc::clone(&cancel), waits });
        self.tasks.spawn(self.server.clone().receive(ask, settled, cancel));
    }

    /// How many messages to ask for now.
    fn wanted(&mut self) -> u32 {
        if self.flags.exit_when_empty && self.dry && self.running.is_empty() {
            return 0;
        }
        let slots = self.free();
        // One answer of an ordered queue may hold several messages of a group: they are for one
        // command, which also is why none are held in advance.
        let jobs = match (self.terms.ordered, self.dry) {
            (true, _) => usize::from(slots > 0 && self.ready.is_empty()),
            (false, true) => slots,
            (false, false) => slots + self.pace.ahead(self.flags.parallel),
        };
        let wanted = (jobs * self.flags.batch).saturating_sub(self.ready.len()) as u64;
        let left = self.flags.max_messages.map_or(u64::MAX, |max| max.saturating_sub(self.taken));
        let max = wanted.min(left).min(u64::from(BATCH_ENTRIES_MAX));
        u32::try_from(max).unwrap_or(BATCH_ENTRIES_MAX)
    }

    fn tick(&mut self) {
        self.clock.tick();
        self.renew_due();
        if let Some(failure) = self.output.broken() {
            self.stop(Err(failure));
        }
        if !self.ready.is_empty() && self.ready_since.elapsed() > IDLE_MAX {
            // Somebody else may have time for them.
            self.give_back_ready();
            self.dry = true;
        }
    }

    fn renew_due(&mut self) {
        let due = self.ledger.due(now());
        for leases in by_queue(&due, |lease| lease.queue) {
            self.tasks.spawn(self.server.clone().renew(leases, self.terms.lease));
        }
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Suspend => {
                self.signal(Signal::STOP);
                suspend();
            }
            Control::Continue => {
                self.signal(Signal::CONT);
                self.renew_due();
            }
            Control::HangUp if self.stopping.is_none() => self.stop(Err(Failure::Terminated)),
            Control::HangUp => {}
        }
    }

    /// Sends a signal to all commands.
    fn signal(&self, signal: Signal) {
        for running in self.running.values() {
            running.group.signal(signal);
        }
    }

    fn signalled(&mut self, count: u32, failure: Failure) {
        let order = match count {
            1 => {
                if !self.running.is_empty() {
                    let running = self.running.len();
                    let commands = if running == 1 { "command" } else { "commands" };
                    self.output.say(&format!(
                        "qctl: ending when {running} {commands} have ended; the next signal ends them"
                    ));
                }
                // A signal is what the status tells, also where the end was near.
                if matches!(self.stopping, Some(Ok(()))) {
                    self.stopping = Some(Err(failure));
                } else {
                    self.stop(Err(failure));
                }
                return;
            }
            2 => Order::End,
            _ => Order::Kill,
        };
        for running in self.running.values() {
            let _ = running.orders.send(order);
        }
    }

    /// Receives no more, and gives back what was not started. The first cause counts.
    fn stop(&mut self, why: Result<(), Failure>) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(why);
        self.server.end_soon();
        if let Some(asking) = &self.asking {
            asking.cancel.notify_one();
        }
        self.give_back_ready();
        let postponed = std::mem::take(&mut self.postponed);
        self.settle(&postponed, &Settle::Release);
    }

    fn give_back_ready(&mut self) {
        let leases: Vec<Lease> = self.ready.drain(..).map(|message| message.lease).collect();
        self.give_back(&leases);
    }

    fn give_back(&mut self, leases: &[Lease]) {
        self.taken -= leases.len() as u64;
        self.settle(leases, &Settle::Release);
    }

    /// No command is to be started for a message that is lost.
    fn forget_ready(&mut self, lease: &Lease) {
        self.ready.retain(|message| message.lease.receipt != lease.receipt);
    }

    fn is_over(&mut self) -> bool {
        let idle = self.running.is_empty() && self.ready.is_empty() && self.asking.is_none();
        if self.stopping.is_none() && idle && self.settling == 0 && self.finished.is_empty() {
            let enough = self.flags.max_messages.is_some_and(|max| self.taken >= max);
            if enough || (self.flags.exit_when_empty && self.dry) {
                self.stop(Ok(()));
            }
        }
        self.stopping.is_some() && idle && self.tasks.is_empty() && self.finished.is_empty()
    }

    /// Messages in a line for people.
    fn label(&self, leases: &[Lease]) -> String {
        let Some(first) = leases.first() else {
            return String::new();
        };
        let queue = self.server.queue(first.queue);
        if let [only] = leases {
            return format!("message {} of queue \"{queue}\", attempt {}", only.id, only.attempt);
        }
        let count = messages(leases.len() as u64);
        format!("{count} of queue \"{queue}\", from {} on", first.id)
    }
}

/// In parts of one queue and one request.
fn by_queue<T: Copy>(all: &[T], queue: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts: Vec<(usize, Vec<T>)> = Vec::new();
    for one in all {
        let of = queue(one);
        let room = |(queue, part): &&mut (usize, Vec<T>)| {
            *queue == of && part.len() < BATCH_ENTRIES_MAX as usize
        };
        match parts.iter_mut().find(room) {
            Some((_, part)) => part.push(*one),
            None => parts.push((of, vec![*one])),
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
