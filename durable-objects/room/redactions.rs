//! What redactions that came do to the events they name, and when clients learn of them.
//!
//! Guarantees: of the redactions of an event that may redact it the first one in the room's order does, whichever came
//! first. No client is told of a redaction that redacts nothing, and all are told of one that does; where that came
//! before its event, they are told with that: it comes without what was redacted, and names what did it.
//! Spec: Room Version 3, "Handling redactions".

use domain::{Pdu, event, redaction};
use platform::{Fault, Sql, Tx};
use ruma_common::EventId;
use ruma_events::TimelineEventType;

use super::{
    Room,
    append::{AuthState, follow_state, owe_stripped_state},
    store,
};
use crate::{Cx, Error};

/// The most redactions by users without power over others that wait for one event: each is judged when it comes.
pub(super) const EARLY_REDACTIONS_MAX: u64 = 50;

impl Room {
    /// A redaction that came takes effect, on what is here or on what will come; so does one that was here first.
    ///
    /// One that has no effect is kept from clients, who would hide what it names. So is one whose event came after it:
    /// syncs went past its place. In history that is read backwards that is every one's, and it comes into sight
    /// with its event. Other servers get it as any event. Spec: Room Version 3, "Handling redactions": «they should
    /// not be sent to clients until both the redaction event and the event it redacts have been received, and can be
    /// validated».
    pub(super) fn redactions_follow(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: &Pdu, position: u64) -> Result<(), Error> {
        let version = self.version(&**tx)?;
        if *pdu.event_type() == TimelineEventType::RoomRedaction {
            let redacts = pdu.redacts(&version);
            let is_valid = match &redacts {
                Some(redacts) if store::graph::by_id(&**tx, redacts)?.is_some() => {
                    self.redact_if_allowed(tx, cx, redacts, pdu, position)?
                }
                Some(redacts) => {
                    self.redacts_early(tx, redacts, pdu, position)?;
                    false
                }
                None => false,
            };
            // What is state is part of what clients are told the state is.
            if !is_valid && pdu.state_key().is_none() {
                store::log::withhold(tx, position)?;
            }
        }
        for early in store::graph::take_early_redactions(tx, pdu.event_id())? {
            if let Some(because) = store::log::one(&**tx, early)?
                && self.redact_if_allowed(tx, cx, pdu.event_id(), &because.pdu, early)?
                && position < early
            {
                store::log::show(tx, early)?;
            }
        }
        Ok(())
    }

    /// A redaction waits for its event, and is judged when that comes. Of those whose senders may not redact the events
    /// of others only so many do.
    fn redacts_early(&self, tx: &Tx<'_>, redacts: &EventId, because: &Pdu, position: u64) -> Result<(), Error> {
        let may_redact_others = self.may_redact_others(&**tx, because)?;
        let kept_max = if may_redact_others { platform::INTEGER_MAX as u64 } else { EARLY_REDACTIONS_MAX };
        Ok(store::graph::insert_early_redaction(tx, redacts, position, kept_max)?)
    }

    /// Whether the state before a redaction has its sender redact the events of others.
    fn may_redact_others(&self, sql: &dyn Sql, because: &Pdu) -> Result<bool, Error> {
        let version = self.version(sql)?;
        let node = store::graph::by_id(sql, because.event_id())?;
        let before = node.map(|node| node.state_before(sql)).transpose()?.flatten();
        let needed = [TimelineEventType::RoomCreate, TimelineEventType::RoomPowerLevels];
        let needed = needed.map(|event_type| (event_type.to_string().into(), String::new()));
        let state = AuthState::load(sql, &version, &needed, before.as_ref())?;
        let state = |event_type: &_, state_key: &str| state.get(event_type, state_key);
        Ok(redaction::may_redact_others(because.sender(), &version, &state).unwrap_or(false))
    }

