//! What the attributes of a queue may be, alone and together.

use qd_protocol::attributes::{
    AttributeSpec, DEAD_LETTER_CHAIN_MAX, DeadLetter, LIST_MEMBERS_MAX, OVERFLOW_DROP_OLDEST,
    OVERFLOW_NAMES, SOURCE_NAME_CHARACTERS_MAX, UNLIMITED, Unit, Value,
};
use qd_protocol::{AttributeChanges, Attributes, ErrorCode, QueueName, Refusal};

use super::Step;

/// Outcome of a check.
type Checked = Result<(), Refusal>;

impl Step<'_, '_> {
    /// Refuses a dead-letter queue that has no name or that leads back to the queue itself, and
    /// what asks for one where there is none.
    pub(super) fn check_dead_letter(&self, queue: &QueueName, attributes: &Attributes) -> Checked {
        let conflict = |text: String| {
            Err(ErrorCode::AttributesConflict.refuse(text).with_queue(queue.as_str()))
        };
        let name = queue.as_str();
        let characters = name.len();
        match &attributes.dead_letter {
            DeadLetter::Default if characters > SOURCE_NAME_CHARACTERS_MAX => {
                return conflict(format!(
                    "a queue name of {characters} characters is too long for its default dead-letter queue: at most {SOURCE_NAME_CHARACTERS_MAX}, or another dead-letter queue"
                ));
            }
            DeadLetter::None if attributes.dead_letter_expired => {
                return conflict(format!(
                    "queue {name:?} cannot have dead-letter-expired with dead-letter none"
                ));
            }
            DeadLetter::None if attributes.dead_letter_overflow => {
                return conflict(format!(
                    "queue {name:?} cannot have dead-letter-overflow with dead-letter none"
                ));
            }
            _ => {}
        }
        let mut path: Vec<QueueName> = Vec::new();
        let mut next = attributes.dead_letter.queue_of(queue);
        while let Some(target) = next {
            if path.len() == DEAD_LETTER_CHAIN_MAX {
                return conflict(format!(
                    "behind {name:?} there is a chain of more than {DEAD_LETTER_CHAIN_MAX} dead-letter queues"
                ));
            }
            path.push(target.clone());
            if target == *queue {
                let path: Vec<_> =
                    path.iter().map(|name| format!(" -> {:?}", name.as_str())).collect();
                return conflict(format!(
                    "the dead-letter queue of {name:?} leads back to it: {name:?}{}",
                    path.concat()
                ));
            }
            let known = self.names.get(&target).map(|number| &self.queues[number]);
            next = known.and_then(|known| known.attributes.dead_letter.queue_of(&target));
        }
        Ok(())
    }
}

/// Refuses an order that the queue would break by itself.
pub(super) fn check_order(queue: &QueueName, attributes: &Attributes) -> Checked {
    if !attributes.ordered || attributes.overflow != OVERFLOW_DROP_OLDEST {
        return Ok(());
    }
    let name = queue.as_str();
    let text = format!("queue {name:?} cannot be ordered with overflow drop-oldest");
    Err(ErrorCode::AttributesConflict.refuse(text).with_queue(name))
}

/// The same changes, with the default dead-letter queue as such when its name is given.
pub(super) fn canonical(queue: &QueueName, changes: &AttributeChanges) -> AttributeChanges {
    let mut changes = changes.clone();
    if let Some(DeadLetter::Queue(_)) = &changes.dead_letter {
        let default = DeadLetter::Default.queue_of(queue);
        let given = changes.dead_letter.as_ref().and_then(|given| given.queue_of(queue));
        if given == default {
            changes.dead_letter = Some(DeadLetter::Default);
        }
    }
    changes
}

pub(super) fn check_ranges(queue: &QueueName, changes: &AttributeChanges) -> Checked {
    for (spec, value) in changes.values() {
        let Some(value) = value.filter(|value| !spec.allows(value)) else {
            continue;
        };
        let range = [spec.least, spec.most].map(|number| show_number(spec, number));
        let members = match value {
            Value::List(_) => format!(", 1 to {LIST_MEMBERS_MAX} of them"),
            Value::Number(_) | Value::DeadLetter(_) => String::new(),
        };
        let text = format!(
            "{} of queue {:?} cannot be {}: it goes from {} to {}{members}",
            spec.name,
            queue.as_str(),
            show(spec, &value, queue),
            range[0],
            range[1],
        );
        let refusal = ErrorCode::AttributeOutOfRange.refuse(text).with_queue(queue.as_str());
        return Err(match value {
            Value::Number(number) => refusal.with_limit(spec.name, number, spec.most),
            _ => refusal,
        });
    }
    Ok(())
}

/// Refuses attributes that are asked for and are not those that the queue has.
pub(super) fn compare(
    queue: &QueueName,
    existing: &Attributes,
    asked: &AttributeChanges,
) -> Checked {
    for ((spec, is), (_, asked)) in existing.values().into_iter().zip(asked.values()) {
        let Some(asked) = asked.filter(|asked| *asked != is) else {
            continue;
        };
        let text = format!(
            "queue {:?} exists with {} {}, not {}",
            queue.as_str(),
            spec.name,
            show(spec, &is, queue),
            show(spec, &asked, queue),
        );
        let refusal = ErrorCode::QueueExists.refuse(text).with_queue(queue.as_str());
        return Err(match (asked, is) {
            (Value::Number(asked), Value::Number(is)) => refusal.with_limit(spec.name, asked, is),
            _ => refusal,
        });
    }
    Ok(())
}

/// A value with its unit, for a message to people.
fn show(spec: &AttributeSpec, value: &Value, queue: &QueueName) -> String {
    match value {
        Value::Number(number) => show_number(spec, *number),
        Value::DeadLetter(dead_letter) => {
            let target = dead_letter.queue_of(queue);
            target.map_or_else(|| "none".to_owned(), |target| format!("{:?}", target.as_str()))
        }
        Value::List(members) => {
            let members: Vec<_> = members.iter().map(|number| show_number(spec, *number)).collect();
            if members.is_empty() { "empty".to_owned() } else { members.join(", ") }
        }
    }
}

fn show_number(spec: &AttributeSpec, value: u64) -> String {
    match spec.unit {
        Unit::Milliseconds if value == UNLIMITED => "forever".to_owned(),
        _ if value == UNLIMITED => "unlimited".to_owned(),
        Unit::Messages | Unit::Deliveries | Unit::DeadLetter => value.to_string(),
        Unit::Flag => (value != 0).to_string(),
        Unit::Bytes => format!("{value} bytes"),
        Unit::Overflow => {
            let name = usize::try_from(value).ok().and_then(|at| OVERFLOW_NAMES.get(at));
            name.map_or_else(|| value.to_string(), |name| (*name).to_owned())
        }
        Unit::Milliseconds if value.is_multiple_of(1000) => format!("{} s", value / 1000),
        Unit::Milliseconds => format!("{value} ms"),
    }
}
