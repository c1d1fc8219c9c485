//! What one phase of a workload came to, as a line of tab-separated values: `run` prints it,
//! `report` reads it.

use anyhow::{Context, Result, ensure};

use crate::stats::Load;

/// The columns of a line.
pub const COLUMNS: [&str; 13] = [
    "server",
    "work",
    "phase",
    "messages",
    "s",
    "msg/s",
    "p50 µs/call",
    "p99 µs/call",
    "server cores",
    "client cores",
    "other cores",
    "flushes/s",
    "MiB/s written",
];

/// One phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The server, and how it was run.
    pub label: String,
    /// Name of the workload.
    pub work: String,
    /// `send` or `take`.
    pub phase: String,
    /// Sent, or received and deleted.
    pub messages: u64,
    /// From the start to the last answer.
    pub secs: f64,
    /// Of one call, in microseconds: of a message where the workload is unbatched, else of a batch.
    pub p50: u32,
    /// Likewise.
    pub p99: u32,
    /// What it cost.
    pub load: Load,
}

impl Row {
    /// Messages a second.
    pub fn rate(&self) -> f64 {
        if self.secs > 0.0 { self.messages as f64 / self.secs } else { 0.0 }
    }

    /// The values, in the order of [`COLUMNS`].
    pub fn cells(&self) -> [String; COLUMNS.len()] {
        let Load { server, client, other, flushes, mib } = self.load;
        [
            self.label.clone(),
            self.work.clone(),
            self.phase.clone(),
            self.messages.to_string(),
            format!("{:.6}", self.secs),
            format!("{:.0}", self.rate()),
            self.p50.to_string(),
            self.p99.to_string(),
            format!("{server:.2}"),
            format!("{client:.2}"),
            format!("{other:.2}"),
            format!("{flushes:.0}"),
            format!("{mib:.1}"),
        ]
    }

    /// Reads a line of cells with TABs between.
    pub fn parse(line: &str) -> Result<Self> {
        let cells: Vec<&str> = line.split('\t').collect();
        let expected = COLUMNS.len();
        ensure!(cells.len() == expected, "{} columns, not {expected}", cells.len());
        let number = |at: usize| cells[at].parse::<f64>().with_context(|| COLUMNS[at]);
        Ok(Self {
            label: cells[0].to_owned(),
            work: cells[1].to_owned(),
            phase: cells[2].to_owned(),
            messages: cells[3].parse().context(COLUMNS[3])?,
            secs: number(4)?,
            p50: cells[6].parse().context(COLUMNS[6])?,
            p99: cells[7].parse().context(COLUMNS[7])?,
            load: Load {
                server: number(8)?,
                client: number(9)?,
                other: number(10)?,
                flushes: number(11)?,
                mib: number(12)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_survives() {
        let load = Load { server: 1.25, client: 0.5, other: 0.25, flushes: 400.0, mib: 12.5 };
        let row = Row {
            label: "qd".to_owned(),
            work: "w1".to_owned(),
            phase: "send".to_owned(),
            messages: 1000,
            secs: 0.5,
            p50: 100,
            p99: 900,
            load,
        };
        assert_eq!(row.cells()[5], "2000");
        assert_eq!(Row::parse(&row.cells().join("\t")).unwrap(), row);
        assert!(Row::parse("qd\tw1").is_err());
        assert!(Row::parse(&row.cells().join("\t").replace("1000", "x")).is_err());
    }
}
