use serde_json::{Value, json, value::to_raw_value};

use super::{alice, pinned, pinned_reply, room as room_id};
use crate::{room, user};

#[test]
fn what_is_said_of_keys() {
    let raw = |json: Value| to_raw_value(&json).unwrap();
    pinned(
        &user::UploadKeys {
            token_hash: "t".to_owned(),
            device_keys: Some(raw(json!({}))),
            one_time_keys: [("a:1".to_owned(), raw(json!("k")))].into(),
            fallback_keys: [("a:2".to_owned(), raw(json!("f")))].into(),
        },
        json!({ "token_hash": "t", "device_keys": {}, "one_time_keys": { "a:1": "k" }, "fallback_keys": { "a:2": "f" } }),
    );
    pinned_reply::<user::UploadKeys>(json!({ "one_time": { "a": 1 }, "unused_fallback": ["a"] }));
    pinned(
        &user::ClaimKeys { call_id: Some("c".to_owned()), devices: [("PHONE".into(), "a".to_owned())].into() },
        json!({ "call_id": "c", "devices": { "PHONE": "a" } }),
    );
    pinned_reply::<user::ClaimKeys>(json!({ "PHONE": { "a:1": "k" } }));
    pinned(
        &user::GetKeys { viewer: Some(alice()), devices: vec!["PHONE".into()] },
        json!({ "viewer": "@alice:a", "devices": ["PHONE"] }),
    );
    pinned_reply::<user::GetKeys>(
        json!({ "devices": { "PHONE": {} }, "master": {}, "self_signing": {}, "user_signing": {}, "stream_id": 5 }),
    );
    pinned(
        &user::GetSignatures { token_hash: "t".to_owned(), of: vec![alice()] },
        json!({ "token_hash": "t", "of": ["@alice:a"] }),
    );
    pinned_reply::<user::GetSignatures>(json!({ "@alice:a": { "key": "k", "signatures": { "ed25519:u": "s" } } }));
    pinned(
        &user::UploadCrossSigning {
            token_hash: "t".to_owned(),
            master_key: Some(raw(json!({}))),
            self_signing_key: Some(raw(json!({}))),
            user_signing_key: Some(raw(json!({}))),
            password_hash: Some("h".to_owned()),
        },
        json!({
            "token_hash": "t", "master_key": {}, "self_signing_key": {}, "user_signing_key": {}, "password_hash": "h",
        }),
    );
    pinned_reply::<user::UploadCrossSigning>(json!({ "needs_password": true }));
    pinned(
        &user::UploadSignatures {
            token_hash: "t".to_owned(),
            signed: [(alice(), [("PHONE".to_owned(), raw(json!({})))].into())].into(),
            masters: [(alice(), raw(json!({})))].into(),
        },
        json!({ "token_hash": "t", "signed": { "@alice:a": { "PHONE": {} } }, "masters": { "@alice:a": {} } }),
    );
    pinned_reply::<user::UploadSignatures>(json!({ "@alice:a": { "PHONE": { "invalid_signature": "wrong" } } }));
    pinned(
        &user::GetDeviceListUpdates { devices_after: Some(1), identity_after: Some(2) },
        json!({ "devices_after": 1, "identity_after": 2 }),
    );
    let device = json!({
        "device_id": "D", "device_display_name": "n", "stream_id": 5, "prev_id": [1], "keys": {},
    });
    let deleted = json!({ "device_id": "E", "stream_id": 6, "prev_id": [5], "deleted": true });
    pinned_reply::<user::GetDeviceListUpdates>(json!({
        "devices": [device, deleted], "more": true, "stream_id": 7,
        "identity": { "stream_id": 2, "master_key": {}, "self_signing_key": {} },
    }));
    pinned(&room::DeviceListChanged { user: alice(), changed_ms: 5 }, json!({ "user": "@alice:a", "changed_ms": 5 }));
    pinned(
        &room::DeviceListsChanged { users: vec![alice()], changed_ms: 5 },
        json!({ "users": ["@alice:a"], "changed_ms": 5 }),
    );
    pinned(&room::TellOfDevices { user: alice(), changed_ms: 5 }, json!({ "user": "@alice:a", "changed_ms": 5 }));
    pinned(&room::GetDeviceLists { user: alice(), from: Some(5) }, json!({ "user": "@alice:a", "from": 5 }));
    pinned_reply::<room::GetDeviceLists>(json!({ "changed": ["@alice:a"], "left": ["@alice:a"] }));
    pinned(&user::SharesRoom { rooms: vec![room_id()] }, json!({ "rooms": ["!room:a"] }));
    pinned(
        &user::GetOwnDeviceLists { token_hash: "t".to_owned(), since: "s".to_owned() },
        json!({ "token_hash": "t", "since": "s" }),
    );
}

