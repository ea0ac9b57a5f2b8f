//! What strangers send, for the fuzzer: a function for each parser of it, beside the parser, which panics where what
//! was read is not what was there. `cargo test` feeds them a little; with `--cfg fuzzing`, `scripts/fuzz` does so for
//! hours.

use crate::{federation, mail, media};

/// A parser's name, things that it takes, and itself. Each panics at what is wrong.
pub type Target = (&'static str, &'static [&'static [u8]], fn(&[u8]));

/// All of this crate.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    federation::fuzzing::TARGETS.iter().chain(media::fuzzing::targets()).chain(mail::fuzzing::TARGETS)
}

/// The text up to a line break, and what comes after it.
pub(crate) fn halves(bytes: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(bytes).ok()?;
    Some(text.split_once('\n').unwrap_or((text, "")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_parser_takes_whatever_comes() {
        for target in super::targets() {
            fuzzer::tries(&[*target], 200);
        }
    }
}