    /// Whether the sender of a redaction may redact an event. Spec: Room Version 3, "Handling redactions". Before, that
    /// is for the rules of authorisation, by which the redaction is here: Room Version 1, rule 11.
    fn may_redact(&self, sql: &dyn Sql, because: &Pdu, event: &Pdu) -> Result<bool, Error> {
        if event.room_id() != because.room_id() {
            return Ok(false);
        }
        if self.version(sql)?.rules().authorization.special_case_room_redaction {
            return Ok(true);
        }
        let same_server = because.sender().server_name() == event.sender().server_name();
        Ok(same_server || self.may_redact_others(sql, because)?)
    }

    /// Answers whether it is allowed: of several redactions that are, one takes effect.
    fn redact_if_allowed(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        event_id: &EventId,
        because: &Pdu,
        position: u64,
    ) -> Result<bool, Error> {
        let version = self.version(&**tx)?;
        let Some(event) = store::log::anywhere(&**tx, event_id.as_str())? else { return Ok(false) };
        if !self.may_redact(&**tx, because, &event.pdu)? {
            return Ok(false);
        }
        // Of several redactions the first one in the room's order counts; history may bring it last.
        if event.redacted_by.is_some_and(|by| by <= position) {
            return Ok(true);
        }
        // What it redacts a redaction may say no more: it may be redacted itself.
        let redacted = event::redact(&event.pdu, &version, None)
            .map_err(|error| Fault::new(format!("a stored event does not redact: {error}")))?;
        store::log::redact(tx, event.position, &redacted, position)?;
        self.redacted(tx, cx, &redacted)?;
        owe_stripped_state(tx, cx, &event, position)?;
        Ok(true)
    }

    /// What follows from an event that was stripped.
    pub(super) fn redacted(&self, tx: &Tx<'_>, cx: &Cx<'_>, redacted: &Pdu) -> Result<(), Error> {
        if *redacted.event_type() == TimelineEventType::RoomGuestAccess {
            self.expel_guests(tx, cx)?;
        }
        if let Some(state_key) = redacted.state_key() {
            follow_state(tx, cx, &redacted.event_type().to_string(), state_key)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use domain::{event::Draft, power::Preset};
    use platform::{ActorKind, Address};
    use ruma_common::{EventId, user_id};
    use serde_json::{json, value::to_raw_value};

    use crate::{
        room::{ReceiveEvent, Received, store},
        world::World,
    };

    /// Before version 11 a redaction that is redacted says no more what it redacts.
    #[test]
    fn an_event_comes_after_a_redaction_that_was_redacted_meanwhile() {
        for version in ["10", "11"] {
            let world = World::new(1);
            let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
            let room_id = world.creates_room(alice, version, Preset::PublicChat);
            world.joins_from_elsewhere(&room_id, zoe);
            let prev = world.newest(&room_id, "m.room.member", zoe.as_str());
            let says = |event_type: &str, redacts: Option<&EventId>| {
                let content = if redacts.is_none() { json!({ "body": "secret" }) } else { json!({}) };
                let draft = Draft {
                    event_type: event_type.into(),
                    content: to_raw_value(&content).unwrap(),
                    state_key: None,
                    sender: zoe.to_owned(),
                    redacts: redacts.map(ToOwned::to_owned),
                };
                world.says_elsewhere(&room_id, &draft, &prev)
            };
            let said = says("m.room.message", None);
            let first = says("m.room.redaction", Some(&said.event_id));
            let second = says("m.room.redaction", Some(&first.event_id));
            for event in [&first, &second, &said] {
                let received = world.call(room_id.as_str(), &ReceiveEvent::of(event.clone()));
                assert!(matches!(received, Ok(Received::Accepted)), "version {version}: {received:?}");
            }
            let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
            let stored = store::log::by_id(&*sql, said.event_id.as_str()).unwrap().unwrap();
            assert_eq!((stored.pdu.content().get(), stored.redacted_by.is_some()), ("{}", true), "version {version}");
        }
    }
}
