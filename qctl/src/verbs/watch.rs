//! `qctl stats --watch`: the counters again and again.
//!
//! Always true here: one look is under way at a time; what is written are whole looks, so that
//! JSON, CSV and a table are well formed whatever ends them. A server that goes away is waited for:
//! only the first look fails with it.

use std::collections::BTreeSet;
use std::time::Duration;

use qd_protocol::{Client, QueueDescription, Statistics};
use tokio::time::{Instant, sleep_until};

use super::stats::{self, Asked, Refused};
use crate::exit::{Exit, Failure};
use crate::output::{
    Out, Record, Records, Region, Size, Value, can_move_cursor, clipped, display_width, say, tell,
    until_reader_is_gone,
};
use crate::rates::{Meter, Rates};
use crate::session::Session;
use crate::time::now_ms;
use crate::units::show_duration;

/// Columns that are only there when one look follows another.
const OWN: [&str; 3] = ["time", "in_rate", "out_rate"];
const TABLE: &[&str] =
    &["name", "ready", "delayed", "leased", "in_rate", "out_rate", "oldest_age_s", "dead_lettered"];
/// How soon a server that is away is asked again, at the latest.
const RETRY: Duration = Duration::from_secs(1);
/// A table that is too wide is made narrower down to this width of its names.
const NAME_COLUMNS_MIN: usize = 8;

/// Looks every `every_ms`, `count` times or until something ends it.
pub async fn run(
    asked: &Asked,
    every_ms: u64,
    count: Option<u64>,
    session: &mut Session,
) -> Result<Exit, Failure> {
    let mut watch = Watch {
        asked,
        every: Duration::from_millis(every_ms),
        meter: Meter::default(),
        missing: BTreeSet::new(),
        exit: Exit::Done,
        away: false,
        looks: 0,
        view: View::new(&session.out, every_ms)?,
    };
    let stop = session.stop.clone();
    let client = tokio::select! {
        client = session.own_client() => client?,
        failure = stop.stopped() => return Err(failure),
    };
    let out = &mut session.out;
    let result = tokio::select! {
        biased;
        result = watch.all(&client, count, out) => result,
        failure = stop.stopped() => Err(failure),
    };
    let ended = watch.view.finish(out);
    result?;
    ended?;
    Ok(watch.exit)
}

/// The first of these columns that is only there with `--watch`.
pub fn own_column(asked: &[String]) -> Option<&'static str> {
    let is_own = |name: &&str| asked.iter().any(|asked| asked.trim().replace('-', "_") == **name);
    OWN.into_iter().find(|name| is_own(name))
}

/// The names of the fields.
pub fn columns() -> Vec<String> {
    let fields = record(0, "", &Statistics::default(), None);
    fields.into_iter().map(|(name, _)| name).collect()
}

fn record(time_ms: u64, name: &str, statistics: &Statistics, rates: Option<Rates>) -> Record {
    let [time, into, out] = OWN.map(str::to_owned);
    let mut record = vec![(time, Value::Time(time_ms))];
    record.extend(stats::record(name, statistics));
    record.push((into, Value::Rate(rates.map(|rates| rates.into))));
    record.push((out, Value::Rate(rates.map(|rates| rates.out))));
    record
}

struct Watch<'a> {
    asked: &'a Asked,
    every: Duration,
    meter: Meter,
    /// Names that were not there in the last look.
    missing: BTreeSet<String>,
    exit: Exit,
    /// The server did not answer the last time.
    away: bool,
    looks: u64,
    view: View,
}

