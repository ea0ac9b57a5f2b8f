//! The checks on a received event that need no room: format, size, signatures, hash.

use std::{borrow::Cow, collections::BTreeSet};

use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName,
    canonical_json::redact_in_place,
    room_version_rules::{EventsReferenceFormatVersion, RoomVersionRules},
};
use ruma_signatures::{PublicKeyMap, Verified, content_hash, required_server_signatures_to_verify_event, verify_event};
use ruma_state_res::check_pdu_format;
use serde::Deserialize;

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
/// [`required_signers`].
/// Spec: Server-Server API, "Checks performed on receipt of a PDU".
///
/// # Errors
/// An event with any error is dropped: it is as if it had not come.
pub fn check(
    object: CanonicalJsonObject,
    version: &RoomVersion,
    public_keys: &PublicKeyMap,
) -> Result<Checked, EventError> {
    check_with(object, version, public_keys, References::AsManyAsNow)
}

fn check_with(
    mut object: CanonicalJsonObject,
    version: &RoomVersion,
    public_keys: &PublicKeyMap,
    references: References,
) -> Result<Checked, EventError> {
    object.remove("unsigned");
    let bytes = text_of(&object)?.len();
    if bytes > PDU_BYTES_MAX {
        return Err(EventError::TooLarge(format!("{bytes} bytes, at most {PDU_BYTES_MAX} are allowed")));
    }
    for field in ["type", "state_key", "sender", "room_id", "event_id"] {
        if object.get(field).and_then(CanonicalJsonValue::as_str).is_some_and(|text| text.len() > FIELD_BYTES_MAX) {
            return Err(EventError::TooLarge(format!("`{field}` is over {FIELD_BYTES_MAX} bytes")));
        }
    }
    check_format(&mut object, version, references)?;
    let verified = verify_event(public_keys, &object, &rules_for(&object, version))
        .map_err(|error| EventError::Signature(error.to_string()))?;
    let redacted = verified == Verified::Signatures;
    if redacted {
        redact_to_what_is_signed(&mut object, version)?;
    }
    let event_id = id_of(&object, version)?;
    Ok(Checked { pdu: Pdu::from_stored(event_id, text_of(&object)?, false)?, redacted })
}

/// The servers that have to have signed an event. Spec: Server-Server API, "Validating hashes and signatures on
/// received events".
///
/// # Errors
/// [`EventError::Signature`] for what does not say who they are.
pub fn required_signers(
    object: &CanonicalJsonObject,
    version: &RoomVersion,
) -> Result<BTreeSet<OwnedServerName>, EventError> {
    required_server_signatures_to_verify_event(object, &rules_for(object, version).signatures)
        .map_err(|error| EventError::Signature(error.to_string()))
}

/// The version's rules, as far as they are about this event. Since v8, whoever lets a user in signs that «if type is
/// `m.room.member`». ruma wants their signature of every event whose content has a field of that name.
fn rules_for<'a>(object: &CanonicalJsonObject, version: &'a RoomVersion) -> Cow<'a, RoomVersionRules> {
    let mut rules = Cow::Borrowed(version.rules());
    let is_member = object.get("type").and_then(CanonicalJsonValue::as_str) == Some("m.room.member");
    if !is_member && rules.signatures.check_join_authorised_via_users_server {
        rules.to_mut().signatures.check_join_authorised_via_users_server = false;
    }
    rules
}

/// Redacts an event of which the hash is wrong. What is left must be signed by everybody who would have to sign it had
/// it come so: an invitation that says it is one to a third party needs no signature of its sender, and before v11 it
/// does not say so any more once it is redacted.
fn redact_to_what_is_signed(object: &mut CanonicalJsonObject, version: &RoomVersion) -> Result<(), EventError> {
    let verified = required_signers(object, version)?;
    redact_in_place(object, &version.rules().redaction, None)
        .map_err(|error| EventError::Malformed(error.to_string()))?;
    match required_signers(object, version)?.difference(&verified).next() {
        Some(server) => Err(EventError::Signature(format!("redacted, it needs the signature of {server}"))),
        None => Ok(()),
    }
}

/// As [`check`], of an event of the past: it may name more events before it, and as its authorisation, than events may
/// now. Spec: Server-Server API, `/backfill`.
///
/// # Errors
/// As [`check`].
pub fn check_old(
    object: CanonicalJsonObject,
    version: &RoomVersion,
    public_keys: &PublicKeyMap,
) -> Result<Checked, EventError> {
    check_with(object, version, public_keys, References::AnyNumber)
}

