//! `qctl server check`: a plugin for Nagios and what understands its plugins.
//!
//! Always true here: it ends with 0 OK, 1 WARNING, 2 CRITICAL or 3 UNKNOWN, whatever happens, and
//! with one line on standard output, by the Nagios plugin development guidelines: a server that does
//! not answer is CRITICAL, and what keeps the check from looking is UNKNOWN.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use qd_protocol::{ClientError, QueueDescription, QueueName};
use tokio::time::{Instant, sleep};

use crate::exit::{Exit, Failure};
use crate::output::{Record, Records, Value};
use crate::session::Session;
use crate::units;
use crate::verbs::list::{Pages, pattern};

/// Of the record.
pub const FIELDS: [&str; 11] = [
    "status",
    "message",
    "queues",
    "ready",
    "delayed",
    "leased",
    "dead",
    "blocked",
    "bytes",
    "age_s",
    "response_us",
];
/// How long it takes at most without `--timeout`, as plugins should.
const WITHIN: Duration = Duration::from_secs(10);
/// Most problems on the line.
const PROBLEMS_TOLD: usize = 5;

/// Tell Nagios how the server and its queues are
///
/// Each limit is MAX, or WARN,MAX: above MAX it is critical, above WARN a warning. The limits are
/// those of each queue. Dead-letter queues are looked at only through their sources, unless they are
/// named.
#[derive(Debug, Clone, Args)]
pub struct Check {
    /// Names, or patterns as for list [default: all queues]
    #[arg(value_name = "QUEUE", value_parser = pattern)]
    queues: Vec<String>,
    /// Age of the oldest message
    #[arg(long, value_name = "D", value_parser = limits(units::duration_ms))]
    max_age: Option<Limits>,
    /// Messages that are ready
    #[arg(long, value_name = "N", value_parser = limits(units::whole(0, u64::MAX)))]
    max_ready: Option<Limits>,
    /// Messages that are delayed
    #[arg(long, value_name = "N", value_parser = limits(units::whole(0, u64::MAX)))]
    max_delayed: Option<Limits>,
    /// Messages that are leased
    #[arg(long, value_name = "N", value_parser = limits(units::whole(0, u64::MAX)))]
    max_leased: Option<Limits>,
    /// Messages in the dead-letter queue
    #[arg(long, value_name = "N", value_parser = limits(units::whole(0, u64::MAX)))]
    max_dead: Option<Limits>,
    /// Messages that wait for their dead-letter queue
    #[arg(long, value_name = "N", value_parser = limits(units::whole(0, u64::MAX)))]
    max_blocked: Option<Limits>,
    /// Bytes of messages
    #[arg(long, value_name = "SIZE", value_parser = limits(units::size))]
    max_bytes: Option<Limits>,
    /// Time to connect and be answered
    #[arg(long, value_name = "D", value_parser = limits(units::duration_ms))]
    max_response: Option<Limits>,
}

/// What is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    warn: Option<u64>,
    critical: u64,
}

/// Reads `MAX` or `WARN,MAX`.
fn limits(
    one: impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<Limits, String> + Clone + Send + Sync + 'static {
    move |text| {
        let Some((warn, critical)) = text.split_once(',') else {
            return Ok(Limits { warn: None, critical: one(text)? });
        };
        let (warn, critical) = (one(warn)?, one(critical)?);
        if warn > critical {
            return Err("a warning comes before what is critical: WARN,MAX".to_owned());
        }
        Ok(Limits { warn: Some(warn), critical })
    }
}

/// As Nagios names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The numbers are those of Nagios; here 2 is no usage error.
    fn exit(self) -> Exit {
        match self {
            Self::Ok => Exit::Done,
            Self::Warning => Exit::Negative,
            Self::Critical => Exit::Usage,
            Self::Unknown => Exit::Unknown,
        }
    }

    /// Of a check that has failed.
    fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Client(ClientError::Unreachable { kind, .. })
                if *kind == std::io::ErrorKind::PermissionDenied =>
            {
                Self::Unknown
            }
            Failure::Client(_) | Failure::Refused(_) | Failure::Timeout(_) => Self::Critical,
            _ => Self::Unknown,
        }
    }
}

