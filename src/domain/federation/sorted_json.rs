//! JSON in the canonical order and spelling, with numbers as they were written.
//!
//! A server signs what it sends in its own canonical form. Of events of old rooms in it that has numbers which canonical
//! JSON does not know, and who reads the request must not have to: each event is judged by itself.
//! Spec: Appendices, "Canonical JSON"; Room Version 6, "Canonical JSON".

use serde_json::Number;

/// How many arrays and objects may lie in each other: as many as serde_json reads.
const NESTING_MAX: usize = 127;

/// Writes JSON anew: names in order, no white space, texts spelled the one way; numbers as they are. Of a name that is
/// there twice, the later one counts. `None` for what is no JSON.
pub(crate) fn sorted(json: &[u8]) -> Option<String> {
    let mut reading = Reading { rest: std::str::from_utf8(json).ok()? };
    let value = reading.value(0)?;
    reading.skips_space();
    reading.rest.is_empty().then_some(value)
}

struct Reading<'a> {
    rest: &'a str,
}

impl Reading<'_> {
    fn skips_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Whether the next thing is this character, which is gone then.
    fn takes(&mut self, character: char) -> bool {
        self.skips_space();
        match self.rest.strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, nesting: usize) -> Option<String> {
        if nesting > NESTING_MAX {
            return None;
        }
        if self.takes('{') {
            return self.object(nesting);
        }
        if self.takes('[') {
            return self.array(nesting);
        }
        if self.rest.starts_with('"') {
            return self.text();
        }
        let end = self.rest.find([' ', '\t', '\n', '\r', ',', ']', '}']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        let is_one = matches!(word, "true" | "false" | "null") || serde_json::from_str::<Number>(word).is_ok();
        is_one.then(|| word.to_owned())
    }

    fn object(&mut self, nesting: usize) -> Option<String> {
        let mut members = std::collections::BTreeMap::new();
        if !self.takes('}') {
            loop {
                self.skips_space();
                let name: String = serde_json::from_str(&self.text()?).ok()?;
                if !self.takes(':') {
                    return None;
                }
                members.insert(name, self.value(nesting.saturating_add(1))?);
                if self.takes('}') {
                    break;
                }
                if !self.takes(',') {
                    return None;
                }
            }
        }
        let mut json = String::from("{");
        for (name, value) in members {
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&serde_json::to_string(&name).ok()?);
            json.push(':');
            json.push_str(&value);
        }
        json.push('}');
        Some(json)
    }

    fn array(&mut self, nesting: usize) -> Option<String> {
        let mut json = String::from("[");
        if !self.takes(']') {
            loop {
                json.push_str(&self.value(nesting.saturating_add(1))?);
                if self.takes(']') {
                    break;
                }
                if !self.takes(',') {
                    return None;
                }
                json.push(',');
            }
        }
        json.push(']');
        Some(json)
    }

    /// A text, spelled the canonical way.
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
        serde_json::to_string(&serde_json::from_str::<String>(text).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::CanonicalJsonValue;

    use super::sorted;

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
