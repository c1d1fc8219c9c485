//! Standard input and files: whole, or cut into records of any number in constant memory.
//!
//! Reading happens on a thread of its own, so that a signal or `--timeout` ends a command that
//! waits for input, and so that what has arrived can be sent while the input pauses.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};
use qd_protocol::{ErrorCode, MESSAGE_BYTES_MAX};
use rustix::fs::{FileType, SeekFrom, Stat, fstat, seek, stat};
use tokio::sync::mpsc;

use crate::descriptors::refuse_closed;
use crate::exit::Failure;

/// What one read asks for.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait between the reading thread and the sender.
const CHUNKS_WAITING: usize = 2;

/// Where bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Standard input.
    Stdin,
    /// A file; `-` is standard input.
    File(PathBuf),
}

impl Source {
    /// `-` is standard input.
    pub fn from_path(path: PathBuf) -> Self {
        if path == Path::new("-") { Self::Stdin } else { Self::File(path) }
    }

    fn open(&self) -> Result<Box<dyn Read>, Failure> {
        match self {
            // Not `std::io::stdin`: its buffer would keep bytes that belong to somebody else.
            Self::Stdin => {
                // Else an end of the input, and with it an empty message, would come out of nowhere.
                refuse_closed(rustix::stdio::stdin()).map_err(|error| self.failed(&error))?;
                let descriptor = rustix::io::dup(rustix::stdio::stdin());
                let descriptor = descriptor.map_err(|error| self.failed(&error.into()))?;
                Ok(Box::new(File::from(descriptor)))
            }
            Self::File(path) => match File::open(path) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(Failure::Missing(format!("cannot read {self}: {error}"))),
            },
        }
    }

    /// Bytes that are left to be read of a file; of a pipe nobody knows.
    fn size(&self) -> Option<u64> {
        let file = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let (stat, read) = match self {
            Self::Stdin => {
                let stdin = rustix::stdio::stdin();
                (fstat(stdin).ok()?, seek(stdin, SeekFrom::Current(0)).ok()?)
            }
            Self::File(path) => (stat(path).ok()?, 0),
        };
        let size = u64::try_from(stat.st_size).ok()?;
        file(stat).then(|| size.saturating_sub(read))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        let text = format!("cannot read {self}: {error}");
        match error.kind() {
            ErrorKind::IsADirectory => Failure::Missing(text),
            _ => Failure::Io(text),
        }
    }

    /// All of it, as the body of one message.
    pub async fn read_body(self) -> Result<Bytes, Failure> {
        let name = self.to_string();
        let bytes = self.read_up_to(MESSAGE_BYTES_MAX).await?;
        bytes.map(Bytes::from).ok_or_else(|| too_large(&name))
    }

    /// All of it; `None` when it has more than `bytes_max`.
    pub async fn read_up_to(self, bytes_max: u64) -> Result<Option<Vec<u8>>, Failure> {
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            let input = self.open()?;
            input
                .take(bytes_max + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| self.failed(&error))?;
            Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= bytes_max))
        });
        read.await.unwrap_or_else(|error| Err(Failure::Internal(error.to_string())))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// `what` can be no message of any queue.
pub fn too_large(what: &str) -> Failure {
    let text =
        format!("{what} is over 16 MiB ({MESSAGE_BYTES_MAX} bytes), the limit of any message");
    let refusal = ErrorCode::MessageTooLarge.refuse(text).with_limit(
        "max-message-size",
        MESSAGE_BYTES_MAX + 1,
        MESSAGE_BYTES_MAX,
    );
    refusal.into()
}

/// What the reading thread hands over.
enum Chunk {
    Bytes(Bytes),
    /// A source is over; what is left of it is a record without its terminator.
    End,
}

/// What [`Records::ready`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Ready {
    /// A record.
    Record(Bytes),
    /// Nothing has arrived.
    Paused,
    /// The input is over.
    Over,
}

/// How a stream is cut into records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Behind this byte.
    At(u8),
    /// By the four bytes before each record: its length, the most significant byte first.
    Prefixed,
}

