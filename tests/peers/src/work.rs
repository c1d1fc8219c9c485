//! The workloads: the same for every server, but for how many messages it takes in one call.
//!
//! Always true here:
//!
//! - A connection has one call under way.
//! - A phase begins when its connections begin to work and ends with the last answer that was not
//!   "nothing there".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use tokio::task::JoinSet;

use crate::clock::{micros, now};
use crate::peer::{Conn, Peer, Role};
use crate::row::Row;
use crate::stats::{Load, Probe, percentile};

/// How long a consumer that found nothing waits before it asks again.
const IDLE: Duration = Duration::from_millis(1);

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// 16 connections, 100 bytes, batches; all sent, then all taken
    W1,
    /// As w1, of 1 KiB
    W2,
    /// 8 producers and 8 consumers at once, 100 bytes, batches
    Mix,
    /// 1 connection, 100 bytes, one message a call; all sent, then all taken
    W3,
    /// 64 connections, 100 bytes, one message a call; sent only
    W4,
}

/// When a phase of sends ends: whichever comes first.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// After this many messages.
    pub messages: u64,
    /// Or after this long. A phase of takes may last twice that.
    pub time: Duration,
}

/// A workload that sends first and takes afterwards.
struct Shape {
    name: &'static str,
    conns: usize,
    body: usize,
    /// One message a call instead of the server's batches.
    single: bool,
    /// Whether the messages are taken at all.
    take: bool,
}

impl Work {
    /// Puts the workload to `peer`. `limits` are those of w1 and w2; the others have less time.
    pub async fn run<P: Peer>(
        self,
        peer: &P,
        label: &str,
        limits: Limits,
        probe: &Probe,
    ) -> Result<Vec<Row>> {
        let short = Limits { time: limits.time * 3 / 10, ..limits };
        let batched = Shape { name: "w1", conns: 16, body: 100, single: false, take: true };
        let single = Shape { name: "w3", conns: 1, body: 100, single: true, take: true };
        let run = Run { peer, label, probe };
        match self {
            Self::W1 => run.send_then_take(&batched, limits).await,
            Self::W2 => {
                run.send_then_take(&Shape { name: "w2", body: 1024, ..batched }, limits).await
            }
            Self::Mix => run.mixed(Limits { time: limits.time / 2, ..limits }).await,
            Self::W3 => run.send_then_take(&single, short).await,
            Self::W4 => {
                let shape = Shape { name: "w4", conns: 64, take: false, ..single };
                run.send_then_take(&shape, short).await
            }
        }
    }
}

/// The calls of one phase.
#[derive(Default)]
struct Tally {
    messages: u64,
    last: Option<Instant>,
    micros: Vec<u32>,
}

impl Tally {
    fn add(&mut self, n: usize, began: Instant) {
        let end = now();
        self.messages += n as u64;
        self.last = Some(end);
        self.micros.push(micros(end - began));
    }

    fn merge(&mut self, other: Self) {
        self.messages += other.messages;
        self.last = self.last.max(other.last);
        self.micros.extend(other.micros);
    }
}

struct Run<'a, P> {
    peer: &'a P,
    label: &'a str,
    probe: &'a Probe,
}

