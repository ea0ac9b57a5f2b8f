//! Chance that can be had again: `MYELIN_TEST_SEED` repeats a run.

use std::{cell::Cell, time::SystemTime};

/// A xorshift generator that printed its seed.
pub struct Seed(Cell<u64>);

impl Seed {
    pub fn from_environment() -> Self {
        let now_ns = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let seed = std::env::var("MYELIN_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now_ns);
        println!("MYELIN_TEST_SEED={seed}");
        Self(Cell::new(seed.max(1)))
    }

    /// A number below `end`.
    pub fn below(&self, end: usize) -> usize {
        let mut state = self.0.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.set(state);
        (state >> 11) as usize % end
    }

    pub fn one_of<'a, T>(&self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }
}
