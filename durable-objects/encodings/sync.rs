//! What a sync asks and is told.

use ruma_common::push::Ruleset;
use serde_json::json;

use super::{alice, pinned, pinned_reply, room as room_id};
use crate::{
    presence::PresenceState,
    room::{self, EventFilter, EventFormat},
    user,
};

#[test]
fn what_a_room_is_asked_for_a_sync() {
    pinned(
        &room::Delta {
            user: alice(),
            device: "D".into(),
            from: Some(7),
            full_state: false,
            state_after: true,
            unstable_state_after: true,
            timeline: EventFilter { limit: Some(3), lazy_load_members: true, ..EventFilter::default() },
            state: EventFilter::default(),
            format: EventFormat { federation: true, fields: vec!["type".into()] },
            ephemeral: EventFilter::default(),
            typing: Some(0),
            device_lists: true,
            push_rules: Some(Ruleset::default()),
            ignored: vec![alice()],
            unread: true,
        },
        json!({
            "user": "@alice:a", "device": "D", "from": 7, "full_state": false, "state_after": true,
            "unstable_state_after": true,
            "timeline": { "limit": 3, "lazy_load_members": true }, "state": {},
            "format": { "federation": true, "fields": ["type"] }, "ephemeral": {}, "typing": 0,
            "device_lists": true, "push_rules": {}, "ignored": ["@alice:a"], "unread": true,
        }),
    );
    pinned_reply::<room::Delta>(json!({
        "to": 9, "section": "join", "anew": true, "typing": { "version": 5, "until_ms": 7 },
        "device_lists": { "changed": ["@alice:a"], "left": ["@alice:a"] }, "room": { "timeline": {} },
    }));
    pinned_reply::<room::Delta>(json!({ "to": 9, "section": "quiet", "room": null }));
}

#[test]
fn what_a_sync_says() {
    pinned(
        &user::SyncPlan {
            token_hash: "h".into(),
            since: Some("s1_1".into()),
            full_state: false,
            include_leave: false,
            filter_id: Some("f".into()),
            may_wait: true,
            looks_only: true,
            ip: Some("192.0.2.1".into()),
            presence: Some(user::SyncPresence {
                set: PresenceState::Unavailable,
                asked_at_ms: 7,
                timeout_ms: 30,
                filter: EventFilter { limit: Some(1), ..EventFilter::default() },
            }),
            without_messages: false,
        },
        json!({
            "token_hash": "h", "since": "s1_1", "full_state": false, "include_leave": false, "filter_id": "f",
            "may_wait": true, "looks_only": true, "ip": "192.0.2.1",
            "presence": { "set": "unavailable", "asked_at_ms": 7, "timeout_ms": 30, "filter": { "limit": 1 } },
        }),
    );
    pinned_reply::<user::SyncPlan>(json!({
        "device": "D", "position": 3,
        "rooms": [
            { "number": 1, "room_id": "!room:a", "from": 2, "typing": { "seen": 5, "known": 0 } },
            {
                "number": 2, "room_id": "!b:a", "typing": { "seen": 0, "known": 0 }, "gone": true, "end": { "a": 1 },
                "has_account_data": true,
            },
        ],
        "ignored": ["@alice:a"],
    }));
    let read_typing = Some(user::ReadTyping { known: 0, now: room::Typing { version: 5, until_ms: 7 } });
    pinned(
        &user::SyncClose {
            token_hash: "h".into(),
            since: None,
            position: 3,
            rooms: vec![
                user::ReadRoom {
                    number: 1,
                    to: 2,
                    failed: false,
                    anew: true,
                    left: false,
                    untold: true,
                    typing: read_typing,
                },
                user::ReadRoom {
                    number: 2,
                    to: 0,
                    failed: true,
                    anew: false,
                    left: false,
                    untold: false,
                    typing: None,
                },
                user::ReadRoom {
                    number: 3,
                    to: 9,
                    failed: false,
                    anew: false,
                    left: true,
                    untold: false,
                    typing: None,
                },
            ],
            rooms_told: false,
            presence: None,
            without_messages: false,
        },
        json!({
            "token_hash": "h", "position": 3,
            "rooms": [
                {
                    "number": 1, "to": 2, "anew": true, "untold": true,
                    "typing": { "known": 0, "now": { "version": 5, "until_ms": 7 } },
                },
                { "number": 2, "to": 0, "failed": true },
                { "number": 3, "to": 9, "left": true },
            ],
        }),
    );
    pinned_reply::<user::SyncClose>(json!({
        "next_batch": "s3_3", "invited": [{ "room_id": "!room:a", "state": [] }], "knocked": [],
    }));
    pinned_reply::<user::SyncClose>(json!({
        "next_batch": "s3_3", "invited": [], "knocked": [],
        "account_data": [{ "type": "t", "content": { "a": 1 } }],
        "room_account_data": [{ "room_id": "!room:a", "joined": true, "events": [{ "type": "t", "content": {} }] }],
    }));
    pinned(&user::JoinedRooms { token_hash: "h".into() }, json!({ "token_hash": "h" }));
    pinned(
        &user::PositionIn { room_id: room_id(), token: "s1_1".into(), reading: Some(room::Direction::Backwards) },
        json!({ "room_id": "!room:a", "token": "s1_1", "reading": "backwards" }),
    );
}
