//! From what a client wants to say to a signed event.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use js_int::UInt;
use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedUserId, RoomId, ServerName,
    canonical_json::redact_in_place, room_version_rules::EventsReferenceFormatVersion,
};
use ruma_events::TimelineEventType;
use ruma_signatures::hash_and_sign_event;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    EventError, FIELD_BYTES_MAX, NESTING_MAX, PDU_BYTES_MAX, Pdu, id_of, is_nested_too_deep, is_nested_within, text_of,
};
use crate::{Identity, Refusal, RoomVersion};

/// What a sender wants to say, before it has a place in a room.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The type of the event.
    pub event_type: TimelineEventType,
    /// The content: a JSON object.
    pub content: Box<RawValue>,
    /// For a state event, its key.
    pub state_key: Option<String>,
    /// A user of ours: their server is the one that signs.
    pub sender: OwnedUserId,
    /// What a redaction redacts; [`build`] writes it where the room's version wants it.
    pub redacts: Option<OwnedEventId>,
}

/// An event named by another. [`super::reference`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRef {
    /// Its id.
    pub id: OwnedEventId,
    /// Its reference hash in unpadded base64: in room versions 1 and 2 only.
    pub sha256: Option<String>,
}

/// Where in a room, and when.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// `None` for the create event of a version 12 room, which makes it.
    pub room_id: Option<&'a RoomId>,
    /// The forward extremities: at most 20.
    pub prev_events: &'a [EventRef],
    /// The selection of [`crate::auth::needed`]: at most 10.
    pub auth_events: &'a [EventRef],
    /// One more than the deepest of `prev_events`.
    pub depth: u64,
    /// Milliseconds since the Unix epoch.
    pub origin_server_ts: u64,
}

/// Builds, hashes and signs an event. Whether it may happen is [`crate::auth`]'s to say, of the result.
/// `event_id_random` names the event in room versions 1 and 2, and is not used since 3.
///
/// Canonical JSON is strict in every version: versions 1 to 5 would let floats through, and we never send them.
///
/// # Errors
/// [`Refusal::BadJson`] when the content is not an object or not canonical JSON (a float, an integer beyond
/// ±(2^53 − 1)), or nested deeper than [`NESTING_MAX`];
/// [`Refusal::TooLarge`] over one of the size limits; [`Refusal::Unknown`] for a place that cannot be.
pub fn build(
    draft: &Draft,
    place: &Place<'_>,
    version: &RoomVersion,
    identity: &Identity,
    event_id_random: [u8; 18],
) -> Result<Pdu, Refusal> {
    let object = unsigned_event(draft, place, version)?;
    signed(object, version, identity, event_id_random)
}

fn signed(
    mut object: CanonicalJsonObject,
    version: &RoomVersion,
    identity: &Identity,
    event_id_random: [u8; 18],
) -> Result<Pdu, Refusal> {
    if version.rules().event_format.require_event_id {
        let event_id = format!("${}:{}", URL_SAFE_NO_PAD.encode(event_id_random), identity.server_name());
        object.insert("event_id".to_owned(), event_id.into());
    }
    for field in ["type", "state_key", "sender", "room_id", "event_id"] {
        let bytes = object.get(field).and_then(CanonicalJsonValue::as_str).map_or(0, str::len);
        if bytes > FIELD_BYTES_MAX {
            return Err(Refusal::TooLarge(format!(
                "`{field}` has {bytes} bytes, at most {FIELD_BYTES_MAX} are allowed"
            )));
        }
    }
    hash_and_sign_event(identity.server_name().as_str(), identity.key_pair(), &mut object, &version.rules().redaction)
        .map_err(|error| match error {
            ruma_signatures::JsonError::PduTooLarge => too_large("more than 65535"),
            error => Refusal::BadJson(error.to_string()),
        })?;
    let json = text_of(&object)?;
    if json.len() > PDU_BYTES_MAX {
        return Err(too_large(json.len()));
    }
    Ok(Pdu::from_stored(id_of(&object, version)?, json, false)?)
}

fn unsigned_event(draft: &Draft, place: &Place<'_>, version: &RoomVersion) -> Result<CanonicalJsonObject, Refusal> {
    // Refuse what is hopeless before building a tree of it. A character escaped as \u00xx takes six bytes for one.
    if draft.content.get().len() > PDU_BYTES_MAX * 6 {
        return Err(too_large(draft.content.get().len()));
    }
    let mut content: CanonicalJsonObject = serde_json::from_str(draft.content.get()).map_err(|error| {
        Refusal::BadJson(format!("The content of an event is an object of canonical JSON: {error}"))
    })?;
    if !is_nested_within(content.values(), NESTING_MAX - 1) {
        return Err(Refusal::BadJson(format!("The content is nested deeper than {NESTING_MAX} levels")));
    }
    let mut object = CanonicalJsonObject::new();
    if let Some(redacts) = &draft.redacts {
        // Since v11: `redacts` is in the content.
        let holder = if version.rules().redaction.content_field_redacts { &mut content } else { &mut object };
        holder.insert("redacts".to_owned(), redacts.as_str().into());
    }
    let format = version.rules().events_reference_format;
    object.insert("auth_events".to_owned(), references(place.auth_events, format)?);
    object.insert("content".to_owned(), content.into());
    object.insert("depth".to_owned(), integer(place.depth)?);
    object.insert("origin_server_ts".to_owned(), integer(place.origin_server_ts)?);
    object.insert("prev_events".to_owned(), references(place.prev_events, format)?);
    if let Some(room_id) = place.room_id {
        object.insert("room_id".to_owned(), room_id.as_str().into());
    }
    object.insert("sender".to_owned(), draft.sender.as_str().into());
    if let Some(state_key) = &draft.state_key {
        object.insert("state_key".to_owned(), state_key.as_str().into());
    }
    object.insert("type".to_owned(), draft.event_type.to_string().into());
    Ok(object)
}

