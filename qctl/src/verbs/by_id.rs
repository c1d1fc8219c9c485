//! What verbs share that name messages by their ids.

use qd_protocol::BATCH_ENTRIES_MAX;
use qd_protocol::verbs::{Settled, Verb};

use super::settle::Settlement;
use crate::exit::Failure;
use crate::session::Session;

/// Asks for a change of each message, in batches.
pub async fn change<V: Verb<Answer = Settled>>(
    session: &mut Session,
    ids: &[u64],
    request: impl Fn(Vec<u64>) -> V,
) -> Result<Settlement, Failure> {
    let mut settlement = Settlement::default();
    for batch in ids.chunks(BATCH_ENTRIES_MAX as usize) {
        let settled = session.call(request(batch.to_vec())).await?;
        if let [_] = ids {
            settlement.take_single(&settled.statuses);
        } else {
            // The server's words name the id.
            settlement.take(&settled.statuses, session.out.is_json(), |_| None);
        }
    }
    Ok(settlement)
}
