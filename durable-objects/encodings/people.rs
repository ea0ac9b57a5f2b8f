//! What is said of people who are looked for, and of the rooms where they are found.

use serde_json::json;

use super::{alice, pinned, pinned_reply, room as room_id};
use crate::{
    projection::{self, DirectoryEntry, NetworkEntry, NoContacts, OpenRoom},
    room, user,
};

#[test]
fn who_looks_for_people() {
    pinned(
        &room::SearchMembers { user: alice(), term: "bob".into(), limit: 10 },
        json!({ "user": "@alice:a", "term": "bob", "limit": 10 }),
    );
    pinned_reply::<room::SearchMembers>(json!({
        "members": [{ "user_id": "@bob:b", "display_name": "Bob", "avatar_url": "mxc://a/b" }, { "user_id": "@c:b" }],
        "limited": true,
    }));
    pinned(&user::GetSharedWith { rooms: vec![room_id()] }, json!({ "rooms": ["!room:a"] }));
    pinned_reply::<user::GetSharedWith>(json!(["!room:a"]));
}

/// What lies in an outbox may be written by the next release.
#[test]
fn what_is_owed_to_metadata() {
    let room = json!({
        "room_id": "!room:a", "num_joined_members": 3, "world_readable": false, "guest_can_join": true,
        "join_rule": "public", "name": "N", "topic": "T", "canonical_alias": "#b:a", "avatar_url": "mxc://a/b",
        "room_type": "m.space",
    });
    for entry in
        [json!({ "room_id": "!room:a", "version": 5, "room": room }), json!({ "room_id": "!room:a", "version": 6 })]
    {
        let decoded: DirectoryEntry = serde_json::from_value(entry.clone()).unwrap();
        assert_eq!(serde_json::to_value(&decoded).unwrap(), entry);
        assert!(projection::stored("directory", &entry.to_string()).unwrap().is_some());
    }
    assert!(projection::stored("of a newer release", "{}").unwrap().is_none());
}

#[test]
fn what_is_owed_of_open_rooms() {
    let open = json!({ "room_id": "!room:a", "version": 5, "open": true });
    let decoded: OpenRoom = serde_json::from_value(open.clone()).unwrap();
    assert_eq!(serde_json::to_value(&decoded).unwrap(), open);
    assert!(projection::stored("open_room", &open.to_string()).unwrap().is_some());
}

#[test]
fn what_is_owed_of_accounts_that_are_gone() {
    let gone = json!({ "user_id": "@alice:a" });
    let decoded: NoContacts = serde_json::from_value(gone.clone()).unwrap();
    assert_eq!(serde_json::to_value(&decoded).unwrap(), gone);
    assert!(projection::stored("no_contacts", &gone.to_string()).unwrap().is_some());
}

#[test]
fn what_is_owed_of_rooms_in_other_networks() {
    pinned(
        &room::SetNetwork { network: "irc|libera".into(), listed: true },
        json!({ "network": "irc|libera", "listed": true }),
    );
    let room = json!({
        "room_id": "!room:a", "num_joined_members": 3, "world_readable": false, "guest_can_join": true,
        "join_rule": "public",
    });
    let listed = json!({ "room_id": "!room:a", "version": 5, "networks": ["irc|libera"], "room": room });
    for entry in [listed, json!({ "room_id": "!room:a", "version": 6 })] {
        let decoded: NetworkEntry = serde_json::from_value(entry.clone()).unwrap();
        assert_eq!(serde_json::to_value(&decoded).unwrap(), entry);
        assert!(projection::stored("networks", &entry.to_string()).unwrap().is_some());
    }
}

#[test]
fn who_administers_accounts() {
    pinned(&user::GetModeration {}, json!({}));
    pinned_reply::<user::GetModeration>(json!({ "locked": true, "suspended": true, "admin": true }));
    pinned(
        &user::Moderate { locked: Some(true), suspended: Some(false) },
        json!({ "locked": true, "suspended": false }),
    );
    pinned(&user::GetSessions {}, json!({}));
    pinned_reply::<user::GetSessions>(json!([{ "device_id": "D", "last_seen_ms": 1, "last_seen_ip": "192.0.2.1" }]));
}

#[test]
fn who_logs_in_by_token() {
    let (token_hash, password_hash, login_hash) = ("t".to_owned(), "p".to_owned(), "l".to_owned());
    pinned(
        &user::AddLoginToken { token_hash, password_hash, login_hash, expires_ms: 5 },
        json!({ "token_hash": "t", "password_hash": "p", "login_hash": "l", "expires_ms": 5 }),
    );
    pinned(
        &user::LogInByToken { login_hash: "l".into(), device: user::NewDevice::new("D", "t") },
        json!({ "login_hash": "l", "device": { "device_id": "D", "token_hash": "t" } }),
    );
}

#[test]
fn who_is_erased() {
    pinned(&room::EraseSender { user: alice() }, json!({ "user": "@alice:a" }));
}

#[test]
fn who_watches_a_room() {
    let call = room::Watch {
        user: alice(),
        device: "D".into(),
        ignored: Vec::new(),
        since: room::WatchedSince::After(5),
        up_to: Some(7),
        may_wait: true,
    };
    pinned(&call, json!({ "user": "@alice:a", "device": "D", "since": { "after": 5 }, "up_to": 7, "may_wait": true }));
    let since = [json!("now"), json!("joined")];
    for (encoded, since) in since.into_iter().zip([room::WatchedSince::Now, room::WatchedSince::Joined]) {
        assert_eq!(serde_json::to_value(since).unwrap(), encoded);
    }
    pinned_reply::<room::Watch>(json!({
        "events": [{ "a": 1 }], "start": "t5", "end": "t7", "reached": 7, "more": true,
    }));
}
