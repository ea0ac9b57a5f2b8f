//! The conditions on which a room lets in whom nobody invited. Spec: Client-Server API, "Restricted rooms".

use ruma_common::{OwnedRoomId, RoomId};
use serde::Deserialize;

use crate::{Pdu, RoomVersion};

/// The conditions of a room that are looked at: each may cost a question to another room.
pub const CONDITIONS_MAX: usize = 100;

/// The rooms of whose joined members each may join, by this `m.room.join_rules` event; `None` where the join rule, or
/// the room's version, knows no such thing. Conditions that are not understood are none: whoever comes meets none of
/// them.
pub fn allowed_rooms(join_rules: &Pdu, version: &RoomVersion) -> Option<Vec<OwnedRoomId>> {
    #[derive(Deserialize)]
    struct Content {
        join_rule: String,
        #[serde(default)]
        allow: serde_json::Value,
    }
    let content: Content = join_rules.content_as().ok()?;
    let rules = &version.rules().authorization;
    let is_restricted = match content.join_rule.as_str() {
        "restricted" => rules.restricted_join_rule,
        "knock_restricted" => rules.knock_restricted_join_rule,
        _ => false,
    };
    if !is_restricted {
        return None;
    }
    let conditions = content.allow.as_array().into_iter().flatten().take(CONDITIONS_MAX);
    let text = |condition: &serde_json::Value, field: &str| condition.get(field)?.as_str().map(ToOwned::to_owned);
    let rooms = conditions
        .filter(|condition| text(condition, "type").as_deref() == Some("m.room_membership"))
        .filter_map(|condition| RoomId::parse(text(condition, "room_id")?).ok());
    Some(rooms.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{CONDITIONS_MAX, allowed_rooms};
    use crate::fixture::{Room, state, version};

    #[test]
    fn conditions_by_version() {
        let condition = |room_id: &str| json!({ "type": "m.room_membership", "room_id": room_id });
        let allow =
            json!([condition("!a:b"), condition("nonsense"), { "type": "org.example.paid" }, 5, condition("!c:d")]);
        for (version_id, join_rule, expected) in [
            ("7", "restricted", None),
            ("8", "restricted", Some(2)),
            ("12", "restricted", Some(2)),
            ("9", "knock_restricted", None),
            ("10", "knock_restricted", Some(2)),
            ("12", "public", None),
            ("12", "knock", None),
        ] {
            let version = version(version_id);
            let mut room = Room::of_alice(version.clone(), []);
            let content = json!({ "join_rule": join_rule, "allow": allow });
            let rules = room.force(&state("alice", "m.room.join_rules", "", content));
            assert_eq!(
                allowed_rooms(&rules, &version).map(|rooms| rooms.len()),
                expected,
                "version {version_id}: {join_rule}"
            );
        }
    }

    #[test]
    fn nonsense_lets_nobody_in_and_the_list_is_bounded() {
        let version = version("12");
        let mut room = Room::of_alice(version.clone(), []);
        let mut allowed = |content| {
            let rules = room.force(&state("alice", "m.room.join_rules", "", content));
            allowed_rooms(&rules, &version).map(|rooms| rooms.len())
        };
        assert_eq!(allowed(json!({ "join_rule": "restricted" })), Some(0));
        assert_eq!(allowed(json!({ "join_rule": "restricted", "allow": "all" })), Some(0));
        assert_eq!(allowed(json!({ "join_rule": ["restricted"], "allow": [] })), None);
        let many = vec![json!({ "type": "m.room_membership", "room_id": "!a:b" }); CONDITIONS_MAX + 1];
        assert_eq!(allowed(json!({ "join_rule": "restricted", "allow": many })), Some(CONDITIONS_MAX));
    }
}
