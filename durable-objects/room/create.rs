use domain::{Pdu, Refusal, RoomVersion, auth, event::Draft};
use platform::{ActorKind, Fault, Tx};
use ruma_common::{OwnedEventId, OwnedUserId};
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Room, directory, store, transactions};
use crate::{Call, Cx, Error};

/// Founds the room: its create event, then everything else of its first minute, or nothing at all.
///
/// The create event comes signed, because since v12 it makes the room's id. Repeated with the same call id it answers
/// as the first time; with another one it is refused with `RoomInUse`.
/// Spec: "Creation".
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    pub call_id: String,
    pub version: String,
    pub creator: OwnedUserId,
    pub create_event: FirstEvent,
    /// The creator's join and what follows, in order.
    pub events: Vec<NewEvent>,
    /// Whether the directory shows the room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub published: bool,
}

/// A create event, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct FirstEvent {
    pub event_id: OwnedEventId,
    /// Canonical JSON with hashes and signatures.
    pub json: String,
}

/// A state event to be made.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewEvent {
    #[serde(rename = "type")]
    pub event_type: TimelineEventType,
    pub state_key: String,
    pub content: Box<RawValue>,
}

/// The room stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct Created {}

impl Call for Create {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "create";
    type Reply = Created;
}

impl Room {
    pub(super) fn create(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: Create) -> Result<Created, Error> {
        let founded_by = transactions::of_call(&call.call_id);
        match store::meta::text(&**tx, "founded_by")? {
            Some(name) if name == founded_by => return Ok(Created {}),
            Some(_) => return Err(Refusal::RoomInUse("This room exists already".to_owned()).into()),
            None => {}
        }
        let version = RoomVersion::parse(&call.version)?;
        store::meta::set(tx, "version", version.as_str().into())?;
        store::meta::set(tx, "founded_by", founded_by.into())?;
        let FirstEvent { event_id, json } = call.create_event;
        let create = Pdu::from_stored(event_id, json, false).map_err(|error| Fault::new(error.to_string()))?;
        auth::check_create(&create, &version)?;
        if create.room_id().as_str() != cx.id {
            return Err(Fault::new("a create event of another room").into());
        }
        self.insert(tx, cx, &create, None)?;
        for NewEvent { event_type, state_key, content } in call.events {
            let draft =
                Draft { event_type, content, state_key: Some(state_key), sender: call.creator.clone(), redacts: None };
            self.append(tx, cx, &draft, None).map_err(inconsistent)?;
        }
        if call.published {
            directory::publish(tx, cx, true)?;
        }
        Ok(Created {})
    }
}

/// What the rules forbid the creator makes no room. Spec: `M_INVALID_ROOM_STATE`.
fn inconsistent(error: Error) -> Error {
    match error {
        Error::Refused(Refusal::Forbidden(rule)) => Refusal::InvalidRoomState(rule).into(),
        other => other,
    }
}
