//! beanstalkd, over its text protocol. Commands are pipelined: N puts are written at once, then
//! N replies read.

use std::io::Write;

use anyhow::{Context, Result, ensure};

use crate::peer::{Conn, Peer, Role};
use crate::wire::Wire;

/// The server.
#[derive(Debug)]
pub struct Beanstalk {
    /// `HOST:PORT`.
    pub addr: String,
}

/// A connection to it.
#[derive(Debug)]
pub struct BeanstalkConn {
    wire: Wire,
    /// Jobs reserved by the `take` under way.
    ids: Vec<u64>,
}

impl Peer for Beanstalk {
    type Conn = BeanstalkConn;
    const SEND_BATCH: usize = 100;
    const TAKE_BATCH: usize = 100;

    // A tube is there as soon as it is used, and goes when it is empty.
    async fn create(&self, _queue: &str) -> Result<()> {
        Ok(())
    }

    async fn drop_queue(&self, _queue: &str) -> Result<()> {
        Ok(())
    }

    async fn connect(&self, queue: &str, role: Role, _batch: usize) -> Result<BeanstalkConn> {
        let mut wire = Wire::connect(&self.addr).await?;
        let commands = match role {
            Role::Send => vec![format!("use {queue}")],
            Role::Take => vec![format!("watch {queue}"), "ignore default".to_owned()],
        };
        for command in commands {
            write!(wire.out, "{command}\r\n")?;
            wire.flush().await?;
            wire.line().await?;
        }
        Ok(BeanstalkConn { wire, ids: vec![] })
    }
}

impl Conn for BeanstalkConn {
    async fn send(&mut self, body: &[u8], n: usize) -> Result<()> {
        for _ in 0..n {
            write!(self.wire.out, "put 0 0 600 {}\r\n", body.len())?;
            self.wire.out.extend_from_slice(body);
            self.wire.out.extend_from_slice(b"\r\n");
        }
        self.wire.flush().await?;
        for _ in 0..n {
            let line = self.wire.line().await?;
            ensure!(line.starts_with("INSERTED "), "put: {line}");
        }
        Ok(())
    }

    async fn take(&mut self, max: usize) -> Result<usize> {
        for _ in 0..max {
            self.wire.out.extend_from_slice(b"reserve-with-timeout 0\r\n");
        }
        self.wire.flush().await?;
        self.ids.clear();
        for _ in 0..max {
            let line = self.wire.line().await?;
            if let Some(rest) = line.strip_prefix("RESERVED ") {
                let (id, len) = rest.split_once(' ').context("reserve reply")?;
                let (id, len) = (id.parse()?, len.parse::<usize>()?);
                self.wire.bytes(len + 2).await?;
                self.ids.push(id);
            } else {
                ensure!(line == "TIMED_OUT" || line == "DEADLINE_SOON", "reserve: {line}");
            }
        }
        for id in &self.ids {
            write!(self.wire.out, "delete {id}\r\n")?;
        }
        self.wire.flush().await?;
        for _ in 0..self.ids.len() {
            let line = self.wire.line().await?;
            ensure!(line == "DELETED", "delete: {line}");
        }
        Ok(self.ids.len())
    }
}
