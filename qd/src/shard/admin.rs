//! Creating and dropping queues.

use qd_protocol::attributes::{AttributeSpec, OVERFLOW_NAMES, UNLIMITED, Unit};
use qd_protocol::verbs::IfExists;
use qd_protocol::{AttributeChanges, Attributes, ErrorCode, QueueName, Refusal};

use super::command::{Create, Drop, Update};
use super::queue::Queue;
use super::{Outcome, Step};
use crate::store::Result;

impl Step<'_, '_> {
    pub(super) fn create(&mut self, create: &Create) -> Result<Outcome> {
        if let Err(refusal) = check_ranges(&create.queue, &create.attributes) {
            return Ok(refusal.into());
        }
        if let Ok(number) = self.find(&create.queue) {
            return self.create_existing(number, create);
        }
        let number = *self.next_queue;
        *self.next_queue += 1;
        let attributes = Attributes::default().changed(&create.attributes);
        let queue = Queue::new(create.queue.clone(), attributes, self.now_ms);
        self.names.insert(create.queue.clone(), number);
        self.queues.insert(number, queue);
        self.touched.insert(number);
        Ok(Outcome::Created(true))
    }

    fn create_existing(&mut self, number: u64, create: &Create) -> Result<Outcome> {
        match create.if_exists {
            IfExists::Keep => {}
            IfExists::Update => {
                self.change_attributes(number, &create.attributes)?;
            }
            IfExists::Compare => {
                let existing = &self.queue(number).attributes;
                if let Err(refusal) = compare(&create.queue, existing, &create.attributes) {
                    return Ok(refusal.into());
                }
            }
        }
        Ok(Outcome::Created(false))
    }

    pub(super) fn update(&mut self, update: &Update) -> Result<Outcome> {
        let checked = check_ranges(&update.queue, &update.attributes);
        let number = match checked.and_then(|()| self.find(&update.queue)) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        Ok(Outcome::Updated(self.change_attributes(number, &update.attributes)?))
    }

    /// Returns whether anything is different now.
    fn change_attributes(&mut self, number: u64, changes: &AttributeChanges) -> Result<bool> {
        let queue = self.queue(number);
        let attributes = queue.attributes.changed(changes);
        let before = std::mem::replace(&mut queue.attributes, attributes.clone());
        if before.retention_ms != attributes.retention_ms {
            // Messages that an earlier, shorter retention has passed over are looked at again.
            queue.retained_from = 0;
            self.flush(number)?;
            self.find_retention_due(number)?;
        }
        Ok(before != attributes)
    }

    pub(super) fn drop_queue(&mut self, drop: &Drop) -> Result<Outcome> {
        let number = match self.find(&drop.queue) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        let messages = self.queue(number).live();
        if drop.only_if_empty && messages > 0 {
            let name = drop.queue.as_str();
            let plural = if messages == 1 { "message" } else { "messages" };
            let text = format!("queue {name:?} is not empty: it holds {messages} {plural}");
            return Ok(ErrorCode::QueueNotEmpty.refuse(text).with_queue(name).into());
        }
        // Messages of this very record go to disk, to be freed with the others.
        self.flush(number)?;
        self.set_retention_due(number, None);
        self.names.remove(&drop.queue);
        self.queues.remove(&number);
        self.touched.remove(&number);
        self.tables.bury_queue(number)?;
        Ok(Outcome::Dropped(messages))
    }
}

fn check_ranges(queue: &QueueName, changes: &AttributeChanges) -> std::result::Result<(), Refusal> {
    for (spec, value) in changes.values() {
        let Some(value) = value.filter(|value| !spec.allows(*value)) else {
            continue;
        };
        let text = format!(
            "{} of queue {:?} cannot be {}: it goes from {} to {}",
            spec.name,
            queue.as_str(),
            show(spec, value),
            show(spec, spec.least),
            show(spec, spec.most),
        );
        return Err(ErrorCode::AttributeOutOfRange
            .refuse(text)
            .with_queue(queue.as_str())
            .with_limit(spec.name, value, spec.most));
    }
    Ok(())
}

fn compare(
    queue: &QueueName,
    existing: &Attributes,
    asked: &AttributeChanges,
) -> std::result::Result<(), Refusal> {
    for ((spec, is), (_, asked)) in existing.values().into_iter().zip(asked.values()) {
        let Some(asked) = asked.filter(|asked| *asked != is) else {
            continue;
        };
        let text = format!(
            "queue {:?} exists with {} {}, not {}",
            queue.as_str(),
            spec.name,
            show(spec, is),
            show(spec, asked),
        );
        return Err(ErrorCode::QueueExists
            .refuse(text)
            .with_queue(queue.as_str())
            .with_limit(spec.name, asked, is));
    }
    Ok(())
}

/// A value with its unit, for a message to people.
fn show(spec: &AttributeSpec, value: u64) -> String {
    match spec.unit {
        Unit::Milliseconds if value == UNLIMITED => "forever".to_owned(),
        _ if value == UNLIMITED => "unlimited".to_owned(),
        Unit::Messages => value.to_string(),
        Unit::Bytes => format!("{value} bytes"),
        Unit::Overflow => {
            let name = usize::try_from(value).ok().and_then(|at| OVERFLOW_NAMES.get(at));
            name.map_or_else(|| value.to_string(), |name| (*name).to_owned())
        }
        Unit::Milliseconds if value.is_multiple_of(1000) => format!("{} s", value / 1000),
        Unit::Milliseconds => format!("{value} ms"),
    }
}
