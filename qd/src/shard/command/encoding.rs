//! The bytes of records in the log.
//!
//! ```text
//! record:  u8 layout (2), u64 sequence, u64 now (state ms), u32 count, entries
//! entry:   u8 kind, u8 numbered (0 no, 1 yes, 2 a request that goes on); when numbered u64 producer,
//!          u64 number, u64 answered below; then by kind:
//! 1 create  short string queue, u8 if exists (0 compare, 1 keep, 2 update), u32 length and
//!           optional fields of attributes, u8 has with, short string with
//! 2 drop    short string queue, u8 only if empty
//! 3 send    short string queue, u32 count, messages: u32 CRC-32C, u32 size, when, u64 time to
//!           live (ms; 0: none), u8 unique, u32 length of fields, u32 length of body, fields,
//!           body
//! 4 receive u16 count, short string queues, u32 most messages, u64 most bytes, u64 secret,
//!           u8 delete, u8 has timeout, u64 timeout (ms), u32 count, receipts
//! 5 settle  short string queue, u64 seed, u8 what: 0 delete; 1 extend by, u64 ms; 2 extend to,
//!           u64 ms; 3 release, u8 counted, when; 4 reject, short string reason; then u32 count,
//!           receipts
//! 6 by id   short string queue, u8 what: 0 discard; 1 reschedule, when; then u32 count, ids (u64)
//! 7 update  short string queue, u32 length and optional fields of attributes
//! 8 redrive short string queue, u8 has target, short string target, u64 after, u64 through,
//!           u32 most messages, u8 dry run, u16 count, headers (short string key, u32 length and
//!           bytes of the value)
//! 9 purge   short string queue, u8 has age, u64 age (ms), u64 after, u64 through, u8 dry run,
//!           u16 count, headers as in 8
//! 10 transact u16 count, deletions (short string queue, u32 count, receipts), u16 count, sends as
//!           in 3
//!
//! when:    u8 kind (0 nothing said, 1 after, 2 at), u64 ms
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use qd_protocol::receipt::RECEIPT_BYTES;
use qd_protocol::verbs::{Due, IfExists, Until};
use qd_protocol::wire::{DecodeError, Payload, Reader, put_string, utf8};
use qd_protocol::{AttributeChanges, QueueName, Receipt};

use super::{
    Action, ById, ByIdAction, Command, Create, Drop, Entry, NewMessage, Origin, Purge, Receive,
    Record, Redrive, Send, Settle, Transact, Update,
};

const LAYOUT: u8 = 2;

impl Record {
    /// The record's bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(LAYOUT);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.now_ms);
        out.put_u32_le(self.entries.len() as u32);
        for entry in &self.entries {
            entry.encode(out);
        }
    }

    /// Reads a record's bytes, all of them.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let input = &mut Reader::new(bytes);
        let layout = input.u8("layout")?;
        if layout != LAYOUT {
            return Err(DecodeError::value("layout", format!("{layout} is not {LAYOUT}")));
        }
        let (sequence, now_ms) = (input.u64("sequence")?, input.u64("now")?);
        let count = input.count("number of entries", 2)?;
        let entries = (0..count).map(|_| Entry::decode(input)).collect::<Result<_, _>>()?;
        input.end("record")?;
        Ok(Self { sequence, now_ms, entries })
    }
}

impl Entry {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match &self.command {
            Command::Create(_) => 1,
            Command::Drop(_) => 2,
            Command::Send(_) => 3,
            Command::Receive(_) => 4,
            Command::Settle(_) => 5,
            Command::ById(_) => 6,
            Command::Update(_) => 7,
            Command::Redrive(_) => 8,
            Command::Purge(_) => 9,
            Command::Transact(_) => 10,
        });
        out.put_u8(self.origin.map_or(0, |origin| 1 + u8::from(origin.continued)));
        if let Some(Origin { producer, number, answered_below, .. }) = self.origin {
            out.put_u64_le(producer);
            out.put_u64_le(number);
            out.put_u64_le(answered_below);
        }
        match &self.command {
            Command::Create(create) => create.encode(out),
            Command::Drop(drop) => drop.encode(out),
            Command::Send(send) => send.encode(out),
            Command::Receive(receive) => receive.encode(out),
            Command::Settle(settle) => settle.encode(out),
            Command::ById(by_id) => by_id.encode(out),
            Command::Update(update) => update.encode(out),
            Command::Redrive(redrive) => redrive.encode(out),
            Command::Purge(purge) => purge.encode(out),
            Command::Transact(transact) => transact.encode(out),
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let kind = input.u8("kind of entry")?;
        let origin = match input.u8("numbered")? {
            0 => None,
            kind @ (1 | 2) => Some(Origin {
                producer: input.u64("producer")?,
                number: input.u64("request number")?,
                answered_below: input.u64("answered below")?,
                continued: kind == 2,
            }),
            other => return Err(DecodeError::value("numbered", format!("{other}"))),
        };
        let command = match kind {
            1 => Command::Create(Create::decode(input)?),
            2 => Command::Drop(Drop::decode(input)?),
            3 => Command::Send(Send::decode(input)?),
            4 => Command::Receive(Receive::decode(input)?),
            5 => Command::Settle(Settle::decode(input)?),
            6 => Command::ById(ById::decode(input)?),
            7 => Command::Update(Update::decode(input)?),
            8 => Command::Redrive(Redrive::decode(input)?),
            9 => Command::Purge(Purge::decode(input)?),
            10 => Command::Transact(Transact::decode(input)?),
            other => return Err(DecodeError::value("kind of entry", format!("{other}"))),
        };
        Ok(Self { origin, command })
    }
}

