//! One event as it is stored: the canonical JSON text and the fields the rules ask for, parsed in one pass.

use std::{fmt, rc::Rc};

use js_int::UInt;
use ruma_common::{EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use ruma_events::TimelineEventType;
use serde::{
    Deserialize,
    de::{self, DeserializeOwned, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::EventError;
use crate::RoomVersion;

/// One event. Cheap to clone; immutable.
#[derive(Clone)]
pub struct Pdu(Rc<Inner>);

struct Inner {
    event_id: OwnedEventId,
    json: String,
    rejected: bool,
    /// As in the event: absent from the create event of a version 12 room.
    room_id: Option<OwnedRoomId>,
    /// The room's id, whether written in the event or implied by it.
    room: OwnedRoomId,
    sender: OwnedUserId,
    event_type: TimelineEventType,
    state_key: Option<String>,
    content: Box<RawValue>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    depth: u64,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    redacts: Option<OwnedEventId>,
}

/// The fields of an event we look at, borrowing its content.
#[derive(Deserialize)]
struct Fields<'a> {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: TimelineEventType,
    state_key: Option<String>,
    #[serde(borrow)]
    content: &'a RawValue,
    origin_server_ts: UInt,
    depth: u64,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
    /// Lenient: this is a client's text, and only the event types that mean it are held to it.
    #[serde(default, deserialize_with = "id_or_nothing")]
    redacts: Option<OwnedEventId>,
}

#[derive(Deserialize)]
struct Redacts {
    #[serde(default, deserialize_with = "id_or_nothing")]
    redacts: Option<OwnedEventId>,
}

fn id_or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<OwnedEventId>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

impl Pdu {
    /// Reads a stored event. `json` is its canonical text, with `event_id` in room versions 1 and 2 only.
    /// `rejected`: whether it failed authorisation when it was received.
    ///
    /// # Errors
    /// [`EventError::Malformed`] when the text is not an event.
    pub fn from_stored(event_id: OwnedEventId, json: impl Into<String>, rejected: bool) -> Result<Self, EventError> {
        let json = json.into();
        let fields: Fields<'_> =
            serde_json::from_str(&json).map_err(|error| EventError::Malformed(error.to_string()))?;
        let room = match &fields.room_id {
            Some(room_id) => room_id.clone(),
            // Since v12: the room id is the id of the create event with `!` for `$`.
            None if fields.event_type == TimelineEventType::RoomCreate => room_of_create(&event_id)?,
            None => return Err(EventError::Malformed("missing `room_id`".to_owned())),
        };
        let content = fields.content.to_owned();
        let inner = Inner {
            event_id,
            rejected,
            room,
            room_id: fields.room_id,
            sender: fields.sender,
            event_type: fields.event_type,
            state_key: fields.state_key,
            content,
            origin_server_ts: MilliSecondsSinceUnixEpoch(fields.origin_server_ts),
            depth: fields.depth,
            prev_events: fields.prev_events.into_iter().map(|reference| reference.0).collect(),
            auth_events: fields.auth_events.into_iter().map(|reference| reference.0).collect(),
            redacts: fields.redacts,
            json,
        };
        Ok(Self(Rc::new(inner)))
    }

    /// What of the event says where it stands in the graph, without what it says: for one that was refused. It has no
    /// hashes and signatures, and is for nobody else.
    pub fn outline(&self) -> String {
        let mut outline = serde_json::json!({
            "auth_events": self.0.auth_events,
            "content": {},
            "depth": self.0.depth,
            "origin_server_ts": self.0.origin_server_ts,
            "prev_events": self.0.prev_events,
            "sender": self.0.sender,
            "type": self.0.event_type.to_string(),
        });
        if let (Some(room_id), Some(outline)) = (&self.0.room_id, outline.as_object_mut()) {
            outline.insert("room_id".to_owned(), room_id.as_str().into());
        }
        if let (Some(state_key), Some(outline)) = (&self.0.state_key, outline.as_object_mut()) {
            outline.insert("state_key".to_owned(), state_key.as_str().into());
        }
        outline.to_string()
    }

    /// The id, whether written in the event (versions 1 and 2) or computed from it.
    pub fn event_id(&self) -> &EventId {
        &self.0.event_id
    }

    /// The room, also for the create event of a version 12 room, which does not name it.
    pub fn room_id(&self) -> &RoomId {
        &self.0.room
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        &self.0.sender
    }

    /// The type.
    pub fn event_type(&self) -> &TimelineEventType {
        &self.0.event_type
    }

    /// The state key, if this is a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.0.state_key.as_deref()
    }

    /// The content as text.
    pub fn content(&self) -> &RawValue {
        &self.0.content
    }

    /// The content as a type. Each call parses.
    ///
    /// # Errors
    /// [`EventError::Malformed`] when the content is not of that type: events of others may hold anything.
    pub fn content_as<T: DeserializeOwned>(&self) -> Result<T, EventError> {
        serde_json::from_str(self.0.content.get()).map_err(|error| EventError::Malformed(error.to_string()))
    }

    /// When the sender's server says it was sent, in milliseconds since the Unix epoch.
    pub fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.0.origin_server_ts
    }

    /// One more than the deepest of `prev_events`, as claimed.
    pub fn depth(&self) -> u64 {
        self.0.depth
    }

    /// The events before it.
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.0.prev_events
    }

    /// The events said to allow it.
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.0.auth_events
    }

    /// What a redaction redacts: in `content` since v11, at the top before.
    /// `None` for any other event, and when the field is missing or no event id.
    pub fn redacts(&self, version: &RoomVersion) -> Option<OwnedEventId> {
        if self.0.event_type != TimelineEventType::RoomRedaction {
            None
        } else if version.rules().redaction.content_field_redacts {
            self.redacts_in_content()
        } else {
            self.0.redacts.clone()
        }
    }

    /// The canonical JSON text, as signed: with `event_id` in versions 1 and 2 only, without `unsigned`.
    pub fn json(&self) -> &str {
        &self.0.json
    }

    /// Whether it was refused by the authorisation rules when it was received.
    pub fn rejected(&self) -> bool {
        self.0.rejected
    }

    /// The `redacts` at the top of the event, whatever its type and version.
    pub fn redacts_at_top(&self) -> Option<&EventId> {
        self.0.redacts.as_deref()
    }

    /// The `redacts` in the content, whatever the version.
    pub(super) fn redacts_in_content(&self) -> Option<OwnedEventId> {
        self.content_as::<Redacts>().ok()?.redacts
    }
}

