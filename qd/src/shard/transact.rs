//! Deleting leased messages and sending others in one step: all of it, or nothing.
//!
//! Everything is checked before anything is changed, in the order of the request: that its queues are
//! there, that its receipts hold their messages, what its messages are, and that those which are no
//! duplicates fit together, beside what its deletions free. One thing comes before the last check:
//! queues that drop their oldest messages make room, and what they have dropped stays dropped where
//! the step is refused in the end.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use qd_protocol::attributes::OVERFLOW_DROP_OLDEST;
use qd_protocol::message::Properties;
use qd_protocol::verbs::Sent;
use qd_protocol::{Attributes, ErrorCode, Receipt, Refusal};

use super::command::{NewMessage, Send, Transact};
use super::dedup::properties_of;
use super::queue::{Amount, Queue};
use super::send::{push_duplicate, push_stored};
use super::settle::{expired, invalid, run_with};
use super::{Outcome, Step};
use crate::store::Result;
use crate::store::lease::LeaseRow;

/// Outcome of a check.
type Checked<T> = std::result::Result<T, Refusal>;

/// What is to be done.
struct Plan<'a> {
    /// Receipts by queue.
    deletes: Vec<(u64, &'a [Receipt])>,
    sends: Vec<Part<'a>>,
    /// Queue and id of the messages that are deleted.
    deleted: BTreeSet<(u64, u64)>,
    /// What the deletions free of the queues that messages are sent to.
    freed: BTreeMap<u64, Amount>,
}

/// Messages for one queue.
struct Part<'a> {
    number: u64,
    send: &'a Send,
    /// One a message.
    properties: Vec<Properties>,
}

/// A message of the step, by its part and its place there, that is no duplicate.
type Fresh = (usize, usize);

impl Plan<'_> {
    /// Queue, properties and message.
    fn message(&self, (part, index): Fresh) -> (u64, &Properties, &NewMessage) {
        let part = &self.sends[part];
        (part.number, &part.properties[index], &part.send.messages[index])
    }

    fn freed(&self, number: u64) -> Amount {
        self.freed.get(&number).copied().unwrap_or_default()
    }

    /// Says which message a refusal is about.
    fn of_message(&self, (part, index): Fresh, refusal: Refusal) -> Refusal {
        let queue = self.sends[part].send.queue.as_str();
        refused(&format!("message {} for queue {queue:?}: ", index + 1), refusal)
    }
}

impl Step<'_, '_> {
    pub(super) fn transact(&mut self, transact: &Transact) -> Result<Outcome> {
        let plan = match self.plan_step(transact)? {
            Ok(plan) => plan,
            Err(refusal) => return Ok(refusal.into()),
        };
        for (number, receipts) in &plan.deletes {
            let statuses = self.delete(&[*number], receipts)?;
            assert!(statuses.entries().all(|status| status.is_ok()), "receipts were checked");
        }
        let mut sent = Vec::with_capacity(plan.sends.len());
        for Part { number, send, properties } in &plan.sends {
            let mut runs = Vec::new();
            for (message, properties) in send.messages.iter().zip(properties) {
                if let Some(id) = self.original(*number, properties, message.unique)? {
                    self.queue(*number).statistics.duplicates += 1;
                    push_duplicate(&mut runs, id);
                } else {
                    push_stored(&mut runs, self.add_sent(*number, message, properties)?);
                }
            }
            sent.push(Sent { runs });
        }
        Ok(Outcome::Transacted(sent))
    }

