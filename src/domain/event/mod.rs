//! One event: building ours, checking theirs, redacting, and what clients see of it.
//!
//! Owns the event format of every room version: canonical JSON, hashes, signatures, event ids, size limits.
//! Leaves to others whether an event may happen ([`crate::auth`]) and where it stands in the graph.
//! Spec: Server-Server API, "PDUs", "Signing events", "Checks performed on receipt of a PDU"; Client-Server API,
//! "Size limits"; Room Versions.

mod build;
mod check;
pub mod client;
mod fields;
mod pdu;
mod read;
mod redact;
mod relation;
#[cfg(test)]
mod tests;

use ruma_common::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId};
use ruma_signatures::reference_hash;

pub use self::{
    build::{Draft, EventRef, Place, build, complete, countersign, template, with_origin},
    check::{Checked, check, check_old, required_signers, version_made_with},
    client::{
        Unsigned, client_json, federation_json, redaction_without_reason, stripped_json, stripped_json_with_time,
    },
    fields::EventFields,
    pdu::Pdu,
    read::read,
    redact::redact,
    relation::Relation,
};
use crate::{Refusal, RoomVersion};

/// The largest event, in bytes of canonical JSON with its signatures.
/// Spec: Client-Server API, "Size limits".
pub const PDU_BYTES_MAX: usize = 65_536;

/// The longest `type`, `state_key`, `sender`, `room_id` and `event_id`, in bytes.
/// Spec: Client-Server API, "Size limits".
pub const FIELD_BYTES_MAX: usize = 255;

/// How many arrays and objects may lie in each other in the content of an event we build. Parsers of JSON, ours among
/// them, stop somewhat deeper: whatever we stored can be read again, also from within the event and its answer.
pub const NESTING_MAX: usize = 100;

/// Whether an event, without its `unsigned`, nests deeper than one that we build does. Whatever is passed on lies
/// deeper still, in an answer or a transaction, which could be neither signed nor read.
pub fn is_nested_too_deep(object: &CanonicalJsonObject) -> bool {
    !is_nested_within(object.values(), NESTING_MAX)
}

/// Whether there are at most so many levels of arrays and objects.
fn is_nested_within<'a>(values: impl Iterator<Item = &'a CanonicalJsonValue>, levels: usize) -> bool {
    let inner = levels.checked_sub(1);
    let mut values = values;
    values.all(|value| match value {
        CanonicalJsonValue::Array(array) => inner.is_some_and(|inner| is_nested_within(array.iter(), inner)),
        CanonicalJsonValue::Object(object) => inner.is_some_and(|inner| is_nested_within(object.values(), inner)),
        _ => true,
    })
}

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EventError {
    /// Not the event format of the room's version.
    #[error("malformed event: {0}")]
    Malformed(String),
    /// Over one of the size limits.
    #[error("event too large: {0}")]
    TooLarge(String),
    /// A required signature is missing or wrong.
    #[error("bad signature: {0}")]
    Signature(String),
    /// The event given as the reason for a redaction does not redact this one.
    #[error("not a redaction of this event")]
    NotItsRedaction,
}

impl From<EventError> for Refusal {
    fn from(error: EventError) -> Self {
        let sentence = error.to_string();
        match error {
            EventError::Malformed(_) | EventError::NotItsRedaction => Self::BadJson(sentence),
            EventError::TooLarge(_) => Self::TooLarge(sentence),
            EventError::Signature(_) => Self::Unauthorized(sentence),
        }
    }
}

/// How an event of this version is named in `prev_events` and `auth_events`: versions 1 and 2 add its reference hash.
///
/// # Errors
/// [`EventError::Malformed`] when the stored text is not an event.
pub fn reference(pdu: &Pdu, version: &RoomVersion) -> Result<EventRef, EventError> {
    let sha256 = if version.rules().event_format.require_event_id {
        Some(hash_of(&object_of(pdu.json())?, version)?)
    } else {
        None
    };
    Ok(EventRef { id: pdu.event_id().to_owned(), sha256 })
}

/// The reference hash in the version's base64. Spec: "Calculating the reference hash for an event".
fn hash_of(object: &CanonicalJsonObject, version: &RoomVersion) -> Result<String, EventError> {
    reference_hash(object, version.rules()).map_err(|error| EventError::Malformed(error.to_string()))
}

/// The id of an event: its own field in versions 1 and 2, `$` and the reference hash since 3.
///
/// # Errors
/// [`EventError::Malformed`] for what has none.
pub fn id_of(object: &CanonicalJsonObject, version: &RoomVersion) -> Result<OwnedEventId, EventError> {
    let id = if version.rules().event_format.require_event_id {
        let id = object.get("event_id").and_then(|id| id.as_str());
        id.ok_or_else(|| EventError::Malformed("missing `event_id`".to_owned()))?.to_owned()
    } else {
        format!("${}", hash_of(object, version)?)
    };
    OwnedEventId::try_from(id).map_err(|error| EventError::Malformed(format!("invalid `event_id`: {error}")))
}

pub(crate) fn object_of(json: &str) -> Result<CanonicalJsonObject, EventError> {
    serde_json::from_str(json).map_err(|error| EventError::Malformed(error.to_string()))
}

pub(crate) fn text_of(object: &CanonicalJsonObject) -> Result<String, EventError> {
    serde_json::to_string(object).map_err(|error| EventError::Malformed(error.to_string()))
}
