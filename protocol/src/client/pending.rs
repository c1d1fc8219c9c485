//! A call that was sent.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::ClientError;
use super::shared::Handle;
use crate::frame::Frame;
use crate::request::{AnswerError, read_answer};
use crate::verbs::Verb;

/// The answer to a request that is on its way; a future that needs not be polled for the call to
/// proceed. Dropping it gives the answer up, and cancels a parked receive on the server.
#[derive(Debug)]
#[must_use = "dropping it gives the answer up"]
pub struct Pending<V> {
    handle: Arc<Handle>,
    /// `None` once the answer was picked up.
    correlation: Option<u32>,
    verb: PhantomData<fn() -> V>,
}

impl<V> Pending<V> {
    pub(super) fn new(handle: Arc<Handle>, correlation: u32) -> Self {
        Self { handle, correlation: Some(correlation), verb: PhantomData }
    }

    /// Asks the server to end a parked receive now; the answer still has to be awaited. It is the
    /// messages that crossed the cancel, or a refusal with `cancelled`. Any other request is not
    /// affected. While the connection is lost the cancel waits, with the repeat of the request,
    /// for the next one.
    pub fn cancel(&mut self) {
        if let Some(correlation) = self.correlation {
            self.handle.shared.cancel(correlation);
        }
    }
}

impl<V> Drop for Pending<V> {
    fn drop(&mut self) {
        if let Some(correlation) = self.correlation.take() {
            self.handle.shared.abandon(correlation);
        }
    }
}

impl<V: Verb> Future for Pending<V> {
    type Output = Result<V::Answer, ClientError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(correlation) = this.correlation else {
            return Poll::Ready(Err(this.protocol("its answer was picked up before".to_owned())));
        };
        let Poll::Ready(result) = this.handle.shared.pick_up(correlation, context.waker()) else {
            return Poll::Pending;
        };
        this.correlation = None;
        Poll::Ready(result.and_then(|frame| this.read(frame)))
    }
}

impl<V: Verb> Pending<V> {
    fn read(&self, frame: Frame) -> Result<V::Answer, ClientError> {
        let answer = read_answer::<V>(frame).map_err(|error| match error {
            AnswerError::Refused(refusal) => ClientError::Refused(Box::new(refusal)),
            AnswerError::Malformed(error) => self.protocol(format!("malformed answer: {error}")),
        })?;
        V::check_answer(&answer).map_err(|error| self.protocol(error.to_string()))?;
        Ok(answer)
    }

    fn protocol(&self, reason: String) -> ClientError {
        let address = self.handle.shared.state().peer.address.clone();
        ClientError::Protocol { address, reason }
    }
}
