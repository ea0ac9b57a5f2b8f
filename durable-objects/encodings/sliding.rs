//! What a sliding sync asks and is told.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{alice, pinned, pinned_reply, room as room_id};
use crate::{
    room::{self, RequiredState, Selection, StatePattern},
    user::{self, RoomConfig},
};

fn required() -> RequiredState {
    let pattern = |event_type: Option<&str>, state_key: Option<&str>| StatePattern {
        event_type: event_type.map(str::to_owned),
        state_key: state_key.map(str::to_owned),
    };
    let exclude = BTreeSet::from([pattern(Some("m.room.member"), None)]);
    let selections = BTreeSet::from([
        Selection { include: pattern(None, None), exclude },
        Selection { include: pattern(Some("t"), Some("k")), exclude: BTreeSet::new() },
    ]);
    RequiredState { selections, lazy_members: true }
}

fn encoded_required() -> serde_json::Value {
    json!({
        "selections": [
            { "include": {}, "exclude": [{ "type": "m.room.member" }] },
            { "include": { "type": "t", "state_key": "k" } },
        ],
        "lazy_members": true,
    })
}

#[test]
fn what_a_room_is_asked_for_a_sliding_sync() {
    pinned(
        &room::SlidingDelta {
            user: alice(),
            device: "D".into(),
            connection: "c".into(),
            from: Some(7),
            live_after: Some(6),
            timeline_limit: 20,
            expanded: true,
            required: required(),
            known: Some(RequiredState::default()),
            receipts: Some(0),
            typing: Some(5),
            push_rules: None,
            ignored: vec![alice()],
        },
        json!({
            "user": "@alice:a", "device": "D", "connection": "c", "from": 7, "live_after": 6, "timeline_limit": 20,
            "expanded": true, "required": encoded_required(), "known": {}, "receipts": 0, "typing": 5,
            "ignored": ["@alice:a"],
        }),
    );
    pinned_reply::<room::SlidingDelta>(json!({
        "to": 9, "section": "join", "anew": true, "limited": true, "room": { "initial": true },
        "required_state": [{ "type": "t" }], "more_state": ["t", "k"], "receipts": { "type": "m.receipt" },
        "typing_event": { "type": "m.typing" }, "typing": { "version": 5, "until_ms": 7 },
        "facts": { "room_type": "m.space", "encrypted": true },
    }));
    pinned_reply::<room::SlidingDelta>(json!({ "to": 9, "section": "quiet" }));
    pinned(
        &room::GetRequiredState {
            user: alice(),
            device: "D".into(),
            at: 9,
            after: ("t".into(), "k".into()),
            required: required(),
            known: None,
        },
        json!({
            "user": "@alice:a", "device": "D", "at": 9, "after": ["t", "k"], "required": encoded_required(),
        }),
    );
    pinned(&room::GetFacts {}, json!({}));
    pinned(&room::Listen { user: alice() }, json!({ "user": "@alice:a" }));
    pinned(&room::GetDevicesSince { user: alice(), from: Some(3) }, json!({ "user": "@alice:a", "from": 3 }));
    pinned_reply::<room::GetDevicesSince>(json!({ "to": 9, "lists": { "changed": ["@alice:a"] } }));
}

fn extensions() -> user::SlidingExtensions {
    user::SlidingExtensions {
        to_device: Some(user::WantedMessages { since: Some("d1".into()), limit: Some(5) }),
        e2ee: true,
        account_data: Some(user::Scope::default()),
        receipts: Some(user::Scope { lists: Some(vec!["l".into()]), rooms: Some(vec!["*".into()]) }),
        typing: None,
    }
}

fn encoded_extensions() -> serde_json::Value {
    json!({
        "to_device": { "since": "d1", "limit": 5 }, "e2ee": true, "account_data": {},
        "receipts": { "lists": ["l"], "rooms": ["*"] },
    })
}

