//! Answers of recent requests, so that a request repeated after a lost answer is carried out once.
//!
//! A producer's row holds the answers that the producer may still ask for again: those of its
//! requests from `answered_below` on, at most [`ANSWERS_MAX`] and [`ANSWERS_BYTES_MAX`]. Of a
//! request whose answer had to give way to these limits the number is kept: it is never carried
//! out twice, a repeat is refused with `answer_forgotten`. There are at most
//! [`FORGOTTEN_RANGES_MAX`] ranges of such numbers; past that the lowest gap between two counts as
//! forgotten too, which a client with at most [`qd_protocol::IN_FLIGHT_MAX`] unanswered requests
//! never sees.
//!
//! ```text
//! u8 layout (2), u64 answered below, u32 count of ranges of forgotten numbers, per range u64
//! first, u64 end (not in it); then per answer:
//! u64 number, u32 length, u8 kind, by kind: 1 created u8; 2 dropped u64; 3 sent; 4 settled;
//! 5 received: u8 deleted on receive, u16 count of leases, per lease u16 index, u64 queue,
//! u64 lease, settled; 6 extended: settled, u32 count of runs, per run u32 count, u64 end;
//! 7 updated u8; 8 redriven
//! ```
//!
//! Sent, settled and redriven are encoded as on the wire. Of a receive the leases are kept,
//! not the messages: they are delivered again as far as the leases still hold them. When they hold
//! nothing any more the receive is carried out anew, all but its settlement. A receive that waits is
//! carried out several times; whether what it settled is still kept makes no difference to it, only
//! to one that comes again: `answer_forgotten` is then all that can be said of its receipts.
//!
//! Rows stand in generations of 10 minutes of state time; a row moves to the current one when it
//! is used. Those of the generation before the last are freed, so that a producer is forgotten
//! after 10 to 20 idle minutes.

use bytes::{BufMut, Bytes, BytesMut};
use qd_protocol::ErrorCode;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{Purged, Redriven, Sent, Transacted};
use qd_protocol::wire::{DecodeError, Payload, Reader};

use super::command::{Action, Command, Origin};
use super::outcome::{Outcome, Received};
use super::{SWEPT_PER_RECORD_MAX, Step};
use crate::store::{Result, StoreError};

const LAYOUT: u8 = 2;
/// Milliseconds of state time in a generation.
const GENERATION_MS: u64 = 600_000;
/// Most answers kept for one producer: as many as one connection may have unanswered, twice.
const ANSWERS_MAX: usize = 2 * qd_protocol::IN_FLIGHT_MAX as usize;
/// Most bytes of answers kept for one producer: 256 KiB. The row is written with every record in
/// which the producer changes something.
const ANSWERS_BYTES_MAX: usize = 256 << 10;
/// Most ranges of numbers whose answers are not kept. Between two of them is a request that the
/// producer has no answer of, of which there are no more than may be unanswered, or one whose answer
/// is kept.
const FORGOTTEN_RANGES_MAX: usize = qd_protocol::IN_FLIGHT_MAX as usize + ANSWERS_MAX;

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
    /// Numbers carried out whose answers are gone: first and end of each range, rising, apart.
    forgotten: Vec<(u64, u64)>,
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
    pub(super) fn recall(&mut self, origin: Origin, command: &Command) -> Result<Recalled> {
        let producer = self.producer(origin.producer)?;
        let answer = producer.answers.iter().find(|(number, _)| *number == origin.number);
        if let Some((_, answer)) = answer {
            if answer.first() != Some(&answer_kind(command)) {
                let text = format!("request {} was one of another verb before", origin.number);
                return Ok(Recalled::Answer(ErrorCode::MalformedRequest.refuse(text).into()));
            }
            let mut answer = decode_answer(answer.clone())
                .map_err(|error| StoreError::Damaged(format!("producer: {error}")))?;
            complete(&mut answer, command);
            return self.recall_answer(answer, command);
        }
        if origin.continued {
            return Ok(Recalled::Settled(Statuses::default()));
        }
        if producer.is_forgotten(origin.number) {
            let text = format!(
                "request {} was carried out before, and its answer is no longer kept",
                origin.number
            );
            return Ok(Recalled::Answer(ErrorCode::AnswerForgotten.refuse(text).into()));
        }
        Ok(Recalled::New)
    }

    fn recall_answer(&mut self, answer: Outcome, command: &Command) -> Result<Recalled> {
        let (Outcome::Received(received), Command::Receive(receive)) = (&answer, command) else {
            return Ok(Recalled::Answer(answer));
        };
        let received = received.clone();
        // One that was cancelled wants no messages, and what is too much for this record has time.
        if receive.max == 0 || self.has_delivered_enough() && !received.leases.is_empty() {
            let unfinished = receive.max > 0;
            let settled = Received { settled: received.settled, unfinished, ..Received::default() };
            return Ok(Recalled::Answer(Outcome::Received(settled)));
        }
        if received.deleted {
            let text = "the messages were deleted as they were delivered, and that answer was lost";
            return Ok(Recalled::Answer(ErrorCode::AnswerForgotten.refuse(text).into()));
        }
        let again = self.deliver_again(received.leases, received.settled)?;
        // A receive that has nothing any more is one that waits like any other.
        Ok(if again.messages.is_empty() {
            Recalled::Settled(again.settled)
        } else {
            Recalled::Answer(Outcome::Received(again))
        })
    }

    /// Keeps the outcome of a request that changed something.
    pub(super) fn remember(&mut self, origin: Origin, outcome: &Outcome) {
        if let Some(answer) = encode_answer(outcome) {
            let producer = self.producers.entry(origin.producer).or_default();
            producer.remember(origin, answer);
        }
    }

    /// Writes the rows used by this record and frees some that are no longer used.
    pub(super) fn write_producers(&mut self) -> Result<()> {
        let generation = self.generation();
        for (producer, row) in std::mem::take(&mut self.producers) {
            if !row.answers.is_empty() || !row.forgotten.is_empty() {
                self.tables.put_producer(generation, producer, &row.to_bytes())?;
            }
        }
        self.tables.sweep_producers(generation.saturating_sub(1), SWEPT_PER_RECORD_MAX)
    }
}

