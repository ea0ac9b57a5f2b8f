//! What rooms and users say to each other, letter by letter: two deployed versions talk during a rollout.
//!
//! A field may be added with a default. Anything else that fails here breaks a rolling upgrade.

mod appservice;
mod federation;
mod keys;
mod people;
mod push;
mod relations;
mod sliding;
mod sync;

use ruma_common::{OwnedRoomId, OwnedUserId};
use ruma_events::room::member::MembershipState;
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    Call,
    presence::{Presence, PresenceState, PresenceStatus},
    room::{self, EventFilter, EventFormat, MembershipAction},
    user,
};

/// The call encodes as `encoded`, and that decodes to the same again.
fn pinned<C: Call>(call: &C, encoded: Value) {
    assert_eq!(serde_json::to_value(call).unwrap(), encoded, "{}", C::NAME);
    let decoded: C = serde_json::from_value(encoded.clone()).unwrap();
    assert_eq!(serde_json::to_value(&decoded).unwrap(), encoded, "{}", C::NAME);
}

fn pinned_reply<C: Call>(encoded: Value) {
    let decoded: C::Reply = serde_json::from_value(encoded.clone()).unwrap();
    assert_eq!(serde_json::to_value(&decoded).unwrap(), encoded, "{}", C::NAME);
}

fn alice() -> OwnedUserId {
    "@alice:a".try_into().unwrap()
}

fn room() -> OwnedRoomId {
    "!room:a".try_into().unwrap()
}

#[test]
fn what_a_room_is_told() {
    pinned(
        &room::Create {
            call_id: "c".into(),
            version: "12".into(),
            creator: alice(),
            create_event: room::FirstEvent { event_id: "$e".try_into().unwrap(), json: "{}".into() },
            events: vec![room::NewEvent {
                event_type: "m.room.name".into(),
                state_key: String::new(),
                content: to_raw_value(&json!({ "name": "n" })).unwrap(),
            }],
            published: false,
        },
        json!({
            "call_id": "c", "version": "12", "creator": "@alice:a", "create_event": { "event_id": "$e", "json": "{}" },
            "events": [{ "type": "m.room.name", "state_key": "", "content": { "name": "n" } }],
        }),
    );
    pinned(
        &room::SendEvent {
            sender: alice(),
            device: "D".into(),
            transaction_id: Some("t".into()),
            call_id: None,
            event_type: "m.room.message".into(),
            content: to_raw_value(&json!({ "body": "b" })).unwrap(),
            state_key: None,
            member_of: Vec::new(),
            at_ms: None,
            administrator: false,
        },
        json!({
            "sender": "@alice:a", "device": "D", "transaction_id": "t", "type": "m.room.message",
            "content": { "body": "b" },
        }),
    );
    pinned(
        &room::RedactEvent {
            sender: alice(),
            device: "D".into(),
            transaction_id: "t".into(),
            event_id: "$e".try_into().unwrap(),
            reason: Some("r".into()),
            administrator: true,
            own_only: false,
        },
        json!({
            "sender": "@alice:a", "device": "D", "transaction_id": "t", "event_id": "$e", "reason": "r",
            "administrator": true,
        }),
    );
    pinned(
        &room::ChangeMembership {
            call_id: "c".into(),
            sender: alice(),
            target: alice(),
            action: MembershipAction::Join,
            reason: Some("r".into()),
            profile: room::MemberProfile { displayname: Some("Alice".into()), avatar_url: None },
            member_of: vec![room()],
            guest: true,
            unattended: true,
            is_direct: true,
        },
        json!({
            "call_id": "c", "sender": "@alice:a", "target": "@alice:a", "action": "join", "reason": "r",
            "profile": { "displayname": "Alice" }, "member_of": ["!room:a"], "guest": true,
            "unattended": true, "is_direct": true,
        }),
    );
    pinned(
        &room::PrepareUpgrade {
            user: alice(),
            profile: room::MemberProfile::default(),
            version: "12".into(),
            additional_creators: Some(json!(["@bob:a"])),
            room_id: Some(room()),
            call_id: "c".into(),
        },
        json!({
            "user": "@alice:a", "profile": {}, "version": "12", "additional_creators": ["@bob:a"], "room_id": "!room:a",
            "call_id": "c",
        }),
    );
    pinned_reply::<room::PrepareUpgrade>(json!({ "room_id": "!room:a" }));
    pinned(
        &room::CompleteUpgrade { user: alice(), successor: room() },
        json!({ "user": "@alice:a", "successor": "!room:a" }),
    );
    pinned(&room::GuestUpgraded { user: alice() }, json!({ "user": "@alice:a" }));
    pinned(&room::Forget { user: alice() }, json!({ "user": "@alice:a" }));
    pinned(
        &room::RefreshMember {
            user: alice(),
            profile: room::MemberProfile { displayname: None, avatar_url: Some("mxc://a/b".into()) },
            changed_at_ms: 5,
        },
        json!({ "user": "@alice:a", "profile": { "avatar_url": "mxc://a/b" }, "changed_at_ms": 5 }),
    );
}

