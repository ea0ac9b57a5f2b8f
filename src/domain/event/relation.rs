use ruma_common::OwnedEventId;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// What an event says it relates to. Spec: Client-Server API, "Forming relationships between events".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Relation {
    /// How: `m.thread`, `m.replace`, `m.annotation`, `m.reference`, or anything else.
    pub rel_type: String,
    /// To which event, held or not.
    pub event_id: OwnedEventId,
    /// What an annotation says.
    #[serde(default)]
    key: Option<Value>,
}

impl Relation {
    /// The relation in an event's content. One that is malformed is none, and a reply outside of threads has no type.
    pub fn of(content: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Related {
            #[serde(rename = "m.relates_to")]
            relates_to: Relation,
        }
        serde_json::from_str::<Related>(content.get()).ok().map(|related| related.relates_to)
    }

    /// The key of an annotation.
    pub fn key(&self) -> Option<&str> {
        self.key.as_ref().and_then(Value::as_str)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::Relation;

    #[test]
    fn a_relation_has_a_type_and_an_event() {
        let relation = |relates_to: Value| {
            let content = to_raw_value(&json!({ "m.relates_to": relates_to })).unwrap();
            Relation::of(&content).map(|relation| (relation.rel_type.clone(), relation.key().map(str::to_owned)))
        };
        let of = |rel_type: &str, key: Option<&str>| Some((rel_type.to_owned(), key.map(str::to_owned)));
        assert_eq!(relation(json!({ "rel_type": "m.thread", "event_id": "$a" })), of("m.thread", None));
        let annotation = json!({ "rel_type": "m.annotation", "event_id": "$a", "key": "👍" });
        assert_eq!(relation(annotation), of("m.annotation", Some("👍")));
        assert_eq!(
            relation(json!({ "rel_type": "m.annotation", "event_id": "$a", "key": 1 })),
            of("m.annotation", None)
        );
        for none in [
            json!({ "m.in_reply_to": { "event_id": "$a" } }),
            json!({ "rel_type": "m.thread" }),
            json!({ "rel_type": 1, "event_id": "$a" }),
            json!({ "rel_type": "m.thread", "event_id": ["$a"] }),
            json!("m.thread"),
        ] {
            assert_eq!(relation(none.clone()), None, "{none}");
        }
    }
}
