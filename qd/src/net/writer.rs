//! The writing half of a connection: answers out.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::Server;
use super::connection::Output;
use crate::broker::{Peer, Reply};

/// Answers are gathered up to about this many bytes for one write.
const WRITE_BYTES: usize = 256 << 10;
/// Most answers taken from the channel at once.
const REPLIES_PER_WRITE: usize = 128;
/// A buffer that has grown above this is given back once it is empty.
const KEPT_BUFFER_BYTES: usize = 256 << 10;

/// Writes answers, as many as wait in one piece. Gives the socket back when there are no more, or
/// when the client takes none; then the channel closes, which ends the reader.
pub(super) async fn write<W: Output>(
    mut output: W,
    mut outgoing: UnboundedReceiver<Reply>,
    peer: Weak<Peer>,
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
            if write_out(&mut output, &mut out, server.timeouts.write).await.is_err() {
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

/// Writes the whole buffer; each piece that the client takes gives it as long as `within` more.
async fn write_out(
    output: &mut impl Output,
    out: &mut BytesMut,
    within: Duration,
) -> std::io::Result<()> {
    while !out.is_empty() {
        match timeout(within, output.write_buf(out)).await {
            Ok(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
    if out.capacity() > KEPT_BUFFER_BYTES {
        *out = BytesMut::new();
    }
    Ok(())
}
