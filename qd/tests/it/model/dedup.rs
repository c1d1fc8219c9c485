//! Sending and dedup ids in the plain model.

use qd::shard::Outcome;
use qd::shard::command::{NewMessage, Send};
use qd_protocol::ErrorCode;
use qd_protocol::message::Properties;
use qd_protocol::verbs::{Due, SentRun};

use super::{Model, ModelQueue, refused};

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Stored(u64),
    Duplicate(u64),
    Refused(ErrorCode),
}

impl Fate {
    pub fn run_of_one(self) -> SentRun {
        match self {
            Self::Stored(first) => SentRun::Stored { first, count: 1 },
            Self::Duplicate(id) => SentRun::Duplicate { id, count: 1 },
            Self::Refused(code) => {
                SentRun::Refused { refusal: Box::new(code.refuse("")), count: 1 }
            }
        }
    }
}

pub fn properties(message: &NewMessage) -> Properties {
    Properties::of(&message.fields).unwrap()
}

impl ModelQueue {
    /// The message that a new one is a duplicate of.
    pub fn original(&self, message: &NewMessage, now_ms: u64) -> Option<u64> {
        let dedup_id = properties(message).dedup_id?;
        if message.unique {
            let has = |other: &&super::ModelMessage| {
                other.properties.dedup_id.as_ref() == Some(&dedup_id)
            };
            return self.messages.iter().find(has).map(|original| original.id);
        }
        let window = self.windows.get(&dedup_id).filter(|(_, until_ms)| *until_ms > now_ms);
        window.map(|(id, _)| *id)
    }

    /// What is wrong with a message whatever else is in the queue.
    pub fn check(&self, message: &NewMessage) -> Result<(), ErrorCode> {
        if self.attributes.ordered && properties(message).priority > 0 {
            return Err(ErrorCode::PriorityOnOrdered);
        }
        if self.is_too_large(message.size) {
            return Err(ErrorCode::MessageTooLarge);
        }
        Ok(())
    }

    /// Adds a message that a producer sent.
    pub fn accept(&mut self, message: &NewMessage, due_ms: Option<u64>, now_ms: u64) -> u64 {
        let until_ms = now_ms + self.attributes.dedup_window_ms;
        let id = self.add(message.clone(), due_ms, now_ms);
        if let Some(dedup_id) = properties(message).dedup_id {
            self.windows.insert(dedup_id, (id, until_ms));
        }
        id
    }
}

impl Model {
    pub fn send(&mut self, send: &Send) -> Outcome {
        let Some(number) = self.find(&send.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let fates: Vec<Fate> =
            send.messages.iter().map(|message| self.send_one(number, message)).collect();
        Outcome::Sent(fates.into_iter().map(Fate::run_of_one).collect())
    }

    fn send_one(&mut self, number: u64, message: &NewMessage) -> Fate {
        if let Some(id) = self.find_original(number, message) {
            return Fate::Duplicate(id);
        }
        let admitted =
            self.queues[&number].check(message).and_then(|()| self.admit(number, message.size));
        match admitted {
            Err(code) => Fate::Refused(code),
            Ok(()) => Fate::Stored(self.accept(number, message)),
        }
    }

    /// The message that a new one is a duplicate of, which is counted.
    pub fn find_original(&mut self, number: u64, message: &NewMessage) -> Option<u64> {
        let now_ms = self.now_ms;
        let queue = self.queues.get_mut(&number).unwrap();
        let original = queue.original(message, now_ms);
        queue.totals.duplicates += u64::from(original.is_some());
        original
    }

    /// Adds a message that a producer sent. Returns its id.
    pub fn accept(&mut self, number: u64, message: &NewMessage) -> u64 {
        let delay = Due::After(self.queues[&number].attributes.delay_ms);
        let due_ms = self.due_ms(message.due.unwrap_or(delay));
        let now_ms = self.now_ms;
        self.queues.get_mut(&number).unwrap().accept(message, due_ms, now_ms)
    }
}
