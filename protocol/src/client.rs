//! The async client: many calls side by side on one connection, repeated after its loss.
//!
//! Always true here:
//!
//! - A call that changes state has a number, counted from 1, which its repeats keep; frames leave
//!   in the order of their numbers, repeats too. `answered_below` never passes a number that may
//!   still be repeated.
//! - At most the server's `in_flight_max` requests are unanswered, at most
//!   [`OUTGOING_BYTES_MAX`] bytes and one frame wait to be written, and at most
//!   [`UNANSWERED_BYTES_MAX`] bytes and one frame are kept for repeats; past that calls wait.
//! - What a server may have carried out is not repeated at one with other data, unless it changes
//!   nothing or is a receive.
//! - Every call ends: by an answer, a refusal, or an error after the connection was lost for good.
//! - A lock is held for as long as it takes to encode one request, never across an await.
//!
//! ```text
//! calls ─► outgoing buffer ─► writer ─► socket ─► reader ─► slot of the call, by correlation id
//!              ▲                                                │
//!              └── repeats, after the supervisor reconnected ◄──┘ connection lost
//! ```
//!
//! A [`Client`] runs in the tokio runtime, current-thread or multi-thread, in which it was
//! connected. Without [`Client::close`], frames not yet written when its last handle is dropped
//! are written only if the runtime goes on.

mod connect;
mod pending;
mod shared;
mod slots;
mod state;
mod supervise;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::error::Refusal;
use crate::preamble::{ServerPreamble, VersionRange};
use crate::verbs::{Verb, Welcome};

pub use pending::Pending;
pub use state::{OUTGOING_BYTES_MAX, UNANSWERED_BYTES_MAX};

use shared::Handle;

/// Longest useful [`Options::retry_for`]: a server forgets a producer that was idle for longer.
pub const RETRY_FOR_MAX: Duration = Duration::from_secs(600);

/// How a client connects and repeats.
#[derive(Debug, Clone)]
pub struct Options {
    /// Program and version, for the server's log: `qctl 0.1.0`.
    pub client: String,
    /// Longest time for one attempt to connect and be welcomed; of several addresses each has an
    /// equal part of it, and at least 1 s. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a call goes on reconnecting and repeating itself after its connection was lost;
    /// 0: not at all; at most [`RETRY_FOR_MAX`], more counts as that. Default 0.
    pub retry_for: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            client: concat!("qd-protocol ", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            retry_for: Duration::ZERO,
        }
    }
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No connection to any of the addresses; the request was not sent. `kind` tells a refused
    /// permission (`PermissionDenied`) from a missing socket (`NotFound`), nobody listening
    /// (`ConnectionRefused`) and no answer in time (`TimedOut`).
    #[error("cannot connect to {address}: {reason}")]
    Unreachable {
        /// Of the addresses tried, the one whose error tells most; the last of equals. The reason
        /// has the others.
        address: Address,
        /// Of the error of the operating system.
        kind: std::io::ErrorKind,
        /// For people.
        reason: String,
    },
    /// The connection was lost before the answer came; the request may have been carried out.
    #[error("connection to {address} lost: {reason}")]
    Lost {
        /// The server's.
        address: Address,
        /// For people.
        reason: String,
    },
    /// The other side is no qd, or breaks the protocol.
    #[error("protocol error from {address}: {reason}")]
    Protocol {
        /// The server's.
        address: Address,
        /// For people.
        reason: String,
    },
    /// No protocol version in common.
    #[error("{address} speaks protocol version {theirs}, this client {ours}")]
    Versions {
        /// The server's.
        address: Address,
        /// What the server speaks.
        theirs: VersionRange,
        /// What the client speaks.
        ours: VersionRange,
    },
    /// The server is at its limit of connections.
    #[error("{address} has too many connections")]
    Busy {
        /// The server's.
        address: Address,
    },
    /// The server refused the request, or the client did because the server would: then the code
    /// is `frame_too_large` and nothing was sent.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
}

/// A cheap handle on one connection; clones share it. The connection ends with the last handle
/// and the last [`Pending`].
#[derive(Debug, Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

impl Client {
    /// Connects to the first of `addresses` that answers. Each attempt takes at most
    /// [`Options::connect_timeout`].
    pub async fn connect(addresses: &[Address], options: Options) -> Result<Self, ClientError> {
        let handle = Arc::new(Handle::connect(addresses.to_vec(), options).await?);
        Ok(Self { handle })
    }

    /// Sends the request and waits for its answer. Calls may run side by side on one client.
    ///
    /// After the connection was lost the call goes on for [`Options::retry_for`]: it is repeated
    /// over a new connection under its number, so that it is carried out once; where the next server
    /// that answers has other data it fails with [`ClientError::Lost`], unless it changes nothing or
    /// is a receive that settles nothing. With `retry_for`
    /// 0 it fails at once; the next call then makes one attempt to connect again.
    ///
    /// Dropping the future of a parked receive cancels it on the server. Leases taken by an answer
    /// that crosses the cancel end by their visibility timeout; a caller that needs these messages
    /// uses [`Client::start`] and [`Pending::cancel`]. Any other call whose future is dropped is
    /// carried out or not.
    pub async fn call<V: Verb>(&self, verb: V) -> Result<V::Answer, ClientError> {
        self.start(verb).await?.await
    }

    /// Puts the request into the outgoing stream, waiting for room there, and leaves the answer to
    /// be awaited. Requests that one task starts one after the other leave in that order.
    pub async fn start<V: Verb>(&self, verb: V) -> Result<Pending<V>, ClientError> {
        let correlation = self.handle.begin(&verb).await?;
        Ok(Pending::new(Arc::clone(&self.handle), correlation))
    }

    /// Limits, node and time at connection, as the server of the last connection gave them.
    pub fn server(&self) -> ServerPreamble {
        self.handle.shared.state().peer.server
    }

    /// How the server of the last connection introduced itself.
    pub fn welcome(&self) -> Welcome {
        self.handle.shared.state().peer.welcome.clone()
    }

    /// Address of the last connection.
    pub fn address(&self) -> Address {
        self.handle.shared.state().peer.address.clone()
    }

    /// Random number of this producer, the same over all its connections; never 0.
    pub fn producer(&self) -> u64 {
        self.handle.shared.producer
    }

    /// Writes what waits, lets the server answer what it has, and closes the connection; at most
    /// 5 s. Calls of other clones that are not answered by then fail with [`ClientError::Lost`],
    /// and so do later ones.
    pub async fn close(self) {
        self.handle.close().await;
    }
}
