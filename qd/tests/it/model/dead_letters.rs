//! What happens by itself, dead letters and redrive in the plain model.

use std::collections::BTreeMap;

use qd::shard::command::Redrive;
use qd::shard::{Outcome, SETTLED_PER_RECORD_MAX};
use qd_protocol::attributes::{DeadLetter, OVERFLOW_DROP_OLDEST, UNLIMITED};
use qd_protocol::message::{DeadLettered, Headers, Reason, without_dead_letters};
use qd_protocol::verbs::Redriven;
use qd_protocol::{Attributes, ErrorCode, QueueName};

use super::{Model, ModelMessage, refused};

const RETRY_MS: u64 = 60_000;

impl Model {
    /// How many things are due at `now_ms`.
    pub fn count_due(&self, now_ms: u64) -> usize {
        let messages = |queue: &super::ModelQueue| {
            let retention_ms = queue.attributes.retention_ms;
            let is_due = |message: &&ModelMessage| {
                message.lease.is_some_and(|(_, end_ms, _)| end_ms <= now_ms)
                    || message.dead.is_some()
                    || message.due_ms.is_some_and(|due_ms| due_ms <= now_ms)
                    || message.is_over(retention_ms, now_ms)
            };
            queue.messages.iter().filter(is_due).count()
        };
        self.queues.values().map(messages).sum()
    }

    /// Settles what is due, in the order in which a record does: each kind has a quarter of the
    /// room, and what those before it left.
    pub fn settle_due(&mut self) {
        let quarter = SETTLED_PER_RECORD_MAX / 4;
        let left = self.end_leases(quarter);
        let left = self.end_delays(quarter + left);
        let left = self.end_lives(quarter + left);
        let left = self.end_retentions(quarter + left);
        let left = self.end_leases(left);
        self.end_delays(left);
    }

    fn end_leases(&mut self, mut room: usize) -> usize {
        while room > 0
            && let Some((number, lease)) = self.first_lease_over()
        {
            // All of it that is over, whenever each was.
            let now_ms = self.now_ms;
            let is_over = |message: &ModelMessage| {
                message.lease.is_some_and(|(of, end_ms, _)| of == lease && end_ms <= now_ms)
            };
            while room > 0
                && let Some(at) = self.queues[&number].messages.iter().position(is_over)
            {
                room -= 1;
                let message = self.take(number, at);
                self.come_back(number, message, None);
            }
        }
        room
    }

    fn end_delays(&mut self, mut room: usize) -> usize {
        loop {
            let delayed = self.first_by(|message| message.due_ms);
            let retries = self
                .queues
                .iter()
                .filter_map(|(number, queue)| queue.retry_ms.map(|due_ms| (due_ms, *number, 0)));
            let first = retries.chain(delayed).min();
            let Some((_, number, id)) = first.filter(|(due_ms, ..)| *due_ms <= self.now_ms) else {
                return room;
            };
            if room == 0 {
                return room;
            }
            room -= 1;
            if id == 0 {
                room = self.retry_blocked(number, room);
                continue;
            }
            let at = self.at(number, id);
            let message = self.take(number, at);
            self.put_back(number, message, None);
        }
    }

    /// Tries blocked messages again, in turn.
    fn retry_blocked(&mut self, number: u64, mut room: usize) -> usize {
        let blocked = |queue: &super::ModelQueue, from: u64| {
            let is_blocked = |m: &&ModelMessage| m.dead.is_some() && m.id >= from;
            queue.messages.iter().find(is_blocked).map(|message| message.id)
        };
        let mut from = self.queues[&number].retry_from;
        let messages = &self.queues[&number].messages;
        let mut left = messages.iter().filter(|message| message.dead.is_some()).count();
        let mut failed = 0;
        while left > 0 && failed < 100 {
            let queue = &self.queues[&number];
            let Some(id) = blocked(queue, from).or_else(|| blocked(queue, 0)) else {
                break;
            };
            if room == 0 {
                self.retry_at(number, self.now_ms, id);
                return 0;
            }
            room -= 1;
            left -= 1;
            from = id + 1;
            let at = self.at(number, id);
            let mut message = self.take(number, at);
            let reason = message.dead.take().unwrap();
            self.dead_letter(number, message, reason);
            let messages = &self.queues[&number].messages;
            failed += usize::from(messages.iter().any(|m| m.id == id && m.dead.is_some()));
        }
        self.retry_at(number, self.now_ms + RETRY_MS, from);
        room
    }

