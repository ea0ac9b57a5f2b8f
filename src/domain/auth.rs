//! Which state an event needs, and whether it may happen.
//!
//! The rules are ruma-state-res's; this module asks them in the right order and turns a «no» into a sentence.
//! Loading the state, and telling a rejected event from a soft-failed one, is the room's.
//! Spec: Server-Server API, "Auth events selection", "Checks performed on receipt of a PDU"; Room Versions,
//! "Authorisation rules".

use ruma_common::{EventId, UserId};
use ruma_events::{StateEventType, TimelineEventType};
use ruma_state_res::{auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Pdu, Refusal, RoomVersion, event::Draft};

/// Answers the event of a state by type and state key.
pub type State<'a> = dyn Fn(&StateEventType, &str) -> Option<Pdu> + 'a;

/// The keys of the state whose events go into an event's `auth_events`, those that exist.
///
/// Authorising needs the create event besides: up to v11 it is among these, since v12 it is implied by the room id.
///
/// # Errors
/// [`Refusal::BadJson`] when the content is malformed for the type: a membership that is none, for example.
pub fn needed(
    event_type: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    version: &RoomVersion,
) -> Result<Vec<(StateEventType, String)>, Refusal> {
    auth_types_for_event(event_type, sender, state_key, content, &version.rules().authorization)
        .map_err(Refusal::BadJson)
}

/// [`needed`] for a draft.
///
/// # Errors
/// As [`needed`].
pub fn needed_for(draft: &Draft, version: &RoomVersion) -> Result<Vec<(StateEventType, String)>, Refusal> {
    needed(&draft.event_type, &draft.sender, draft.state_key.as_deref(), &draft.content, version)
}

/// Everything there is to check for an event of our own: its `auth_events`, and the state before it.
///
/// `auth_events` are the events it names. `state` answers the state before it; in version 12 it must answer the create
/// event too, which is in no `auth_events`.
///
/// # Errors
/// [`Refusal::Forbidden`] with the rule that was broken.
pub fn check(pdu: &Pdu, version: &RoomVersion, auth_events: &[Pdu], state: &State<'_>) -> Result<(), Refusal> {
    let create = if version.room_id_is_create_event() { state(&StateEventType::RoomCreate, "") } else { None };
    check_auth_events(pdu, version, &|event_id| {
        auth_events.iter().chain(&create).find(|event| event.event_id() == event_id).cloned()
    })?;
    check_against_state(pdu, version, state)
}

/// The create event of a room: it depends on nothing else.
///
/// # Errors
/// [`Refusal::Forbidden`] with the rule that was broken, also when this is no create event.
pub fn check_create(pdu: &Pdu, version: &RoomVersion) -> Result<(), Refusal> {
    if *pdu.event_type() != TimelineEventType::RoomCreate || pdu.state_key() != Some("") {
        return Err(forbidden("a room begins with its `m.room.create` event"));
    }
    check_auth_events(pdu, version, &|_| None)
}

/// The rules that need no state: on a create event itself, and on the selection an event made of its `auth_events`.
/// `event` must find those, and since v12 the create event.
///
/// # Errors
/// [`Refusal::Forbidden`]: a received event is *rejected*.
pub fn check_auth_events(
    pdu: &Pdu,
    version: &RoomVersion,
    event: &dyn Fn(&EventId) -> Option<Pdu>,
) -> Result<(), Refusal> {
    if *pdu.event_type() == TimelineEventType::RoomCreate {
        check_room_version(pdu)?;
    }
    check_state_independent_auth_rules(&version.rules().authorization, pdu, event).map_err(forbidden)
}

/// «If `content.room_version` is present and is not a recognised version, reject.»
fn check_room_version(create: &Pdu) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<String>,
    }
    let is_recognised = match create.content_as::<Content>() {
        Ok(Content { room_version: Some(version) }) => RoomVersion::parse(&version).is_ok(),
        Ok(Content { room_version: None }) => true,
        Err(_) => false,
    };
    if is_recognised { Ok(()) } else { Err(forbidden("it has a version that is not recognised")) }
}

/// The rules on the state that the event's own `auth_events` make: the first of a received event's three checks.
/// Since v12, `auth_events` must hold the create event besides.
///
/// # Errors
/// [`Refusal::Forbidden`]: a received event is *rejected*.
pub fn check_against_auth_events(pdu: &Pdu, version: &RoomVersion, auth_events: &[Pdu]) -> Result<(), Refusal> {
    check_against_state(pdu, version, &|event_type, state_key| {
        let event_type = TimelineEventType::from(event_type.clone());
        let is_it = |event: &&Pdu| *event.event_type() == event_type && event.state_key() == Some(state_key);
        auth_events.iter().find(is_it).cloned()
    })
}

/// The rules on a state: the state before the event (on a «no», a received event is *rejected*), and the current state
/// of the room (on a «no», it is *soft-failed*).
///
/// # Errors
/// [`Refusal::Forbidden`] with the rule that was broken.
pub fn check_against_state(pdu: &Pdu, version: &RoomVersion, state: &State<'_>) -> Result<(), Refusal> {
    check_state_dependent_auth_rules(&version.rules().authorization, pdu, state).map_err(forbidden)
}

fn forbidden(rule: impl std::fmt::Display) -> Refusal {
    Refusal::Forbidden(format!("The rules of the room do not allow this: {rule}"))
}

#[cfg(test)]
mod first_rules;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod written_rules;
