//! Redacting: an event says that another is to be stripped, and in the same transaction it is.

use domain::{
    Refusal,
    event::{self, Draft},
    redaction::{self, Redactor},
};
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{OwnedDeviceId, OwnedEventId, OwnedTransactionId, OwnedUserId};
use ruma_events::{StateEventType, TimelineEventType};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Room,
    append::{self, check_joined},
    store,
    store::log::Logged,
    transactions::{self, check_length},
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// Redacts an event of the room and answers the redaction's id; repeated, answers the same id and changes nothing.
///
/// Refused: `Forbidden` by the room's rules and for events of others without the power to redact; `UserSuspended` for
/// those of others; `NotFound` for an event that is not in this room, or that the sender neither sees nor has power
/// over. Spec: "Redactions".
#[derive(Debug, Serialize, Deserialize)]
pub struct RedactEvent {
    pub sender: OwnedUserId,
    pub device: OwnedDeviceId,
    pub transaction_id: OwnedTransactionId,
    pub event_id: OwnedEventId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the sender administers this server: they may redact events of its users.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub administrator: bool,
    /// Whether the sender may redact none but their own events: they are suspended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_only: bool,
}

impl Call for RedactEvent {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "redact_event";
    type Reply = OwnedEventId;
}

/// A redaction about to be made, whichever endpoint it came by.
pub(super) struct Redaction {
    pub sender: OwnedUserId,
    pub device: OwnedDeviceId,
    pub administrator: bool,
    pub own_only: bool,
    pub event_id: OwnedEventId,
    /// The content without `redacts`: where that stands is the room version's to say.
    pub content: Box<RawValue>,
    /// As in [`super::SendEvent`].
    pub at_ms: Option<u64>,
}

impl Room {
    pub(super) fn redact_event(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: RedactEvent) -> Result<OwnedEventId, Error> {
        #[derive(Serialize)]
        struct Content {
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<String>,
        }
        check_length(&call.transaction_id)?;
        let txn = transactions::of_redaction(&call.sender, &call.device, &call.event_id, &call.transaction_id);
        if let Some(event_id) = self.made_by(&**tx, cx, &txn)? {
            return Ok(event_id);
        }
        let redaction = Redaction {
            sender: call.sender,
            device: call.device,
            administrator: call.administrator,
            own_only: call.own_only,
            event_id: call.event_id,
            content: serde_json::value::to_raw_value(&Content { reason: call.reason })?,
            at_ms: None,
        };
        self.redact(tx, cx, redaction, Some(&txn))
    }

    /// Appends the redaction, and strips what it redacts.
    pub(super) fn redact(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        redaction: Redaction,
        txn: Option<&str>,
    ) -> Result<OwnedEventId, Error> {
        let draft = Draft {
            event_type: TimelineEventType::RoomRedaction,
            content: redaction.content.clone(),
            state_key: None,
            sender: redaction.sender.clone(),
            redacts: Some(redaction.event_id.clone()),
        };
        check_joined(&**tx, &redaction.sender)?;
        // Whoever may not redact anything learns nothing of the event.
        let because = self.authorised_for(&**tx, cx, &draft, &[], redaction.at_ms.unwrap_or(cx.now_ms))?;
        let because = self.signed(&**tx, cx, because)?;
        let event = self.redactable(&**tx, redaction)?;
        self.insert(tx, cx, &because, txn)?;
        // What was redacted before keeps the redaction that did it.
        if event.redacted_by.is_none() {
            let position = cx.head.get().ok_or_else(|| Fault::new("an event was appended at no position"))?;
            let version = self.version(&**tx)?;
            let redacted = event::redact(&event.pdu, &version, Some(&because))
                .map_err(|error| Fault::new(format!("a stored event does not redact: {error}")))?;
            store::log::redact(tx, event.position, &redacted, position)?;
            self.redacted(tx, cx, &redacted)?;
            append::owe_stripped_state(tx, cx, &event, position)?;
        }
        Ok(because.event_id().to_owned())
    }