    /// Checks everything.
    fn plan_step<'a>(&mut self, transact: &'a Transact) -> Result<Checked<Plan<'a>>> {
        let mut plan = match self.find_all(transact)? {
            Ok(plan) => plan,
            Err(refusal) => return Ok(Err(refused("", refusal))),
        };
        if let Err(refusal) = self.check_receipts(&mut plan)? {
            return Ok(Err(refusal));
        }
        let mut fresh = self.fresh(&plan)?;
        if let Err(refusal) = self.check_messages(&plan, &fresh) {
            return Ok(Err(refusal));
        }
        let wanted = wanted(&plan, &fresh);
        if let Err(refusal) = self.check_whole(&wanted) {
            return Ok(Err(refused("", refusal)));
        }
        let dropped = self.dropped;
        let full = self.make_rooms(&plan, wanted)?;
        if self.dropped > dropped {
            // What was dropped was perhaps the original of a duplicate.
            fresh = self.fresh(&plan)?;
        }
        let checked = self.check_messages(&plan, &fresh);
        Ok(checked.and_then(|()| self.check_room(&plan, &fresh, &full)).map(|()| plan))
    }

    /// Finds the queues.
    fn find_all<'a>(&self, transact: &'a Transact) -> Result<Checked<Plan<'a>>> {
        let mut deletes = Vec::with_capacity(transact.deletes.len());
        for (queue, receipts) in &transact.deletes {
            match self.find(queue) {
                Ok(number) => deletes.push((number, &receipts[..])),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        let mut sends = Vec::with_capacity(transact.sends.len());
        for send in &transact.sends {
            let number = match self.find(&send.queue) {
                Ok(number) => number,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let properties = send.messages.iter().map(|message| properties_of(&message.fields));
            sends.push(Part { number, send, properties: properties.collect::<Result<_>>()? });
        }
        Ok(Ok(Plan { deletes, sends, deleted: BTreeSet::new(), freed: BTreeMap::new() }))
    }

    /// Looks every receipt up, and notes what its message takes.
    fn check_receipts(&mut self, plan: &mut Plan<'_>) -> Result<Checked<()>> {
        let mut leases: BTreeMap<(u64, u64), Option<LeaseRow>> = BTreeMap::new();
        let sent_to: BTreeSet<u64> = plan.sends.iter().map(|part| part.number).collect();
        for (number, receipts) in plan.deletes.clone() {
            for (index, receipt) in receipts.iter().enumerate() {
                let held = match self.check_held(number, receipt, &mut leases)? {
                    Ok(()) if !plan.deleted.insert((number, receipt.id)) => Err(expired()),
                    held => held,
                };
                if let Err(refusal) = held {
                    let queue = self.queues[&number].name.as_str();
                    let which = format!("receipt {} of queue {queue:?}: ", index + 1);
                    return Ok(Err(refused(&which, refusal)));
                }
                if sent_to.contains(&number) {
                    let size = self.stored_size(number, receipt.id)?;
                    plan.freed.entry(number).or_default().add(size);
                }
            }
        }
        Ok(Ok(()))
    }

    /// Whether a receipt holds its message; `leases` are those that were read already.
    fn check_held(
        &self,
        number: u64,
        receipt: &Receipt,
        leases: &mut BTreeMap<(u64, u64), Option<LeaseRow>>,
    ) -> Result<Checked<()>> {
        if let Err(refusal) = self.check(&[number], receipt) {
            return Ok(Err(refusal));
        }
        let lease = match leases.entry((number, receipt.lease)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.tables.lease(number, receipt.lease)?),
        };
        let Some(lease) = lease else {
            return Ok(Err(expired()));
        };
        if lease.secret != receipt.secret {
            return Ok(Err(invalid()));
        }
        let run = run_with(&lease.runs, receipt.id);
        Ok(if run.is_some_and(|run| run.end_ms > self.now_ms) { Ok(()) } else { Err(expired()) })
    }

    /// The messages that are no duplicates, as it will be behind the deletions and the messages
    /// before them.
    fn fresh(&self, plan: &Plan<'_>) -> Result<Vec<Fresh>> {
        let mut before: BTreeSet<(u64, &str)> = BTreeSet::new();
        // A look-up passes over all that is deleted: one for each dedup id is enough.
        let mut live: BTreeMap<(u64, &str), bool> = BTreeMap::new();
        let mut fresh = Vec::new();
        for (at, part) in plan.sends.iter().enumerate() {
            let number = part.number;
            let has_window = self.queues[&number].attributes.dedup_window_ms > 0;
            for (index, properties) in part.properties.iter().enumerate() {
                let Some(dedup_id) = properties.dedup_id.as_deref() else {
                    fresh.push((at, index));
                    continue;
                };
                let unique = part.send.messages[index].unique;
                let is_duplicate = if before.contains(&(number, dedup_id)) {
                    unique || has_window
                } else if unique {
                    match live.entry((number, dedup_id)) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => *new.insert(self.stays_live(plan, number, dedup_id)?),
                    }
                } else {
                    self.original(number, properties, false)?.is_some()
                };
                if !is_duplicate {
                    before.insert((number, dedup_id));
                    fresh.push((at, index));
                }
            }
        }
        Ok(fresh)
    }

    /// True when a message with this dedup id is live and not one of those that are deleted.
    fn stays_live(&self, plan: &Plan<'_>, number: u64, dedup_id: &str) -> Result<bool> {
        let mut from = 0;
        while let Some(id) = self.tables.dedup_from(number, dedup_id, from)? {
            if !plan.deleted.contains(&(number, id)) {
                return Ok(true);
            }
            from = id + 1;
        }
        Ok(false)
    }

    /// Whether messages are such as their queues take.
    fn check_messages(&self, plan: &Plan<'_>, fresh: &[Fresh]) -> Checked<()> {
        for at in fresh {
            let (number, properties, message) = plan.message(*at);
            let queue = &self.queues[&number];
            let checked = queue.check_order(properties.priority);
            checked
                .and_then(|()| queue.check_size(message.size))
                .map_err(|refusal| plan.of_message(*at, refusal))?;
        }
        Ok(())
    }

    /// Refuses what will never fit at once, however empty its queue is: another try is in vain.
    fn check_whole(&self, wanted: &BTreeMap<u64, Amount>) -> Checked<()> {
        for (number, Amount { messages, bytes }) in wanted {
            let queue = &self.queues[number];
            let Attributes { max_messages, max_bytes, .. } = queue.attributes;
            let name = queue.name.as_str();
            for (limit, asked, maximum, unit) in [
                ("max-messages", *messages, max_messages, "messages"),
                ("max-bytes", *bytes, max_bytes, "bytes"),
            ] {
                if asked > maximum {
                    let text = format!(
                        "{asked} {unit} are too many for queue {name:?} in one step: at most {maximum} ({limit})"
                    );
                    let refusal = ErrorCode::StepTooLarge.refuse(text).with_queue(name);
                    return Err(refusal.with_limit(limit, asked, maximum));
                }
            }
        }
        Ok(())
    }

    /// Lets queues that drop their oldest messages make room for what is sent to them. Returns
    /// those that cannot, and why.
    fn make_rooms(
        &mut self,
        plan: &Plan<'_>,
        wanted: BTreeMap<u64, Amount>,
    ) -> Result<BTreeMap<u64, Refusal>> {
        let mut full = BTreeMap::new();
        for (number, wanted) in wanted {
            if self.queues[&number].attributes.overflow == OVERFLOW_DROP_OLDEST
                && let Err(refusal) = self.make_room(number, wanted, plan.freed(number))?
            {
                full.insert(number, refusal);
            }
        }
        Ok(full)
    }

    /// Whether the messages fit, one beside the other; `full` are queues that could not make room.
    fn check_room(
        &self,
        plan: &Plan<'_>,
        fresh: &[Fresh],
        full: &BTreeMap<u64, Refusal>,
    ) -> Checked<()> {
        let mut then: BTreeMap<u64, Queue> = BTreeMap::new();
        for at in fresh {
            let (number, _, message) = plan.message(*at);
            let then = then.entry(number).or_insert_with(|| {
                let mut queue = self.queues[&number].clone();
                let freed = plan.freed(number);
                queue.statistics.leased -= freed.messages;
                queue.statistics.bytes -= freed.bytes;
                queue
            });
            let room = then.has_room(Amount::one(message.size), Amount::default());
            if let Err(refusal) = room {
                let refusal = full.get(&number).cloned().unwrap_or(refusal);
                return Err(plan.of_message(*at, refusal));
            }
            then.statistics.ready += 1;
            then.statistics.bytes += message.size;
        }
        Ok(())
    }
}

/// What each queue is to take at once.
fn wanted(plan: &Plan<'_>, fresh: &[Fresh]) -> BTreeMap<u64, Amount> {
    let mut wanted: BTreeMap<u64, Amount> = BTreeMap::new();
    for at in fresh {
        let (number, _, message) = plan.message(*at);
        wanted.entry(number).or_default().add(message.size);
    }
    wanted
}

/// Says of a refusal which part it is about, and that nothing was done.
fn refused(which: &str, mut refusal: Refusal) -> Refusal {
    refusal.text = format!("{which}{}; nothing was done", refusal.text);
    refusal
}
