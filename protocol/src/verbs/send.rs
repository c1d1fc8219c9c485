//! `send`: adds a batch of messages to one queue.
//!
//! ```text
//! request: queue, u32 count, entries
//! entry:   u32 body length, u32 CRC-32C of the body, u32 length of optional fields,
//!          optional fields (1 one header; 2 delay in ms (u64); 3 not visible before (u64 ms
//!          since 1970 UTC); of 2 and 3 the last one counts; 4 time to live in ms (u64);
//!          5 priority (u8); 6 group; 7 dedup id; 8 unique (empty)), body
//! answer:  u32 count of runs, runs
//! run:     u32 entries, u8 0, u64 id of the first, the others follow one by one; or
//!          u32 entries, u8 1, u32 length, refusal; or
//!          u32 entries, u8 2, u64 id of the message that all of them are duplicates of
//! ```
//!
//! The entries are taken or refused one by one, in order; ids of one request rise.

use bytes::{BufMut, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::BATCH_ENTRIES_MAX;
use crate::attributes::queue_name;
use crate::error::{ErrorCode, Refusal};
use crate::message::{Body, FIELD_HEADER, Headers, Properties};
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string};

/// Bytes of an entry without optional fields and body.
const ENTRY_BYTES: usize = 12;

/// Adds messages to a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Its name.
    pub queue: QueueName,
    /// 1 to [`crate::BATCH_ENTRIES_MAX`] messages.
    pub entries: Vec<SendEntry>,
}

/// One message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendEntry {
    /// Its body.
    pub body: Body,
    /// Its headers.
    pub headers: Headers,
    /// When it becomes visible; `None`: after the queue's own delay.
    pub due: Option<Due>,
    /// How long after it is stored the message is removed, wherever it is; a leased one when its
    /// lease is over. 1 ms to [`crate::attributes::DELAY_MS_MAX`]; `None`: only by the queue's
    /// retention.
    pub ttl_ms: Option<u64>,
    /// Its place in the order, and its dedup id; they do not count towards its size.
    pub properties: Properties,
    /// It is a duplicate as long as a message with its dedup id is live in the queue, instead of
    /// within the queue's dedup window. Needs a dedup id; is not stored.
    pub unique: bool,
}

/// When a message becomes visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// This many ms after the request is carried out; at most
    /// [`crate::attributes::DELAY_MS_MAX`]. 0: at once, whatever the queue's delay.
    After(u64),
    /// At this time of the server, in ms since 1970-01-01 UTC, however far; at once when it is
    /// past.
    At(u64),
}

const FIELD_DELAY: u8 = 2;
const FIELD_NOT_BEFORE: u8 = 3;
const FIELD_TTL: u8 = 4;
const FIELD_UNIQUE: u8 = 8;
/// Bytes of an optional field whose value is a `u64`.
const NUMBER_FIELD_BYTES: usize = 13;

impl SendEntry {
    /// A message without headers that becomes visible after the queue's own delay.
    pub fn new(body: impl Into<bytes::Bytes>) -> Self {
        Self {
            body: Body::new(body),
            headers: Headers::default(),
            due: None,
            ttl_ms: None,
            properties: Properties::default(),
            unique: false,
        }
    }

    /// The optional fields that are stored with the message: headers and properties.
    pub fn stored_fields(&self) -> bytes::Bytes {
        let mut out = BytesMut::new();
        self.headers.put_fields(FIELD_HEADER, &mut out);
        self.properties.put_fields(&mut out);
        out.freeze()
    }

    /// Bytes of body and headers, which count towards sizes and limits.
    pub fn size(&self) -> u64 {
        (self.body.bytes.len() + self.headers.size()) as u64
    }

    /// Bytes that the entry takes in a frame.
    pub fn encoded_bytes(&self) -> usize {
        ENTRY_BYTES + self.fields_bytes() + self.body.bytes.len()
    }

    fn fields_bytes(&self) -> usize {
        // An optional field has 5 bytes before its value, a header's value 2 before its key.
        let headers = self.headers.size() + self.headers.0.len() * 7;
        let numbers = usize::from(self.due.is_some()) + usize::from(self.ttl_ms.is_some());
        let unique = if self.unique { 5 } else { 0 };
        headers + numbers * NUMBER_FIELD_BYTES + self.properties.fields_bytes() + unique
    }

