//! One connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qd_protocol::frame::FrameError;
use qd_protocol::preamble::{CLIENT_BYTES, ClientPreamble, ServerPreamble, Status, VersionRange};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Server;
use super::listener::{Stream, StreamSocket};
use super::reader::Reader;
use super::writer::write;
use crate::clock::wall_time;

/// How long a connection that is about to be closed is still read from, so that
/// the client sees the reason before it sees the end.
const LINGER: Duration = Duration::from_secs(2);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client closed in the middle of a frame")]
    CutOff,
    #[error("nothing came for too long in the middle of {0}")]
    TooSlow(&'static str),
    #[error("the client does not take its answers")]
    NobodyReads,
    #[error("the client hung up")]
    HungUp,
    #[error("the daemon stops")]
    Stopping,
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
    mut stop: watch::Receiver<bool>,
    full: bool,
) -> Result<(), Ended> {
    let greeting = greet(&mut input, &mut output, &server, full);
    let within = server.timeouts.handshake;
    tokio::select! {
        greeted = timeout(within, greeting) => {
            greeted.map_err(|_| Ended::TooSlow("the preamble"))??;
        }
        // Nobody is owed an answer yet.
        _ = stop.changed() => return Ok(()),
    }
    let (replies, outgoing) = unbounded_channel();
    let id = server.next_peer.fetch_add(1, Ordering::Relaxed);
    let peer = Arc::new(server.broker.peer(id, replies.clone()));
    let writer = tokio::spawn(write(output, outgoing, Arc::downgrade(&peer), Arc::clone(&server)));
    let mut reader = Reader::new(input, peer, replies, Arc::clone(&server), stop.clone());
    let ended = match reader.read().await {
        Err(Ended::Stopping) => Ok(()),
        ended => ended,
    };
    let asked_to_stop = reader.asked_to_stop;
    // From here on only requests that are being carried out hold the peer, and so the writer.
    let mut input = reader.into_input();
    if !*stop.borrow() {
        // A daemon that stops answers what waits; a client that closed wants nothing any more.
        server.broker.gone(id);
    }
    let cut = writer.abort_handle();
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
        // Nothing of the connection may outlive its place among those that are counted.
        cut.abort();
    }
    ended
}

/// The reading half of a socket.
pub(super) trait Input: AsyncRead + Send + Sync + Unpin + 'static {
    /// Waits until the client has closed its sending side, whatever of what it sent is unread.
    fn closed(&self) -> impl Future<Output = Closed> + Send;
}

/// What a client has closed of its connection.
pub(super) enum Closed {
    /// Its sending side: it may wait for answers.
    Sending,
    /// All of it.
    Both,
}

macro_rules! input {
    ($($half:ty),+) => {
        $(impl Input for $half {
            async fn closed(&self) -> Closed {
                // Of all interests only this one is met by the end of the input and not by input:
                // there are no urgent bytes, because no socket here is registered for them.
                // An error means that the runtime ends, and all connections with it.
                if self.ready(Interest::PRIORITY).await.is_err() {
                    return Closed::Both;
                }
                // The end of the input is known for good, so this waits for nothing.
                match self.ready(Interest::PRIORITY | Interest::WRITABLE).await {
                    Ok(ready) if !ready.is_write_closed() => Closed::Sending,
                    _ => Closed::Both,
                }
            }
        })+
    };
}

input!(tokio::net::unix::OwnedReadHalf, tokio::net::tcp::OwnedReadHalf);

/// The writing half of a socket.
pub(super) trait Output: AsyncWrite + Send + Sync + Unpin + 'static {}
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

/// Reads and forgets.
async fn discard(input: &mut impl Input) {
    let mut buffer = vec![0; 16 << 10];
    while input.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}
