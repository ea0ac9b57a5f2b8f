//! Whatever a stranger may send, changed at random: for every parser of it, in the tests of its crate.
//!
//! A [`Target`] is a function that takes any bytes, and panics where something is wrong: not only that a parser does,
//! but that what it read is not what was there. [`tries`] feeds each with what it likes (its seeds), changed a little,
//! again and again, from a number from which the same follows each time. For hours, and led by what code the bytes
//! reach, `scripts/fuzz` does the same with libFuzzer.

use std::thread::panicking;

/// A parser of what strangers send: its name, things that it takes, and itself.
pub type Target = (&'static str, &'static [&'static [u8]], fn(&[u8]));

/// How long what is tried may get, in bytes.
const BYTES_MAX: usize = 16 * 1024;
/// How often one thing is changed before it is tried.
const CHANGES_MAX: u64 = 6;

/// What is special to one parser or the other.
const WORDS: &[&[u8]] = &[
    b"",
    b"\0",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"-0",
    b"0",
    b"-1",
    b"1.5",
    b"1e3",
    b"1e999",
    b"9007199254740991",
    b"9007199254740992",
    b"-9007199254740992",
    b"18446744073709551616",
    b"\"\\u0000\"",
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\xff",
    b"\xc3\x28",
    "é".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{1f600}".as_bytes(),
    b"\r\n",
    b"\r\n\r\n",
    b"--",
    b"*",
    b"?",
    b"%00",
    b"%",
    b"/../",
    b"=",
    b";",
    b"@a:b",
    b"!a:b",
    b"$a",
    b"#a:b",
    b"[::1]",
    b"127.0.0.1:0",
    b"https://",
];

/// Tries each target with its seeds, and with each of them changed `rounds` times.
///
/// # Panics
/// A target does, after what it was given was said on standard error.
pub fn tries(targets: &[Target], rounds: u64) {
    for (name, seeds, takes) in targets {
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (number, seed) in seeds.iter().enumerate() {
            takes(&tried(name, seed).0);
            let mut dice = Dice(number as u64);
            for _ in 0..rounds {
                takes(&tried(name, &changed(seed, seeds, &mut dice)).0);
            }
        }
    }
}

/// What a target is given; it says what that was if the target panics.
struct Tried<'a>(Vec<u8>, &'a str);

fn tried<'a>(name: &'a str, bytes: &[u8]) -> Tried<'a> {
    Tried(bytes.to_vec(), name)
}

impl Drop for Tried<'_> {
    fn drop(&mut self) {
        if panicking() {
            eprintln!("the target `{}` was given b\"{}\"", self.1, self.0.escape_ascii());
        }
    }
}

/// Numbers that follow from the first (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 1).unwrap_or(0).checked_rem(bound).unwrap_or(0)
    }

    fn one_of<'a>(&mut self, all: &[&'a [u8]]) -> &'a [u8] {
        all.get(self.below(all.len())).copied().unwrap_or_default()
    }

    /// A part of so many bytes, by its ends.
    fn part(&mut self, length: usize) -> (usize, usize) {
        let (one, other) = (self.below(length.saturating_add(1)), self.below(length.saturating_add(1)));
        (one.min(other), one.max(other))
    }
}

fn changed(seed: &[u8], seeds: &[&[u8]], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..dice.below(CHANGES_MAX as usize).saturating_add(1) {
        change(&mut bytes, seeds, dice);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[&[u8]], dice: &mut Dice) {
    let place = dice.below(bytes.len().saturating_add(1));
    match dice.below(8) {
        0 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => bytes.truncate(place),
        2 => {
            let (start, end) = dice.part(bytes.len());
            bytes.drain(start..end.min(start.saturating_add(16)));
        }
        // A part of it twice.
        3 => {
            let (start, end) = dice.part(bytes.len());
            let again = bytes.get(start..end).unwrap_or_default().to_vec();
            bytes.splice(place..place, again);
        }
        // The beginning of this, and the end of another.
        4 => {
            let other = dice.one_of(seeds);
            bytes.truncate(place);
            bytes.extend_from_slice(other.get(dice.below(other.len())..).unwrap_or_default());
        }
        // One thing in place of another.
        5 => {
            let word = dice.one_of(WORDS);
            let end = bytes.len().min(place.saturating_add(word.len().max(1)));
            bytes.splice(place..end, word.iter().copied());
        }
        6 => {
            let word = dice.one_of(WORDS).repeat(dice.below(200));
            bytes.splice(place..place, word);
        }
        _ => {
            let word = dice.one_of(WORDS);
            bytes.splice(place..place, word.iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeSet};

    use super::{BYTES_MAX, Dice, changed};

    #[test]
    fn what_is_tried_follows_from_a_number_and_is_of_many_kinds() {
        let seeds: [&[u8]; 2] = [b"{\"a\":[1,2]}", b"xyz"];
        let of = |number| {
            let mut dice = Dice(number);
            (0..1_000).map(|_| changed(seeds[0], &seeds, &mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(of(1).iter().collect::<BTreeSet<_>>().len() > 500);
        assert!(of(1).iter().all(|bytes| bytes.len() <= BYTES_MAX));
    }

    #[test]
    fn each_seed_is_tried_as_it_is_and_changed() {
        thread_local!(static TRIED: Cell<u64> = const { Cell::new(0) });
        super::tries(&[("any", &[b"a", b"b"], |_| TRIED.set(TRIED.get() + 1))], 10);
        assert_eq!(TRIED.get(), 2 * 11);
    }
}