    pub fn retry_at(&mut self, number: u64, due_ms: u64, from: u64) {
        let queue = self.queues.get_mut(&number).unwrap();
        queue.retry_from = from;
        let blocked = queue.messages.iter().any(|message| message.dead.is_some());
        queue.retry_ms = blocked.then_some(due_ms);
    }

    fn end_lives(&mut self, mut room: usize) -> usize {
        while room > 0
            && let Some((expires_ms, number, id)) = self.first_by(|message| {
                message.expires_ms.filter(|_| message.lease.is_none() && message.dead.is_none())
            })
            && expires_ms <= self.now_ms
        {
            room -= 1;
            let at = self.at(number, id);
            let message = self.take(number, at);
            self.expire(number, message);
        }
        room
    }

    fn end_retentions(&mut self, mut room: usize) -> usize {
        let now_ms = self.now_ms;
        for number in self.queues.keys().copied().collect::<Vec<_>>() {
            let retention_ms = self.queues[&number].attributes.retention_ms;
            let is_due = |message: &ModelMessage| {
                message.sent_at_ms.saturating_add(retention_ms) <= now_ms
                    && message.lease.is_none()
                    && message.dead.is_none()
            };
            let mut from = 0;
            while room > 0
                && let Some(at) =
                    self.queues[&number].messages.iter().position(|m| m.id >= from && is_due(m))
            {
                room -= 1;
                let message = self.take(number, at);
                from = message.id + 1;
                self.expire(number, message);
            }
        }
        room
    }

    /// The first lease, by when the first of its messages was over, that is.
    fn first_lease_over(&self) -> Option<(u64, u64)> {
        let now_ms = self.now_ms;
        let mut found: Option<(u64, u64, u64)> = None;
        for (number, queue) in &self.queues {
            for message in &queue.messages {
                let Some((lease, end_ms, _)) = message.lease.filter(|(_, end, _)| *end <= now_ms)
                else {
                    continue;
                };
                let same = |other: &&ModelMessage| other.lease.is_some_and(|l| l.0 == lease);
                let ends = queue.messages.iter().filter(same).filter_map(|m| m.lease);
                let first_ms = ends.map(|(_, end, _)| end).min().unwrap_or(end_ms);
                let key = (first_ms, *number, lease);
                found = Some(found.map_or(key, |other| other.min(key)));
            }
        }
        found.map(|(_, number, lease)| (number, lease))
    }

    /// The first message by a time and then by queue and id.
    fn first_by(&self, time: impl Fn(&ModelMessage) -> Option<u64>) -> Option<(u64, u64, u64)> {
        let keys = self.queues.iter().flat_map(|(number, queue)| {
            let key = |message: &ModelMessage| Some((time(message)?, *number, message.id));
            queue.messages.iter().filter_map(key).collect::<Vec<_>>()
        });
        keys.min()
    }

    pub fn at(&self, number: u64, id: u64) -> usize {
        self.queues[&number].messages.iter().position(|message| message.id == id).unwrap()
    }

    /// Takes a message out of its place.
    pub fn take(&mut self, number: u64, at: usize) -> ModelMessage {
        let queue = self.queues.get_mut(&number).unwrap();
        let mut message = queue.messages.remove(at);
        message.lease = None;
        message.due_ms = None;
        if queue.messages.iter().all(|message| message.dead.is_none()) {
            queue.retry_ms = None;
        }
        message
    }

    fn put_back(&mut self, number: u64, mut message: ModelMessage, due_ms: Option<u64>) {
        message.due_ms = due_ms;
        let messages = &mut self.queues.get_mut(&number).unwrap().messages;
        let at = messages.partition_point(|other| other.id < message.id);
        messages.insert(at, message);
    }

    pub fn come_back(&mut self, number: u64, message: ModelMessage, due_ms: Option<u64>) {
        let Attributes { max_deliveries, retention_ms, .. } = self.queues[&number].attributes;
        if u64::from(message.attempt) >= max_deliveries && self.dead_letter_name(number).is_some() {
            self.dead_letter(number, message, Reason::MaxDeliveries);
        } else if message.is_over(retention_ms, self.now_ms) {
            self.expire(number, message);
        } else {
            self.put_back(number, message, due_ms);
        }
    }

