//! The first of the rules of authorisation as they are written, version by version: what a create event is, what an
//! event may name as its `auth_events`, whom a room lets federate, and what comes before every question of membership
//! and power.
//!
//! What comes after these is in [`super::written_rules`]. Spec: Room Versions, "Authorisation rules".

use ruma_common::EventId;
use ruma_events::StateEventType;
use serde_json::{Value, json, value::to_raw_value};

use super::{check_against_state, check_auth_events, check_create};
use crate::{
    Pdu, RoomVersion,
    event::Draft,
    fixture::{Room, member, message, state, user, versions},
    power::{NewRoom, Preset},
};

fn number(version: &RoomVersion) -> u32 {
    version.as_str().parse().unwrap()
}

/// The event with something else in it, under its own id.
fn altered(pdu: &Pdu, change: &dyn Fn(&mut Value)) -> Pdu {
    let mut event: Value = serde_json::from_str(pdu.json()).unwrap();
    change(&mut event);
    Pdu::from_stored(pdu.event_id().to_owned(), event.to_string(), false).unwrap()
}

/// An event as another names it.
fn named(version: &RoomVersion, event_id: &EventId) -> Value {
    if number(version) < 3 { json!([event_id, { "sha256": "hash" }]) } else { json!(event_id) }
}

/// Created by alice, with this in the create event's content besides.
fn created(version: &RoomVersion, content: &Value) -> Room {
    let mut request = NewRoom::new(user("alice"), Preset::PrivateChat);
    request.creation_content = Some(to_raw_value(content).unwrap());
    Room::created(&request, version.clone()).unwrap()
}

fn is_in(room: &mut Room, who: &str) {
    room.force(&member(who, who, "join"));
}

fn may(room: &Room, pdu: &Pdu) -> bool {
    check_against_state(pdu, &room.version, &|event_type, state_key| room.get(event_type, state_key)).is_ok()
}

#[test]
fn what_a_create_event_is() {
    type Change = fn(&mut Value);
    let unchanged: Change = |_| {};
    // Until which version it is one, from which on.
    let table: [(&str, Change, [u32; 2]); 13] = [
        ("as it is", unchanged, [1, 12]),
        ("a room of another server", |event| event["room_id"] = json!("!room:other.org"), [1, 0]),
        ("a room's id", |event| event["room_id"] = json!("!room:example.org"), [1, 11]),
        ("an unheard version", |event| event["content"]["room_version"] = json!("org.example.13"), [1, 0]),
        ("no version", |event| drop(event["content"].as_object_mut().unwrap().remove("room_version")), [1, 12]),
        ("no creator", |event| drop(event["content"].as_object_mut().unwrap().remove("creator")), [11, 12]),
        ("a creator", |event| event["content"]["creator"] = json!("@alice:example.org"), [1, 12]),
        ("no more creators", |event| event["content"]["additional_creators"] = json!([]), [1, 12]),
        ("more creators", |event| event["content"]["additional_creators"] = json!(["@bob:other.org"]), [1, 12]),
        ("a creator for many", |event| event["content"]["additional_creators"] = json!("@bob:other.org"), [1, 11]),
        ("creators that are numbers", |event| event["content"]["additional_creators"] = json!([1]), [1, 11]),
        ("creators that are no users", |event| event["content"]["additional_creators"] = json!(["bob"]), [1, 11]),
        ("a creator who is nothing", |event| event["content"]["additional_creators"] = Value::Null, [1, 11]),
    ];
    for version in versions() {
        let create = created(&version, &json!({})).create;
        for (what, change, [first, last]) in table {
            let is_one = check_create(&altered(&create, &change), &version).is_ok();
            assert_eq!(is_one, (first..=last).contains(&number(&version)), "version {}: {what}", version.as_str());
        }
        let with_previous =
            altered(&create, &|event| event["prev_events"] = json!([named(&version, create.event_id())]));
        assert!(check_create(&with_previous, &version).is_err(), "version {}: previous events", version.as_str());
    }
}

