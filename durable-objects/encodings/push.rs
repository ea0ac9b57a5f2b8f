//! What is said of pushers, and of what they are told.

use domain::push::Pusher;
use serde_json::{from_value, json};

use super::{alice, pinned, pinned_reply};
use crate::{
    room as rooms,
    user::{self, ToldRoom, Unread},
};

#[test]
fn what_a_user_is_told_of_pushers() {
    let encoded = json!({
        "app_id": "a", "pushkey": "k", "app_display_name": "A", "device_display_name": "D", "profile_tag": "t",
        "lang": "en", "data": { "url": "u" },
    });
    let pusher: Pusher = from_value(encoded.clone()).unwrap();
    let (token_hash, app_id, pushkey) = (String::from("h"), String::from("a"), String::from("k"));
    pinned(
        &user::SetPusher { token_hash: token_hash.clone(), pusher },
        json!({ "token_hash": "h", "pusher": encoded.clone() }),
    );
    pinned(
        &user::RemovePusher { token_hash: token_hash.clone(), app_id: app_id.clone(), pushkey: pushkey.clone() },
        json!({ "token_hash": "h", "app_id": "a", "pushkey": "k" }),
    );
    pinned(&user::DropPusher { app_id, pushkey }, json!({ "app_id": "a", "pushkey": "k" }));
    pinned(&user::GetPushers { token_hash }, json!({ "token_hash": "h" }));
    pinned_reply::<user::GetPushers>(json!([encoded]));
    let mut disabled = encoded.clone();
    disabled["enabled"] = false.into();
    disabled["device_id"] = "D".into();
    pinned_reply::<user::GetPushers>(json!([disabled]));
    pinned(&user::TakePushes { carrier: "c".into() }, json!({ "carrier": "c" }));
    let counts = json!({ "unread": 3, "missed_calls": 1 });
    pinned_reply::<user::TakePushes>(json!({}));
    pinned_reply::<user::TakePushes>(json!({
        "push_rules": {},
        "pushers": [{
            "id": 1, "pusher": encoded, "changed_ms": 5, "badge": counts, "asks_to": 7, "asks_all": true,
            "rooms": [
                { "number": 2, "room_id": "!room:a", "after": 8, "badge": counts, "is_first": true },
                { "number": 3, "room_id": "!room:a", "after": 8, "badge": counts,
                  "invitation": { "to": 9, "unread": 0, "missed_calls": 0 } },
            ],
        }],
    }));
    let rooms = vec![ToldRoom { number: 2, to: 9, badge: Unread { unread: 3, missed_calls: 1 } }];
    pinned(
        &user::AcknowledgePushes {
            carrier: "c".into(),
            pusher: 1,
            rooms,
            asked_to: Some(7),
            asked_all: true,
            mailed: true,
        },
        json!({
            "carrier": "c", "pusher": 1, "rooms": [{ "number": 2, "to": 9, "badge": counts }], "asked_to": 7,
            "asked_all": true, "mailed": true,
        }),
    );
    pinned(&user::StartMail { carrier: "c".into(), pusher: 1 }, json!({ "carrier": "c", "pusher": 1 }));
    pinned_reply::<user::StartMail>(json!(true));
    pinned(&user::StopPushing { carrier: "c".into() }, json!({ "carrier": "c" }));
    pinned(&user::ReportPushFailure { carrier: "c".into(), pusher: 1 }, json!({ "carrier": "c", "pusher": 1 }));
}

#[test]
fn what_a_room_is_asked_for_them() {
    pinned(
        &rooms::ReadNotifications { user: alice(), ignored: Vec::new(), after: 5, push_rules: None },
        json!({ "user": "@alice:a", "after": 5 }),
    );
    pinned_reply::<rooms::ReadNotifications>(json!({ "to": 9, "unread": 0, "missed_calls": 0 }));
    pinned_reply::<rooms::ReadNotifications>(json!({
        "to": 9, "room_name": "n", "room_alias": "#a:a", "unread": 2, "missed_calls": 1,
        "notifications": [{
            "position": 8, "event_id": "$e", "type": "m.room.member", "sender": "@alice:a",
            "sender_display_name": "Alice", "user_is_target": true, "content": {},
            "actions": ["notify", { "set_tweak": "sound", "value": "default" }],
        }],
    }));
}

#[test]
fn what_is_listed() {
    let invitations = user::WantedInvitations { before: Some((7, "!room:a".into())), limit: 5, only_highlights: true };
    pinned(
        &user::GetNotifyingRooms { token_hash: "h".into(), invitations: Some(invitations) },
        json!({
            "token_hash": "h", "invitations": { "before": [7, "!room:a"], "limit": 5, "only_highlights": true },
        }),
    );
    pinned(&user::GetNotifyingRooms { token_hash: "h".into(), invitations: None }, json!({ "token_hash": "h" }));
    pinned_reply::<user::GetNotifyingRooms>(json!({
        "device": "D", "invitations": [{
            "room_id": "!room:a",
            "notification": { "position": 5, "event": { "type": "m.room.member" }, "actions": ["notify"], "read": false },
        }],
    }));
    pinned_reply::<user::GetNotifyingRooms>(json!({ "device": "D", "rooms": ["!room:a"], "push_rules": {} }));
    let list = |before, only_highlights| rooms::ListNotifications {
        user: alice(),
        device: "D".into(),
        ignored: Vec::new(),
        before,
        limit: 3,
        only_highlights,
        push_rules: None,
    };
    pinned(&list(None, false), json!({ "user": "@alice:a", "device": "D", "limit": 3 }));
    pinned(
        &list(Some(9), true),
        json!({ "user": "@alice:a", "device": "D", "before": 9, "limit": 3, "only_highlights": true }),
    );
    pinned_reply::<rooms::ListNotifications>(json!({}));
    pinned_reply::<rooms::ListNotifications>(json!({
        "notifications": [{ "position": 8, "event": {}, "actions": ["notify"], "read": true }], "looked_from": 7,
    }));
}
