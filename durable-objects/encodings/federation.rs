//! What rooms and destinations are told and asked for other servers.

use serde_json::{json, value::to_raw_value};

use super::{alice, pinned, pinned_reply, room};
use crate::{
    destination::{self, Attempt, Range, Work},
    presence::{Presence, PresenceState, PresenceStatus},
    room::{self as rooms, CheckedEvent, MembershipAction, Received, ToldState},
    user,
};

fn event() -> CheckedEvent {
    CheckedEvent { event_id: "$e".try_into().unwrap(), json: "{}".into() }
}

#[test]
fn what_a_room_receives() {
    let encoded = json!({ "event_id": "$e", "json": "{}" });
    pinned(&rooms::ReceiveEvent::of(event()), json!({ "event": encoded }));
    pinned(
        &rooms::ReceiveEvent {
            event: event(),
            told: vec![ToldState { event_id: "$p".try_into().unwrap(), state_before: vec!["$t".try_into().unwrap()] }],
            state_before: Some(vec!["$s".try_into().unwrap()]),
            is_unwanted: true,
        },
        json!({
            "event": encoded, "told": [{ "event_id": "$p", "state_before": ["$t"] }], "state_before": ["$s"],
            "is_unwanted": true,
        }),
    );
    // Of an earlier release.
    let earlier = serde_json::from_value::<rooms::ReceiveEvent>(json!({ "event": encoded, "state_before": ["$s"] }));
    assert!(earlier.is_ok_and(|call| call.told.is_empty() && call.state_before.is_some()));
    for (reply, encoded) in [
        (Received::Accepted, json!("accepted")),
        (Received::SoftFailed, json!("soft_failed")),
        (Received::Rejected("r".into()), json!({ "rejected": "r" })),
    ] {
        assert_eq!(serde_json::to_value(&reply).unwrap(), encoded);
    }
    pinned_reply::<rooms::ReceiveEvent>(
        json!({ "needs": { "prev_events": ["$p"], "auth_events": ["$a"], "state": ["$s"], "refused": "r" } }),
    );
    pinned_reply::<rooms::ReceiveEvent>(json!({ "needs": { "policy_server": "p.test" } }));
    pinned(&rooms::KeepSigned { event: event() }, json!({ "event": encoded }));
    pinned(&rooms::ReceiveEvents { events: vec![event()] }, json!({ "events": [encoded] }));
    pinned_reply::<rooms::ReceiveEvents>(json!(["accepted", { "needs": {} }]));
    pinned(&rooms::HoldEvents { events: vec![event()] }, json!({ "events": [encoded] }));
    pinned_reply::<rooms::HoldEvents>(json!(["$a"]));
    pinned(
        &rooms::BeginJoin { room_version: "12".into(), join: "j".into() },
        json!({ "room_version": "12", "join": "j" }),
    );
    pinned(
        &rooms::StageEvents { join: "j".into(), first: 500, are_state: true, events: vec![event()] },
        json!({ "join": "j", "first": 500, "are_state": true, "events": [encoded] }),
    );
    pinned(&rooms::JudgeStaged { join: "j".into(), after: 7 }, json!({ "join": "j", "after": 7 }));
    pinned_reply::<rooms::JudgeStaged>(json!({ "next": 8, "held": 500, "waiting": 1 }));
    pinned(
        &rooms::CompleteJoin { call_id: "c".into(), event: event(), join: "j".into(), omitted: None },
        json!({ "call_id": "c", "event": encoded, "join": "j" }),
    );
}

