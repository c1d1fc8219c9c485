//! The tasks of a client: one writer and one reader per connection, and the supervisor, who
//! connects again.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::select;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::Decoder;

use super::connect::{Connection, Socket, connect};
use super::shared::Shared;
use super::state::Effects;
use super::{ClientError, Options};
use crate::ANSWER_FRAME_BYTES_MAX;
use crate::error::ErrorCode;
use crate::frame::FrameCodec;

/// How long a closed client waits for the server to close too.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long a server that shuts down may take to answer what it has begun.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// How long answers are still read after writing failed.
const READ_ON: Duration = Duration::from_secs(1);
/// A connection that lasted as long counts as good, although no answer came over it.
const STEADY: Duration = Duration::from_secs(5);
/// First and longest pause between attempts to connect; each is twice the one before.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// What a read has room for, at least, and how much is made when there is less.
const READ_ROOM: (usize, usize) = (16 << 10, 64 << 10);
/// Capacity of a read buffer above which it is not kept.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// How a connection ended.
enum Ended {
    /// Requests may be repeated over another one.
    Lost(String),
    /// The server breaks the protocol.
    Protocol(String),
}

/// Keeps a client connected until it is closed, or gives up. Without a `connection` it begins by
/// making one.
pub(super) async fn supervise(shared: Arc<Shared>, mut connection: Option<Connection>) {
    let mut guard = Guard { shared: &shared, ended: false };
    let mut retry = None;
    let mut loss = "no connection".to_owned();
    loop {
        let mut connected = connection.take();
        if connected.is_none() {
            let retry = retry.get_or_insert_with(|| Retry::new(&shared.options));
            connected = connect_again(&shared, retry, &loss).await;
        }
        let Some(Connection { socket, buffer, peer }) = connected else {
            break;
        };
        if !shared.up(peer) {
            shared.lost("closed by this client", false);
            break;
        }
        let since = Instant::now();
        let ended = match socket {
            Socket::Unix(socket) => {
                let (input, output) = socket.into_split();
                carry(&shared, input, output, buffer).await
            }
            Socket::Tcp(socket) => {
                let (input, output) = socket.into_split();
                carry(&shared, input, output, buffer).await
            }
        };
        let good = shared.state().has_answered() || since.elapsed() >= STEADY;
        match ended {
            Ended::Protocol(reason) => {
                let address = shared.state().peer.address.clone();
                let error = ClientError::Protocol { address, reason };
                shared.give_up(error.clone(), &error);
                break;
            }
            Ended::Lost(reason) => {
                if !shared.lost(&reason, true) {
                    break;
                }
                loss = reason;
            }
        }
        // A server that dies of every repeat must not keep calls waiting for ever.
        if good {
            retry = None;
        }
    }
    guard.ended = true;
}

/// Fails what waits if the supervisor ends in another way than by its last line: with its runtime.
struct Guard<'a> {
    shared: &'a Shared,
    ended: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.lost("its runtime has ended", false);
        }
    }
}

/// `None`: the calls know by now that there will be no connection.
async fn connect_again(shared: &Shared, retry: &mut Retry, loss: &str) -> Option<Connection> {
    let result = select! {
        result = retry.connect(shared, loss) => result,
        () = shared.stop.cancelled() => {
            shared.lost("closed by this client", false);
            return None;
        }
    };
    match result {
        Ok(connection) => Some(connection),
        Err(error) => {
            let in_flight = shared.state().lost_error(loss);
            shared.give_up(error, &in_flight);
            None
        }
    }
}

/// Attempts to connect after one loss.
struct Retry {
    until: Instant,
    /// Before the next attempt; `None` before the first one.
    pause: Option<Duration>,
}

impl Retry {
    fn new(options: &Options) -> Self {
        Self { until: Instant::now() + options.retry_for, pause: None }
    }