    fn expire(&mut self, number: u64, message: ModelMessage) {
        let queue = self.queues.get_mut(&number).unwrap();
        queue.totals.expired += 1;
        if queue.attributes.dead_letter_expired && self.dead_letter_name(number).is_some() {
            self.dead_letter(number, message, Reason::Expired);
        }
    }

    /// Where dead letters of a queue go.
    pub fn dead_letter_name(&self, number: u64) -> Option<QueueName> {
        let queue = &self.queues[&number];
        target_of(&queue.name, &queue.attributes.dead_letter)
    }

    /// The dead-letter queue, if it takes a message of `size` now.
    fn room_in_dead_letter(&mut self, number: u64, size: u64) -> Option<u64> {
        let name = self.dead_letter_name(number)?;
        let attributes = self.queues[&number].attributes.clone();
        let target = match self.find(&name) {
            Some(target) => target,
            None if attributes.dead_letter == DeadLetter::Default => self.make_queue(
                name,
                Attributes {
                    max_message_size: attributes.max_message_size,
                    dead_letter: DeadLetter::None,
                    max_deliveries: UNLIMITED,
                    ..Attributes::default()
                },
            ),
            None => return None,
        };
        self.make_room(target, size).then_some(target)
    }

    pub fn dead_letter(&mut self, number: u64, mut message: ModelMessage, reason: Reason) {
        if self.dead_letter_name(number).is_none() {
            let queue = self.queues.get_mut(&number).unwrap();
            if message.is_over(queue.attributes.retention_ms, self.now_ms) {
                queue.totals.expired += u64::from(reason != Reason::Expired);
            } else {
                message.dead = None;
                self.put_back(number, message, None);
            }
            return;
        }
        let Some(target) = self.room_in_dead_letter(number, message.message.size) else {
            message.dead = Some(reason);
            self.put_back(number, message, None);
            let due_ms = self.now_ms + RETRY_MS;
            let queue = self.queues.get_mut(&number).unwrap();
            queue.retry_ms = Some(queue.retry_ms.map_or(due_ms, |before| before.min(due_ms)));
            return;
        };
        let source = self.queues.get_mut(&number).unwrap();
        source.totals.dead_lettered += 1;
        let hop = DeadLettered {
            queue: source.name.clone(),
            id: message.id,
            sent_at_ms: message.sent_at_ms,
            attempts: message.attempt,
            first_delivered_ms: message.delivered_ms.0,
            last_delivered_ms: message.delivered_ms.1,
            reason,
        };
        let mut new = message.message;
        new.fields = hop.appended_to(&new.fields).unwrap();
        new.ttl_ms = None;
        self.queues.get_mut(&target).unwrap().add(new, None, self.now_ms);
    }

    pub fn admit(&mut self, number: u64, size: u64) -> Result<(), ErrorCode> {
        if self.queues[&number].is_too_large(size) {
            return Err(ErrorCode::MessageTooLarge);
        }
        self.make_room(number, size).then_some(()).ok_or(ErrorCode::QueueFull)
    }

    fn make_room(&mut self, number: u64, size: u64) -> bool {
        loop {
            let queue = &self.queues[&number];
            if queue.has_room(size) {
                return true;
            }
            let Attributes { overflow, max_bytes, max_messages, .. } = queue.attributes;
            let can_help = overflow == OVERFLOW_DROP_OLDEST
                && size <= max_bytes
                && queue.undroppable() < max_messages;
            if !can_help || !self.drop_oldest(number) {
                return false;
            }
        }
    }

    /// False: there is none that nobody holds, or its dead-letter queue cannot take it.
    pub fn drop_oldest(&mut self, number: u64) -> bool {
        let queue = &self.queues[&number];
        let is_free = |message: &ModelMessage| message.lease.is_none() && message.dead.is_none();
        let Some(at) = queue.messages.iter().position(is_free) else {
            return false;
        };
        let dead_letter_overflow = queue.attributes.dead_letter_overflow;
        let size = queue.messages[at].message.size;
        if dead_letter_overflow && self.room_in_dead_letter(number, size).is_none() {
            return false;
        }
        let message = self.take(number, at);
        self.queues.get_mut(&number).unwrap().totals.dropped += 1;
        if dead_letter_overflow {
            self.dead_letter(number, message, Reason::Overflow);
        }
        true
    }

