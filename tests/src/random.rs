//! Random numbers that can be had again by their seed.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A sequence of numbers given by its seed (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `QD_TESTS_SEED`, or of a new seed. Prints it.
    ///
    /// # Panics
    ///
    /// When the variable is not a number.
    pub fn of_environment(test: &str) -> Self {
        let seed = match std::env::var("QD_TESTS_SEED") {
            Ok(seed) => seed.parse().expect("QD_TESTS_SEED is a number"),
            // Each `RandomState` has random keys, so that the empty hash is random.
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        println!("{test}: seed {seed} (again with QD_TESTS_SEED={seed})");
        Self(seed)
    }

    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end`, without `end` itself.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.number().to_le_bytes()[0]).collect()
    }
}