impl Producer {
    fn is_forgotten(&self, number: u64) -> bool {
        let behind = self.forgotten.partition_point(|(first, _)| *first <= number);
        let before = behind.checked_sub(1).and_then(|at| self.forgotten.get(at));
        number < self.answered_below || before.is_some_and(|(_, end)| number < *end)
    }

    fn remember(&mut self, origin: Origin, answer: Bytes) {
        self.answered_below = self.answered_below.max(origin.answered_below);
        let below = self.answered_below;
        self.answers.retain(|(number, _)| *number >= below && *number != origin.number);
        self.forgotten.retain(|(_, end)| *end > below);
        if answer.len() > ANSWERS_BYTES_MAX {
            forget(&mut self.forgotten, origin.number);
            return;
        }
        self.answers.push((origin.number, answer));
        let mut bytes: usize = self.answers.iter().map(|(_, answer)| answer.len()).sum();
        let mut gone = 0;
        while self.answers.len() - gone > ANSWERS_MAX || bytes > ANSWERS_BYTES_MAX {
            let (number, answer) = &self.answers[gone];
            bytes -= answer.len();
            gone += 1;
            forget(&mut self.forgotten, *number);
        }
        self.answers.drain(..gone);
    }

    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(LAYOUT);
        out.put_u64_le(self.answered_below);
        out.put_u32_le(self.forgotten.len() as u32);
        for (first, end) in &self.forgotten {
            out.put_u64_le(*first);
            out.put_u64_le(*end);
        }
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
                Self { answered_below: input.u64("answered below")?, ..Self::default() };
            for _ in 0..input.count("number of ranges", 16)? {
                producer.forgotten.push((input.u64("first of a range")?, input.u64("end")?));
            }
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

/// Says of receipts whose statuses are not kept that they are not.
fn complete(answer: &mut Outcome, command: &Command) {
    if let (Outcome::Received(received), Command::Receive(receive)) = (answer, command)
        && received.settled.runs.is_empty()
        && !receive.settle.is_empty()
    {
        let text = "the receipt was settled before, and what became of it is no longer kept";
        let refusal = Box::new(ErrorCode::AnswerForgotten.refuse(text));
        received.settled.runs.push((receive.settle.len() as u32, Some(refusal)));
    }
}

/// Adds a number to ranges that are rising and apart.
fn forget(ranges: &mut Vec<(u64, u64)>, number: u64) {
    let behind = ranges.partition_point(|(first, _)| *first <= number);
    ranges.insert(behind, (number, number.saturating_add(1)));
    join(ranges, behind);
    if let Some(before) = behind.checked_sub(1) {
        join(ranges, before);
    }
    if ranges.len() > FORGOTTEN_RANGES_MAX {
        ranges[0].1 = ranges[1].1;
        ranges.remove(1);
    }
}

/// Joins the range at `at` with the one behind it if there is nothing between them.
fn join(ranges: &mut Vec<(u64, u64)>, at: usize) {
    if let (Some(&(_, end)), Some(&(first, behind))) = (ranges.get(at), ranges.get(at + 1))
        && first <= end
    {
        ranges[at].1 = end.max(behind);
        ranges.remove(at + 1);
    }
}

/// The kind of answer that a command has.
fn answer_kind(command: &Command) -> u8 {
    match command {
        Command::Create(_) => 1,
        Command::Drop(_) => 2,
        Command::Send(_) => 3,
        Command::Settle(settle) if matches!(settle.action, Action::Extend(_)) => 6,
        Command::Settle(_) | Command::ById(_) => 4,
        Command::Receive(_) => 5,
        Command::Update(_) => 7,
        Command::Redrive(_) => 8,
        Command::Purge(_) => 9,
        Command::Transact(_) => 10,
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
        Outcome::Purged(purged) => {
            out.put_u8(9);
            purged.encode(&mut out);
        }
        Outcome::Transacted(sent) => {
            out.put_u8(10);
            Transacted { sent: sent.clone() }.encode(&mut out);
        }
        Outcome::Redriven(redriven) => {
            out.put_u8(8);
            redriven.encode(&mut out);
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
            Outcome::Received(Received { settled, leases, deleted, ..Received::default() })
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
        8 => Outcome::Redriven(Redriven::decode(input)?),
        9 => Outcome::Purged(Purged::decode(input)?),
        10 => Outcome::Transacted(Transacted::decode(input)?.sent),
        other => return Err(DecodeError::value("kind of answer", format!("{other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remember(producer: &mut Producer, number: u64, answered_below: u64, bytes: usize) {
        let origin = Origin { producer: 1, number, answered_below, continued: false };
        producer.remember(origin, vec![4; bytes].into());
    }

    fn kept(producer: &Producer) -> Vec<u64> {
        producer.answers.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn number_whose_answer_gave_way_is_known_as_carried_out() {
        let mut producer = Producer::default();
        // Request 1 is one that waits: it holds `answered_below` down.
        for number in 2..=ANSWERS_MAX as u64 + 3 {
            remember(&mut producer, number, 1, 5);
        }
        assert_eq!(kept(&producer), (4..=ANSWERS_MAX as u64 + 3).collect::<Vec<_>>());
        assert_eq!(producer.forgotten, [(2, 4)]);
        assert!([2, 3].iter().all(|number| producer.is_forgotten(*number)));
        assert!(!producer.is_forgotten(1) && !producer.is_forgotten(4));
        let again = Producer::from_bytes(&producer.to_bytes()).unwrap();
        assert_eq!((&again.answers, &again.forgotten), (&producer.answers, &producer.forgotten));
        remember(&mut producer, ANSWERS_MAX as u64 + 4, ANSWERS_MAX as u64 + 4, 5);
        assert_eq!((kept(&producer).len(), producer.forgotten.len()), (1, 0));
        assert!(producer.is_forgotten(1));
    }

    #[test]
    fn row_is_bounded_in_bytes() {
        let mut producer = Producer::default();
        for number in 1..100 {
            remember(&mut producer, number, 1, 10_000);
            assert!(producer.to_bytes().len() < ANSWERS_BYTES_MAX + 1_000);
        }
        // One that is over the limit alone takes the place of no other.
        let before = kept(&producer).len();
        remember(&mut producer, 100, 1, ANSWERS_BYTES_MAX + 1);
        assert_eq!(kept(&producer).len(), before);
        assert!(producer.is_forgotten(100) && producer.is_forgotten(1));
    }

    #[test]
    fn ranges_of_forgotten_numbers_join_and_are_bounded() {
        let mut ranges = Vec::new();
        for number in [5, 7, 6, 3, 1] {
            forget(&mut ranges, number);
        }
        assert_eq!(ranges, [(1, 2), (3, 4), (5, 8)]);
        forget(&mut ranges, 2);
        assert_eq!(ranges, [(1, 4), (5, 8)]);
        for number in 0..2 * FORGOTTEN_RANGES_MAX as u64 {
            forget(&mut ranges, 100 + 2 * number);
        }
        assert_eq!(ranges.len(), FORGOTTEN_RANGES_MAX);
        assert!(ranges.is_sorted() && ranges[0].0 == 1);
    }
}
