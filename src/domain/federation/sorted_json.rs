//! JSON in the canonical order and spelling, with numbers as they were written.
//!
//! A server signs what it sends in its own canonical form. Of events of old rooms in it that has numbers which
//! canonical JSON does not know, and anything in it may nest deeper than others read; who reads the request must not
//! have to: each event is judged by itself. So this goes down into nothing by calling itself, and takes time and space
//! in proportion to what it is given.
//! Spec: Appendices, "Canonical JSON"; Room Version 6, "Canonical JSON".

use std::{collections::BTreeMap, ops::Range};

use serde_json::Number;

/// How many arrays and objects may lie in each other: as many as any server is known to write.
const NESTING_MAX: usize = 10_000;

/// Writes JSON anew: names in order, no white space, texts spelled the one way; numbers as they are. Of a name that is
/// there twice, the later one counts. `None` for what is no JSON.
pub(crate) fn sorted(json: &[u8]) -> Option<String> {
    let rest = std::str::from_utf8(json).ok()?;
    let mut reading =
        Reading { rest, written: String::new(), open: Vec::new(), unordered: Vec::new(), members: Vec::new() };
    reading.all()?;
    reading.ordered()
}

/// An array or object that is not over yet.
enum Open {
    Array,
    Object {
        /// Where it is written.
        start: usize,
        /// Its names, and where each member is written.
        members: Vec<(String, usize)>,
    },
}

/// An object whose names came in another order.
struct Unordered {
    /// Where it is written.
    whole: Range<usize>,
    /// Which of all members are its own.
    members: Range<usize>,
}

struct Reading<'a> {
    rest: &'a str,
    /// What was read, with its names in the order in which they came.
    written: String,
    open: Vec<Open>,
    unordered: Vec<Unordered>,
    /// Where the members of these objects are written, those of each in their order.
    members: Vec<Range<usize>>,
}

