//! The properties of events that a client asked for, of all there are.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;

/// How deep a path is followed: of what lies deeper, the client gets more than it asked for.
const DEPTH_MAX: usize = 16;

/// A selection of properties. Spec: Client-Server API, "Filtering", `event_fields`; Appendices, "Dot-separated property
/// paths".
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventFields(BTreeMap<String, Wanted>);

#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Whole,
    Parts(EventFields),
}

impl EventFields {
    /// The selection that these paths make, such as `content.body` and `content.m\.relates_to`.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut fields = Self::default();
        for path in paths {
            let names = names(path);
            fields.add(names.get(..DEPTH_MAX).unwrap_or(&names));
        }
        fields
    }

    fn add(&mut self, names: &[String]) {
        let Some((name, rest)) = names.split_first() else { return };
        if rest.is_empty() {
            self.0.insert(name.clone(), Wanted::Whole);
        } else if let Wanted::Parts(parts) =
            self.0.entry(name.clone()).or_insert_with(|| Wanted::Parts(Self::default()))
        {
            parts.add(rest);
        }
    }

    /// What of a JSON object is selected; what is not an object has no properties.
    pub fn select(&self, object: &RawValue) -> Box<RawValue> {
        let selected = self.selected(object);
        super::client::written(&selected)
    }

    fn selected<'a>(&self, object: &'a RawValue) -> BTreeMap<&str, Cow<'a, RawValue>> {
        let properties: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(object.get()).unwrap_or_default();
        let mut selected = BTreeMap::new();
        for (name, wanted) in &self.0 {
            let Some(property) = properties.get(name.as_str()) else { continue };
            match wanted {
                Wanted::Whole => {
                    selected.insert(name.as_str(), Cow::Borrowed(*property));
                }
                // What holds nothing of what is wanted is left out.
                Wanted::Parts(parts) => {
                    let inner = parts.selected(property);
                    if !inner.is_empty() {
                        selected.insert(name.as_str(), Cow::Owned(super::client::written(&inner)));
                    }
                }
            }
        }
        selected
    }
}

/// The names along a path: a dot or a backslash in a name is escaped with a backslash, other escapes stay as they are.
fn names(path: &str) -> Vec<String> {
    let (mut names, mut name) = (Vec::new(), String::new());
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '.' => names.push(std::mem::take(&mut name)),
            '\\' => name.push(characters.next_if(|next| matches!(next, '.' | '\\')).unwrap_or('\\')),
            other => name.push(other),
        }
    }
    names.push(name);
    names
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::{DEPTH_MAX, EventFields, names};

    #[test]
    fn paths_are_read_as_the_appendices_say() {
        for (path, expected) in [
            ("type", vec!["type"]),
            ("content.body", vec!["content", "body"]),
            (r"content.m\.relates_to", vec!["content", "m.relates_to"]),
            (r"content.m\\foo", vec!["content", r"m\foo"]),
            (r"content.m\foo", vec!["content", r"m\foo"]),
            (r"a\\.b", vec![r"a\", "b"]),
            (r"a\", vec![r"a\"]),
            ("a..b", vec!["a", "", "b"]),
            ("", vec![""]),
        ] {
            assert_eq!(names(path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_asked_for_is_there_and_nothing_else() {
        let event = json!({
            "type": "m.room.message",
            "content": { "body": "hi", "m.relates_to": { "rel_type": "m.thread", "event_id": "$e" }, "n": 1.50 },
            "unsigned": { "age": 5 },
        });
        for (paths, expected) in [
            (vec!["type"], json!({ "type": "m.room.message" })),
            (vec!["content.body"], json!({ "content": { "body": "hi" } })),
            (vec!["content", "content.body"], json!({ "content": event["content"] })),
            (vec!["content.body", "content"], json!({ "content": event["content"] })),
            (
                vec![r"content.m\.relates_to.rel_type", "content.n"],
                json!({ "content": { "m.relates_to": { "rel_type": "m.thread" }, "n": 1.50 } }),
            ),
            (vec!["content.nothing", "nothing", "type.of"], json!({})),
            (vec![], json!({})),
        ] {
            let selected = EventFields::of(paths.iter().copied()).select(&to_raw_value(&event).unwrap());
            assert_eq!(serde_json::from_str::<Value>(selected.get()).unwrap(), expected, "{paths:?}");
        }
    }

    #[test]
    fn a_path_without_end_selects_more() {
        let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner, "b": 2 }));
        let fields = EventFields::of([vec!["a"; 30_000].join(".").as_str()]);
        let selected = fields.select(&to_raw_value(&deep(DEPTH_MAX + 2)).unwrap());
        let mut value: Value = serde_json::from_str(selected.get()).unwrap();
        for _ in 0..DEPTH_MAX {
            assert_eq!(value["b"], Value::Null);
            value = value["a"].take();
        }
        assert_eq!(value, deep(2));
    }
}
