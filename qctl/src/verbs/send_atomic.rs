//! `qctl send --atomic`: all messages in one step, or none.
//!
//! Always true here: nothing is sent before the whole input was read and fits into one request.

use qd_protocol::receipt::RECEIPT_BYTES;
use qd_protocol::verbs::transact::PARTS_MAX;
use qd_protocol::verbs::{self, SendEntry, Transact, Transacted};
use qd_protocol::{BATCH_ENTRIES_MAX, FRAME_BYTES_MAX, QueueName, Receipt};

use super::send::{id_record, id_records};
use super::send_input::{Body, Common, Form};
use crate::exit::{Exit, Failure};
use crate::input::{Ready, Records as Input, Source};
use crate::output::Records;
use crate::session::Session;

/// Bytes of a request besides its messages and queues.
const REQUEST_BYTES: usize = 64;
/// Bytes of a queue in a request besides its name.
const PART_BYTES: usize = 8;

/// What is done in one step.
#[derive(Debug, Default)]
pub struct Step {
    deletes: Vec<verbs::Delete>,
    /// One a queue, in the order in which they come first.
    sends: Vec<verbs::Send>,
    /// The queue of each message, in the order of the input.
    order: Vec<usize>,
    bytes: usize,
}

impl Step {
    /// Adds a message, if there is room.
    pub fn add(&mut self, queue: &QueueName, entry: SendEntry) -> Result<(), Failure> {
        if self.order.len() >= BATCH_ENTRIES_MAX as usize {
            return over(&format!("at most {BATCH_ENTRIES_MAX} messages"));
        }
        let known = self.sends.iter().position(|send| send.queue == *queue);
        let at = known.unwrap_or(self.sends.len());
        if at == PARTS_MAX {
            return over(&format!("messages for at most {PARTS_MAX} queues"));
        }
        self.bytes += entry.encoded_bytes();
        if known.is_none() {
            self.bytes += PART_BYTES + queue.as_str().len();
            self.sends.push(verbs::Send { queue: queue.clone(), entries: Vec::new() });
        }
        self.check_bytes()?;
        if let Some(send) = self.sends.get_mut(at) {
            send.entries.push(entry);
        }
        self.order.push(at);
        Ok(())
    }

    /// Adds receipts whose messages are deleted, if there is room.
    pub fn delete(&mut self, queue: QueueName, receipts: Vec<Receipt>) -> Result<(), Failure> {
        if receipts.len() > BATCH_ENTRIES_MAX as usize {
            return over(&format!("at most {BATCH_ENTRIES_MAX} receipts"));
        }
        self.bytes += PART_BYTES + queue.as_str().len() + receipts.len() * RECEIPT_BYTES;
        self.deletes.push(verbs::Delete { queue, receipts });
        self.check_bytes()
    }

    fn check_bytes(&self) -> Result<(), Failure> {
        if self.bytes > FRAME_BYTES_MAX as usize - REQUEST_BYTES {
            return over(&format!("at most {} MiB in all", FRAME_BYTES_MAX >> 20));
        }
        Ok(())
    }

    /// Does it, and writes the ids of the messages in the order of the input.
    pub async fn run(self, session: &mut Session, mut records: Records) -> Result<Exit, Failure> {
        let queues: Vec<QueueName> = self.sends.iter().map(|send| send.queue.clone()).collect();
        let answer = if self.order.is_empty() && self.deletes.is_empty() {
            Transacted { sent: Vec::new() }
        } else {
            session.call(Transact { deletes: self.deletes, sends: self.sends }).await?
        };
        let mut sent: Vec<_> = answer.sent.iter().map(verbs::Sent::entries).collect();
        for at in self.order {
            let stored = sent.get_mut(at).and_then(Iterator::next);
            let (Some(queue), Some(Ok(stored))) = (queues.get(at), stored) else {
                let text = "the answer does not tell what became of every message".to_owned();
                return Err(Failure::Protocol(text));
            };
            records.push(&mut session.out, &id_record(queue.as_str(), stored))?;
        }
        records.finish(&mut session.out)?;
        Ok(Exit::Done)
    }
}

fn over(limit: &str) -> Result<(), Failure> {
    Err(Failure::BadInput(format!("one atomic step holds {limit}")))
}

/// Sends a few bodies.
pub async fn bodies(
    session: &mut Session,
    queue: &QueueName,
    common: &Common,
    bodies: Vec<Body>,
) -> Result<Exit, Failure> {
    let records = id_records(&session.out, bodies.len() > 1, common.may_repeat())?;
    let mut step = Step::default();
    for body in bodies {
        let added = match body.read().await {
            Ok(bytes) => step.add(queue, common.entry(bytes)),
            Err(failure) => Err(failure),
        };
        added.map_err(|failure| failure.after(NOTHING))?;
    }
    step.run(session, records).await
}

