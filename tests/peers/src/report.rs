//! Turns the lines of `run` into three Markdown tables: the rates side by side, qd against the
//! best of the others, and everything.
//!
//! Where a phase was measured more than once, its row is the run with the median rate; of an even
//! number the lower one of the two in the middle.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::row::{COLUMNS, Row};

/// Servers whose answer means "on disk", and in which phases; of takes it is the answer to the
/// delete that counts. README.md has the reasons.
const DURABLE: [(&str, &[&str]); 6] = [
    ("redis-always", &["send", "take"]),
    ("nats-always", &["send"]),
    ("rabbit-quorum", &["send"]),
    ("rabbit-classic", &["send"]),
    ("pg", &["send", "take"]),
    ("beanstalk-f0", &["send", "take"]),
];

/// What labels of qd begin with.
const QD: &str = "qd";

/// The phases, in the order of the tables, and whether the first one shows their latencies.
const PHASES: [(&str, &str, bool); 9] = [
    ("w1", "send", false),
    ("w1", "take", false),
    ("w2", "send", false),
    ("w2", "take", false),
    ("mix", "send", false),
    ("mix", "take", false),
    ("w3", "send", true),
    ("w3", "take", true),
    ("w4", "send", true),
];

/// All runs of one phase of one server.
struct Phase {
    /// The run with the median rate.
    median: Row,
    runs: usize,
    /// Messages a second of the slowest run and of the fastest.
    rates: (f64, f64),
}

/// The phases of the servers, in the order of the files.
struct Report {
    labels: Vec<String>,
    phases: Vec<Phase>,
}

/// Reads the files and prints the tables.
pub fn print(files: &[PathBuf]) -> Result<()> {
    let mut rows = vec![];
    for file in files {
        rows.extend(read(file).with_context(|| file.display().to_string())?);
    }
    let report = Report::new(rows);
    println!("Messages a second, medians:\n");
    print_table(&report.rates());
    println!("\nqd and the best of the others:\n");
    print_table(&report.ratios());
    println!("\nThe runs with the median rates:\n");
    print_table(&report.everything());
    Ok(())
}

fn read(file: &Path) -> Result<Vec<Row>> {
    fs::read_to_string(file)?.lines().map(Row::parse).collect()
}

/// The first row is the head. Columns of numbers are flush right.
fn print_table(rows: &[Vec<String>]) {
    let is_number = |cell: &String| cell.starts_with(|first: char| "-0123456789".contains(first));
    for (at, row) in rows.iter().enumerate() {
        println!("| {} |", row.join(" | "));
        if at == 0 {
            let numbers = |column: usize| rows[1..].iter().all(|row| is_number(&row[column]));
            let rules = (0..row.len()).map(|column| if numbers(column) { "--:|" } else { "---|" });
            println!("|{}", rules.collect::<String>());
        }
    }
}

impl Report {
    fn new(rows: Vec<Row>) -> Self {
        let mut report = Self { labels: vec![], phases: vec![] };
        let mut runs: Vec<Vec<Row>> = vec![];
        for row in rows {
            if !report.labels.contains(&row.label) {
                report.labels.push(row.label.clone());
            }
            let same = |have: &&mut Vec<Row>| is_same_phase(&have[0], &row);
            match runs.iter_mut().find(same) {
                Some(have) => have.push(row),
                None => runs.push(vec![row]),
            }
        }
        report.phases = runs.into_iter().map(Phase::new).collect();
        report
    }

    fn find(&self, label: &str, work: &str, phase: &str) -> Option<&Row> {
        let rows = self.phases.iter().map(|phase| &phase.median);
        rows.into_iter().find(|row| row.label == label && row.work == work && row.phase == phase)
    }

    /// The server other than qd with the highest rate.
    fn best(&self, work: &str, phase: &str, may: impl Fn(&str) -> bool) -> Option<&Row> {
        let others = self.labels.iter().filter(|label| !label.starts_with(QD) && may(label));
        let rows = others.filter_map(|label| self.find(label, work, phase));
        rows.max_by(|one, two| one.rate().total_cmp(&two.rate()))
    }