/// Bytes of the length before a record of [`Cut::Prefixed`].
pub const PREFIX_BYTES: usize = 4;

/// Records of a stream, without their terminators or lengths.
#[derive(Debug)]
pub struct Records {
    chunks: mpsc::Receiver<Result<ChunkDebug, Failure>>,
    cut: Cut,
    record_bytes_max: u64,
    chunk: Bytes,
    /// The start of a record whose end has not arrived.
    carry: BytesMut,
    /// The source of `carry` is over, so that it is a whole record.
    source_ended: bool,
    over: bool,
    /// Records given out so far.
    pub count: u64,
    /// Bytes that have arrived.
    arrived: u64,
    /// Bytes of all sources, where these are files.
    size: Option<u64>,
}

/// Keeps a chunk's bytes out of debug output.
struct ChunkDebug(Chunk);

impl std::fmt::Debug for ChunkDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Chunk::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Chunk::End => f.write_str("end"),
        }
    }
}

impl Records {
    /// Reads `sources` one after the other. A record over `record_bytes_max` is a failure.
    pub fn start(sources: Vec<Source>, cut: Cut, record_bytes_max: u64) -> Result<Self, Failure> {
        let size = sources.iter().map(Source::size).sum();
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || read_all(&sources, &sender))
            .map_err(|error| Failure::Io(format!("cannot start a thread: {error}")))?;
        Ok(Self {
            chunks,
            cut,
            record_bytes_max,
            chunk: Bytes::new(),
            carry: BytesMut::new(),
            source_ended: false,
            over: false,
            count: 0,
            arrived: 0,
            size,
        })
    }

    /// How many bytes have arrived, of how many; nothing where that is not known.
    pub fn part(&self) -> Option<(u64, u64)> {
        self.size.map(|size| (self.arrived, size))
    }

    /// Waits for more input; `false` when there is none. Cancelling it loses nothing.
    pub async fn arrive(&mut self) -> Result<bool, Failure> {
        if self.over || self.source_ended || !self.chunk.is_empty() {
            return Ok(!self.over);
        }
        match self.chunks.recv().await {
            None => {
                self.over = true;
                Ok(false)
            }
            Some(chunk) => {
                self.take(chunk?.0);
                Ok(true)
            }
        }
    }

    /// The next record, without waiting.
    pub fn ready(&mut self) -> Result<Ready, Failure> {
        loop {
            let record = match self.cut {
                Cut::At(terminator) => self.cut_at(terminator)?,
                Cut::Prefixed => self.cut_prefixed()?,
            };
            if let Some(record) = record {
                self.count += 1;
                return Ok(Ready::Record(record));
            }
            if std::mem::take(&mut self.source_ended) && !self.carry.is_empty() {
                return self.last_of_source();
            }
            match self.chunks.try_recv() {
                Ok(chunk) => self.take(chunk?.0),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(Ready::Paused),
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.over = true;
                    return Ok(Ready::Over);
                }
            }
        }
    }

    /// A record whose terminator is in the chunk.
    fn cut_at(&mut self, terminator: u8) -> Result<Option<Bytes>, Failure> {
        let Some(end) = memchr::memchr(terminator, &self.chunk) else {
            let rest = std::mem::take(&mut self.chunk);
            self.check_length(self.carry.len() + rest.len())?;
            self.carry.extend_from_slice(&rest);
            return Ok(None);
        };
        let mut record = self.chunk.split_to(end + 1);
        record.truncate(end);
        if !self.carry.is_empty() {
            self.carry.extend_from_slice(&record);
            record = self.carry.split().freeze();
        }
        self.check_length(record.len())?;
        Ok(Some(record))
    }

    /// A record that has arrived as a whole. What is over its limit is refused before it has.
    fn cut_prefixed(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let known = if self.carry.is_empty() { &self.chunk[..] } else { &self.carry[..] };
            let length = length_before(known);
            self.check_length(length.unwrap_or(0))?;
            let whole = PREFIX_BYTES + length.unwrap_or(0);
            if self.carry.is_empty() && length.is_some() && self.chunk.len() >= whole {
                let mut record = self.chunk.split_to(whole);
                record.advance(PREFIX_BYTES);
                return Ok(Some(record));
            }
            let missing = (whole - self.carry.len()).min(self.chunk.len());
            self.carry.extend_from_slice(&self.chunk.split_to(missing));
            if self.carry.len() < whole {
                return Ok(None);
            }
            if length.is_some() {
                let mut record = self.carry.split().freeze();
                record.advance(PREFIX_BYTES);
                return Ok(Some(record));
            }
        }
    }

    /// What is left when a source is over.
    fn last_of_source(&mut self) -> Result<Ready, Failure> {
        let rest = self.carry.split().freeze();
        let number = self.count + 1;
        if self.cut == Cut::Prefixed {
            let text = match length_before(&rest) {
                None => format!("input record {number} ends in its length, which has 4 bytes"),
                Some(length) => format!(
                    "input record {number} ends after {} of {length} bytes",
                    rest.len() - PREFIX_BYTES
                ),
            };
            return Err(Failure::BadInput(text));
        }
        self.count = number;
        Ok(Ready::Record(rest))
    }

    fn check_length(&self, bytes: usize) -> Result<(), Failure> {
        if bytes as u64 > self.record_bytes_max {
            return Err(too_large(&format!("input record {}", self.count + 1)));
        }
        Ok(())
    }

    fn take(&mut self, chunk: Chunk) {
        match chunk {
            Chunk::Bytes(bytes) => {
                self.arrived += bytes.len() as u64;
                self.chunk = bytes;
            }
            Chunk::End => self.source_ended = true,
        }
    }
}