/// Whether words that the parser does not take ask for a check.
pub fn is_asked(words: &[Vec<u8>]) -> bool {
    let word = |at: usize| words.get(at).map(Vec::as_slice);
    (0..words.len()).any(|at| word(at) == Some(b"server") && word(at + 1) == Some(b"check"))
}

/// The line of a check that could not be made.
pub fn unknown(failure: &Failure) -> (String, Exit) {
    (line(Status::Unknown, &failure.to_string()), Status::Unknown.exit())
}

/// In one line, without the bar that begins the figures.
fn line(status: Status, text: &str) -> String {
    let text: String =
        text.chars().map(|c| if c == '|' || c.is_control() { ' ' } else { c }).collect();
    format!("QD {} - {text}", status.name())
}

impl Check {
    /// Checks.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let known = FIELDS.map(str::to_owned);
        let records = Records::new(&session.out, false, &known, &FIELDS, &FIELDS)?;
        let stop = session.stop.clone();
        let own_limit = session.global.timeout.is_none();
        let found = tokio::select! {
            biased;
            found = self.look(session) => found,
            failure = stop.stopped() => Err(failure),
            () = sleep(WITHIN), if own_limit => Err(Failure::Timeout("10s".to_owned())),
        };
        let (status, text, sums) = match found {
            Ok(found) => {
                let (status, text) = self.judge(&found);
                (status, text, Some(found.sums()))
            }
            Err(failure @ (Failure::Interrupted | Failure::Terminated)) => return Err(failure),
            Err(failure) => (Status::of(&failure), failure.to_string(), None),
        };
        let out = &mut session.out;
        if out.columns.is_empty() && !out.is_complete() {
            let figures = sums.map(|sums| format!(" | {}", self.figures(&sums)));
            out.line(&format!("{}{}", line(status, &text), figures.unwrap_or_default()))?;
            out.flush()?;
        } else {
            write(session, records, status, &text, sums.as_ref())?;
        }
        Ok(status.exit())
    }

    /// What there is.
    async fn look(&self, session: &mut Session) -> Result<Found, Failure> {
        let start = Instant::now();
        let client = session.client().await?;
        client.call(qd_protocol::verbs::Ping).await?;
        let response = start.elapsed();
        let mut all = BTreeMap::new();
        let mut pages = Pages::new(None);
        while let Some(page) = pages.next(&client).await? {
            all.extend(page.into_iter().map(|queue| (queue.name.clone(), queue)));
        }
        let (mut checked, mut missing) = (BTreeSet::new(), Vec::new());
        if self.queues.is_empty() {
            checked.extend(all.keys().cloned());
        }
        for asked in &self.queues {
            if !asked.contains(['*', '?']) {
                match all.keys().find(|name| name.as_str() == asked) {
                    Some(name) => _ = checked.insert(name.clone()),
                    None => missing.push(asked.clone()),
                }
                continue;
            }
            let mut pages = Pages::new(Some(asked.clone()));
            while let Some(page) = pages.next(&client).await? {
                checked.extend(page.into_iter().map(|queue| queue.name));
            }
        }
        let named = |name: &QueueName| self.queues.iter().any(|asked| asked == name.as_str());
        let targets: BTreeSet<QueueName> = all.values().filter_map(target).collect();
        checked.retain(|name| named(name) || !targets.contains(name));
        let queues = checked.iter().filter_map(|name| all.get(name));
        let queues = queues.map(|queue| Figures::of(queue, &all)).collect();
        Ok(Found { queues, missing, response })
    }

    /// How it is, and why.
    fn judge(&self, found: &Found) -> (Status, String) {
        let mut problems: Vec<(Status, String)> = Vec::new();
        for name in &found.missing {
            problems.push((Status::Critical, format!("no queue is named \"{name}\"")));
        }
        let response = found.response_ms();
        if let Some(status) = over(self.max_response, response) {
            problems.push((status, format!("answered after {}", units::show_duration(response))));
        }
        for queue in &found.queues {
            for (value, limits, what) in self.of_queue(queue) {
                if let Some(status) = over(limits, value) {
                    problems.push((status, format!("{}: {what}", queue.name)));
                }
            }
        }
        let worst = problems.iter().map(|(status, _)| *status).max().unwrap_or(Status::Ok);
        if worst == Status::Ok {
            return (worst, found.summary());
        }
        // What is worst first.
        problems.sort_by_key(|(status, _)| std::cmp::Reverse(*status));
        let more = problems.len().saturating_sub(PROBLEMS_TOLD);
        let told = problems.into_iter().take(PROBLEMS_TOLD).map(|(_, text)| text);
        let mut text = told.collect::<Vec<_>>().join("; ");
        if more > 0 {
            let _ = write!(text, "; and {more} more");
        }
        (worst, text)
    }

    /// Figures of a queue, their limits, and how they are told.
    fn of_queue(&self, queue: &Figures) -> [(u64, Option<Limits>, String); 7] {
        let age = units::show_duration(queue.age_s.saturating_mul(1_000));
        [
            (queue.age_s.saturating_mul(1_000), self.max_age, format!("oldest message {age} old")),
            (queue.ready, self.max_ready, format!("{} ready", queue.ready)),
            (queue.delayed, self.max_delayed, format!("{} delayed", queue.delayed)),
            (queue.leased, self.max_leased, format!("{} leased", queue.leased)),
            (queue.dead, self.max_dead, letters(queue.dead)),
            (queue.blocked, self.max_blocked, format!("{} blocked", queue.blocked)),
            (queue.bytes, self.max_bytes, units::show_size(queue.bytes)),
        ]
    }

    /// The figures for Nagios: `name=value[unit];warn;critical;least`. The limits are those of one
    /// queue, so that sums of several have none.
    fn figures(&self, sums: &Sums) -> String {
        let single = |limits: Option<Limits>| limits.filter(|_| sums.queues == 1);
        let whole = |number: u64| number.to_string();
        let seconds = |ms: u64| {
            let text = format!("{}.{:03}", ms / 1_000, ms % 1_000);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let figure =
            |name: &str, value: String, limits: Option<Limits>, show: &dyn Fn(u64) -> String| {
                let warn = limits.and_then(|limits| limits.warn).map(show).unwrap_or_default();
                let critical = limits.map(|limits| show(limits.critical)).unwrap_or_default();
                format!("{name}={value};{warn};{critical};0")
            };
        let all = &sums.all;
        let response =
            format!("{}.{:06}s", sums.response_us / 1_000_000, sums.response_us % 1_000_000);
        [
            figure("queues", sums.queues.to_string(), None, &whole),
            figure("ready", all.ready.to_string(), single(self.max_ready), &whole),
            figure("delayed", all.delayed.to_string(), single(self.max_delayed), &whole),
            figure("leased", all.leased.to_string(), single(self.max_leased), &whole),
            figure("dead", all.dead.to_string(), single(self.max_dead), &whole),
            figure("blocked", all.blocked.to_string(), single(self.max_blocked), &whole),
            figure("bytes", format!("{}B", all.bytes), single(self.max_bytes), &whole),
            // The largest one, so that its limit holds.
            figure("age", format!("{}s", all.age_s), self.max_age, &seconds),
            figure("response", response, self.max_response, &seconds),
        ]
        .join(" ")
    }
}

