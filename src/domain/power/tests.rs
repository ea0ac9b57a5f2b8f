//! New rooms, told as tables; each is also authorised event by event.

use ruma_common::owned_room_alias_id;
use ruma_events::StateEventType;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{ADDITIONAL_CREATORS_MAX, InitialState, Invitee, NewRoom, Preset, create_draft, initial_events};
use crate::{
    Refusal, RoomVersion,
    event::Draft,
    fixture::{Room, user, version, versions},
};

const PRESETS: [Preset; 3] = [Preset::PrivateChat, Preset::TrustedPrivateChat, Preset::PublicChat];

fn raw(value: Value) -> Box<RawValue> {
    to_raw_value(&value).unwrap()
}

fn initial(event_type: &str, content: Value) -> InitialState {
    InitialState { event_type: event_type.into(), state_key: String::new(), content: raw(content) }
}

fn invitee(localpart: &str) -> Invitee {
    Invitee { user_id: user(localpart), displayname: None, avatar_url: None }
}

fn content(draft: &Draft) -> Value {
    serde_json::from_str(draft.content.get()).unwrap()
}

fn find<'a>(drafts: &'a [Draft], event_type: &str) -> Vec<&'a Draft> {
    drafts.iter().filter(|draft| draft.event_type.to_string() == event_type).collect()
}

fn only(drafts: &[Draft], event_type: &str) -> Value {
    let found = find(drafts, event_type);
    assert_eq!(found.len(), 1, "{event_type}");
    content(found[0])
}

fn full(preset: Preset) -> NewRoom {
    NewRoom {
        creator_displayname: Some("Alice".to_owned()),
        alias: Some(owned_room_alias_id!("#tea:example.org")),
        initial_state: vec![initial("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" }))],
        name: Some("Tea".to_owned()),
        topic: Some("Leaves".to_owned()),
        invite: vec![
            Invitee { displayname: Some("Bob".to_owned()), avatar_url: Some("mxc://x/bob".into()), ..invitee("bob") },
            invitee("carol"),
        ],
        is_direct: true,
        ..NewRoom::new(user("alice"), preset)
    }
}

#[test]
fn every_preset_makes_a_room_that_its_version_allows() {
    for version in versions() {
        for preset in PRESETS {
            let request = full(preset);
            let mut room = Room::created(&request, version.clone()).unwrap();
            for draft in initial_events(&request, &version).unwrap() {
                let event_type = draft.event_type.clone();
                let sent = room.send(draft);
                assert!(sent.is_ok(), "version {} {preset:?} {event_type}: {sent:?}", version.as_str());
            }
        }
    }
}