    pub fn redrive(&mut self, redrive: &Redrive) -> Outcome {
        let Some(number) = self.find(&redrive.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        let to = redrive.to.as_ref().map(|name| self.find(name));
        if to == Some(None) {
            return refused(ErrorCode::NoSuchQueue);
        }
        let newest = self.queues[&number].next_id - 1;
        let through = if redrive.through == 0 { newest } else { redrive.through.min(newest) };
        let mut redriven = Redriven {
            moved: 0,
            skipped: 0,
            last: redrive.after,
            through,
            more: false,
            refusal: None,
        };
        let mut planned: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let first = redrive.after + 1;
        let ids = self.queues[&number].messages.iter().map(|message| message.id);
        for id in ids.filter(|id| (first..=through).contains(id)).collect::<Vec<_>>() {
            if redriven.moved >= u64::from(redrive.max) {
                break;
            }
            redriven.last = id;
            let Some(at) = self.queues[&number].messages.iter().position(|m| m.id == id) else {
                continue;
            };
            let fields = &self.queues[&number].messages[at].message.fields;
            let has =
                |(key, value): &(String, String)| Headers::stored_have(fields, key, value).unwrap();
            if !redrive.headers.iter().all(has) {
                continue;
            }
            match self.redrive_one(redrive, number, to.flatten(), id, &mut planned) {
                Ok(()) => redriven.moved += 1,
                Err(code) => {
                    redriven.skipped += 1;
                    redriven.refusal.get_or_insert_with(|| Box::new(code.refuse("")));
                }
            }
        }
        if redriven.moved >= u64::from(redrive.max) && redriven.last < through {
            redriven.more = true;
        } else {
            redriven.last = redriven.last.max(through);
        }
        Outcome::Redriven(redriven)
    }

    fn redrive_one(
        &mut self,
        redrive: &Redrive,
        number: u64,
        to: Option<u64>,
        id: u64,
        planned: &mut BTreeMap<u64, (u64, u64)>,
    ) -> Result<(), ErrorCode> {
        let find = |model: &Self| model.queues[&number].messages.iter().position(|m| m.id == id);
        let message = self.queues[&number].messages[find(self).unwrap()].clone();
        if message.lease.is_some() {
            return Err(ErrorCode::MessageLeased);
        }
        let hop = DeadLettered::newest(&message.message.fields).unwrap();
        let source = hop.and_then(|hop| self.find(&hop.queue)).filter(|source| *source != number);
        let target = to.or(source).ok_or(ErrorCode::NoSuchQueue)?;
        let size = message.message.size;
        if redrive.dry_run {
            let queue = &self.queues[&target];
            let (messages, bytes) = planned.entry(target).or_default();
            let live = queue.messages.len() as u64 + *messages;
            let used: u64 = queue.messages.iter().map(|m| m.message.size).sum::<u64>() + *bytes;
            let Attributes { max_messages, max_bytes, overflow, .. } = queue.attributes;
            if queue.is_too_large(size) {
                return Err(ErrorCode::MessageTooLarge);
            }
            if live < max_messages && used + size <= max_bytes {
                *messages += 1;
                *bytes += size;
                return Ok(());
            }
            return if overflow == 1 { Ok(()) } else { Err(ErrorCode::QueueFull) };
        }
        self.admit(target, size)?;
        let at = find(self).ok_or(ErrorCode::NoSuchMessage)?;
        let mut new = self.take(number, at).message;
        new.fields = without_dead_letters(&new.fields).unwrap();
        new.ttl_ms = None;
        self.queues.get_mut(&number).unwrap().totals.redriven += 1;
        self.queues.get_mut(&target).unwrap().add(new, None, self.now_ms);
        Ok(())
    }
}

pub fn target_of(queue: &QueueName, dead_letter: &DeadLetter) -> Option<QueueName> {
    match dead_letter {
        DeadLetter::Default => Some(QueueName::new(format!("{queue}.dead")).unwrap()),
        DeadLetter::None => None,
        DeadLetter::Queue(name) => Some(name.clone()),
    }
}
