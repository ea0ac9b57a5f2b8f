//! The rules on a small fixture. That each rule is right is ruma's to test; that we ask them all is ours.

use ruma_events::{StateEventType, TimelineEventType};
use serde_json::json;

use super::{check_against_auth_events, check_against_state, check_auth_events, check_create, needed_for};
use crate::{
    Pdu, Refusal,
    event::Draft,
    fixture::{Room, member, message, state, user, version, versions},
};

fn with_join_rule(version_id: &str, join_rule: &str) -> Room {
    let content = json!({ "join_rule": join_rule, "allow": [] });
    Room::of_alice(version(version_id), [state("alice", "m.room.join_rules", "", content)])
}

fn allowed(room: &Room, draft: &Draft) -> bool {
    match room.attempt(draft) {
        Ok(_) => true,
        Err(Refusal::Forbidden(sentence)) => {
            assert!(sentence.starts_with("The rules of the room do not allow this: "), "{sentence}");
            false
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn joining_by_membership_and_join_rule() {
    let memberships = ["none", "invite", "join", "leave", "ban", "knock"];
    // May bob join, in this order of his memberships.
    let table = [
        ("public", [true, true, true, true, false, true]),
        ("invite", [false, true, true, false, false, false]),
        ("knock", [false, true, true, false, false, false]),
        ("restricted", [false, true, true, false, false, false]),
        ("knock_restricted", [false, true, true, false, false, false]),
        ("private", [false, false, false, false, false, false]),
    ];
    for version_id in ["10", "11", "12"] {
        for (join_rule, expected) in table {
            for (membership, expected) in memberships.into_iter().zip(expected) {
                let mut room = with_join_rule(version_id, join_rule);
                if membership != "none" {
                    room.force(&member("bob", "bob", membership));
                }
                let joins = allowed(&room, &member("bob", "bob", "join"));
                assert_eq!(joins, expected, "version {version_id}: {membership} joins by {join_rule}");
            }
        }
    }
}

#[test]
fn a_restricted_join_needs_who_may_invite_to_vouch() {
    for version_id in ["8", "9", "10", "11", "12"] {
        let mut room = with_join_rule(version_id, "restricted");
        room.force(&member("carol", "carol", "join"));
        let by = |voucher: &str| {
            let content = json!({ "membership": "join", "join_authorised_via_users_server": user(voucher) });
            state("bob", "m.room.member", user("bob").as_str(), content)
        };
        assert!(allowed(&room, &by("alice")));
        assert!(allowed(&room, &by("carol")), "in a private chat every member may invite");
        assert!(!allowed(&room, &by("mallory")), "who is not a member");
    }
}

#[test]
fn changing_the_membership_of_another() {
    // alice has power, bob and carol are members, dave is banned, erin is invited, frank is a stranger.
    let mut room = with_join_rule("11", "invite");
    for (who, membership) in [("bob", "join"), ("carol", "join"), ("dave", "ban"), ("erin", "invite")] {
        room.force(&member(who, who, membership));
    }
    let table = [
        ("alice", "bob", "leave", true),
        ("alice", "bob", "ban", true),
        ("alice", "dave", "leave", true),
        ("alice", "dave", "invite", false),
        ("alice", "bob", "invite", false),
        ("alice", "bob", "join", false),
        ("bob", "carol", "leave", false),
        ("bob", "carol", "ban", false),
        ("bob", "dave", "leave", false),
        ("bob", "frank", "invite", true),
        ("bob", "bob", "leave", true),
        ("erin", "erin", "leave", true),
        ("dave", "dave", "leave", false),
        ("frank", "frank", "leave", false),
        ("frank", "erin", "invite", false),
        ("frank", "frank", "knock", false),
        ("alice", "alice", "ban", false),
    ];
    for (sender, target, membership, expected) in table {
        let draft = member(sender, target, membership);
        assert_eq!(allowed(&room, &draft), expected, "{sender} makes {target} {membership}");
    }
}

#[test]
fn power_decides_what_a_member_may_send() {
    for version in versions() {
        let mut room = Room::of_alice(version, []);
        room.force(&member("bob", "bob", "join"));
        let table = [
            (message("alice", json!({ "body": "hi" })), true),
            (message("bob", json!({ "body": "hi" })), true),
            (message("mallory", json!({ "body": "hi" })), false),
            (state("alice", "m.room.topic", "", json!({ "topic": "tea" })), true),
            (state("bob", "m.room.topic", "", json!({ "topic": "tea" })), false),
            (state("alice", "org.example.note", "@bob:example.org", json!({})), false),
            (state("bob", "m.room.power_levels", "", json!({ "users": { "@bob:example.org": 100 } })), false),
            (state("alice", "m.room.create", "", json!({ "creator": "@alice:example.org" })), false),
        ];
        for (draft, expected) in table {
            let version = room.version.as_str();
            let kind = (draft.sender.localpart().to_owned(), draft.event_type.to_string());
            assert_eq!(allowed(&room, &draft), expected, "version {version}: {kind:?}");
        }
    }
}

#[test]
fn the_selection_has_the_create_event_up_to_version_11() {
    for version in versions() {
        let number: u8 = version.as_str().parse().unwrap();
        let keys = needed_for(&member("alice", "bob", "invite"), &version).unwrap();
        let has = |event_type: StateEventType, state_key: &str| keys.contains(&(event_type, state_key.to_owned()));
        assert_eq!(has(StateEventType::RoomCreate, ""), number <= 11);
        assert!(has(StateEventType::RoomPowerLevels, "") && has(StateEventType::RoomJoinRules, ""));
        assert!(has(StateEventType::RoomMember, "@alice:example.org"));
        assert!(has(StateEventType::RoomMember, "@bob:example.org"));
        assert_eq!(keys.len(), if number <= 11 { 5 } else { 4 });
    }
    let senseless = state("alice", "m.room.member", "@bob:example.org", json!({ "membership": 1 }));
    assert!(matches!(needed_for(&senseless, &version("12")), Err(Refusal::BadJson(_))));
}

#[test]
fn a_selection_that_is_too_large_too_small_or_rejected_is_refused() {
    for version in versions() {
        let mut room = Room::of_alice(version, []);
        let topic = room.send(state("alice", "m.room.topic", "", json!({ "topic": "tea" }))).unwrap();
        let pdu = room.build(&message("alice", json!({}))).unwrap();
        let fetch = |event_id: &ruma_common::EventId| room.events.get(event_id).cloned();
        assert_eq!(check_auth_events(&pdu, &room.version, &fetch), Ok(()));
        assert!(check_auth_events(&pdu, &room.version, &|_| None).is_err(), "unknown events");
        let rejected = |event_id: &ruma_common::EventId| {
            let event = room.events.get(event_id)?;
            Pdu::from_stored(event_id.to_owned(), event.json(), true).ok()
        };
        assert!(check_auth_events(&pdu, &room.version, &rejected).is_err(), "rejected events");
        let wrong = |_: &ruma_common::EventId| Some(topic.clone());
        assert!(check_auth_events(&pdu, &room.version, &wrong).is_err(), "events of another type");
    }
}

#[test]
fn the_three_checks_of_a_received_event_can_differ() {
    for version in versions() {
        let mut room = Room::of_alice(version, [member("alice", "bob", "invite"), member("bob", "bob", "join")]);
        let draft = message("bob", json!({ "body": "still here" }));
        let pdu = room.build(&draft).unwrap();
        let mut auth_events = room.auth_events(&draft).unwrap();
        auth_events.push(room.create.clone());
        room.send(member("alice", "bob", "ban")).unwrap();

        assert_eq!(check_against_auth_events(&pdu, &room.version, &auth_events), Ok(()));
        let now = check_against_state(&pdu, &room.version, &|event_type, key| room.get(event_type, key));
        assert!(matches!(now, Err(Refusal::Forbidden(_))), "soft-failed: bob is banned by now");
    }
}

#[test]
fn a_room_begins_with_its_create_event() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        assert_eq!(check_create(&room.create, &room.version), Ok(()));
        let other = room.build(&message("alice", json!({}))).unwrap();
        assert!(check_create(&other, &room.version).is_err());
        let second = Draft { event_type: TimelineEventType::RoomCreate, ..state("alice", "", "", json!({})) };
        let second = room.build(&second).unwrap();
        assert!(check_create(&second, &room.version).is_err(), "it has previous events");
    }
}
