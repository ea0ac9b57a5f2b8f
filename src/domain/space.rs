//! What a space says of its rooms, and what a room says of itself to who may come in.
//!
//! Spec: Client-Server API, "Spaces"; `GET /rooms/{roomId}/hierarchy`, `GET /room_summary/{roomIdOrAlias}`.

use ruma_common::{OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{RoomVersion, directory::PublishedRoom};

/// The `type` of a room that is a space.
pub const SPACE: &str = "m.space";
/// The `m.space.child` events of a space that are looked at.
pub const CHILDREN_MAX: usize = 500;
/// The longest valid `order`, in characters. Spec: "m.space.child".
const ORDER_CHARS_MAX: usize = 50;
/// The servers of a child's `via` that are looked at.
const VIA_MAX: usize = 10;

/// A room in a few words: `RoomSummary` of the specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSummary {
    /// What the directory would show of it.
    #[serde(flatten)]
    pub room: PublishedRoom,
    /// The rooms whose members may join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    /// The algorithm of its encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The version of the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_version: Option<String>,
}

/// Whether somebody may know of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accessible {
    /// They are in it, or may come in, or may read it.
    Yes,
    /// If they are in one of the rooms whose members may join.
    ToMembers,
    /// It is none of their business.
    No,
}

impl RoomSummary {
    /// As people are shown it.
    #[must_use]
    pub fn as_specified(self) -> Self {
        Self { room: self.room.as_specified(), ..self }
    }

    /// Whether the room is a space.
    pub fn is_space(&self) -> bool {
        self.room.room_type.as_deref() == Some(SPACE)
    }

    /// Whether the room may be known to somebody who has to do with it in no way: neither invited nor banned.
    pub fn accessible_to_strangers(&self) -> Accessible {
        // A rule that the room's version does not know lets nobody in; a version that is not known here may know any.
        let version = self.room_version.as_deref().and_then(|version| RoomVersion::parse(version).ok());
        let knows = |rule: fn(&RoomVersion) -> bool| version.as_ref().is_none_or(rule);
        let is_open = match self.room.join_rule.as_str() {
            "public" => true,
            "knock" => knows(|version| version.rules().authorization.knocking),
            "knock_restricted" => knows(|version| version.rules().authorization.knock_restricted_join_rule),
            _ => false,
        };
        if is_open || self.room.world_readable {
            return Accessible::Yes;
        }
        let is_restricted = self.room.join_rule == "restricted"
            && knows(|version| version.rules().authorization.restricted_join_rule)
            && !self.allowed_room_ids.is_empty();
        if is_restricted { Accessible::ToMembers } else { Accessible::No }
    }
}

/// A room of a space, as its `m.space.child` event has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// Servers through which to join it.
    pub via: Vec<OwnedServerName>,
    /// Whether the space suggests it to its members.
    pub suggested: bool,
    order: Option<String>,
    origin_server_ts: u64,
}

impl Child {
    /// The child that a stripped `m.space.child` event with a time makes; `None` for one that makes none.
    pub fn read(event: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event {
            #[serde(rename = "type")]
            event_type: String,
            state_key: OwnedRoomId,
            content: Map<String, Value>,
            #[serde(default)]
            origin_server_ts: u64,
        }
        let event: Event = serde_json::from_str(event.get()).ok().filter(|event: &Event| event.event_type == CHILD)?;
        // «When not present or invalid, the child room is not considered to be part of the space.»
        let via: Vec<&str> = event.content.get("via")?.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
        if via.is_empty() {
            return None;
        }
        let servers = via.into_iter().take(VIA_MAX).filter_map(|server| OwnedServerName::try_from(server).ok());
        let order = event.content.get("order").and_then(Value::as_str).filter(|order| is_order(order));
        Some(Self {
            room_id: event.state_key,
            via: servers.collect(),
            suggested: event.content.get("suggested").and_then(Value::as_bool).unwrap_or(false),
            order: order.map(ToOwned::to_owned),
            origin_server_ts: event.origin_server_ts,
        })
    }

    /// The children that these events make, each with its event, in the order of the specification. Spec: "Ordering of
    /// children within a space".
    pub fn sorted(events: Vec<Box<RawValue>>, suggested_only: bool) -> Vec<(Self, Box<RawValue>)> {
        let read = |event: Box<RawValue>| Self::read(&event).map(|child| (child, event));
        let mut children: Vec<_> = events.into_iter().take(CHILDREN_MAX).filter_map(read).collect();
        children.retain(|(child, _)| child.suggested || !suggested_only);
        children.sort_by(|(one, _), (other, _)| one.place().cmp(&other.place()));
        children
    }

    fn place(&self) -> impl Ord {
        (self.order.is_none(), self.order.as_deref(), self.origin_server_ts, &self.room_id)
    }
}

