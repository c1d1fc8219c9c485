//! `cancel`: ends a parked receive of the same connection.
//!
//! It has no answer of its own. A receive that it names and that is parked is refused with
//! `cancelled`; one that is being carried out gets its answer and does not park any more; when the
//! request was answered already the frame has no effect. Messages are never lost by it: an answer
//! that crosses a cancel holds the leases it took.

use bytes::{BufMut, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::wire::{DecodeError, Payload, Reader};

/// Ends a parked receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel {
    /// Correlation id of the request to end.
    pub correlation: u32,
}

/// The type of an answer that is never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered;

impl Verb for Cancel {
    const OPCODE: u16 = 3;
    const CHANGES: bool = false;
    type Answer = Unanswered;
}

impl Payload for Cancel {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.correlation);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let cancel = Self { correlation: input.u32("correlation id")? };
        skip_fields(input)?;
        Ok(cancel)
    }
}

impl Payload for Unanswered {
    fn encode(&self, _out: &mut BytesMut) {}

    fn decode(_input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}