impl Create {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u8(match self.if_exists {
            IfExists::Compare => 0,
            IfExists::Keep => 1,
            IfExists::Update => 2,
        });
        put_attributes(out, &self.attributes);
        put_optional_name(out, self.with.as_ref());
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let if_exists = match input.u8("if exists")? {
            0 => IfExists::Compare,
            1 => IfExists::Keep,
            2 => IfExists::Update,
            other => return Err(DecodeError::value("if exists", format!("{other}"))),
        };
        let (attributes, with) = (read_attributes(input)?, read_optional_name(input)?);
        Ok(Self { queue, if_exists, attributes, with })
    }
}

impl Drop {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u8(u8::from(self.only_if_empty));
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { queue: queue_name(input)?, only_if_empty: input.flag("only if empty")? })
    }
}

impl Send {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u32_le(self.messages.len() as u32);
        for message in &self.messages {
            out.put_u32_le(message.crc);
            out.put_u32_le(message.size as u32);
            put_due(out, message.due);
            out.put_u64_le(message.ttl_ms.unwrap_or(0));
            out.put_u8(u8::from(message.unique));
            out.put_u32_le(message.fields.len() as u32);
            out.put_u32_le(message.body.len() as u32);
            out.put_slice(&message.fields);
            out.put_slice(&message.body);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let count = input.count("number of messages", 34)?;
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            let crc = input.u32("CRC")?;
            let size = u64::from(input.u32("size")?);
            let due = read_due(input)?;
            let ttl_ms = Some(input.u64("time to live")?).filter(|ms| *ms > 0);
            let unique = input.flag("unique")?;
            let fields = input.u32("length of fields")? as usize;
            let body = input.u32("length of body")? as usize;
            let fields = input.bytes("fields", fields)?;
            let body = input.bytes("body", body)?;
            messages.push(NewMessage { crc, size, due, ttl_ms, unique, fields, body });
        }
        Ok(Self { queue, messages })
    }
}

impl Receive {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.queues.len() as u16);
        for queue in &self.queues {
            put_string(out, queue.as_str());
        }
        out.put_u32_le(self.max);
        out.put_u64_le(self.bytes_max);
        out.put_u64_le(self.secret);
        out.put_u8(u8::from(self.delete));
        out.put_u8(u8::from(self.visibility_timeout_ms.is_some()));
        out.put_u64_le(self.visibility_timeout_ms.unwrap_or(0));
        put_receipts(out, &self.settle);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let count = input.u16("number of queues")?;
        let queues = (0..count).map(|_| queue_name(input)).collect::<Result<_, _>>()?;
        let max = input.u32("most messages")?;
        let bytes_max = input.u64("most bytes")?;
        let secret = input.u64("secret")?;
        let delete = input.flag("delete")?;
        let has_timeout = input.flag("has timeout")?;
        let visibility_timeout_ms = Some(input.u64("timeout")?).filter(|_| has_timeout);
        let settle = read_receipts(input)?;
        Ok(Self { queues, max, bytes_max, visibility_timeout_ms, delete, settle, secret })
    }
}

impl Settle {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u64_le(self.seed);
        match &self.action {
            Action::Delete => out.put_u8(0),
            Action::Extend(until) => {
                let (kind, ms) = match *until {
                    Until::By(ms) => (1, ms),
                    Until::To(ms) => (2, ms),
                };
                out.put_u8(kind);
                out.put_u64_le(ms);
            }
            Action::Release { counted, due } => {
                out.put_u8(3);
                out.put_u8(u8::from(*counted));
                put_due(out, *due);
            }
            Action::Reject { reason } => {
                out.put_u8(4);
                put_string(out, reason);
            }
        }
        put_receipts(out, &self.receipts);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let seed = input.u64("seed")?;
        let action = match input.u8("what to settle")? {
            0 => Action::Delete,
            1 => Action::Extend(Until::By(input.u64("extend by")?)),
            2 => Action::Extend(Until::To(input.u64("extend to")?)),
            3 => Action::Release { counted: input.flag("counted")?, due: read_due(input)? },
            4 => Action::Reject { reason: input.string("reason")? },
            other => return Err(DecodeError::value("what to settle", format!("{other}"))),
        };
        Ok(Self { queue, action, receipts: read_receipts(input)?, seed })
    }
}

