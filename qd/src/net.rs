//! Connections: accepting them, and for each one the preamble, frames in, frames out.
//!
//! Always true here:
//!
//! - A connection has at most [`qd_protocol::IN_FLIGHT_MAX`] unanswered requests; past that it is
//!   not read from. An answer's place is free when it is written.
//! - Whoever has begun a preamble or a frame must end it within a time; whoever does not take
//!   its answers for [`WRITE_TIMEOUT`] is cut off. An idle connection costs no timer and little memory.
//! - A reader and its writer end together, and the broker is told as soon as the client has hung
//!   up, also while the connection is not read from: no receive waits for somebody who is gone.
//! - What a connection holds of a frame is at most about [`LARGE_FRAME_BYTES`], or counted in
//!   [`LARGE_FRAMES_BYTES_MAX`] for all of them, until the engine's mailbox counts it.
//! - What one connection sends never ends another one.

mod connection;
mod listener;
mod reader;
mod writer;

use std::any::Any;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use listener::{ListenError, Listener};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use crate::broker::Broker;

/// Longest time from the connection to the end of hello: 10 s.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time from the first to the last byte of a frame: 30 s.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time in which a client takes nothing of its answers: 60 s.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of all frames together that are over [`LARGE_FRAME_BYTES`] and not yet in the engine's
/// mailbox: 128 MiB, seven of the largest frames at a time. A connection does not read on in such
/// a frame until there is room for all of it.
pub const LARGE_FRAMES_BYTES_MAX: usize = 128 << 20;
/// Announced length over which a frame needs room among those of all connections: 128 KiB, which
/// a connection holds anyway when it reads many small ones.
pub const LARGE_FRAME_BYTES: usize = 128 << 10;
/// How long open connections may take to read their last answers when the daemon stops: 5 s.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long clients may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From the connection to the end of hello.
    pub handshake: Duration,
    /// From the first to the last byte of a frame.
    pub frame: Duration,
    /// Without taking anything of the answers.
    pub write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { handshake: HANDSHAKE_TIMEOUT, frame: FRAME_TIMEOUT, write: WRITE_TIMEOUT }
    }
}

/// What all connections share.
#[derive(Debug)]
pub struct Server {
    /// The engine.
    pub broker: Broker,
    /// Random identity of this node's data.
    pub node: u64,
    /// Most connections at a time.
    pub connections_max: usize,
    /// How long clients may take; tests shorten it.
    pub timeouts: Timeouts,
    /// Room for large frames, in bytes: [`LARGE_FRAMES_BYTES_MAX`] while there are none. No less
    /// than one largest frame.
    pub large_frames: Arc<Semaphore>,
    /// Told when a client asks the daemon to stop.
    pub shutdown: Notify,
    /// Number of the next connection.
    pub next_peer: AtomicU64,
    /// See [`Server::keep_until_exit`].
    kept: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Server {
    /// A server without connections.
    pub fn new(broker: Broker, node: u64, connections_max: usize) -> Self {
        Self {
            broker,
            node,
            connections_max,
            timeouts: Timeouts::default(),
            large_frames: Arc::new(Semaphore::new(LARGE_FRAMES_BYTES_MAX)),
            shutdown: Notify::new(),
            next_peer: AtomicU64::new(1),
            kept: Mutex::default(),
        }
    }

    /// Leaves a socket open until the process ends: who asked the daemon to stop sees the
    /// connection close when the daemon is gone and its data is free.
    fn keep_until_exit(&self, socket: impl Any + Send) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(socket));
    }
}

/// Serves the listeners until `stop` changes, then closes the connections.
pub async fn serve(listeners: Vec<Listener>, server: Arc<Server>, stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let (accepted, mut streams) = tokio::sync::mpsc::channel(64);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(listener.accept(accepted.clone()));
    }
    drop(accepted);
    let mut stopped = stop.clone();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(stream) = streams.recv() => {
                let full = connections.len() >= server.connections_max;
                let server = Arc::clone(&server);
                connections.spawn(connection::run(stream, server, stop.clone(), full));
            }
            // Takes finished connections out of the set.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    accepting.shutdown().await;
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
        tracing::warn!("closing connections that do not read their answers");
    }
}