/// The length that stands before a record, once all of it is there.
fn length_before(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>()?;
    usize::try_from(u32::from_be_bytes(*prefix)).ok()
}

fn read_all(sources: &[Source], sender: &mpsc::Sender<Result<ChunkDebug, Failure>>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let send = |chunk: Result<Chunk, Failure>| sender.blocking_send(chunk.map(ChunkDebug)).is_ok();
    for source in sources {
        let mut input = match source.open() {
            Ok(input) => input,
            Err(failure) => {
                send(Err(failure));
                return;
            }
        };
        loop {
            let go_on = match input.read(&mut buffer) {
                Ok(0) => break,
                // A copy, so that many small reads do not keep a large buffer each.
                Ok(length) => send(Ok(Chunk::Bytes(Bytes::copy_from_slice(
                    buffer.get(..length).unwrap_or_default(),
                )))),
                Err(error) if error.kind() == ErrorKind::Interrupted => true,
                Err(error) => {
                    send(Err(source.failed(&error)));
                    return;
                }
            };
            if !go_on {
                return;
            }
        }
        if !send(Ok(Chunk::End)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(files: &[&[u8]], terminator: u8, max: u64) -> Result<Vec<Bytes>, Failure> {
        cut(files, Cut::At(terminator), max).await
    }

    async fn cut(files: &[&[u8]], cut: Cut, max: u64) -> Result<Vec<Bytes>, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let mut sources = Vec::new();
        for (at, bytes) in files.iter().enumerate() {
            let path = directory.path().join(at.to_string());
            std::fs::write(&path, bytes).unwrap();
            sources.push(Source::File(path));
        }
        let mut records = Records::start(sources, cut, max).unwrap();
        let mut found = Vec::new();
        loop {
            match records.ready()? {
                Ready::Record(record) => found.push(record),
                Ready::Over => return Ok(found),
                Ready::Paused => {
                    records.arrive().await?;
                }
            }
        }
    }

    #[tokio::test]
    async fn records_are_cut_at_the_terminator_alone() {
        let found = all(&[b"a\n\nb\r\nc"], b'\n', 100).await.unwrap();
        assert_eq!(found, ["a", "", "b\r", "c"]);
        let found = all(&[b"a\nb\0c\0"], 0, 100).await.unwrap();
        assert_eq!(found, ["a\nb", "c"]);
        assert!(all(&[b""], b'\n', 100).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn record_ends_with_its_file() {
        let found = all(&[b"a\nb", b"c\n", b"", b"d"], b'\n', 100).await.unwrap();
        assert_eq!(found, ["a", "b", "c", "d"]);
    }

    #[tokio::test]
    async fn part_of_files_is_known_and_of_other_things_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "a\nb\n").unwrap();
        let started = |paths: &[&Path]| {
            let sources = paths.iter().map(|path| Source::File((*path).to_owned())).collect();
            Records::start(sources, Cut::At(b'\n'), 10).unwrap()
        };
        let mut records = started(&[&file, &file]);
        assert_eq!(records.part(), Some((0, 8)));
        assert!(records.arrive().await.unwrap());
        assert_eq!(records.part(), Some((4, 8)));
        assert_eq!(started(&[&file, Path::new("/dev/null")]).part(), None);
    }

    #[tokio::test]
    async fn record_longer_than_a_chunk_is_whole() {
        let long = vec![b'x'; 3 * CHUNK_BYTES + 5];
        let mut file = long.clone();
        file.extend_from_slice(b"\nshort");
        let found = all(&[&file], b'\n', 1 << 20).await.unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0] == long && found[1] == "short");
    }

    #[tokio::test]
    async fn record_over_the_limit_is_refused_before_it_is_read_whole() {
        let failure = all(&[b"ok\n", &[b'x'; 50]], b'\n', 10).await.unwrap_err();
        assert_eq!(failure.exit().code(), 65);
        assert!(failure.to_string().contains("record 2"), "{failure}");
    }

    #[tokio::test]
    async fn records_are_cut_by_the_lengths_before_them() {
        let found = cut(&[b"\0\0\0\x02a\n\0\0\0\0", b"\0\0\0\x01\0"], Cut::Prefixed, 10).await;
        assert_eq!(found.unwrap(), ["a\n", "", "\0"]);
        assert!(cut(&[b""], Cut::Prefixed, 10).await.unwrap().is_empty());
        // Over the end of a chunk, in the record and in its length.
        for before in CHUNK_BYTES - 6..CHUNK_BYTES {
            let length = u32::try_from(before).unwrap() - 4;
            let mut file = length.to_be_bytes().to_vec();
            file.resize(before, b'x');
            file.extend_from_slice(b"\0\0\0\x03abc\0\0\0\x01d");
            let found = cut(&[&file], Cut::Prefixed, 1 << 20).await.unwrap();
            assert_eq!(found[0].len(), before - 4);
            assert_eq!(found[1..], ["abc", "d"], "{before}");
        }
    }

    #[tokio::test]
    async fn record_that_is_cut_short_or_too_long_is_told() {
        let told = async |file: &[u8]| {
            let failure = cut(&[file], Cut::Prefixed, 10).await.unwrap_err();
            assert_eq!(failure.exit().code(), 65);
            failure.to_string()
        };
        let ends = told(b"\0\0\0\x01x\0\0\0\x05abc").await;
        assert_eq!(ends, "input record 2 ends after 3 of 5 bytes");
        let ends = told(b"\0\0").await;
        assert_eq!(ends, "input record 1 ends in its length, which has 4 bytes");
        assert!(told(b"\0\0\0\x0b").await.starts_with("input record 1 is over"));
        assert!(told(b"text\n").await.starts_with("input record 1 is over"));
    }

    #[tokio::test]
    async fn missing_file_and_directory_are_told() {
        for path in ["/nonexistent/file", "/"] {
            let source = Source::File(path.into());
            let failure = source.clone().read_body().await.unwrap_err();
            assert_eq!(failure.exit().code(), 66, "{failure}");
            let mut records = Records::start(vec![source], Cut::At(b'\n'), 10).unwrap();
            assert_eq!(records.arrive().await.unwrap_err().exit().code(), 66);
        }
    }
}