impl fmt::Debug for Pdu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pdu")
            .field("event_id", &self.0.event_id)
            .field("type", &self.0.event_type)
            .field("state_key", &self.0.state_key)
            .finish_non_exhaustive()
    }
}

/// Two events are the same when their ids and their texts are: a redacted copy keeps the id.
impl PartialEq for Pdu {
    fn eq(&self, other: &Self) -> bool {
        self.0.event_id == other.0.event_id && self.0.json == other.0.json
    }
}

impl Eq for Pdu {}

impl ruma_state_res::Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.0.event_id
    }

    /// As in the event: the rules of version 12 refuse a create event that has one.
    fn room_id(&self) -> Option<&RoomId> {
        self.0.room_id.as_deref()
    }

    fn sender(&self) -> &UserId {
        &self.0.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.0.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.0.event_type
    }

    fn content(&self) -> &RawValue {
        &self.0.content
    }

    fn state_key(&self) -> Option<&str> {
        self.0.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.auth_events.iter())
    }

    /// Asked by the rules of versions 1 and 2 only, where it is at the top.
    fn redacts(&self) -> Option<&OwnedEventId> {
        self.0.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.0.rejected
    }
}

fn room_of_create(event_id: &EventId) -> Result<OwnedRoomId, EventError> {
    let hash = event_id.as_str().trim_start_matches('$');
    RoomId::new_v2(hash).map_err(|error| EventError::Malformed(format!("create event without a room: {error}")))
}

/// An entry of `prev_events` or `auth_events`: `[id, {"sha256": …}]` in versions 1 and 2, `id` since 3.
struct Reference(OwnedEventId);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Reference;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event id, or an array of an event id and its hashes")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<Reference, E> {
                OwnedEventId::try_from(id).map(Reference).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Reference, A::Error> {
                let id = pair.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                while pair.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Reference(id))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
