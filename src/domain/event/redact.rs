//! What is left of an event once it is redacted.

use ruma_common::canonical_json::redact_in_place;

use super::{EventError, Pdu, object_of, text_of};
use crate::RoomVersion;

/// Strips an event to what its room's version keeps. The id stays, and so do its hashes and signatures.
///
/// `because` is the redaction asking for it; `None` when it was redacted for another reason. It is only checked:
/// the stored form has no `unsigned`, and clients get `redacted_because` from [`super::Unsigned`].
/// Whether `because` may redact is for the room to say. Spec: Room Versions, "Redactions".
///
/// # Errors
/// [`EventError::NotItsRedaction`] when `because` redacts something else or in another room.
pub fn redact(pdu: &Pdu, version: &RoomVersion, because: Option<&Pdu>) -> Result<Pdu, EventError> {
    if let Some(because) = because
        && (because.redacts(version).as_deref() != Some(pdu.event_id()) || because.room_id() != pdu.room_id())
    {
        return Err(EventError::NotItsRedaction);
    }
    let mut object = object_of(pdu.json())?;
    redact_in_place(&mut object, &version.rules().redaction, None)
        .map_err(|error| EventError::Malformed(error.to_string()))?;
    Pdu::from_stored(pdu.event_id().to_owned(), text_of(&object)?, pdu.rejected())
}