#[test]
fn what_a_room_does_for_other_servers() {
    let server = || "one.test".try_into().unwrap();
    let encoded = json!({ "event_id": "$e", "json": "{}" });
    pinned(
        &rooms::PrepareMembership { user: alice(), action: MembershipAction::Join, member_of: vec![room()] },
        json!({ "user": "@alice:a", "action": "join", "member_of": ["!room:a"] }),
    );
    pinned_reply::<rooms::PrepareMembership>(json!({ "room_version": "12", "event": {} }));
    pinned(
        &rooms::AdmitMembership { server: server(), event: event() },
        json!({ "server": "one.test", "event": encoded }),
    );
    let content = to_raw_value(&json!({})).unwrap();
    pinned(
        &rooms::PrepareInvite { sender: alice(), target: "@bob:b".try_into().unwrap(), content, at_ms: None },
        json!({ "sender": "@alice:a", "target": "@bob:b", "content": {} }),
    );
    pinned_reply::<rooms::PrepareInvite>(json!({ "room_version": "12", "event": encoded, "state": [{}] }));
    let keys = json!([{ "public_key": "k", "key_validity_url": "https://a" }, { "public_key": "k" }]);
    pinned_reply::<rooms::PrepareInvite>(
        json!({ "room_version": "12", "event": encoded, "state": [{}], "keys": keys }),
    );
    pinned(&rooms::DescribeForInvitation { sender: alice() }, json!({ "sender": "@alice:a" }));
    pinned_reply::<rooms::DescribeForInvitation>(json!({
        "room_alias": "#a:a", "room_avatar_url": "mxc://a/b", "room_join_rules": "invite", "room_name": "n",
        "room_type": "m.space", "sender_display_name": "A", "sender_avatar_url": "mxc://a/c",
    }));
    pinned(&rooms::GetResidence {}, json!({}));
    pinned_reply::<rooms::GetResidence>(json!({ "here": true, "servers": ["one.test"] }));
    pinned(&rooms::GetShownState { user: alice() }, json!({ "user": "@alice:a" }));
    pinned(
        &rooms::GetOutgoing { server: server(), after: 1, up_to: 2, limit: 3 },
        json!({ "server": "one.test", "after": 1, "up_to": 2, "limit": 3 }),
    );
    pinned_reply::<rooms::GetOutgoing>(json!({ "events": [{}], "up_to": 2 }));
    pinned(
        &rooms::GetNewestOutgoing { server: server(), after: 1, up_to: 2, limit: 3 },
        json!({ "server": "one.test", "after": 1, "up_to": 2, "limit": 3 }),
    );
    pinned_reply::<rooms::GetNewestOutgoing>(json!({ "after": 1, "events": [{}], "up_to": 2 }));
    for (wanted, encoded) in [
        (rooms::Wanted::Event("$e".try_into().unwrap()), json!({ "event": "$e" })),
        (
            rooms::Wanted::Backfill { from: vec!["$e".try_into().unwrap()], limit: 5 },
            json!({ "backfill": { "from": ["$e"], "limit": 5 } }),
        ),
        (
            rooms::Wanted::Missing {
                earliest: vec!["$a".try_into().unwrap()],
                latest: vec!["$b".try_into().unwrap()],
                limit: 5,
                min_depth: 2,
            },
            json!({ "missing": { "earliest": ["$a"], "latest": ["$b"], "limit": 5, "min_depth": 2 } }),
        ),
    ] {
        pinned(
            &rooms::GetEventsForServer { server: server(), wanted },
            json!({ "server": "one.test", "wanted": encoded }),
        );
    }
    pinned(
        &rooms::GetStateIds {
            server: Some(server()),
            event_id: "$e".try_into().unwrap(),
            auth_chain_only: true,
            omit_members: true,
            after: None,
        },
        json!({ "server": "one.test", "event_id": "$e", "auth_chain_only": true, "omit_members": true }),
    );
    pinned(
        &rooms::GetStateIds {
            server: None,
            event_id: "$e".try_into().unwrap(),
            auth_chain_only: false,
            omit_members: false,
            after: Some(("m.x".into(), String::new())),
        },
        json!({ "server": null, "event_id": "$e", "after": ["m.x", ""] }),
    );
    pinned_reply::<rooms::GetStateIds>(json!({ "state": ["$s"], "auth_chain": ["$a"], "servers": ["one.test"] }));
    pinned_reply::<rooms::GetStateIds>(
        json!({ "state": ["$s"], "auth_chain": [], "next": ["m.x", ""], "servers": ["one.test"] }),
    );
    pinned(&rooms::GetHeldEvents { event_ids: vec!["$e".try_into().unwrap()] }, json!({ "event_ids": ["$e"] }));
}