#[test]
fn what_devices_are_sent() {
    pinned(
        &user::ReceiveToDevice {
            sender: alice(),
            sender_device: "PHONE".into(),
            txn_id: "1".to_owned(),
            event_type: "m.test".to_owned(),
            messages: [("*".to_owned(), to_raw_value(&json!({})).unwrap())].into(),
        },
        json!({
            "sender": "@alice:a", "sender_device": "PHONE", "txn_id": "1", "type": "m.test", "messages": { "*": {} },
        }),
    );
}

#[test]
fn what_is_said_of_dehydrated_devices() {
    let raw = |json: Value| to_raw_value(&json).unwrap();
    let token_hash = "t".to_owned();
    pinned(
        &user::PutDehydratedDevice {
            token_hash: token_hash.clone(),
            device_id: "D".into(),
            data: raw(json!({ "algorithm": "a" })),
            display_name: Some("n".to_owned()),
            device_keys: raw(json!({})),
            one_time_keys: [("a:1".to_owned(), raw(json!("k")))].into(),
            fallback_keys: [("a:2".to_owned(), raw(json!("f")))].into(),
        },
        json!({
            "token_hash": "t", "device_id": "D", "data": { "algorithm": "a" }, "display_name": "n", "device_keys": {},
            "one_time_keys": { "a:1": "k" }, "fallback_keys": { "a:2": "f" },
        }),
    );
    pinned(&user::GetDehydratedDevice { token_hash: token_hash.clone() }, json!({ "token_hash": "t" }));
    pinned_reply::<user::GetDehydratedDevice>(json!({ "device_id": "D", "data": { "algorithm": "a" } }));
    pinned(
        &user::DeleteDehydratedDevice { token_hash: token_hash.clone(), device_id: "D".into() },
        json!({ "token_hash": "t", "device_id": "D" }),
    );
    pinned(
        &user::GetDehydratedEvents { token_hash, device_id: "D".into(), next_batch: Some("e1".to_owned()) },
        json!({ "token_hash": "t", "device_id": "D", "next_batch": "e1" }),
    );
    pinned_reply::<user::GetDehydratedEvents>(
        json!({ "events": [{ "sender": "@a:a", "type": "m.test", "content": {} }], "next_batch": "e1", "more": true }),
    );
}

#[test]
fn what_is_backed_up() {
    let raw = || to_raw_value(&json!({})).unwrap();
    let (token_hash, version) = ("t".to_owned(), "1".to_owned());
    pinned(
        &user::CreateBackup {
            token_hash: token_hash.clone(),
            call_id: Some("c".to_owned()),
            algorithm: "a".to_owned(),
            auth_data: raw(),
        },
        json!({ "token_hash": "t", "call_id": "c", "algorithm": "a", "auth_data": {} }),
    );
    pinned(
        &user::GetBackup { token_hash: token_hash.clone(), version: Some(version.clone()) },
        json!({ "token_hash": "t", "version": "1" }),
    );
    pinned_reply::<user::GetBackup>(
        json!({ "version": "1", "algorithm": "a", "auth_data": {}, "count": 0, "etag": "0" }),
    );
    pinned(
        &user::UpdateBackup {
            token_hash: token_hash.clone(),
            version: version.clone(),
            algorithm: "a".to_owned(),
            auth_data: raw(),
            repeated_version: Some("1".to_owned()),
        },
        json!({ "token_hash": "t", "version": "1", "algorithm": "a", "auth_data": {}, "repeated_version": "1" }),
    );
    pinned(
        &user::DeleteBackup { token_hash: token_hash.clone(), version: version.clone() },
        json!({ "token_hash": "t", "version": "1" }),
    );
    let data = user::KeyData { first_message_index: 1, forwarded_count: 2, is_verified: true, session_data: raw() };
    let key = user::BackedUpKey { room_id: "!r".to_owned(), session_id: "s".to_owned(), data };
    let encoded = json!({
        "room_id": "!r", "session_id": "s",
        "data": { "first_message_index": 1, "forwarded_count": 2, "is_verified": true, "session_data": {} },
    });
    pinned(
        &user::PutBackedUpKeys { token_hash: token_hash.clone(), version: version.clone(), keys: vec![key] },
        json!({ "token_hash": "t", "version": "1", "keys": [encoded] }),
    );
    pinned_reply::<user::PutBackedUpKeys>(json!({ "count": 1, "etag": "1" }));
    pinned(
        &user::GetBackedUpKeys {
            token_hash: token_hash.clone(),
            version: version.clone(),
            room_id: Some("!r".to_owned()),
            session_id: Some("s".to_owned()),
            after: Some(["!r".to_owned(), "q".to_owned()]),
        },
        json!({ "token_hash": "t", "version": "1", "room_id": "!r", "session_id": "s", "after": ["!r", "q"] }),
    );
    pinned_reply::<user::GetBackedUpKeys>(json!({ "keys": [encoded], "more": true }));
    pinned(
        &user::DeleteBackedUpKeys {
            in_slices: false,
            token_hash,
            version,
            room_id: Some("!r".to_owned()),
            session_id: Some("s".to_owned()),
        },
        json!({ "token_hash": "t", "version": "1", "room_id": "!r", "session_id": "s" }),
    );
}