    /// Makes at least one attempt after a good connection, and no further one once the time is
    /// over.
    async fn connect(&mut self, shared: &Shared, loss: &str) -> Result<Connection, ClientError> {
        let mut options = shared.options.clone();
        let mut error = shared.state().lost_error(loss);
        loop {
            if let Some(pause) = self.pause {
                let pause = jittered(pause);
                if is_final(&error) || Instant::now() + pause >= self.until {
                    return Err(error);
                }
                sleep(pause).await;
            }
            self.pause = Some(self.pause.map_or(BACKOFF.0, |pause| (pause * 2).min(BACKOFF.1)));
            let left = self.until.saturating_duration_since(Instant::now());
            if !shared.options.retry_for.is_zero() {
                options.connect_timeout = shared.options.connect_timeout.min(left.max(BACKOFF.1));
            }
            match connect(&shared.addresses, &options, shared.producer).await {
                Ok(connection) => return Ok(connection),
                Err(failed) => error = failed,
            }
        }
    }
}

/// From half of `pause` to all of it, so that clients do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let share = getrandom::u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + 0.5 * f64::from(share) / f64::from(u32::MAX))
}

/// True when another attempt would end in the same way.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::Versions { .. } | ClientError::Protocol { .. } => true,
        ClientError::Refused(refusal) => refusal.code != ErrorCode::Closing,
        _ => false,
    }
}

/// Writes requests and reads answers until the connection ends.
async fn carry<R, W>(shared: &Arc<Shared>, input: R, output: W, buffer: BytesMut) -> Ended
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut writer = tokio::spawn(write(Arc::clone(shared), output));
    let mut written = false;
    let ended = select! {
        ended = read(shared, input, buffer) => ended,
        ended = async {
            let result = (&mut writer).await;
            written = true;
            match result {
                Ok(Ok(())) => {
                    sleep(CLOSE_WITHIN).await;
                    Ended::Lost("closed by this client".to_owned())
                }
                Ok(Err(error)) => {
                    sleep(READ_ON).await;
                    Ended::Lost(error.to_string())
                }
                Err(error) => Ended::Lost(error.to_string()),
            }
        } => ended,
    };
    if !written {
        // The next connection's frames must not get into this one's hands.
        writer.abort();
        let _ = writer.await;
    }
    ended
}

/// Writes what waits, all in one piece, until the client is closed.
async fn write(shared: Arc<Shared>, mut output: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        if shared.state().is_busy() {
            // Let the other calls add their frames.
            yield_now().await;
        }
        match shared.take_outgoing() {
            Some(bytes) if bytes.is_empty() => shared.to_write.notified().await,
            Some(bytes) => output.write_all(&bytes).await?,
            None => return output.shutdown().await,
        }
    }
}

/// Reads answers and gives them to their calls.
async fn read(shared: &Shared, mut input: impl AsyncRead + Unpin, mut buffer: BytesMut) -> Ended {
    let mut codec = FrameCodec::new(ANSWER_FRAME_BYTES_MAX);
    let mut frames = Vec::new();
    let mut effects = Effects::default();
    let mut drain_until = None;
    loop {
        let bad = loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        if !frames.is_empty() {
            if let Err(reason) = shared.complete(&mut frames, &mut effects) {
                return Ended::Protocol(reason);
            }
            let state = shared.state();
            if state.is_drained() {
                return Ended::Lost("the server is shutting down".to_owned());
            }
            if drain_until.is_none() && state.is_draining() {
                drain_until = Some(Instant::now() + DRAIN_WITHIN);
            }
        }
        if let Some(reason) = bad {
            return Ended::Protocol(reason);
        }
        make_room(&mut buffer);
        let more = input.read_buf(&mut buffer);
        let read = match drain_until {
            None => more.await,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                timeout(left, more).await.unwrap_or(Ok(0))
            }
        };
        match read {
            Ok(0) => return Ended::Lost("closed by the server".to_owned()),
            Ok(_) => {}
            Err(error) => return Ended::Lost(error.to_string()),
        }
    }
}

fn make_room(buffer: &mut BytesMut) {
    let (least, more) = READ_ROOM;
    if buffer.is_empty() && buffer.capacity() > KEPT_BUFFER_BYTES {
        *buffer = BytesMut::with_capacity(more);
    } else if buffer.capacity() - buffer.len() < least {
        buffer.reserve(more);
    }
}
