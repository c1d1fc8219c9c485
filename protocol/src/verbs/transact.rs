//! `transact`: deletes leased messages and sends others, all or nothing.
//!
//! ```text
//! request:  u16 count, deletions, u16 count, sends
//! deletion: queue, u32 count, receipts (32 bytes each)
//! send:     queue, u32 count, entries as in a `send`
//! answer:   u16 count, for each send in order: u32 count of runs, runs as in the answer of a `send`,
//!           but none of kind 1 (refused)
//! ```
//!
//! Where one receipt is not good or one message is refused the whole request is, with the reason of
//! the first, and nothing is changed. A message whose dedup id is known is no refusal. All queues
//! must live on one shard (`different_shards`).
//!
//! Always true here: what is decoded has at most [`BATCH_ENTRIES_MAX`] receipts and as many messages
//! over all queues, so that it takes no more memory than any other request.

use bytes::{BufMut, BytesMut};

use super::{Delete, Send, Sent, Verb, hello::skip_fields};
use crate::BATCH_ENTRIES_MAX;
use crate::wire::{DecodeError, Payload, Reader};

/// Most deletions, and most sends, of one request.
pub const PARTS_MAX: usize = 64;

/// Deletes leased messages and sends others in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transact {
    /// Receipts by queue: up to [`PARTS_MAX`], with up to [`BATCH_ENTRIES_MAX`] receipts in all. A
    /// queue may come more than once.
    pub deletes: Vec<Delete>,
    /// Messages by queue: up to [`PARTS_MAX`], with up to [`BATCH_ENTRIES_MAX`] messages in all. A
    /// queue may come more than once.
    pub sends: Vec<Send>,
}

/// What became of the messages sent, by the sends of the request: stored or duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transacted {
    /// One a send, in order; no run of them is refused.
    pub sent: Vec<Sent>,
}

impl Verb for Transact {
    const OPCODE: u16 = 42;
    const CHANGES: bool = true;
    type Answer = Transacted;
}

impl Payload for Transact {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.deletes.len() as u16);
        for delete in &self.deletes {
            delete.put(out);
        }
        out.put_u16_le(self.sends.len() as u16);
        for send in &self.sends {
            send.put(out);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let receipts = |delete: &Delete| delete.receipts.len();
        let deletes = read_parts(input, ["deletions", "receipts in all"], Delete::read, receipts)?;
        let messages = |send: &Send| send.entries.len();
        let sends = read_parts(input, ["sends", "messages in all"], Send::read, messages)?;
        skip_fields(input)?;
        Ok(Self { deletes, sends })
    }
}

impl Payload for Transacted {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.sent.len() as u16);
        for sent in &self.sent {
            sent.put(out);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let runs = |sent: &Sent| sent.runs.len();
        let sent = read_parts(input, ["sends", "runs in all"], Sent::read, runs)?;
        skip_fields(input)?;
        Ok(Self { sent })
    }
}

/// Reads a `u16` count and that many parts, whose entries are counted together.
fn read_parts<T>(
    input: &mut Reader,
    [parts_of, entries_of]: [&'static str; 2],
    read: impl Fn(&mut Reader) -> Result<T, DecodeError>,
    entries: impl Fn(&T) -> usize,
) -> Result<Vec<T>, DecodeError> {
    let count = usize::from(input.u16(parts_of)?);
    if count > PARTS_MAX {
        let reason = format!("{count} is over the limit of {PARTS_MAX}");
        return Err(DecodeError::value(parts_of, reason));
    }
    let (mut parts, mut all) = (Vec::with_capacity(count), 0);
    for _ in 0..count {
        let part = read(input)?;
        all += entries(&part) as u32;
        if all > BATCH_ENTRIES_MAX {
            let (field, count, maximum) = (entries_of, all, BATCH_ENTRIES_MAX);
            return Err(DecodeError::TooMany { field, count, maximum });
        }
        parts.push(part);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::QueueName;
    use crate::receipt::Receipt;
    use crate::verbs::{SendEntry, SentRun};

    fn encoded(payload: &impl Payload) -> Reader {
        let mut out = BytesMut::new();
        payload.encode(&mut out);
        Reader::new(out.freeze())
    }

    /// Deletions of so many receipts each, and sends of so many messages each.
    fn transact(receipts: &[usize], messages: &[usize]) -> Transact {
        let queue = || QueueName::new("jobs").unwrap();
        let receipt = Receipt { queue: 1, lease: 2, id: 3, secret: 4 };
        let delete = |&count: &usize| Delete { queue: queue(), receipts: vec![receipt; count] };
        let entry = SendEntry::new("");
        let send = |&count: &usize| Send { queue: queue(), entries: vec![entry.clone(); count] };
        Transact {
            deletes: receipts.iter().map(delete).collect(),
            sends: messages.iter().map(send).collect(),
        }
    }

    #[test]
    fn parts_of_a_request_are_bounded() {
        let most = transact(&[1; PARTS_MAX], &[1; PARTS_MAX]);
        assert_eq!(Transact::decode(&mut encoded(&most)), Ok(most));
        for over in [transact(&[1; PARTS_MAX + 1], &[1]), transact(&[1], &[1; PARTS_MAX + 1])] {
            let error = Transact::decode(&mut encoded(&over)).unwrap_err();
            assert!(error.to_string().ends_with("65 is over the limit of 64"), "{error}");
        }
    }

    #[test]
    fn entries_of_all_parts_are_counted_together() {
        let most = transact(&[6_000, 4_000], &[3_000, 7_000]);
        assert_eq!(Transact::decode(&mut encoded(&most)), Ok(most));
        for (over, field) in [
            (transact(&[6_000, 4_001], &[]), "receipts in all"),
            (transact(&[], &[3_000, 7_000, 1]), "messages in all"),
        ] {
            let (count, maximum) = (10_001, BATCH_ENTRIES_MAX);
            let error = DecodeError::TooMany { field, count, maximum };
            assert_eq!(Transact::decode(&mut encoded(&over)), Err(error));
        }
    }

    #[test]
    fn runs_of_an_answer_are_counted_together() {
        let answer = |runs: usize| {
            let run = SentRun::Duplicate { id: 7, count: 1 };
            let sent = |count| Sent { runs: vec![run.clone(); count] };
            Transacted { sent: vec![sent(5_000), sent(runs - 5_000)] }
        };
        assert_eq!(Transacted::decode(&mut encoded(&answer(10_000))), Ok(answer(10_000)));
        assert!(Transacted::decode(&mut encoded(&answer(10_001))).is_err());
    }

    #[test]
    fn nothing_to_do_survives_the_wire() {
        let nothing = transact(&[0], &[0]);
        assert_eq!(Transact::decode(&mut encoded(&nothing)), Ok(nothing));
        assert_eq!(Transact::decode(&mut encoded(&transact(&[], &[]))), Ok(transact(&[], &[])));
    }
}
