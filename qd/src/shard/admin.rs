//! Creating, changing and dropping queues.

use qd_protocol::verbs::IfExists;
use qd_protocol::{AttributeChanges, Attributes, ErrorCode, Refusal};

use super::attributes::{canonical, check_order, check_ranges, compare};
use super::command::{Create, Drop, Update};
use super::queue::Queue;
use super::{Outcome, Step};
use crate::store::Result;

impl Step<'_, '_> {
    pub(super) fn create(&mut self, create: &Create) -> Result<Outcome> {
        let changes = canonical(&create.queue, &create.attributes);
        if let Err(refusal) = check_ranges(&create.queue, &changes) {
            return Ok(refusal.into());
        }
        if let Some(Err(refusal)) = create.with.as_ref().map(|with| self.find(with)) {
            return Ok(refusal.into());
        }
        if let Ok(number) = self.find(&create.queue) {
            return self.create_existing(number, create, &changes);
        }
        let attributes = Attributes::default().changed(&changes);
        let checked = check_order(&create.queue, &attributes);
        let checked = checked.and_then(|()| self.check_dead_letter(&create.queue, &attributes));
        if let Err(refusal) = checked {
            return Ok(refusal.into());
        }
        self.make_queue(create.queue.clone(), attributes);
        Ok(Outcome::Created(true))
    }

    fn create_existing(
        &mut self,
        number: u64,
        create: &Create,
        changes: &AttributeChanges,
    ) -> Result<Outcome> {
        let refused = match create.if_exists {
            IfExists::Keep => None,
            IfExists::Update => self.change_attributes(number, changes)?.err(),
            IfExists::Compare => {
                compare(&create.queue, &self.queues[&number].attributes, changes).err()
            }
        };
        Ok(refused.map_or(Outcome::Created(false), Outcome::Refused))
    }

    pub(super) fn update(&mut self, update: &Update) -> Result<Outcome> {
        let changes = canonical(&update.queue, &update.attributes);
        let checked = check_ranges(&update.queue, &changes);
        let number = match checked.and_then(|()| self.find(&update.queue)) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        let updated = self.change_attributes(number, &changes)?;
        Ok(updated.map_or_else(Outcome::Refused, Outcome::Updated))
    }

    /// Returns whether anything is different now.
    fn change_attributes(
        &mut self,
        number: u64,
        changes: &AttributeChanges,
    ) -> Result<std::result::Result<bool, Refusal>> {
        let queue = &self.queues[&number];
        let attributes = queue.attributes.changed(changes);
        let checked = check_order(&queue.name, &attributes)
            .and_then(|()| self.check_dead_letter(&queue.name, &attributes));
        if let Err(refusal) = checked {
            return Ok(Err(refusal));
        }
        if queue.attributes.ordered != attributes.ordered && queue.live() > 0 {
            return Ok(Err(not_empty(queue, "; ordered can change only while it is empty")));
        }
        if queue.attributes.ordered && !attributes.ordered {
            // What was said of its groups in this record means something else from now on.
            self.refresh_groups(Some(number))?;
        }
        let queue = self.queue(number);
        let before = std::mem::replace(&mut queue.attributes, attributes.clone());
        if before.retention_ms != attributes.retention_ms {
            // Messages that an earlier, shorter retention has passed over are looked at again.
            queue.retained_from = 0;
            self.flush(number)?;
            self.find_retention_due(number)?;
        }
        if before.dead_letter != attributes.dead_letter {
            // What waits for the one before may go to this one, or nowhere.
            self.retry_at(number, self.now_ms, 0)?;
        }
        Ok(Ok(before != attributes))
    }

    pub(super) fn drop_queue(&mut self, drop: &Drop) -> Result<Outcome> {
        let number = match self.find(&drop.queue) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        let messages = self.queue(number).live();
        if drop.only_if_empty && messages > 0 {
            return Ok(not_empty(&self.queues[&number], "").into());
        }
        self.names.remove(&drop.queue);
        self.bury(number)?;
        Ok(Outcome::Dropped(messages))
    }
}

fn not_empty(queue: &Queue, why: &str) -> Refusal {
    let (name, messages) = (queue.name.as_str(), queue.live());
    let plural = if messages == 1 { "message" } else { "messages" };
    let text = format!("queue {name:?} is not empty: it holds {messages} {plural}{why}");
    ErrorCode::QueueNotEmpty.refuse(text).with_queue(name)
}
