//! The async client.

use std::time::Duration;

use crate::address::Address;
use crate::error::Refusal;
use crate::preamble::VersionRange;
use crate::verbs::Verb;

/// How a client connects and repeats.
#[derive(Debug, Clone)]
pub struct Options {
    /// Program and version, for the server's log: `qctl 0.1.0`.
    pub client: String,
    /// Longest time for one attempt to connect and be welcomed. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a call goes on reconnecting and repeating itself after its connection was lost;
    /// 0: not at all. Default 0.
    pub retry_for: Duration,
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No connection to any of the addresses. `kind` tells a refused permission from a missing
    /// socket and from nobody listening.
    #[error("cannot connect to {address}: {reason}")]
    Unreachable {
        /// The last address tried.
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
    /// The server refused the request.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
}

/// A cheap handle on one connection; clones share it.
#[derive(Debug, Clone)]
pub struct Client {}

impl Client {
    /// Connects to the first of `addresses` that answers.
    pub async fn connect(_addresses: &[Address], _options: Options) -> Result<Self, ClientError> {
        std::future::pending().await
    }

    /// Sends the request and waits for its answer. Calls may run side by side on one client.
    /// Dropping the future of a parked receive cancels it on the server.
    pub async fn call<V: Verb>(&self, _verb: V) -> Result<V::Answer, ClientError> {
        std::future::pending().await
    }
}