fn references(events: &[EventRef], format: EventsReferenceFormatVersion) -> Result<CanonicalJsonValue, Refusal> {
    let one = |event: &EventRef| {
        let id = CanonicalJsonValue::from(event.id.as_str());
        if format != EventsReferenceFormatVersion::V1 {
            return Ok(id);
        }
        let sha256 = event.sha256.as_deref().ok_or_else(|| {
            Refusal::Unknown("In this room version, an event is named together with its hash".to_owned())
        })?;
        let hashes = CanonicalJsonObject::from([("sha256".to_owned(), sha256.into())]);
        Ok(CanonicalJsonValue::Array(vec![id, hashes.into()]))
    };
    Ok(CanonicalJsonValue::Array(events.iter().map(one).collect::<Result<_, Refusal>>()?))
}

fn integer(value: u64) -> Result<CanonicalJsonValue, Refusal> {
    let value = UInt::try_from(value).map_err(|_| Refusal::Unknown(format!("{value} is beyond 2^53 - 1")))?;
    Ok(value.into())
}

fn too_large(bytes: impl std::fmt::Display) -> Refusal {
    Refusal::TooLarge(format!("The event has {bytes} bytes, at most {PDU_BYTES_MAX} are allowed"))
}

/// Completes what another server prepared for one of our users, with this content, and signs it. Whether it is what was
/// asked for, the caller looks at the result.
///
/// # Errors
/// [`Refusal::BadJson`] for what is no event, or nested deeper than [`NESTING_MAX`]; [`Refusal::TooLarge`].
pub fn complete(
    template: &RawValue,
    content: &RawValue,
    version: &RoomVersion,
    identity: &Identity,
    origin_server_ts: u64,
    event_id_random: [u8; 18],
) -> Result<Pdu, Refusal> {
    let mut object = super::object_of(template.get())?;
    for field in ["hashes", "signatures", "unsigned", "event_id"] {
        object.remove(field);
    }
    // Spec: "Joining Rooms": «The joining server is expected to add or replace the `origin`, `origin_server_ts`, and
    // `event_id`».
    object.insert("origin".to_owned(), identity.server_name().as_str().into());
    let content: CanonicalJsonObject =
        serde_json::from_str(content.get()).map_err(|error| Refusal::BadJson(error.to_string()))?;
    object.insert("content".to_owned(), content.into());
    object.insert("origin_server_ts".to_owned(), integer(origin_server_ts)?);
    // The rest is the other server's.
    if is_nested_too_deep(&object) {
        return Err(Refusal::BadJson(format!("The event is nested deeper than {NESTING_MAX} levels")));
    }
    signed(object, version, identity, event_id_random)
}

/// The same event, with the name of the server that made it: `/invite` wants it of an invitation.
///
/// # Errors
/// [`Refusal::TooLarge`] where that was the last straw.
pub fn with_origin(
    pdu: &Pdu,
    version: &RoomVersion,
    identity: &Identity,
    event_id_random: [u8; 18],
) -> Result<Pdu, Refusal> {
    let mut object = super::object_of(pdu.json())?;
    for field in ["hashes", "signatures", "event_id"] {
        object.remove(field);
    }
    object.insert("origin".to_owned(), identity.server_name().as_str().into());
    signed(object, version, identity, event_id_random)
}

/// Adds our signature to an event of another server's: it goes into a room with our help, or invites a user of ours.
/// `unsigned` stays as it is, whatever is in it.
///
/// # Errors
/// [`EventError::Malformed`] for what is no event.
pub fn countersign(json: &RawValue, version: &RoomVersion, identity: &Identity) -> Result<Box<RawValue>, EventError> {
    let malformed = |error: &dyn std::fmt::Display| EventError::Malformed(error.to_string());
    let mut fields: BTreeMap<String, &RawValue> =
        serde_json::from_str(json.get()).map_err(|error| malformed(&error))?;
    let unsigned = fields.remove("unsigned");
    let mut object = super::object_of(&serde_json::to_string(&fields).map_err(|error| malformed(&error))?)?;
    let mut redacted = object.clone();
    redact_in_place(&mut redacted, &version.rules().redaction, None).map_err(|error| malformed(&error))?;
    identity.sign_json(&mut redacted).map_err(|error| malformed(&error))?;
    if let Some(signatures) = redacted.remove("signatures") {
        object.insert("signatures".to_owned(), signatures);
    }
    let signed = text_of(&object)?;
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(&signed).map_err(|error| malformed(&error))?;
    fields.extend(unsigned.map(|unsigned| ("unsigned".to_owned(), unsigned)));
    to_raw_value(&fields).map_err(|error| malformed(&error))
}

/// What another server is to complete and sign for one of its users: an event without hashes, signatures and id, with
/// the name of the server that made it. Spec: Server-Server API, `/make_join`.
///
/// # Errors
/// [`EventError::Malformed`] when the stored text is not an event.
pub fn template(pdu: &Pdu, origin: &ServerName) -> Result<Box<RawValue>, EventError> {
    let mut object = super::object_of(pdu.json())?;
    for field in ["hashes", "signatures", "event_id"] {
        object.remove(field);
    }
    object.insert("origin".to_owned(), origin.as_str().into());
    RawValue::from_string(text_of(&object)?).map_err(|error| EventError::Malformed(error.to_string()))
}
