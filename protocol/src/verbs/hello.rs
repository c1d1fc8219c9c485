//! `hello`: the first request of every connection.

use bytes::{BufMut, BytesMut};

use super::Verb;
use crate::wire::{DecodeError, Payload, Reader, put_string};

/// Introduces the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Random number of the producer; one client keeps it over all its connections, so that a
    /// request repeated after a lost answer is recognised. 0: the requests are not numbered.
    pub producer: u64,
    /// Program and version, for the server's log: `qctl 0.1.0`.
    pub client: String,
}

/// Introduces the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Version of the daemon: `0.1.0`.
    pub server: String,
}

impl Verb for Hello {
    const OPCODE: u16 = 1;
    const CHANGES: bool = false;
    type Answer = Welcome;
}

impl Payload for Hello {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.producer);
        put_string(out, &self.client);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let hello = Self { producer: input.u64("producer")?, client: input.string("client")? };
        skip_fields(input)?;
        Ok(hello)
    }
}

impl Payload for Welcome {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, &self.server);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let welcome = Self { server: input.string("server")? };
        skip_fields(input)?;
        Ok(welcome)
    }
}

/// Passes over optional fields of a structure that has none yet.
pub(super) fn skip_fields(input: &mut Reader) -> Result<(), DecodeError> {
    while input.field()?.is_some() {}
    Ok(())
}