#[test]
fn what_is_known_of_a_room_for_other_servers() {
    let server = || "one.test".try_into().unwrap();
    pinned(&rooms::GetVersionForServer { server: server() }, json!({ "server": "one.test" }));
    pinned_reply::<rooms::GetVersionForServer>(json!("12"));
    pinned(&rooms::GetIntake { server: server() }, json!({ "server": "one.test" }));
    pinned_reply::<rooms::GetIntake>(json!({ "room_version": "12", "takes": "later" }));
    pinned_reply::<rooms::GetIntake>(json!({ "room_version": "12", "takes": { "never": "why" } }));
    pinned(&rooms::GiveUpJoin { join: "j".into() }, json!({ "join": "j" }));
    pinned_reply::<rooms::GetExtremities>(json!({ "event_ids": ["$e"] }));
    pinned(&rooms::GetMissing { event_ids: vec!["$e".try_into().unwrap()] }, json!({ "event_ids": ["$e"] }));
    pinned(&user::GetAsked { room_id: room() }, json!({ "room_id": "!room:a" }));
    pinned_reply::<user::GetAsked>(
        json!({ "membership": "invite", "inviter": "@alice:a", "servers": ["a"], "room_version": "12" }),
    );
    pinned_reply::<user::GetAsked>(json!({ "membership": "knock", "room_version": "1" }));
    pinned_reply::<user::GetAsked>(json!({
        "membership": "knock", "room_version": "1", "is_version_guessed": true, "event_id": "$e", "resident": "b",
    }));
    pinned(&user::GetAskedRooms {}, json!({}));
    pinned_reply::<user::GetAskedRooms>(json!(["!room:a"]));
}

#[test]
fn what_a_destination_knows_of_devices() {
    pinned(&destination::GetCachedDeviceLists { users: vec![alice()] }, json!({ "users": ["@alice:a"] }));
    pinned_reply::<destination::GetCachedDeviceLists>(json!({
        "lists": [{
            "user": "@alice:a", "room_id": "!room:a", "since": 1, "stream_id": 2,
            "keys": { "devices": { "D": {} }, "master": {}, "self_signing": {} },
        }],
        "rooms": ["!room:a"], "as_of": { "life": 3, "told": 4 },
    }));
    let cached = destination::CachedDeviceList {
        user: alice(),
        room_id: room(),
        since: 1,
        stream_id: None,
        keys: destination::DeviceList::default(),
    };
    pinned(
        &destination::CacheDeviceLists { as_of: destination::AsOf::default(), lists: vec![cached] },
        json!({
            "as_of": { "life": 0, "told": 0 },
            "lists": [{ "user": "@alice:a", "room_id": "!room:a", "since": 1, "keys": { "devices": {} } }],
        }),
    );
    let device = destination::DeviceListUpdate::Device {
        device_id: "D".into(),
        stream_id: 2,
        prev_id: vec![1],
        keys: Some(to_raw_value(&json!({})).unwrap()),
    };
    let keys = destination::DeviceListUpdate::CrossSigning { master: None, self_signing: None };
    let unclear = destination::DeviceListUpdate::Unclear;
    let updates = [device, keys, unclear].map(|update| (alice(), update)).to_vec();
    pinned(
        &destination::UpdateDeviceLists { updates },
        json!({ "updates": [
            ["@alice:a", { "device": { "device_id": "D", "stream_id": 2, "prev_id": [1], "keys": {} } }],
            ["@alice:a", { "cross_signing": {} }],
            ["@alice:a", "unclear"],
        ] }),
    );
    pinned_reply::<destination::UpdateDeviceLists>(json!(["!room:a"]));
    pinned_reply::<destination::UpdateDeviceLists>(json!({ "rooms": ["!room:a"], "ended": ["@u:b"] }));
}

