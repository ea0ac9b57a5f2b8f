//! JSON that is kept as a client said it, and that everybody who is told it can read.
//!
//! Whoever cannot read a part of an answer reads nothing of it, asks again, and is answered the same. So what is kept
//! has no half characters (`"\ud800"`), no numbers out of range (`1e999`), and does not nest too deep, though all of
//! that is JSON.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::Refusal;

/// How deep it may nest: what tells it wraps it some more, and serde reads 128 levels.
pub const LEVELS_MAX: usize = 100;

/// Whether everybody can read it.
///
/// Refused: `BadJson`.
pub fn check(json: &[u8]) -> Result<(), Refusal> {
    check_levels(json)?;
    let read = serde_json::from_slice::<Readable>(json);
    read.map(|Readable| ()).map_err(|error| Refusal::BadJson(format!("This cannot be read: {error}")))
}

/// Whether it nests no deeper than everybody can read.
///
/// Refused: `BadJson`.
pub fn check_levels(json: &[u8]) -> Result<(), Refusal> {
    if levels(json) > LEVELS_MAX {
        return Err(Refusal::BadJson(format!("This may nest {LEVELS_MAX} levels deep")));
    }
    Ok(())
}

/// How deep JSON nests. What is none has some depth or other.
fn levels(json: &[u8]) -> usize {
    let (mut level, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                level = level.saturating_add(1);
                deepest = deepest.max(level);
            }
            b'}' | b']' if !in_string => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Any JSON, read to its last text and number, and nothing kept of it. What serde ignores, or keeps raw, it does not
/// read.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Readable;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_str<E>(self, _: &str) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Readable, A::Error> {
        while let Some(Readable) = list.next_element()? {}
        Ok(Readable)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Readable, A::Error> {
        while let Some((Readable, Readable)) = object.next_entry()? {}
        Ok(Readable)
    }
}

#[cfg(test)]
mod tests {
    use super::{LEVELS_MAX, check, levels};
    use crate::Refusal;

    #[test]
    fn only_brackets_outside_of_strings_nest() {
        for (json, expected) in
            [("1", 0), ("{}", 1), (r#"[{"a":[]},[]]"#, 3), (r#"["[[\"[[", "\\", []]"#, 2), ("]]][", 1)]
        {
            assert_eq!(levels(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let good = [
            r#"{"a":[1,-1,1.5e300,true,null,"\ud83d\ude00\u0000"],"a":{"b":{}}}"#.to_owned(),
            "18446744073709551616".to_owned(),
            nested(LEVELS_MAX),
        ];
        for json in good {
            assert_eq!(check(json.as_bytes()), Ok(()), "{json}");
        }
        let bad = [
            r#"{"a":"\ud800"}"#.to_owned(),
            r#"{"\udc00":1}"#.to_owned(),
            r#"[{"a":1e999}]"#.to_owned(),
            "{".to_owned(),
            "{} {}".to_owned(),
            nested(LEVELS_MAX + 1),
            nested(100_000),
        ];
        for json in bad {
            assert!(matches!(check(json.as_bytes()), Err(Refusal::BadJson(_))), "{json}");
        }
    }
}
