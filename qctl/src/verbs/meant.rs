//! The queue that was meant, where the one that was named is not there.

use std::time::Duration;

use qd_protocol::ErrorCode;
use qd_protocol::verbs::List;
use qd_protocol::verbs::list::PAGE_MAX;
use tokio::time::timeout;

use crate::exit::Failure;
use crate::session::Session;
use crate::suggest::did_you_mean;

/// How long looking for it may take.
const WITHIN: Duration = Duration::from_millis(100);

/// Adds to a failure about a queue that is not there the name of one that is, and that it may be a
/// slip of.
pub async fn with_meant(session: &mut Session, mut failure: Failure) -> Failure {
    let Some(refusal) = failure.refusal_mut().filter(|it| it.code == ErrorCode::NoSuchQueue) else {
        return failure;
    };
    let Some(asked) = refusal.queue.clone() else {
        return failure;
    };
    if let Ok(names) = timeout(WITHIN, names(session, &asked)).await {
        refusal.text.push_str(&did_you_mean(&asked, names.iter().map(String::as_str)));
    }
    failure
}

/// The queues of the server; of a server with many those that begin with the same letter.
async fn names(session: &mut Session, asked: &str) -> Vec<String> {
    let Ok(client) = session.client().await else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let letter: String = asked.chars().take(1).collect();
    for pattern in [None, Some(format!("{letter}*"))] {
        let Ok(page) = client.call(List { pattern, after: None, limit: PAGE_MAX }).await else {
            break;
        };
        found.extend(page.queues.into_iter().map(|queue| queue.name.to_string()));
        if !page.more {
            break;
        }
    }
    found
}