impl<P: Peer> Run<'_, P> {
    fn row(&self, work: &str, phase: &str, mut tally: Tally, began: Instant, load: Load) -> Row {
        tally.micros.sort_unstable();
        Row {
            label: self.label.to_owned(),
            work: work.to_owned(),
            phase: phase.to_owned(),
            messages: tally.messages,
            secs: tally.last.map_or(0.0, |end| (end - began).as_secs_f64()),
            p50: percentile(&tally.micros, 50),
            p99: percentile(&tally.micros, 99),
            load,
        }
    }

    async fn open(
        &self,
        queue: &str,
        role: Role,
        count: usize,
        batch: usize,
    ) -> Result<Vec<P::Conn>> {
        let mut conns = Vec::with_capacity(count);
        for _ in 0..count {
            conns.push(self.peer.connect(queue, role, batch).await?);
        }
        Ok(conns)
    }

    async fn send_then_take(&self, shape: &Shape, limits: Limits) -> Result<Vec<Row>> {
        let name = shape.name;
        let (send_batch, take_batch) =
            if shape.single { (1, 1) } else { (P::SEND_BATCH, P::TAKE_BATCH) };
        let mut rows = vec![];
        self.peer.create(name).await?;

        let conns = self.open(name, Role::Send, shape.conns, send_batch).await?;
        let (before, began) = (self.probe.snap(), now());
        let sent = join(start_sends(conns, shape.body, send_batch, limits)).await?;
        let load = before.until(&self.probe.snap());
        let goal = sent.messages;
        rows.push(self.row(name, "send", sent, began, load));

        if shape.take {
            // A push consumer gets messages from the moment it is opened, so opening is inside
            // the time measured.
            let (before, began) = (self.probe.snap(), now());
            let conns = self.open(name, Role::Take, shape.conns, take_batch).await?;
            let tasks =
                start_takes(conns, take_batch, &Arc::new(AtomicU64::new(goal)), limits.time * 2);
            let taken = join(tasks).await?;
            let load = before.until(&self.probe.snap());
            self.check_taken(name, taken.messages, goal)?;
            rows.push(self.row(name, "take", taken, began, load));
        }
        self.peer.drop_queue(name).await?;
        Ok(rows)
    }

    /// Producers and consumers at once, on 8 connections each.
    async fn mixed(&self, limits: Limits) -> Result<Vec<Row>> {
        const NAME: &str = "mix";
        const HALF: usize = 8;
        const BODY_BYTES: usize = 100;
        self.peer.create(NAME).await?;
        let producers = self.open(NAME, Role::Send, HALF, P::SEND_BATCH).await?;
        let consumers = self.open(NAME, Role::Take, HALF, P::TAKE_BATCH).await?;
        // Known when the producers are done.
        let goal = Arc::new(AtomicU64::new(u64::MAX));
        let (before, began) = (self.probe.snap(), now());
        let consuming = start_takes(consumers, P::TAKE_BATCH, &goal, limits.time * 3);
        let sent = join(start_sends(producers, BODY_BYTES, P::SEND_BATCH, limits)).await?;
        let sent_load = before.until(&self.probe.snap());
        goal.store(sent.messages, Relaxed);
        let taken = join(consuming).await?;
        let taken_load = before.until(&self.probe.snap());
        self.check_taken(NAME, taken.messages, sent.messages)?;
        self.peer.drop_queue(NAME).await?;
        Ok(vec![
            self.row(NAME, "send", sent, began, sent_load),
            self.row(NAME, "take", taken, began, taken_load),
        ])
    }

    /// More messages than were sent is a failure, fewer is said.
    fn check_taken(&self, work: &str, taken: u64, sent: u64) -> Result<()> {
        ensure!(taken <= sent, "{taken} messages taken of {sent} sent");
        if taken < sent {
            eprintln!("{} {work}: time was up at {taken} of {sent} messages taken", self.label);
        }
        Ok(())
    }
}

/// Sends from every connection at once until a limit is met.
fn start_sends<C: Conn>(conns: Vec<C>, body: usize, batch: usize, limits: Limits) -> Tasks<C> {
    let body: Arc<[u8]> = (b'a'..=b'z').cycle().take(body).collect();
    let claimed = Arc::new(AtomicU64::new(0));
    let (most, end) = (limits.messages, now() + limits.time);
    let mut tasks = JoinSet::new();
    for mut conn in conns {
        let (body, claimed) = (Arc::clone(&body), Arc::clone(&claimed));
        tasks.spawn(async move {
            let mut tally = Tally::default();
            while now() < end {
                let from = claimed.fetch_add(batch as u64, Relaxed);
                if from >= most {
                    break;
                }
                let n = usize::try_from(most - from)?.min(batch);
                let began = now();
                conn.send(&body, n).await?;
                tally.add(n, began);
            }
            Ok((tally, conn))
        });
    }
    tasks
}

/// Receives and deletes on every connection at once until `goal` is reached.
fn start_takes<C: Conn>(
    conns: Vec<C>,
    batch: usize,
    goal: &Arc<AtomicU64>,
    time: Duration,
) -> Tasks<C> {
    let taken = Arc::new(AtomicU64::new(0));
    let end = now() + time;
    let mut tasks = JoinSet::new();
    for mut conn in conns {
        let (goal, taken) = (Arc::clone(goal), Arc::clone(&taken));
        tasks.spawn(async move {
            let mut tally = Tally::default();
            while taken.load(Relaxed) < goal.load(Relaxed) && now() < end {
                let began = now();
                match conn.take(batch).await? {
                    0 => tokio::time::sleep(IDLE).await,
                    n => {
                        taken.fetch_add(n as u64, Relaxed);
                        tally.add(n, began);
                    }
                }
            }
            // No call of its own in the latencies, but part of the phase's time.
            if conn.finish().await? {
                tally.last = Some(now());
            }
            Ok((tally, conn))
        });
    }
    tasks
}

/// The tasks of one phase, one a connection.
type Tasks<C> = JoinSet<Result<(Tally, C)>>;

/// Waits for all of them; until then no connection is closed. What a server has not yet made of
/// the acks of a connection (AMQP does not answer them) it may forget when that is closed, and
/// deliver the messages to the connections that still receive.
async fn join<C: Conn>(mut tasks: Tasks<C>) -> Result<Tally> {
    let (mut all, mut conns) = (Tally::default(), Vec::with_capacity(tasks.len()));
    while let Some(done) = tasks.join_next().await {
        let (tally, conn) = done??;
        all.merge(tally);
        conns.push(conn);
    }
    Ok(all)
}
