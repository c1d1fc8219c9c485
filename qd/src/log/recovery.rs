//! Opening: which segments belong together, and the records that the state does not have yet.

use std::collections::VecDeque;

use bytes::Bytes;

use super::appender::{Appender, End};
use super::files::{Files, LogFile};
use super::segment::{SegmentHeader, SegmentReader, name, number};
use super::{LogError, Options, Position, Result, io};

/// A segment that was found.
struct Found {
    name: String,
    header: SegmentHeader,
    file: Box<dyn LogFile>,
}

/// What is in the directory.
struct Inventory {
    /// Segments, by number.
    segments: Vec<Found>,
    /// Files whose header was never whole: nothing in them was ever durable.
    spares: Vec<String>,
    /// Greatest number of a name.
    number: u64,
}

/// Reads the log and goes on behind it: shows every record behind number `applied`, in order, to
/// `show`, and returns where new ones go.
///
/// # Errors
///
/// Damage, and state and log that do not belong together. Errors of `show` come back as they are.
pub fn recover<E: From<LogError>>(
    files: Box<dyn Files>,
    options: Options,
    applied: u64,
    mut show: impl FnMut(u64, Bytes) -> std::result::Result<(), E>,
) -> std::result::Result<Appender, E> {
    let Inventory { mut segments, mut spares, number } = take_inventory(&*files, &options)?;
    if segments.is_empty() && applied > 0 {
        let text = format!(
            "the state ends with record {applied}, but there is no log: restore the log directory, or the whole data directory from a copy"
        );
        return Err(LogError::Mismatch(text).into());
    }
    // All before the last one that begins at or below the next record is done with.
    let begins = segments.partition_point(|found| found.header.first <= applied + 1);
    if begins == 0
        && let Some(first) = segments.first()
    {
        let text = format!(
            "the state ends with record {applied}, but the log begins with {} ({})",
            first.header.first, first.name
        );
        return Err(LogError::Mismatch(text).into());
    }
    let done = segments.drain(..begins.saturating_sub(1));
    spares.extend(done.map(|found| found.name));
    let mut end = End { number, sequence: 1, previous: 0, synced: Position::default() };
    let mut older = VecDeque::new();
    for (at, found) in segments.iter().enumerate() {
        let next = segments.get(at + 1);
        let reader = read_segment(found, next, applied, &mut show)?;
        older.push_back((found.header.number, reader.sequence - 1));
        end.sequence = reader.sequence;
        end.previous = reader.previous;
        end.synced = reader.position();
    }
    if end.sequence <= applied {
        let text = format!(
            "the state ends with record {applied}, but the log with {}: its end is missing",
            end.sequence - 1
        );
        return Err(LogError::Mismatch(text).into());
    }
    if let Some(last) = segments.last() {
        // It was read from memory perhaps: what is built on it must not be durable before it is.
        last.file.sync().map_err(io("sync", &last.name))?;
    }
    // A spare with the number that the next segment gets would be overwritten; it is one anyway.
    Ok(Appender::start(files, options, end, older, spares)?)
}

fn take_inventory(files: &dyn Files, options: &Options) -> Result<Inventory> {
    let mut inventory = Inventory { segments: Vec::new(), spares: Vec::new(), number: 0 };
    for name in files.list().map_err(io("read the directory of", "segments"))? {
        let Some(number) = number(&name) else {
            continue;
        };
        inventory.number = inventory.number.max(number);
        let file = files.open(&name).map_err(io("open", &name))?;
        match SegmentHeader::read(&*file, &name)? {
            Some(header) if header.number == number => {
                if header.node != options.node {
                    let text = format!("{name} belongs to other data than the state");
                    return Err(LogError::Mismatch(text));
                }
                inventory.segments.push(Found { name, header, file });
            }
            // Renamed to be used again, and the machine failed before it was.
            Some(_) | None => inventory.spares.push(name),
        }
    }
    inventory.segments.sort_by_key(|found| found.header.number);
    Ok(inventory)
}

/// Shows the records of a segment, up to where the `next` one goes on.
fn read_segment<'a, E: From<LogError>>(
    found: &'a Found,
    next: Option<&Found>,
    applied: u64,
    show: &mut impl FnMut(u64, Bytes) -> std::result::Result<(), E>,
) -> std::result::Result<SegmentReader<'a>, E> {
    let mut reader = SegmentReader::new(&*found.file, &found.name, found.header)?;
    while next.is_none_or(|next| reader.sequence < next.header.first) {
        let sequence = reader.sequence;
        let Some(payload) = reader.next()? else {
            break;
        };
        if sequence > applied {
            show(sequence, payload.into())?;
        }
    }
    let damaged =
        |offset, what: String| LogError::Damaged { file: found.name.clone(), offset, what };
    if let Some(next) = next {
        if next.header.number != found.header.number + 1 {
            let missing = name(found.header.number + 1);
            return Err(damaged(reader.offset, format!("{missing} is missing")).into());
        }
        if (next.header.first, next.header.previous) != (reader.sequence, reader.previous) {
            let what = format!(
                "record {} cannot be read, and {} goes on with {}",
                reader.sequence, next.name, next.header.first
            );
            return Err(damaged(reader.offset, what).into());
        }
        return Ok(reader);
    }
    let torn = reader.offset;
    if let Some(proof) = reader.find_proof()? {
        let what = format!(
            "record {} cannot be read, and the one at offset {proof} says that it was on disk",
            reader.sequence
        );
        return Err(damaged(torn, what).into());
    }
    Ok(reader)
}
