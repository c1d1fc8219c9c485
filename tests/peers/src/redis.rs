//! Redis streams with one consumer group: XADD; XREADGROUP, then XACK and XDEL of the whole batch
//! in one round trip.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail, ensure};

use crate::peer::{Conn, Peer, Role};
use crate::wire::Wire;

/// The server.
#[derive(Debug)]
pub struct Redis {
    /// `HOST:PORT`.
    pub addr: String,
}

/// A connection to it.
#[derive(Debug)]
pub struct RedisConn {
    wire: Wire,
    queue: String,
    consumer: String,
}

/// Numbers the consumers, whose names are those of the group.
static CONSUMERS: AtomicUsize = AtomicUsize::new(0);

impl Peer for Redis {
    type Conn = RedisConn;
    const SEND_BATCH: usize = 100;
    const TAKE_BATCH: usize = 100;

    async fn create(&self, queue: &str) -> Result<()> {
        let mut conn = self.connect(queue, Role::Send, 1).await?;
        conn.call(&["DEL", queue]).await?;
        conn.call(&["XGROUP", "CREATE", queue, "g", "$", "MKSTREAM"]).await
    }

    async fn drop_queue(&self, queue: &str) -> Result<()> {
        self.connect(queue, Role::Send, 1).await?.call(&["DEL", queue]).await
    }

    async fn connect(&self, queue: &str, _role: Role, _batch: usize) -> Result<RedisConn> {
        Ok(RedisConn {
            wire: Wire::connect(&self.addr).await?,
            queue: queue.to_owned(),
            consumer: format!("c{}", CONSUMERS.fetch_add(1, Ordering::Relaxed)),
        })
    }
}

impl RedisConn {
    fn command<'a>(&mut self, words: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<()> {
        let out = &mut self.wire.out;
        write!(out, "*{}\r\n", words.len())?;
        for word in words {
            write!(out, "${}\r\n", word.len())?;
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    async fn call(&mut self, words: &[&str]) -> Result<()> {
        self.command(words.iter().map(|word| word.as_bytes()))?;
        self.wire.flush().await?;
        self.reply().await?;
        Ok(())
    }

    /// The bulk strings of one reply, however nested, in order.
    async fn reply(&mut self) -> Result<Vec<Vec<u8>>> {
        let (mut left, mut bulks) = (1i64, vec![]);
        while left > 0 {
            left -= 1;
            let line = self.wire.line().await?;
            let (kind, rest) = line.split_at(1);
            match kind {
                "*" => left += rest.parse::<i64>()?.max(0),
                "$" => {
                    // -1 is the length of a string that is not there.
                    if let Ok(len) = usize::try_from(rest.parse::<i64>()?) {
                        let mut bulk = self.wire.bytes(len + 2).await?;
                        bulk.truncate(len);
                        bulks.push(bulk);
                    }
                }
                "-" => bail!("redis: {rest}"),
                _ => {}
            }
        }
        Ok(bulks)
    }
}

impl Conn for RedisConn {
    async fn send(&mut self, body: &[u8], n: usize) -> Result<()> {
        let queue = self.queue.clone();
        for _ in 0..n {
            self.command([b"XADD", queue.as_bytes(), b"*", b"d", body].into_iter())?;
        }
        self.wire.flush().await?;
        for _ in 0..n {
            ensure!(!self.reply().await?.is_empty(), "XADD gave no id");
        }
        Ok(())
    }

    async fn take(&mut self, max: usize) -> Result<usize> {
        let (queue, consumer, count) = (self.queue.clone(), self.consumer.clone(), max.to_string());
        let read = ["XREADGROUP", "GROUP", "g", &consumer, "COUNT", &count, "STREAMS", &queue, ">"];
        self.command(read.iter().map(|word| word.as_bytes()))?;
        self.wire.flush().await?;
        // The stream's name, then an id, a field name and a value for each entry.
        let bulks = self.reply().await?;
        let ids: Vec<&[u8]> = bulks.iter().skip(1).step_by(3).map(Vec::as_slice).collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let mut ack: Vec<&[u8]> = vec![b"XACK", queue.as_bytes(), b"g"];
        ack.extend(&ids);
        let mut del: Vec<&[u8]> = vec![b"XDEL", queue.as_bytes()];
        del.extend(&ids);
        self.command(ack.into_iter())?;
        self.command(del.into_iter())?;
        self.wire.flush().await?;
        let done = format!(":{}", ids.len());
        for command in ["XACK", "XDEL"] {
            let line = self.wire.line().await?;
            ensure!(line == done, "{command} of {} entries: {line}", ids.len());
        }
        Ok(ids.len())
    }
}
