//! RabbitMQ over AMQP 0-9-1: persistent messages to a durable queue with publisher confirms; a
//! push consumer with a prefetch window and manual acks. AMQP has no answer to an ack, so `take`
//! returns once the ack is written.
//!
//! Class and method numbers and the layout of frames are those of the AMQP 0-9-1 specification.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::peer::{Conn, Peer, Role};
use crate::wire::Wire;

/// The server. Its user `guest` has the password `guest`.
#[derive(Debug)]
pub struct Rabbit {
    /// `HOST:PORT`.
    pub addr: String,
    /// The `x-queue-type` argument: "quorum" or "classic".
    pub queue_type: &'static str,
}

/// A connection to it, with channel 1 open.
#[derive(Debug)]
pub struct RabbitConn {
    wire: Wire,
    queue: String,
    /// Messages published so far: the delivery tag of the last one.
    published: u64,
}

/// How long an empty queue is waited for.
const FIRST_WITHIN: Duration = Duration::from_millis(200);

/// Classes of methods.
const CONNECTION: u16 = 10;
const CHANNEL: u16 = 20;
const QUEUE: u16 = 50;
const BASIC: u16 = 60;
const CONFIRM: u16 = 85;

/// Types of frames, and the byte at the end of each.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;

/// The argument bytes of a method.
#[derive(Default)]
struct Args(Vec<u8>);

impl Args {
    fn u8(mut self, v: u8) -> Self {
        self.0.push(v);
        self
    }
    fn u16(mut self, v: u16) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    fn short(mut self, s: &str) -> Self {
        self.0.push(s.len() as u8);
        self.0.extend(s.as_bytes());
        self
    }
    fn long(self, bytes: &[u8]) -> Self {
        let mut args = self.u32(bytes.len() as u32);
        args.0.extend(bytes);
        args
    }
}

struct Frame {
    kind: u8,
    payload: Vec<u8>,
}

impl Frame {
    /// Class and method of a method frame.
    fn method(&self) -> (u16, u16) {
        let p = &self.payload;
        if self.kind != METHOD {
            return (0, 0);
        }
        (u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]]))
    }

    fn u64_at(&self, at: usize) -> Result<u64> {
        let bytes = self.payload.get(at..at + 8).context("a frame is cut short")?;
        Ok(u64::from_be_bytes(bytes.try_into()?))
    }
}

impl Peer for Rabbit {
    type Conn = RabbitConn;
    const SEND_BATCH: usize = 200;
    const TAKE_BATCH: usize = 200;

    async fn create(&self, queue: &str) -> Result<()> {
        let mut conn = RabbitConn::open(&self.addr, queue).await?;
        let table = Args::default().short("x-queue-type").u8(b'S').long(self.queue_type.as_bytes());
        let declare = Args::default().u16(0).short(queue).u8(2).long(&table.0);
        conn.call((QUEUE, 10), declare, 11).await
    }

    async fn drop_queue(&self, queue: &str) -> Result<()> {
        let mut conn = RabbitConn::open(&self.addr, queue).await?;
        conn.call((QUEUE, 40), Args::default().u16(0).short(queue).u8(0), 41).await
    }

    async fn connect(&self, queue: &str, role: Role, batch: usize) -> Result<RabbitConn> {
        let mut conn = RabbitConn::open(&self.addr, queue).await?;
        match role {
            Role::Send => conn.call((CONFIRM, 10), Args::default().u8(0), 11).await?,
            Role::Take => {
                let qos = Args::default().u32(0).u16(batch as u16).u8(0);
                conn.call((BASIC, 10), qos, 11).await?;
                let consume = Args::default().u16(0).short(queue).short("").u8(0).u32(0);
                conn.call((BASIC, 20), consume, 21).await?;
            }
        }
        Ok(conn)
    }
}

impl RabbitConn {
    async fn open(addr: &str, queue: &str) -> Result<Self> {
        let mut wire = Wire::connect(addr).await?;
        wire.out.extend_from_slice(b"AMQP\0\0\x09\x01");
        wire.flush().await?;
        let mut conn = Self { wire, queue: queue.to_owned(), published: 0 };
        conn.expect((CONNECTION, 10)).await?;
        let start_ok = Args::default().u32(0).short("PLAIN").long(b"\0guest\0guest").short("en_US");
        conn.method(0, (CONNECTION, 11), &start_ok);
        conn.wire.flush().await?;
        let tune = conn.expect((CONNECTION, 30)).await?;
        let mut args = Args::default();
        args.0.extend(&tune.payload[4..10]); // channel and frame limits as offered
        conn.method(0, (CONNECTION, 31), &args.u16(0)); // no heartbeat
        conn.method(0, (CONNECTION, 40), &Args::default().short("/").short("").u8(0));
        conn.wire.flush().await?;
        conn.expect((CONNECTION, 41)).await?;
        conn.call((CHANNEL, 10), Args::default().short(""), 11).await?;
        Ok(conn)
    }

