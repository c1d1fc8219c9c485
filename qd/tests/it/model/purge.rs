//! Purge in the plain model.

use std::collections::BTreeMap;

use qd::shard::Outcome;
use qd::shard::command::Purge;
use qd_protocol::ErrorCode;
use qd_protocol::message::Headers;
use qd_protocol::verbs::Purged;

use super::{Model, refused};

impl Model {
    pub fn purge(&mut self, purge: &Purge) -> Outcome {
        let Some(number) = self.find(&purge.queue) else {
            return refused(ErrorCode::NoSuchQueue);
        };
        Outcome::Purged(if purge.is_filtered() {
            self.purge_some(number, purge)
        } else {
            self.purge_all(number, purge.dry_run)
        })
    }

    /// The queue gets another number, and knows nothing of its messages any more.
    fn purge_all(&mut self, number: u64, dry_run: bool) -> Purged {
        let messages = self.queues[&number].messages.len() as u64;
        if !dry_run {
            let mut queue = self.queues.remove(&number).unwrap();
            queue.messages.clear();
            queue.totals.deleted += messages;
            queue.turns = BTreeMap::new();
            queue.windows = BTreeMap::new();
            (queue.retry_ms, queue.retry_from) = (None, 0);
            self.queues_made += 1;
            self.queues.insert(self.queues_made, queue);
        }
        Purged { messages, skipped: 0, last: 0, through: 0, more: false }
    }

    fn purge_some(&mut self, number: u64, purge: &Purge) -> Purged {
        let now_ms = self.now_ms;
        let newest = self.queues[&number].next_id - 1;
        let through = if purge.through == 0 { newest } else { purge.through.min(newest) };
        let mut purged = Purged {
            messages: 0,
            skipped: 0,
            last: purge.after.max(through),
            through,
            more: false,
        };
        let messages = &self.queues[&number].messages;
        let is_meant = |message: &&super::ModelMessage| {
            let fields = &message.message.fields;
            let has =
                |(key, value): &(String, String)| Headers::stored_have(fields, key, value).unwrap();
            let is_old =
                purge.older_than_ms.is_none_or(|age_ms| message.sent_at_ms + age_ms <= now_ms);
            (purge.after + 1..=through).contains(&message.id)
                && is_old
                && purge.headers.iter().all(has)
        };
        let meant: Vec<(u64, bool)> = messages
            .iter()
            .filter(is_meant)
            .map(|message| (message.id, message.lease.is_some()))
            .collect();
        for (id, is_leased) in meant {
            if is_leased {
                purged.skipped += 1;
                continue;
            }
            purged.messages += 1;
            if !purge.dry_run {
                let at = self.at(number, id);
                self.take(number, at);
                self.queues.get_mut(&number).unwrap().totals.deleted += 1;
            }
        }
        purged
    }
}
