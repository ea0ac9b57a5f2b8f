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
        &user::ClaimKeys { devices: [("PHONE".into(), "a".to_owned())].into() },
        json!({ "devices": { "PHONE": "a" } }),
    );
    pinned_reply::<user::ClaimKeys>(json!({ "PHONE": { "a:1": "k" } }));
    pinned(
        &user::GetKeys { viewer: alice(), devices: vec!["PHONE".into()] },
        json!({ "viewer": "@alice:a", "devices": ["PHONE"] }),
    );
    pinned_reply::<user::GetKeys>(
        json!({ "devices": { "PHONE": {} }, "master": {}, "self_signing": {}, "user_signing": {} }),
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
    pinned(&room::DeviceListChanged { user: alice(), changed_ms: 5 }, json!({ "user": "@alice:a", "changed_ms": 5 }));
    pinned(&room::GetDeviceLists { user: alice(), from: Some(5) }, json!({ "user": "@alice:a", "from": 5 }));
    pinned_reply::<room::GetDeviceLists>(json!({ "changed": ["@alice:a"], "left": ["@alice:a"] }));
    pinned(&user::SharesRoom { rooms: vec![room_id()] }, json!({ "rooms": ["!room:a"] }));
    pinned(
        &user::GetOwnDeviceLists { token_hash: "t".to_owned(), since: "s".to_owned() },
        json!({ "token_hash": "t", "since": "s" }),
    );
}