#[test]
fn what_a_room_hears_of_who_reads_elsewhere() {
    let receipt = room::NewReceipt {
        kind: room::ReceiptKind::Public,
        event_id: "$e".try_into().unwrap(),
        thread: None,
        at_ms: Some(5),
    };
    pinned(
        &room::HearReceipts { server: "a".try_into().unwrap(), receipts: vec![(alice(), receipt)] },
        json!({ "server": "a", "receipts": [["@alice:a", { "type": "m.read", "event_id": "$e", "at_ms": 5 }]] }),
    );
}

#[test]
fn what_a_room_is_told_of_who_reads_and_types() {
    pinned(
        &room::MarkRead {
            user: alice(),
            device: "D".into(),
            receipts: vec![
                room::NewReceipt {
                    kind: room::ReceiptKind::Public,
                    event_id: "$e".try_into().unwrap(),
                    thread: Some("main".into()),
                    at_ms: Some(5),
                },
                room::NewReceipt {
                    kind: room::ReceiptKind::Private,
                    event_id: "$e".try_into().unwrap(),
                    thread: None,
                    at_ms: None,
                },
            ],
            fully_read: Some("$f".try_into().unwrap()),
            marker: Some("$m".try_into().unwrap()),
        },
        json!({
            "user": "@alice:a", "device": "D", "fully_read": "$f", "marker": "$m",
            "receipts": [
                { "type": "m.read", "event_id": "$e", "thread": "main", "at_ms": 5 },
                { "type": "m.read.private", "event_id": "$e" },
            ],
        }),
    );
    pinned(&room::SetTyping { user: alice(), timeout_ms: Some(5) }, json!({ "user": "@alice:a", "timeout_ms": 5 }));
    pinned(&room::SetTyping { user: alice(), timeout_ms: None }, json!({ "user": "@alice:a" }));
}

#[test]
fn what_a_room_is_asked() {
    pinned(
        &room::Messages {
            user: alice(),
            device: "D".into(),
            ignored: Vec::new(),
            from: None,
            to: Some(1),
            direction: room::Direction::Backwards,
            past_gaps: false,
            filter: EventFilter { not_types: vec!["m.*".into()], ..EventFilter::default() },
        },
        json!({
            "user": "@alice:a", "device": "D", "to": 1, "direction": "backwards", "filter": { "not_types": ["m.*"] },
        }),
    );
    pinned_reply::<room::Messages>(json!({ "chunk": [{ "a": 1 }], "start": "t1", "end": "t0" }));
    let (user, device, ignored) = (alice(), "D".into(), vec![alice()]);
    pinned(
        &room::GetEvent { user, device, ignored, event_id: "$e".try_into().unwrap() },
        json!({ "user": "@alice:a", "device": "D", "ignored": ["@alice:a"], "event_id": "$e" }),
    );
}