impl Watch<'_> {
    async fn all(
        &mut self,
        client: &Client,
        count: Option<u64>,
        out: &mut Out,
    ) -> Result<(), Failure> {
        let mut due = Instant::now();
        loop {
            let mut found: Vec<(QueueDescription, Instant)> = Vec::new();
            let look = self.asked.look(client, |queue| {
                found.push((queue.clone(), Instant::now()));
                Ok(())
            });
            match look.await {
                Ok(refused) => {
                    self.take_refused(refused, out)?;
                    self.show(&found, out)?;
                    due += self.every;
                }
                Err(failure) if self.looks > 0 && failure.is_absence() => {
                    self.tell_absence(&failure, out)?;
                    due = Instant::now() + self.every.min(RETRY);
                }
                Err(failure) => return Err(failure),
            }
            if Some(self.looks) == count {
                return Ok(());
            }
            // Looks that took too long are not made up for.
            due = due.max(Instant::now());
            tokio::select! {
                () = sleep_until(due) => {}
                failure = until_reader_is_gone() => return Err(failure),
            }
        }
    }

    /// Tells of queues that are not there when that is new.
    fn take_refused(&mut self, refused: Vec<Refused>, out: &Out) -> Result<(), Failure> {
        let mut missing = BTreeSet::new();
        for Refused { name, failure } in refused {
            if self.looks == 0 && self.asked.is_one() {
                return Err(failure);
            }
            if !self.missing.contains(&name) {
                self.view.tell(&failure, out);
            }
            if self.exit == Exit::Done {
                self.exit = failure.exit();
            }
            missing.insert(name);
        }
        self.missing = missing;
        Ok(())
    }

    fn show(
        &mut self,
        found: &[(QueueDescription, Instant)],
        out: &mut Out,
    ) -> Result<(), Failure> {
        let time_ms = now_ms();
        let meter = &mut self.meter;
        let mut records = found.iter().map(|(queue, at)| {
            record(time_ms, queue.name.as_str(), &queue.statistics, meter.take(queue, *at))
        });
        if std::mem::take(&mut self.away) && !self.view.is_redrawn() {
            say("the server answers again");
        }
        self.looks += 1;
        let note = match self.missing.len() {
            0 => None,
            _ => Some(format!("not there: {}", Vec::from_iter(self.missing.clone()).join(", "))),
        };
        self.view.show(out, time_ms, &mut records, note)?;
        self.meter.end_look();
        Ok(())
    }

    fn tell_absence(&mut self, failure: &Failure, out: &mut Out) -> Result<(), Failure> {
        let text = format!("{failure}; the server is tried again");
        if self.view.is_redrawn() {
            self.view.note(out, text)?;
        } else if !self.away {
            say(&text);
        }
        self.away = true;
        Ok(())
    }
}

/// Where looks are shown.
enum View {
    /// One record after the other.
    Stream(Box<Records>),
    /// One table after the other.
    Tables { first: bool },
    /// One table in the place of the other.
    Redrawn(Redrawn),
}

impl View {
    fn new(out: &Out, every_ms: u64) -> Result<Self, Failure> {
        let records = new_records(out)?;
        Ok(if !out.is_table() {
            Self::Stream(Box::new(records))
        } else if out.terminal && can_move_cursor() {
            let redrawn = Redrawn { every_ms, region: Region::default(), last: None };
            Self::Redrawn(redrawn)
        } else {
            Self::Tables { first: true }
        })
    }

    fn is_redrawn(&self) -> bool {
        matches!(self, Self::Redrawn(_))
    }

    /// Tells of something that is not there, where the next look does not show it.
    fn tell(&self, failure: &Failure, out: &Out) {
        if !self.is_redrawn() {
            tell(failure, out.is_json());
        }
    }

    fn show(
        &mut self,
        out: &mut Out,
        time_ms: u64,
        records: &mut dyn Iterator<Item = Record>,
        note: Option<String>,
    ) -> Result<(), Failure> {
        match self {
            Self::Stream(stream) => {
                for record in records {
                    stream.push(out, &record)?;
                }
                out.flush()
            }
            Self::Tables { first } => {
                if !std::mem::take(first) {
                    out.put(b"\n")?;
                }
                let records: Vec<Record> = records.collect();
                table(out, &records)?.iter().try_for_each(|line| out.line(line))?;
                out.flush()
            }
            Self::Redrawn(redrawn) => {
                redrawn.last = Some(Look { time_ms, records: records.collect() });
                redrawn.draw(out, note)
            }
        }
    }

    /// Shows the last look with another note.
    fn note(&mut self, out: &mut Out, note: String) -> Result<(), Failure> {
        match self {
            Self::Redrawn(redrawn) => redrawn.draw(out, Some(note)),
            Self::Stream(_) | Self::Tables { .. } => Ok(()),
        }
    }

    fn finish(self, out: &mut Out) -> Result<(), Failure> {
        match self {
            Self::Stream(records) => records.finish(out),
            Self::Tables { .. } => out.flush(),
            Self::Redrawn(redrawn) => redrawn.region.leave(out),
        }
    }
}

fn new_records(out: &Out) -> Result<Records, Failure> {
    let known = columns();
    let plain: Vec<&str> = known.iter().map(String::as_str).collect();
    Records::new(out, true, &known, &plain, TABLE)
}

fn table(out: &mut Out, records: &[Record]) -> Result<Vec<String>, Failure> {
    let mut table = new_records(out)?;
    records.iter().try_for_each(|record| table.push(out, record))?;
    Ok(table.into_lines())
}

struct Look {
    time_ms: u64,
    records: Vec<Record>,
}

/// A table in the place of the one before.
struct Redrawn {
    every_ms: u64,
    region: Region,
    last: Option<Look>,
}

