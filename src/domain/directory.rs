//! What the directory of published rooms shows of a room, and where a search looks.
//!
//! Spec: Client-Server API, "Published room directory".

use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// The state that is shown, by type, all with an empty state key; the number of joined members besides.
pub const SHOWN_STATE: [&str; 8] = [
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.create",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.name",
    "m.room.topic",
];

/// How much of a room's name is shown, in bytes.
const NAME_BYTES_MAX: usize = 512;
/// How much of a room's topic is shown, in bytes: a page of the directory holds many.
const TOPIC_BYTES_MAX: usize = 4_096;
/// What is no text to read, but a name of something, is shown whole or not at all, in bytes.
const ID_BYTES_MAX: usize = 1_024;

/// One room of the directory, in the words of the spec: `PublishedRoomsChunk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRoom {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// How many members are joined.
    pub num_joined_members: u64,
    /// Whether anyone may read the room without joining it.
    pub world_readable: bool,
    /// Whether guests may join.
    pub guest_can_join: bool,
    /// The join rule, such as `public`, which is what another server means that says none.
    #[serde(default = "public")]
    pub join_rule: String,
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The plain text of the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The canonical alias, whether or not it points here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    /// The `mxc://` URI of the avatar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// The `type` of `m.room.create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// Whether users of other servers may be in it: `m.federate` of `m.room.create`. No other server is shown one of
    /// which this says no.
    #[serde(rename = "m.federate", default = "yes", skip_serializing_if = "Clone::clone")]
    pub federates: bool,
}

impl PublishedRoom {
    /// What is shown of a room with this state; `content` answers the content of one of [`SHOWN_STATE`].
    ///
    /// # Errors
    /// What `content` fails with.
    pub fn new<E>(
        room_id: OwnedRoomId,
        num_joined_members: u64,
        content: impl Fn(&str) -> Result<Option<Box<RawValue>>, E>,
    ) -> Result<Self, E> {
        // What is malformed says nothing: a member put it there, and the directory shows the rest.
        let field = |event_type: &str, name: &str| -> Result<Option<String>, E> {
            Ok(content(event_type)?.and_then(|content| text(&parsed(&content), name)))
        };
        let id = |event_type: &str, name: &str| -> Result<Option<String>, E> {
            Ok(field(event_type, name)?.filter(|id| id.len() <= ID_BYTES_MAX && !id.contains('\0')))
        };
        let is = |event_type: &str, name: &str, value: &str| -> Result<bool, E> {
            Ok(field(event_type, name)?.is_some_and(|found| found == value))
        };
        Ok(Self {
            num_joined_members,
            world_readable: is("m.room.history_visibility", "history_visibility", "world_readable")?,
            guest_can_join: is("m.room.guest_access", "guest_access", "can_join")?,
            // Without the event the rules of authorisation take a room for one by invitation.
            join_rule: id("m.room.join_rules", "join_rule")?.unwrap_or_else(|| "invite".to_owned()),
            name: field("m.room.name", "name")?.map(|name| cut(&name, NAME_BYTES_MAX)),
            topic: content("m.room.topic")?
                .and_then(|content| plain_topic(&parsed(&content)))
                .map(|topic| cut(&topic, TOPIC_BYTES_MAX)),
            canonical_alias: id("m.room.canonical_alias", "alias")?,
            avatar_url: id("m.room.avatar", "url")?,
            room_type: id("m.room.create", "type")?,
            federates: content("m.room.create")?.is_none_or(|content| federates(&content)),
            room_id,
        })
    }

    /// As the specification has it: whether the room federates is for us to know.
    #[must_use]
    pub fn as_specified(self) -> Self {
        Self { federates: true, ..self }
    }

    /// Where a search looks, folded as [`folded`] folds what is searched for.
    pub fn words(&self) -> String {
        let shown = [&self.name, &self.topic, &self.canonical_alias];
        let shown: Vec<String> = shown.into_iter().flatten().map(|text| folded(text)).collect();
        shown.join("\n")
    }
}

/// Whether the content of an `m.room.create` lets users of other servers in.
pub fn federates(create: &RawValue) -> bool {
    parsed(create).get("m.federate") != Some(&Value::Bool(false))
}

fn yes() -> bool {
    true
}

fn public() -> String {
    "public".to_owned()
}

