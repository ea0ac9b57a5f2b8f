//! What clients see of an event.
//!
//! The content is copied as text, never parsed again: the one exception is a redaction's `redacts`.
//! Spec: Client-Server API, "Room event format", "Stripped state".

use std::collections::BTreeMap;

use ruma_common::{EventId, OwnedEventId, OwnedTransactionId, OwnedUserId, RoomId, UserId};
use ruma_events::{TimelineEventType, room::member::MembershipState};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::Pdu;

/// What we add to an event for the one who asks. What is `None` is left out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Unsigned {
    /// Milliseconds since `origin_server_ts`, by our clock: negative when theirs runs ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<i64>,
    /// For the device that sent it, and no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<OwnedTransactionId>,
    /// The content of the state event this one replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_content: Option<Box<RawValue>>,
    /// The sender of the state event this one replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_sender: Option<OwnedUserId>,
    /// The id of the state event this one replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces_state: Option<OwnedEventId>,
    /// The membership, at the event, of the user who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipState>,
    /// The redaction of this event, in client format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redacted_because: Option<Box<RawValue>>,
    /// What the room looks like from outside, with an invitation to an application service's user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invite_room_state: Vec<Box<RawValue>>,
    /// Aggregated child events (`m.relations`).
    #[serde(rename = "m.relations", skip_serializing_if = "Option::is_none")]
    pub relations: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct ClientEvent<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<OwnedEventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: &'a TimelineEventType,
    unsigned: &'a Unsigned,
}

impl<'a> ClientEvent<'a> {
    fn of(pdu: &'a Pdu, unsigned: &'a Unsigned, with_room_id: bool) -> Self {
        Self {
            content: pdu.content(),
            event_id: pdu.event_id(),
            origin_server_ts: pdu.origin_server_ts().get().into(),
            redacts: None,
            room_id: with_room_id.then(|| pdu.room_id()),
            sender: pdu.sender(),
            state_key: pdu.state_key(),
            event_type: pdu.event_type(),
            unsigned,
        }
    }
}

#[derive(Serialize)]
struct StrippedEvent<'a> {
    content: &'a RawValue,
    sender: &'a UserId,
    state_key: &'a str,
    #[serde(rename = "type")]
    event_type: &'a TimelineEventType,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_server_ts: Option<u64>,
}

impl<'a> StrippedEvent<'a> {
    fn of(pdu: &'a Pdu) -> Self {
        Self {
            content: pdu.content(),
            sender: pdu.sender(),
            state_key: pdu.state_key().unwrap_or_default(),
            event_type: pdu.event_type(),
            origin_server_ts: None,
        }
    }
}

/// The client format of an event; without `room_id` where the answer already says it, as in `/sync`.
///
/// A redaction carries `redacts` both at the top and in its content, whichever of the two its version has.
/// Where an event has both, each stays: a client of v1.11 and later looks where the room's version says.
/// Spec: Room version 11, "Moving the `redacts` property".
pub fn client_json(pdu: &Pdu, unsigned: &Unsigned, with_room_id: bool) -> Box<RawValue> {
    let mut redacts = None;
    let mut completed = None;
    if *pdu.event_type() == TimelineEventType::RoomRedaction {
        let in_content = pdu.redacts_in_content();
        redacts = pdu.redacts_at_top().map(ToOwned::to_owned).or_else(|| in_content.clone());
        if let (None, Some(redacts)) = (in_content, &redacts) {
            completed = with_redacts(pdu.content(), redacts);
        }
    }
    let content = completed.as_deref().unwrap_or_else(|| pdu.content());
    written(&ClientEvent { content, redacts, ..ClientEvent::of(pdu, unsigned, with_room_id) })
}

/// The client format of a redaction for one who may not see it, but sees what it redacted: who, when and what, not why.
pub fn redaction_without_reason(pdu: &Pdu, unsigned: &Unsigned, with_room_id: bool) -> Box<RawValue> {
    let redacts = pdu.redacts_at_top().map(ToOwned::to_owned).or_else(|| pdu.redacts_in_content());
    let content = written(&redacts.iter().map(|redacts| ("redacts", redacts)).collect::<BTreeMap<_, _>>());
    written(&ClientEvent { content: &content, redacts, ..ClientEvent::of(pdu, unsigned, with_room_id) })
}

/// The event as servers send it to each other, with what we add for the one who asks; also with its id, by which alone
/// a client tells events apart. Spec: Client-Server API, "Filtering", `event_format`.
pub fn federation_json(pdu: &Pdu, unsigned: &Unsigned) -> Box<RawValue> {
    let (event_id, unsigned) = (written(&pdu.event_id()), written(unsigned));
    let mut fields: BTreeMap<&str, &RawValue> = serde_json::from_str(pdu.json()).unwrap_or_default();
    fields.insert("event_id", &event_id);
    fields.insert("unsigned", &unsigned);
    written(&fields)
}

/// The stripped state format, for who is not in the room: type, state key, sender and content.
pub fn stripped_json(pdu: &Pdu) -> Box<RawValue> {
    written(&StrippedEvent::of(pdu))
}

/// The same, and when it was sent: how the children of a space are told. Spec: `children_state` of a hierarchy.
pub fn stripped_json_with_time(pdu: &Pdu) -> Box<RawValue> {
    written(&StrippedEvent { origin_server_ts: Some(pdu.origin_server_ts().get().into()), ..StrippedEvent::of(pdu) })
}

fn with_redacts(content: &RawValue, redacts: &EventId) -> Option<Box<RawValue>> {
    let mut fields: BTreeMap<&str, &RawValue> = serde_json::from_str(content.get()).ok()?;
    let redacts = to_raw_value(redacts).ok()?;
    fields.insert("redacts", &redacts);
    to_raw_value(&fields).ok()
}

/// Strings, integers and raw JSON: writing these to memory does not fail.
pub(super) fn written(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
