//! A machine that is told one command after the other, and whose records are replayed in the end.

use bytes::BytesMut;
use qd::shard::command::{Action, ById, ByIdAction, Create, Receive, Send, Settle, Update};
use qd::shard::{Command, Entry, Machine, NewMessage, Outcome, Received, Record};
use qd_protocol::message::Properties;
use qd_protocol::verbs::{IfExists, SendEntry, SentRun};
use qd_protocol::{AttributeChanges, ErrorCode, QueueName, Receipt, Refusal, Statistics};

use crate::memory::Memory;

pub const START_MS: u64 = 1_000_000;

pub struct Run {
    pub storage: Memory,
    pub machine: Machine,
    pub now_ms: u64,
    records: Vec<bytes::Bytes>,
}

pub fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}

/// A message as the broker hands it on.
pub fn stored(entry: SendEntry) -> NewMessage {
    NewMessage {
        crc: entry.body.crc,
        size: entry.size(),
        due: entry.due,
        ttl_ms: entry.ttl_ms,
        unique: entry.unique,
        fields: entry.stored_fields(),
        body: entry.body.bytes,
    }
}

pub fn plain(body: &str) -> NewMessage {
    stored(SendEntry::new(body.to_owned()))
}

pub fn with_dedup(dedup_id: &str, unique: bool) -> NewMessage {
    let properties = Properties { dedup_id: Some(dedup_id.to_owned()), ..Properties::default() };
    stored(SendEntry { properties, unique, ..SendEntry::new("body") })
}

pub fn with_header(body: &str, key: &str, value: &str) -> NewMessage {
    let headers = qd_protocol::Headers(vec![(key.to_owned(), value.to_owned())]);
    stored(SendEntry { headers, ..SendEntry::new(body.to_owned()) })
}

/// What became of messages: their ids, of a duplicate that of the original below 0, or 0 and a code.
pub fn ids(runs: &[SentRun]) -> Vec<(i64, Option<ErrorCode>)> {
    let sent = qd_protocol::verbs::Sent { runs: runs.to_vec() };
    let id = |entry: Result<qd_protocol::verbs::Stored, &Refusal>| match entry {
        Ok(stored) if stored.duplicate => (-stored.id.cast_signed(), None),
        Ok(stored) => (stored.id.cast_signed(), None),
        Err(refusal) => (0, Some(refusal.code)),
    };
    sent.entries().map(id).collect()
}

impl Run {
    pub fn new() -> Self {
        let storage = Memory::default();
        let machine = storage.open();
        Self { storage, machine, now_ms: START_MS, records: Vec::new() }
    }

    pub fn record(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        let entries = commands.into_iter().map(|command| Entry { origin: None, command }).collect();
        let sequence = self.machine.position().applied + 1;
        let record = Record { sequence, now_ms: self.now_ms, entries };
        let mut bytes = BytesMut::new();
        record.encode(&mut bytes);
        self.records.push(bytes.freeze());
        let outcomes = self.machine.apply(&record).unwrap().outcomes;
        assert_eq!(self.machine.verify().unwrap(), [""; 0]);
        outcomes
    }

    pub fn run(&mut self, command: Command) -> Outcome {
        self.record(vec![command]).remove(0)
    }

    pub fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        self.record(Vec::new());
    }

    pub fn reopen(&mut self) {
        self.machine.checkpoint().unwrap();
        self.machine = Memory::default().open();
        self.machine = self.storage.open();
    }

    pub fn create(&mut self, queue: &str, attributes: AttributeChanges) {
        let create =
            Create { queue: name(queue), if_exists: IfExists::Compare, attributes, with: None };
        assert_eq!(self.run(Command::Create(create)), Outcome::Created(true));
    }

    pub fn update(&mut self, queue: &str, attributes: AttributeChanges) -> Outcome {
        self.run(Command::Update(Update { queue: name(queue), attributes }))
    }

    pub fn send(
        &mut self,
        queue: &str,
        messages: Vec<NewMessage>,
    ) -> Vec<(i64, Option<ErrorCode>)> {
        match self.run(Command::Send(Send { queue: name(queue), messages })) {
            Outcome::Sent(runs) => ids(&runs),
            other => panic!("{other:?}"),
        }
    }

    /// Sends one message. Its id, of a duplicate that of the original below 0.
    pub fn send_one(&mut self, queue: &str, message: NewMessage) -> i64 {
        let (id, code) = self.send(queue, vec![message])[0];
        assert_eq!(code, None);
        id
    }

    pub fn receive(&mut self, queue: &str, max: u32) -> Received {
        let receive = Receive {
            queues: vec![name(queue)],
            max,
            bytes_max: 1 << 30,
            visibility_timeout_ms: Some(5_000),
            delete: false,
            settle: Vec::new(),
            secret: 7,
        };
        match self.run(Command::Receive(receive)) {
            Outcome::Received(received) => received,
            other => panic!("{other:?}"),
        }
    }

    pub fn receipts(&mut self, queue: &str, max: u32) -> Vec<Receipt> {
        self.receive(queue, max).messages.iter().map(|message| message.receipt).collect()
    }

    pub fn settle(&mut self, queue: &str, action: Action, receipts: Vec<Receipt>) -> Outcome {
        self.run(Command::Settle(Settle { queue: name(queue), action, receipts, seed: 1 }))
    }

    pub fn discard(&mut self, queue: &str, id: u64) {
        let action = ByIdAction::Discard;
        self.run(Command::ById(ById { queue: name(queue), action, ids: vec![id] }));
    }

    pub fn statistics(&self, queue: &str) -> Statistics {
        self.machine.describe(&name(queue), self.now_ms).unwrap().unwrap().statistics
    }

    /// Applies the same records on another store that is opened again and again.
    pub fn replay(&self) {
        let storage = Memory::default();
        let mut second = storage.open();
        for (index, bytes) in self.records.iter().enumerate() {
            second.apply(&Record::decode(bytes.clone()).unwrap()).unwrap();
            if index % 3 == 0 {
                second.checkpoint().unwrap();
                drop(second);
                second = storage.open();
            }
        }
        assert_eq!(self.machine.row_hash().unwrap(), second.row_hash().unwrap());
    }
}