/// A text without regard to case, and without NUL, which not every database keeps.
pub fn folded(text: &str) -> String {
    text.to_lowercase().replace('\0', "")
}

fn parsed(content: &RawValue) -> Value {
    serde_json::from_str(content.get()).unwrap_or_default()
}

fn text(content: &Value, name: &str) -> Option<String> {
    content.get(name)?.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}

/// Spec: "m.room.topic".
fn plain_topic(content: &Value) -> Option<String> {
    // «If the topic property is absent, null, or empty then the topic is unset.»
    let topic = text(content, "topic")?;
    let representations = content.get("m.topic").and_then(|topic| topic.get("m.text")).and_then(Value::as_array);
    let is_plain = |one: &&Value| one.get("mimetype").is_none_or(|mimetype| mimetype == "text/plain");
    let plain = representations.and_then(|all| all.iter().find(is_plain)).and_then(|one| text(one, "body"));
    Some(plain.unwrap_or(topic))
}

/// The beginning of a text, with an ellipsis if it is not all of it.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut cut: String = text
        .char_indices()
        .take_while(|(at, c)| at.saturating_add(c.len_utf8()) <= bytes_max)
        .map(|(_, c)| c)
        .collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use ruma_common::owned_room_id;
    use serde_json::{Value, json, value::to_raw_value};

    use super::PublishedRoom;

    fn shown(state: &Value) -> PublishedRoom {
        let content =
            |event_type: &str| Ok::<_, Infallible>(state.get(event_type).map(|content| to_raw_value(content).unwrap()));
        PublishedRoom::new(owned_room_id!("!room:a"), 3, content).unwrap()
    }

    #[test]
    fn a_room_shows_what_its_state_says() {
        let room = shown(&json!({
            "m.room.create": { "type": "m.space" },
            "m.room.name": { "name": "The Größte" },
            "m.room.topic": { "topic": "Tea", "m.topic": { "m.text": [
                { "mimetype": "text/html", "body": "<b>Tea</b>" }, { "body": "Plain Tea" },
            ] } },
            "m.room.canonical_alias": { "alias": "#Tea:a" },
            "m.room.avatar": { "url": "mxc://a/b" },
            "m.room.join_rules": { "join_rule": "knock" },
            "m.room.guest_access": { "guest_access": "can_join" },
            "m.room.history_visibility": { "history_visibility": "world_readable" },
        }));
        assert_eq!(
            serde_json::to_value(&room).unwrap(),
            json!({
                "room_id": "!room:a", "num_joined_members": 3, "world_readable": true, "guest_can_join": true,
                "join_rule": "knock", "name": "The Größte", "topic": "Plain Tea", "canonical_alias": "#Tea:a",
                "avatar_url": "mxc://a/b", "room_type": "m.space",
            })
        );
        assert_eq!(room.words(), "the größte\nplain tea\n#tea:a");
    }

    #[test]
    fn what_is_unset_malformed_or_enormous_is_not_shown() {
        let bare = json!({
            "room_id": "!room:a", "num_joined_members": 3, "world_readable": false, "guest_can_join": false,
            "join_rule": "invite",
        });
        let table = [
            json!({}),
            json!({ "m.room.name": { "name": "" }, "m.room.topic": { "topic": "" }, "m.room.avatar": {} }),
            json!({ "m.room.name": { "name": 5 }, "m.room.topic": [], "m.room.canonical_alias": { "alias": null } }),
            json!({ "m.room.create": { "type": "m\0space" } }),
            json!({ "m.room.create": { "type": "x".repeat(2_000) }, "m.room.avatar": { "url": "x".repeat(2_000) } }),
            json!({ "m.room.topic": { "topic": "", "m.topic": { "m.text": [{ "body": "Unset" }] } } }),
        ];
        for state in table {
            assert_eq!(serde_json::to_value(shown(&state)).unwrap(), bare, "{state}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let room = shown(
            &json!({ "m.room.name": { "name": "ö".repeat(400) }, "m.room.topic": { "topic": "x".repeat(5_000) } }),
        );
        assert_eq!(room.name.unwrap(), format!("{}…", "ö".repeat(256)));
        assert_eq!(room.topic.unwrap(), format!("{}…", "x".repeat(4_096)));
    }
}
