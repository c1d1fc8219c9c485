//! What a receive has brought.

use qd_protocol::ErrorCode;
use qd_protocol::verbs::ReceivedMessage;
use tokio::time::Instant;

use super::super::command::Message;
use super::super::event::{Answer, Settle};
use super::super::ledger::{Lease, now};
use super::super::server::RETRY_PAUSE;
use super::Worker;
use crate::exit::Failure;

impl Worker {
    pub(super) fn received(&mut self, answer: Answer) {
        self.asking = None;
        let received = match answer.result {
            Ok(received) => received,
            Err(failure) => {
                // What became of these is not known: their receipts will tell.
                self.finished.extend(answer.settled);
                return self.not_received(failure);
            }
        };
        self.judge(&Settle::Delete, &answer.settled, &received.settled);
        if !answer.waited {
            self.pace.receive_took(answer.took);
            self.dry = received.messages.is_empty();
        } else if !received.messages.is_empty() {
            self.dry = false;
        }
        if self.ready.is_empty() {
            self.ready_since = Instant::now();
        }
        let awake = self.clock.awake();
        let mut refused = Vec::new();
        let mut stale = Vec::new();
        for received in received.messages {
            let lease = lease_of(&received);
            self.ledger.hold(lease, awake);
            self.taken += 1;
            if now() > awake + self.terms.lease / 2 {
                stale.push(lease);
            } else if self.is_batch() && memchr::memchr(0, &received.body.bytes).is_some() {
                refused.push(lease);
            } else if let Ok(headers) = received.headers() {
                self.ready.push_back(Message { lease, headers, body: received.body.bytes });
            } else {
                stale.push(lease);
            }
        }
        self.refuse(&refused);
        self.give_back(&stale);
        if self.stopping.is_some() {
            self.give_back_ready();
        }
    }

    /// Bodies that `--batch` cannot tell from several.
    fn refuse(&mut self, leases: &[Lease]) {
        for lease in leases {
            let text = "rejected: the body holds a NUL byte, which separates the bodies of a batch";
            self.tell(&[*lease], text);
        }
        self.settle(leases, &Settle::Reject("a NUL byte in the body (--batch)".to_owned()));
    }

    fn not_received(&mut self, failure: Failure) {
        if failure.refusal().is_some_and(|refusal| refusal.code == ErrorCode::Cancelled) {
            // Whether there is something now is for the next one to find out.
            return;
        }
        if self.server.may_come_back(&failure) {
            self.ask_at = Some(Instant::now() + RETRY_PAUSE);
        } else {
            self.stop(Err(failure));
        }
    }
}

fn lease_of(message: &ReceivedMessage) -> Lease {
    Lease {
        queue: usize::from(message.queue),
        id: message.id,
        attempt: message.attempt,
        receipt: message.receipt,
    }
}
