//! Standard input and files: whole, or cut into records of any number in constant memory.
//!
//! Reading happens on a thread of its own, so that a signal or `--timeout` ends a command that
//! waits for input, and so that what has arrived can be sent while the input pauses.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use qd_protocol::{ErrorCode, MESSAGE_BYTES_MAX};
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

/// Records of a stream, without their terminators.
#[derive(Debug)]
pub struct Records {
    chunks: mpsc::Receiver<Result<ChunkDebug, Failure>>,
    terminator: u8,
    record_bytes_max: u64,
    chunk: Bytes,
    /// The start of a record whose end has not arrived.
    carry: BytesMut,
    /// The source of `carry` is over, so that it is a whole record.
    source_ended: bool,
    over: bool,
    /// Records given out so far.
    pub count: u64,
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
    pub fn start(
        sources: Vec<Source>,
        terminator: u8,
        record_bytes_max: u64,
    ) -> Result<Self, Failure> {
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || read_all(&sources, &sender))
            .map_err(|error| Failure::Io(format!("cannot start a thread: {error}")))?;
        Ok(Self {
            chunks,
            terminator,
            record_bytes_max,
            chunk: Bytes::new(),
            carry: BytesMut::new(),
            source_ended: false,
            over: false,
            count: 0,
        })
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
            if let Some(end) = memchr::memchr(self.terminator, &self.chunk) {
                let mut record = self.chunk.split_to(end + 1);
                record.truncate(end);
                if !self.carry.is_empty() {
                    self.carry.extend_from_slice(&record);
                    record = self.carry.split().freeze();
                }
                return self.give(record);
            }
            let rest = std::mem::take(&mut self.chunk);
            self.carry.extend_from_slice(&rest);
            if self.carry.len() as u64 > self.record_bytes_max {
                return Err(too_large(&format!("input record {}", self.count + 1)));
            }
            if std::mem::take(&mut self.source_ended) && !self.carry.is_empty() {
                let record = self.carry.split().freeze();
                return self.give(record);
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

    fn give(&mut self, record: Bytes) -> Result<Ready, Failure> {
        if record.len() as u64 > self.record_bytes_max {
            return Err(too_large(&format!("input record {}", self.count + 1)));
        }
        self.count += 1;
        Ok(Ready::Record(record))
    }

    fn take(&mut self, chunk: Chunk) {
        match chunk {
            Chunk::Bytes(bytes) => self.chunk = bytes,
            Chunk::End => self.source_ended = true,
        }
    }
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
        let directory = tempfile::tempdir().unwrap();
        let mut sources = Vec::new();
        for (at, bytes) in files.iter().enumerate() {
            let path = directory.path().join(at.to_string());
            std::fs::write(&path, bytes).unwrap();
            sources.push(Source::File(path));
        }
        let mut records = Records::start(sources, terminator, max).unwrap();
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
    async fn missing_file_and_directory_are_told() {
        for path in ["/nonexistent/file", "/"] {
            let source = Source::File(path.into());
            let failure = source.clone().read_body().await.unwrap_err();
            assert_eq!(failure.exit().code(), 66, "{failure}");
            let mut records = Records::start(vec![source], b'\n', 10).unwrap();
            assert_eq!(records.arrive().await.unwrap_err().exit().code(), 66);
        }
    }
}