/// Sends every record of `sources`.
pub async fn stream(
    session: &mut Session,
    queue: &QueueName,
    common: &Common,
    sources: Vec<Source>,
    form: Form,
) -> Result<Exit, Failure> {
    let dedup = common.may_repeat() || form == Form::Jsonl;
    let records = id_records(&session.out, true, dedup)?;
    let mut input = Input::start(sources, form.cut(), form.record_bytes_max())?;
    let step = collect(&mut input, queue, common, form).await;
    let step = step.map_err(|failure| failure.after(NOTHING))?;
    step.run(session, records).await
}

/// How far a step is before its request.
const NOTHING: &str = "nothing was sent";

async fn collect(
    input: &mut Input,
    queue: &QueueName,
    common: &Common,
    form: Form,
) -> Result<Step, Failure> {
    let mut step = Step::default();
    loop {
        match input.ready()? {
            Ready::Over => return Ok(step),
            Ready::Paused => {
                input.arrive().await?;
            }
            Ready::Record(record) => {
                let added = match form.read(&record, common) {
                    Ok(None) => Ok(()),
                    Ok(Some(read)) => step.add(read.queue.as_ref().unwrap_or(queue), read.entry),
                    Err(failure) => Err(failure),
                };
                let place = || format!("input {} {}", form.record_name(), input.count);
                added.map_err(|failure| failure.after(place()))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> QueueName {
        QueueName::new(text).unwrap()
    }

    fn text(added: Result<(), Failure>) -> String {
        let failure = added.unwrap_err();
        assert_eq!(failure.exit(), Exit::BadInput);
        failure.to_string()
    }

    #[test]
    fn step_keeps_the_order_of_the_input() {
        let mut step = Step::default();
        for (queue, body) in [("a", "1"), ("b", "2"), ("a", "3")] {
            step.add(&name(queue), SendEntry::new(body)).unwrap();
        }
        assert_eq!(step.order, [0, 1, 0]);
        let sizes: Vec<_> = step.sends.iter().map(|send| send.entries.len()).collect();
        assert_eq!(sizes, [2, 1]);
    }

    #[test]
    fn step_over_a_limit_names_it() {
        let mut step = Step::default();
        for _ in 0..10_000 {
            step.add(&name("a"), SendEntry::new("")).unwrap();
        }
        let added = step.add(&name("a"), SendEntry::new(""));
        assert_eq!(text(added), "one atomic step holds at most 10000 messages");
        let mut step = Step::default();
        for number in 0..64 {
            step.add(&name(&format!("q{number}")), SendEntry::new("")).unwrap();
        }
        assert!(step.add(&name("q5"), SendEntry::new("")).is_ok());
        let added = step.add(&name("other"), SendEntry::new(""));
        assert_eq!(text(added), "one atomic step holds messages for at most 64 queues");
        let receipt = Receipt { queue: 1, lease: 2, id: 3, secret: 4 };
        assert!(step.delete(name("a"), vec![receipt; 10_000]).is_ok());
        let added = step.delete(name("a"), vec![receipt; 10_001]);
        assert_eq!(text(added), "one atomic step holds at most 10000 receipts");
    }

    #[test]
    fn largest_step_fits_into_a_frame() {
        use bytes::BytesMut;
        use qd_protocol::wire::Payload;
        let mut step = Step::default();
        let receipt = Receipt { queue: 1, lease: 2, id: 3, secret: 4 };
        step.delete(name("a"), vec![receipt; 10_000]).unwrap();
        let mut number = 0;
        let mut add = |step: &mut Step, body: usize| {
            number += 1;
            let queue = name(&format!("q{}{}", number % 64, "x".repeat(100)));
            step.add(&queue, SendEntry::new(vec![0; body]))
        };
        while add(&mut step, 9_000).is_ok() {}
        let bytes = step.bytes;
        assert!(bytes > FRAME_BYTES_MAX as usize - 20_000);
        // What was one too many is not among them.
        let mut out = BytesMut::new();
        Transact { deletes: step.deletes, sends: step.sends }.encode(&mut out);
        assert!(out.len() < FRAME_BYTES_MAX as usize - 32, "{}", out.len());
        assert!(out.len() + 9_100 > bytes - REQUEST_BYTES, "{} {bytes}", out.len());
    }
}