#[test]
fn events_come_in_the_order_of_the_spec() {
    let drafts = initial_events(&full(Preset::PrivateChat), &version("12")).unwrap();
    let order: Vec<_> =
        drafts.iter().map(|draft| (draft.event_type.to_string(), draft.state_key.clone().unwrap())).collect();
    let expected = [
        ("m.room.member", "@alice:example.org"),
        ("m.room.power_levels", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("m.room.encryption", ""),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        ("m.room.member", "@bob:example.org"),
        ("m.room.member", "@carol:example.org"),
    ];
    assert_eq!(order, expected.map(|(event_type, state_key)| (event_type.to_owned(), state_key.to_owned())));

    assert_eq!(content(&drafts[0]), json!({ "membership": "join", "displayname": "Alice" }));
    assert_eq!(only(&drafts, "m.room.canonical_alias"), json!({ "alias": "#tea:example.org" }));
    let text = json!([{ "body": "Leaves", "mimetype": "text/plain" }]);
    assert_eq!(only(&drafts, "m.room.topic"), json!({ "topic": "Leaves", "m.topic": { "m.text": text } }));
    let bob = json!({ "membership": "invite", "is_direct": true, "displayname": "Bob", "avatar_url": "mxc://x/bob" });
    assert_eq!(content(&drafts[9]), bob);
    assert_eq!(content(&drafts[10]), json!({ "membership": "invite", "is_direct": true }));
}

#[test]
fn presets_as_the_table_of_the_spec() {
    let table = [
        (Preset::PrivateChat, "invite", "shared", "can_join"),
        (Preset::TrustedPrivateChat, "invite", "shared", "can_join"),
        (Preset::PublicChat, "public", "shared", "forbidden"),
    ];
    for version in ["1", "10", "11", "12"].map(version) {
        for (preset, join_rule, history_visibility, guest_access) in table {
            let drafts = initial_events(&NewRoom::new(user("alice"), preset), &version).unwrap();
            assert_eq!(drafts.len(), 5);
            assert_eq!(only(&drafts, "m.room.join_rules"), json!({ "join_rule": join_rule }));
            let visibility = only(&drafts, "m.room.history_visibility");
            assert_eq!(visibility, json!({ "history_visibility": history_visibility }));
            assert_eq!(only(&drafts, "m.room.guest_access"), json!({ "guest_access": guest_access }));
        }
    }
}

#[test]
fn power_by_preset_and_version() {
    let alice = json!({ "@alice:example.org": 100 });
    let all = json!({ "@alice:example.org": 100, "@bob:example.org": 100, "@carol:example.org": 100 });
    let none = json!({});
    let invited = json!(["@bob:example.org", "@carol:example.org"]);
    for (version_id, preset, users, tombstone, creators, creator) in [
        ("1", Preset::PrivateChat, &alice, 100, None, true),
        ("1", Preset::TrustedPrivateChat, &all, 100, None, true),
        ("10", Preset::PublicChat, &alice, 100, None, true),
        ("10", Preset::TrustedPrivateChat, &all, 100, None, true),
        ("11", Preset::PrivateChat, &alice, 100, None, false),
        ("11", Preset::TrustedPrivateChat, &all, 100, None, false),
        ("12", Preset::PrivateChat, &none, 150, None, false),
        ("12", Preset::PublicChat, &none, 150, None, false),
        ("12", Preset::TrustedPrivateChat, &none, 150, Some(&invited), false),
    ] {
        let version = version(version_id);
        let create = content(&create_draft(&full(preset), &version).unwrap());
        assert_eq!(create["room_version"], version_id);
        assert_eq!(create.get("additional_creators"), creators, "version {version_id} {preset:?}");
        assert_eq!(create.get("creator").is_some(), creator, "version {version_id}");
        let levels = only(&initial_events(&full(preset), &version).unwrap(), "m.room.power_levels");
        assert_eq!(&levels["users"], users, "version {version_id} {preset:?}");
        assert_eq!(levels["events"]["m.room.tombstone"], tombstone);
        assert_eq!(levels["state_default"], 50);
    }
}

#[test]
fn the_client_may_replace_power_levels_key_by_key() {
    let with = |override_: Value, version_id: &str| {
        let request = NewRoom {
            power_level_content_override: Some(raw(override_)),
            ..NewRoom::new(user("alice"), Preset::PublicChat)
        };
        initial_events(&request, &version(version_id)).map(|drafts| only(&drafts, "m.room.power_levels"))
    };
    let levels = with(json!({ "events": { "m.room.name": 0 }, "invite": 7, "org.example": {} }), "11").unwrap();
    assert_eq!(levels["events"], json!({ "m.room.name": 0 }));
    assert_eq!((&levels["invite"], &levels["ban"]), (&json!(7), &json!(50)));
    assert_eq!(levels["org.example"], json!({}));

    // Since v12, an upgrade stays above state_default unless the client says otherwise.
    for (override_, tombstone) in [
        (json!({ "events": {} }), 150),
        (json!({ "events": {}, "state_default": 200 }), 201),
        (json!({ "events": { "m.room.tombstone": 60 } }), 60),
        (json!({ "events": { "m.room.tombstone": 50 } }), 50),
        (json!({ "events": { "m.room.tombstone": 150 }, "state_default": 150 }), 150),
    ] {
        assert_eq!(with(override_, "12").unwrap()["events"]["m.room.tombstone"], tombstone);
    }
    let creator = with(json!({ "users": { "@alice:example.org": 100 } }), "12");
    assert!(matches!(creator, Err(Refusal::InvalidRoomState(_))), "{creator:?}");
    assert!(with(json!({ "users": { "@bob:example.org": 100 } }), "12").is_ok());
    assert!(matches!(with(json!("everything"), "12"), Err(Refusal::BadJson(_))));
}

#[test]
fn initial_state_replaces_presets_and_gives_way_to_name_and_topic() {
    let request = NewRoom {
        initial_state: vec![
            initial("m.room.join_rules", json!({ "join_rule": "knock" })),
            initial("m.room.guest_access", json!({ "guest_access": "forbidden" })),
            initial("m.room.name", json!({ "name": "not this" })),
            initial("m.room.topic", json!({ "topic": "this" })),
            initial("m.room.canonical_alias", json!({ "alias": "#mine:example.org" })),
            initial("m.room.power_levels", json!({ "users": { "@alice:example.org": 100 }, "ban": 99 })),
        ],
        name: Some("this".to_owned()),
        alias: Some(owned_room_alias_id!("#tea:example.org")),
        power_level_content_override: Some(raw(json!({ "kick": 98 }))),
        ..NewRoom::new(user("alice"), Preset::PrivateChat)
    };
    let drafts = initial_events(&request, &version("11")).unwrap();
    for (event_type, expected) in [
        ("m.room.join_rules", json!({ "join_rule": "knock" })),
        ("m.room.guest_access", json!({ "guest_access": "forbidden" })),
        ("m.room.history_visibility", json!({ "history_visibility": "shared" })),
        ("m.room.name", json!({ "name": "this" })),
        ("m.room.topic", json!({ "topic": "this" })),
        ("m.room.canonical_alias", json!({ "alias": "#mine:example.org" })),
        ("m.room.power_levels", json!({ "users": { "@alice:example.org": 100 }, "ban": 99 })),
    ] {
        assert_eq!(only(&drafts, event_type), expected);
    }
    assert_eq!(drafts[1].event_type.to_string(), "m.room.power_levels", "in its place");
    let with_key = InitialState { state_key: "x".to_owned(), ..initial("m.room.join_rules", json!({})) };
    let request = NewRoom { initial_state: vec![with_key], ..NewRoom::new(user("alice"), Preset::PrivateChat) };
    let drafts = initial_events(&request, &version("11")).unwrap();
    assert_eq!(find(&drafts, &StateEventType::RoomJoinRules.to_string()).len(), 2, "another key is another event");
}

#[test]
fn creation_content_is_the_clients_but_for_version_and_creators() {
    let create = |version: &RoomVersion, creation_content: Value| {
        let request = NewRoom {
            creation_content: Some(raw(creation_content)),
            invite: vec![invitee("bob"), invitee("alice")],
            ..NewRoom::new(user("alice"), Preset::TrustedPrivateChat)
        };
        create_draft(&request, version).map(|draft| content(&draft))
    };
    let asked = json!({ "m.federate": false, "type": "m.space", "room_version": "99", "creator": "@eve:example.org" });
    for (version_id, creator) in [("1", Some("@alice:example.org")), ("10", Some("@alice:example.org")), ("11", None)] {
        let created = create(&version(version_id), asked.clone()).unwrap();
        assert_eq!((&created["m.federate"], &created["type"]), (&json!(false), &json!("m.space")));
        assert_eq!(created["room_version"], version_id);
        assert_eq!(created.get("creator").and_then(Value::as_str), creator);
    }
    let twice = json!({ "additional_creators": ["@carol:example.org", "@bob:example.org", "@carol:example.org"] });
    let created = create(&version("12"), twice.clone()).unwrap();
    assert_eq!(created["additional_creators"], json!(["@carol:example.org", "@bob:example.org"]));
    assert_eq!(create(&version("11"), twice.clone()).unwrap()["additional_creators"], twice["additional_creators"]);
    for bad in [json!("@carol:example.org"), json!([1]), json!(["carol"]), json!(null)] {
        let created = create(&version("12"), json!({ "additional_creators": bad }));
        assert!(matches!(created, Err(Refusal::BadJson(_))), "{created:?}");
    }
    let many = |count: usize| {
        let creators: Vec<_> = (0..count).map(|number| user(&format!("user{number}"))).collect();
        create(&version("12"), json!({ "additional_creators": creators }))
    };
    assert_eq!(
        many(ADDITIONAL_CREATORS_MAX).unwrap()["additional_creators"].as_array().unwrap().len(),
        ADDITIONAL_CREATORS_MAX + 1
    );
    let created = many(ADDITIONAL_CREATORS_MAX + 1);
    assert!(matches!(created, Err(Refusal::InvalidParam(_))), "{created:?}");
}
