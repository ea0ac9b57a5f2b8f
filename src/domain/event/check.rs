//! The checks on a received event that need no room: format, size, signatures, hash.

use ruma_common::{CanonicalJsonObject, CanonicalJsonValue, canonical_json::redact_in_place};
use ruma_signatures::{PublicKeyMap, Verified, verify_event};
use ruma_state_res::check_pdu_format;

use super::{EventError, FIELD_BYTES_MAX, PDU_BYTES_MAX, Pdu, id_of, text_of};
use crate::RoomVersion;

/// A received event that passed.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The event, without `unsigned`.
    pub pdu: Pdu,
    /// Its content hash was wrong, so what we hold is its redacted form.
    pub redacted: bool,
}

/// Steps 1 to 3 of the checks on receipt of a PDU. The remaining ones are [`crate::auth`]'s.
///
/// `public_keys` must hold the keys, valid at `origin_server_ts` where the version says so, of every server in
/// `ruma_signatures::required_server_signatures_to_verify_event`.
/// Spec: Server-Server API, "Checks performed on receipt of a PDU".
///
/// # Errors
/// An event with any error is dropped: it is as if it had not come.
pub fn check(
    mut object: CanonicalJsonObject,
    version: &RoomVersion,
    public_keys: &PublicKeyMap,
) -> Result<Checked, EventError> {
    let bytes = text_of(&object)?.len();
    if bytes > PDU_BYTES_MAX {
        return Err(EventError::TooLarge(format!("{bytes} bytes, at most {PDU_BYTES_MAX} are allowed")));
    }
    for field in ["type", "state_key", "sender", "room_id", "event_id"] {
        if object.get(field).and_then(CanonicalJsonValue::as_str).is_some_and(|text| text.len() > FIELD_BYTES_MAX) {
            return Err(EventError::TooLarge(format!("`{field}` is over {FIELD_BYTES_MAX} bytes")));
        }
    }
    check_format(&mut object, version)?;
    let verified = verify_event(public_keys, &object, version.rules())
        .map_err(|error| EventError::Signature(error.to_string()))?;
    object.remove("unsigned");
    let redacted = verified == Verified::Signatures;
    if redacted {
        redact_in_place(&mut object, &version.rules().redaction, None)
            .map_err(|error| EventError::Malformed(error.to_string()))?;
    }
    let event_id = id_of(&object, version)?;
    Ok(Checked { pdu: Pdu::from_stored(event_id, text_of(&object)?, false)?, redacted })
}

/// ruma allows 65,535 bytes where the spec allows 65,536. It does not look at the content, so it gets to see an event
/// without one; the size is checked above.
fn check_format(object: &mut CanonicalJsonObject, version: &RoomVersion) -> Result<(), EventError> {
    let content = match object.remove("content") {
        Some(CanonicalJsonValue::Object(content)) => content,
        Some(_) | None => return Err(EventError::Malformed("`content` is not an object".to_owned())),
    };
    check_pdu_format(object, &version.rules().event_format).map_err(EventError::Malformed)?;
    object.insert("content".to_owned(), CanonicalJsonValue::Object(content));
    Ok(())
}
