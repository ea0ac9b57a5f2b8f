use domain::{Pdu, event::Draft, power::Preset};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, UserId, user_id};
use serde_json::{Value, json, value::to_raw_value};

use super::{CheckedEvent, ReceiveEvent, Received};
use crate::{
    room::{
        Direction, EventFilter, GetEvent, GetMissing, GetStateIds, Messages, redactions::EARLY_REDACTIONS_MAX, store,
    },
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

/// How many redactions a user is shown from a position on.
fn redactions_shown(world: &World, room_id: &OwnedRoomId, user: &UserId, from: Option<u64>) -> usize {
    let call = Messages {
        user: user.to_owned(),
        device: "PHONE".into(),
        ignored: Vec::new(),
        from,
        to: None,
        direction: Direction::Forwards,
        filter: EventFilter { limit: Some(1_000), ..EventFilter::default() },
        past_gaps: true,
    };
    let page = world.call(room_id.as_str(), &call).unwrap();
    let events = page.chunk.iter().map(|event| serde_json::from_str::<Value>(event.get()).unwrap());
    events.filter(|event| event["type"] == "m.room.redaction").count()
}

/// Nobody hides what somebody else said by saying that they do.
#[test]
fn a_redaction_without_effect_is_not_shown() {
    let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
    let world = World::new(1);
    let room_id = world.creates_room(alice, "11", Preset::PublicChat);
    world.joins_from_elsewhere(&room_id, zoe);
    let said = world.sends(alice, &room_id, "m.room.message", None, &json!({ "body": "x" })).unwrap();
    let relation = json!({ "rel_type": "m.thread", "event_id": said });
    let content = json!({ "redacts": said, "m.relates_to": relation });
    let prev = world.newest(&room_id, "m.room.message", "");
    let refused = world.says_elsewhere(&room_id, &draft(zoe, "m.room.redaction", &content), &prev);
    comes(&world, &room_id, &refused);
    assert_eq!(redactions_shown(&world, &room_id, alice, None), 0);
    let event = |event_id: &EventId| {
        let (user, device) = (alice.to_owned(), "PHONE".into());
        let call = GetEvent { user, device, ignored: Vec::new(), event_id: event_id.to_owned() };
        world.call(room_id.as_str(), &call).map(|event| event.get().to_owned())
    };
    assert!(event(&refused.event_id).is_err());
    assert!(!event(&said).unwrap().contains("m.thread"));
    // Others are served it, as what comes after it needs it.
    let call = GetStateIds { server: None, event_id: refused.event_id, auth_chain_only: false, omit_members: false };
    assert!(world.call(room_id.as_str(), &call).is_ok());
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
    let call = GetStateIds {
        server: None,
        event_id: newest.event_id().to_owned(),
        auth_chain_only: false,
        omit_members: false,
    };
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
    let call = GetStateIds { server: None, event_id: event.event_id, auth_chain_only: false, omit_members: false };
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
        assert_eq!(redactions_shown(&world, &room_id, alice, None), 0, "{redactors:?}");
        comes(&world, &room_id, &said);
        // What became of it is told with it; and the room goes on.
        assert_eq!(redactions_shown(&world, &room_id, alice, None), 0, "{redactors:?}");
        let (user, device) = (alice.to_owned(), "PHONE".into());
        let call = GetEvent { user, device, ignored: Vec::new(), event_id: said.event_id.clone() };
        let shown = world.call(room_id.as_str(), &call).unwrap();
        assert_eq!(shown.get().contains("redacted_because"), is_redacted, "{redactors:?}");
        let follows = world.sends(alice, &room_id, "m.room.message", None, &json!({ "body": "y" })).unwrap();
        let call = GetStateIds { server: None, event_id: follows, auth_chain_only: false, omit_members: false };
        assert!(world.call(room_id.as_str(), &call).is_ok());
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let event = store::log::by_id(&*sql, said.event_id.as_str()).unwrap().unwrap();
        assert_eq!(event.redacted_by.is_some(), is_redacted, "{redactors:?}");
        assert_eq!(event.pdu.content().get() == "{}", is_redacted);
    }
}
