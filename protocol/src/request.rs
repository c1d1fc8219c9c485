//! Requests of all verbs, between frames and the typed structures of [`crate::verbs`].

use bytes::{BufMut, BytesMut};

use crate::error::Refusal;
use crate::frame::{FLAG_ANSWER, FLAG_MORE, FLAG_NUMBERED, FLAG_REFUSED, Frame, put_frame};
use crate::verbs::{
    Cancel, Create, Delete, Describe, Discard, Drop, Extend, Hello, List, Peek, Ping, Purge,
    Receive, Redrive, Reject, Release, Reschedule, Send, Shutdown, Stats, Transact, Update, Verb,
};
use crate::wire::{DecodeError, Payload, Reader};

/// Which request of its producer this is. It precedes the payload of a request with
/// [`FLAG_NUMBERED`], so that the request can be repeated safely after a lost answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbering {
    /// Counted from 1 by the producer, up to 2^64 - 2; a repeat has the same number.
    pub number: u64,
    /// The producer has the answers of all requests below this number and will not repeat them.
    pub answered_below: u64,
}

impl Payload for Numbering {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.number);
        out.put_u64_le(self.answered_below);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let number = input.u64("request number")?;
        let answered_below = input.u64("lowest number without an answer")?;
        // The greatest number has none behind it.
        if number == 0 || number == u64::MAX || answered_below > number {
            let reason = format!("{number} with all below {answered_below} answered");
            return Err(DecodeError::value("request number", reason));
        }
        Ok(Self { number, answered_below })
    }
}

/// Appends a request's frame.
pub fn put_request<V: Verb>(
    out: &mut BytesMut,
    correlation: u32,
    numbering: Option<Numbering>,
    verb: &V,
) {
    let flags = if numbering.is_some() { FLAG_NUMBERED } else { 0 };
    put_frame(out, correlation, V::OPCODE, flags, |out| {
        if let Some(numbering) = numbering {
            numbering.encode(out);
        }
        verb.encode(out);
    });
}

/// Appends an answer's frame.
pub fn put_answer<A: Payload>(out: &mut BytesMut, correlation: u32, opcode: u16, answer: &A) {
    put_frame(out, correlation, opcode, FLAG_ANSWER, |out| answer.encode(out));
}

/// Appends a frame of an answer that comes in several; `more`: it is not the last one.
pub fn put_part(out: &mut BytesMut, correlation: u32, opcode: u16, part: &[u8], more: bool) {
    let flags = if more { FLAG_ANSWER | FLAG_MORE } else { FLAG_ANSWER };
    put_frame(out, correlation, opcode, flags, |out| out.put_slice(part));
}

/// Appends the frame of a refused request.
pub fn put_refusal(out: &mut BytesMut, correlation: u32, opcode: u16, refusal: &Refusal) {
    put_frame(out, correlation, opcode, FLAG_ANSWER | FLAG_REFUSED, |out| refusal.encode(out));
}

/// Why a call got no answer of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The server refused the request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The answer's frame does not decode.
    #[error("malformed answer: {0}")]
    Malformed(#[from] DecodeError),
}

/// Reads the answer to a `V`; `frame` has the payloads of all its frames.
pub fn read_answer<V: Verb>(frame: Frame) -> Result<V::Answer, AnswerError> {
    if frame.opcode != V::OPCODE || !frame.has(FLAG_ANSWER) {
        let reason = format!("opcode {} answered with {}", V::OPCODE, frame.opcode);
        return Err(DecodeError::value("answer", reason).into());
    }
    if frame.has(FLAG_MORE) {
        return Err(DecodeError::value("answer", "its last frame is missing").into());
    }
    let refused = frame.has(FLAG_REFUSED);
    let mut input = Reader::new(frame.payload);
    if refused {
        return Err(Refusal::decode(&mut input)?.into());
    }
    let answer = V::Answer::decode(&mut input)?;
    input.end("answer")?;
    Ok(answer)
}

macro_rules! requests {
    ($($verb:ident),+) => {
        /// A request of any verb.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Request {
            $(
                #[doc = concat!("See [`crate::verbs::", stringify!($verb), "`].")]
                $verb($verb),
            )+
        }

        impl Request {
            /// Name, opcode, and whether it changes state, of every verb. The name is that of the
            /// structure.
            pub const VERBS: &[(&str, u16, bool)] =
                &[$((stringify!($verb), $verb::OPCODE, $verb::CHANGES),)+];

            /// Reads the request in `frame`.
            pub fn from_frame(frame: Frame) -> Result<(Self, Option<Numbering>), DecodeError> {
                let numbered = frame.has(FLAG_NUMBERED);
                let mut input = Reader::new(frame.payload);
                let numbering =
                    if numbered { Some(Numbering::decode(&mut input)?) } else { None };
                let request = match frame.opcode {
                    $($verb::OPCODE => Self::$verb($verb::decode(&mut input)?),)+
                    other => return Err(DecodeError::UnknownOpcode(other)),
                };
                input.end("request")?;
                Ok((request, numbering))
            }

            /// Appends the request's frame.
            pub fn put(&self, out: &mut BytesMut, correlation: u32, numbering: Option<Numbering>) {
                match self { $(Self::$verb(verb) => put_request(out, correlation, numbering, verb),)+ }
            }

            /// The verb's number.
            pub fn opcode(&self) -> u16 {
                match self { $(Self::$verb(_) => $verb::OPCODE,)+ }
            }

            /// True when the verb changes state.
            pub fn changes(&self) -> bool {
                match self { $(Self::$verb(_) => $verb::CHANGES,)+ }
            }
        }

        /// Decodes the answer in `frame` by its opcode and encodes it again: for tools and tests
        /// that hold frames against the specification.
        pub fn reencode_answer(frame: Frame, out: &mut BytesMut) -> Result<(), AnswerError> {
            let (correlation, opcode) = (frame.correlation, frame.opcode);
            match opcode {
                $($verb::OPCODE => match read_answer::<$verb>(frame) {
                    Ok(answer) => put_answer(out, correlation, opcode, &answer),
                    Err(AnswerError::Refused(refusal)) => {
                        put_refusal(out, correlation, opcode, &refusal);
                    }
                    Err(error) => return Err(error),
                },)+
                other => return Err(DecodeError::UnknownOpcode(other).into()),
            }
            Ok(())
        }
    };
}

requests!(
    Hello, Ping, Cancel, Shutdown, Create, Drop, Describe, List, Update, Peek, Stats, Send,
    Receive, Delete, Extend, Release, Discard, Reschedule, Reject, Redrive, Purge, Transact
);
