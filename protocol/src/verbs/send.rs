//! `send`: adds a batch of messages to one queue.
//!
//! ```text
//! request: queue, u32 count, entries
//! entry:   u32 body length, u32 CRC-32C of the body, u32 length of optional fields,
//!          optional fields (1: one header), body
//! answer:  u32 count of runs, runs
//! run:     u32 entries, u8 0, u64 id of the first, the others follow one by one; or
//!          u32 entries, u8 1, u32 length, refusal
//! ```
//!
//! The entries are taken or refused one by one, in order; ids of one request rise.

use bytes::{BufMut, BytesMut};

use super::{Verb, hello::skip_fields};
use crate::BATCH_ENTRIES_MAX;
use crate::attributes::queue_name;
use crate::error::{ErrorCode, Refusal};
use crate::message::{Body, FIELD_HEADER, Headers};
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_string};

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
}

impl SendEntry {
    /// A message without headers.
    pub fn new(body: impl Into<bytes::Bytes>) -> Self {
        Self { body: Body::new(body), headers: Headers::default() }
    }

    /// Bytes of body and headers, which count towards sizes and limits.
    pub fn size(&self) -> u64 {
        (self.body.bytes.len() + self.headers.size()) as u64
    }

    /// Bytes that the entry takes in a frame.
    pub fn encoded_bytes(&self) -> usize {
        // An optional field has 5 bytes before its value, a header's value 2 before its key.
        let headers = self.headers.size() + self.headers.0.len() * 7;
        ENTRY_BYTES + headers + self.body.bytes.len()
    }

    /// What is wrong with the entry whatever the queue: damaged on the way, or too many headers.
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
    /// Refused, all for the same reason.
    Refused {
        /// Why.
        refusal: Box<Refusal>,
        /// Entries.
        count: u32,
    },
}

impl Sent {
    /// One result an entry, in order.
    pub fn entries(&self) -> impl Iterator<Item = Result<u64, &Refusal>> {
        self.runs.iter().flat_map(|run| {
            let (count, first, refusal) = match run {
                SentRun::Stored { first, count } => (*count, *first, None),
                SentRun::Refused { refusal, count } => (*count, 0, Some(&**refusal)),
            };
            (0..u64::from(count)).map(move |at| refusal.map_or(Ok(first.wrapping_add(at)), Err))
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
        let entries: usize = self.entries.iter().map(SendEntry::encoded_bytes).sum();
        out.reserve(self.queue.as_str().len() + 6 + entries);
        put_string(out, self.queue.as_str());
        out.put_u32_le(self.entries.len() as u32);
        for entry in &self.entries {
            let headers = entry.headers.size() + entry.headers.0.len() * 7;
            out.put_u32_le(entry.body.bytes.len() as u32);
            out.put_u32_le(entry.body.crc);
            out.put_u32_le(headers as u32);
            entry.headers.put_fields(out);
            out.put_slice(&entry.body.bytes);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of entries", ENTRY_BYTES)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let body_bytes = input.u32("body length")? as usize;
            let crc = input.u32("body CRC")?;
            let fields_bytes = input.u32("length of optional fields")? as usize;
            let headers = if fields_bytes == 0 {
                Headers::default()
            } else {
                let fields = input.bytes("optional fields", fields_bytes)?;
                read_fields(&mut Reader::new(fields))?
            };
            let bytes = input.bytes("body", body_bytes)?;
            entries.push(SendEntry { body: Body { bytes, crc }, headers });
        }
        skip_fields(input)?;
        Ok(Self { queue, entries })
    }
}

/// Reads the optional fields of a message.
pub(super) fn read_fields(fields: &mut Reader) -> Result<Headers, DecodeError> {
    let mut headers = Headers::default();
    while let Some((tag, mut value)) = fields.field()? {
        if tag == FIELD_HEADER {
            headers.read_field(&mut value)?;
        }
    }
    Ok(headers)
}

impl Payload for Sent {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.runs.len() as u32);
        for run in &self.runs {
            match run {
                SentRun::Stored { first, count } => {
                    out.put_u32_le(*count);
                    out.put_u8(0);
                    out.put_u64_le(*first);
                }
                SentRun::Refused { refusal, count } => {
                    out.put_u32_le(*count);
                    // An optional field's layout, with the kind of run as its tag.
                    crate::wire::put_field(out, 1, |out| refusal.encode(out));
                }
            }
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let count = input.count_up_to(BATCH_ENTRIES_MAX, "number of runs", 5)?;
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            let count = input.u32("entries of a run")?;
            runs.push(match input.u8("kind of run")? {
                0 => SentRun::Stored { first: input.u64("first id")?, count },
                1 => SentRun::Refused { refusal: Box::new(read_refusal(input)?), count },
                other => {
                    return Err(DecodeError::value(
                        "kind of run",
                        format!("{other} is not 0 or 1"),
                    ));
                }
            });
        }
        skip_fields(input)?;
        Ok(Self { runs })
    }
}

/// Reads a `u32` length and a refusal of that length.
pub(super) fn read_refusal(input: &mut Reader) -> Result<Refusal, DecodeError> {
    let length = input.u32("length of a refusal")? as usize;
    Refusal::decode(&mut Reader::new(input.bytes("refusal", length)?))
}
