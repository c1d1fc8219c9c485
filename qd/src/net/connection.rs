//! One connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use qd_protocol::frame::FrameError;
use qd_protocol::preamble::{CLIENT_BYTES, ClientPreamble, ServerPreamble, Status, VersionRange};
use qd_protocol::verbs::{Hello, Pong, ShuttingDown, Welcome};
use qd_protocol::{ErrorCode, Frame, FrameCodec, Refusal, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::Decoder;

use super::listener::{Stream, StreamSocket};
use super::{FRAME_TIMEOUT, HANDSHAKE_TIMEOUT, Server, WRITE_TIMEOUT};
use crate::broker::{Answer, Job, Peer, Reply, Work};
use crate::clock::wall_time;
use crate::shard::Origin;

/// Answers are gathered up to about this many bytes for one write.
const WRITE_BYTES: usize = 256 << 10;
/// Most answers taken from the channel at once.
const REPLIES_PER_WRITE: usize = 128;
/// A buffer that has grown above this is given back once it is empty.
const KEPT_BUFFER_BYTES: usize = 256 << 10;
/// Room made for one read: as much as a busy connection fills, as little as an idle one needs.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 128 << 10;
/// How long a connection that is about to be closed is still read from, so that
/// the client sees the reason before it sees the end.
const LINGER: Duration = Duration::from_secs(2);

/// Why a connection ended, when the client is to blame.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client closed in the middle of a frame")]
    CutOff,
    #[error("nothing came for too long in the middle of {0}")]
    TooSlow(&'static str),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Refused(&'static str),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves a connection to its end; `full` turns it away.
pub(super) async fn run(
    stream: Stream,
    server: Arc<Server>,
    stop: watch::Receiver<bool>,
    full: bool,
) {
    let Stream { socket, name } = stream;
    let ended = match socket {
        StreamSocket::Unix(socket) => {
            let (input, output) = socket.into_split();
            serve(input, output, server, stop, full).await
        }
        StreamSocket::Tcp(socket) => {
            let (input, output) = socket.into_split();
            serve(input, output, server, stop, full).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection from {name} ended: {error}");
    }
}

async fn serve<R: Input, W: Output>(
    mut input: R,
    mut output: W,
    server: Arc<Server>,
    stop: watch::Receiver<bool>,
    full: bool,
) -> Result<(), Ended> {
    let greeting = greet(&mut input, &mut output, &server, full);
    timeout(HANDSHAKE_TIMEOUT, greeting).await.map_err(|_| Ended::TooSlow("the preamble"))??;
    let (replies, outgoing) = unbounded_channel();
    let id = server.next_peer.fetch_add(1, Ordering::Relaxed);
    let peer = Arc::new(server.broker.peer(id, replies));
    let writer = tokio::spawn(write(output, outgoing, Arc::downgrade(&peer), Arc::clone(&server)));
    let mut reader = Reader {
        input,
        buffer: BytesMut::new(),
        read_bytes: READ_BYTES_MIN,
        codec: FrameCodec::default(),
        slots: Arc::new(Semaphore::new(qd_protocol::IN_FLIGHT_MAX as usize)),
        producer: None,
        peer,
        server,
        stop,
        asked_to_stop: false,
    };
    let ended = reader.read().await;
    let Reader { mut input, peer, server, stop, asked_to_stop, .. } = reader;
    if !*stop.borrow() {
        // A daemon that stops answers what waits; a client that closed wants nothing any more.
        server.broker.gone(id);
    }
    drop(peer);
    // The writer ends when the last answer is written.
    let finish = async {
        if let Ok(mut output) = writer.await {
            if asked_to_stop {
                server.keep_until_exit(output);
            } else {
                // The client may have closed already.
                let _ = output.shutdown().await;
            }
        }
    };
    if ended.is_ok() {
        finish.await;
    } else {
        let _ = timeout(LINGER, async { tokio::join!(finish, discard(&mut input)) }).await;
    }
    ended
}

/// The reading half of a socket.
trait Input: AsyncRead + Send + Sync + Unpin + 'static {}
impl<T: AsyncRead + Send + Sync + Unpin + 'static> Input for T {}

/// The writing half of a socket.
trait Output: AsyncWrite + Send + Sync + Unpin + 'static {}
impl<T: AsyncWrite + Send + Sync + Unpin + 'static> Output for T {}

/// Reads and answers the preamble.
async fn greet(
    input: &mut impl Input,
    output: &mut impl Output,
    server: &Server,
    full: bool,
) -> Result<(), Ended> {
    let mut bytes = [0; CLIENT_BYTES];
    // The magic alone tells a stranger, who may never send 16 bytes.
    input.read_exact(&mut bytes[..4]).await?;
    let mut status = Status::WrongMagic;
    let mut chosen = None;
    if bytes[..4] == qd_protocol::preamble::MAGIC {
        input.read_exact(&mut bytes[4..]).await?;
        if let Ok(client) = ClientPreamble::from_bytes(&bytes) {
            chosen = VersionRange::OURS.common(client.versions);
            status = match chosen {
                None => Status::NoCommonVersion,
                Some(_) if full => Status::TooManyConnections,
                Some(_) => Status::Ready,
            };
        }
    }
    let preamble = ServerPreamble {
        versions: VersionRange::OURS,
        chosen: chosen.unwrap_or(0),
        status,
        frame_bytes_max: qd_protocol::FRAME_BYTES_MAX,
        in_flight_max: qd_protocol::IN_FLIGHT_MAX,
        message_bytes_max: qd_protocol::MESSAGE_BYTES_MAX,
        node: server.node,
        time_ms: wall_time().as_millis() as u64,
    };
    output.write_all(&preamble.to_bytes()).await?;
    match status {
        Status::Ready => Ok(()),
        Status::NoCommonVersion => Err(Ended::Refused("no protocol version in common")),
        Status::TooManyConnections => Err(Ended::Refused("too many connections")),
        _ => Err(Ended::Refused("it does not speak the qd protocol")),
    }
}

/// The reading half of a connection.
struct Reader<R> {
    input: R,
    buffer: BytesMut,
    /// Room made for the next read.
    read_bytes: usize,
    codec: FrameCodec,
    /// Places for unanswered requests.
    slots: Arc<Semaphore>,
    /// From hello; 0: its requests are not numbered.
    producer: Option<u64>,
    peer: Arc<Peer>,
    server: Arc<Server>,
    stop: watch::Receiver<bool>,
    asked_to_stop: bool,
}

impl<R: Input> Reader<R> {
    /// Reads requests until the client closes, the daemon stops, or the client breaks the rules.
    async fn read(&mut self) -> Result<(), Ended> {
        let hello_until = Instant::now() + HANDSHAKE_TIMEOUT;
        let mut frame_until = None;
        loop {
            match self.codec.decode(&mut self.buffer) {
                Ok(Some(frame)) => {
                    frame_until = None;
                    self.take(frame).await?;
                    continue;
                }
                Ok(None) => {}
                Err(error) => return Err(self.refuse_frame(error).await),
            }
            if self.buffer.is_empty() {
                // A new one: this may be the end of what was made for a large frame.
                self.buffer = BytesMut::new();
            } else if frame_until.is_none() {
                frame_until = Some(Instant::now() + FRAME_TIMEOUT);
            }
            let deadline = match self.producer {
                None => Some((hello_until, "hello")),
                Some(_) => frame_until.map(|until| (until, "a frame")),
            };
            self.buffer.reserve(self.read_bytes);
            let room = self.buffer.capacity() - self.buffer.len();
            let more = self.input.read_buf(&mut self.buffer);
            let read = async {
                match deadline {
                    Some((until, what)) => {
                        timeout_at(until, more).await.map_err(|_| Ended::TooSlow(what))
                    }
                    None => Ok(more.await),
                }
            };
            let read = tokio::select! {
                read = read => read??,
                _ = self.stop.changed() => return Ok(()),
            };
            if read == room {
                self.read_bytes = (self.read_bytes * 4).min(READ_BYTES_MAX);
            } else if read < self.read_bytes / 4 {
                self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
            }
            if read == 0 {
                return if self.buffer.is_empty() { Ok(()) } else { Err(Ended::CutOff) };
            }
        }
    }

    /// Tells the client why its frame cannot be read.
    async fn refuse_frame(&mut self, error: FrameError) -> Ended {
        if let FrameError::TooLarge { correlation, opcode, length, maximum } = error {
            let refusal = ErrorCode::FrameTooLarge.refuse(error.to_string()).with_limit(
                "frame",
                u64::from(length),
                u64::from(maximum),
            );
            self.answer(correlation, opcode, Answer::Refused(refusal)).await;
        }
        error.into()
    }

    async fn answer(&self, correlation: u32, opcode: u16, answer: Answer) {
        // The semaphore is never closed.
        if let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await {
            self.peer.reply(correlation, opcode, answer, slot);
        }
    }

    /// Takes a request in. An error ends the connection; the answer says why.
    async fn take(&mut self, frame: Frame) -> Result<(), Ended> {
        let Frame { correlation, opcode, .. } = frame;
        let bytes = frame.payload.len();
        let (request, numbering) = match Request::from_frame(frame) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.answer(correlation, opcode, Answer::Refused(error.into())).await;
                return Ok(());
            }
        };
        if let Err(refusal) = self.check_hello(&request) {
            self.answer(correlation, opcode, Answer::Refused(refusal)).await;
            return Err(Ended::Refused("hello was not the first request, or not the only one"));
        }
        let origin = self.producer.filter(|producer| *producer != 0).zip(numbering).map(
            |(producer, numbering)| Origin {
                producer,
                number: numbering.number,
                answered_below: numbering.answered_below,
            },
        );
        let work = match request {
            Request::Create(create) => Ok(Work::create(create)),
            Request::Drop(drop) => Ok(Work::drop(drop)),
            Request::Describe(describe) => Ok(Work::Describe(describe)),
            Request::List(list) => Ok(Work::List(list)),
            Request::Send(send) => Work::send(send),
            Request::Receive(receive) => Work::receive(receive),
            Request::Delete(delete) => Work::delete(delete),
            Request::Update(update) => Ok(Work::update(update)),
            Request::Extend(extend) => Work::extend(extend),
            Request::Release(release) => Work::release(release),
            Request::Discard(discard) => Work::discard(discard),
            Request::Reschedule(reschedule) => Work::reschedule(reschedule),
            Request::Reject(reject) => Work::reject(reject),
            Request::Redrive(redrive) => Work::redrive(redrive),
            Request::Cancel(cancel) => {
                self.server.broker.cancel(self.peer.id(), cancel.correlation).await;
                return Ok(());
            }
            Request::Hello(_) | Request::Ping(_) | Request::Shutdown(_) => {
                self.answer_at_once(correlation, opcode, request).await;
                return Ok(());
            }
        };
        match work {
            Ok(work) => self.submit(correlation, origin, work, bytes).await,
            Err(refusal) => self.answer(correlation, opcode, Answer::Refused(refusal)).await,
        }
        Ok(())
    }

    /// Answers what needs no engine.
    async fn answer_at_once(&mut self, correlation: u32, opcode: u16, request: Request) {
        let answer = match request {
            Request::Hello(hello) => {
                tracing::debug!("hello from {:?}", hello.client);
                Answer::Hello(Welcome { server: env!("CARGO_PKG_VERSION").to_owned() })
            }
            Request::Shutdown(_) => Answer::Shutdown(ShuttingDown),
            _ => Answer::Ping(Pong { time_ms: wall_time().as_millis() as u64 }),
        };
        let shutdown = matches!(answer, Answer::Shutdown(_));
        self.answer(correlation, opcode, answer).await;
        if shutdown {
            self.asked_to_stop = true;
            self.server.shutdown.notify_one();
        }
    }

    fn check_hello(&mut self, request: &Request) -> Result<(), Refusal> {
        match (self.producer, request) {
            (None, Request::Hello(Hello { producer, .. })) => {
                self.producer = Some(*producer);
                Ok(())
            }
            (None, _) => Err(ErrorCode::HelloExpected.refuse("the first request must be hello")),
            (Some(_), Request::Hello(_)) => {
                let text = "hello comes once, as the first request";
                Err(ErrorCode::HelloExpected.refuse(text))
            }
            (Some(_), _) => Ok(()),
        }
    }

    async fn submit(&self, correlation: u32, origin: Option<Origin>, work: Work, bytes: usize) {
        // The semaphore is never closed.
        if let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await {
            let peer = Arc::clone(&self.peer);
            let job = Job { peer, correlation, slot, origin, work };
            self.server.broker.submit(job, bytes).await;
        }
    }
}

