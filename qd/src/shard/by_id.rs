//! Changing messages that nobody holds, by their ids.

use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{ErrorCode, Refusal};

use super::command::{ById, ByIdAction};
use super::place::Place;
use super::{Outcome, Step};
use crate::store::Result;

impl Step<'_, '_> {
    pub(super) fn by_id(&mut self, by_id: &ById) -> Result<Outcome> {
        let number = match self.find(&by_id.queue) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        let mut statuses = Statuses::default();
        for &id in &by_id.ids {
            let refusal = match self.place(number, id)? {
                None => Some(no_such_message(by_id.queue.as_str(), id)),
                Some(Place::Leased) => Some(leased(by_id.queue.as_str(), id)),
                Some(place) => {
                    self.change(number, id, place, by_id.action)?;
                    None
                }
            };
            statuses.push(refusal);
        }
        Ok(Outcome::Settled(statuses))
    }

    fn change(&mut self, number: u64, id: u64, place: Place, action: ByIdAction) -> Result<()> {
        match action {
            ByIdAction::Discard => {
                self.discard(number, id, place)?;
            }
            ByIdAction::Reschedule(due) => {
                let due_ms = self.due_ms(due).filter(|due_ms| *due_ms > self.now_ms);
                match (due_ms, place) {
                    (_, Place::Blocked) => {
                        self.retry_at(number, due_ms.unwrap_or(self.now_ms), id)?;
                    }
                    (Some(due_ms), _) => {
                        let delivered = self.take_out(number, id, place)?;
                        self.delay(number, id, due_ms, delivered)?;
                    }
                    (None, Place::Delayed) => {
                        let delivered = self.take_out(number, id, place)?;
                        self.give_back(number, id, delivered)?;
                    }
                    // It is visible already, at its place in the order.
                    (None, _) => {}
                }
            }
        }
        Ok(())
    }

    /// Removes a message that nobody holds.
    pub(super) fn discard(&mut self, number: u64, id: u64, place: Place) -> Result<()> {
        self.take_out(number, id, place)?;
        let run = self.run_of(number, id)?;
        self.remove_messages(number, &[run])?;
        self.queue(number).statistics.deleted += 1;
        Ok(())
    }
}

pub(super) fn no_such_message(queue: &str, id: u64) -> Refusal {
    let text = format!("queue {queue:?} holds no message {id}");
    ErrorCode::NoSuchMessage.refuse(text).with_queue(queue)
}

pub(super) fn leased(queue: &str, id: u64) -> Refusal {
    let text = format!("message {id} of queue {queue:?} is leased: only its receipt can change it");
    ErrorCode::MessageLeased.refuse(text).with_queue(queue)
}
