//! Writing: records into the segment at hand, one segment after the other.

use std::collections::VecDeque;

use bytes::Bytes;

use super::files::{Files, LogFile};
use super::record::{put, record_bytes};
use super::segment::{DATA_AT, SegmentHeader, name};
use super::{LogError, Options, Position, Result, io};
use crate::clock::random_u64;

/// How far ahead of the records a new file is filled with zeros: a write into blocks that were never
/// written costs a sync several times as much.
const FILLED_AHEAD_BYTES: u64 = 1 << 20;
/// Most files kept to be used again.
const SPARES_MAX: usize = 2;

/// A file that may become a segment.
struct Spare {
    name: String,
    /// Bytes from its start that have been written before.
    filled: u64,
}

/// What ends the log so far, for an [`Appender`] that goes on behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// Greatest number of a segment's name in use.
    pub number: u64,
    /// Sequence number of the next record.
    pub sequence: u64,
    /// Check sum of the last record.
    pub previous: u32,
    /// Behind the last record, all of which is on disk.
    pub synced: Position,
}

/// Writes records.
pub struct Appender {
    files: Box<dyn Files>,
    options: Options,
    file: Box<dyn LogFile>,
    header: SegmentHeader,
    /// Where the next record goes.
    offset: u64,
    /// Bytes from the start of the file that have been written before.
    filled: u64,
    /// Sequence number of the next record.
    sequence: u64,
    previous: u32,
    synced: Position,
    /// Segments before the one at hand, by number and sequence number of the last record.
    older: VecDeque<(u64, u64)>,
    /// Number of the first segment that was begun here.
    begun: u64,
    spares: Vec<Spare>,
    /// Records that are about to be written.
    out: Vec<u8>,
}

impl Appender {
    /// Goes on behind `end` in a new segment.
    pub(super) fn start(
        files: Box<dyn Files>,
        options: Options,
        end: End,
        older: VecDeque<(u64, u64)>,
        spares: Vec<String>,
    ) -> Result<Self> {
        let spares = spares.into_iter().map(|name| Spare { name, filled: 0 });
        let mut spares: Vec<Spare> = spares.collect();
        let header = SegmentHeader {
            number: end.number + 1,
            node: options.node,
            epoch: random_u64(),
            first: end.sequence,
            previous: end.previous,
        };
        let (file, filled) = begin(&*files, &options, header, spares.pop())?;
        let mut appender = Self {
            files,
            options,
            file,
            header,
            offset: DATA_AT,
            filled,
            sequence: end.sequence,
            previous: end.previous,
            synced: end.synced,
            older,
            begun: header.number,
            spares,
            out: Vec::new(),
        };
        appender.shed_spares()?;
        Ok(appender)
    }

    /// Appends records; they are durable after the next [`Appender::sync`]. Their numbers must
    /// follow those before.
    pub fn append(&mut self, records: &[(u64, Bytes)]) -> Result<()> {
        for (sequence, payload) in records {
            assert_eq!(*sequence, self.sequence, "records are appended in order");
            let end = self.offset + (self.out.len() + record_bytes(payload.len())) as u64;
            let begun = self.offset + self.out.len() as u64 > DATA_AT;
            if end > self.options.segment_bytes && begun {
                self.write()?;
                self.begin_next()?;
            }
            let links = (*sequence, self.synced, self.previous);
            self.previous = put(&mut self.out, self.header.epoch, links, payload);
            self.sequence += 1;
        }
        self.write()
    }

    /// Makes all records durable.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync().map_err(io("sync", &name(self.header.number)))?;
        self.synced = Position { segment: self.header.number, offset: self.offset };
        Ok(())
    }

    /// Lets segments be used again of which every record is at or below `sequence`.
    pub fn recycle(&mut self, sequence: u64) -> Result<()> {
        while let Some(&(number, last)) = self.older.front()
            && last <= sequence
        {
            self.older.pop_front();
            // It was written to its end; of one that an earlier run has left nobody knows.
            let filled = if number < self.begun { 0 } else { self.options.segment_bytes };
            self.spares.push(Spare { name: name(number), filled });
        }
        self.shed_spares()
    }

    /// Removes `others`, when the segment at hand is durable.
    pub(super) fn leave_alone(mut self, others: &[String]) -> Result<()> {
        self.sync()?;
        for name in others {
            self.files.remove(name).map_err(io("remove", name))?;
        }
        self.files.sync().map_err(io("sync the directory of", "segments"))
    }

    fn shed_spares(&mut self) -> Result<()> {
        while self.spares.len() > SPARES_MAX {
            let spare = self.spares.remove(0);
            self.files.remove(&spare.name).map_err(io("remove", &spare.name))?;
        }
        Ok(())
    }

    /// Writes what is in `out`.
    fn write(&mut self) -> Result<()> {
        let end = self.offset + self.out.len() as u64;
        let name = name(self.header.number);
        if end > self.filled && self.filled < self.options.segment_bytes {
            let to = (end + FILLED_AHEAD_BYTES).min(self.options.segment_bytes).max(end);
            let zeros = vec![0; (to - self.filled) as usize];
            self.file.write_at(self.filled, &zeros).map_err(io("write", &name))?;
            self.filled = to;
        }
        self.file.write_at(self.offset, &self.out).map_err(io("write", &name))?;
        self.offset = end;
        self.out.clear();
        self.out.shrink_to(1 << 20);
        Ok(())
    }

    fn begin_next(&mut self) -> Result<()> {
        // What is before the next segment is durable before anything in it may be.
        self.sync()?;
        self.older.push_back((self.header.number, self.sequence - 1));
        self.header = SegmentHeader {
            number: self.header.number + 1,
            node: self.options.node,
            epoch: random_u64(),
            first: self.sequence,
            previous: self.previous,
        };
        let spare = self.spares.pop();
        (self.file, self.filled) = begin(&*self.files, &self.options, self.header, spare)?;
        self.offset = DATA_AT;
        Ok(())
    }
}

/// Makes the file of a segment and writes its header, which becomes durable with the first sync.
/// Returns how much of the file has been written before.
fn begin(
    files: &dyn Files,
    options: &Options,
    header: SegmentHeader,
    spare: Option<Spare>,
) -> Result<(Box<dyn LogFile>, u64)> {
    let name = name(header.number);
    let mut filled = 0;
    if let Some(spare) = spare {
        files.rename(&spare.name, &name).map_err(io("rename", &spare.name))?;
        filled = spare.filled;
    }
    let file = files.open(&name).map_err(io("open", &name))?;
    if filled == 0 && file.allocate(options.segment_bytes).is_err() {
        // A small or odd file system: the file grows as it is written.
        filled = options.segment_bytes;
    }
    header.write(&*file).map_err(io("write", &name))?;
    files.sync().map_err(io("sync the directory of", &name))?;
    Ok((file, filled.max(DATA_AT)))
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender")
            .field("segment", &self.header.number)
            .field("offset", &self.offset)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl LogError {
    /// The same for everybody who comes later.
    pub(super) fn again(&self) -> Self {
        Self::Failed(self.to_string())
    }
}