/// The version that the room has which this create event makes: the first one where it says none. `None` where it
/// cannot be told: redacted before version 11, it does not say it any more.
/// Spec: `m.room.create`: «Defaults to "1" if the key does not exist».
pub fn version_made_with(create: &Pdu) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<String>,
    }
    if let Some(version) = create.content_as::<Content>().ok()?.room_version {
        return Some(version);
    }
    let object = super::object_of(create.json()).ok()?;
    let hash = content_hash(&object).ok()?.encode();
    let is_whole = match object.get("hashes") {
        Some(CanonicalJsonValue::Object(hashes)) => {
            hashes.get("sha256").and_then(CanonicalJsonValue::as_str) == Some(&*hash)
        }
        _ => false,
    };
    is_whole.then(|| "1".to_owned())
}

/// As many events as any list in an event may name now.
const REFERENCES_CHECKED_MAX: usize = 10;

/// How many events an event may name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum References {
    AsManyAsNow,
    AnyNumber,
}

/// ruma allows 65,535 bytes where the spec allows 65,536. It does not look at the content, so it gets to see an event
/// without one; the size is checked above.
fn check_format(
    object: &mut CanonicalJsonObject,
    version: &RoomVersion,
    references: References,
) -> Result<(), EventError> {
    let content = match object.remove("content") {
        Some(CanonicalJsonValue::Object(content)) => content,
        Some(_) | None => return Err(EventError::Malformed("`content` is not an object".to_owned())),
    };
    check_references(object, version)?;
    match references {
        References::AsManyAsNow => check_listed(object, version)?,
        References::AnyNumber => check_in_parts(object, version)?,
    }
    object.insert("content".to_owned(), CanonicalJsonValue::Object(content));
    Ok(())
}

/// What ruma leaves open: events name others in the form of the room's version.
fn check_references(object: &CanonicalJsonObject, version: &RoomVersion) -> Result<(), EventError> {
    let is_pair = |entry: &CanonicalJsonValue| {
        use CanonicalJsonValue::{Array, Object, String};
        matches!(entry, Array(pair) if matches!(&pair[..], [String(_), Object(_)]))
    };
    let in_pairs = version.rules().events_reference_format == EventsReferenceFormatVersion::V1;
    for name in ["prev_events", "auth_events"] {
        let Some(CanonicalJsonValue::Array(entries)) = object.get(name) else { continue };
        let is_in_form = |entry| if in_pairs { is_pair(entry) } else { entry.as_str().is_some() };
        if !entries.iter().all(is_in_form) {
            return Err(EventError::Malformed(format!(
                "`{name}` is not in the form of room version {}",
                version.as_str()
            )));
        }
    }
    Ok(())
}

fn check_listed(object: &CanonicalJsonObject, version: &RoomVersion) -> Result<(), EventError> {
    check_pdu_format(object, &version.rules().event_format).map_err(EventError::Malformed)
}

/// Checks an event as if it named few events, then others, until it named them all.
fn check_in_parts(object: &mut CanonicalJsonObject, version: &RoomVersion) -> Result<(), EventError> {
    let names = ["prev_events", "auth_events"];
    let lists: Vec<_> = names.into_iter().filter_map(|name| Some((name, listed(object, name)?))).collect();
    if lists.iter().all(|(_, list)| list.len() <= REFERENCES_CHECKED_MAX) {
        return check_listed(object, version);
    }
    let parts = lists.iter().map(|(_, list)| list.len().div_ceil(REFERENCES_CHECKED_MAX)).max().unwrap_or(0);
    let outcome = (0..parts).try_for_each(|part| {
        for (name, list) in &lists {
            let start = part.saturating_mul(REFERENCES_CHECKED_MAX);
            let few = list.iter().skip(start).take(REFERENCES_CHECKED_MAX).cloned().collect();
            object.insert((*name).to_owned(), CanonicalJsonValue::Array(few));
        }
        check_listed(object, version)
    });
    for (name, list) in lists {
        object.insert(name.to_owned(), CanonicalJsonValue::Array(list));
    }
    outcome
}

fn listed(object: &CanonicalJsonObject, name: &str) -> Option<Vec<CanonicalJsonValue>> {
    match object.get(name) {
        Some(CanonicalJsonValue::Array(list)) => Some(list.clone()),
        _ => None,
    }
}