fn letters(dead: u64) -> String {
    if dead == 1 { "1 dead letter".to_owned() } else { format!("{dead} dead letters") }
}

fn over(limits: Option<Limits>, value: u64) -> Option<Status> {
    let limits = limits?;
    if value > limits.critical {
        return Some(Status::Critical);
    }
    limits.warn.filter(|warn| value > *warn).map(|_| Status::Warning)
}

/// Where the dead letters of a queue go.
fn target(queue: &QueueDescription) -> Option<QueueName> {
    queue.attributes.dead_letter.queue_of(&queue.name)
}

/// What a check has seen.
struct Found {
    queues: Vec<Figures>,
    /// Named, and not there.
    missing: Vec<String>,
    response: Duration,
}

/// Of one queue, or of several together.
#[derive(Debug, Clone, Default, PartialEq)]
struct Figures {
    name: String,
    ready: u64,
    delayed: u64,
    leased: u64,
    /// Messages in its dead-letter queue.
    dead: u64,
    blocked: u64,
    bytes: u64,
    age_s: u64,
}

impl Figures {
    fn of(queue: &QueueDescription, all: &BTreeMap<QueueName, QueueDescription>) -> Self {
        let is = &queue.statistics;
        let dead = target(queue).and_then(|target| all.get(&target)).map(|dead| &dead.statistics);
        Self {
            name: queue.name.to_string(),
            ready: is.ready,
            delayed: is.delayed,
            leased: is.leased,
            dead: dead.map_or(0, |dead| dead.ready + dead.delayed + dead.leased),
            blocked: is.dead_letter_blocked,
            bytes: is.bytes,
            age_s: is.oldest_age_s,
        }
    }
}

