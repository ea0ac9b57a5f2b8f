use domain::{Pdu, event::Draft, power::Preset};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, UserId, user_id};
use serde_json::{json, value::to_raw_value};

use super::{CheckedEvent, EARLY_REDACTIONS_MAX, ReceiveEvent, Received};
use crate::{
    room::{GetMissing, GetStateIds, store},
    world::World,
};
use platform::{ActorKind, Address};

fn draft(sender: &UserId, event_type: &str, content: &serde_json::Value) -> Draft {
    Draft {
        event_type: event_type.into(),
        content: to_raw_value(content).unwrap(),
        state_key: None,
        sender: sender.to_owned(),
        redacts: None,
    }
}

fn redacts(world: &World, room_id: &OwnedRoomId, sender: &UserId, event_id: &EventId, reason: u64) -> CheckedEvent {
    let draft = draft(sender, "m.room.redaction", &json!({ "redacts": event_id, "reason": reason.to_string() }));
    world.says_elsewhere(room_id, &draft, &world.newest(room_id, "m.room.power_levels", ""))
}

fn comes(world: &World, room_id: &OwnedRoomId, event: &CheckedEvent) {
    let call = ReceiveEvent { event: event.clone(), state_before: None, is_unwanted: false };
    assert_eq!(world.call(room_id.as_str(), &call).unwrap(), Received::Accepted);
}

/// More than goes into one statement, or into one row.
#[test]
fn a_state_of_very_many_events_is_told_and_believed() {
    const MEMBERS: usize = 45_000;
    let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
    let world = World::new(1);
    let room_id = world.creates_room(alice, "11", Preset::PublicChat);
    world.joins_from_elsewhere(&room_id, zoe);
    world.crowds(&room_id, MEMBERS as u64);
    world.sends(alice, &room_id, "m.room.message", None, &json!({})).unwrap();
    let newest = world.newest(&room_id, "m.room.message", "");
    let call = GetStateIds { server: None, event_id: newest.event_id().to_owned(), auth_chain_only: false };
    let mut state = world.call(room_id.as_str(), &call).unwrap().state;
    assert!(state.len() > MEMBERS);
    assert!(world.call(room_id.as_str(), &GetMissing { event_ids: state.clone() }).unwrap().is_empty());
    // It comes after something that is not here, in a state without some of the members.
    let between = world.says_elsewhere(&room_id, &draft(zoe, "m.room.message", &json!({ "n": 1 })), &newest);
    let between = Pdu::from_stored(between.event_id, between.json, false).unwrap();
    let event = world.says_elsewhere(&room_id, &draft(zoe, "m.room.message", &json!({ "n": 2 })), &between);
    let is_one = |event_id: &OwnedEventId| event_id.as_str().starts_with("$crowd1111");
    state.retain(|event_id| !is_one(event_id));
    let call = ReceiveEvent { event: event.clone(), state_before: Some(state.clone()), is_unwanted: false };
    assert_eq!(world.call(room_id.as_str(), &call).unwrap(), Received::Accepted);
    let call = GetStateIds { server: None, event_id: event.event_id, auth_chain_only: false };
    let mut told = world.call(room_id.as_str(), &call).unwrap().state;
    told.sort();
    state.sort();
    assert_eq!(told, state);
}

/// Whoever has no power redacts first, as often as they like: what is to redact the event does.
#[test]
fn of_redactions_that_come_before_their_event_those_count_that_may_redact_it() {
    let (zoe, max, yan) = (user_id!("@zoe:there.test"), user_id!("@max:mods.test"), user_id!("@yan:other.test"));
    let own = user_id!("@yves:other.test");
    for (floods, redactors, is_redacted) in [
        (false, vec![zoe], false),
        (false, vec![zoe, max], true),
        (false, vec![max, zoe], true),
        (true, vec![max], true),
        // A user of the event's own server.
        (false, vec![zoe, own], true),
    ] {
        let world = World::new(1);
        let alice = user_id!("@alice:myelin.test");
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        for user in [zoe, max, yan, own] {
            world.joins_from_elsewhere(&room_id, user);
        }
        let levels = json!({ "users": { (alice.as_str()): 100, (max.as_str()): 50 } });
        world.sends(alice, &room_id, "m.room.power_levels", Some(""), &levels).unwrap();
        let prev = world.newest(&room_id, "m.room.power_levels", "");
        let said = world.says_elsewhere(&room_id, &draft(yan, "m.room.message", &json!({ "body": "x" })), &prev);
        for number in 0..if floods { EARLY_REDACTIONS_MAX + 5 } else { 0 } {
            comes(&world, &room_id, &redacts(&world, &room_id, zoe, &said.event_id, number));
        }
        for redactor in &redactors {
            comes(&world, &room_id, &redacts(&world, &room_id, redactor, &said.event_id, 1_000));
        }
        comes(&world, &room_id, &said);
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let event = store::log::by_id(&*sql, said.event_id.as_str()).unwrap().unwrap();
        assert_eq!(event.redacted_by.is_some(), is_redacted, "{redactors:?}");
        assert_eq!(event.pdu.content().get() == "{}", is_redacted);
    }
}
