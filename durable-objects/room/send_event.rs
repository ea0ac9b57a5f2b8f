use std::collections::BTreeMap;

use domain::{
    Pdu, Refusal,
    event::Draft,
    retention::{RETENTION, RoomRetention},
    set_state,
};
use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId};
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    Room,
    append::{check_invitation, check_joined, owe_membership_again},
    check_relation::check_relation,
    notices,
    redact_event::Redaction,
    store,
    transactions::{self, check_length},
};
use crate::{Call, Cx, Error};

/// Appends a message or state event and answers its id; repeated, answers the same id and appends nothing. Neither does
/// what makes the state what its sender made it already.
///
/// Refused: `Forbidden` by the room's rules, `BadJson` for content its type does not allow, `TooLarge`,
/// `DuplicateAnnotation`, and `Unknown` for a thread that begins with what relates to something itself. Spec: "Sending
/// events to a room".
#[derive(Debug, Serialize, Deserialize)]
pub struct SendEvent {
    pub sender: OwnedUserId,
    pub device: OwnedDeviceId,
    /// The client's transaction id, or the tier's call id: one of them makes the call repeatable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<OwnedTransactionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    #[serde(rename = "type")]
    pub event_type: TimelineEventType,
    /// A JSON object.
    pub content: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_key: Option<String>,
    /// For a join without an invitation: rooms that said that the sender is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_of: Vec<OwnedRoomId>,
    /// The time that the event shall have, in milliseconds since the Unix epoch; now without. Where it stands in the
    /// room does not follow from it. Spec: Application Service API, "Timestamp massaging".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// As in [`super::RedactEvent`], for an `m.room.redaction`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub administrator: bool,
}

impl Call for SendEvent {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "send_event";
    type Reply = OwnedEventId;
}

impl Room {
    pub(super) fn send_event(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SendEvent) -> Result<OwnedEventId, Error> {
        let event_type = call.event_type.to_string();
        call.transaction_id.as_deref().map_or(Ok(()), check_length)?;
        let txn = match (&call.transaction_id, &call.call_id) {
            (Some(id), _) => Some(transactions::of_client(&call.sender, &call.device, &event_type, id)),
            (None, Some(id)) => Some(transactions::of_call(id)),
            (None, None) => None,
        };
        if let Some(name) = &txn
            && let Some(event_id) = self.made_by(&**tx, cx, name)?
        {
            return Ok(event_id);
        }
        let is_own_membership =
            call.event_type == TimelineEventType::RoomMember && call.state_key.as_deref() == Some(call.sender.as_str());
        if is_own_membership {
            self.check_known(&**tx, &call.sender)?;
        } else {
            check_joined(&**tx, &call.sender)?;
        }
        match (&call.event_type, &call.state_key) {
            (TimelineEventType::RoomCreate, _) => {
                return Err(Refusal::Forbidden("A room is created only once".to_owned()).into());
            }
            (TimelineEventType::RoomRedaction, None) => {
                let redaction = redaction(call)?;
                return self.redact(tx, cx, redaction, txn.as_deref());
            }
            (TimelineEventType::RoomRedaction, Some(_)) => {
                return Err(Refusal::BadJson("`m.room.redaction` is not a state event".to_owned()).into());
            }
            (TimelineEventType::RoomMember, None) => {
                return Err(Refusal::BadJson("`m.room.member` is a state event".to_owned()).into());
            }
            _ => {}
        }
        check_state(cx, &event_type, &call)?;
        let is_message = call.state_key.is_none();
        let draft = Draft {
            event_type: call.event_type,
            content: call.content,
            state_key: call.state_key,
            sender: call.sender,
            redacts: None,
        };
        check_invitation(cx, &draft)?;
        notices::check_rejection(&**tx, cx, &draft)?;
        check_relation(&**tx, &draft)?;
        let pdu = self.authorised_for(&**tx, cx, &draft, &call.member_of, call.at_ms.unwrap_or(cx.now_ms))?;
        if let Some(event_id) = already_made_by(&**tx, &pdu)? {
            if is_own_membership {
                // Who asks for what is so may not know: their room list is told again.
                owe_membership_again(tx, cx, draft.sender.as_str())?;
            }
            return Ok(event_id);
        }
        let pdu = self.signed(&**tx, cx, pdu)?;
        self.insert(tx, cx, &pdu, txn.as_deref())?;
        if is_message {
            cx.room.typing.borrow_mut().push((draft.sender, None));
        }
        Ok(pdu.event_id().to_owned())
    }
}

/// Refused: as [`set_state::check`] does; `BadJson` for a retention that is none.
fn check_state(cx: &Cx<'_>, event_type: &str, call: &SendEvent) -> Result<(), Refusal> {
    if call.state_key.is_none() {
        return Ok(());
    }
    let config = &cx.settings.config;
    if config.retention.is_on && event_type == RETENTION {
        RoomRetention::parse(&call.content)?;
    }
    set_state::check(event_type, &call.content, config.no_policy_server())
}

