//! Answers of recent requests, so that a request repeated after a lost answer is carried out once.
//!
//! A producer's row holds the answers that the producer may still ask for again: those of its
//! requests from `answered_below` on, at most [`ANSWERS_MAX`].
//!
//! ```text
//! u8 layout (1), u64 answered below, then per answer:
//! u64 number, u8 kind, by kind: 1 created u8; 2 dropped u64; 3 sent; 4 settled; 5 received:
//! u8 deleted on receive, u16 count of leases, per lease u16 index, u64 queue, u64 lease, settled;
//! 6 extended: settled, u32 count of runs, per run u32 count, u64 end; 7 updated u8
//! ```
//!
//! Sent and settled entries are encoded as on the wire. Of a receive the leases are kept,
//! not the messages: they are delivered again as far as the leases still hold them.
//!
//! Rows stand in generations of 10 minutes of state time; a row moves to the current one when it
//! is used. Those of the generation before the last are freed, so that a producer is forgotten
//! after 10 to 20 idle minutes.

use bytes::{BufMut, Bytes, BytesMut};
use qd_protocol::ErrorCode;
use qd_protocol::verbs::Sent;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::wire::{DecodeError, Payload, Reader};

use super::command::Origin;
use super::outcome::{Outcome, Received};
use super::{FREED_PER_RECORD_MAX, Step};
use crate::store::{Result, StoreError};

const LAYOUT: u8 = 1;
/// Milliseconds of state time in a generation.
const GENERATION_MS: u64 = 600_000;
/// Most answers kept for one producer: as many as one connection may have unanswered, twice.
const ANSWERS_MAX: usize = 2 * qd_protocol::IN_FLIGHT_MAX as usize;

/// What is known of a request.
pub(super) enum Recalled {
    /// Nothing: it is to be carried out.
    New,
    /// Its receipts were settled, and nothing was delivered.
    Settled(Statuses),
    /// It was carried out, with this outcome.
    Answer(Outcome),
}

/// A producer's row.
#[derive(Debug, Default)]
pub(super) struct Producer {
    answered_below: u64,
    /// Number and encoded answer, in the order in which they were carried out.
    answers: Vec<(u64, Bytes)>,
}

impl Step<'_, '_> {
    fn generation(&self) -> u64 {
        self.now_ms / GENERATION_MS
    }

    /// The producer's row, read once a record.
    fn producer(&mut self, producer: u64) -> Result<&mut Producer> {
        if !self.producers.contains_key(&producer) {
            let now = self.generation();
            let mut row = self.tables.producer(now, producer)?;
            if let (None, Some(before)) = (&row, now.checked_sub(1)) {
                row = self.tables.producer(before, producer)?;
                if row.is_some() {
                    self.tables.remove_producer(before, producer)?;
                }
            }
            let row = row.map(|row| Producer::from_bytes(&row)).transpose()?.unwrap_or_default();
            self.producers.insert(producer, row);
        }
        // It was inserted above if it was not there.
        Ok(self.producers.get_mut(&producer).expect("the producer's row"))
    }

    /// Looks a request up.
    pub(super) fn recall(&mut self, origin: Origin) -> Result<Recalled> {
        let producer = self.producer(origin.producer)?;
        let answer = producer.answers.iter().find(|(number, _)| *number == origin.number);
        if let Some((_, answer)) = answer {
            let answer = decode_answer(answer.clone())
                .map_err(|error| StoreError::Damaged(format!("producer: {error}")))?;
            return self.recall_answer(answer);
        }
        if origin.number < producer.answered_below {
            let text = format!("request {} was answered before", origin.number);
            return Ok(Recalled::Answer(ErrorCode::AnswerForgotten.refuse(text).into()));
        }
        Ok(Recalled::New)
    }

    fn recall_answer(&mut self, answer: Outcome) -> Result<Recalled> {
        let Outcome::Received(received) = answer else {
            return Ok(Recalled::Answer(answer));
        };
        if received.deleted {
            let text = "the messages were deleted as they were delivered, and that answer was lost";
            return Ok(Recalled::Answer(ErrorCode::AnswerForgotten.refuse(text).into()));
        }
        if received.leases.is_empty() {
            return Ok(Recalled::Settled(received.settled));
        }
        Ok(Recalled::Answer(self.deliver_again(received.leases, received.settled)?))
    }

    /// Keeps the outcome of a request that changed something.
    pub(super) fn remember(&mut self, origin: Origin, outcome: &Outcome) {
        let Some(answer) = encode_answer(outcome) else {
            return;
        };
        let producer = self.producers.entry(origin.producer).or_default();
        producer.answered_below = producer.answered_below.max(origin.answered_below);
        let below = producer.answered_below;
        producer.answers.retain(|(number, _)| *number >= below && *number != origin.number);
        if producer.answers.len() >= ANSWERS_MAX {
            producer.answers.remove(0);
        }
        producer.answers.push((origin.number, answer));
    }

