//! NATS JetStream: a work-queue stream in file storage and one durable pull consumer. Publishes
//! and acks both ask for a reply, and wait for it.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::peer::{Conn, Peer, Role};
use crate::wire::Wire;

/// The server.
#[derive(Debug)]
pub struct Nats {
    /// `HOST:PORT`.
    pub addr: String,
}

/// A connection to it.
#[derive(Debug)]
pub struct NatsConn {
    wire: Wire,
    queue: String,
    inbox: String,
    /// Reply subjects of messages delivered and not yet acked.
    pending: Vec<String>,
}

enum Frame {
    /// A reply on our inbox, with its payload.
    Reply(Vec<u8>),
    /// A message of the stream, with the subject to ack it on.
    Message(String),
    /// A status frame: the pull request has ended.
    Status,
}

/// How long a pull may go without a first message, and without a further one: a request that is
/// filled in part is not always followed by a status.
const FIRST_WITHIN: Duration = Duration::from_millis(200);
const NEXT_WITHIN: Duration = Duration::from_millis(20);

/// Numbers the inboxes, which all connections share a name space for.
static INBOXES: AtomicUsize = AtomicUsize::new(0);

impl Peer for Nats {
    type Conn = NatsConn;
    const SEND_BATCH: usize = 500;
    const TAKE_BATCH: usize = 200;

    async fn create(&self, queue: &str) -> Result<()> {
        let mut conn = self.connect(queue, Role::Send, 1).await?;
        let stream = format!(
            r#"{{"name":"{queue}","subjects":["{queue}.in"],"retention":"workqueue","storage":"file","num_replicas":1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"max_consumers":-1,"discard":"old"}}"#
        );
        conn.api(&format!("STREAM.CREATE.{queue}"), &stream).await?;
        let consumer = format!(
            r#"{{"stream_name":"{queue}","config":{{"durable_name":"c","deliver_policy":"all","ack_policy":"explicit","ack_wait":600000000000,"max_ack_pending":100000,"max_waiting":512,"replay_policy":"instant"}}}}"#
        );
        conn.api(&format!("CONSUMER.DURABLE.CREATE.{queue}.c"), &consumer).await
    }

    async fn drop_queue(&self, queue: &str) -> Result<()> {
        let mut conn = self.connect(queue, Role::Send, 1).await?;
        conn.api(&format!("STREAM.DELETE.{queue}"), "").await
    }

    async fn connect(&self, queue: &str, _role: Role, _batch: usize) -> Result<NatsConn> {
        let mut wire = Wire::connect(&self.addr).await?;
        wire.line().await?; // INFO
        let inbox = format!("_INBOX.b{}", INBOXES.fetch_add(1, Ordering::Relaxed));
        write!(
            wire.out,
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\
             \"no_responders\":true,\"protocol\":1}}\r\nSUB {inbox} 1\r\nPING\r\n"
        )?;
        wire.flush().await?;
        ensure!(wire.line().await? == "PONG", "no PONG");
        Ok(NatsConn { wire, queue: queue.to_owned(), inbox, pending: vec![] })
    }
}

impl NatsConn {
    fn publish(&mut self, subject: &str, body: &[u8]) -> Result<()> {
        let Self { wire, inbox, .. } = self;
        write!(wire.out, "PUB {subject} {inbox} {}\r\n", body.len())?;
        wire.out.extend_from_slice(body);
        wire.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    async fn frame(&mut self) -> Result<Frame> {
        loop {
            let line = self.wire.line().await?;
            let words: Vec<&str> = line.split(' ').collect();
            match words[0] {
                "MSG" | "HMSG" => {
                    let headers = words[0] == "HMSG";
                    let len: usize = words.last().context("MSG")?.parse()?;
                    let ack = words.iter().find(|word| word.starts_with("$JS.ACK"));
                    let ack = ack.map(|word| (*word).to_owned());
                    let mut body = self.wire.bytes(len + 2).await?;
                    body.truncate(len);
                    return Ok(match ack {
                        Some(subject) => Frame::Message(subject),
                        None if headers => Frame::Status,
                        None => Frame::Reply(body),
                    });
                }
                "PING" => {
                    self.wire.out.extend_from_slice(b"PONG\r\n");
                    self.wire.flush().await?;
                }
                "-ERR" => bail!("nats: {line}"),
                _ => {}
            }
        }
    }

    /// Waits for a reply, putting aside messages that come in between.
    async fn reply(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.frame().await? {
                Frame::Reply(body) => return Ok(body),
                Frame::Message(subject) => self.pending.push(subject),
                Frame::Status => {}
            }
        }
    }

    async fn api(&mut self, call: &str, body: &str) -> Result<()> {
        self.publish(&format!("$JS.API.{call}"), body.as_bytes())?;
        self.wire.flush().await?;
        let reply = String::from_utf8(self.reply().await?)?;
        ensure!(!reply.contains("\"error\""), "{call}: {reply}");
        Ok(())
    }
}

impl Conn for NatsConn {
    async fn send(&mut self, body: &[u8], n: usize) -> Result<()> {
        let subject = format!("{}.in", self.queue);
        for _ in 0..n {
            self.publish(&subject, body)?;
        }
        self.wire.flush().await?;
        for _ in 0..n {
            let reply = self.reply().await?;
            let stored = reply.starts_with(b"{\"stream\"");
            ensure!(stored, "publish: {}", String::from_utf8_lossy(&reply));
        }
        Ok(())
    }

    async fn take(&mut self, max: usize) -> Result<usize> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.c", self.queue);
        let request = format!("{{\"batch\":{max},\"no_wait\":true}}");
        self.publish(&subject, request.as_bytes())?;
        self.wire.flush().await?;
        while self.pending.len() < max {
            if !self.wire.has_input() {
                let within = if self.pending.is_empty() { FIRST_WITHIN } else { NEXT_WITHIN };
                match tokio::time::timeout(within, self.wire.wait_input()).await {
                    Ok(waited) => waited?,
                    Err(_) => break,
                }
            }
            match self.frame().await? {
                Frame::Message(subject) => self.pending.push(subject),
                Frame::Status => break,
                Frame::Reply(_) => {}
            }
        }
        let acks = std::mem::take(&mut self.pending);
        for subject in &acks {
            self.publish(subject, b"+ACK")?;
        }
        self.wire.flush().await?;
        for _ in 0..acks.len() {
            self.reply().await?;
        }
        Ok(acks.len())
    }
}