#[test]
fn what_a_destination_is_told_and_asked() {
    let range = || Range { room_id: room(), after: 1, up_to: 2, events_max: None };
    let encoded = json!({ "room_id": "!room:a", "after": 1, "up_to": 2 });
    for (left, encoded) in [
        (false, json!({ "room_id": "!room:a", "since": 1, "to": 2 })),
        (true, json!({ "room_id": "!room:a", "since": 1, "to": 2, "left": true })),
    ] {
        pinned(&destination::RoomMoved { room_id: room(), since: 1, to: 2, left }, encoded);
    }
    pinned(&destination::TakeWork { carrier: "c".into() }, json!({ "carrier": "c" }));
    let attempt = Attempt { transaction_id: "5".into(), ranges: vec![range()], edus_up_to: None };
    let repeated = json!({ "transaction_id": "5", "ranges": [encoded] });
    for (work, encoded) in [
        (Work::Nothing, json!("nothing")),
        (Work::Owed(vec![range()]), json!({ "owed": [encoded] })),
        (Work::Missed(vec![range()]), json!({ "missed": [encoded] })),
        (Work::Repeat(attempt), json!({ "repeat": repeated })),
    ] {
        assert_eq!(serde_json::to_value(&work).unwrap(), encoded);
        pinned_reply::<destination::TakeWork>(encoded);
    }
    pinned(
        &destination::StartAttempt { carrier: "c".into(), ranges: vec![range()], edus_up_to: Some(7) },
        json!({ "carrier": "c", "ranges": [encoded], "edus_up_to": 7 }),
    );
    pinned_reply::<destination::StartAttempt>(repeated);
    pinned(
        &destination::Acknowledge {
            carrier: "c".into(),
            transaction_id: "5".into(),
            edus_up_to: None,
            was_empty: false,
        },
        json!({ "carrier": "c", "transaction_id": "5" }),
    );
    pinned(
        &destination::Acknowledge {
            carrier: "c".into(),
            transaction_id: "5".into(),
            edus_up_to: Some(7),
            was_empty: false,
        },
        json!({ "carrier": "c", "transaction_id": "5", "edus_up_to": 7 }),
    );
    let failure = destination::ReportFailure { carrier: "c".into(), refused: None, answered: None };
    pinned(&failure, json!({ "carrier": "c" }));
    let what = || Some(destination::Refused { transaction_id: "5".into(), events: 2, edus: 3 });
    let encoded = json!({ "transaction_id": "5", "events": 2, "edus": 3 });
    pinned(
        &destination::ReportFailure { refused: what(), ..failure.clone() },
        json!({ "carrier": "c", "refused": encoded }),
    );
    pinned(&destination::ReportFailure { answered: what(), ..failure }, json!({ "carrier": "c", "answered": encoded }));
    let less = Work::Owed(vec![Range { events_max: Some(3), ..range() }]);
    assert_eq!(
        serde_json::to_value(&less).unwrap(),
        json!({ "owed": [{ "room_id": "!room:a", "after": 1, "up_to": 2, "events_max": 3 }] })
    );
    pinned(&destination::StopCarrying { carrier: "c".into() }, json!({ "carrier": "c" }));
    pinned(&destination::IsUp {}, json!({}));
    let edu = to_raw_value(&json!({ "edu_type": "m.x" })).unwrap();
    let queue = destination::QueueEdu { key: "k".into(), edu };
    pinned(&queue, json!({ "key": "k", "edu": { "edu_type": "m.x" } }));
    pinned(
        &destination::PassEdu { key: "k".into(), edu: queue.edu.clone(), until_ms: Some(1) },
        json!({ "key": "k", "edu": { "edu_type": "m.x" }, "until_ms": 1 }),
    );
    pinned(&destination::QueueEduIfKnown(queue), json!({ "key": "k", "edu": { "edu_type": "m.x" } }));
    pinned(&destination::GetEdus { up_to: Some(7) }, json!({ "up_to": 7 }));
    pinned_reply::<destination::GetEdus>(json!({ "edus": [{ "edu_type": "m.x" }], "up_to": 7 }));
    let owed = json!({ "user": "@alice:a", "changed_ms": 5, "devices_after": 1, "identity_after": 2 });
    pinned_reply::<destination::GetEdus>(json!({ "edus": [], "device_lists": [owed] }));
    pinned(
        &destination::DevicesChanged { user: alice(), changed_ms: 5 },
        json!({ "user": "@alice:a", "changed_ms": 5 }),
    );
    let edu = to_raw_value(&json!({ "edu_type": "m.x" })).unwrap();
    pinned(
        &destination::QueueDeviceList {
            user: alice(),
            changed_ms: Some(5),
            devices: Some(1),
            identity: Some(2),
            edus: vec![("k".into(), edu)],
        },
        json!({
            "user": "@alice:a", "changed_ms": 5, "devices": 1, "identity": 2, "edus": [["k", { "edu_type": "m.x" }]],
        }),
    );
    pinned(&destination::GetSharedRooms { newest: None }, json!({}));
    pinned(&destination::GetSharedRooms { newest: Some(9) }, json!({ "newest": 9 }));
    pinned_reply::<destination::GetSharedRooms>(json!(["!room:a"]));
}

#[test]
fn what_a_room_is_given_of_its_history() {
    let encoded = json!({ "event_id": "$e", "json": "{}" });
    let states = vec![("$e".try_into().unwrap(), vec!["$s".try_into().unwrap()])];
    pinned(
        &rooms::PlaceHistory {
            edge: 5,
            missing: vec!["$m".try_into().unwrap()],
            events: vec![event()],
            states,
            is_apart: false,
            is_final: true,
        },
        json!({ "edge": 5, "missing": ["$m"], "events": [encoded], "states": [["$e", ["$s"]]], "is_final": true }),
    );
    pinned_reply::<rooms::PlaceHistory>(json!({ "placed": 3 }));
    pinned_reply::<rooms::PlaceHistory>(json!("moved"));
    pinned_reply::<rooms::PlaceHistory>(json!({ "needs": { "states": ["$e"], "auth_events": ["$a"] } }));
    let gap = json!({ "edge": 5, "missing": ["$m"], "servers": ["one.test"], "room_version": "12" });
    pinned_reply::<rooms::Messages>(json!({ "chunk": [], "start": "t1", "end": "t0", "gap": gap }));
}