    /// Writes the rows used by this record and frees some that are no longer used.
    pub(super) fn write_producers(&mut self) -> Result<()> {
        let generation = self.generation();
        for (producer, row) in std::mem::take(&mut self.producers) {
            if !row.answers.is_empty() {
                self.tables.put_producer(generation, producer, &row.to_bytes())?;
            }
        }
        self.tables.sweep_producers(generation.saturating_sub(1), FREED_PER_RECORD_MAX)
    }
}

impl Producer {
    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(LAYOUT);
        out.put_u64_le(self.answered_below);
        for (number, answer) in &self.answers {
            out.put_u64_le(*number);
            out.put_u32_le(answer.len() as u32);
            out.put_slice(answer);
        }
        out.freeze()
    }

    fn from_bytes(row: &[u8]) -> Result<Self> {
        let read = |input: &mut Reader| {
            let layout = input.u8("layout")?;
            if layout != LAYOUT {
                return Err(DecodeError::value("layout", format!("{layout} is not {LAYOUT}")));
            }
            let mut producer =
                Self { answered_below: input.u64("answered below")?, answers: Vec::new() };
            while input.left() > 0 {
                let number = input.u64("request number")?;
                let length = input.u32("length of an answer")? as usize;
                producer.answers.push((number, input.bytes("answer", length)?));
            }
            Ok(producer)
        };
        read(&mut Reader::new(Bytes::copy_from_slice(row)))
            .map_err(|error| StoreError::Damaged(format!("producer: {error}")))
    }
}

/// The kept form of an outcome; `None`: repeating the request does no harm.
fn encode_answer(outcome: &Outcome) -> Option<Bytes> {
    let mut out = BytesMut::new();
    match outcome {
        Outcome::Created(created) => {
            out.put_u8(1);
            out.put_u8(u8::from(*created));
        }
        Outcome::Dropped(messages) => {
            out.put_u8(2);
            out.put_u64_le(*messages);
        }
        Outcome::Sent(runs) => {
            out.put_u8(3);
            Sent { runs: runs.clone() }.encode(&mut out);
        }
        Outcome::Settled(statuses) => {
            out.put_u8(4);
            statuses.encode(&mut out);
        }
        Outcome::Received(received) => {
            if received.messages.is_empty() && received.settled.runs.is_empty() {
                return None;
            }
            out.put_u8(5);
            out.put_u8(u8::from(received.deleted && !received.messages.is_empty()));
            out.put_u16_le(received.leases.len() as u16);
            for (index, queue, lease) in &received.leases {
                out.put_u16_le(*index);
                out.put_u64_le(*queue);
                out.put_u64_le(*lease);
            }
            received.settled.encode(&mut out);
        }
        Outcome::Extended(statuses, ends) => {
            out.put_u8(6);
            statuses.encode(&mut out);
            let runs: Vec<&[u64]> = ends.chunk_by(|a, b| a == b).collect();
            out.put_u32_le(runs.len() as u32);
            for run in runs {
                out.put_u32_le(run.len() as u32);
                out.put_u64_le(run[0]);
            }
        }
        Outcome::Updated(changed) => {
            out.put_u8(7);
            out.put_u8(u8::from(*changed));
        }
        Outcome::Refused(_) => return None,
    }
    Some(out.freeze())
}

fn decode_answer(answer: Bytes) -> std::result::Result<Outcome, DecodeError> {
    let input = &mut Reader::new(answer);
    Ok(match input.u8("kind of answer")? {
        1 => Outcome::Created(input.flag("created")?),
        2 => Outcome::Dropped(input.u64("messages")?),
        3 => Outcome::Sent(Sent::decode(input)?.runs),
        4 => Outcome::Settled(Statuses::decode(input)?),
        5 => {
            let deleted = input.flag("deleted on receive")?;
            let mut leases = Vec::new();
            for _ in 0..input.u16("number of leases")? {
                let index = input.u16("index of a queue")?;
                leases.push((index, input.u64("queue")?, input.u64("lease")?));
            }
            let settled = Statuses::decode(input)?;
            Outcome::Received(Received { settled, messages: Vec::new(), leases, deleted })
        }
        6 => {
            let statuses = Statuses::decode(input)?;
            let mut ends = Vec::new();
            for _ in 0..input.count("number of runs", 12)? {
                let count = input.u32("ends of a run")? as usize;
                ends.resize(ends.len() + count, input.u64("end")?);
            }
            Outcome::Extended(statuses, ends)
        }
        7 => Outcome::Updated(input.flag("changed")?),
        other => return Err(DecodeError::value("kind of answer", format!("{other}"))),
    })
}
