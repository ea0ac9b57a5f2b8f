//! Chance from a seed: the only one there is in a simulation.

use std::cell::Cell;

use platform::{Fault, Random};

/// A stream of numbers that follows from its seed (splitmix64).
#[derive(Debug)]
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// Another stream, for a purpose of its own: what one part of a story rolls does not move the rest of it.
    pub(crate) fn of(seed: u64, purpose: &str) -> Self {
        let mixed = purpose.bytes().fold(seed, |mixed, byte| mix(mixed ^ u64::from(byte)));
        Self::new(mixed)
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        mix(self.0.get())
    }

    /// A number below `sides`; 0 if there are none.
    pub(crate) fn roll(&self, sides: u64) -> u64 {
        if sides == 0 { 0 } else { self.next() % sides }
    }

    /// A place in a list of this length.
    pub(crate) fn place(&self, length: usize) -> usize {
        self.roll(length as u64) as usize
    }

    /// Whether one thing in so many happens; never if that is 0.
    pub(crate) fn happens(&self, one_in: u64) -> bool {
        one_in > 0 && self.roll(one_in) == 0
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&self, choices: &'a [T]) -> &'a T {
        &choices[self.place(choices.len())]
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl Random for Dice {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
        Ok(())
    }
}
