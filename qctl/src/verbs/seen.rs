//! Which messages one receive has had before.
//!
//! Always true here: at most [`RANGES_MAX`] ranges of ids are kept, whatever comes. A queue is taken
//! from its lowest ids on, so that a drain of any length is few ranges; where it is more, those had
//! last are not kept: what was had first comes back first.

use std::collections::BTreeMap;

use qd_protocol::Receipt;

/// Most ranges, some 10 MB.
const RANGES_MAX: usize = 1 << 18;

/// Ids of messages, per queue.
#[derive(Debug, Default)]
pub struct Seen {
    /// The last id of each range, by the number of its queue and its first id. A queue that is made
    /// anew has another number.
    ranges: BTreeMap<(u64, u64), u64>,
}

impl Seen {
    /// Adds a message; `false` when it was there before.
    pub fn add(&mut self, receipt: &Receipt) -> bool {
        let (queue, id) = (receipt.queue, receipt.id);
        let before = self.ranges.range_mut((queue, 0)..=(queue, id)).next_back();
        let before = before.map(|(&(_, first), last)| (first, *last));
        if before.is_some_and(|(_, last)| id <= last) {
            return false;
        }
        let behind = id.checked_add(1).and_then(|next| self.ranges.remove(&(queue, next)));
        let last = behind.unwrap_or(id);
        match before {
            Some((first, end)) if end.checked_add(1) == Some(id) => {
                self.ranges.insert((queue, first), last);
            }
            _ if self.ranges.len() < RANGES_MAX => {
                self.ranges.insert((queue, id), last);
            }
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(queue: u64, id: u64) -> Receipt {
        Receipt { queue, lease: 1, id, secret: 1 }
    }

    #[test]
    fn second_time_is_told_from_the_first() {
        let mut seen = Seen::default();
        for id in [5, 7, 6, 1, u64::MAX, 0, 4] {
            assert!(seen.add(&receipt(1, id)), "{id}");
        }
        for id in [0, 1, 4, 5, 6, 7, u64::MAX] {
            assert!(!seen.add(&receipt(1, id)), "{id}");
        }
        assert!(seen.add(&receipt(2, 5)), "of another queue");
        assert!(seen.add(&receipt(1, 2)) && seen.add(&receipt(1, 3)));
    }

    #[test]
    fn ids_side_by_side_are_one_range() {
        let mut seen = Seen::default();
        for id in (1..1_000).step_by(2).chain((0..1_000).step_by(2)) {
            assert!(seen.add(&receipt(1, id)));
        }
        assert_eq!(seen.ranges, BTreeMap::from([((1, 0), 999)]));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        for id in 0..RANGES_MAX as u64 + 10 {
            assert!(seen.add(&receipt(1, id * 2)));
        }
        assert_eq!(seen.ranges.len(), RANGES_MAX);
        assert!(!seen.add(&receipt(1, 0)));
    }
}
