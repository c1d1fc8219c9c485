//! `peek`: shows messages of a queue without taking them.
//!
//! ```text
//! request: queue, u32 most messages, optional fields: 1 after (u64), 2 state (u8), 3 id (u64),
//!          4 one header (u16 length of the key, key, value), up to 16 times
//! answer:  u8 more, u64 last, u32 count of messages, messages
//! message: u64 id, u8 state, u32 attempts, u64 sent at (ms since 1970 UTC), u64 until (ms since
//!          1970 UTC; 0 when there is none), then body length, CRC, optional fields and body as in a
//!          send entry
//! state:   0 ready, 1 delayed (in a request blocked too), 2 leased, 3 blocked
//! ```
//!
//! Messages come in the order of their ids, whatever the order of delivery, and nothing about them
//! changes. One request looks at a bounded number of them, so that an answer may hold fewer than were
//! asked for, or none, with more to come: a client repeats it with `after` set to `last` while there
//! are more.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::BATCH_ENTRIES_MAX;
use crate::attributes::queue_name;
use crate::message::{Body, DeadLettered, Headers, Properties};
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// Most headers that one request compares.
pub const PEEK_HEADERS_MAX: usize = 16;

/// Where a live message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Visible and held by nobody.
    Ready,
    /// Not visible yet.
    Delayed,
    /// Held by a consumer.
    Leased,
    /// A dead letter whose queue could not take it yet; counted as delayed.
    Blocked,
}

impl State {
    /// As printed in JSON and on the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Delayed => "delayed",
            Self::Leased => "leased",
            Self::Blocked => "blocked",
        }
    }

    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        match input.u8("state")? {
            0 => Ok(Self::Ready),
            1 => Ok(Self::Delayed),
            2 => Ok(Self::Leased),
            3 => Ok(Self::Blocked),
            other => Err(DecodeError::value("state", format!("{other} is not 0 to 3"))),
        }
    }
}

/// Shows messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// Their queue.
    pub queue: QueueName,
    /// Most messages, 1 to [`crate::BATCH_ENTRIES_MAX`]. An answer also ends at about 1 MiB.
    pub max: u32,
    /// Ids up to this one are passed over; 0: none.
    pub after: u64,
    /// Only messages in this state; with [`State::Delayed`] those that are blocked too.
    pub state: Option<State>,
    /// Only this message; `no_such_message` when it is not live. The other conditions hold for it
    /// too: where it does not meet them there are no messages.
    pub id: Option<u64>,
    /// Only messages with all of these headers; at most [`PEEK_HEADERS_MAX`].
    pub headers: Headers,
}

/// A page of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// True when there are messages behind `last` that were not looked at.
    pub more: bool,
    /// Id of the last message looked at: `after` of the next request; when none was, as in this one.
    pub last: u64,
    /// In the order of their ids.
    pub messages: Vec<PeekedMessage>,
}

/// A message shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeekedMessage {
    /// Sequence number within its queue.
    pub id: u64,
    /// Where it is.
    pub state: State,
    /// Deliveries that count so far.
    pub attempts: u32,
    /// Milliseconds since 1970-01-01 UTC.
    pub sent_at_ms: u64,
    /// Of a delayed message when it becomes visible, of a leased one when its lease ends, of a
    /// blocked one when it is tried again; milliseconds since 1970-01-01 UTC. 0 of a ready one.
    pub until_ms: u64,
    /// The message's optional fields as they are stored.
    pub fields: Bytes,
    /// Its body.
    pub body: Body,
}

impl PeekedMessage {
    /// The headers.
    pub fn headers(&self) -> Result<Headers, DecodeError> {
        Headers::of(&self.fields)
    }

    /// Priority, group and dedup id.
    pub fn properties(&self) -> Result<Properties, DecodeError> {
        Properties::of(&self.fields)
    }

    /// Of a dead letter, where it came from and why; of one that was a dead letter several times
    /// the last time.
    pub fn dead_letter(&self) -> Result<Option<DeadLettered>, DecodeError> {
        DeadLettered::newest(&self.fields)
    }
}

impl Verb for Peek {
    const OPCODE: u16 = 21;
    const CHANGES: bool = false;
    type Answer = Peeked;

    fn check_answer(answer: &Peeked) -> Result<(), DecodeError> {
        match answer.messages.iter().find(|message| !message.body.is_intact()) {
            None => Ok(()),
            Some(PeekedMessage { id, .. }) => {
                let reason = format!("message {id} does not have its CRC-32C");
                Err(DecodeError::value("body", reason))
            }
        }
    }
}

const FIELD_AFTER: u8 = 1;
const FIELD_STATE: u8 = 2;
const FIELD_ID: u8 = 3;
const FIELD_HEADER: u8 = 4;

