//! What verbs share whose work is many requests, each carried out as a whole or not at all.

use qd_protocol::verbs::Verb;
use tokio::time::timeout;

use crate::exit::Failure;
use crate::session::Session;
use crate::signals::{ANSWERS_WITHIN, Stop};

/// The answer to what is under way, for which a signal leaves some time, and what has ended the
/// command meanwhile.
pub async fn answered<T>(
    stop: &Stop,
    request: impl Future<Output = T>,
) -> (Option<T>, Option<Failure>) {
    let mut request = std::pin::pin!(request);
    tokio::select! {
        biased;
        answer = &mut request => (Some(answer), None),
        failure = stop.stopped() => {
            (timeout(ANSWERS_WITHIN, request).await.ok(), Some(failure))
        }
    }
}

/// One request. A signal lets it be answered first, so that what it did is counted: `take` gets the
/// answer.
pub async fn ask<V: Verb>(
    session: &mut Session,
    request: V,
    take: impl FnOnce(Result<V::Answer, Failure>) -> Result<V::Answer, Failure>,
) -> Result<V::Answer, Failure> {
    let stop = session.stop.clone();
    let (answer, stopped) = answered(&stop, session.call(request)).await;
    let answer = answer.map(take);
    match (stopped, answer) {
        (None, Some(answer)) => answer,
        (Some(failure), _) => Err(failure),
        // Only a stop leaves the request without an answer.
        (None, None) => Err(Failure::Internal("a request has no answer".to_owned())),
    }
}
