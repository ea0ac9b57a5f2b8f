//! Invitations by address: the keys with which an identity server signs who is meant by one.
//!
//! Owns which keys of an `m.room.third_party_invite` signed. Leaves to the rules of authorisation whether the
//! invitation may happen, and to others to ask whether a key still holds. Spec: Client-Server API, "Third-party
//! invites".

use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, SigningKeyAlgorithm, serde::Base64,
    third_party_invite::IdentityServerBase64PublicKey,
};
use ruma_signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// A key of an identity server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteKey {
    /// In Base64, as the invitation has it.
    pub public_key: String,
    /// Where to ask whether it holds: «If it's missing, the key must be considered valid indefinitely.»
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_validity_url: Option<String>,
}

/// The keys of an `m.room.third_party_invite` with this content by which `signed`, of the membership that goes back to
/// it, is signed. One that is listed with a URL and without one has it.
pub fn signed_by(invite: &RawValue, signed: &Value) -> Vec<InviteKey> {
    let mut keys = listed(invite);
    let with_url: Vec<String> =
        keys.iter().filter(|key| key.key_validity_url.is_some()).map(|key| key.public_key.clone()).collect();
    keys.retain(|key| key.key_validity_url.is_some() || !with_url.contains(&key.public_key));
    let signed = match CanonicalJsonValue::try_from(signed.clone()) {
        Ok(CanonicalJsonValue::Object(signed)) => signed,
        _ => return Vec::new(),
    };
    let Ok(text) = to_canonical_json_string_for_signing(&signed) else { return Vec::new() };
    let signatures = signatures(&signed);
    keys.retain(|key| {
        let Ok(public_key) = IdentityServerBase64PublicKey::from(key.public_key.clone()).decode() else { return false };
        let is_by_it = |signature: &Vec<u8>| {
            verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, &public_key, signature, text.as_bytes()).is_ok()
        };
        signatures.iter().any(is_by_it)
    });
    keys
}

fn listed(invite: &RawValue) -> Vec<InviteKey> {
    #[derive(Deserialize)]
    struct Content {
        public_key: Option<String>,
        key_validity_url: Option<String>,
        #[serde(default)]
        public_keys: Vec<InviteKey>,
    }
    let Ok(Content { public_key, key_validity_url, public_keys }) = serde_json::from_str(invite.get()) else {
        return Vec::new();
    };
    let first = public_key.map(|public_key| InviteKey { public_key, key_validity_url });
    let mut keys: Vec<InviteKey> = first.into_iter().chain(public_keys).collect();
    for key in &mut keys {
        // Where it must not be missing, an empty one says the same.
        key.key_validity_url.take_if(|url| url.is_empty());
    }
    keys
}

/// Whatever Ed25519 signatures there are: whose they are says the key.
fn signatures(signed: &CanonicalJsonObject) -> Vec<Vec<u8>> {
    let by_server = signed.get("signatures").and_then(CanonicalJsonValue::as_object);
    let of_servers = by_server.into_iter().flat_map(|all| all.values()).filter_map(CanonicalJsonValue::as_object);
    let of_keys = of_servers.flatten().filter(|(key_id, _)| key_id.starts_with("ed25519:"));
    of_keys.filter_map(|(_, text)| Some(<Base64>::parse(text.as_str()?).ok()?.into_inner())).collect()
}

#[cfg(test)]
mod tests {
    use ruma_common::{CanonicalJsonObject, server_name};
    use serde_json::{Value, json, value::to_raw_value};

    use super::signed_by;
    use crate::Identity;

    #[test]
    fn the_keys_that_signed_are_told_with_where_to_ask() {
        let [ours, other] =
            [1, 2].map(|seed| Identity::new(server_name!("id.test").to_owned(), "0", [seed; 32]).unwrap());
        let (key, unused) = (ours.public_key_base64(), other.public_key_base64());
        let mut signed: CanonicalJsonObject =
            serde_json::from_value(json!({ "mxid": "@bob:b.test", "token": "t" })).unwrap();
        ours.sign_json(&mut signed).unwrap();
        let signed = serde_json::to_value(&signed).unwrap();
        let url = "https://id.test/valid";
        let told = json!([{ "public_key": key, "key_validity_url": url }]);
        for (content, expected) in [
            (json!({ "public_key": key, "key_validity_url": url }), told.clone()),
            (json!({ "public_key": key, "key_validity_url": "" }), json!([{ "public_key": key }])),
            (
                json!({ "public_keys": [{ "public_key": unused }, { "public_key": key }] }),
                json!([{ "public_key": key }]),
            ),
            (
                json!({ "public_key": key, "public_keys": [{ "public_key": key, "key_validity_url": url }] }),
                told.clone(),
            ),
            (json!({ "public_key": key, "key_validity_url": url, "public_keys": [{ "public_key": key }] }), told),
            (json!({ "public_key": unused, "key_validity_url": url }), json!([])),
            (json!({ "public_key": "!" }), json!([])),
            (json!({}), json!([])),
        ] {
            let keys = signed_by(&to_raw_value(&content).unwrap(), &signed);
            assert_eq!(serde_json::to_value(keys).unwrap(), expected, "{content}");
        }
        let content = to_raw_value(&json!({ "public_key": key })).unwrap();
        for nothing in [json!({ "mxid": "@bob:b.test" }), json!({ "signatures": [] }), Value::Null] {
            assert!(signed_by(&content, &nothing).is_empty(), "{nothing}");
        }
    }
}