impl Reading<'_> {
    fn skips_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Whether the next thing is this character, which is written then.
    fn takes(&mut self, character: char) -> bool {
        self.skips_space();
        match self.rest.strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                self.written.push(character);
                true
            }
            None => false,
        }
    }

    /// One value, and nothing behind it.
    fn all(&mut self) -> Option<()> {
        loop {
            if self.opens()? {
                continue;
            }
            if !self.goes_on()? {
                break;
            }
        }
        self.skips_space();
        self.rest.is_empty().then_some(())
    }

    /// The next value, or its beginning: whether there is something in it, which comes next.
    fn opens(&mut self) -> Option<bool> {
        self.skips_space();
        let start = self.written.len();
        if self.takes('{') {
            if self.takes('}') {
                return Some(false);
            }
            self.lies_deeper(Open::Object { start, members: Vec::new() })?;
            self.name()?;
            return Some(true);
        }
        if self.takes('[') {
            if self.takes(']') {
                return Some(false);
            }
            self.lies_deeper(Open::Array)?;
            return Some(true);
        }
        if self.rest.starts_with('"') {
            self.text()?;
            return Some(false);
        }
        let end = self.rest.find([' ', '\t', '\n', '\r', ',', ']', '}']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        self.written.push_str(word);
        let is_one = matches!(word, "true" | "false" | "null") || serde_json::from_str::<Number>(word).is_ok();
        is_one.then_some(false)
    }

    fn lies_deeper(&mut self, open: Open) -> Option<()> {
        self.open.push(open);
        (self.open.len() <= NESTING_MAX).then_some(())
    }

    /// After a value: ends what it was the last of. Whether another value comes.
    fn goes_on(&mut self) -> Option<bool> {
        while let Some(open) = self.open.pop() {
            if self.takes(',') {
                let is_object = matches!(open, Open::Object { .. });
                self.open.push(open);
                if is_object {
                    self.name()?;
                }
                return Some(true);
            }
            match open {
                Open::Array => self.takes(']').then_some(())?,
                Open::Object { start, members } => {
                    self.takes('}').then_some(())?;
                    self.closes(start, members);
                }
            }
        }
        Some(false)
    }

    /// A member's name. Its value comes next.
    fn name(&mut self) -> Option<()> {
        self.skips_space();
        let start = self.written.len();
        let name = self.text()?;
        if !self.takes(':') {
            return None;
        }
        match self.open.last_mut()? {
            Open::Object { members, .. } => members.push((name, start)),
            Open::Array => return None,
        }
        Some(())
    }

    fn closes(&mut self, start: usize, members: Vec<(String, usize)>) {
        if members.is_sorted_by(|(before, _), (after, _)| before < after) {
            return;
        }
        let end = self.written.len();
        // Before the comma that follows, or the brace.
        let ends = members.iter().skip(1).map(|(_, next)| *next).chain([end]).map(|next| next.saturating_sub(1));
        let ends: Vec<usize> = ends.collect();
        let by_name: BTreeMap<String, Range<usize>> =
            members.into_iter().zip(ends).map(|((name, start), end)| (name, start..end)).collect();
        let first = self.members.len();
        self.members.extend(by_name.into_values());
        self.unordered.push(Unordered { whole: start..end, members: first..self.members.len() });
    }

    /// A text, written the canonical way; answers what it says.
    fn text(&mut self) -> Option<String> {
        let mut is_escaped = false;
        let inside = self.rest.strip_prefix('"')?;
        let length = inside.bytes().position(|byte| {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        })?;
        let (text, rest) = self.rest.split_at_checked(length.saturating_add(2))?;
        self.rest = rest;
        let text: String = serde_json::from_str(text).ok()?;
        self.written.push_str(&serde_json::to_string(&text).ok()?);
        Some(text)
    }

    /// What was written, with the members of all objects in their order.
    fn ordered(mut self) -> Option<String> {
        if self.unordered.is_empty() {
            return Some(self.written);
        }
        self.unordered.sort_unstable_by_key(|object| object.whole.start);
        let mut json = String::with_capacity(self.written.len());
        // What comes first is last.
        let mut left = vec![Left::Text(0..self.written.len())];
        while let Some(next) = left.pop() {
            let text = match next {
                Left::Text(text) => text,
                Left::Member(text) => {
                    if !json.ends_with('{') {
                        json.push(',');
                    }
                    text
                }
            };
            let first = self.unordered.partition_point(|object| object.whole.start < text.start);
            match self.unordered.get(first).filter(|object| object.whole.start < text.end) {
                None => json.push_str(self.written.get(text)?),
                Some(Unordered { whole, members }) => {
                    json.push_str(self.written.get(text.start..whole.start)?);
                    json.push('{');
                    left.push(Left::Text(whole.end.checked_sub(1)?..text.end));
                    left.extend(self.members.get(members.clone())?.iter().rev().cloned().map(Left::Member));
                }
            }
        }
        Some(json)
    }
}

/// What is yet to be copied.
enum Left {
    Text(Range<usize>),
    /// A member of an object.
    Member(Range<usize>),
}

#[cfg(test)]
mod tests {
    use ruma_common::CanonicalJsonValue;

    use super::{NESTING_MAX, sorted};

    #[test]
    fn canonical_json_comes_out_as_such() {
        for json in [
            r#"{"b":1,"a":[true,false,null,-7,"x"],"":{}}"#,
            " { \"é\" : \"\\u00e9\\n\\\"\\\\\" ,\t\"e\" : [ ] , \"a\\u0000\" : [ { } , [ 1 ,\n2 ] ] } ",
            r#"{"a":1,"a":2}"#,
            r#""\ud83d\ude00/\/""#,
            "[]",
            "0",
        ] {
            let canonical: CanonicalJsonValue = serde_json::from_str(json).unwrap();
            assert_eq!(sorted(json.as_bytes()), Some(canonical.to_string()), "{json}");
        }
    }

