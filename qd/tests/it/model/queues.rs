//! Making, changing and dropping queues in the plain model.

use qd::shard::Outcome;
use qd::shard::command::{Create, Drop, Update};
use qd_protocol::attributes::{DeadLetter, OVERFLOW_DROP_OLDEST};
use qd_protocol::verbs::IfExists;
use qd_protocol::{AttributeChanges, Attributes, ErrorCode, QueueName};

use super::dead_letters::target_of;
use super::{Model, refused};

impl Model {
    pub fn create(&mut self, create: &Create) -> Outcome {
        if create.with.as_ref().is_some_and(|with| self.find(with).is_none()) {
            return refused(ErrorCode::NoSuchQueue);
        }
        let asked = canonical(&create.queue, &create.attributes);
        let found = self.find(&create.queue);
        let before = found.map(|number| self.queues[&number].attributes.clone());
        let changed = before.clone().unwrap_or_default().changed(&asked);
        match (found, create.if_exists) {
            (Some(_), IfExists::Compare) if before != Some(changed.clone()) => {
                return refused(ErrorCode::QueueExists);
            }
            (Some(_), IfExists::Compare | IfExists::Keep) => return Outcome::Created(false),
            _ => {}
        }
        match self.check_attributes(&create.queue, &changed) {
            Err(code) => return refused(code),
            Ok(()) => match found {
                Some(number) => self.set_attributes(number, changed),
                None => {
                    self.make_queue(create.queue.clone(), changed);
                }
            },
        }
        Outcome::Created(found.is_none())
    }

    pub fn update(&mut self, update: &Update) -> Outcome {
        let Some(number) = self.find(&update.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let asked = canonical(&update.queue, &update.attributes);
        let changed = self.queues[&number].attributes.changed(&asked);
        if let Err(code) = self.check_attributes(&update.queue, &changed) {
            return refused(code);
        }
        let differs = changed != self.queues[&number].attributes;
        self.set_attributes(number, changed);
        Outcome::Updated(differs)
    }

    pub fn drop_queue(&mut self, drop: &Drop) -> Outcome {
        let Some(number) = self.find(&drop.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let messages = self.queues[&number].messages.len() as u64;
        if drop.only_if_empty && messages > 0 {
            return refused(ErrorCode::QueueNotEmpty);
        }
        self.queues.remove(&number);
        Outcome::Dropped(messages)
    }

    fn set_attributes(&mut self, number: u64, attributes: Attributes) {
        let queue = self.queues.get_mut(&number).unwrap();
        let before = std::mem::replace(&mut queue.attributes, attributes);
        if before.dead_letter != queue.attributes.dead_letter {
            self.retry_at(number, self.now_ms, 0);
        }
    }

    /// Whether a queue can have these attributes, and get them now.
    fn check_attributes(&self, name: &QueueName, attributes: &Attributes) -> Result<(), ErrorCode> {
        if self.conflicts(name, attributes) {
            return Err(ErrorCode::AttributesConflict);
        }
        let queue = self.find(name).map(|number| &self.queues[&number]);
        let is_in_the_way = queue.is_some_and(|queue| {
            queue.attributes.ordered != attributes.ordered && !queue.messages.is_empty()
        });
        if is_in_the_way { Err(ErrorCode::QueueNotEmpty) } else { Ok(()) }
    }

    fn conflicts(&self, queue: &QueueName, attributes: &Attributes) -> bool {
        let keeps = attributes.dead_letter_expired || attributes.dead_letter_overflow;
        if attributes.dead_letter == DeadLetter::None && keeps {
            return true;
        }
        if attributes.ordered && attributes.overflow == OVERFLOW_DROP_OLDEST {
            return true;
        }
        let mut target = target_of(queue, &attributes.dead_letter);
        while let Some(name) = target {
            if name == *queue {
                return true;
            }
            target = self.find(&name).and_then(|number| self.dead_letter_name(number));
        }
        false
    }
}

/// The same changes, the default dead-letter queue as such when it is given by its name.
fn canonical(queue: &QueueName, changes: &AttributeChanges) -> AttributeChanges {
    let mut changes = changes.clone();
    if let Some(DeadLetter::Queue(name)) = &changes.dead_letter
        && name.as_str() == format!("{queue}.dead")
    {
        changes.dead_letter = Some(DeadLetter::Default);
    }
    changes
}