#[test]
fn what_a_sliding_sync_says() {
    let config = RoomConfig { timeline_limit: 1, required: RequiredState::default() };
    let filters = user::ListFilters {
        is_dm: Some(true),
        room_types: Some(vec![None, Some("m.space".into())]),
        within: Some(vec![room_id()]),
        not_tags: vec!["m.favourite".into()],
        ..user::ListFilters::default()
    };
    pinned(
        &user::SlidingPlan {
            token_hash: "h".into(),
            conn_id: "c".into(),
            pos: Some("c1.1".into()),
            lists: vec![user::SlidingList {
                name: "l".into(),
                ranges: Some(vec![(0, 19)]),
                filters,
                config: config.clone(),
            }],
            subscriptions: BTreeMap::from([(room_id(), config)]),
            extensions: extensions(),
            ip: Some("192.0.2.1".into()),
            presence: None,
            passed: user::Passed { position: 3, rooms: BTreeMap::from([(1, 9)]) },
            request: "r".into(),
            goes_on: true,
        },
        json!({
            "token_hash": "h", "conn_id": "c", "pos": "c1.1",
            "lists": [{
                "name": "l", "ranges": [[0, 19]], "config": { "timeline_limit": 1, "required": {} },
                "filters": {
                    "is_dm": true, "room_types": [null, "m.space"], "within": ["!room:a"], "not_tags": ["m.favourite"],
                },
            }],
            "subscriptions": { "!room:a": { "timeline_limit": 1, "required": {} } },
            "extensions": encoded_extensions(), "ip": "192.0.2.1", "passed": { "position": 3, "rooms": { "1": 9 } },
            "request": "r", "goes_on": true,
        }),
    );
    pinned_reply::<user::SlidingPlan>(json!({
        "device": "D", "position": 3, "wait_since": "s3_3", "counts": { "l": 2 },
        "rooms": [{
            "number": 1, "room_id": "!room:a", "changed": 2, "from": 5, "told": 7, "live_after": 5,
            "timeline_limit": 1, "expanded": true, "state": 0, "known": {}, "receipts": 5,
            "typing": { "seen": 1, "known": 2 }, "gone": true, "end": { "a": 1 }, "settles": true, "is_dm": true, "lists": ["l"],
        }],
        "states": [{}], "asked": [4], "device_rooms": [{ "number": 1, "room_id": "!room:a", "from": 5 }],
        "unheard": [{ "number": 2, "room_id": "!b:a" }], "unknown": ["!room:a"], "data_rooms": [1],
        "ignored": ["@alice:a"], "keys": { "one_time": { "signed_curve25519": 5 }, "unused_fallback": [] },
    }));
}

#[test]
fn how_a_sliding_sync_ends() {
    pinned(
        &user::SlidingClose {
            token_hash: "h".into(),
            conn_id: String::new(),
            pos: None,
            position: 3,
            extensions: extensions(),
            rooms: vec![user::ReadSliding {
                number: 1,
                changed: 2,
                to: 9,
                timeline_limit: 1,
                afresh: true,
                state: 0,
                receipts: true,
                gone: true,
                left: true,
                is_dm: Some(false),
                typing: None,
                facts: Some(room::Facts::default()),
            }],
            states: vec![RequiredState::default()],
            asked: vec![4],
            data_rooms: vec![1],
            device_rooms_left: vec![user::DeviceRoom { number: 1, room_id: room_id(), from: None }],
            devices_read: BTreeMap::from([(1, 9)]),
            news: true,
            keeps: true,
            request: "r".into(),
        },
        json!({
            "token_hash": "h", "conn_id": "", "position": 3, "extensions": encoded_extensions(),
            "rooms": [{
                "number": 1, "changed": 2, "to": 9, "timeline_limit": 1, "afresh": true, "state": 0, "receipts": true,
                "gone": true, "left": true, "is_dm": false, "facts": {},
            }],
            "states": [{}], "asked": [4], "data_rooms": [1],
            "device_rooms_left": [{ "number": 1, "room_id": "!room:a" }], "devices_read": { "1": 9 }, "news": true, "keeps": true,
            "request": "r",
        }),
    );
    pinned_reply::<user::SlidingClose>(json!({
        "pos": "c1.2",
        "asked": [{ "room_id": "!room:a", "membership": "invite", "bump_stamp": 3, "state": [], "is_dm": true }],
        "account_data": [{ "type": "t", "content": {} }],
        "room_account_data": { "!room:a": [{ "type": "t", "content": {} }] },
        "to_device": { "next_batch": "d3", "events": [{ "sender": "@alice:a", "type": "t", "content": {} }] },
        "keys": { "one_time": {}, "unused_fallback": ["signed_curve25519"] }, "device_lists": ["@alice:a"],
    }));
    let rooms = BTreeMap::from([(room_id(), room::Facts { room_type: Some("m.space".into()), encrypted: true })]);
    pinned(
        &user::LearnFacts { token_hash: "h".into(), rooms },
        json!({ "token_hash": "h", "rooms": { "!room:a": { "room_type": "m.space", "encrypted": true } } }),
    );
    let heads = BTreeMap::from([(1, 9)]);
    pinned(
        &user::RoomsHeard { token_hash: "h".into(), conn_id: "c".into(), pos: "c1.1".into(), up_to: 2, heads },
        json!({ "token_hash": "h", "conn_id": "c", "pos": "c1.1", "up_to": 2, "heads": { "1": 9 } }),
    );
}
