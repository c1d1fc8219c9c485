//! `peek`: shows messages of a queue without taking them.
//!
//! ```text
//! request: queue, u32 most messages, optional fields: 1 after (u64), 2 state (u8: 0 ready,
//!          1 delayed, 2 leased), 3 id (u64), 4 one header (u16 length of the key, key, value), any
//!          number of times
//! answer:  u8 more, u64 last, u32 count of messages, messages
//! message: u64 id, u8 state (3: blocked), u32 attempts, u64 sent at (ms since 1970 UTC), u64 until
//!          (ms since 1970 UTC; 0 when there is none), then body length, CRC, optional fields and body
//!          as in a send entry
//! ```
//!
//! Messages come in the order of their ids, whatever the order of delivery. One request looks at a
//! bounded number of them, so that an answer may hold fewer than were asked for, or none, with more
//! to come: a client repeats it with `after` set to `last` while there are more.

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
    /// Only messages that are there; of [`State::Delayed`] those that are blocked too.
    pub state: Option<State>,
    /// Only this message; `no_such_message` when it is not there (any more).
    pub id: Option<u64>,
    /// Only messages with all of these headers; at most [`PEEK_HEADERS_MAX`].
    pub headers: Headers,
}

/// A page of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// True when there are messages behind `last` that were not looked at.
    pub more: bool,
    /// Id of the last message looked at: `after` of the next request.
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
    /// When it becomes visible, or its lease ends; milliseconds since 1970-01-01 UTC. 0: there is no
    /// such time.
    pub until_ms: u64,
    /// The message's optional fields as they are stored.
    pub fields: Bytes,
    /// Its body.
    pub body: Body,
}

impl PeekedMessage {
    /// The headers.
    pub fn headers(&self) -> Result<Headers, DecodeError> {
        super::send::read_fields(&mut Reader::new(self.fields.clone()))
    }

    /// Priority, group and dedup id.
    pub fn properties(&self) -> Result<Properties, DecodeError> {
        Properties::of(&self.fields)
    }

    /// Of a dead letter, where it came from and why.
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
                FIELD_HEADER if peek.headers.0.len() == PEEK_HEADERS_MAX => {
                    let reason = format!("there are more than {PEEK_HEADERS_MAX}");
                    return Err(DecodeError::value("headers to compare", reason));
                }
                FIELD_HEADER => peek.headers.read_field(&mut value)?,
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
