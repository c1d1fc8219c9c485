//! What becomes of messages: requests that settle them, and what their answers mean.
//!
//! Always true here: every message that was received is counted once, when its fate is known.

use std::time::Duration;

use qd_protocol::verbs::Extended;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{ErrorCode, Refusal};

use super::super::event::Settle;
use super::super::job::Order;
use super::super::ledger::{Held, Lease, Refused, now};
use super::{Worker, by_queue};
use crate::exit::Failure;

impl Worker {
    /// Settles messages that are still ours.
    pub(super) fn settle(&mut self, leases: &[Lease], how: &Settle) {
        let held = self.ledger.take(leases);
        self.settle_held(&held, how);
    }

    fn settle_held(&mut self, held: &[Held], how: &Settle) {
        for part in by_queue(held, |held| held.lease.queue) {
            self.settling += 1;
            self.tasks.spawn(self.server.clone().settle(how.clone(), part));
        }
    }

    /// Deletes what is done by a request of its own.
    pub(super) fn delete_finished(&mut self) {
        let held = std::mem::take(&mut self.finished);
        self.settle_held(&held, &Settle::Delete);
    }

    /// Gives messages back that have failed.
    pub(super) fn fail(&mut self, leases: &[Lease], how: &str) {
        self.tell(leases, how);
        self.settle(leases, &Settle::Fail);
    }

    pub(super) fn tell(&self, leases: &[Lease], how: &str) {
        let name = self.label(leases);
        self.output.say(&format!("qctl: {name}: {how}"));
    }

    /// A settlement is over.
    pub(super) fn settled(
        &mut self,
        how: &Settle,
        held: &[Held],
        result: Result<Statuses, Failure>,
    ) {
        match result {
            Ok(statuses) => self.judge(how, held, &statuses),
            Err(failure) => {
                self.tally.lost += held.len() as u64;
                let leases: Vec<Lease> = held.iter().map(|held| held.lease).collect();
                // A refusal may be that the queue is gone.
                let again = if failure.refusal().is_none() { ", and comes again" } else { "" };
                self.tell(&leases, &format!("{}{again}: {failure}", not_settled(how)));
                self.stop(Err(failure));
            }
        }
    }

    /// Counts messages by what the server says of each.
    pub(super) fn judge(&mut self, how: &Settle, held: &[Held], statuses: &Statuses) {
        let mut again = Vec::new();
        for (held, status) in held.iter().zip(statuses.entries()) {
            match status {
                Ok(()) => *self.count(how) += 1,
                Err(refusal) => self.refused(how, held, refusal, &mut again),
            }
        }
        self.settle_held(&again, &Settle::Fail);
    }

    fn count(&mut self, how: &Settle) -> &mut u64 {
        match how {
            Settle::Delete => &mut self.tally.done,
            Settle::Fail => &mut self.tally.failed,
            Settle::Release => &mut self.tally.released,
            Settle::Reject(_) => &mut self.tally.rejected,
        }
    }

    fn refused(&mut self, how: &Settle, held: &Held, refusal: &Refusal, again: &mut Vec<Held>) {
        let stale = refusal.code == ErrorCode::ReceiptExpired;
        if stale && held.refused(now(), self.ledger.length()) == Refused::Settled {
            // By the command itself, with its receipt.
            *self.count(how) += 1;
        } else if stale && *how == Settle::Release {
            // It has come back by itself.
            self.tally.released += 1;
        } else if refusal.code == ErrorCode::NoDeadLetter {
            let text =
                "cannot be rejected, since the queue has no dead-letter queue: it comes again";
            self.tell(&[held.lease], text);
            again.push(*held);
        } else {
            self.tally.lost += 1;
            self.tell(&[held.lease], &format!("{}: {}", not_settled(how), refusal.text));
        }
    }

    /// A renewal is over. Whoever works on a message that is lost is ended.
    pub(super) fn renewed(
        &mut self,
        leases: &[Lease],
        from: Duration,
        result: Result<Extended, Failure>,
    ) {
        let extended = match result {
            Ok(extended) => extended,
            Err(failure) => {
                for lease in leases {
                    self.ledger.not_renewed(&lease.receipt);
                }
                // What the next settlement would be answered with too is told by that one.
                self.server.may_come_back(&failure);
                return;
            }
        };
        for (lease, status) in leases.iter().zip(extended.statuses.entries()) {
            match status {
                Ok(()) => self.ledger.renewed(&lease.receipt, from),
                Err(refusal) if refusal.code != ErrorCode::ReceiptExpired => {
                    self.ledger.not_renewed(&lease.receipt);
                }
                Err(_) => {
                    if self.ledger.refused(&lease.receipt, now()) == Some(Refused::Lost) {
                        self.lost(lease);
                    }
                }
            }
        }
    }

    fn lost(&mut self, lease: &Lease) {
        self.tally.lost += 1;
        let text = "lost: the lease ended before it was renewed, and somebody else may have it";
        let mut ends = "";
        for running in self.running.values_mut() {
            if running.leases.contains(lease) {
                ends = "; the command is ended";
                running.lost = true;
                let _ = running.orders.send(Order::End);
            }
        }
        self.forget_ready(lease);
        self.tell(&[*lease], &format!("{text}{ends}"));
    }
}

fn not_settled(how: &Settle) -> &'static str {
    match how {
        Settle::Delete => "done, but could not be deleted",
        Settle::Fail | Settle::Release => "could not be given back",
        Settle::Reject(_) => "could not be rejected",
    }
}
