//! The sums of blocks: those of the groups used last are in memory.
//!
//! Always true here: a group that is not in memory is in the file as it was last in memory.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;

use redb::StorageBackend;

use super::{BLOCK, GROUP_BLOCKS, place};

/// Most groups in memory: 8 MiB, for 8 GiB of blocks.
pub(super) const GROUPS_MAX: usize = 2048;
/// Bytes of a sum.
const SUM_BYTES: usize = 4;

/// The sums of a group.
#[derive(Debug)]
struct Group {
    /// As in the file.
    bytes: Box<[u8; BLOCK]>,
    /// The file has others.
    is_new: bool,
    /// When it was used last, by [`Sums::uses`].
    used: u64,
}

#[derive(Debug)]
pub(super) struct Sums {
    groups: HashMap<u64, Group>,
    groups_max: usize,
    uses: u64,
    /// How many groups there are.
    count: u64,
    /// Those that the file was made longer for and that have no sums in it yet.
    blank: HashSet<u64>,
}

/// Where the sums of a group are in the file: right before its first block.
fn place_of_sums(group: u64) -> u64 {
    place(group * GROUP_BLOCKS) - BLOCK as u64
}

/// Group of these blocks, which are of one, and where their sums are in it.
fn within(run: &Range<u64>) -> (u64, Range<usize>) {
    let group = run.start / GROUP_BLOCKS;
    let byte = |block: u64| (block - group * GROUP_BLOCKS) as usize * SUM_BYTES;
    (group, byte(run.start)..byte(run.end))
}

impl Sums {
    /// Those of a file that holds so many blocks.
    pub fn new(blocks: u64) -> Self {
        let count = blocks.div_ceil(GROUP_BLOCKS);
        let (groups, blank) = (HashMap::new(), HashSet::new());
        Self { groups, groups_max: GROUPS_MAX, uses: 0, count, blank }
    }

    /// The sums of blocks of one group.
    pub fn of(&mut self, file: &dyn StorageBackend, run: Range<u64>) -> io::Result<Vec<u32>> {
        let (group, bytes) = within(&run);
        let group = self.group(file, group)?;
        let (sums, _) = group.bytes[bytes].as_chunks();
        Ok(sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect())
    }

    /// Changes the sums of blocks of one group.
    pub fn set(
        &mut self,
        file: &dyn StorageBackend,
        run: Range<u64>,
        sums: &[u32],
    ) -> io::Result<()> {
        let (group, bytes) = within(&run);
        let group = self.group(file, group)?;
        for (at, sum) in group.bytes[bytes].chunks_exact_mut(SUM_BYTES).zip(sums) {
            at.copy_from_slice(&sum.to_le_bytes());
        }
        group.is_new = true;
        Ok(())
    }

    /// Writes all that is new.
    pub fn write(&mut self, file: &dyn StorageBackend) -> io::Result<()> {
        let mut new: Vec<(&u64, &mut Group)> =
            self.groups.iter_mut().filter(|(_, group)| group.is_new).collect();
        new.sort_unstable_by_key(|(number, _)| **number);
        for (number, group) in new {
            file.write(place_of_sums(*number), &group.bytes[..])?;
            group.is_new = false;
        }
        Ok(())
    }

    /// The file holds so many blocks now.
    pub fn set_len(&mut self, blocks: u64) {
        let before = std::mem::replace(&mut self.count, blocks.div_ceil(GROUP_BLOCKS));
        self.groups.retain(|number, _| *number < self.count);
        self.blank.retain(|number| *number < self.count);
        self.blank.extend(before..self.count);
    }

    fn group(&mut self, file: &dyn StorageBackend, number: u64) -> io::Result<&mut Group> {
        self.uses += 1;
        let used = self.uses;
        if !self.groups.contains_key(&number) {
            self.make_room(file)?;
            let mut bytes = Box::new([0; BLOCK]);
            // To read what is not there brings a lot of zeros into memory.
            if !self.blank.remove(&number) {
                file.read(place_of_sums(number), &mut bytes[..])?;
            }
            self.groups.insert(number, Group { bytes, is_new: false, used });
        }
        let group = self.groups.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        group.used = used;
        Ok(group)
    }

    fn make_room(&mut self, file: &dyn StorageBackend) -> io::Result<()> {
        while self.groups.len() >= self.groups_max {
            let oldest = self.groups.iter().min_by_key(|(_, group)| group.used);
            let Some((&number, group)) = oldest else { break };
            if group.is_new {
                file.write(place_of_sums(number), &group.bytes[..])?;
            }
            self.groups.remove(&number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::super::length_of;
    use super::*;

    #[test]
    fn groups_that_leave_memory_come_back_as_they_were() {
        let file = InMemoryBackend::new();
        file.set_len(length_of(5 * GROUP_BLOCKS)).unwrap();
        let mut sums = Sums { groups_max: 2, ..Sums::new(3 * GROUP_BLOCKS) };
        sums.set_len(5 * GROUP_BLOCKS);
        let run = |group: u64| group * GROUP_BLOCKS + 1022..(group + 1) * GROUP_BLOCKS;
        for group in [0, 2, 1, 3, 4, 1] {
            sums.set(&file, run(group), &[group as u32, 7]).unwrap();
            assert!(sums.groups.len() <= 2);
        }
        sums.write(&file).unwrap();
        for mut sums in [sums, Sums::new(5 * GROUP_BLOCKS)] {
            for group in 0..5 {
                assert_eq!(sums.of(&file, run(group)).unwrap(), [group as u32, 7]);
            }
        }
    }
}