    /// What is wrong with the entry whatever the queue: damaged on the way, too many headers, or
    /// properties that no message can have.
    pub fn check(&self) -> Result<(), Refusal> {
        let headers = self.headers.size();
        if headers > crate::HEADERS_BYTES_MAX {
            let maximum = crate::HEADERS_BYTES_MAX as u64;
            let text = format!("headers of {headers} bytes are over the limit of {maximum} bytes");
            return Err(ErrorCode::HeadersTooLarge.refuse(text).with_limit(
                "headers",
                headers as u64,
                maximum,
            ));
        }
        self.properties.check()?;
        if self.unique && self.properties.dedup_id.is_none() {
            let text = "unique needs a dedup id";
            return Err(ErrorCode::MalformedRequest.refuse(text));
        }
        if !self.body.is_intact() {
            let text = "the body does not have the CRC-32C that came with it";
            return Err(ErrorCode::BodyCorrupt.refuse(text));
        }
        Ok(())
    }
}

/// What became of the entries, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Neighbours with the same fate share a run.
    pub runs: Vec<SentRun>,
}

/// The common fate of neighbouring entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentRun {
    /// On disk, with ids `first`, `first + 1` and so on.
    Stored {
        /// Id of the first entry of the run.
        first: u64,
        /// Entries.
        count: u32,
    },
    /// Not stored: a message with their dedup id was there before.
    Duplicate {
        /// Id of that message.
        id: u64,
        /// Entries.
        count: u32,
    },
    /// Refused, all for the same reason.
    Refused {
        /// Why.
        refusal: Box<Refusal>,
        /// Entries.
        count: u32,
    },
}

/// What became of an entry that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Id of the message: the one that is stored now, or that it is a duplicate of. That one is in
    /// the queue, or was.
    pub id: u64,
    /// Nothing was stored: it was there before.
    pub duplicate: bool,
}

impl Sent {
    /// One result an entry, in order.
    pub fn entries(&self) -> impl Iterator<Item = Result<Stored, &Refusal>> {
        self.runs.iter().flat_map(|run| {
            let count = match run {
                SentRun::Stored { count, .. }
                | SentRun::Duplicate { count, .. }
                | SentRun::Refused { count, .. } => *count,
            };
            (0..u64::from(count)).map(move |at| match run {
                SentRun::Stored { first, .. } => {
                    Ok(Stored { id: first.wrapping_add(at), duplicate: false })
                }
                SentRun::Duplicate { id, .. } => Ok(Stored { id: *id, duplicate: true }),
                SentRun::Refused { refusal, .. } => Err(&**refusal),
            })
        })
    }
}

impl Verb for Send {
    const OPCODE: u16 = 32;
    const CHANGES: bool = true;
    type Answer = Sent;
}

impl Payload for Send {
    fn encode(&self, out: &mut BytesMut) {
        self.put(out);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let send = Self::read(input)?;
        skip_fields(input)?;
        Ok(send)
    }
}

impl Send {
    /// Appends queue, count and entries.
    pub(super) fn put(&self, out: &mut BytesMut) {
        let entries: usize = self.entries.iter().map(SendEntry::encoded_bytes).sum();
        out.reserve(self.queue.as_str().len() + 6 + entries);
        put_string(out, self.queue.as_str());
        out.put_u32_le(self.entries.len() as u32);
        for entry in &self.entries {
            entry.encode(out);
        }
    }

    /// Reads queue, count and entries.
    pub(super) fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of entries", ENTRY_BYTES)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(SendEntry::decode(input)?);
        }
        Ok(Self { queue, entries })
    }
}