impl Redrawn {
    fn draw(&mut self, out: &mut Out, note: Option<String>) -> Result<(), Failure> {
        let size = Size::of_terminal();
        let Some(look) = &self.last else {
            return Ok(());
        };
        let time = crate::time::rfc3339(look.time_ms);
        let mut lines = vec![format!("{time}  every {}", show_duration(self.every_ms))];
        // Besides these: the header, and the row of the cursor.
        let taken = lines.len() + usize::from(note.is_some()) + usize::from(out.header) + 1;
        let room = size.rows.saturating_sub(taken).max(1);
        let count = look.records.len();
        let shown = if count > room { room.saturating_sub(1) } else { count };
        let visible = look.records.get(..shown).unwrap_or_default();
        lines.extend(fitting_table(out, visible, size.columns)?);
        if count == 0 {
            lines.push("no queues".to_owned());
        } else if shown < count {
            lines.push(format!("... and {} more", count - shown));
        }
        lines.extend(note);
        self.region.draw(out, size, &lines)
    }
}

/// A table that is as wide as the terminal, with names cut where it needs be.
fn fitting_table(
    out: &mut Out,
    records: &[Record],
    columns: usize,
) -> Result<Vec<String>, Failure> {
    let lines = table(out, records)?;
    let over = lines.iter().map(|line| display_width(line)).max().unwrap_or(0);
    let over = over.saturating_sub(columns);
    let name = |record: &Record| match record.iter().find(|(field, _)| field == "name") {
        Some((_, Value::Text(name))) => display_width(name),
        _ => 0,
    };
    let longest = records.iter().map(name).max().unwrap_or(0);
    if over == 0 || longest <= NAME_COLUMNS_MIN {
        return Ok(lines);
    }
    let most = longest.saturating_sub(over).max(NAME_COLUMNS_MIN);
    let mut records = records.to_vec();
    for (field, value) in records.iter_mut().flatten() {
        if let Value::Text(name) = value
            && field == "name"
        {
            *name = clipped(name, most);
        }
    }
    table(out, &records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    #[test]
    fn fields_are_those_of_a_look_and_what_needs_two() {
        let columns = columns();
        assert_eq!(columns.len(), OWN.len() + 1 + Statistics::SPECS.len());
        for name in TABLE.iter().chain(&OWN) {
            assert!(columns.iter().any(|column| column == name), "{name}");
        }
        assert_eq!(own_column(&["name".to_owned(), " In-Rate".to_owned()]), None);
        assert_eq!(own_column(&["name".to_owned(), " in-rate".to_owned()]), Some("in_rate"));
    }

    fn records(names: &[&str]) -> Vec<Record> {
        let rates = Some(Rates { into: 10.25, out: 0.0 });
        let record = |name: &&str| record(0, name, &Statistics::default(), rates);
        names.iter().map(record).collect()
    }

    #[test]
    fn long_names_are_cut_before_counters_are() {
        let mut out = Out::captured(Format::Table);
        let long = "x".repeat(120);
        let lines = fitting_table(&mut out, &records(&["a", &long]), 80).unwrap();
        assert!(lines.iter().all(|line| display_width(line) <= 80), "{lines:#?}");
        assert!(lines[0].starts_with("NAME ") && lines[0].ends_with("DEAD_LETTERED"), "{lines:#?}");
        assert!(lines[2].starts_with("xxxx") && lines[2].contains("x…"), "{lines:#?}");
        assert!(lines[2].contains("10.2"), "{lines:#?}");
        let lines = fitting_table(&mut out, &records(&["a", "jobs.dead"]), 200).unwrap();
        assert!(lines[2].starts_with("jobs.dead "), "{lines:#?}");
    }

    #[test]
    fn json_of_several_looks_is_one_document_and_csv_has_one_header() {
        for (format, expected) in [
            (
                Format::Json,
                "[{\"name\":\"a\",\"in_rate\":10.250},\n{\"name\":\"a\",\"in_rate\":10.250}]\n",
            ),
            (Format::Csv, "name,in_rate\na,10.250\na,10.250\n"),
            (Format::Plain, "a\t10.250\na\t10.250\n"),
            (Format::Table, "NAME  IN_RATE\na        10.2\n\nNAME  IN_RATE\na        10.2\n"),
        ] {
            let mut out = Out::captured(format);
            out.columns = vec!["name".to_owned(), "in_rate".to_owned()];
            let mut view = View::new(&out, 1_000).unwrap();
            for _ in 0..2 {
                view.show(&mut out, 0, &mut records(&["a"]).into_iter(), None).unwrap();
            }
            view.finish(&mut out).unwrap();
            assert_eq!(out.text(), expected);
        }
    }
}
