//! What verbs share that name messages by their ids.

use qd_protocol::BATCH_ENTRIES_MAX;
use qd_protocol::verbs::{Settled, Verb};

use super::settle::{Settlement, single};
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
            single(&settled.statuses)?;
        }
        let label = |at| batch.get(at).map(|id| format!("id {id}")).unwrap_or_default();
        settlement.take(&settled.statuses, session.out.is_json(), label);
    }
    Ok(settlement)
}