#[test]
fn what_a_room_is_asked_about_times() {
    pinned_reply::<rooms::EventByTimestamp>(json!({
        "event": { "event_id": "$e", "origin_server_ts": 5 },
        "gap": { "edge": 5, "missing": ["$m"], "servers": ["b"], "room_version": "12" },
    }));
    let server = "b".try_into().unwrap();
    pinned(
        &rooms::EventByTimestampForServer { server, ts_ms: 5, direction: rooms::Direction::Backwards },
        json!({ "server": "b", "ts_ms": 5, "direction": "backwards" }),
    );
    pinned_reply::<rooms::EventByTimestampForServer>(json!({ "event_id": "$e", "origin_server_ts": 5 }));
}

#[test]
fn what_is_said_of_presence_across_servers() {
    let status = PresenceStatus {
        state: PresenceState::Online,
        since_ms: 4,
        currently_active: Some(false),
        ..PresenceStatus::default()
    };
    let presence = Presence { status, ..Presence::absent(alice()) };
    let encoded =
        json!({ "user": "@alice:a", "state": "online", "last_active_ms": 0, "since_ms": 4, "currently_active": false });
    pinned(&destination::QueuePresence { presence: presence.clone() }, encoded.clone());
    pinned(&destination::HearPresence { presences: vec![presence.clone()] }, json!({ "presences": [encoded] }));
    pinned(
        &destination::GetPresences { room_id: Some(room()), users: vec![alice()] },
        json!({ "room_id": "!room:a", "users": ["@alice:a"] }),
    );
    pinned_reply::<destination::GetPresences>(json!([encoded]));
    pinned_reply::<destination::TakeWork>(
        json!({ "presence": { "transaction_id": "t", "presences": [encoded], "edus": ["{}"] } }),
    );
    pinned(&rooms::HearPresences { presences: vec![presence] }, json!({ "presences": [encoded] }));
    pinned_reply::<rooms::HearPresences>(json!({ "members": ["@alice:a"], "strangers": ["@bob:a"] }));
    pinned_reply::<rooms::TellPresence>(json!({ "more_comes": true, "servers": ["one.test"] }));
    pinned(&user::ServersCame { servers: vec!["one.test".into()] }, json!({ "servers": ["one.test"] }));
}

#[test]
fn what_waits_in_a_room() {
    let encoded = json!({ "event_id": "$e", "json": "{}" });
    pinned(
        &rooms::KeepWaiting { origin: "one.test".try_into().unwrap(), event: event() },
        json!({ "origin": "one.test", "event": encoded }),
    );
    pinned_reply::<rooms::KeepWaiting>(json!(true));
    pinned(&rooms::TakeWaiting { carrier: "c".into() }, json!({ "carrier": "c" }));
    let waiting = json!({ "origin": "one.test", "event": encoded });
    pinned_reply::<rooms::TakeWaiting>(json!({ "room_version": "12", "events": [waiting] }));
    pinned(
        &rooms::EndWaiting { carrier: "c".into(), event_id: "$e".try_into().unwrap(), is_judged: true, turns_to: None },
        json!({ "carrier": "c", "event_id": "$e", "is_judged": true }),
    );
    pinned(
        &rooms::EndWaiting {
            carrier: "c".into(),
            event_id: "$e".try_into().unwrap(),
            is_judged: false,
            turns_to: Some("$f".try_into().unwrap()),
        },
        json!({ "carrier": "c", "event_id": "$e", "is_judged": false, "turns_to": "$f" }),
    );
    pinned(&rooms::StopFetching { carrier: "c".into() }, json!({ "carrier": "c" }));
}

#[test]
fn how_a_room_gets_its_members() {
    pinned(&rooms::TakeOmitted { carrier: "c".into() }, json!({ "carrier": "c" }));
    pinned_reply::<rooms::TakeOmitted>(json!({ "room_version": "12", "event_id": "$e", "servers": ["one.test"] }));
    pinned_reply::<rooms::TakeOmitted>(json!(null));
    pinned(&rooms::CompleteState { carrier: "c".into(), unchecked: Vec::new() }, json!({ "carrier": "c" }));
    pinned(&rooms::IsWhole {}, json!({}));
}