#[test]
fn what_a_room_is_asked_about_times_and_states() {
    let (user, device, event_id) = (alice(), "D".into(), "$e".try_into().unwrap());
    let filter = EventFilter::default();
    pinned(
        &room::GetContext { user, device, ignored: vec![], event_id, limit: 5, filter, past_gaps: false },
        json!({ "user": "@alice:a", "device": "D", "event_id": "$e", "limit": 5, "filter": {} }),
    );
    pinned_reply::<room::GetContext>(json!({
        "start": "t1", "end": "t2", "events_before": [{ "a": 1 }], "event": {}, "events_after": [],
        "state": { "at": 2, "events": [], "next": ["m.room.name", ""] },
    }));
    let (user, device) = (alice(), "D".into());
    pinned(
        &room::EventByTimestamp { user, device, ts_ms: 5, direction: room::Direction::Forwards, ignored: Vec::new() },
        json!({ "user": "@alice:a", "device": "D", "ts_ms": 5, "direction": "forwards" }),
    );
    pinned(
        &room::GetState {
            user: alice(),
            device: "D".into(),
            at: Some(7),
            after: Some(("m.room.name".into(), String::new())),
            filter: EventFilter::default(),
            synced: Some(room::Synced { since: Some(1), format: EventFormat::default() }),
        },
        json!({
            "user": "@alice:a", "device": "D", "at": 7, "after": ["m.room.name", ""], "filter": {},
            "synced": { "since": 1 },
        }),
    );
    pinned_reply::<room::GetState>(json!({ "at": 7, "events": [{ "a": 1 }] }));
    pinned(
        &room::GetStateEvent {
            user: alice(),
            device: "D".into(),
            event_type: "m.room.name".into(),
            state_key: String::new(),
        },
        json!({ "user": "@alice:a", "device": "D", "type": "m.room.name", "state_key": "" }),
    );
    pinned_reply::<room::GetStateEvent>(json!({ "event": { "a": 1 }, "content": {} }));
    pinned(
        &room::GetMembers {
            user: alice(),
            device: "D".into(),
            at: Some(4),
            after: Some("@bob:a".into()),
            membership: Some(MembershipState::Join),
            not_membership: None,
        },
        json!({ "user": "@alice:a", "device": "D", "at": 4, "after": "@bob:a", "membership": "join" }),
    );
    pinned(&room::GetJoinConditions { user: alice() }, json!({ "user": "@alice:a" }));
    pinned_reply::<room::GetJoinConditions>(json!({ "is_asked_for": true, "member_of_any": ["!room:a"] }));
    pinned(&room::IsJoined { user: alice() }, json!({ "user": "@alice:a" }));
    pinned(
        &room::JoinedSince { users: vec![(alice(), Some(1)), (alice(), None)] },
        json!({ "users": [["@alice:a", 1], ["@alice:a", null]] }),
    );
    pinned_reply::<room::JoinedSince>(json!({ "users": ["@alice:a"], "until": 2 }));
    pinned(&room::JoinedAmong { users: vec![alice()] }, json!({ "users": ["@alice:a"] }));
    pinned(
        &room::GetJoinedMembers { user: alice(), appservice: Some("irc".into()), after: Some("@bob:a".into()) },
        json!({ "user": "@alice:a", "appservice": "irc", "after": "@bob:a" }),
    );
    pinned_reply::<room::GetJoinedMembers>(json!({
        "joined": { "@alice:a": { "display_name": "Alice" } }, "next": "@alice:a",
    }));
}

#[test]
fn what_a_room_says_of_itself() {
    let get = |asker| room::GetSummary { asker, children: true, suggested_only: false };
    let asked = |asker: Value| json!({ "asker": asker, "children": true, "suggested_only": false });
    pinned(&get(room::Asker::Anyone), asked(json!("anyone")));
    pinned(&get(room::Asker::User(alice())), asked(json!({ "user": "@alice:a" })));
    pinned(&get(room::Asker::Server("b".try_into().unwrap())), asked(json!({ "server": "b" })));
    pinned_reply::<room::GetSummary>(json!({
        "here": true, "accessible": "to_members", "membership": "leave",
        "room": {
            "room_id": "!room:a", "num_joined_members": 1, "world_readable": false, "guest_can_join": false,
            "join_rule": "restricted", "allowed_room_ids": ["!b:a"], "encryption": "e", "room_version": "11",
        },
        "children": [{ "type": "m.space.child" }],
    }));
    pinned(&room::IsServerJoined { server: "b".try_into().unwrap() }, json!({ "server": "b" }));
}

#[test]
fn what_a_room_is_told_of_aliases_and_the_directory() {
    pinned(&room::GetAccess { user: alice() }, json!({ "user": "@alice:a" }));
    pinned_reply::<room::GetAccess>(json!({ "joined": true, "world_readable": false }));
    pinned(
        &room::SetCanonicalAlias {
            call_id: "c".into(),
            sender: alice(),
            content: to_raw_value(&json!({ "alias": "#b:a" })).unwrap(),
            unproven: vec!["#b:a".into()],
            at_ms: None,
        },
        json!({ "call_id": "c", "sender": "@alice:a", "content": { "alias": "#b:a" }, "unproven": ["#b:a"] }),
    );
    pinned(
        &room::WithdrawAlias { call_id: "c".into(), user: alice(), alias: "#b:a".try_into().unwrap(), entitled: false },
        json!({ "call_id": "c", "user": "@alice:a", "alias": "#b:a", "entitled": false }),
    );
    pinned(
        &room::SetPublished { user: alice(), admin: false, published: true },
        json!({ "user": "@alice:a", "admin": false, "published": true }),
    );
    pinned(&room::IsPublished {}, json!({}));
    pinned_reply::<room::IsPublished>(json!(true));
}

