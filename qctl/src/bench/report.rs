//! The figures of a run.

use super::meter::Recorded;
use super::workers::Shared;
use super::{Bench, Workload};
use crate::exit::Failure;
use crate::output::{Out, Record, Records, Value};

/// One direction of a run.
#[derive(Debug, Clone)]
pub struct Row {
    /// `send` or `receive` where one workload has both.
    pub direction: &'static str,
    /// Measured.
    pub messages: u64,
    /// From the end of the warm-up to the last answer.
    pub seconds: f64,
    /// 50, 90, 99, 99.9 and 100 per cent, in microseconds.
    pub latencies_us: [f64; 5],
    /// Messages that were answered and are nowhere.
    pub lost: u64,
    /// Messages that are there or came more than once.
    pub duplicated: u64,
    /// Messages of `--rate` whose time was over before they could be sent or received.
    pub missed: u64,
}

impl Row {
    /// The figures of a meter; nothing lost or duplicated so far.
    pub fn new(direction: &'static str, shared: &Shared) -> Self {
        let missed = shared.meter.missed();
        Self { missed, ..Self::of(direction, &shared.meter.recorded()) }
    }

    /// The figures.
    pub fn of(direction: &'static str, recorded: &Recorded) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^52 ns")]
        let micros = |quantile| recorded.latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            direction,
            messages: recorded.messages,
            seconds: recorded.elapsed.as_secs_f64(),
            latencies_us: [0.5, 0.9, 0.99, 0.999, 1.0].map(micros),
            lost: 0,
            duplicated: 0,
            missed: 0,
        }
    }

    fn rate(&self) -> u64 {
        if self.seconds <= 0.0 {
            return 0;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "counts are far below 2^52, the quotient is not negative"
        )]
        let rate = (self.messages as f64 / self.seconds).round() as u64;
        rate
    }

    fn record(&self, bench: &Bench) -> Record {
        let count = |name: &str, number: u64| (name.to_owned(), Value::Count(number));
        let text = |name: &str, text: &str| (name.to_owned(), Value::Text(text.to_owned()));
        let mut record = vec![text("workload", bench.workload.name())];
        if !self.direction.is_empty() {
            record.push(text("direction", self.direction));
        }
        record.extend([
            count("connections", u64::from(bench.connections)),
            count("batch", u64::from(bench.batch)),
            count("window", u64::from(bench.window)),
            count("size", bench.size),
            count("messages", self.messages),
            ("seconds".to_owned(), Value::Decimal(self.seconds)),
            count("rate", self.rate()),
        ]);
        let names = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
        for (name, value) in names.iter().zip(self.latencies_us) {
            record.push(((*name).to_owned(), Value::Decimal(value)));
        }
        record.extend([count("lost", self.lost), count("duplicated", self.duplicated)]);
        record.extend([count("groups", bench.groups), count("missed", self.missed)]);
        record
    }
}

/// What writes the rows; to be made before anything is measured.
pub fn records(out: &Out, bench: &Bench) -> Result<Records, Failure> {
    let mixed = bench.workload == Workload::Mixed;
    let direction = if mixed { "both" } else { "" };
    let (latencies_us, seconds) = ([0.0; 5], 0.0);
    let (messages, lost, duplicated, missed) = (0, 0, 0, 0);
    let row = Row { direction, messages, seconds, latencies_us, lost, duplicated, missed };
    let known: Vec<String> = row.record(bench).into_iter().map(|(name, _)| name).collect();
    let all: Vec<&str> = known.iter().map(String::as_str).collect();
    Records::new(out, mixed, &known, &all, &all)
}

/// Writes the rows.
pub fn write(
    out: &mut Out,
    mut records: Records,
    bench: &Bench,
    rows: &[Row],
) -> Result<(), Failure> {
    for row in rows {
        records.push(out, &row.record(bench))?;
    }
    records.finish(out)
}
