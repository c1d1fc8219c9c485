//! `stats`: the counters of queues at one moment.

use bytes::{BufMut, Bytes, BytesMut};

use super::list::PATTERN_BYTES_MAX;
use super::{Verb, hello::skip_fields};
use crate::attributes::{Statistics, queue_name, queue_name_of_field};
use crate::error::{ErrorCode, Refusal};
use crate::name::QueueName;
use crate::wire::{DecodeError, Payload, Reader, put_field, put_string, utf8};

/// Most patterns of one request: each is held against every name.
pub const PATTERNS_MAX: usize = 16;

/// Asks for the counters of queues: of those named and those that match a pattern, or, with neither,
/// of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// At most [`crate::BATCH_ENTRIES_MAX`]; those that are not there are left out of the answer.
    pub names: Vec<QueueName>,
    /// As those of [`super::List`]; at most [`PATTERNS_MAX`].
    pub patterns: Vec<String>,
}

/// The counters of queues, all of the same moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// In the order of their names, each once.
    pub queues: Vec<(QueueName, Statistics)>,
}

impl Verb for Stats {
    const OPCODE: u16 = 22;
    const CHANGES: bool = false;
    type Answer = Counted;
}

const FIELD_NAME: u8 = 1;
const FIELD_PATTERN: u8 = 2;

impl Stats {
    /// Checks how much is asked for.
    pub fn check(&self) -> Result<(), Refusal> {
        let names_max = crate::BATCH_ENTRIES_MAX as usize;
        for (count, most, what) in [
            (self.names.len(), names_max, "names"),
            (self.patterns.len(), PATTERNS_MAX, "patterns"),
        ] {
            if count > most {
                let text = format!("one request has at most {most} {what}, not {count}");
                let refusal = ErrorCode::BatchTooLarge.refuse(text);
                return Err(refusal.with_limit(what, count as u64, most as u64));
            }
        }
        Ok(())
    }
}

impl Payload for Stats {
    fn encode(&self, out: &mut BytesMut) {
        for name in &self.names {
            put_field(out, FIELD_NAME, |out| out.put_slice(name.as_str().as_bytes()));
        }
        for pattern in &self.patterns {
            put_field(out, FIELD_PATTERN, |out| out.put_slice(pattern.as_bytes()));
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let mut stats = Self::default();
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                FIELD_NAME => stats.names.push(queue_name_of_field("name", &mut value)?),
                FIELD_PATTERN => {
                    let length = value.left();
                    if length > PATTERN_BYTES_MAX {
                        let reason =
                            format!("{length} bytes are over the limit of {PATTERN_BYTES_MAX}");
                        return Err(DecodeError::value("pattern", reason));
                    }
                    stats.patterns.push(utf8("pattern", &value.rest())?);
                }
                _ => {}
            }
        }
        Ok(stats)
    }
}

/// Appends what precedes the queues: which counters they have, and how many queues there are.
fn put_head(out: &mut BytesMut, queues: u32) {
    out.put_u8(Statistics::SPECS.len() as u8);
    for (tag, _) in Statistics::SPECS {
        out.put_u8(*tag);
    }
    out.put_u32_le(queues);
}

fn put_queue(out: &mut BytesMut, name: &QueueName, statistics: &Statistics) {
    put_string(out, name.as_str());
    statistics.put_values(out);
}

/// Encodes a [`Counted`] queue by queue, where there may be very many.
#[derive(Debug, Default)]
pub struct CountedWriter {
    queues: BytesMut,
    count: u32,
}

impl CountedWriter {
    /// Adds the next queue in the order of the names.
    pub fn push(&mut self, name: &QueueName, statistics: &Statistics) {
        if self.count == 0 {
            // How many there are is known in the end.
            put_head(&mut self.queues, 0);
        }
        put_queue(&mut self.queues, name, statistics);
        self.count += 1;
    }

    /// The payload.
    pub fn finish(self) -> Bytes {
        let Self { mut queues, count } = self;
        let mut head = BytesMut::new();
        put_head(&mut head, count);
        match queues.get_mut(..head.len()) {
            Some(place) => place.copy_from_slice(&head),
            None => queues = head,
        }
        queues.freeze()
    }
}

impl Payload for Counted {
    fn encode(&self, out: &mut BytesMut) {
        put_head(out, self.queues.len() as u32);
        for (name, statistics) in &self.queues {
            put_queue(out, name, statistics);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let counters = usize::from(input.u8("number of counters")?);
        let tags = input.bytes("counters", counters)?;
        // A name has a length and a character at least.
        let count = input.count("number of queues", 3 + 8 * counters)?;
        let mut queues = Vec::new();
        for _ in 0..count {
            let name = queue_name(input)?;
            let mut statistics = Statistics::default();
            for tag in &tags {
                statistics.set(*tag, input.u64("counter")?);
            }
            queues.push((name, statistics));
        }
        skip_fields(input)?;
        Ok(Self { queues })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    #[test]
    fn counters_that_are_not_known_are_skipped_and_others_are_0() {
        let mut out = BytesMut::new();
        out.put_slice(&[2, 200, 1]);
        out.put_u32_le(1);
        put_string(&mut out, "jobs");
        out.put_u64_le(5);
        out.put_u64_le(7);
        let counted = Counted::decode(&mut Reader::new(out.freeze())).unwrap();
        let statistics = Statistics { ready: 7, ..Statistics::default() };
        assert_eq!(counted.queues, [(name("jobs"), statistics)]);
    }

    #[test]
    fn number_of_queues_is_held_against_the_bytes_that_are_there() {
        let mut out = BytesMut::new();
        put_head(&mut out, u32::MAX);
        let error = Counted::decode(&mut Reader::new(out.freeze())).unwrap_err();
        assert!(matches!(error, DecodeError::Short { .. }), "{error}");
    }

    #[test]
    fn queues_written_one_by_one_are_encoded_as_all_together() {
        let statistics = |ready| Statistics { ready, ..Statistics::default() };
        let queues = [(name("a"), statistics(1)), (name("b"), statistics(2))];
        for count in 0..=2 {
            let counted = Counted { queues: queues[..count].to_vec() };
            let mut writer = CountedWriter::default();
            counted.queues.iter().for_each(|(name, statistics)| writer.push(name, statistics));
            let mut whole = BytesMut::new();
            counted.encode(&mut whole);
            assert_eq!(writer.finish(), whole);
        }
    }

    #[test]
    fn too_many_names_and_patterns_are_refused_with_their_limit() {
        let stats = |names, patterns| Stats {
            names: vec![name("a"); names],
            patterns: vec!["*".to_owned(); patterns],
        };
        assert_eq!(stats(10_000, 16).check(), Ok(()));
        for (stats, text) in [
            (stats(10_001, 0), "one request has at most 10000 names, not 10001"),
            (stats(0, 17), "one request has at most 16 patterns, not 17"),
        ] {
            let refusal = stats.check().unwrap_err();
            assert_eq!((refusal.code, refusal.text.as_str()), (ErrorCode::BatchTooLarge, text));
        }
    }
}