#[test]
fn what_a_user_is_told_by_rooms() {
    pinned(
        &user::MembershipChanged {
            room_id: room(),
            position: 5,
            membership: MembershipState::Invite,
            event_id: Some("$e".try_into().unwrap()),
            profile: None,
            stripped_state: vec![to_raw_value(&json!({ "type": "m.room.create" })).unwrap()],
            predecessor: Some(room()),
            elsewhere: Some(user::Elsewhere {
                resident: Some("b".try_into().unwrap()),
                room_version: Some("11".to_owned()),
                ends_asked: true,
            }),
        },
        json!({
            "room_id": "!room:a", "position": 5, "membership": "invite", "event_id": "$e",
            "stripped_state": [{ "type": "m.room.create" }], "predecessor": "!room:a",
            "elsewhere": { "resident": "b", "room_version": "11", "ends_asked": true },
        }),
    );
    pinned(&user::TransferSettings { from: room(), to: room() }, json!({ "from": "!room:a", "to": "!room:a" }));
    pinned(
        &room::ConfirmSuccessor { user: alice(), successor: room() },
        json!({ "user": "@alice:a", "successor": "!room:a" }),
    );
    pinned(&user::AskInvite {}, json!({}));
    pinned_reply::<user::AskInvite>(json!({ "displayname": "Alice" }));
    pinned(&user::Nudge { room_id: room(), to: 8, notify: 0, typing: None }, json!({ "room_id": "!room:a", "to": 8 }));
    let typing = Some(room::Typing { version: 5, until_ms: 7 });
    pinned(
        &user::Nudge { room_id: room(), to: 8, notify: 7, typing },
        json!({ "room_id": "!room:a", "to": 8, "notify": 7, "typing": { "version": 5, "until_ms": 7 } }),
    );
    pinned(&user::RoomForgotten { room_id: room(), position: 5 }, json!({ "room_id": "!room:a", "position": 5 }));
    pinned_reply::<user::Nudge>(json!({ "silent_until_read": true }));
}

#[test]
fn what_a_user_keeps() {
    let content = || to_raw_value(&json!({ "a": 1 })).unwrap();
    let (token_hash, event_type) = (String::from("h"), String::from("t"));
    pinned(
        &user::SetAccountData {
            token_hash: token_hash.clone(),
            room_id: None,
            event_type: event_type.clone(),
            content: content(),
        },
        json!({ "token_hash": "h", "type": "t", "content": { "a": 1 } }),
    );
    pinned(
        &user::RoomsAccountData { token_hash: token_hash.clone(), rooms: vec![room()] },
        json!({ "token_hash": "h", "rooms": ["!room:a"] }),
    );
    pinned(
        &user::GetAccountData { token_hash: token_hash.clone(), room_id: Some(room()), event_type },
        json!({ "token_hash": "h", "room_id": "!room:a", "type": "t" }),
    );
    pinned(
        &user::SetFullyRead { token_hash, room_id: room(), event_id: "$e".try_into().unwrap() },
        json!({ "token_hash": "h", "room_id": "!room:a", "event_id": "$e" }),
    );
}

#[test]
fn how_a_user_sorts_rooms() {
    let (token_hash, name) = (|| String::from("h"), || String::from("u.work"));
    let tag = json!({ "order": 0.5 }).as_object().cloned().unwrap();
    pinned(
        &user::SetTag { token_hash: token_hash(), room_id: room(), name: name(), tag },
        json!({ "token_hash": "h", "room_id": "!room:a", "name": "u.work", "tag": { "order": 0.5 } }),
    );
    pinned(
        &user::RemoveTag { token_hash: token_hash(), room_id: room(), name: name() },
        json!({ "token_hash": "h", "room_id": "!room:a", "name": "u.work" }),
    );
    pinned(
        &user::GetTags { token_hash: token_hash(), room_id: room() },
        json!({ "token_hash": "h", "room_id": "!room:a" }),
    );
    pinned_reply::<user::GetTags>(json!({ "u.work": { "order": 0.5 } }));
}

