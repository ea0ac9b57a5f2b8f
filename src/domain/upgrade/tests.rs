//! Upgrades between all versions; each successor is also authorised event by event.

use ruma_common::EventId;
use ruma_events::StateEventType;
use serde_json::{Value, json};

use super::{OldRoom, TRANSFERRED, Upgrade, closing_power_levels, tombstone};
use crate::{
    Pdu, Refusal, RoomVersion,
    event::Draft,
    fixture::{Room, member, state, user, version, versions},
    power::{NewRoom, Preset},
};

fn content(draft: &Draft) -> Value {
    serde_json::from_str(draft.content.get()).unwrap()
}

/// What a story sets up of an old room, and asks of its successor.
struct Story {
    room: Room,
    to: RoomVersion,
    upgrader: &'static str,
    additional_creators: Option<Value>,
}

impl Story {
    fn new(from: &str, to: &str) -> Self {
        let room = Room::of_alice(version(from), []);
        Self { room, to: version(to), upgrader: "alice", additional_creators: None }
    }

    fn with<T>(&self, then: impl FnOnce(&Upgrade<'_>, &OldRoom<'_>) -> T) -> T {
        let current = |event_type: &StateEventType| self.room.get(event_type, "");
        let state: Vec<Pdu> = TRANSFERRED.iter().filter_map(current).collect();
        let power_levels = current(&StateEventType::RoomPowerLevels);
        let bans: Vec<Pdu> = ["bob", "carol", "dave"]
            .iter()
            .filter_map(|name| {
                let member = self.room.get(&StateEventType::RoomMember, user(name).as_str())?;
                (member.content_as::<Value>().unwrap()["membership"] == "ban").then_some(member)
            })
            .collect();
        let last_event = <&EventId>::try_from("$last").unwrap();
        let old = OldRoom {
            version: &self.room.version,
            create: &self.room.create,
            last_event,
            power_levels: power_levels.as_ref(),
            state: &state,
            bans: &bans,
        };
        let upgrader = user(self.upgrader);
        let upgrade = Upgrade {
            upgrader: &upgrader,
            displayname: Some("Upgrader".to_owned()),
            avatar_url: None,
            version: &self.to,
            additional_creators: self.additional_creators.as_ref(),
        };
        then(&upgrade, &old)
    }

    fn create(&self) -> Result<Value, Refusal> {
        self.with(|upgrade, old| Ok(content(&upgrade.create_draft(old)?)))
    }

    /// The state the successor ends with, every event of it authorised.
    fn successor(&self) -> Room {
        self.with(|upgrade, old| {
            let mut request = NewRoom::new(user(self.upgrader), Preset::PrivateChat);
            request.creation_content = Some(upgrade.create_draft(old).unwrap().content);
            let mut successor = Room::created(&request, self.to.clone()).unwrap();
            for draft in upgrade.events(old).unwrap() {
                let what = (draft.event_type.to_string(), draft.state_key.clone());
                let sent = successor.send(draft);
                assert!(sent.is_ok(), "{} to {}: {what:?}: {sent:?}", self.room.version.as_str(), self.to.as_str());
            }
            successor
        })
    }

    fn levels(&self) -> Value {
        self.successor().get(&StateEventType::RoomPowerLevels, "").unwrap().content_as().unwrap()
    }
}

fn state_of(room: &Room, event_type: StateEventType) -> Value {
    room.get(&event_type, "").map_or(Value::Null, |event| event.content_as().unwrap())
}