    /// JSON of any form, in any spelling; of numbers, those that canonical JSON knows.
    fn writes(json: &mut String, dice: &mut impl FnMut(u64) -> u64, levels: u64) {
        const SPACES: [&str; 4] = ["", "", " ", "\n\t"];
        const TEXTS: [&str; 8] =
            ["\"\"", "\"a\"", "\"b\"", "\"\\u0061\"", "\"\\\"{\"", "\"é,\"", "\"\\ud83d\\ude00\"", "\"\\\\\""];
        let mut space = SPACES[dice(4) as usize];
        json.push_str(space);
        match dice(if levels == 0 { 3 } else { 7 }) {
            0 => json.push_str(["true", "false", "null"][dice(3) as usize]),
            1 => json.push_str(&dice(1_000).to_string()),
            2 => json.push_str(TEXTS[dice(8) as usize]),
            kind @ (3 | 4) => {
                json.push('[');
                for number in 0..dice(kind) {
                    json.push_str(if number > 0 { "," } else { "" });
                    writes(json, dice, levels - 1);
                }
                json.push(']');
            }
            kind => {
                json.push('{');
                for number in 0..dice(kind) {
                    space = SPACES[dice(4) as usize];
                    let (comma, name) = (if number > 0 { "," } else { "" }, TEXTS[dice(8) as usize]);
                    json.push_str(&format!("{comma}{space}{name}{space}:"));
                    writes(json, dice, levels - 1);
                }
                json.push('}');
            }
        }
        json.push_str(space);
    }

    #[test]
    fn whatever_is_canonical_json_comes_out_as_such() {
        let mut state = 1_u64;
        let mut dice = |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        let mut longest = 0;
        for _ in 0..2_000 {
            let mut json = String::new();
            writes(&mut json, &mut dice, 9);
            longest = longest.max(json.len());
            let canonical: CanonicalJsonValue = serde_json::from_str(&json).unwrap();
            assert_eq!(sorted(json.as_bytes()), Some(canonical.to_string()), "{json}");
        }
        assert!(longest > 1_000, "{longest}");
    }

    #[test]
    fn what_is_deeper_than_others_read_is_put_in_order_all_the_same() {
        let nested = |levels: usize| {
            let json = format!("{}1{}", r#"{"b": 2,"a":"#.repeat(levels), "}".repeat(levels));
            let expected = format!("{}1{}", r#"{"a":"#.repeat(levels), r#","b":2}"#.repeat(levels));
            (sorted(json.as_bytes()), Some(expected))
        };
        for levels in [1, 127, 128, NESTING_MAX] {
            let (outcome, expected) = nested(levels);
            assert!(outcome == expected, "{levels} levels");
        }
        assert_eq!(nested(NESTING_MAX + 1).0, None);
        let lists = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(sorted(lists(NESTING_MAX).as_bytes()), Some(lists(NESTING_MAX)));
        assert_eq!(sorted(lists(NESTING_MAX + 1).as_bytes()), None);
    }

    #[test]
    fn numbers_stay_as_they_are() {
        let json = r#"{"c":1e+16,"b":[0.50,-0.0,1E5],"a":123456789012345678901234567890}"#;
        let expected = r#"{"a":123456789012345678901234567890,"b":[0.50,-0.0,1E5],"c":1e+16}"#;
        assert_eq!(sorted(json.as_bytes()).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_no_json_has_no_form() {
        let deep = "[".repeat(1_000_000);
        let deep_enough = format!("{}{}", "[".repeat(128), "]".repeat(128));
        assert!(sorted(deep_enough.as_bytes()).is_some());
        for json in [
            "",
            "{",
            "}",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "\"a",
            "\"\\",
            "1 2",
            "01",
            "+1",
            ".5",
            "NaN",
            "tru",
            "[1}",
            "{\"a\":1,}",
            "\"\n\"",
            "\"\\x\"",
            &deep,
        ] {
            assert_eq!(sorted(json.as_bytes()), None, "{json:.20}");
        }
        assert_eq!(sorted(&[b'"', 0xff, b'"']), None);
    }
}
