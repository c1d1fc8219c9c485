//! What a server must offer to be measured.

use std::future::Future;

use anyhow::Result;

/// What a connection is going to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// [`Conn::send`] only.
    Send,
    /// [`Conn::take`] and [`Conn::finish`] only.
    Take,
}

/// One open connection to the server, tied to one queue.
pub trait Conn: Send + Sized + 'static {
    /// Sends `n` copies of `body`, pipelined or batched as the server allows, and returns once
    /// the server has acknowledged every one.
    fn send(&mut self, body: &[u8], n: usize) -> impl Future<Output = Result<()>> + Send;

    /// Receives up to `max` messages, and deletes them now, in the next `take` or in
    /// [`Conn::finish`]. Returns how many; 0 means that none was there.
    fn take(&mut self, max: usize) -> impl Future<Output = Result<usize>> + Send;

    /// Deletes what the last `take` left to be deleted, and returns whether there was any; comes
    /// after the last `take`.
    fn finish(&mut self) -> impl Future<Output = Result<bool>> + Send {
        async { Ok(false) }
    }
}

/// A running server.
pub trait Peer {
    /// Its connections.
    type Conn: Conn;

    /// Messages in a [`Conn::send`] of the batched workloads.
    const SEND_BATCH: usize;
    /// Messages in a [`Conn::take`] of the batched workloads.
    const TAKE_BATCH: usize;

    /// Makes an empty queue.
    async fn create(&self, queue: &str) -> Result<()>;

    /// Removes the queue with what is in it. A server whose client can tell checks here that
    /// nothing was lost and nothing delivered twice.
    async fn drop_queue(&self, queue: &str) -> Result<()>;

    /// `batch` is the most that one call on the connection will be asked for.
    async fn connect(&self, queue: &str, role: Role, batch: usize) -> Result<Self::Conn>;
}
