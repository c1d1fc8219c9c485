//! What became of the receipts of receives that wait, in little memory.

use std::sync::Arc;

use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{BATCH_ENTRIES_MAX, Refusal};

use super::Peer;
use super::answer::REFUSAL_BYTES;

/// Runs that a receive may keep without counting them: its place bounds them well enough.
const FEW_RUNS: usize = 16;
/// Kinds among which a status is looked for.
const KINDS_COMPARED: usize = 8;

// A batch has neither more entries nor more kinds.
const _: () = assert!(BATCH_ENTRIES_MAX <= u16::MAX as u32);

/// Statuses whose neighbours may differ, in four bytes a run: there are few kinds of refusal.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Entries and index of the kind of each run.
    runs: Vec<(u16, u16)>,
    kinds: Vec<Option<Box<Refusal>>>,
    /// Where they are counted, and their bytes.
    counted: Option<(Arc<Peer>, usize)>,
}

impl Kept {
    pub fn new(statuses: Statuses) -> Self {
        let mut kept = Self::default();
        for (entries, refusal) in statuses.runs {
            let alike = kept.kinds.iter().rev().take(KINDS_COMPARED).position(|k| *k == refusal);
            let kind = if let Some(from_end) = alike {
                kept.kinds.len() - 1 - from_end
            } else {
                kept.kinds.push(refusal);
                kept.kinds.len() - 1
            };
            kept.runs.push((entries as u16, kind as u16));
        }
        kept.runs.shrink_to_fit();
        kept
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Counts them among what the connection keeps. False: it keeps too much already.
    pub fn count(&mut self, peer: &Arc<Peer>) -> bool {
        if self.runs.len() > FEW_RUNS && self.counted.is_none() {
            let bytes = self.runs.len() * 4 + self.kinds.len() * REFUSAL_BYTES;
            if !peer.keep(bytes) {
                return false;
            }
            self.counted = Some((Arc::clone(peer), bytes));
        }
        true
    }

    /// The statuses; none are kept any more.
    pub fn take(&mut self) -> Statuses {
        let kept = std::mem::take(self);
        let run = |(entries, kind): &(u16, u16)| {
            (u32::from(*entries), kept.kinds[usize::from(*kind)].clone())
        };
        Statuses { runs: kept.runs.iter().map(run).collect() }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some((peer, bytes)) = self.counted.take() {
            peer.forget_kept(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use qd_protocol::ErrorCode;

    use super::*;

    #[test]
    fn statuses_come_back_as_they_were() {
        let mut statuses = Statuses::default();
        for at in 0..BATCH_ENTRIES_MAX {
            // Some thousand kinds, and neighbours that are equal.
            statuses.push(match at % 7 {
                0 | 1 => None,
                2 => Some(ErrorCode::ReceiptInvalid.refuse(at.to_string())),
                _ => Some(ErrorCode::ReceiptExpired.refuse("over")),
            });
        }
        let mut kept = Kept::new(statuses.clone());
        assert_eq!(kept.take(), statuses);
        assert!(kept.is_empty());
    }
}