impl Payload for Peek {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u32_le(self.max);
        if self.after > 0 {
            put_field(out, FIELD_AFTER, |out| out.put_u64_le(self.after));
        }
        if let Some(state) = self.state {
            put_field(out, FIELD_STATE, |out| out.put_u8(state as u8));
        }
        if let Some(id) = self.id {
            put_field(out, FIELD_ID, |out| out.put_u64_le(id));
        }
        self.headers.put_fields(FIELD_HEADER, out);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let max = input.u32("most messages")?;
        let headers = Headers::default();
        let mut peek = Self { queue, max, after: 0, state: None, id: None, headers };
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                FIELD_AFTER => peek.after = value.u64("after")?,
                FIELD_STATE => peek.state = Some(State::read(&mut value)?),
                FIELD_ID => peek.id = Some(value.u64("id")?),
                FIELD_HEADER => peek.headers.read_compared(PEEK_HEADERS_MAX, &mut value)?,
                _ => {}
            }
        }
        Ok(peek)
    }
}

/// Bytes of a message in an answer without its optional fields and body.
const MESSAGE_BYTES: usize = 8 + 1 + 4 + 8 + 8 + 12;

impl Payload for Peeked {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.more));
        out.put_u64_le(self.last);
        let bytes = |message: &PeekedMessage| {
            MESSAGE_BYTES + message.fields.len() + message.body.bytes.len()
        };
        out.reserve(4 + self.messages.iter().map(bytes).sum::<usize>());
        out.put_u32_le(self.messages.len() as u32);
        for message in &self.messages {
            out.put_u64_le(message.id);
            out.put_u8(message.state as u8);
            out.put_u32_le(message.attempts);
            out.put_u64_le(message.sent_at_ms);
            out.put_u64_le(message.until_ms);
            out.put_u32_le(message.body.bytes.len() as u32);
            out.put_u32_le(message.body.crc);
            out.put_u32_le(message.fields.len() as u32);
            out.put_slice(&message.fields);
            out.put_slice(&message.body.bytes);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let (more, last) = (input.flag("more")?, input.u64("last id")?);
        let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of messages", MESSAGE_BYTES)?;
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            let id = input.u64("id")?;
            let state = State::read(input)?;
            let attempts = input.u32("attempts")?;
            let sent_at_ms = input.u64("sent at")?;
            let until_ms = input.u64("until")?;
            let body = input.u32("body length")? as usize;
            let crc = input.u32("body CRC")?;
            let fields = input.u32("length of optional fields")? as usize;
            let fields = input.bytes("optional fields", fields)?;
            let body = Body { bytes: input.bytes("body", body)?, crc };
            messages.push(PeekedMessage {
                id,
                state,
                attempts,
                sent_at_ms,
                until_ms,
                fields,
                body,
            });
        }
        skip_fields(input)?;
        Ok(Self { more, last, messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peek(headers: usize) -> Peek {
        Peek {
            queue: QueueName::new("jobs").unwrap(),
            max: 10,
            after: 0,
            state: None,
            id: None,
            headers: Headers(vec![("k".to_owned(), "v".to_owned()); headers]),
        }
    }

    fn message(id: u64, crc_error: u32) -> PeekedMessage {
        let mut body = Body::new("body");
        body.crc ^= crc_error;
        PeekedMessage {
            id,
            state: State::Ready,
            attempts: 0,
            sent_at_ms: 0,
            until_ms: 0,
            fields: Bytes::new(),
            body,
        }
    }

    #[test]
    fn headers_to_compare_are_bounded() {
        let decoded = |count: usize| {
            let mut out = BytesMut::new();
            peek(count).encode(&mut out);
            Peek::decode(&mut Reader::new(out.freeze()))
        };
        assert_eq!(decoded(16), Ok(peek(16)));
        assert!(decoded(17).unwrap_err().to_string().contains("more than 16"));
    }

    #[test]
    fn states_have_their_numbers_and_there_is_no_other() {
        let states = [State::Ready, State::Delayed, State::Leased, State::Blocked];
        for (number, state) in (0..).zip(states) {
            assert_eq!(state as u8, number);
            assert_eq!(State::read(&mut Reader::new(Bytes::from(vec![number]))), Ok(state));
        }
        assert!(State::read(&mut Reader::new(Bytes::from_static(&[4]))).is_err());
        assert!(State::read(&mut Reader::new(Bytes::new())).is_err());
    }

    #[test]
    fn message_without_body_takes_the_bytes_that_are_reckoned_with() {
        let page = |messages: Vec<PeekedMessage>| {
            let mut out = BytesMut::new();
            Peeked { more: false, last: 0, messages }.encode(&mut out);
            out.len()
        };
        assert_eq!(page(vec![message(1, 0)]) - page(Vec::new()), MESSAGE_BYTES + "body".len());
    }

    #[test]
    fn damaged_body_is_named_by_its_message() {
        let page = |crc_error| {
            let messages = vec![message(6, 0), message(7, crc_error)];
            Peek::check_answer(&Peeked { more: false, last: 7, messages })
        };
        assert_eq!(page(0), Ok(()));
        assert!(page(1).unwrap_err().to_string().contains("message 7"));
    }
}