/// The event by which the current state is what this one would make it, of the same sender and in the same words:
/// clients and bots assert the state they want again and again, and other servers make nothing of that either.
pub(super) fn already_made_by(sql: &dyn Sql, pdu: &Pdu) -> Result<Option<OwnedEventId>, Error> {
    let Some(state_key) = pdu.state_key() else { return Ok(None) };
    let Some(current) = store::state::current(sql, &pdu.event_type().to_string(), state_key)? else { return Ok(None) };
    let says = |pdu: &Pdu| pdu.content_as::<Map<String, Value>>().ok();
    let is_same =
        current.pdu.sender() == pdu.sender() && says(&current.pdu).is_some_and(|content| Some(content) == says(pdu));
    Ok(is_same.then(|| current.pdu.event_id().to_owned()))
}

/// What a client asks by sending an `m.room.redaction`: `redacts` is in the content, whatever the room's version.
/// Spec: "Redactions", client behaviour.
///
/// Refused: `BadJson` without it.
fn redaction(call: SendEvent) -> Result<Redaction, Error> {
    let mut content: BTreeMap<String, Box<RawValue>> = serde_json::from_str(call.content.get())
        .map_err(|error| Refusal::BadJson(format!("The content of m.room.redaction: {error}")))?;
    let event_id = content
        .remove("redacts")
        .and_then(|redacts| serde_json::from_str(redacts.get()).ok())
        .ok_or_else(|| Refusal::BadJson("The content of m.room.redaction says in `redacts` which event".to_owned()))?;
    Ok(Redaction {
        sender: call.sender,
        device: call.device,
        administrator: call.administrator,
        own_only: false,
        event_id,
        content: to_raw_value(&content)?,
        at_ms: call.at_ms,
    })
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use ruma_common::{OwnedEventId, OwnedUserId, RoomId, UserId, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use crate::{
        room::{MembershipAction, SetCanonicalAlias},
        world::World,
    };

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn sets(world: &World, by: &UserId, room_id: &RoomId, key: (&str, &str), content: &Value) -> OwnedEventId {
        world.sends(by, room_id, key.0, Some(key.1), content).unwrap()
    }

    #[test]
    fn the_same_state_again_is_the_event_that_is_there() {
        let world = World::new(1);
        let (alice, bob) = (alice(), user_id!("@bob:myelin.test"));
        let room_id = world.creates_room(&alice, "12", Preset::PrivateChat);
        world.changes(&alice, &room_id, bob, MembershipAction::Invite).unwrap();
        world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
        let thing = ("org.example.thing", "");
        let levels = json!({ "state_default": 0, "users": { bob.as_str(): 50 } });
        sets(&world, &alice, &room_id, ("m.room.power_levels", ""), &levels);
        let first = sets(&world, &alice, &room_id, thing, &json!({ "a": 1, "b": { "c": 2 } }));
        assert_eq!(sets(&world, &alice, &room_id, thing, &json!({ "b": { "c": 2 }, "a": 1 })), first, "in any order");
        assert_ne!(sets(&world, &alice, &room_id, ("org.example.thing", "k"), &json!({ "a": 1, "b": {} })), first);
        let of_bob = sets(&world, bob, &room_id, thing, &json!({ "a": 1, "b": { "c": 2 } }));
        assert_ne!(of_bob, first, "somebody else says it");
        let other = sets(&world, bob, &room_id, thing, &json!({ "a": 2 }));
        assert_ne!(other, of_bob);
        assert_ne!(
            sets(&world, bob, &room_id, thing, &json!({ "a": 1, "b": { "c": 2 } })),
            of_bob,
            "it was another since"
        );
        // What is said, and not set, is said twice.
        let says = || world.sends(bob, &room_id, "org.example.thing", None, &json!({ "a": 1 })).unwrap();
        assert_ne!(says(), says());
        let member = ("m.room.member", bob.as_str());
        let named = json!({ "membership": "join", "displayname": "Freddy" });
        let freddy = sets(&world, bob, &room_id, member, &named);
        assert_eq!(sets(&world, bob, &room_id, member, &named), freddy);
        // Who may not do it any more is told so.
        world.changes(&alice, &room_id, bob, MembershipAction::Kick).unwrap();
        assert!(world.sends(bob, &room_id, thing.0, Some(""), &json!({ "a": 1, "b": { "c": 2 } })).is_err());
    }

    #[test]
    fn the_same_canonical_alias_again_is_the_event_that_is_there() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "12", Preset::PrivateChat);
        let sets = |call_id: &str, content: Value| {
            let content = to_raw_value(&content).unwrap();
            let call = SetCanonicalAlias {
                call_id: call_id.to_owned(),
                sender: alice(),
                content,
                unproven: vec![],
                at_ms: None,
            };
            world.call(room_id.as_str(), &call).unwrap()
        };
        let tea = json!({ "alias": "#tea:myelin.test" });
        let first = sets("1", tea.clone());
        assert_eq!(sets("2", tea.clone()), first);
        assert_ne!(sets("3", json!({})), first);
        assert_ne!(sets("4", tea), first);
    }
}
