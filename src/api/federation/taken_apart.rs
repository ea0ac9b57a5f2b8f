//! JSON objects that are too large to be in memory, taken apart as they arrive.

use serde_json::value::RawValue;

/// Takes an object apart: the elements of some of its lists come one by one, some of its values whole, and what else
/// there is goes by. What is held meanwhile is one of these.
pub(super) struct TakenApart {
    lists: &'static [&'static str],
    values: &'static [&'static str],
    /// What is larger than that, in bytes, goes by as well.
    piece_bytes_max: usize,
    place: Place,
    key: Vec<u8>,
    piece: Vec<u8>,
}

/// A part of the object.
#[derive(Debug)]
pub(super) struct Piece {
    /// The name of the list or value.
    pub of: &'static str,
    pub json: Box<RawValue>,
}

/// Where in the object the reading is.
#[derive(Clone, Copy)]
enum Place {
    Start,
    /// Before a key, or the end.
    Members,
    Key {
        is_escaped: bool,
    },
    Colon,
    /// Before a value.
    Value,
    /// Before an element of a list, or its end.
    Elements(&'static str),
    Inside(Inside),
    End,
}

/// A value on its way.
#[derive(Clone, Copy)]
struct Inside {
    /// The name of what it is part of; `None`: it goes by.
    of: Option<&'static str>,
    is_element: bool,
    depth: u32,
    is_text: bool,
    is_escaped: bool,
}

impl TakenApart {
    pub(super) fn new(lists: &'static [&'static str], values: &'static [&'static str], piece_bytes_max: usize) -> Self {
        Self { lists, values, piece_bytes_max, place: Place::Start, key: Vec::new(), piece: Vec::new() }
    }

    /// Reads on. Answers the pieces that are complete by then.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        for byte in bytes {
            pieces.extend(self.step(*byte)?);
        }
        Ok(pieces)
    }

    /// Whether the object ended where the bytes did.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.place, Place::End)
    }

    fn step(&mut self, byte: u8) -> Result<Option<Piece>, String> {
        let is_space = byte.is_ascii_whitespace();
        self.place = match (self.place, byte) {
            (Place::Inside(inside), _) => return self.inside(inside, byte),
            (Place::Key { is_escaped: true }, _) => self.in_key(byte, false),
            (Place::Key { .. }, b'\\') => self.in_key(byte, true),
            (Place::Key { .. }, b'"') => Place::Colon,
            (Place::Key { .. }, _) => self.in_key(byte, false),
            (place, _) if is_space => place,
            (Place::Start, b'{') => Place::Members,
            (Place::Members, b',') => Place::Members,
            (Place::Members, b'}') => Place::End,
            (Place::Members, b'"') => {
                self.key.clear();
                Place::Key { is_escaped: false }
            }
            (Place::Colon, b':') => Place::Value,
            (Place::Value, _) => return self.begins(byte),
            (Place::Elements(list), b',') => Place::Elements(list),
            (Place::Elements(_), b']') => Place::Members,
            (Place::Elements(list), _) => return self.opens(byte, Some(list), true),
            _ => return Err(format!("an unexpected {:?}", char::from(byte))),
        };
        Ok(None)
    }

    fn in_key(&mut self, byte: u8, is_escaped: bool) -> Place {
        // Longer keys are none of those that are wanted.
        if self.key.len() < self.piece_bytes_max {
            self.key.push(byte);
        }
        Place::Key { is_escaped }
    }

    fn begins(&mut self, byte: u8) -> Result<Option<Piece>, String> {
        let named = |names: &[&'static str]| names.iter().copied().find(|name| name.as_bytes() == self.key);
        if let (Some(list), b'[') = (named(self.lists), byte) {
            self.place = Place::Elements(list);
            return Ok(None);
        }
        let of = named(self.values);
        self.opens(byte, of, false)
    }

    fn opens(&mut self, byte: u8, of: Option<&'static str>, is_element: bool) -> Result<Option<Piece>, String> {
        self.piece.clear();
        self.inside(Inside { of, is_element, depth: 0, is_text: false, is_escaped: false }, byte)
    }

    fn inside(&mut self, mut inside: Inside, byte: u8) -> Result<Option<Piece>, String> {
        let mut is_last = false;
        if inside.is_text {
            match byte {
                _ if inside.is_escaped => inside.is_escaped = false,
                b'\\' => inside.is_escaped = true,
                b'"' => {
                    inside.is_text = false;
                    is_last = inside.depth == 0;
                }
                _ => {}
            }
        } else {
            match byte {
                b'"' => inside.is_text = true,
                b'{' | b'[' => inside.depth = inside.depth.saturating_add(1),
                // A number, or a word: it ends before what ends it.
                b'}' | b']' | b',' if inside.depth == 0 => {
                    let piece = self.complete(inside)?;
                    self.step(byte)?;
                    return Ok(piece);
                }
                b'}' | b']' => {
                    inside.depth = inside.depth.saturating_sub(1);
                    is_last = inside.depth == 0;
                }
                _ => {}
            }
        }
        if inside.of.is_some() {
            self.piece.push(byte);
            if self.piece.len() > self.piece_bytes_max {
                self.piece.clear();
                inside.of = None;
            }
        }
        if is_last {
            return self.complete(inside);
        }
        self.place = Place::Inside(inside);
        Ok(None)
    }

    fn complete(&mut self, inside: Inside) -> Result<Option<Piece>, String> {
        let list = self.lists.iter().copied().find(|name| name.as_bytes() == self.key);
        self.place = match list {
            Some(list) if inside.is_element => Place::Elements(list),
            _ => Place::Members,
        };
        let Some(of) = inside.of else { return Ok(None) };
        let json = serde_json::from_slice(&self.piece).map_err(|error| error.to_string())?;
        Ok(Some(Piece { of, json }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::TakenApart;

    fn taken_apart(text: &str, step: usize) -> Result<(Vec<(String, Value)>, bool), String> {
        let mut object = TakenApart::new(&["state", "auth_chain"], &["event"], 40);
        let mut all = Vec::new();
        for bytes in text.as_bytes().chunks(step) {
            let pieces = object.read(bytes)?;
            all.extend(
                pieces.into_iter().map(|piece| (piece.of.to_owned(), serde_json::from_str(piece.json.get()).unwrap())),
            );
        }
        Ok((all, object.is_whole()))
    }

    #[test]
    fn lists_come_piece_by_piece_wherever_the_bytes_are_cut() {
        let text = r#" { "origin":"a\"]}" , "state" : [ {"a":[1,{"b":"}\\"}]} , 2,"x]", null ],"event":{"c":"é"},
            "members_omitted":false,"servers":["a","b"],"auth_chain":[],"n":-1.5e3} "#;
        let expected = [
            ("state", json!({ "a": [1, { "b": "}\\" }] })),
            ("state", json!(2)),
            ("state", json!("x]")),
            ("state", json!(null)),
            ("event", json!({ "c": "é" })),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value)).to_vec();
        for step in 1..text.len() {
            assert_eq!(taken_apart(text, step), Ok((expected.clone(), true)), "{step}");
        }
    }

    #[test]
    fn what_is_too_large_goes_by() {
        let large = "x".repeat(100);
        let text = json!({ "auth_chain": [large, 1, { "y": large }, 2], "event": large, large: [], "state": [3] });
        let (pieces, is_whole) = taken_apart(&text.to_string(), 7).unwrap();
        let values: Vec<_> = pieces.into_iter().map(|(_, value)| value).collect();
        assert_eq!((values, is_whole), (vec![json!(1), json!(2), json!(3)], true));
    }

    #[test]
    fn what_is_no_object_or_has_no_end_is_told() {
        for text in ["[]", "{]", "{\"state\" 1}", "{} {}", "{\"state\":[nonsense]}", "{\"event\":{\"a\"}}"] {
            assert!(taken_apart(text, 3).is_err(), "{text}");
        }
        for text in ["", "{", "{\"state\":[1", "{\"state\":[{}]", "{\"event\":\"a"] {
            assert!(!taken_apart(text, 2).unwrap().1, "{text}");
        }
        let unlisted = taken_apart(r#"{"state":{"a":1},"auth_chain":"x"}"#, 1).unwrap();
        assert_eq!(unlisted, (vec![], true), "a list that is none has no elements");
    }
}
