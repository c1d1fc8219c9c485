//! Rows of producers.

use redb::ReadableTable;

use super::Result;
use super::tables::{Tables, keys};

impl Tables<'_> {
    /// A producer's row of a generation.
    pub fn producer(&self, generation: u64, producer: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.producers.get((generation, producer))?.map(|row| row.value().to_vec()))
    }

    /// Writes a producer's row.
    pub fn put_producer(&mut self, generation: u64, producer: u64, row: &[u8]) -> Result<()> {
        self.producers.insert((generation, producer), row)?;
        Ok(())
    }

    /// Removes a producer's row.
    pub fn remove_producer(&mut self, generation: u64, producer: u64) -> Result<()> {
        self.producers.remove((generation, producer))?;
        Ok(())
    }

    /// Removes up to `most` rows of producers of generations below `generation`.
    pub fn sweep_producers(&mut self, generation: u64, most: usize) -> Result<()> {
        let keys = keys(self.producers.range((0, 0)..(generation, 0))?, most)?;
        for key in keys {
            self.producers.remove(key)?;
        }
        Ok(())
    }
}
