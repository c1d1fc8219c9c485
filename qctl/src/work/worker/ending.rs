//! What the end of a command means.

use super::super::event::Settle;
use super::super::job::{Ended, Order};
use super::super::ledger::Lease;
use super::super::outcome::Outcome;
use super::Worker;
use crate::exit::{Exit, Failure};
use crate::output::reader_is_gone;

impl Worker {
    pub(super) fn ended(&mut self, ended: Ended) {
        let Some(running) = self.running.remove(&ended.number) else {
            return;
        };
        self.dry = false;
        self.pace.job_took(ended.took);
        if self.flags.exit_when_empty
            && self.running.is_empty()
            && let Some(asking) = self.asking.as_ref().filter(|asking| asking.waits)
        {
            asking.cancel.notify_one();
        }
        let leases = running.leases;
        let killed = *running.orders.borrow() != Order::Work;
        match ended.status {
            _ if running.lost => self.settle(&leases, &Settle::Release),
            // By us, or with whoever reads its output: that is not the message's fault.
            Ok(status) if !status.success() && (killed || self.is_unread()) => {
                self.tell(&leases, "given back: the command was ended before its time");
                self.settle(&leases, &Settle::Release);
            }
            Ok(status) => {
                let outcome = Outcome::of(status, &ended.stderr);
                self.carry_out(leases, outcome, ended.overdue);
            }
            Err(error) => {
                self.fail(&leases, &format!("failed: the end of the command is unknown: {error}"));
            }
        }
    }

    fn carry_out(&mut self, leases: Vec<Lease>, outcome: Outcome, overdue: bool) {
        if outcome != Outcome::Later {
            self.pace.go_on();
        }
        match outcome {
            Outcome::Done => self.finished.extend(self.ledger.take(&leases)),
            Outcome::Later => self.put_off(leases),
            Outcome::Rejected(reason) => {
                let last = reason.lines().last().unwrap_or_default().escape_debug();
                self.tell(&leases, &format!("rejected: {last}"));
                self.settle(&leases, &Settle::Reject(reason));
            }
            Outcome::Failed(how) if overdue => {
                self.fail(&leases, &format!("failed: it took longer than --kill-after, and {how}"));
            }
            Outcome::Failed(how) => self.fail(&leases, &format!("failed: {how}")),
            Outcome::Broken(code) => self.broken(&leases, code),
        }
    }

    /// A command has said "not now".
    fn put_off(&mut self, leases: Vec<Lease>) {
        self.later = true;
        if self.flags.exit_when_empty && self.stopping.is_none() {
            self.postponed.extend(leases);
        } else {
            self.pace.rest();
            self.settle(&leases, &Settle::Release);
        }
    }

    fn broken(&mut self, leases: &[Lease], code: i32) {
        self.settle(leases, &Settle::Release);
        let name = self.command.name();
        let text = |what: &str| format!("\"{name}\" ended with status {code}: it could not {what}");
        self.stop(Err(if code == i32::from(Exit::NotFound.code()) {
            Failure::NotFound(text("find a command"))
        } else {
            Failure::NotExecutable(text("run a command"))
        }));
    }

    /// Whether what commands write goes nowhere any more: then it is over.
    pub(super) fn is_unread(&mut self) -> bool {
        let gone = || reader_is_gone().then_some(Failure::ClosedPipe);
        let Some(failure) = self.output.broken().or_else(gone) else {
            return false;
        };
        self.stop(Err(failure));
        true
    }
}