/// Of all queues that were checked.
struct Sums {
    queues: usize,
    /// The sums; of ages the largest.
    all: Figures,
    response_us: u64,
}

impl Found {
    fn response_ms(&self) -> u64 {
        // Rounded up: what is over a limit is over it.
        u64::try_from(self.response.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
    }

    fn sums(&self) -> Sums {
        let mut all = Figures::default();
        for queue in &self.queues {
            all.ready += queue.ready;
            all.delayed += queue.delayed;
            all.leased += queue.leased;
            all.dead += queue.dead;
            all.blocked += queue.blocked;
            all.bytes += queue.bytes;
            all.age_s = all.age_s.max(queue.age_s);
        }
        let response_us = u64::try_from(self.response.as_micros()).unwrap_or(u64::MAX);
        Sums { queues: self.queues.len(), all, response_us }
    }

    fn summary(&self) -> String {
        let Sums { queues, all, .. } = self.sums();
        let queues = if queues == 1 { "1 queue".to_owned() } else { format!("{queues} queues") };
        format!(
            "{queues}, {} ready, {} delayed, {} leased, {} dead",
            all.ready, all.delayed, all.leased, all.dead
        )
    }
}

fn write(
    session: &mut Session,
    mut records: Records,
    status: Status,
    text: &str,
    sums: Option<&Sums>,
) -> Result<(), Failure> {
    let number = |value: fn(&Sums) -> u64| {
        sums.map_or(Value::NameOrEmpty(None), |sums| Value::Count(value(sums)))
    };
    let values = [
        Value::Text(status.name().to_owned()),
        Value::Text(text.to_owned()),
        number(|sums| sums.queues as u64),
        number(|sums| sums.all.ready),
        number(|sums| sums.all.delayed),
        number(|sums| sums.all.leased),
        number(|sums| sums.all.dead),
        number(|sums| sums.all.blocked),
        number(|sums| sums.all.bytes),
        number(|sums| sums.all.age_s),
        number(|sums| sums.response_us),
    ];
    let record: Record = FIELDS.map(str::to_owned).into_iter().zip(values).collect();
    records.push(&mut session.out, &record)?;
    records.finish(&mut session.out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Check {
        let command = Check::augment_args(clap::Command::new("check").no_binary_name(true));
        let matches = command.try_get_matches_from(line.split_whitespace()).unwrap();
        clap::FromArgMatches::from_arg_matches(&matches).unwrap()
    }

    fn found(queues: &[(&str, u64, u64)]) -> Found {
        let queues = queues.iter().map(|(name, ready, age_s)| Figures {
            name: (*name).to_owned(),
            ready: *ready,
            age_s: *age_s,
            ..Figures::default()
        });
        Found {
            queues: queues.collect(),
            missing: Vec::new(),
            response: Duration::from_micros(1_500),
        }
    }

    #[test]
    fn status_is_that_of_the_worst_queue_and_it_is_told_first() {
        let found = found(&[("a", 11, 0), ("b", 200, 0), ("c", 5, 61)]);
        let judged = |line: &str| check(line).judge(&found);
        let summary = "3 queues, 216 ready, 0 delayed, 0 leased, 0 dead".to_owned();
        assert_eq!(judged(""), (Status::Ok, summary.clone()));
        assert_eq!(judged("--max-ready 200 --max-age 2m"), (Status::Ok, summary));
        let text = "b: 200 ready; a: 11 ready".to_owned();
        assert_eq!(judged("--max-ready 10,199"), (Status::Critical, text));
        let text = "c: oldest message 61s old".to_owned();
        assert_eq!(judged("--max-age 1m,1h"), (Status::Warning, text));
        let text = "answered after 2ms".to_owned();
        assert_eq!(judged("--max-response 1ms"), (Status::Critical, text));
        assert_eq!(judged("--max-response 2ms").0, Status::Ok);
    }

    #[test]
    fn many_problems_are_counted() {
        let names: Vec<String> = (0..8).map(|n| format!("q{n}")).collect();
        let queues: Vec<_> = names.iter().map(|name| (name.as_str(), 1, 0)).collect();
        let (status, text) = check("--max-ready 0").judge(&found(&queues));
        assert_eq!(status, Status::Critical);
        assert!(text.ends_with("q4: 1 ready; and 3 more"), "{text}");
    }

    #[test]
    fn figures_have_the_limits_that_hold_for_them() {
        let limits = "--max-ready 10,20 --max-age 500ms,5m --max-response 1s --max-bytes 1KiB";
        let one = check(limits).figures(&found(&[("a", 11, 7)]).sums());
        assert_eq!(
            one,
            "queues=1;;;0 ready=11;10;20;0 delayed=0;;;0 leased=0;;;0 dead=0;;;0 blocked=0;;;0 \
             bytes=0B;;1024;0 age=7s;0.5;300;0 response=0.001500s;;1;0"
        );
        let two = check(limits).figures(&found(&[("a", 11, 7), ("b", 1, 9)]).sums());
        assert!(two.contains(" ready=12;;;0 ") && two.contains(" age=9s;0.5;300;0 "), "{two}");
    }

    #[test]
    fn what_keeps_it_from_looking_is_unknown_and_a_server_that_is_away_is_critical() {
        let unreachable = |kind| {
            let address = "unix:/x".parse().unwrap();
            Failure::Client(ClientError::Unreachable { address, kind, reason: "x".to_owned() })
        };
        for kind in [std::io::ErrorKind::NotFound, std::io::ErrorKind::TimedOut] {
            assert_eq!(Status::of(&unreachable(kind)), Status::Critical);
        }
        assert_eq!(Status::of(&unreachable(std::io::ErrorKind::PermissionDenied)), Status::Unknown);
        assert_eq!(Status::of(&Failure::Timeout("1s".to_owned())), Status::Critical);
        assert_eq!(Status::of(&Failure::Config("x".to_owned())), Status::Unknown);
        let (text, exit) = unknown(&Failure::Config("a|b\nc".to_owned()));
        assert_eq!((text.as_str(), exit.code()), ("QD UNKNOWN - a b c", 3));
    }

    #[test]
    fn limits_are_one_or_two() {
        let read = limits(units::whole(0, u64::MAX));
        assert_eq!(read("5"), Ok(Limits { warn: None, critical: 5 }));
        assert_eq!(read("5,5"), Ok(Limits { warn: Some(5), critical: 5 }));
        for bad in ["", ",", "5,", ",5", "6,5", "1,2,3", "x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
