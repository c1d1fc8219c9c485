//! A buffered TCP connection for the text and frame protocols.

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes of either buffer, to begin with.
const BUFFER_BYTES: usize = 64 << 10;

/// The connection.
#[derive(Debug)]
pub struct Wire {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// Bytes to send at the next [`Wire::flush`].
    pub out: Vec<u8>,
    line: Vec<u8>,
}

impl Wire {
    /// Connects to `HOST:PORT`.
    pub async fn connect(addr: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(addr).await.with_context(|| format!("connecting to {addr}"))?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Self {
            read: BufReader::with_capacity(BUFFER_BYTES, read),
            write,
            out: Vec::with_capacity(BUFFER_BYTES),
            line: Vec::new(),
        })
    }

    /// Sends what is in `out`.
    pub async fn flush(&mut self) -> Result<()> {
        self.write.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// The next line, without its CR LF.
    pub async fn line(&mut self) -> Result<&str> {
        self.line.clear();
        self.read.read_until(b'\n', &mut self.line).await?;
        let text = self.line.strip_suffix(b"\r\n").context("the server closed the connection")?;
        Ok(std::str::from_utf8(text)?)
    }

    /// The next `n` bytes.
    pub async fn bytes(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut buf = vec![0; n];
        self.read.read_exact(&mut buf).await?;
        Ok(buf)
    }

    /// The next `N` bytes.
    pub async fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut buf = [0; N];
        self.read.read_exact(&mut buf).await?;
        Ok(buf)
    }

    /// Whether more input is already here.
    pub fn has_input(&self) -> bool {
        !self.read.buffer().is_empty()
    }

    /// Waits until at least one byte of input is here. Safe to cancel.
    pub async fn wait_input(&mut self) -> Result<()> {
        self.read.fill_buf().await?;
        Ok(())
    }
}
