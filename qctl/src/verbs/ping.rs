//! `qctl ping`.

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use qd_protocol::verbs;
use qd_protocol::{Client, ClientError, ErrorCode};
use tokio::time::{Instant, sleep_until, timeout};

use crate::exit::{Exit, Failure};
use crate::output::{Out, Record, Records, Value};
use crate::session::{Session, options};
use crate::units;

/// Between two pings unless something else is said.
const INTERVAL: Duration = Duration::from_secs(1);
/// A ping that was not answered by then is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// Ask whether the server answers, and how fast
#[derive(Debug, Clone, Args)]
pub struct Ping {
    /// How many times [default: 1, with --interval until Ctrl-C]
    #[arg(short = 'n', long, value_name = "N", value_parser = units::whole::<u64>(1, u64::MAX))]
    count: Option<u64>,
    /// Time between two, 0 for none [default: 1s]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    interval: Option<u64>,
}

/// Of the record of one.
const ONE: [&str; 4] = ["answer", "server", "time", "round_trip_us"];
/// Of the record of several.
const MANY: [&str; 10] = [
    "server", "sent", "received", "lost", "min_us", "p50_us", "p90_us", "p99_us", "max_us",
    "seconds",
];

/// The names of all fields.
pub fn fields() -> Vec<String> {
    let more = MANY.iter().filter(|name| !ONE.contains(name));
    ONE.iter().chain(more).map(|&name| name.to_owned()).collect()
}

impl Ping {
    /// Asks.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        if self.count.unwrap_or(1) == 1 && self.interval.is_none() {
            let stop = session.stop.clone();
            return tokio::select! {
                biased;
                result = once(session) => result,
                failure = stop.stopped() => Err(failure),
            };
        }
        let known = MANY.map(str::to_owned);
        let mut records = Records::new(&session.out, false, &known, &MANY, &MANY)?;
        let mut pings = Pings::new(session).await?;
        let result = self.ask(session, &mut pings).await;
        // Also of what was ended from outside.
        records.push(&mut session.out, &pings.record())?;
        records.finish(&mut session.out)?;
        result?;
        Ok(if pings.lost() == 0 { Exit::Done } else { Exit::Negative })
    }

    /// Asks as often as it is to.
    async fn ask(&self, session: &mut Session, pings: &mut Pings) -> Result<(), Failure> {
        let stop = session.stop.clone();
        let interval = self.interval.map_or(INTERVAL, Duration::from_millis);
        let mut due = Instant::now();
        while self.count.is_none_or(|count| pings.sent < count) {
            tokio::select! {
                biased;
                failure = stop.stopped() => return Err(failure),
                result = async {
                    sleep_until(due).await;
                    // What took longer than the interval does not make the next ones come faster.
                    due = Instant::now().max(due) + interval;
                    pings.ask(&mut session.out).await
                } => result?,
            }
        }
        Ok(())
    }
}

async fn once(session: &mut Session) -> Result<Exit, Failure> {
    let known = ONE.map(str::to_owned);
    let mut records = Records::new(&session.out, false, &known, &["answer"], &ONE)?;
    let client = session.client().await?;
    let start = Instant::now();
    let pong = client.call(verbs::Ping).await?;
    let values = [
        Value::Text("pong".to_owned()),
        Value::Text(client.address().to_string()),
        Value::Time(pong.time_ms),
        Value::Count(micros(start.elapsed())),
    ];
    let record: Record = known.into_iter().zip(values).collect();
    records.push(&mut session.out, &record)?;
    records.finish(&mut session.out)?;
    Ok(Exit::Done)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Several pings on one connection, which is made anew when it is lost.
struct Pings {
    client: Client,
    start: Instant,
    sent: u64,
    /// In microseconds.
    answered: Histogram<u64>,
}

impl Pings {
    async fn new(session: &mut Session) -> Result<Self, Failure> {
        // It may have to be started.
        session.client().await?;
        let addresses = session.target()?.addresses;
        let client = Client::connect(&addresses, options(Duration::ZERO)).await?;
        let longest = micros(LOST_AFTER);
        let answered = Histogram::new_with_bounds(1, longest, 3)
            .map_err(|error| Failure::Internal(error.to_string()))?;
        Ok(Self { client, start: Instant::now(), sent: 0, answered })
    }

    /// Asks once; on a terminal says what came.
    async fn ask(&mut self, out: &mut Out) -> Result<(), Failure> {
        let start = Instant::now();
        let answer = timeout(LOST_AFTER, self.client.call(verbs::Ping)).await;
        // Not before: one that is under way when all ends is not lost.
        self.sent += 1;
        let came = match answer {
            Ok(Ok(_)) => {
                let us = micros(start.elapsed());
                self.answered.saturating_record(us.max(1));
                format!("pong from {} in {us} us", self.client.address())
            }
            Ok(Err(error)) if is_loss(&error) => format!("lost: {error}"),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => "lost: no answer within 5s".to_owned(),
        };
        if out.is_table() && out.columns.is_empty() {
            out.line(&came)?;
            out.flush()?;
        }
        Ok(())
    }

    fn lost(&self) -> u64 {
        self.sent - self.answered.len()
    }

    fn record(&self) -> Record {
        let is_any = !self.answered.is_empty();
        let us = |value: u64| if is_any { Value::Count(value) } else { Value::NameOrEmpty(None) };
        let at = |quantile| us(self.answered.value_at_quantile(quantile));
        let values = [
            Value::Text(self.client.address().to_string()),
            Value::Count(self.sent),
            Value::Count(self.answered.len()),
            Value::Count(self.lost()),
            us(self.answered.min()),
            at(0.5),
            at(0.9),
            at(0.99),
            us(self.answered.max()),
            Value::Decimal(self.start.elapsed().as_secs_f64()),
        ];
        MANY.map(str::to_owned).into_iter().zip(values).collect()
    }
}

/// Whether there was no answer, rather than a wrong one.
fn is_loss(error: &ClientError) -> bool {
    match error {
        ClientError::Lost { .. } | ClientError::Unreachable { .. } | ClientError::Busy { .. } => {
            true
        }
        ClientError::Refused(refusal) => refusal.code == ErrorCode::Closing,
        ClientError::Protocol { .. } | ClientError::Versions { .. } => false,
    }
}