#[test]
fn what_a_user_wants_to_be_notified_of() {
    use domain::push::{Change, Kind, NewRule};

    let token_hash = || String::from("h");
    pinned(&user::GetPushRules { token_hash: token_hash() }, json!({ "token_hash": "h" }));
    pinned_reply::<user::GetPushRules>(json!({
        "content": [{ "actions": ["notify"], "default": false, "enabled": true, "rule_id": "r", "pattern": "p" }],
    }));
    let rule = NewRule {
        kind: Kind::Override,
        rule_id: "r".into(),
        actions: serde_json::from_value(json!(["notify", { "set_tweak": "highlight" }])).unwrap(),
        conditions: serde_json::from_value(json!([{ "kind": "room_member_count", "is": "<3" }])).unwrap(),
        pattern: None,
        before: Some("b".into()),
        after: None,
    };
    let (kind, rule_id) = (Kind::Content, || String::from("r"));
    for (change, encoded) in [
        (
            Change::Put(rule),
            json!({ "put": {
                "kind": "override", "rule_id": "r", "actions": ["notify", { "set_tweak": "highlight" }],
                "conditions": [{ "kind": "room_member_count", "is": "<3" }], "before": "b",
            } }),
        ),
        (Change::Remove { kind, rule_id: rule_id() }, json!({ "remove": { "kind": "content", "rule_id": "r" } })),
        (
            Change::Enable { kind, rule_id: rule_id(), enabled: false },
            json!({ "enable": { "kind": "content", "rule_id": "r", "enabled": false } }),
        ),
        (
            Change::SetActions { kind, rule_id: rule_id(), actions: Vec::new() },
            json!({ "set_actions": { "kind": "content", "rule_id": "r", "actions": [] } }),
        ),
    ] {
        let encoded = json!({ "token_hash": "h", "change": encoded });
        pinned(&user::ChangePushRules { token_hash: token_hash(), change }, encoded);
    }
}

#[test]
fn what_is_said_of_presence() {
    let presence = Presence {
        user: alice(),
        status: PresenceStatus {
            state: PresenceState::Online,
            status_msg: Some("tea".into()),
            last_active_ms: 5,
            since_ms: 4,
            currently_active: None,
        },
        profile: room::MemberProfile { displayname: Some("Alice".into()), avatar_url: None },
    };
    let encoded = json!({
        "user": "@alice:a", "state": "online", "status_msg": "tea", "last_active_ms": 5, "since_ms": 4,
        "displayname": "Alice",
    });
    let with = |more: Value| {
        let mut all = encoded.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let told = room::TellPresence { presence: presence.clone(), is_news: true, asks: true };
    pinned(&told, with(json!({ "is_news": true, "asks": true })));
    pinned_reply::<room::TellPresence>(json!({ "presences": [encoded], "absent": ["@bob:a"], "more_comes": true }));
    pinned(
        &user::PresenceTold {
            room_id: room(),
            presences: vec![presence],
            gone: vec!["@bob:a".try_into().unwrap()],
            absent: vec![],
            complete: true,
        },
        json!({ "room_id": "!room:a", "presences": [encoded], "gone": ["@bob:a"], "complete": true }),
    );
    pinned_reply::<user::PresenceTold>(json!({ "listens": true, "own": encoded }));
    pinned(
        &user::SetPresence { token_hash: "h".into(), state: PresenceState::Offline, status_msg: None },
        json!({ "token_hash": "h", "state": "offline" }),
    );
    pinned(
        &user::GetPresence { asker: alice(), rooms: vec![room()] },
        json!({ "asker": "@alice:a", "rooms": ["!room:a"] }),
    );
    pinned_reply::<user::GetPresence>(encoded.clone());
}

#[test]
fn how_replies_are_wrapped() {
    use crate::call::{encode, encode_error};
    use domain::Refusal;
    use platform::Fault;

    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(text(encode(&1).unwrap()), r#"{"ok":1}"#);
    let refused = encode_error(Refusal::Forbidden("no".into()).into());
    assert_eq!(text(refused), r#"{"refused":{"forbidden":"no"}}"#);
    assert_eq!(text(encode_error(crate::CallError::Absent)), r#""absent""#);
    let fault = encode_error(Fault::retriable("gone").into());
    assert_eq!(text(fault), r#"{"fault":{"what":"gone","retriable":true}}"#);
}
