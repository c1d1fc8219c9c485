//! `shutdown`: asks the daemon to stop as SIGTERM does.

use bytes::BytesMut;

use super::{Verb, hello::skip_fields};
use crate::wire::{DecodeError, Payload, Reader};

/// Asks the daemon to stop accepting, finish what it has begun, and exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown;

/// The daemon has begun to stop; it is gone when the connection closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShuttingDown;

impl Verb for Shutdown {
    const OPCODE: u16 = 4;
    const CHANGES: bool = false;
    // A repeat might reach the daemon's successor.
    const REPEATABLE: bool = false;
    type Answer = ShuttingDown;
}

impl Payload for Shutdown {
    fn encode(&self, _out: &mut BytesMut) {}

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        skip_fields(input)?;
        Ok(Self)
    }
}

impl Payload for ShuttingDown {
    fn encode(&self, _out: &mut BytesMut) {}

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        skip_fields(input)?;
        Ok(Self)
    }
}