    fn frame(&mut self, kind: u8, channel: u16, parts: &[&[u8]]) {
        let out = &mut self.wire.out;
        let len: usize = parts.iter().map(|p| p.len()).sum();
        out.push(kind);
        out.extend(channel.to_be_bytes());
        out.extend((len as u32).to_be_bytes());
        for part in parts {
            out.extend_from_slice(part);
        }
        out.push(FRAME_END);
    }

    fn method(&mut self, channel: u16, (class, method): (u16, u16), args: &Args) {
        self.frame(METHOD, channel, &[&class.to_be_bytes(), &method.to_be_bytes(), &args.0]);
    }

    /// Calls a method on channel 1 and waits for its `-ok`.
    async fn call(&mut self, (class, method): (u16, u16), args: Args, ok: u16) -> Result<()> {
        self.method(1, (class, method), &args);
        self.wire.flush().await?;
        self.expect((class, ok)).await?;
        Ok(())
    }

    async fn read(&mut self) -> Result<Frame> {
        let head = self.wire.bytes(7).await?;
        let len = u32::from_be_bytes(head[3..7].try_into()?) as usize;
        let mut payload = self.wire.bytes(len + 1).await?;
        ensure!(payload.pop() == Some(FRAME_END), "bad frame end");
        let frame = Frame { kind: head[0], payload };
        if matches!(frame.method(), (CONNECTION, 50) | (CHANNEL, 40)) {
            bail!("rabbit closed: {}", String::from_utf8_lossy(&frame.payload[6..]));
        }
        Ok(frame)
    }

    async fn expect(&mut self, method: (u16, u16)) -> Result<Frame> {
        let frame = self.read().await?;
        ensure!(frame.method() == method, "got {:?}, wanted {method:?}", frame.method());
        Ok(frame)
    }
}

impl Conn for RabbitConn {
    async fn send(&mut self, body: &[u8], n: usize) -> Result<()> {
        let queue = self.queue.clone();
        for _ in 0..n {
            self.method(1, (BASIC, 40), &Args::default().u16(0).short("").short(&queue).u8(0));
            // Only the delivery mode is given: 2, persistent.
            let header = Args::default().u16(BASIC).u16(0).u64(body.len() as u64).u16(0x1000).u8(2);
            self.frame(HEADER, 1, &[header.0.as_slice()]);
            self.frame(BODY, 1, &[body]);
        }
        self.wire.flush().await?;
        // Confirms come one by one, in any order, or as "all up to this tag".
        let first = self.published + 1;
        self.published += n as u64;
        let mut open = vec![true; n];
        let mut left = n;
        while left > 0 {
            let frame = self.read().await?;
            ensure!(frame.method() == (BASIC, 80), "not a confirm: {:?}", frame.method());
            let at = usize::try_from(frame.u64_at(4)? - first)?;
            let from = if frame.payload[12] & 1 == 1 { 0 } else { at };
            left -= open[from..=at].iter().filter(|o| **o).count();
            open[from..=at].fill(false);
        }
        Ok(())
    }

    async fn take(&mut self, max: usize) -> Result<usize> {
        let (mut count, mut tag) = (0, 0);
        while count < max {
            if !self.wire.has_input() {
                if count > 0 {
                    break;
                }
                match tokio::time::timeout(FIRST_WITHIN, self.wire.wait_input()).await {
                    Ok(waited) => waited?,
                    Err(_) => return Ok(0),
                }
            }
            let deliver = self.expect((BASIC, 60)).await?;
            let consumer_tag = deliver.payload[4] as usize;
            tag = deliver.u64_at(5 + consumer_tag)?;
            let header = self.read().await?;
            let (size, mut got) = (usize::try_from(header.u64_at(4)?)?, 0);
            while got < size {
                got += self.read().await?.payload.len();
            }
            count += 1;
        }
        self.method(1, (BASIC, 80), &Args::default().u64(tag).u8(1));
        self.wire.flush().await?;
        Ok(count)
    }
}
