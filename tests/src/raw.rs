//! Connections without the client's good manners: what the tests write is what the daemon gets.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use qd_protocol::preamble::{
    CLIENT_BYTES, ClientPreamble, SERVER_BYTES, ServerPreamble, Status, VersionRange,
};
use qd_protocol::request::{AnswerError, put_request, read_answer};
use qd_protocol::verbs::{Hello, Ping, Verb};
use qd_protocol::{
    ANSWER_FRAME_BYTES_MAX, Address, ErrorCode, Frame, FrameCodec, Numbering, Refusal,
};
use tokio_util::codec::Decoder;

use crate::wait::SOON;

trait Socket: Read + Write + Send {
    fn set_times(&self, limit: Duration) -> io::Result<()>;
    fn end_output(&self) -> io::Result<()>;
}

impl Socket for UnixStream {
    fn set_times(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }

    fn end_output(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

impl Socket for TcpStream {
    fn set_times(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }

    fn end_output(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

/// A connection, read and written byte by byte. Every read and write has a limit of time.
pub struct Raw {
    socket: Box<dyn Socket>,
    buffer: BytesMut,
    next: u32,
}

impl Raw {
    /// Connects, and says nothing.
    ///
    /// # Panics
    ///
    /// When nobody listens.
    pub fn connect(address: &Address) -> Self {
        let socket: Box<dyn Socket> = match address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).expect("connect")),
            Address::Tcp(host) => Box::new(TcpStream::connect(host).expect("connect")),
        };
        socket.set_times(SOON).expect("limits of time");
        Self { socket, buffer: BytesMut::new(), next: 1 }
    }

    /// Limits each read and write.
    ///
    /// # Panics
    ///
    /// When the limit is 0.
    pub fn limit(&mut self, limit: Duration) {
        self.socket.set_times(limit).expect("limits of time");
    }

    /// Writes bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Says that nothing more will be written.
    pub fn end_output(&self) {
        // The other side may have closed.
        let _ = self.socket.end_output();
    }

    /// Sends a preamble and reads the other one.
    ///
    /// # Panics
    ///
    /// When no preamble comes back.
    pub fn preamble(&mut self, bytes: &[u8]) -> ServerPreamble {
        self.write(bytes).expect("write the preamble");
        let mut answer = [0; SERVER_BYTES];
        self.socket.read_exact(&mut answer).expect("read the server's preamble");
        ServerPreamble::from_bytes(&answer).expect("the magic")
    }

    /// Sends this release's preamble, which must be welcome.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn greet(&mut self) -> ServerPreamble {
        let preamble = ClientPreamble { versions: VersionRange::OURS }.to_bytes();
        let answer = self.preamble(&preamble);
        assert_eq!(answer.status, Status::Ready);
        answer
    }

    /// Sends hello and reads its answer.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn hello(&mut self, producer: u64) {
        let hello = Hello { producer, client: "qd-tests raw".to_owned() };
        self.call(&hello).expect("hello is welcome");
    }

    /// Sends a request and leaves its answer unread. Returns its correlation id.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn send<V: Verb>(&mut self, verb: &V) -> u32 {
        self.send_numbered(None, verb)
    }

    /// Sends a numbered request and leaves its answer unread. Returns its correlation id.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn send_numbered<V: Verb>(
        &mut self,
        numbering: impl Into<Option<Numbering>>,
        verb: &V,
    ) -> u32 {
        let correlation = self.next;
        self.next += 1;
        self.write(&request(correlation, numbering.into(), verb)).expect("write a request");
        correlation
    }

    /// Sends a request and reads the next frame, which must be its answer.
    ///
    /// # Panics
    ///
    /// When it is not, or cannot be read.
    pub fn call<V: Verb>(&mut self, verb: &V) -> Result<V::Answer, Refusal> {
        self.call_numbered(None, verb)
    }

    /// Sends a numbered request and reads the next frame, which must be its answer.
    ///
    /// # Panics
    ///
    /// When it is not, or cannot be read.
    pub fn call_numbered<V: Verb>(
        &mut self,
        numbering: impl Into<Option<Numbering>>,
        verb: &V,
    ) -> Result<V::Answer, Refusal> {
        let correlation = self.send_numbered(numbering, verb);
        let (answered, answer) = self.answer::<V>();
        assert_eq!(answered, correlation, "another request was answered");
        answer
    }

    /// Reads the next frame, which must answer a `V`: its correlation id and what it says.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn answer<V: Verb>(&mut self) -> (u32, Result<V::Answer, Refusal>) {
        let frame = self.frame().expect("read an answer").expect("an answer before the end");
        let correlation = frame.correlation;
        match read_answer::<V>(frame) {
            Ok(answer) => (correlation, Ok(answer)),
            Err(AnswerError::Refused(refusal)) => (correlation, Err(refusal)),
            Err(AnswerError::Malformed(error)) => panic!("malformed answer: {error}"),
        }
    }

    /// Reads the next frame; `None` when the other side closed.
    ///
    /// # Panics
    ///
    /// When what comes is no frame.
    pub fn frame(&mut self) -> io::Result<Option<Frame>> {
        let mut codec = FrameCodec::new(ANSWER_FRAME_BYTES_MAX);
        loop {
            if let Some(frame) = codec.decode(&mut self.buffer).expect("a frame") {
                return Ok(Some(frame));
            }
            let mut bytes = vec![0; 64 << 10];
            let read = match self.socket.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(read) => read,
                // Whoever stops this process and lets it go on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.buffer.extend_from_slice(&bytes[..read]);
        }
    }

    /// Reads the refusal of the request with this correlation id.
    ///
    /// # Panics
    ///
    /// When something else comes.
    pub fn refusal<V: Verb>(&mut self, correlation: u32) -> Refusal {
        let (answered, answer) = self.answer::<V>();
        assert_eq!(answered, correlation);
        match answer {
            Ok(_) => panic!("the request was not refused"),
            Err(refusal) => refusal,
        }
    }

    /// The code with which the other side refuses `verb`.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn refused<V: Verb>(&mut self, verb: &V) -> ErrorCode {
        let correlation = self.send(verb);
        self.refusal::<V>(correlation).code
    }

    /// Reads to the end, which must come: the other side closes. Returns how many bytes came
    /// before it.
    ///
    /// # Panics
    ///
    /// When the connection stays open.
    pub fn wait_for_close(&mut self) -> usize {
        let mut bytes = vec![0; 64 << 10];
        let mut total = self.buffer.len();
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return total,
                Ok(read) => total += read,
                // It closed with something unread of what we wrote.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return total,
                Err(error) => panic!("the connection was not closed: {error}"),
            }
        }
    }

    /// Waits until everything sent before on this connection is in the engine's hands: requests
    /// of a connection are taken in order.
    pub fn settle(&mut self) {
        self.call(&Ping).expect("ping is answered");
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").field("next", &self.next).finish_non_exhaustive()
    }
}

/// A request's frame.
pub fn request<V: Verb>(correlation: u32, numbering: Option<Numbering>, verb: &V) -> BytesMut {
    let mut out = BytesMut::new();
    put_request(&mut out, correlation, numbering, verb);
    out
}

/// A client's preamble with any version range.
pub fn preamble(lowest: u16, highest: u16) -> [u8; CLIENT_BYTES] {
    ClientPreamble { versions: VersionRange { lowest, highest } }.to_bytes()
}
