//! What commands write, and what we say ourselves, on its way to our own output.
//!
//! Always true here: a thread of its own writes, so that a reader who is slow, or stuck, keeps only
//! the commands waiting. At most [`ROOM_BYTES`] of theirs wait. What is passed to one write is not
//! mixed with anything else.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use tokio::sync::{Semaphore, oneshot};

use crate::exit::Failure;
use crate::output::{cannot_write, escape, write_all};

/// Bytes of commands that may wait to be written.
pub const ROOM_BYTES: usize = 1 << 20;
/// Longest line that is kept together.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Where something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

enum Piece {
    Bytes {
        stream: Stream,
        bytes: Vec<u8>,
        room: u32,
    },
    /// All before it was written.
    Flush(oneshot::Sender<()>),
}

/// A handle on the thread, which ends with the last one.
#[derive(Debug, Clone)]
pub struct Output {
    pieces: Sender<Piece>,
    room: Arc<Semaphore>,
    /// Why standard output takes nothing any more.
    broken: Arc<OnceLock<Failure>>,
}

impl Output {
    /// Starts the thread.
    pub fn start() -> Result<Self, Failure> {
        let (pieces, receiver) = channel();
        let room = Arc::new(Semaphore::new(ROOM_BYTES));
        let broken = Arc::new(OnceLock::new());
        let output = Self { pieces, room: Arc::clone(&room), broken: Arc::clone(&broken) };
        let thread = std::thread::Builder::new().name("output".to_owned()).stack_size(64 << 10);
        thread
            .spawn(move || write_pieces(&receiver, &room, &broken))
            .map_err(|error| Failure::Io(format!("cannot start a thread: {error}")))?;
        Ok(output)
    }

    /// Says a line on standard error.
    pub fn say(&self, text: &str) {
        let bytes = format!("{}\n", escape(text.as_bytes(), false)).into_bytes();
        let _ = self.pieces.send(Piece::Bytes { stream: Stream::Err, bytes, room: 0 });
    }

    /// Passes on what a command wrote, when there is room. False when nobody reads it.
    pub async fn pass(&self, stream: Stream, bytes: Vec<u8>) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let room = u32::try_from(bytes.len().min(ROOM_BYTES)).unwrap_or(1);
        let Ok(permit) = self.room.acquire_many(room).await else {
            return false;
        };
        permit.forget();
        let sent = self.pieces.send(Piece::Bytes { stream, bytes, room });
        sent.is_ok() && !(stream == Stream::Out && self.broken().is_some())
    }

    /// Why standard output takes nothing any more: whoever read it has gone away, or the disk is full.
    pub fn broken(&self) -> Option<Failure> {
        self.broken.get().cloned()
    }

    /// Waits until all is written that was passed on before.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.pieces.send(Piece::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
    }
}

fn write_pieces(pieces: &Receiver<Piece>, room: &Semaphore, broken: &OnceLock<Failure>) {
    for piece in pieces {
        match piece {
            Piece::Bytes { stream, bytes, room: permits } => {
                let written = match stream {
                    Stream::Out => write_all(rustix::stdio::stdout(), &bytes),
                    // Nobody is there to be told.
                    Stream::Err => write_all(rustix::stdio::stderr(), &bytes).or(Ok(())),
                };
                if let Err(error) = written {
                    let failure = match error {
                        Errno::PIPE => Failure::ClosedPipe,
                        error => cannot_write(&error.into()),
                    };
                    // The first one tells most.
                    let _ = broken.set(failure);
                }
                room.add_permits(permits as usize);
            }
            Piece::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Cuts what one command writes to one stream into what may be passed on.
#[derive(Debug)]
pub struct Lines {
    /// False: everything is passed on as it comes.
    whole: bool,
    rest: Vec<u8>,
    /// The last byte passed on was not the end of a line.
    inside: bool,
}

impl Lines {
    /// `whole`: only lines that have ended, as long as they are not too long.
    pub fn new(whole: bool) -> Self {
        Self { whole, rest: Vec::new(), inside: false }
    }

    /// Takes bytes; what may be passed on.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if !self.whole {
            return bytes.to_vec();
        }
        self.rest.extend_from_slice(bytes);
        let end = memchr::memrchr(b'\n', &self.rest).map_or(0, |at| at + 1);
        let end = if self.rest.len() - end > LINE_BYTES_MAX { self.rest.len() } else { end };
        let behind = self.rest.split_off(end);
        let pass = std::mem::replace(&mut self.rest, behind);
        if let Some(last) = pass.last() {
            self.inside = *last != b'\n';
        }
        pass
    }

    /// The stream has ended: what is left, with an end to its last line.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut pass = std::mem::take(&mut self.rest);
        if self.whole && (self.inside || !pass.is_empty()) {
            pass.push(b'\n');
        }
        self.inside = false;
        pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_passed_on_and_the_last_one_is_ended() {
        let mut lines = Lines::new(true);
        assert_eq!(lines.push(b"a"), b"");
        assert_eq!(lines.push(b"b\nc\nd"), b"ab\nc\n");
        assert_eq!(lines.finish(), b"d\n");
        assert_eq!(lines.finish(), b"");
        assert_eq!(lines.push(b"e\n"), b"e\n");
        assert_eq!(lines.finish(), b"");
    }

    #[test]
    fn line_that_is_too_long_is_cut() {
        let mut lines = Lines::new(true);
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        assert_eq!(lines.push(&long), long);
        assert_eq!(lines.finish(), b"\n");
    }

    #[test]
    fn what_needs_no_lines_is_passed_on_as_it_comes() {
        let mut lines = Lines::new(false);
        assert_eq!(lines.push(b"50 %\r"), b"50 %\r");
        assert_eq!(lines.finish(), b"");
    }
}