#[test]
fn every_version_becomes_every_other() {
    for from in versions() {
        for to in versions() {
            let mut story = Story::new(from.as_str(), to.as_str());
            for (event_type, content) in [
                ("m.room.name", json!({ "name": "Tea" })),
                ("m.room.topic", json!({ "topic": "Leaves" })),
                ("m.room.avatar", json!({ "url": "mxc://a/b" })),
                ("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
                ("m.room.server_acl", json!({ "allow": ["*"] })),
                ("m.room.history_visibility", json!({ "history_visibility": "joined" })),
            ] {
                story.room.send(state("alice", event_type, "", content)).unwrap();
            }
            story.room.force(&member("bob", "bob", "join"));
            story.room.send(member("alice", "bob", "ban")).unwrap();
            let successor = story.successor();
            for event_type in TRANSFERRED {
                assert_eq!(state_of(&successor, event_type.clone()), state_of(&story.room, event_type));
            }
            let ban = successor.get(&StateEventType::RoomMember, user("bob").as_str()).unwrap();
            assert_eq!(ban.content_as::<Value>().unwrap(), json!({ "membership": "ban" }));
            assert_eq!(successor.get(&StateEventType::RoomTombstone, ""), None);
        }
    }
}

#[test]
fn the_create_event_names_its_predecessor() {
    let mut request = NewRoom::new(user("alice"), Preset::PrivateChat);
    let asked = json!({ "type": "m.space", "m.federate": false, "org.example": 1 });
    request.creation_content = Some(serde_json::value::to_raw_value(&asked).unwrap());
    for (to, creator) in [("10", true), ("11", false), ("12", false)] {
        let room = Room::created(&request, version("11")).unwrap();
        let story = Story { room, ..Story::new("11", to) };
        let create = story.create().unwrap();
        let predecessor = json!({ "room_id": story.room.create.room_id(), "event_id": "$last" });
        assert_eq!(create["predecessor"], predecessor);
        assert_eq!((&create["type"], &create["m.federate"]), (&json!("m.space"), &json!(false)));
        assert_eq!((&create["room_version"], create.get("org.example")), (&json!(to), None));
        assert_eq!(create.get("creator").is_some(), creator, "version {to}");
    }
    assert_eq!(Story::new("11", "12").create().unwrap().get("type"), None);
}

#[test]
fn additional_creators_are_who_is_named_and_no_other() {
    let creators = |to: &str, additional: Option<Value>| {
        let mut request = NewRoom::new(user("alice"), Preset::PrivateChat);
        let before = json!({ "additional_creators": [user("carol")] });
        request.creation_content = Some(serde_json::value::to_raw_value(&before).unwrap());
        let room = Room::created(&request, version("12")).unwrap();
        let story = Story { room, additional_creators: additional, ..Story::new("12", to) };
        story.create().map(|create| create.get("additional_creators").cloned())
    };
    assert_eq!(creators("12", None).unwrap(), None, "not those of before");
    assert_eq!(creators("12", Some(json!([user("bob")]))).unwrap(), Some(json!([user("bob")])));
    assert!(matches!(creators("12", Some(json!(["bob"]))), Err(Refusal::BadJson(_))));
    assert_eq!(creators("11", Some(json!(["bob"]))).unwrap(), None, "ignored where no version knows it");
}

#[test]
fn power_is_carried_over() {
    let levels = |from: &str, to: &str, users: Value, additional: Option<Value>| {
        let mut story = Story::new(from, to);
        story.additional_creators = additional;
        let content = json!({ "users": users, "ban": 60, "events": { "m.room.name": 70 }, "org.example": "kept" });
        story.room.force(&state("alice", "m.room.power_levels", "", content));
        story.levels()
    };
    let (alice, bob, carol) = ("@alice:example.org", "@bob:example.org", "@carol:example.org");
    let same = levels("10", "11", json!({ alice: 100, bob: 50 }), None);
    let expected = json!({
        "users": { alice: 100, bob: 50 }, "ban": 60, "events": { "m.room.name": 70 }, "org.example": "kept",
    });
    assert_eq!(same, expected);

    // Since v12, creators are not named, and upgrading takes more than other state.
    let newer = levels("11", "12", json!({ alice: 100, bob: 50, carol: 100 }), Some(json!([carol])));
    assert_eq!(newer["users"], json!({ bob: 50 }));
    assert_eq!(newer["events"], json!({ "m.room.name": 70, "m.room.tombstone": 150 }));

    // And back: who stood above all levels has one that is enough.
    let older = levels("12", "11", json!({ bob: 50 }), None);
    assert_eq!(older["users"], json!({ alice: 100, bob: 50 }));
}

#[test]
fn an_upgrader_with_little_power_keeps_little() {
    let mut story = Story::new("10", "11");
    story.upgrader = "bob";
    story.room.force(&member("bob", "bob", "join"));
    // carol was an administrator and still is listed as one, although banned.
    let content = json!({
        "users": { "@alice:example.org": 100, "@bob:example.org": 50, "@carol:example.org": 100 },
        "events": { "m.room.tombstone": 50, "m.room.server_acl": 100 },
    });
    story.room.send(state("alice", "m.room.power_levels", "", content.clone())).unwrap();
    story.room.send(state("alice", "m.room.server_acl", "", json!({ "allow": ["*"] }))).unwrap();
    story.room.force(&member("carol", "carol", "ban"));
    let successor = story.successor();
    assert_eq!(state_of(&successor, StateEventType::RoomPowerLevels), content);
    assert!(successor.get(&StateEventType::RoomMember, user("carol").as_str()).is_some());
    assert!(
        successor.attempt(&state("bob", "m.room.server_acl", "", json!({}))).is_err(),
        "bob has no more than before"
    );
}

#[test]
fn levels_that_are_strings_become_integers_since_v10() {
    let mut story = Story::new("9", "11");
    let content = json!({
        "users": { "@alice:example.org": " 100 ", "@bob:example.org": "much" }, "ban": "50", "kick": [],
        "events": { "m.room.name": "1", "m.room.topic": null },
    });
    story.room.force(&state("alice", "m.room.power_levels", "", content.clone()));
    let expected = json!({ "users": { "@alice:example.org": 100 }, "ban": 50, "events": { "m.room.name": 1 } });
    assert_eq!(story.levels(), expected);
}

#[test]
fn a_creator_who_was_banned_is_not() {
    let mut story = Story::new("11", "12");
    story.additional_creators = Some(json!([user("bob")]));
    story.room.force(&member("bob", "bob", "ban"));
    assert_eq!(story.successor().get(&StateEventType::RoomMember, user("bob").as_str()), None);
}

#[test]
fn a_join_rule_that_the_version_does_not_know_gives_way() {
    for (from, to, rule, expected) in [
        ("12", "11", "knock_restricted", "knock_restricted"),
        ("12", "9", "knock_restricted", "restricted"),
        ("12", "7", "knock_restricted", "knock"),
        ("12", "6", "knock_restricted", "invite"),
        ("12", "7", "restricted", "invite"),
        ("12", "8", "restricted", "restricted"),
        ("12", "6", "knock", "invite"),
        ("12", "1", "public", "public"),
        ("1", "12", "public", "public"),
    ] {
        let mut story = Story::new(from, to);
        story.room.force(&state("alice", "m.room.join_rules", "", json!({ "join_rule": rule, "allow": [] })));
        let rules = state_of(&story.successor(), StateEventType::RoomJoinRules);
        assert_eq!(rules["join_rule"], expected, "{rule} from {from} to {to}");
    }
}

#[test]
fn the_old_room_is_closed() {
    let alice = user("alice");
    for version in versions() {
        let mut room = Room::of_alice(version, [member("alice", "bob", "invite"), member("bob", "bob", "join")]);
        let replacement = ruma_common::room_id!("!new:example.org");
        room.send(tombstone(&alice, replacement).unwrap()).unwrap();
        let levels = room.get(&StateEventType::RoomPowerLevels, "").unwrap();
        room.send(closing_power_levels(&alice, &levels).unwrap()).unwrap();
        assert!(room.attempt(&crate::fixture::message("bob", json!({ "body": "hello?" }))).is_err());
        assert!(room.attempt(&member("bob", "carol", "invite")).is_err());
        assert_eq!(state_of(&room, StateEventType::RoomTombstone)["replacement_room"], "!new:example.org");
    }
}

#[test]
fn closing_raises_levels_and_never_lowers_them() {
    let alice = user("alice");
    for (content, events_default, invite) in [
        (json!({}), 50, 50),
        (json!({ "users_default": 60 }), 61, 61),
        (json!({ "events_default": 70, "invite": "80" }), 70, 80),
    ] {
        let mut room = Room::of_alice(version("9"), []);
        let levels = room.force(&state("alice", "m.room.power_levels", "", content));
        let closed = super::tests::content(&closing_power_levels(&alice, &levels).unwrap());
        assert_eq!((&closed["events_default"], &closed["invite"]), (&json!(events_default), &json!(invite)));
    }
}