impl Payload for SendEntry {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.body.bytes.len() as u32);
        out.put_u32_le(self.body.crc);
        out.put_u32_le(self.fields_bytes() as u32);
        self.headers.put_fields(FIELD_HEADER, out);
        match self.due {
            None => {}
            Some(Due::After(ms)) => put_field(out, FIELD_DELAY, |out| out.put_u64_le(ms)),
            Some(Due::At(ms)) => put_field(out, FIELD_NOT_BEFORE, |out| out.put_u64_le(ms)),
        }
        if let Some(ms) = self.ttl_ms {
            put_field(out, FIELD_TTL, |out| out.put_u64_le(ms));
        }
        self.properties.put_fields(out);
        if self.unique {
            put_field(out, FIELD_UNIQUE, |_| ());
        }
        out.put_slice(&self.body.bytes);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let body_bytes = input.u32("body length")? as usize;
        let crc = input.u32("body CRC")?;
        let fields_bytes = input.u32("length of optional fields")? as usize;
        let mut fields = Reader::new(input.bytes("optional fields", fields_bytes)?);
        let (mut headers, mut due, mut ttl_ms) = (Headers::default(), None, None);
        let (mut properties, mut unique) = (Properties::default(), false);
        while let Some((tag, mut value)) = fields.field()? {
            match tag {
                FIELD_HEADER => headers.read_field(&mut value)?,
                FIELD_DELAY => due = Some(Due::After(value.u64("delay")?)),
                FIELD_NOT_BEFORE => due = Some(Due::At(value.u64("not visible before")?)),
                FIELD_TTL => ttl_ms = Some(value.u64("time to live")?),
                FIELD_UNIQUE => unique = true,
                tag => properties.read_field(tag, &mut value)?,
            }
        }
        let bytes = input.bytes("body", body_bytes)?;
        Ok(Self { body: Body { bytes, crc }, headers, due, ttl_ms, properties, unique })
    }
}

impl Payload for Sent {
    fn encode(&self, out: &mut BytesMut) {
        self.put(out);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let sent = Self::read(input)?;
        skip_fields(input)?;
        Ok(sent)
    }
}

impl Sent {
    /// Appends count and runs.
    pub(super) fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.runs.len() as u32);
        for run in &self.runs {
            match run {
                SentRun::Stored { first, count } => {
                    out.put_u32_le(*count);
                    out.put_u8(0);
                    out.put_u64_le(*first);
                }
                SentRun::Duplicate { id, count } => {
                    out.put_u32_le(*count);
                    out.put_u8(2);
                    out.put_u64_le(*id);
                }
                SentRun::Refused { refusal, count } => {
                    out.put_u32_le(*count);
                    // An optional field's layout, with the kind of run as its tag.
                    put_field(out, 1, |out| refusal.encode(out));
                }
            }
        }
    }

    /// Reads count and runs.
    pub(super) fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of runs", 5)?;
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            let count = input.u32("entries of a run")?;
            runs.push(match input.u8("kind of run")? {
                0 => SentRun::Stored { first: input.u64("first id")?, count },
                1 => SentRun::Refused { refusal: Box::new(read_refusal(input)?), count },
                2 => SentRun::Duplicate { id: input.u64("id of the original")?, count },
                other => {
                    return Err(DecodeError::value(
                        "kind of run",
                        format!("{other} is not 0 to 2"),
                    ));
                }
            });
        }
        Ok(Self { runs })
    }
}