/// The type of the events that make children.
pub const CHILD: &str = "m.space.child";

/// Spec: «ASCII characters within the range `\x20` and `\x7E`, inclusive. Must not exceed 50 characters.»
fn is_order(order: &str) -> bool {
    !order.is_empty() && order.len() <= ORDER_CHARS_MAX && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::{Accessible, Child, RoomSummary};

    fn summary(more: &Value) -> RoomSummary {
        let mut summary = json!({
            "room_id": "!r:a", "num_joined_members": 1, "world_readable": false, "guest_can_join": false,
            "join_rule": "invite",
        });
        summary.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(summary).unwrap()
    }

    #[test]
    fn who_may_know_of_a_room() {
        let allowed = ["!club:a"];
        for (more, expected) in [
            (json!({}), Accessible::No),
            (json!({ "world_readable": true }), Accessible::Yes),
            (json!({ "join_rule": "public" }), Accessible::Yes),
            (json!({ "join_rule": "knock" }), Accessible::Yes),
            (json!({ "join_rule": "knock", "room_version": "7" }), Accessible::Yes),
            (json!({ "join_rule": "knock", "room_version": "6" }), Accessible::No),
            (json!({ "join_rule": "knock_restricted", "room_version": "10" }), Accessible::Yes),
            (json!({ "join_rule": "knock_restricted", "room_version": "9" }), Accessible::No),
            (json!({ "join_rule": "restricted" }), Accessible::No),
            (json!({ "join_rule": "restricted", "allowed_room_ids": allowed }), Accessible::ToMembers),
            (json!({ "join_rule": "restricted", "allowed_room_ids": allowed, "room_version": "7" }), Accessible::No),
            (
                json!({ "join_rule": "restricted", "allowed_room_ids": allowed, "room_version": "org.new" }),
                Accessible::ToMembers,
            ),
            (json!({ "join_rule": "private", "allowed_room_ids": allowed }), Accessible::No),
        ] {
            assert_eq!(summary(&more).accessible_to_strangers(), expected, "{more}");
        }
        assert!(summary(&json!({ "room_type": "m.space" })).is_space());
        assert!(!summary(&json!({ "room_type": "m.other" })).is_space());
    }

    #[test]
    fn children_come_in_the_order_of_the_specification() {
        let child = |room: &str, ts: u64, order: &Value| {
            let mut content = json!({ "via": ["a"] });
            if !order.is_null() {
                content["order"] = order.clone();
            }
            let event = json!({
                "type": "m.space.child", "state_key": room, "sender": "@a:a", "content": content,
                "origin_server_ts": ts,
            });
            to_raw_value(&event).unwrap()
        };
        let events = vec![
            child("!e:a", 1_640_641_000_000, &Value::Null),
            child("!d:a", 1_640_741_000_000, &Value::Null),
            child("!z:a", 1, &json!("x".repeat(51))),
            child("!y:a", 1, &json!("ö")),
            child("!x:a", 1, &json!(7)),
            child("!w:a", 1, &json!("")),
            child("!c:a", 1_640_841_000_000, &json!("first")),
            child("!f:a", 1_640_841_000_000, &json!("aaaa")),
            child("!a:a", 1_640_141_000_000, &json!("aaaa")),
            child("!b:a", 1_640_341_000_000, &json!(" ")),
        ];
        let sorted = Child::sorted(events, false);
        let ids: Vec<&str> = sorted.iter().map(|(child, _)| child.room_id.as_str()).collect();
        assert_eq!(ids, ["!b:a", "!a:a", "!f:a", "!c:a", "!w:a", "!x:a", "!y:a", "!z:a", "!e:a", "!d:a"]);
    }

    #[test]
    fn what_makes_no_child() {
        let suggested = json!({ "via": ["a"], "suggested": true });
        let of = |content: &Value| {
            let event = json!({ "type": "m.space.child", "state_key": "!r:a", "content": content });
            Child::read(&to_raw_value(&event).unwrap())
        };
        assert!(of(&suggested).unwrap().suggested);
        assert_eq!(of(&json!({ "via": ["a", "not a server"] })).unwrap().via, ["a"]);
        for content in [json!({}), json!({ "via": [] }), json!({ "via": "a" }), json!({ "via": [5] })] {
            assert_eq!(of(&content), None, "{content}");
        }
        for event in [
            json!({ "type": "m.space.parent", "state_key": "!r:a", "content": suggested }),
            json!({ "type": "m.space.child", "state_key": "no room", "content": suggested }),
            json!({ "type": "m.space.child", "content": suggested }),
            json!([]),
        ] {
            assert_eq!(Child::read(&to_raw_value(&event).unwrap()), None, "{event}");
        }
    }
}
