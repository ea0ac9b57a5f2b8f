//! What another server shows of a room to who is invited there, or knocks: whole events, or stripped ones.
//! Spec: Client-Server API, "Stripped state"; Server-Server API, "Inviting to a room", "Knocking upon a room".

use domain::RoomVersion;
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::{RawValue, to_raw_value};

/// The most state that comes with an invitation, or with the answer to a knock: what lets a user recognise a room.
pub(super) const STRIPPED_EVENTS_MAX: usize = 64;

/// Whether an event that is shown of a room comes whole, as the create event always has to where the room's id is its
/// hash: the rest goes by it.
pub(super) fn is_whole(event: &RawValue, version: &RoomVersion) -> bool {
    #[derive(Deserialize)]
    struct Form {
        #[serde(rename = "type")]
        event_type: Option<String>,
        signatures: Option<IgnoredAny>,
    }
    let makes_room = |form: &Form| form.event_type.as_deref() == Some("m.room.create");
    serde_json::from_str::<Form>(event.get())
        .map_or(true, |form| form.signatures.is_some() || version.room_id_is_create_event() && makes_room(&form))
}

/// Whether an event says that it is the one that made its room.
pub(super) fn is_create(event: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Form {
        #[serde(rename = "type")]
        event_type: String,
    }
    serde_json::from_str::<Form>(event.get()).is_ok_and(|form| form.event_type == "m.room.create")
}

/// Whole or stripped events, as stripped ones; what is none of either is left out.
pub(super) fn stripped(events: &[Box<RawValue>]) -> Vec<Box<RawValue>> {
    #[derive(Deserialize, Serialize)]
    struct Stripped {
        content: Box<RawValue>,
        sender: OwnedUserId,
        state_key: String,
        #[serde(rename = "type")]
        event_type: String,
    }
    let read = |event: &RawValue| serde_json::from_str::<Stripped>(event.get()).ok();
    let events = events.iter().take(STRIPPED_EVENTS_MAX).filter_map(|event| read(event));
    events.filter_map(|event| to_raw_value(&event).ok()).collect()
}
