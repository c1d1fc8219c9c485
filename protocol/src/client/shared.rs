//! What the handles and the tasks of one client share.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connect::{Peer, connect};
use super::state::{Begun, Effects, State, in_flight_max};
use super::supervise::{CLOSE_WITHIN, supervise};
use super::{ClientError, Options, RETRY_FOR_MAX};
use crate::address::Address;
use crate::frame::Frame;
use crate::verbs::Verb;

/// Shared by handles and tasks.
#[derive(Debug)]
pub(super) struct Shared {
    pub addresses: Vec<Address>,
    pub options: Options,
    /// See [`crate::verbs::Hello`].
    pub producer: u64,
    /// Wakes the writer.
    pub to_write: Notify,
    /// Set when the client is closed.
    pub stop: CancellationToken,
    state: Mutex<State>,
    /// Places in flight, as many as the first server gives.
    permits: Semaphore,
    /// Wakes calls that wait for room or for a connection.
    changed: Notify,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// Held by the user's side; the connection ends with the last one.
#[derive(Debug)]
pub(super) struct Handle {
    pub shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Handle {
    /// Connects, and starts the tasks.
    pub async fn connect(
        addresses: Vec<Address>,
        mut options: Options,
    ) -> Result<Self, ClientError> {
        options.retry_for = options.retry_for.min(RETRY_FOR_MAX);
        let producer = getrandom::u64().map_err(|error| ClientError::Unreachable {
            address: addresses.first().cloned().unwrap_or(Address::Tcp(String::new())),
            kind: std::io::ErrorKind::Other,
            reason: format!("no random numbers: {error}"),
        })?;
        // 0 would mean that the requests are not numbered.
        let producer = producer.max(1);
        let connection = connect(&addresses, &options, producer).await?;
        let places = in_flight_max(&connection.peer);
        let repeats = !options.retry_for.is_zero();
        let state = State::new(connection.peer.clone(), repeats);
        let shared = Arc::new(Shared {
            addresses,
            options,
            producer,
            to_write: Notify::new(),
            stop: CancellationToken::new(),
            state: Mutex::new(state),
            permits: Semaphore::new(places),
            changed: Notify::new(),
            supervisor: Mutex::new(None),
        });
        shared.supervise_with(tokio::spawn(supervise(Arc::clone(&shared), Some(connection))));
        Ok(Self { shared })
    }

    /// Sends a request as soon as there is room and a connection; gives its correlation id.
    pub async fn begin<V: Verb>(&self, verb: &V) -> Result<u32, ClientError> {
        let Ok(permit) = self.shared.permits.acquire().await else {
            return Err(self.shared.state().lost_error("closed by this client"));
        };
        let mut tried = false;
        let mut begun = self.try_begin(verb, &mut tried);
        while begun.is_none() {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            begun = self.try_begin(verb, &mut tried);
            if begun.is_none() {
                changed.await;
            }
        }
        if let Some(Ok(_)) = begun {
            permit.forget();
        }
        begun.unwrap_or_else(|| Err(self.shared.state().lost_error("not sent")))
    }

    fn try_begin<V: Verb>(&self, verb: &V, tried: &mut bool) -> Option<Result<u32, ClientError>> {
        let begun = self.shared.update(|state, effects| state.begin(verb, tried, effects));
        match begun {
            Begun::Sent(correlation) => Some(Ok(correlation)),
            Begun::Failed(error) => Some(Err(error)),
            Begun::Wait => None,
            Begun::Reconnect => {
                let shared = Arc::clone(&self.shared);
                self.shared.supervise_with(tokio::spawn(supervise(shared, None)));
                None
            }
        }
    }

    /// Flushes and ends the connection.
    pub async fn close(&self) {
        self.shared.close();
        let supervisor = lock(&self.shared.supervisor).take();
        if let Some(supervisor) = supervisor {
            let _ = timeout(CLOSE_WITHIN + Duration::from_secs(1), supervisor).await;
        }
    }
}

impl Shared {
    /// The state, for a look at it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Changes the state, then does what follows from it.
    fn update<T>(&self, change: impl FnOnce(&mut State, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let result = change(&mut self.state(), &mut effects);
        self.carry_out(&mut effects);
        result
    }

    fn carry_out(&self, effects: &mut Effects) {
        if effects.permits > 0 {
            self.permits.add_permits(std::mem::take(&mut effects.permits));
        }
        effects.stale = None;
        for waker in effects.wakers.drain(..) {
            waker.wake();
        }
        if std::mem::take(&mut effects.changed) {
            self.changed.notify_waiters();
        }
        if std::mem::take(&mut effects.write) {
            self.to_write.notify_one();
        }
    }

    fn supervise_with(&self, supervisor: JoinHandle<()>) {
        *lock(&self.supervisor) = Some(supervisor);
    }

    /// See [`State::pick_up`].
    pub fn pick_up(&self, correlation: u32, waker: &Waker) -> Poll<Result<Frame, ClientError>> {
        self.update(|state, effects| state.pick_up(correlation, waker, effects))
    }

    /// See [`State::cancel`].
    pub fn cancel(&self, correlation: u32) {
        self.update(|state, effects| state.cancel(correlation, effects));
    }

    /// See [`State::abandon`].
    pub fn abandon(&self, correlation: u32) {
        self.update(|state, effects| state.abandon(correlation, effects));
    }

    /// See [`State::take_outgoing`].
    pub fn take_outgoing(&self) -> Option<Bytes> {
        self.update(State::take_outgoing)
    }

    /// Takes answers in, and wakes their calls. `effects` is empty, and reused for its room.
    pub fn complete(&self, frames: &mut Vec<Frame>, effects: &mut Effects) -> Result<(), String> {
        let result = {
            let mut state = self.state();
            frames.drain(..).try_for_each(|frame| state.complete(frame, effects))
        };
        self.carry_out(effects);
        result
    }

    /// See [`State::up`]. False when the client was closed.
    pub fn up(&self, peer: Peer) -> bool {
        self.update(|state, effects| state.up(peer, effects))
    }

    /// See [`State::lost`].
    pub fn lost(&self, reason: &str, repeat: bool) -> bool {
        self.update(|state, effects| state.lost(reason, repeat, effects))
    }

    /// See [`State::give_up`].
    pub fn give_up(&self, error: ClientError, in_flight: &ClientError) {
        self.update(|state, effects| state.give_up(error, in_flight, effects));
    }

    /// Takes no more requests, and lets the tasks end.
    pub fn close(&self) {
        self.update(State::close);
        self.stop.cancel();
    }
}

/// A lock's content is consistent after every statement that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
