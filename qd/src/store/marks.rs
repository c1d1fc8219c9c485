//! Bits of a chunk's messages: which are deleted, and which have left the untouched.
//!
//! ```text
//! bits of deleted messages, count / 8 bytes rounded up, lowest bit first; then, only when there
//! are any, as many bytes with the bits of messages that are not deleted but no longer untouched
//! although they are at or above the cursor
//! ```
//!
//! A chunk without a row has no bit set.

/// The bits of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    count: usize,
    bits: Vec<u8>,
}

impl Marks {
    /// The bits of a chunk of `count` messages; `row` is `None` when there is none.
    pub fn new(count: usize, row: Option<Vec<u8>>) -> Self {
        let mut bits = row.unwrap_or_default();
        bits.resize(2 * count.div_ceil(8), 0);
        Self { count, bits }
    }

    fn moved_at(&self) -> usize {
        self.count.div_ceil(8)
    }

    fn is_set(&self, from: usize, index: usize) -> bool {
        self.bits.get(from + index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }

    fn set(&mut self, from: usize, index: usize) {
        if let Some(byte) = self.bits.get_mut(from + index / 8) {
            *byte |= 1 << (index % 8);
        }
    }

    /// True when the message at `index` is deleted.
    pub fn is_deleted(&self, index: usize) -> bool {
        self.is_set(0, index)
    }

    /// True when the message at `index` is deleted or has left the untouched.
    pub fn is_marked(&self, index: usize) -> bool {
        self.is_deleted(index) || self.is_set(self.moved_at(), index)
    }

    /// Marks the message at `index` as deleted.
    pub fn delete(&mut self, index: usize) {
        self.set(0, index);
    }

    /// Marks the message at `index` as no longer untouched.
    pub fn touch(&mut self, index: usize) {
        self.set(self.moved_at(), index);
    }

    /// True when every message is deleted.
    pub fn all_deleted(&self) -> bool {
        let deleted = self.bits.iter().take(self.moved_at());
        deleted.map(|byte| byte.count_ones() as usize).sum::<usize>() == self.count
    }

    /// The row.
    pub fn to_bytes(&self) -> &[u8] {
        let (deleted, moved) = self.bits.split_at(self.moved_at());
        if moved.iter().all(|byte| *byte == 0) { deleted } else { &self.bits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_their_bytes_and_stay_short_while_nothing_moved() {
        let mut marks = Marks::new(9, None);
        marks.delete(8);
        assert_eq!(marks.to_bytes().len(), 2);
        marks.touch(0);
        assert_eq!(marks.to_bytes().len(), 4);
        let again = Marks::new(9, Some(marks.to_bytes().to_vec()));
        assert_eq!(again, marks);
        assert!(again.is_deleted(8) && again.is_marked(8) && again.is_marked(0));
        assert!(!again.is_deleted(0) && !again.is_marked(1));
    }

    #[test]
    fn all_deleted_counts_deleted_ones_only() {
        let mut marks = Marks::new(2, None);
        marks.delete(0);
        marks.touch(1);
        assert!(!marks.all_deleted());
        marks.delete(1);
        assert!(marks.all_deleted());
    }
}