    /// The event, if it may be redacted.
    fn redactable(&self, sql: &dyn Sql, redaction: Redaction) -> Result<Logged, Error> {
        let missing = || Refusal::NotFound("There is no such event in this room".to_owned());
        let event = store::log::by_id(sql, redaction.event_id.as_str())?.ok_or_else(missing)?;
        let version = self.version(sql)?;
        let create = store::state::current(sql, "m.room.create", "")?;
        let levels = store::state::current(sql, "m.room.power_levels", "")?;
        let state = |event_type: &StateEventType, _: &str| {
            let event = match event_type {
                StateEventType::RoomCreate => &create,
                StateEventType::RoomPowerLevels => &levels,
                _ => &None,
            };
            event.as_ref().map(|event| event.pdu.clone())
        };
        let redactor = Redactor { user: &redaction.sender, administrator: redaction.administrator };
        if let Err(refusal) = redaction::check(redactor, &event.pdu, &version, &state) {
            let viewer = Viewer::load(sql, redaction.sender.clone(), redaction.device)?;
            let may_know = viewer.may_see(&event) || redaction::may_redact_others(&viewer.user, &version, &state)?;
            return Err(if may_know { refusal } else { missing() }.into());
        }
        if redaction.own_only && event.pdu.sender() != redaction.sender {
            return Err(Refusal::UserSuspended.into());
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use domain::{Refusal, RoomVersion, power::Preset};
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedEventId, OwnedUserId, RoomId, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::RedactEvent;
    use crate::{
        CallError,
        room::{Direction, EventFilter, GetEvent, Messages, SendEvent},
        world::World,
    };

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn says(world: &World, room_id: &RoomId, content: &Value) -> OwnedEventId {
        world.sends(&alice(), room_id, "m.room.message", None, content).unwrap()
    }

    fn redaction(event_id: &OwnedEventId, txn: &str) -> RedactEvent {
        RedactEvent {
            sender: alice(),
            device: "PHONE".into(),
            transaction_id: txn.into(),
            event_id: event_id.clone(),
            reason: Some("said in anger".to_owned()),
            administrator: false,
            own_only: false,
        }
    }

    fn seen(world: &World, room_id: &RoomId, event_id: &OwnedEventId) -> Value {
        let call = GetEvent { user: alice(), device: "PHONE".into(), ignored: Vec::new(), event_id: event_id.clone() };
        serde_json::from_str(world.call(room_id.as_str(), &call).unwrap().get()).unwrap()
    }

    #[test]
    fn what_was_said_is_gone_from_the_database_in_every_version() {
        for version in RoomVersion::ALL {
            let world = World::new(1);
            let room_id = world.creates_room(&alice(), version, Preset::PrivateChat);
            let said = says(&world, &room_id, &json!({ "body": "a secret" }));
            let room = Address::new(ActorKind::Room, room_id.as_str());
            let kept = || {
                let rows = world.sql(&room).query("SELECT json FROM event ORDER BY position", &[]).unwrap();
                rows.into_iter().map(|mut row| row.text(0).unwrap()).collect::<String>()
            };
            assert!(kept().contains("a secret"));
            let redacted = world.call(room_id.as_str(), &redaction(&said, "r")).unwrap();
            assert!(!kept().contains("a secret"), "version {version}");
            // An event can be built on what is left, and everything is read again after an eviction.
            world.evict(&room);
            assert_eq!(world.call(room_id.as_str(), &redaction(&said, "r")).unwrap(), redacted, "the same, repeated");
            says(&world, &room_id, &json!({ "body": "calm" }));
            let event = seen(&world, &room_id, &said);
            assert_eq!(event["content"], json!({}), "version {version}");
            let because = &event["unsigned"]["redacted_because"];
            assert_eq!(because["event_id"], redacted.as_str());
            assert_eq!(because["content"]["reason"], "said in anger");
            for redacts in [&because["redacts"], &because["content"]["redacts"]] {
                assert_eq!(redacts, said.as_str(), "version {version}");
            }
        }
    }

    #[test]
    fn a_refused_redaction_changes_nothing() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "11", Preset::PrivateChat);
        let log = || {
            let call = Messages {
                user: alice(),
                device: "PHONE".into(),
                ignored: Vec::new(),
                from: None,
                to: None,
                direction: Direction::Forwards,
                filter: EventFilter { limit: Some(100), ..EventFilter::default() },
                past_gaps: false,
            };
            let page = world.call(room_id.as_str(), &call).unwrap();
            page.chunk.iter().map(|event| event.get().to_owned()).collect::<Vec<_>>()
        };
        let before = log();
        let create: Value = serde_json::from_str(&before[0]).unwrap();
        let create: OwnedEventId = create["event_id"].as_str().unwrap().try_into().unwrap();
        let refused = |event_id: &OwnedEventId| world.call(room_id.as_str(), &redaction(event_id, "r")).unwrap_err();
        assert!(matches!(refused(&create), CallError::Refused(Refusal::Forbidden(_))));
        let nothing = OwnedEventId::try_from("$nothing").unwrap();
        assert!(matches!(refused(&nothing), CallError::Refused(Refusal::NotFound(_))));
        assert_eq!(log(), before);
    }

    #[test]
    fn redactions_may_be_redacted_and_events_twice() {
        for version in ["10", "11"] {
            let world = World::new(1);
            let room_id = world.creates_room(&alice(), version, Preset::PrivateChat);
            let said = says(&world, &room_id, &json!({ "body": "a secret" }));
            let first = world.call(room_id.as_str(), &redaction(&said, "1")).unwrap();
            let second = world.call(room_id.as_str(), &redaction(&said, "2")).unwrap();
            assert_ne!(first, second);
            assert_eq!(seen(&world, &room_id, &said)["unsigned"]["redacted_because"]["event_id"], first.as_str());
            world.call(room_id.as_str(), &redaction(&first, "3")).unwrap();
            let because = seen(&world, &room_id, &said)["unsigned"]["redacted_because"].clone();
            assert_eq!(because["event_id"], first.as_str());
            assert_eq!(because["content"]["reason"], Value::Null);
            assert_eq!(because["unsigned"]["redacted_because"], Value::Null, "one level and no deeper");
        }
    }

    #[test]
    fn a_redaction_that_is_sent_is_one_by_its_sender_and_of_its_time() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "11", Preset::PublicChat);
        let bob = user_id!("@bob:myelin.test");
        world.sends(bob, &room_id, "m.room.member", Some(bob.as_str()), &json!({ "membership": "join" })).unwrap();
        let sends = |said: &OwnedEventId, administrator: bool| {
            let call = SendEvent {
                sender: bob.to_owned(),
                device: "PHONE".into(),
                transaction_id: None,
                call_id: Some(format!("{said} {administrator}")),
                event_type: "m.room.redaction".into(),
                content: to_raw_value(&json!({ "redacts": said })).unwrap(),
                state_key: None,
                member_of: Vec::new(),
                at_ms: Some(5),
                administrator,
            };
            world.call(room_id.as_str(), &call)
        };
        let said = says(&world, &room_id, &json!({ "body": "a secret" }));
        assert!(matches!(sends(&said, false), Err(CallError::Refused(Refusal::Forbidden(_)))));
        let redaction = sends(&said, true).unwrap();
        assert_eq!(seen(&world, &room_id, &said)["content"], json!({}));
        assert_eq!(seen(&world, &room_id, &redaction)["origin_server_ts"], 5);
    }
}