/// Reads a `u32` length and a refusal of that length.
pub(super) fn read_refusal(input: &mut Reader) -> Result<Refusal, DecodeError> {
    let length = input.u32("length of a refusal")? as usize;
    Refusal::decode(&mut Reader::new(input.bytes("refusal", length)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DeadLettered, Reason};

    #[test]
    fn last_of_two_times_counts_and_unknown_fields_are_skipped() {
        let mut fields = BytesMut::new();
        put_field(&mut fields, FIELD_NOT_BEFORE, |out| out.put_u64_le(1));
        put_field(&mut fields, 200, |out| out.put_slice(b"unknown"));
        put_field(&mut fields, FIELD_DELAY, |out| out.put_u64_le(2));
        let mut out = BytesMut::new();
        out.put_u32_le(0);
        out.put_u32_le(0);
        out.put_u32_le(fields.len() as u32);
        out.put_slice(&fields);
        let entry = SendEntry { due: Some(Due::After(2)), ..SendEntry::new("") };
        assert_eq!(SendEntry::decode(&mut Reader::new(out.freeze())), Ok(entry));
    }

    #[test]
    fn nobody_can_send_what_looks_like_a_dead_letter() {
        let forged = DeadLettered {
            queue: QueueName::new("jobs").unwrap(),
            id: 1,
            sent_at_ms: 2,
            attempts: 3,
            first_delivered_ms: 4,
            last_delivered_ms: 5,
            reason: Reason::Expired,
        };
        let headers = Headers(vec![("a".to_owned(), "b".to_owned())]);
        let fields = forged.appended_to(&headers.to_fields()).unwrap();
        let mut out = BytesMut::new();
        out.put_u32_le(0);
        out.put_u32_le(0);
        out.put_u32_le(fields.len() as u32);
        out.put_slice(&fields);
        let entry = SendEntry::decode(&mut Reader::new(out.freeze())).unwrap();
        assert_eq!(entry, SendEntry { headers, ..SendEntry::new("") });
        assert_eq!(DeadLettered::newest(&entry.headers.to_fields()), Ok(None));
    }

    #[test]
    fn entry_takes_the_bytes_that_it_says() {
        for due in [None, Some(Due::After(0)), Some(Due::At(u64::MAX))] {
            for ttl_ms in [None, Some(1)] {
                for (properties, unique) in [(Properties::default(), false), (properties(), true)] {
                    let headers = Headers(vec![("a".to_owned(), String::new())]);
                    let entry = SendEntry { headers, due, ttl_ms, ..SendEntry::new("body") };
                    let entry = SendEntry { properties, unique, ..entry };
                    let mut out = BytesMut::new();
                    entry.encode(&mut out);
                    assert_eq!(out.len(), entry.encoded_bytes());
                    assert_eq!(SendEntry::decode(&mut Reader::new(out.freeze())), Ok(entry));
                }
            }
        }
    }

    fn properties() -> Properties {
        let (group, dedup_id) = ("customer-7".to_owned(), Some("order-1".to_owned()));
        Properties { priority: 9, group, dedup_id }
    }

    #[test]
    fn headers_and_properties_are_stored_and_nothing_else() {
        let headers = Headers(vec![("a".to_owned(), "b".to_owned())]);
        let entry = SendEntry {
            headers: headers.clone(),
            due: Some(Due::After(1)),
            ttl_ms: Some(2),
            properties: properties(),
            unique: true,
            ..SendEntry::new("body")
        };
        assert_eq!(entry.size(), 6);
        let stored = entry.stored_fields();
        assert_eq!(Headers::of(&stored), Ok(headers));
        assert_eq!(Properties::of(&stored), Ok(properties()));
        let mut tags = Vec::new();
        let mut fields = Reader::new(stored);
        while let Some((tag, _)) = fields.field().unwrap() {
            tags.push(tag);
        }
        assert_eq!(tags, [1, 5, 6, 7]);
    }

    #[test]
    fn unique_needs_a_dedup_id() {
        let entry = SendEntry { unique: true, ..SendEntry::new("") };
        assert_eq!(entry.check().unwrap_err().code, ErrorCode::MalformedRequest);
        let entry = SendEntry { properties: properties(), ..entry };
        assert_eq!(entry.check(), Ok(()));
        let properties = Properties { dedup_id: Some(String::new()), ..properties() };
        let entry = SendEntry { properties, ..entry };
        assert_eq!(entry.check().unwrap_err().code, ErrorCode::AttributeOutOfRange);
    }

    #[test]
    fn every_entry_of_a_run_has_its_result() {
        let refusal = ErrorCode::PriorityOnOrdered.refuse("why");
        let runs = vec![
            SentRun::Stored { first: 7, count: 2 },
            SentRun::Duplicate { id: 3, count: 2 },
            SentRun::Refused { refusal: Box::new(refusal.clone()), count: 1 },
        ];
        let stored = |id, duplicate| Ok(Stored { id, duplicate });
        let entries = [stored(7, false), stored(8, false), stored(3, true), stored(3, true)];
        let expected: Vec<_> = entries.into_iter().chain([Err(&refusal)]).collect();
        assert_eq!(Sent { runs }.entries().collect::<Vec<_>>(), expected);
    }
}
