//! What one fdatasync costs here: the floor under every durable answer.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::Bench;
use super::meter::{Limits, Meter};
use super::report::Row;
use crate::exit::Failure;

/// The unit of a log's write.
const BLOCK_BYTES: usize = 4096;
/// Blocks written over and over, as a log's recycled segment is.
const BLOCKS: u64 = 256;
/// Syncs by default.
const SYNCS: u64 = 1_000;

/// Measures in `--dir`.
pub async fn run(bench: &Bench) -> Result<Row, Failure> {
    let duration = bench.duration.map(Duration::from_millis);
    let limits = Limits {
        warmup: Duration::from_millis(bench.warmup),
        duration,
        messages: bench.messages.or(duration.is_none().then_some(SYNCS)),
        batch: 1,
        rate: bench.rate,
    };
    let directory = bench.dir.clone();
    let failed = move |error: std::io::Error| {
        Failure::Io(format!("cannot measure {}: {error}", directory.display()))
    };
    // Without a name, so that nothing is left behind whatever ends the run.
    let file = tempfile::tempfile_in(&bench.dir).map_err(&failed)?;
    let whole = vec![0; BLOCK_BYTES * usize::try_from(BLOCKS).unwrap_or(1)];
    file.write_all_at(&whole, 0).map_err(&failed)?;
    file.sync_all().map_err(&failed)?;
    let meter = Meter::start(limits)?;
    let block = [7; BLOCK_BYTES];
    let mut at = 0;
    while let Some((_, from)) = meter.next().await {
        file.write_all_at(&block, at * BLOCK_BYTES as u64).map_err(&failed)?;
        file.sync_data().map_err(&failed)?;
        meter.record(from, 1);
        at = (at + 1) % BLOCKS;
        // Lets a signal or --timeout in.
        tokio::task::yield_now().await;
    }
    let missed = meter.missed();
    let row = Row { missed, ..Row::of("", &meter.recorded()) };
    Ok(row)
}
