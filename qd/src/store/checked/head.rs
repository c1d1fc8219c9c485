//! The front of the file, which redb overwrites in its place.
//!
//! ```text
//! offset  bytes  field, little-endian
//!      0      8  "qd state"
//!      8      4  format number of the data (`schema::FORMAT`)
//!     12      4  CRC-32C of the other 4,092 bytes of the block
//!     16      8  generation: rises with every version
//!     24    512  what redb has at the front of its file
//! ```
//!
//! The first 16 bytes, and what the check sum covers, are the same in every format, so that each one can
//! tell the others' number.
//!
//! Always true here: there are two versions, each in two copies. A new version takes the place of one
//! that is not synced, or else of the older one, so that one of them is whole whatever becomes of a
//! write. The newest whole copy counts: damage to a copy makes no difference, and the other one is
//! written again with the next version. (A single copy would not do: damage to it were a fall back
//! to the version before, whose pages may be in use again.)

use std::io;

use redb::StorageBackend;

use super::super::schema::FORMAT;
use super::BLOCK;

/// Blocks that both copies of both versions take.
pub(super) const BLOCKS: u64 = 4;
/// Bytes of what redb has at the front of its file.
const FRONT_BYTES: usize = 512;
const FRONT_AT: usize = 24;
const MAGIC: &[u8; 8] = b"qd state";
/// What a plain file of redb's begins with, such as qd's were up to format 6.
const MAGIC_OF_REDB: &[u8; 4] = b"redb";

/// Where redb's front says which of its two commit slots is the current one, and whether its pages were
/// synced before it was: the "god byte" of its `docs/design.md`.
const GOD_BYTE_AT: usize = 9;
const PRIMARY_BIT: u8 = 1;
const TWO_PHASE_COMMIT: u8 = 4;

/// What a file turned out to be.
#[derive(Debug)]
pub enum Opened<T> {
    /// One of this format, or empty.
    Whole(T),
    /// One of another format.
    Format(u32),
    /// A plain file of redb's.
    Plain,
    /// Nothing that qd has made, or nothing that is left of it.
    Foreign,
}

/// The newest version.
#[derive(Debug)]
pub(super) struct Head {
    generation: u64,
    /// Which two blocks it is in: the first two or the last two.
    pair: u64,
    is_synced: bool,
    front: Box<[u8; FRONT_BYTES]>,
}

/// What one block says: the version, or the number of another format.
enum Copy {
    Version(u64, Box<[u8; FRONT_BYTES]>),
    Format(u32),
}

impl Copy {
    /// `None`: the block is not whole.
    fn from_block(block: &[u8; BLOCK]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
        if block[..8] != MAGIC[..] || u32_at(12)? != crc {
            return None;
        }
        if u32_at(8)? != FORMAT {
            return Some(Self::Format(u32_at(8)?));
        }
        let generation = u64::from(u32_at(16)?) | u64::from(u32_at(20)?) << 32;
        let front = block[FRONT_AT..FRONT_AT + FRONT_BYTES].try_into().ok()?;
        Some(Self::Version(generation, Box::new(front)))
    }
}

impl Head {
    /// Reads the newest version; in an empty file it is one of zeros, as redb expects.
    pub fn read(file: &impl StorageBackend) -> io::Result<Opened<Self>> {
        let length = file.len()?;
        let empty =
            || Self { generation: 0, pair: 0, is_synced: false, front: Box::new([0; FRONT_BYTES]) };
        let (mut newest, mut other) = ((length == 0).then(empty), None);
        for at in (0..BLOCKS).take_while(|at| (at + 1) * BLOCK as u64 <= length) {
            let mut block = [0; BLOCK];
            file.read(at * BLOCK as u64, &mut block)?;
            if at == 0 && block.starts_with(MAGIC_OF_REDB) {
                return Ok(Opened::Plain);
            }
            match Copy::from_block(&block) {
                Some(Copy::Version(generation, front)) => {
                    // It may have been read from memory: nobody knows whether it is on disk.
                    let head = Self { generation, pair: at / 2, is_synced: false, front };
                    newest = newest.into_iter().chain([head]).max_by_key(Self::generation);
                }
                Some(Copy::Format(found)) => other = Some(found),
                None => {}
            }
        }
        Ok(match (newest, other) {
            (Some(newest), _) => Opened::Whole(newest),
            (None, Some(found)) => Opened::Format(found),
            (None, None) => Opened::Foreign,
        })
    }

    /// What redb reads at the front.
    pub fn get(&self, out: &mut [u8]) -> io::Result<()> {
        let front = self.front.get(..out.len()).ok_or(io::ErrorKind::InvalidInput)?;
        out.copy_from_slice(front);
        Ok(())
    }

    /// True when redb could take the newest pages for current with this front: it makes another commit
    /// the current one, or the commit before had one phase, so that the newer of the slots counts.
    pub fn shows_new_pages(&self, front: &[u8]) -> bool {
        let god_byte = |front: &[u8]| front.get(GOD_BYTE_AT).copied().unwrap_or_default();
        let (now, next) = (god_byte(&self.front[..]), god_byte(front));
        (now ^ next) & PRIMARY_BIT != 0 || now & TWO_PHASE_COMMIT == 0
    }

    /// Writes a version with this at the front. After an error the file is of no use any more.
    pub fn set(&mut self, file: &dyn StorageBackend, front: &[u8]) -> io::Result<()> {
        self.front
            .get_mut(..front.len())
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(front);
        self.pair ^= u64::from(self.is_synced);
        self.is_synced = false;
        self.generation += 1;
        let block = self.to_block();
        file.write(self.pair * 2 * BLOCK as u64, &[block, block].concat())
    }

    /// Number of the newest version.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All versions up to this one are on disk.
    pub fn synced(&mut self, generation: u64) {
        self.is_synced |= self.generation == generation;
    }

    fn to_block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        block[16..24].copy_from_slice(&self.generation.to_le_bytes());
        block[FRONT_AT..FRONT_AT + FRONT_BYTES].copy_from_slice(&self.front[..]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        block
    }
}
