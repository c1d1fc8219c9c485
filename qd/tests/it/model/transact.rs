//! Atomic steps in the plain model.

use std::collections::{BTreeMap, BTreeSet};

use qd::shard::Outcome;
use qd::shard::command::Transact;
use qd_protocol::attributes::OVERFLOW_DROP_OLDEST;
use qd_protocol::verbs::Sent;
use qd_protocol::{ErrorCode, Receipt};

use super::dedup::Fate;
use super::{Model, refused};

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
        let (needed, checked) = self.needed(transact, freed);
        checked?;
        let mut asked = BTreeSet::new();
        for send in &transact.sends {
            let number = self.find(&send.queue).unwrap();
            if let Some(needed) = needed.get(&number)
                && asked.insert(number)
            {
                self.make_room_at_once(number, *needed, freed)?;
            }
        }
        Ok(())
    }

    /// Messages and bytes that will be added to each queue, and what is wrong with them.
    fn needed(
        &self,
        transact: &Transact,
        freed: &BTreeSet<(u64, u64)>,
    ) -> (BTreeMap<u64, (u64, u64)>, Result<(), ErrorCode>) {
        let mut needed: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
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
                if let Err(code) = self.queues[&number].check(message) {
                    return (needed, Err(code));
                }
                then.accept(number, message);
                let (messages, bytes) = needed.entry(number).or_default();
                *messages += 1;
                *bytes += message.size;
            }
        }
        (needed, Ok(()))
    }

    fn make_room_at_once(
        &mut self,
        number: u64,
        (messages, bytes): (u64, u64),
        freed: &BTreeSet<(u64, u64)>,
    ) -> Result<(), ErrorCode> {
        loop {
            let queue = &self.queues[&number];
            let stays = |m: &&super::ModelMessage| !freed.contains(&(number, m.id));
            let live = queue.messages.iter().filter(stays).count() as u64;
            let used: u64 = queue.messages.iter().filter(stays).map(|m| m.message.size).sum();
            let attributes = &queue.attributes;
            if live + messages <= attributes.max_messages && used + bytes <= attributes.max_bytes {
                return Ok(());
            }
            let drops = attributes.overflow == OVERFLOW_DROP_OLDEST;
            if !drops || !self.drop_oldest(number) {
                return Err(ErrorCode::QueueFull);
            }
        }
    }
}
