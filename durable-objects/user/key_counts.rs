//! How many keys a device has left to be given out: told with every answer of `/sync`.
//!
//! A device that takes an absent count for none would upload more, so that an answer in which nothing happened has the
//! counts, too. Nobody is asked for those: they stand in the sync token, and whatever changes a count is news.
//! Spec: "End-to-End Encryption", "Extensions to /sync".

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// The algorithm that everybody uses: it has the short form in tokens.
const USUAL: &str = "signed_curve25519";

/// Keys that a device has left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCounts {
    /// How many one-time keys, by algorithm; none of an algorithm that is not here.
    #[serde(default)]
    pub one_time: BTreeMap<String, u64>,
    /// The algorithms of which the device has a fallback key that was not given out yet.
    #[serde(default)]
    pub unused_fallback: Vec<String>,
}

impl KeyCounts {
    /// How many one-time keys, by algorithm, as clients are told: the algorithm that everybody uses stands there
    /// without keys, too. What is left out is 0 by the specification, but clients take it for what they knew, and
    /// upload none.
    pub fn told(mut self) -> BTreeMap<String, u64> {
        self.one_time.entry(USUAL.to_owned()).or_default();
        self.one_time
    }

    pub(super) fn is_empty(&self) -> bool {
        self.one_time.is_empty() && self.unused_fallback.is_empty()
    }
}

/// As they stand in a token: `_k<count>` and `_f` for the usual algorithm, `_K<name in hex>.<count>` and
/// `_F<name in hex>` for others.
impl fmt::Display for KeyCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "_k{}", self.one_time.get(USUAL).copied().unwrap_or(0))?;
        for (algorithm, count) in self.one_time.iter().filter(|(algorithm, _)| *algorithm != USUAL) {
            write!(f, "_K{}.{count}", hex(algorithm))?;
        }
        self.unused_fallback.iter().try_for_each(|algorithm| {
            if algorithm == USUAL { write!(f, "_f") } else { write!(f, "_F{}", hex(algorithm)) }
        })
    }
}

/// Takes over one part of a token. `None`: it is not about keys; `Some(None)`: it is no such part.
pub(super) fn read(part: &str, counts: &mut Option<KeyCounts>) -> Option<Option<()>> {
    let kind = part.chars().next().filter(|kind| matches!(kind, 'k' | 'K' | 'f' | 'F'))?;
    let rest = part.get(1..).unwrap_or_default();
    let counts = counts.get_or_insert_default();
    Some(match kind {
        'k' => super::sync_token::number(rest).map(|count| {
            if count > 0 {
                counts.one_time.insert(USUAL.to_owned(), count);
            }
        }),
        'K' => rest.split_once('.').and_then(|(name, count)| {
            counts.one_time.insert(of_hex(name)?, super::sync_token::number(count)?);
            Some(())
        }),
        'f' => rest.is_empty().then(|| counts.unused_fallback.push(USUAL.to_owned())),
        _ => of_hex(rest).map(|name| counts.unused_fallback.push(name)),
    })
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn of_hex(digits: &str) -> Option<String> {
    let digits: Vec<u8> = digits.chars().map(|digit| digit.to_digit(16)?.try_into().ok()).collect::<Option<_>>()?;
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(high << 4 | low),
        _ => None,
    });
    String::from_utf8(bytes.collect::<Option<_>>()?).ok()
}