#[test]
fn what_an_event_names_as_its_auth_events() {
    for version in versions() {
        let mut room = Room::of_alice(version.clone(), []);
        let topic = room.send(state("alice", "m.room.topic", "", json!({ "topic": "tea" }))).unwrap();
        let old_levels = room.get(&StateEventType::RoomPowerLevels, "").unwrap();
        let levels = serde_json::from_str::<Value>(old_levels.content().get()).unwrap();
        room.send(state("alice", "m.room.power_levels", "", levels)).unwrap();
        let pdu = room.build(&message("alice", json!({ "body": "hi" }))).unwrap();
        let elsewhere = altered(&topic, &|event| event["room_id"] = json!("!other:example.org"));
        let selection: Vec<Value> =
            serde_json::from_str::<Value>(pdu.json()).unwrap()["auth_events"].as_array().unwrap().clone();
        let create = named(&version, room.create.event_id());
        let is_create = |name: &Value| name.to_string().contains(room.create.event_id().as_str());
        let with = |more: &Value| selection.iter().cloned().chain([more.clone()]).collect::<Vec<_>>();
        let without_create: Vec<_> = selection.iter().filter(|name| !is_create(name)).cloned().collect();
        let until_11 = number(&version) < 12;
        for (what, names, expected) in [
            ("its own selection", selection.clone(), true),
            ("one of them twice", with(&selection[0]), false),
            ("two for one key", with(&named(&version, old_levels.event_id())), false),
            ("one that decides nothing", with(&named(&version, topic.event_id())), false),
            ("the create event", without_create.iter().cloned().chain([create]).collect(), until_11),
            ("no create event", without_create, !until_11),
            ("nothing", Vec::new(), !until_11),
        ] {
            let pdu = altered(&pdu, &|event| event["auth_events"] = json!(names));
            let known = check_auth_events(&pdu, &version, &|event_id| room.events.get(event_id).cloned());
            assert_eq!(known.is_ok(), expected, "version {}: {what}", version.as_str());
        }
        // Events of another room, and of a room whose create event was rejected or is not there.
        let levels = room.get(&StateEventType::RoomPowerLevels, "").unwrap();
        let foreign = altered(&levels, &|event| event["room_id"] = json!(elsewhere.room_id()));
        let rejected = Pdu::from_stored(room.create.event_id().to_owned(), room.create.json(), true).unwrap();
        for (what, id, instead) in [
            ("of another room", levels.event_id(), Some(foreign)),
            ("a rejected create event", room.create.event_id(), Some(rejected)),
            ("no create event at all", room.create.event_id(), None),
        ] {
            let fetch = |event_id: &EventId| {
                if event_id == id { instead.clone() } else { room.events.get(event_id).cloned() }
            };
            assert!(check_auth_events(&pdu, &version, &fetch).is_err(), "version {}: {what}", version.as_str());
        }
    }
}

#[test]
fn a_room_that_does_not_federate_is_its_servers() {
    for version in versions() {
        for (content, expected) in
            [(json!({}), true), (json!({ "m.federate": true }), true), (json!({ "m.federate": false }), false)]
        {
            let mut room = created(&version, &content);
            is_in(&mut room, "alice");
            room.force(&state("alice", "m.room.join_rules", "", json!({ "join_rule": "public" })));
            let eve: ruma_common::OwnedUserId = "@eve:other.org".try_into().unwrap();
            let by_eve = |draft: Draft| Draft { sender: eve.clone(), ..draft };
            let join = by_eve(state("eve", "m.room.member", eve.as_str(), json!({ "membership": "join" })));
            let told = (version.as_str(), content);
            assert_eq!(may(&room, &room.build(&join).unwrap()), expected, "{told:?}");
            room.force(&join);
            let said = room.build(&by_eve(message("eve", json!({ "body": "hi" })))).unwrap();
            assert_eq!(may(&room, &said), expected, "{told:?}");
            is_in(&mut room, "bob");
            assert!(may(&room, &room.build(&message("bob", json!({ "body": "hi" }))).unwrap()), "{told:?}");
        }
    }
}

#[test]
fn a_membership_is_somebodys_and_says_which() {
    for version in versions() {
        let mut room = created(&version, &json!({}));
        is_in(&mut room, "alice");
        let invitation = room.build(&member("alice", "bob", "invite")).unwrap();
        assert!(may(&room, &invitation));
        let changes: [fn(&mut Value); 4] = [
            |event| drop(event.as_object_mut().unwrap().remove("state_key")),
            |event| event["content"] = json!({}),
            |event| event["content"]["membership"] = json!(1),
            |event| event["content"]["membership"] = json!("Invite"),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert!(!may(&room, &altered(&invitation, &change)), "version {}: {number}", version.as_str());
        }
    }
}

#[test]
fn the_first_to_join_is_who_made_the_room() {
    for version in versions() {
        let creators = json!({ "additional_creators": [user("carol")] });
        let room = created(&version, &creators);
        // Until version 10 the content says who that is, since 11 the sender.
        let create = altered(&room.create, &|event| event["content"]["creator"] = json!(user("bob")));
        let by_content = number(&version) <= 10;
        for (who, expected) in [("alice", !by_content), ("bob", by_content), ("carol", false)] {
            let join = room.build(&member(who, who, "join")).unwrap();
            let allowed = check_against_state(&join, &version, &|event_type, _| {
                (*event_type == StateEventType::RoomCreate).then(|| create.clone())
            });
            assert_eq!(allowed.is_ok(), expected, "version {}: {who}", version.as_str());
        }
        // Nor does anybody join as the first where something came before.
        let mut room = room;
        room.force(&state("alice", "m.room.topic", "", json!({ "topic": "tea" })));
        let late = room.build(&member("alice", "alice", "join")).unwrap();
        assert!(!may(&room, &late), "version {}", version.as_str());
    }
}

#[test]
fn until_version_5_aliases_ask_for_no_membership() {
    for version in versions() {
        let mut room = created(&version, &json!({}));
        is_in(&mut room, "alice");
        let aliases = room.build(&state("bob", "m.room.aliases", "example.org", json!({ "aliases": [] }))).unwrap();
        assert_eq!(may(&room, &aliases), number(&version) <= 5, "version {}", version.as_str());
        is_in(&mut room, "bob");
        let keyless = Draft { state_key: None, ..state("bob", "m.room.aliases", "", json!({ "aliases": [] })) };
        let keyless = room.build(&keyless).unwrap();
        assert_eq!(may(&room, &keyless), number(&version) >= 6, "version {}", version.as_str());
    }
}