/// Reads and forgets.
async fn discard(input: &mut impl Input) {
    let mut buffer = vec![0; 16 << 10];
    while input.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// Writes answers, as many as wait in one piece. Gives the socket back when there are no more.
async fn write<W: Output>(
    mut output: W,
    mut outgoing: UnboundedReceiver<Reply>,
    peer: std::sync::Weak<Peer>,
    server: Arc<Server>,
) -> W {
    let mut replies: Vec<Reply> = Vec::new();
    let mut out = BytesMut::new();
    let mut slots = Vec::new();
    while outgoing.recv_many(&mut replies, REPLIES_PER_WRITE).await > 0 {
        let mut waiting = replies.drain(..).peekable();
        while waiting.peek().is_some() {
            let mut bytes = 0;
            while out.len() < WRITE_BYTES
                && let Some(reply) = waiting.next()
            {
                reply.answer.put(&mut out, reply.correlation, reply.opcode);
                bytes += reply.bytes;
                slots.push(reply.slot);
            }
            if write_out(&mut output, &mut out).await.is_err() {
                return output;
            }
            slots.clear();
            if let Some(peer) = peer.upgrade()
                && peer.written(bytes)
            {
                server.broker.drained(peer.id());
            }
        }
    }
    output
}

/// Writes the whole buffer; each piece that the client takes gives it [`WRITE_TIMEOUT`] more.
async fn write_out(output: &mut impl Output, out: &mut BytesMut) -> std::io::Result<()> {
    while !out.is_empty() {
        match timeout(WRITE_TIMEOUT, output.write_buf(out)).await {
            Ok(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                tracing::debug!("connection closed: the client does not read its answers");
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
    }
    if out.capacity() > KEPT_BUFFER_BYTES {
        *out = BytesMut::new();
    }
    Ok(())
}
