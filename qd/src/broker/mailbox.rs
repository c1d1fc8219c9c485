//! Where requests wait for the engine, and who does its work.
//!
//! Always true here:
//!
//! - The engine takes mail out in the order in which it came in.
//! - It works in its own thread, or, for a request that is alone, in the thread that brings it: waking
//!   another thread and being woken by it takes as long as a sync. Alone is what comes when no other
//!   mail waits, the engine rests, the round before was of one mail, and its connection has sent
//!   nothing more yet. Checkpoints, which take milliseconds, are made by the engine's thread only.
//! - Locks are taken in the order engine, inbox.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Engine, Mail};

/// What waits for the engine.
#[derive(Debug, Default)]
struct Inbox {
    mail: VecDeque<Mail>,
    /// The engine has something to do before it wanted to.
    is_poked: bool,
    /// The engine has ended.
    is_closed: bool,
}

/// What connections and the engine's thread share.
#[derive(Default)]
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    news: Condvar,
    /// `None`: it has not begun, or has ended.
    engine: Mutex<Option<Engine>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The engine's side of its mail.
#[derive(Debug)]
pub struct Mailbox {
    pub(super) shared: Arc<Shared>,
}

impl Mailbox {
    /// Tells the engine that the log has failed.
    pub fn on_failure(&self) -> Box<dyn Fn() + Send + Sync> {
        let shared = Arc::clone(&self.shared);
        // An engine that has ended needs no telling.
        Box::new(move || drop(shared.post(Mail::Failed)))
    }

    /// The next mail.
    pub(super) fn next(&self) -> Option<Mail> {
        self.shared.inbox().mail.pop_front()
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine. After a panic in it nobody gets it any more.
    pub(super) fn engine(&self) -> Option<MutexGuard<'_, Option<Engine>>> {
        self.engine.lock().ok()
    }

    /// Leaves mail for the engine; gives it back when that has ended.
    pub(super) fn post(&self, mail: Mail) -> Option<Mail> {
        let mut inbox = self.inbox();
        if inbox.is_closed {
            return Some(mail);
        }
        inbox.mail.push_back(mail);
        drop(inbox);
        self.news.notify_one();
        None
    }

    /// As [`Shared::post`], of a request behind which its connection has sent nothing more yet: it is
    /// carried out here where it is alone.
    pub(super) fn post_last(&self, mail: Mail) -> Option<Mail> {
        if let Ok(mut engine) = self.engine.try_lock()
            && let Some(engine) = engine.as_mut()
            && engine.rests()
            && self.inbox().mail.is_empty()
        {
            if engine.work_alone(mail) {
                self.poke();
            }
            return None;
        }
        self.post(mail)
    }

    fn poke(&self) {
        self.inbox().is_poked = true;
        self.news.notify_one();
    }

    /// Waits for news, at most `most`.
    pub(super) fn wait(&self, most: Option<Duration>) {
        let mut inbox = self.inbox();
        if inbox.mail.is_empty() && !inbox.is_poked {
            inbox = match most {
                None => self.news.wait(inbox).unwrap_or_else(PoisonError::into_inner),
                Some(most) => {
                    self.news.wait_timeout(inbox, most).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        inbox.is_poked = false;
    }

    /// Takes no more mail; gives back what waits.
    pub(super) fn close(&self) -> VecDeque<Mail> {
        let mut inbox = self.inbox();
        inbox.is_closed = true;
        std::mem::take(&mut inbox.mail)
    }
}
