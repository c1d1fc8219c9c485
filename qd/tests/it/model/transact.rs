//! Atomic steps in the plain model.

use std::collections::{BTreeMap, BTreeSet};

use qd::shard::Outcome;
use qd::shard::command::Transact;
use qd_protocol::attributes::OVERFLOW_DROP_OLDEST;
use qd_protocol::verbs::Sent;
use qd_protocol::{ErrorCode, Receipt};

use super::dedup::Fate;
use super::{Model, ModelMessage, ModelQueue, refused};

/// Messages and their bytes.
type Amount = (u64, u64);

impl Model {
    pub fn transact(&mut self, transact: &Transact) -> Outcome {
        let outcome = self.check_step(transact).and_then(|freed| self.room_for(transact, &freed));
        if let Err(code) = outcome {
            return refused(code);
        }
        for receipt in transact.deletes.iter().flat_map(|(_, receipts)| receipts) {
            let at = self.at(receipt.queue, receipt.id);
            self.take(receipt.queue, at);
            self.queues.get_mut(&receipt.queue).unwrap().totals.deleted += 1;
        }
        let mut sent = Vec::new();
        for send in &transact.sends {
            let number = self.find(&send.queue).unwrap();
            let mut runs = Vec::new();
            for message in &send.messages {
                let fate = match self.find_original(number, message) {
                    Some(id) => Fate::Duplicate(id),
                    None => Fate::Stored(self.accept(number, message)),
                };
                runs.push(fate.run_of_one());
            }
            sent.push(Sent { runs });
        }
        Outcome::Transacted(sent)
    }

    /// Checks all but the room. Returns the messages that will be deleted.
    fn check_step(&self, transact: &Transact) -> Result<BTreeSet<(u64, u64)>, ErrorCode> {
        let deleted_of = transact.deletes.iter().map(|(queue, _)| queue);
        let named = deleted_of.chain(transact.sends.iter().map(|send| &send.queue));
        if named.into_iter().any(|queue| self.find(queue).is_none()) {
            return Err(ErrorCode::NoSuchQueue);
        }
        let mut freed = BTreeSet::new();
        for (queue, receipts) in &transact.deletes {
            let number = self.find(queue).unwrap();
            for receipt @ Receipt { queue, id, .. } in receipts {
                self.held(&[number], receipt)?;
                if !freed.insert((*queue, *id)) {
                    return Err(ErrorCode::ReceiptExpired);
                }
            }
        }
        Ok(freed)
    }

    /// Looks at the messages, and makes room for all of them where queues are to.
    fn room_for(
        &mut self,
        transact: &Transact,
        freed: &BTreeSet<(u64, u64)>,
    ) -> Result<(), ErrorCode> {
        let all = self.needed(transact, freed)?;
        for (number, (messages, bytes)) in &all {
            let attributes = &self.queues[number].attributes;
            if *messages > attributes.max_messages || *bytes > attributes.max_bytes {
                return Err(ErrorCode::StepTooLarge);
            }
        }
        for (number, needed) in all {
            self.make_room_at_once(number, needed, freed);
        }
        // What was dropped was perhaps the original of a duplicate, or went to another of the queues.
        for (number, needed) in self.needed(transact, freed)? {
            if !self.queues[&number].has_room_behind(number, needed, freed) {
                return Err(ErrorCode::QueueFull);
            }
        }
        Ok(())
    }

    /// Messages and bytes that will be added to each queue, or what is wrong with one of them.
    fn needed(
        &self,
        transact: &Transact,
        freed: &BTreeSet<(u64, u64)>,
    ) -> Result<BTreeMap<u64, Amount>, ErrorCode> {
        let mut needed: BTreeMap<u64, Amount> = BTreeMap::new();
        let mut then = self.clone();
        for (number, id) in freed {
            let at = then.at(*number, *id);
            then.take(*number, at);
        }
        for send in &transact.sends {
            let number = self.find(&send.queue).unwrap();
            for message in &send.messages {
                if then.find_original(number, message).is_some() {
                    continue;
                }
                self.queues[&number].check(message)?;
                then.accept(number, message);
                let (messages, bytes) = needed.entry(number).or_default();
                *messages += 1;
                *bytes += message.size;
            }
        }
        Ok(needed)
    }

    /// Drops the oldest messages as far as that helps.
    fn make_room_at_once(&mut self, number: u64, needed: Amount, freed: &BTreeSet<(u64, u64)>) {
        let queue = &self.queues[&number];
        let held = freed.iter().filter(|(of, _)| *of == number).count() as u64;
        let can_help = queue.attributes.overflow == OVERFLOW_DROP_OLDEST
            && queue.undroppable() - held + needed.0 <= queue.attributes.max_messages;
        while can_help
            && !self.queues[&number].has_room_behind(number, needed, freed)
            && self.drop_oldest(number)
        {}
    }
}

impl ModelQueue {
    /// Messages that are never dropped to make room.
    pub fn undroppable(&self) -> u64 {
        let stays = |message: &&ModelMessage| message.lease.is_some() || message.dead.is_some();
        self.messages.iter().filter(stays).count() as u64
    }

    /// Whether that fits beside what is not freed.
    fn has_room_behind(
        &self,
        number: u64,
        (messages, bytes): Amount,
        freed: &BTreeSet<(u64, u64)>,
    ) -> bool {
        let stays = |message: &&ModelMessage| !freed.contains(&(number, message.id));
        let live = self.messages.iter().filter(stays).count() as u64;
        let used: u64 = self.messages.iter().filter(stays).map(|m| m.message.size).sum();
        live + messages <= self.attributes.max_messages && used + bytes <= self.attributes.max_bytes
    }
}
