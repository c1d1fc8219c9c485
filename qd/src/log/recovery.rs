//! Opening: which segments belong together, and the records that the state does not have yet.

use std::collections::VecDeque;

use bytes::Bytes;

use super::appender::{Appender, End};
use super::files::{Files, LogFile};
use super::segment::{DATA_AT, SegmentHeader, SegmentReader, name, number};
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

/// The log from the record behind a state on.
struct Contents {
    /// Segments that the state needs, by number.
    segments: Vec<Found>,
    /// Files that nothing needs.
    spares: Vec<String>,
    /// Number of each segment, and sequence number of its last record.
    older: VecDeque<(u64, u64)>,
    end: End,
    seen: Seen,
}

/// What was found in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Segments with what the state may lack, and what they hold.
    pub segments: usize,
    /// Records in them.
    pub records: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Files that are kept to be used again.
    pub spares: usize,
    /// Sequence number of the last record; 0: there is none.
    pub last: u64,
    /// Where it ends: name of the file, and offset in it.
    pub end: Option<(String, u64)>,
    /// Behind the end is the beginning of a record that was never durable.
    pub is_torn: bool,
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
    show: impl FnMut(u64, Bytes) -> std::result::Result<(), E>,
) -> std::result::Result<Appender, E> {
    let Contents { segments, spares, older, end, .. } =
        read_all(&*files, options.node, applied, show)?;
    if let Some(last) = segments.last() {
        // It was read from memory perhaps: what is built on it must not be durable before it is.
        last.file.sync().map_err(io("sync", &last.name))?;
    }
    // A spare with the number that the next segment gets would be overwritten; it is one anyway.
    Ok(Appender::start(files, options, end, older, spares)?)
}

/// Leaves of a log whose every record is in a durable state, up to number `applied`, what says so: one
/// segment without records. Files are removed only when that is on disk.
pub fn shrink(files: Box<dyn Files>, node: u64, applied: u64) -> Result<()> {
    let pass = |_: u64, _: Bytes| Ok::<(), LogError>(());
    let Contents { segments, spares, end, .. } = read_all(&*files, node, applied, pass)?;
    if end.sequence != applied + 1 {
        let text =
            format!("record {} is not in the state, which ends with {applied}", end.sequence);
        return Err(LogError::Mismatch(text));
    }
    if let Some(last) = segments.last() {
        last.file.sync().map_err(io("sync", &last.name))?;
    }
    let done = segments.into_iter().map(|found| found.name);
    let done: Vec<String> = spares.into_iter().chain(done).collect();
    let options = Options { node, segment_bytes: DATA_AT };
    Appender::start(files, options, end, VecDeque::new(), Vec::new())?.leave_alone(&done)
}

/// Reads the log of `node` as [`recover`] does, and changes nothing.
pub fn look<E: From<LogError>>(
    files: &dyn Files,
    node: u64,
    applied: u64,
    show: impl FnMut(u64, Bytes) -> std::result::Result<(), E>,
) -> std::result::Result<Seen, E> {
    Ok(read_all(files, node, applied, show)?.seen)
}

fn read_all<E: From<LogError>>(
    files: &dyn Files,
    node: u64,
    applied: u64,
    mut show: impl FnMut(u64, Bytes) -> std::result::Result<(), E>,
) -> std::result::Result<Contents, E> {
    let Inventory { mut segments, mut spares, number } = take_inventory(files, node)?;
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
    let mut seen =
        Seen { segments: segments.len(), spares: spares.len(), last: applied, ..Seen::default() };
    let mut end = End { number, sequence: 1, previous: 0, synced: Position::default() };
    let mut older = VecDeque::new();
    for (at, found) in segments.iter().enumerate() {
        let next = segments.get(at + 1);
        let mut reader = read_segment(found, next, applied, &mut show)?;
        older.push_back((found.header.number, reader.sequence - 1));
        end.sequence = reader.sequence;
        end.previous = reader.previous;
        end.synced = reader.position();
        seen.records += reader.sequence - found.header.first;
        seen.bytes += reader.offset - DATA_AT;
        seen.end = Some((found.name.clone(), reader.offset));
        seen.is_torn = reader.is_begun()?;
    }
    if end.sequence <= applied {
        let text = format!(
            "the state ends with record {applied}, but the log with {}: its end is missing",
            end.sequence - 1
        );
        return Err(LogError::Mismatch(text).into());
    }
    seen.last = end.sequence - 1;
    Ok(Contents { segments, spares, older, end, seen })
}

fn take_inventory(files: &dyn Files, node: u64) -> Result<Inventory> {
    let mut inventory = Inventory { segments: Vec::new(), spares: Vec::new(), number: 0 };
    for name in files.list().map_err(io("read the directory of", "segments"))? {
        let Some(number) = number(&name) else {
            continue;
        };
        inventory.number = inventory.number.max(number);
        let file = files.open(&name).map_err(io("open", &name))?;
        match SegmentHeader::read(&*file, &name)? {
            Some(header) if header.number == number => {
                if header.node != node {
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
