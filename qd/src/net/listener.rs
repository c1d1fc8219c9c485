//! Sockets that clients connect to.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use qd_protocol::Address;
use rustix::fs::Mode;
use rustix::process::umask;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc::Sender;

/// How long to wait after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that was accepted.
pub(super) struct Stream {
    pub socket: StreamSocket,
    /// The client, for the log.
    pub name: String,
}

/// Either kind of socket.
pub(super) enum StreamSocket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A socket that clients connect to; its file is removed with it.
#[derive(Debug)]
pub struct Listener {
    /// Before the socket, so that it is dropped first: while the socket is open no other file gets
    /// its inode.
    _file: Option<SocketFile>,
    socket: Socket,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("{0} is in use by another process")]
    InUse(Address),
    /// The path is taken by something that is no socket.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// Beyond the machine, which needs encryption and users.
    #[error("{0} is not a loopback address; this version serves TCP on loopback only")]
    NotLoopback(Address),
    /// The operating system refused.
    #[error("cannot listen on {address}: {error}")]
    Io {
        /// Where.
        address: Address,
        /// Why.
        error: io::Error,
    },
}

impl Listener {
    /// Listens on `address`; a Unix socket gets the permissions `mode`.
    ///
    /// A socket file that nobody listens on any more is replaced. The caller holds the lock of
    /// its data directory, so that of two daemons with the same data only one gets here.
    pub async fn bind(address: Address, mode: u32) -> Result<Self, ListenError> {
        let failed = |error| ListenError::Io { address: address.clone(), error };
        let mut file = None;
        let socket = match &address {
            Address::Unix(path) => {
                remove_stale(path, &address).await?;
                // The file has its permissions from the first moment on: whoever may connect can.
                // Nothing else of the daemon makes files meanwhile.
                let before = umask(Mode::from_raw_mode(!mode & 0o777));
                let listener = UnixListener::bind(path);
                umask(before);
                let listener = listener.map_err(failed)?;
                file = Some(SocketFile::of(path).map_err(failed)?);
                Socket::Unix(listener)
            }
            Address::Tcp(host_port) => {
                let found = tokio::net::lookup_host(host_port).await.map_err(failed)?;
                let found: Vec<_> = found.collect();
                if !found.iter().all(|address| address.ip().is_loopback()) {
                    return Err(ListenError::NotLoopback(address));
                }
                match TcpListener::bind(&found[..]).await {
                    Ok(listener) => Socket::Tcp(listener),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        return Err(ListenError::InUse(address));
                    }
                    Err(error) => return Err(failed(error)),
                }
            }
        };
        Ok(Self { _file: file, socket, address })
    }

    /// Where it listens; the port that was chosen when port 0 was asked for.
    pub fn address(&self) -> Address {
        match &self.socket {
            Socket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => Address::Tcp(address.to_string()),
                Err(_) => self.address.clone(),
            },
            Socket::Unix(_) => self.address.clone(),
        }
    }

    /// Hands every connection to `accepted` until nobody takes them any more.
    pub(super) async fn accept(self, accepted: Sender<Stream>) {
        loop {
            let stream: io::Result<Stream> = match &self.socket {
                Socket::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
                    let name = pid.map_or("unix".to_owned(), |pid| format!("unix, pid {pid}"));
                    Stream { socket: StreamSocket::Unix(stream), name }
                }),
                Socket::Tcp(listener) => listener.accept().await.map(|(stream, address)| {
                    // Only a closed socket refuses this, and that shows at the first read.
                    let _ = stream.set_nodelay(true);
                    Stream { socket: StreamSocket::Tcp(stream), name: address.to_string() }
                }),
            };
            match stream {
                Ok(stream) => {
                    if accepted.send(stream).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!("cannot accept on {}: {error}", self.address);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Removes a socket file that a daemon left behind when it was killed.
async fn remove_stale(path: &Path, address: &Address) -> Result<(), ListenError> {
    let failed = |error| ListenError::Io { address: address.clone(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(_) => Err(ListenError::InUse(address.clone())),
    }
}

/// The file of a Unix socket, removed when the daemon stops.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    /// The file of a socket that has just been bound.
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: Self::identity(path)? })
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it, and another daemon made its own there.
        if Self::identity(&self.path).is_ok_and(|found| found == self.identity) {
            // A file that cannot be removed is taken care of at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    async fn bind(path: &Path) -> Listener {
        Listener::bind(Address::Unix(path.to_owned()), 0o600).await.unwrap()
    }

    #[tokio::test]
    async fn socket_file_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(bind(&path).await);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn socket_file_of_another_daemon_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let ours = bind(&path).await;
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        UnixStream::connect(&path).unwrap();
    }
}