    fn rates(&self) -> Vec<Vec<String>> {
        let heads = PHASES.map(|(work, phase, latency)| {
            let more = if latency { " (p50/p99 µs)" } else { "" };
            format!("{work} {phase}{more}")
        });
        let mut table = vec![[vec!["server".to_owned()], heads.to_vec()].concat()];
        for label in &self.labels {
            let cells = PHASES.map(|(work, phase, latency)| match self.find(label, work, phase) {
                Some(row) if latency => format!("{:.0} ({}/{})", row.rate(), row.p50, row.p99),
                Some(row) => format!("{:.0}", row.rate()),
                None => "-".to_owned(),
            });
            table.push([vec![label.clone()], cells.to_vec()].concat());
        }
        table
    }

    fn ratios(&self) -> Vec<Vec<String>> {
        let head =
            ["phase", "qd", "msg/s", "best durable", "msg/s", "ratio", "best", "msg/s", "ratio"];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        for (work, phase, _) in PHASES {
            let durable = self.best(work, phase, |label| is_durable(label, phase));
            let best = self.best(work, phase, |_| true);
            for label in self.labels.iter().filter(|label| label.starts_with(QD)) {
                let Some(ours) = self.find(label, work, phase) else { continue };
                let mut cells =
                    vec![format!("{work} {phase}"), label.clone(), format!("{:.0}", ours.rate())];
                for theirs in [durable, best] {
                    cells.extend(match theirs {
                        None => ["-", "-", "-"].map(str::to_owned),
                        Some(theirs) => [
                            theirs.label.clone(),
                            format!("{:.0}", theirs.rate()),
                            format!("{:.2}", ours.rate() / theirs.rate()),
                        ],
                    });
                }
                table.push(cells);
            }
        }
        table
    }

    fn everything(&self) -> Vec<Vec<String>> {
        let mut table = vec![COLUMNS.map(str::to_owned).to_vec()];
        table[0].extend(["runs", "lowest msg/s", "highest msg/s"].map(str::to_owned));
        for Phase { median, runs, rates: (lowest, highest) } in &self.phases {
            let mut cells = median.cells().to_vec();
            cells.extend([runs.to_string(), format!("{lowest:.0}"), format!("{highest:.0}")]);
            table.push(cells);
        }
        table
    }
}

fn is_durable(label: &str, phase: &str) -> bool {
    DURABLE.iter().any(|(durable, phases)| *durable == label && phases.contains(&phase))
}

fn is_same_phase(one: &Row, two: &Row) -> bool {
    one.label == two.label && one.work == two.work && one.phase == two.phase
}

impl Phase {
    /// Of `rows`, of which there is at least one.
    fn new(mut rows: Vec<Row>) -> Self {
        rows.sort_by(|one, two| one.rate().total_cmp(&two.rate()));
        let last = rows.len() - 1;
        let rates = (rows[0].rate(), rows[last].rate());
        Self { runs: rows.len(), rates, median: rows.swap_remove(last / 2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Load;

    fn row(label: &str, work: &str, messages: u64) -> Row {
        Row {
            label: label.to_owned(),
            work: work.to_owned(),
            phase: "send".to_owned(),
            messages,
            secs: 1.0,
            p50: 1,
            p99: 2,
            load: Load::default(),
        }
    }

    #[test]
    fn row_with_the_median_rate_is_shown() {
        for (rates, median) in
            [(vec![5], 5), (vec![9, 1, 5], 5), (vec![7, 3], 3), (vec![4, 1, 3, 2], 2)]
        {
            let phase = Phase::new(rates.iter().map(|rate| row("qd", "w1", *rate)).collect());
            assert_eq!(phase.median.messages, median);
            assert_eq!(phase.runs, rates.len());
        }
        let phase = Phase::new([9, 1, 5].map(|rate| row("qd", "w1", rate)).to_vec());
        assert_eq!(phase.rates, (1.0, 9.0));
    }

    #[test]
    fn qd_is_compared_with_the_best_durable_server_and_the_best_of_all() {
        let rows = [("qd", 30), ("qd-settle", 60), ("pg", 10), ("redis-always", 20), ("nats", 40)];
        let report = Report::new(rows.map(|(label, rate)| row(label, "w1", rate)).to_vec());
        let table: Vec<String> = report.ratios().iter().map(|row| row.join(" ")).collect();
        assert_eq!(
            table[1..],
            [
                "w1 send qd 30 redis-always 20 1.50 nats 40 0.75",
                "w1 send qd-settle 60 redis-always 20 3.00 nats 40 1.50",
            ]
        );
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let report = Report::new(vec![row("qd", "w1", 30)]);
        assert_eq!(report.rates()[1][1..3], ["30", "-"]);
        assert_eq!(report.ratios()[1][3..], ["-"; 6]);
    }
}
