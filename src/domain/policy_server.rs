//! Policy servers: a server that a room has asked about each of its events before anybody is told of them.
//!
//! Owns which one a room names, and whether it recommends an event. Leaves to others when it is asked, and what becomes
//! of an event that it does not recommend. Spec: Server-Server API, "Policy Servers".

use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, SigningKeyAlgorithm, canonical_json::redact,
    serde::Base64,
};
use ruma_events::TimelineEventType;
use ruma_signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes};
use serde::Deserialize;

use crate::{
    Pdu, RoomVersion,
    event::{EventError, object_of, text_of},
};

/// The type of the state event that names one.
pub const EVENT_TYPE: &str = "m.room.policy";
/// The id of its key, whatever its other keys are called.
pub const KEY_ID: &str = "ed25519:policy_server";

/// The one that a room names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyServer {
    name: OwnedServerName,
    public_key: Vec<u8>,
}

impl PolicyServer {
    /// As the room's `m.room.policy` says; `None` for one that is not valid: then the room uses none.
    pub fn named_by(policy: &Pdu) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: OwnedServerName,
            public_keys: PublicKeys,
        }
        #[derive(Deserialize)]
        struct PublicKeys {
            ed25519: String,
        }
        let content: Content = policy.content_as().ok()?;
        // Text that is no key is a key that nothing is signed with.
        let public_key = <Base64>::parse(&content.public_keys.ed25519).map(Base64::into_inner).unwrap_or_default();
        Some(Self { name: content.via, public_key })
    }

    /// The server.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// Whether it recommends the event: whether it signed it.
    pub fn recommends(&self, pdu: &Pdu, version: &RoomVersion) -> bool {
        let verify = || {
            let object = object_of(pdu.json()).ok()?;
            let signature = <Base64>::parse(signature_in(object.get("signatures")?.as_object()?, &self.name)?).ok()?;
            let redacted = redact(object, &version.rules().redaction, None).ok()?;
            let signed = to_canonical_json_string_for_signing(&redacted).ok()?;
            let (key, signature) = (self.public_key.as_slice(), signature.as_bytes());
            verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key, signature, signed.as_bytes()).ok()
        };
        verify().is_some()
    }
}

/// Whether events of this kind need its recommendation: all but the one that names it.
pub fn is_asked_about(event_type: &TimelineEventType, state_key: Option<&str>) -> bool {
    event_type.to_string() != EVENT_TYPE || state_key != Some("")
}

/// The signature in what the policy server `name` answered: its own, by the key that is for this.
pub fn signature_in<'a>(answer: &'a CanonicalJsonObject, name: &ServerName) -> Option<&'a str> {
    answer.get(name.as_str())?.as_object()?.get(KEY_ID)?.as_str()
}

/// The event with the signature of the policy server `name`, beside those that it has.
///
/// # Errors
/// [`EventError::Malformed`] for what is no event.
pub fn signed(pdu: &Pdu, name: &ServerName, signature: &str) -> Result<Pdu, EventError> {
    let mut object = object_of(pdu.json())?;
    let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let all = object.entry("signatures".to_owned()).or_insert_with(empty);
    let CanonicalJsonValue::Object(all) = all else {
        return Err(EventError::Malformed("`signatures` is not an object".to_owned()));
    };
    let CanonicalJsonValue::Object(of_server) = all.entry(name.to_string()).or_insert_with(empty) else {
        return Err(EventError::Malformed("the signatures of a server are not an object".to_owned()));
    };
    of_server.insert(KEY_ID.to_owned(), CanonicalJsonValue::String(signature.to_owned()));
    Pdu::from_stored(pdu.event_id().to_owned(), text_of(&object)?, pdu.rejected())
}