impl ById {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        match self.action {
            ByIdAction::Discard => out.put_u8(0),
            ByIdAction::Reschedule(due) => {
                out.put_u8(1);
                put_due(out, Some(due));
            }
        }
        out.put_u32_le(self.ids.len() as u32);
        for id in &self.ids {
            out.put_u64_le(*id);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let action = match input.u8("what to do by id")? {
            0 => ByIdAction::Discard,
            1 => {
                let due = read_due(input)?;
                let due = due.ok_or_else(|| DecodeError::value("when", "nothing is said"))?;
                ByIdAction::Reschedule(due)
            }
            other => return Err(DecodeError::value("what to do by id", format!("{other}"))),
        };
        let count = input.count("number of ids", 8)?;
        let ids = (0..count).map(|_| input.u64("id")).collect::<Result<_, _>>()?;
        Ok(Self { queue, action, ids })
    }
}

impl Update {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        put_attributes(out, &self.attributes);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { queue: queue_name(input)?, attributes: read_attributes(input)? })
    }
}

impl Redrive {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        put_optional_name(out, self.to.as_ref());
        out.put_u64_le(self.after);
        out.put_u64_le(self.through);
        out.put_u32_le(self.max);
        out.put_u8(u8::from(self.dry_run));
        put_headers(out, &self.headers);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let to = read_optional_name(input)?;
        let (after, through) = (input.u64("after")?, input.u64("through")?);
        let (max, dry_run) = (input.u32("most messages")?, input.flag("dry run")?);
        let headers = read_headers(input)?;
        Ok(Self { queue, to, after, through, max, headers, dry_run })
    }
}

impl Purge {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.queue.as_str());
        out.put_u8(u8::from(self.older_than_ms.is_some()));
        out.put_u64_le(self.older_than_ms.unwrap_or(0));
        out.put_u64_le(self.after);
        out.put_u64_le(self.through);
        out.put_u8(u8::from(self.dry_run));
        put_headers(out, &self.headers);
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let queue = queue_name(input)?;
        let has_age = input.flag("has age")?;
        let older_than_ms = Some(input.u64("age")?).filter(|_| has_age);
        let (after, through) = (input.u64("after")?, input.u64("through")?);
        let (dry_run, headers) = (input.flag("dry run")?, read_headers(input)?);
        Ok(Self { queue, older_than_ms, headers, dry_run, after, through })
    }
}

impl Transact {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.deletes.len() as u16);
        for (queue, receipts) in &self.deletes {
            put_string(out, queue.as_str());
            put_receipts(out, receipts);
        }
        out.put_u16_le(self.sends.len() as u16);
        for send in &self.sends {
            send.encode(out);
        }
    }

    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let count = input.u16("number of deletions")?;
        let delete = |_| Ok((queue_name(input)?, read_receipts(input)?));
        let deletes = (0..count).map(delete).collect::<Result<_, DecodeError>>()?;
        let count = input.u16("number of sends")?;
        let sends = (0..count).map(|_| Send::decode(input)).collect::<Result<_, _>>()?;
        Ok(Self { deletes, sends })
    }
}

fn put_optional_name(out: &mut BytesMut, name: Option<&QueueName>) {
    out.put_u8(u8::from(name.is_some()));
    put_string(out, name.map_or("", QueueName::as_str));
}

fn read_optional_name(input: &mut Reader) -> Result<Option<QueueName>, DecodeError> {
    if input.flag("has a queue")? {
        return queue_name(input).map(Some);
    }
    input.string("no queue")?;
    Ok(None)
}

fn put_headers(out: &mut BytesMut, headers: &[(String, String)]) {
    out.put_u16_le(headers.len() as u16);
    for (key, value) in headers {
        put_string(out, key);
        out.put_u32_le(value.len() as u32);
        out.put_slice(value.as_bytes());
    }
}

fn read_headers(input: &mut Reader) -> Result<Vec<(String, String)>, DecodeError> {
    let mut headers = Vec::new();
    for _ in 0..input.u16("number of headers")? {
        let key = input.string("key")?;
        let length = input.u32("length of a value")? as usize;
        headers.push((key, utf8("value", &input.bytes("value", length)?)?));
    }
    Ok(headers)
}

fn put_attributes(out: &mut BytesMut, attributes: &AttributeChanges) {
    let mut bytes = BytesMut::new();
    attributes.encode(&mut bytes);
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(&bytes);
}

