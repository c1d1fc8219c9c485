//! Connecting: socket, preambles, hello.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::codec::Decoder;

use super::{ClientError, Options};
use crate::ANSWER_FRAME_BYTES_MAX;
use crate::address::Address;
use crate::frame::FrameCodec;
use crate::preamble::{ClientPreamble, MAGIC, SERVER_BYTES, ServerPreamble, Status, VersionRange};
use crate::request::{AnswerError, put_request, read_answer};
use crate::verbs::{Hello, Welcome};

/// Who answers.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub address: Address,
    pub server: ServerPreamble,
    pub welcome: Welcome,
}

/// A socket.
pub(super) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection on which hello was answered.
pub(super) struct Connection {
    pub socket: Socket,
    /// What was read behind the answer to hello.
    pub buffer: BytesMut,
    pub peer: Peer,
}

/// Why there is no connection to one address.
enum Failed {
    Io(io::Error),
    Lost(&'static str),
    Protocol(String),
    Busy,
    Versions(VersionRange),
    Hello(AnswerError),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Lost("closed before the client was welcomed"),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Lost("reset before the client was welcomed")
            }
            _ => Self::Io(error),
        }
    }
}

impl Failed {
    fn at(self, address: Address) -> ClientError {
        match self {
            Self::Io(error) => {
                let kind = error.kind();
                let reason = match kind {
                    io::ErrorKind::NotFound => "no such socket".to_owned(),
                    io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
                    io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                    _ => error.to_string(),
                };
                ClientError::Unreachable { address, kind, reason }
            }
            Self::Lost(reason) => ClientError::Lost { address, reason: reason.to_owned() },
            Self::Protocol(reason) => ClientError::Protocol { address, reason },
            Self::Busy => ClientError::Busy { address },
            Self::Versions(theirs) => {
                ClientError::Versions { address, theirs, ours: VersionRange::OURS }
            }
            Self::Hello(AnswerError::Refused(refusal)) => ClientError::Refused(Box::new(refusal)),
            Self::Hello(AnswerError::Malformed(error)) => {
                ClientError::Protocol { address, reason: format!("malformed answer: {error}") }
            }
        }
    }
}

/// Least time for one of several addresses.
const SHARE_MIN: Duration = Duration::from_secs(1);

/// Connects to the first of `addresses` that welcomes the client.
pub(super) async fn connect(
    addresses: &[Address],
    options: &Options,
    producer: u64,
) -> Result<Connection, ClientError> {
    let mut errors: Vec<ClientError> = Vec::new();
    let within = share_of(options.connect_timeout, addresses.len());
    for address in addresses {
        let attempt = timeout(within, connect_to(address, options, producer));
        let failed = match attempt.await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(failed)) => failed,
            Err(_) => {
                let text = format!("no answer within {within:?}");
                Failed::Io(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        };
        errors.push(failed.at(address.clone()));
    }
    Err(most_telling(errors))
}

/// How long one of several addresses may take: one that never answers leaves time for the others.
fn share_of(connect_timeout: Duration, addresses: usize) -> Duration {
    let addresses = u32::try_from(addresses).unwrap_or(u32::MAX).max(1);
    (connect_timeout / addresses).max(SHARE_MIN.min(connect_timeout))
}

/// The one of several errors that tells most, of equals the last one. When nobody is anywhere it
/// tells the others too.
fn most_telling(mut errors: Vec<ClientError>) -> ClientError {
    let most = (0..errors.len()).max_by_key(|at| telling(&errors[*at]));
    let none = || ClientError::Unreachable {
        address: Address::Tcp(String::new()),
        kind: io::ErrorKind::InvalidInput,
        reason: "no address was given".to_owned(),
    };
    let mut told = most.map_or_else(none, |at| errors.remove(at));
    if let ClientError::Unreachable { reason, .. } = &mut told {
        for other in errors {
            reason.push_str("; ");
            reason.push_str(&other.to_string());
        }
    }
    told
}

/// How much an error tells: that of an address where somebody is goes before that of an address
/// where nobody is.
fn telling(error: &ClientError) -> u8 {
    match error {
        ClientError::Unreachable { kind, .. } => match kind {
            io::ErrorKind::NotFound => 1,
            io::ErrorKind::ConnectionRefused => 2,
            io::ErrorKind::TimedOut => 4,
            io::ErrorKind::PermissionDenied => 5,
            _ => 3,
        },
        _ => 6,
    }
}

async fn connect_to(
    address: &Address,
    options: &Options,
    producer: u64,
) -> Result<Connection, Failed> {
    let mut socket = match address {
        Address::Unix(path) => Socket::Unix(UnixStream::connect(path).await.map_err(Failed::Io)?),
        Address::Tcp(address) => {
            let socket = TcpStream::connect(address).await.map_err(Failed::Io)?;
            tune(&socket)?;
            Socket::Tcp(socket)
        }
    };
    let hello = Hello { producer, client: options.client.clone() };
    let (buffer, server, welcome) = match &mut socket {
        Socket::Unix(socket) => introduce(socket, &hello).await?,
        Socket::Tcp(socket) => introduce(socket, &hello).await?,
    };
    let peer = Peer { address: address.clone(), server, welcome };
    Ok(Connection { socket, buffer, peer })
}

/// Sends small requests at once, and notices a server that vanished without a word: after a
/// minute of silence, or when it does not confirm what was sent for as long.
fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(socket, 60_000)?;
    Ok(())
}

/// Exchanges preambles and hello.
async fn introduce(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    hello: &Hello,
) -> Result<(BytesMut, ServerPreamble, Welcome), Failed> {
    let ours = ClientPreamble { versions: VersionRange::OURS };
    socket.write_all(&ours.to_bytes()).await?;
    let server = read_preamble(socket).await?;
    let mut buffer = BytesMut::new();
    put_request(&mut buffer, 0, None, hello);
    socket.write_all(&buffer).await?;
    buffer.clear();
    let mut codec = FrameCodec::new(ANSWER_FRAME_BYTES_MAX);
    let frame = loop {
        match codec.decode(&mut buffer) {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            Err(error) => return Err(Failed::Protocol(error.to_string())),
        }
        if socket.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    let welcome = read_answer::<Hello>(frame).map_err(Failed::Hello)?;
    Ok((buffer, server, welcome))
}

async fn read_preamble(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<ServerPreamble, Failed> {
    let mut bytes = [0; SERVER_BYTES];
    let (magic, rest) = bytes.split_at_mut(MAGIC.len());
    // The magic alone tells a stranger, who may never send 48 bytes.
    socket.read_exact(magic).await?;
    if *magic == MAGIC {
        socket.read_exact(rest).await?;
    }
    let server = ServerPreamble::from_bytes(&bytes).map_err(|error| {
        // The text names the bytes that came, which mostly tell who it is.
        Failed::Protocol(error.to_string())
    })?;
    match server.status {
        Status::Ready if VersionRange::OURS.common(server.versions) == Some(server.chosen) => {
            Ok(server)
        }
        Status::Ready | Status::NoCommonVersion => Err(Failed::Versions(server.versions)),
        Status::TooManyConnections => Err(Failed::Busy),
        Status::WrongMagic => {
            Err(Failed::Protocol("it did not recognise the client's preamble".to_owned()))
        }
        Status::Unknown(status) => {
            Err(Failed::Protocol(format!("it closes with the unknown status {status}")))
        }
    }
}
