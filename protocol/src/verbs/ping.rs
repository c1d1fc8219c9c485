//! `ping`: asks whether the server answers; it is answered without touching the disk.

use bytes::{BufMut, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::wire::{DecodeError, Payload, Reader};

/// Asks for a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping;

/// The sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    /// The server's clock, milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
}

impl Verb for Ping {
    const OPCODE: u16 = 2;
    const CHANGES: bool = false;
    type Answer = Pong;
}

impl Payload for Ping {
    fn encode(&self, _out: &mut BytesMut) {}

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        skip_fields(input)?;
        Ok(Self)
    }
}

impl Payload for Pong {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.time_ms);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let pong = Self { time_ms: input.u64("server time")? };
        skip_fields(input)?;
        Ok(pong)
    }
}
