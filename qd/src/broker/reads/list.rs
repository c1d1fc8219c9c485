//! A page of queues.

use qd_protocol::verbs::list::PAGE_MAX;
use qd_protocol::verbs::{List, Listed};
use qd_protocol::{QueueDescription, QueueName};

use super::super::glob;
use super::{STEPS_PER_DESCRIPTION, STEPS_PER_NAME, STEPS_PER_TURN};
use crate::shard::Machine;
use crate::store::Result;

/// How far a list has come.
pub(super) struct Listing {
    list: List,
    /// What has been found so far.
    found: Vec<QueueDescription>,
    /// The last name that has been looked at.
    after: Option<QueueName>,
}

impl Listing {
    /// At its beginning.
    pub fn new(list: List) -> Self {
        let after = list.after.clone();
        Self { list, found: Vec::new(), after }
    }

    /// Returns the steps taken, and the answer when there are no more.
    pub fn turn(&mut self, machine: &Machine, now_ms: u64) -> Result<(usize, Option<Listed>)> {
        let names = machine.names_behind(self.after.as_ref());
        let Look { names, looked_at, more, steps } = look(&self.list, self.found.len(), names);
        self.after = looked_at.or(self.after.take());
        self.found.append(&mut machine.describe_all(&names, now_ms)?);
        let listed = more.map(|more| Listed { queues: std::mem::take(&mut self.found), more });
        Ok((steps, listed))
    }
}

/// What a list did in its turn.
struct Look {
    /// Those that match.
    names: Vec<QueueName>,
    /// The last one that was looked at.
    looked_at: Option<QueueName>,
    /// Whether there are more than were asked for; `None`: it is not known yet.
    more: Option<bool>,
    steps: usize,
}

/// Looks through names for those that match, when `found` are found already.
fn look<'a>(list: &List, found: usize, names: impl Iterator<Item = &'a QueueName>) -> Look {
    let pattern = list.pattern.as_deref().unwrap_or("*");
    let most = list.limit.clamp(1, PAGE_MAX) as usize;
    let mut look = Look { names: Vec::new(), looked_at: None, more: Some(false), steps: 0 };
    let mut looked_at = None;
    for name in names {
        if look.steps >= STEPS_PER_TURN {
            look.more = None;
            break;
        }
        look.steps += STEPS_PER_NAME;
        if glob::matches(pattern, name.as_str(), &mut look.steps) {
            if found + look.names.len() == most {
                look.more = Some(true);
                break;
            }
            look.names.push(name.clone());
            look.steps += STEPS_PER_DESCRIPTION;
        }
        looked_at = Some(name);
    }
    look.looked_at = looked_at.cloned();
    look
}