fn read_attributes(input: &mut Reader) -> Result<AttributeChanges, DecodeError> {
    let length = input.u32("length of attributes")? as usize;
    AttributeChanges::decode(&mut Reader::new(input.bytes("attributes", length)?))
}

fn put_due(out: &mut BytesMut, due: Option<Due>) {
    let (kind, ms) = match due {
        None => (0, 0),
        Some(Due::After(ms)) => (1, ms),
        Some(Due::At(ms)) => (2, ms),
    };
    out.put_u8(kind);
    out.put_u64_le(ms);
}

fn read_due(input: &mut Reader) -> Result<Option<Due>, DecodeError> {
    let (kind, ms) = (input.u8("kind of time")?, input.u64("time")?);
    match kind {
        0 => Ok(None),
        1 => Ok(Some(Due::After(ms))),
        2 => Ok(Some(Due::At(ms))),
        other => Err(DecodeError::value("kind of time", format!("{other}"))),
    }
}

fn queue_name(input: &mut Reader) -> Result<QueueName, DecodeError> {
    QueueName::new(input.string("queue")?)
        .map_err(|error| DecodeError::value("queue", error.to_string()))
}

fn put_receipts(out: &mut BytesMut, receipts: &[Receipt]) {
    out.put_u32_le(receipts.len() as u32);
    for receipt in receipts {
        receipt.encode(out);
    }
}

fn read_receipts(input: &mut Reader) -> Result<Vec<Receipt>, DecodeError> {
    let count = input.count("number of receipts", RECEIPT_BYTES)?;
    (0..count).map(|_| Receipt::decode(input)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Record {
        let queue = QueueName::new("jobs").unwrap();
        let receipt = Receipt { queue: 1, lease: 2, id: 3, secret: 4 };
        let commands = [
            Command::Create(Create {
                queue: queue.clone(),
                if_exists: IfExists::Update,
                attributes: AttributeChanges { max_bytes: Some(9), ..Default::default() },
                with: Some(queue.clone()),
            }),
            Command::Drop(Drop { queue: queue.clone(), only_if_empty: true }),
            Command::Send(Send {
                queue: queue.clone(),
                messages: vec![NewMessage {
                    crc: 1,
                    size: 7,
                    due: Some(Due::At(77)),
                    ttl_ms: Some(78),
                    unique: true,
                    fields: Bytes::from_static(b"ff"),
                    body: Bytes::from_static(b"hello"),
                }],
            }),
            Command::Receive(Receive {
                queues: vec![queue.clone(), queue.clone()],
                max: 5,
                bytes_max: 6,
                visibility_timeout_ms: Some(0),
                delete: true,
                settle: vec![receipt],
                secret: 8,
            }),
            Command::Settle(Settle {
                queue: queue.clone(),
                action: Action::Extend(Until::To(5)),
                receipts: vec![receipt, receipt],
                seed: 0,
            }),
            Command::Settle(Settle {
                queue: queue.clone(),
                action: Action::Release { counted: true, due: Some(Due::After(6)) },
                receipts: vec![receipt],
                seed: 9,
            }),
            Command::Settle(Settle {
                queue: queue.clone(),
                action: Action::Reject { reason: "broken".to_owned() },
                receipts: vec![receipt],
                seed: 10,
            }),
            Command::Redrive(Redrive {
                queue: queue.clone(),
                to: Some(queue.clone()),
                after: 1,
                through: 2,
                max: 3,
                headers: vec![("key".to_owned(), "value".to_owned())],
                dry_run: true,
            }),
            Command::ById(ById {
                queue: queue.clone(),
                action: ByIdAction::Reschedule(Due::At(7)),
                ids: vec![1, 2],
            }),
            Command::Update(Update { queue, attributes: AttributeChanges::default() }),
        ];
        let origin =
            |at| Origin { producer: 1, number: 2, answered_below: 1, continued: at % 4 == 0 };
        let entry = |(at, command)| Entry { origin: (at % 2 == 0).then(|| origin(at)), command };
        let entries = commands.into_iter().enumerate().map(entry).collect();
        Record { sequence: 17, now_ms: 18, entries }
    }

    #[test]
    fn record_survives_its_bytes() {
        let mut out = BytesMut::new();
        example().encode(&mut out);
        assert_eq!(Record::decode(out.freeze()), Ok(example()));
    }

    #[test]
    fn cut_or_changed_record_is_an_error_or_another_record_never_a_panic() {
        let mut out = BytesMut::new();
        example().encode(&mut out);
        let bytes = out.freeze();
        for at in 0..bytes.len() {
            assert!(Record::decode(bytes.slice(..at)).is_err(), "cut at {at}");
            let mut changed = bytes.to_vec();
            changed[at] ^= 0xff;
            let _ = Record::decode(changed.into());
        }
    }
}
