//! With which keys a server signs, and when each was good. Spec: Server-Server API, "Retrieving server keys"; room
//! version 5, "Signing key validity period".

use std::collections::BTreeMap;

use ruma_common::{CanonicalJsonObject, CanonicalJsonValue, ServerName, SigningKeyAlgorithm, serde::Base64};
use ruma_signatures::{PublicKeySet, to_canonical_json_string_for_signing, verify_canonical_json_bytes};
use serde::{Deserialize, Serialize};

use crate::Identity;

const ED25519: &str = "ed25519:";
/// Spec: "Servers MUST use the lesser of this field and 7 days into the future when determining if a key is valid."
pub const VALID_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// How long what we publish is good for.
const OWN_VALID_MS: u64 = 24 * 3_600_000;
/// Keys remembered of one server.
const KEYS_MAX: usize = 64;
/// The largest document that is read, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// What a server published of its keys, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyDocument {
    object: CanonicalJsonObject,
    /// Those that the document is signed with.
    verify_keys: BTreeMap<String, Base64>,
    /// Those that sign no more, with the time when they stopped.
    old_verify_keys: BTreeMap<String, (Base64, u64)>,
    /// When to ask again, in milliseconds since the Unix epoch.
    pub valid_until_ms: u64,
}

/// Why a document is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDocument {
    #[error("it is not JSON of the right form: {0}")]
    Format(String),
    #[error("it is of another server")]
    OtherServer,
    #[error("none of its keys signed it")]
    NotSigned,
}

#[derive(Deserialize)]
struct Published {
    server_name: String,
    verify_keys: BTreeMap<String, Key>,
    #[serde(default)]
    old_verify_keys: BTreeMap<String, OldKey>,
    valid_until_ts: u64,
}

#[derive(Deserialize)]
struct Key {
    key: Base64,
}

#[derive(Deserialize)]
struct OldKey {
    key: Base64,
    expired_ts: u64,
}

impl KeyDocument {
    /// Checks a document of this server. A key that did not sign it is left out: nobody showed to have it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(json: &[u8], server_name: &ServerName) -> Result<Self, BadDocument> {
        let format = |error: serde_json::Error| BadDocument::Format(error.to_string());
        let object: CanonicalJsonObject = serde_json::from_slice(json).map_err(format)?;
        let published: Published = serde_json::from_slice(json).map_err(format)?;
        if published.server_name != server_name.as_str() {
            return Err(BadDocument::OtherServer);
        }
        let keys = published.verify_keys.into_iter().map(|(key_id, key)| (key_id, key.key));
        let verify_keys: BTreeMap<_, _> =
            keys.filter(|(key_id, key)| is_signed_by(&object, server_name, key_id, key)).take(KEYS_MAX).collect();
        if verify_keys.is_empty() {
            return Err(BadDocument::NotSigned);
        }
        let old = published.old_verify_keys.into_iter().filter(|(key_id, _)| !verify_keys.contains_key(key_id));
        let old_verify_keys = old.map(|(key_id, old)| (key_id, (old.key, old.expired_ts))).take(KEYS_MAX).collect();
        Ok(Self { object, verify_keys, old_verify_keys, valid_until_ms: published.valid_until_ts })
    }

    /// Whether it says anything of a key.
    pub fn names(&self, key_id: &str) -> bool {
        self.verify_keys.contains_key(key_id) || self.old_verify_keys.contains_key(key_id)
    }

    /// Whether another server, a notary, signed it as well.
    pub fn is_signed_by(&self, notary: &ServerName, keys: &PublicKeySet) -> bool {
        keys.iter().any(|(key_id, key)| is_signed_by(&self.object, notary, key_id, key))
    }

    /// The document with one more signature, ours.
    pub fn signed_by(&self, notary: &Identity) -> String {
        let mut object = self.object.clone();
        // `signatures` is an object, or it would not be here.
        let _ = notary.sign_json(&mut object);
        CanonicalJsonValue::Object(object).to_string()
    }

    /// The document as it was published.
    pub fn to_json(&self) -> String {
        CanonicalJsonValue::Object(self.object.clone()).to_string()
    }
}

fn is_signed_by(object: &CanonicalJsonObject, server_name: &ServerName, key_id: &str, key: &Base64) -> bool {
    let verify = || {
        let signatures = object.get("signatures")?.as_object()?.get(server_name.as_str())?.as_object()?;
        let signature = <Base64>::parse(signatures.get(key_id)?.as_str()?).ok()?;
        let signed = to_canonical_json_string_for_signing(object).ok()?;
        let (key, signature) = (key.as_bytes(), signature.as_bytes());
        verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key, signature, signed.as_bytes()).ok()
    };
    key_id.starts_with(ED25519) && verify().is_some()
}

/// What is known of one server's keys, by key id. Kept for good: old events are signed with old keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KnownKeys(BTreeMap<String, KnownKey>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KnownKey {
    key: Base64,
    /// The last time it was good for, in milliseconds since the Unix epoch.
    valid_until_ms: u64,
    /// Whether the server said that it signs with it no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_old: bool,
}

/// Where a document is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The server itself, and it is good now.
    ServerNow,
    Server,
    Notary,
}

/// What a signature is on, which decides when its key has to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signed {
    /// A request, which was signed just now.
    Request { now_ms: u64 },
    /// An event of a room whose version looks at the time: the event's `origin_server_ts`.
    Event { at_ms: u64 },
    /// An event of a room whose version does not: 1 to 4.
    EventOfAnyTime,
}

impl KnownKeys {
    /// Our own, which we know for certain.
    pub fn own(us: &Identity) -> Self {
        let former = us.former_keys().iter().map(|former| {
            let (key, valid_until_ms) = (former.public_key.clone(), former.expired_ms);
            (former.key_id.clone(), KnownKey { key, valid_until_ms, is_old: true })
        });
        let mut keys: BTreeMap<_, _> = former.collect();
        let now = us.as_former_key(u64::MAX);
        keys.insert(now.key_id, KnownKey { key: now.public_key, valid_until_ms: u64::MAX, is_old: false });
        Self(keys)
    }

    /// Takes over what a document says. What comes by way of a notary replaces no other key of the same id.
    pub fn learn(&mut self, document: &KeyDocument, is_direct: bool, now_ms: u64) {
        let valid_until_ms = document.valid_until_ms.min(now_ms.saturating_add(VALID_MS_MAX));
        let source = match is_direct {
            true if document.valid_until_ms > now_ms => Source::ServerNow,
            true => Source::Server,
            false => Source::Notary,
        };
        for (key_id, key) in &document.verify_keys {
            self.learn_key(key_id, KnownKey { key: key.clone(), valid_until_ms, is_old: false }, source);
        }
        for (key_id, (key, expired_ms)) in &document.old_verify_keys {
            let known = KnownKey { key: key.clone(), valid_until_ms: *expired_ms, is_old: true };
            self.learn_key(key_id, known, source);
        }
        while self.0.len() > KEYS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, known)| known.valid_until_ms).map(|(key_id, _)| key_id.clone());
            oldest.and_then(|key_id| self.0.remove(&key_id));
        }
    }

    fn learn_key(&mut self, key_id: &str, new: KnownKey, source: Source) {
        match self.0.get_mut(key_id) {
            Some(known) if known.key == new.key => match (known.is_old, new.is_old) {
                // An operator may go back to a former key, with a backup for example.
                (true, false) if source == Source::ServerNow => *known = new,
                // A document that is older than what is known.
                (true, false) => {}
                (_, true) => *known = new,
                (false, false) => known.valid_until_ms = known.valid_until_ms.max(new.valid_until_ms),
            },
            Some(_) if source == Source::Notary => {}
            Some(_) | None => drop(self.0.insert(key_id.to_owned(), new)),
        }
    }

    /// The key, if it is good for what is signed.
    pub fn key_for(&self, key_id: &str, signed: Signed) -> Option<&Base64> {
        let known = self.0.get(key_id)?;
        let is_good = match signed {
            Signed::Request { now_ms } => !known.is_old && known.valid_until_ms >= now_ms,
            Signed::Event { at_ms } => known.valid_until_ms >= at_ms,
            Signed::EventOfAnyTime => true,
        };
        is_good.then_some(&known.key)
    }

    /// Whether the server may have more to say of the key than is known: it is not here, or was good until some time
    /// ago only; or the server said that it signs with it no more, and seems to have done so again just now.
    pub fn may_be_renewed(&self, key_id: &str, signed: Signed) -> bool {
        self.0.get(key_id).is_none_or(|known| !known.is_old || matches!(signed, Signed::Request { .. }))
    }

    /// All keys, for whose time the caller answers.
    pub fn all(&self) -> PublicKeySet {
        self.0.iter().map(|(key_id, known)| (key_id.clone(), known.key.clone())).collect()
    }

    /// Those that are good for what is signed.
    pub fn all_for(&self, signed: Signed) -> PublicKeySet {
        let good = self.0.keys().filter_map(|key_id| Some((key_id.clone(), self.key_for(key_id, signed)?.clone())));
        good.collect()
    }
}

/// What we publish of our own keys, signed. Spec: `GET /_matrix/key/v2/server`.
pub fn own_document(us: &Identity, now_ms: u64) -> String {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let object = |fields: Vec<(&str, CanonicalJsonValue)>| {
        CanonicalJsonValue::Object(fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect())
    };
    let integer =
        |ms: u64| CanonicalJsonValue::Integer(js_int::Int::new_saturating(i64::try_from(ms).unwrap_or(i64::MAX)));
    let key = object(vec![("key", text(&us.public_key_base64()))]);
    let former = us.former_keys().iter().map(|former| {
        let key = object(vec![("key", text(&former.public_key.encode())), ("expired_ts", integer(former.expired_ms))]);
        (former.key_id.clone(), key)
    });
    let document = object(vec![
        ("server_name", text(us.server_name().as_str())),
        ("verify_keys", object(vec![(&us.key_id(), key)])),
        ("old_verify_keys", CanonicalJsonValue::Object(former.collect())),
        ("valid_until_ts", integer(now_ms.saturating_add(OWN_VALID_MS))),
    ]);
    let CanonicalJsonValue::Object(mut document) = document else { return String::new() };
    // It has no `signatures` that could be in the way.
    let _ = us.sign_json(&mut document);
    CanonicalJsonValue::Object(document).to_string()
}

#[cfg(test)]
mod tests {
    use ruma_common::{OwnedServerName, owned_server_name, server_name};
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const DAY: u64 = 86_400_000;

    fn identity(version: &str, seed: u8) -> Identity {
        Identity::new(owned_server_name!("a.org"), version, [seed; 32]).unwrap()
    }

    /// A document that lists these keys and old ones, signed by some.
    fn document(lists: &[&Identity], old: &[(&Identity, u64)], signs: &[&Identity], until: u64) -> KeyDocument {
        KeyDocument::check(&written(lists, old, signs, until), server_name!("a.org")).unwrap()
    }

    fn written(lists: &[&Identity], old: &[(&Identity, u64)], signs: &[&Identity], until: u64) -> Vec<u8> {
        let keys: Value = lists.iter().map(|one| (one.key_id(), json!({ "key": one.public_key_base64() }))).collect();
        let old: Value = old
            .iter()
            .map(|(one, at)| (one.key_id(), json!({ "key": one.public_key_base64(), "expired_ts": at })))
            .collect();
        let all =
            json!({ "server_name": "a.org", "verify_keys": keys, "old_verify_keys": old, "valid_until_ts": until });
        let mut object: CanonicalJsonObject = serde_json::from_value(all).unwrap();
        signs.iter().for_each(|one| one.sign_json(&mut object).unwrap());
        CanonicalJsonValue::Object(object).to_string().into_bytes()
    }

    #[test]
    fn our_own_document_is_good() {
        let us = identity("1", 1);
        let json = own_document(&us, NOW);
        let document = KeyDocument::check(json.as_bytes(), us.server_name()).unwrap();
        assert_eq!(document.valid_until_ms, NOW + DAY);
        assert_eq!(document.to_json(), json);
        let mut known = KnownKeys::default();
        known.learn(&document, true, NOW);
        let key = known.key_for("ed25519:1", Signed::Request { now_ms: NOW }).unwrap();
        assert_eq!(key.encode(), us.public_key_base64());
    }

    #[test]
    fn our_former_keys_are_published() {
        let before = identity("0", 2);
        let us = identity("1", 1).with_former_keys(vec![before.as_former_key(NOW - DAY)]);
        let document = KeyDocument::check(own_document(&us, NOW).as_bytes(), us.server_name()).unwrap();
        let mut known = KnownKeys::default();
        known.learn(&document, true, NOW);
        for keys in [&known, &KnownKeys::own(&us)] {
            let good = |at_ms| keys.key_for("ed25519:0", Signed::Event { at_ms }).is_some();
            assert_eq!((good(NOW - DAY), good(NOW)), (true, false));
            assert!(keys.key_for("ed25519:1", Signed::Request { now_ms: NOW }).is_some());
        }
        assert_eq!(us.public_keys()["a.org"].len(), 2);
    }

    #[test]
    fn documents_that_are_not_to_be_believed() {
        let (us, other) = (identity("1", 1), identity("2", 2));
        let check = |json: &[u8], name: &str| KeyDocument::check(json, &OwnedServerName::try_from(name).unwrap());
        let good = written(&[&us], &[], &[&us], NOW);
        assert_eq!(check(&good, "b.org"), Err(BadDocument::OtherServer));
        assert_eq!(check(&written(&[&us], &[], &[], NOW), "a.org"), Err(BadDocument::NotSigned));
        assert_eq!(check(&written(&[&us], &[], &[&other], NOW), "a.org"), Err(BadDocument::NotSigned));
        assert_eq!(check(&written(&[&us], &[], &[&identity("1", 9)], NOW), "a.org"), Err(BadDocument::NotSigned));
        assert_eq!(check(&written(&[], &[], &[&us], NOW), "a.org"), Err(BadDocument::NotSigned));
        let changed = String::from_utf8(good).unwrap().replace(&NOW.to_string(), &(NOW + 1).to_string());
        assert_eq!(check(changed.as_bytes(), "a.org"), Err(BadDocument::NotSigned));
        for bad in ["", "[]", "{}", r#"{"server_name":"a.org","verify_keys":{"ed25519:1":{}},"valid_until_ts":1}"#] {
            assert!(matches!(check(bad.as_bytes(), "a.org"), Err(BadDocument::Format(_))), "{bad}");
        }
        let some = check(&written(&[&us, &other], &[], &[&us], NOW), "a.org").unwrap();
        assert_eq!(some.verify_keys.keys().collect::<Vec<_>>(), ["ed25519:1"], "who did not sign is left out");
    }

    #[test]
    fn keys_are_good_for_their_time() {
        let (us, old) = (identity("1", 1), identity("0", 2));
        let mut known = KnownKeys::default();
        known.learn(&document(&[&us], &[(&old, NOW - DAY)], &[&us], NOW + 365 * DAY), true, NOW);
        let good = |key_id: &str, signed| known.key_for(key_id, signed).is_some();
        for (key_id, signed, expected) in [
            ("ed25519:1", Signed::Request { now_ms: NOW }, true),
            ("ed25519:1", Signed::Request { now_ms: NOW + 7 * DAY }, true),
            ("ed25519:1", Signed::Request { now_ms: NOW + 7 * DAY + 1 }, false),
            ("ed25519:1", Signed::Event { at_ms: 0 }, true),
            ("ed25519:1", Signed::Event { at_ms: NOW + 8 * DAY }, false),
            ("ed25519:1", Signed::EventOfAnyTime, true),
            ("ed25519:0", Signed::Request { now_ms: NOW - 2 * DAY }, false),
            ("ed25519:0", Signed::Event { at_ms: NOW - DAY }, true),
            ("ed25519:0", Signed::Event { at_ms: NOW - DAY + 1 }, false),
            ("ed25519:0", Signed::EventOfAnyTime, true),
            ("ed25519:x", Signed::EventOfAnyTime, false),
        ] {
            assert_eq!(good(key_id, signed), expected, "{key_id} {signed:?}");
        }
        assert_eq!((known.all().len(), known.all_for(Signed::Request { now_ms: NOW }).len()), (2, 1));
        for signed in [Signed::Request { now_ms: NOW }, Signed::Event { at_ms: NOW }] {
            assert!(known.may_be_renewed("ed25519:1", signed) && known.may_be_renewed("ed25519:x", signed));
        }
        assert!(known.may_be_renewed("ed25519:0", Signed::Request { now_ms: NOW }));
        assert!(!known.may_be_renewed("ed25519:0", Signed::Event { at_ms: NOW }));
    }

    #[test]
    fn what_is_known_is_not_lost() {
        let (first, second, forged) = (identity("1", 1), identity("2", 2), identity("1", 3));
        let mut known = KnownKeys::default();
        known.learn(&document(&[&first], &[], &[&first], NOW + DAY), true, NOW);
        // The server forgets its first key: it was good for as long as it was said to be.
        known.learn(&document(&[&second], &[], &[&second], NOW + 3 * DAY), true, NOW + 2 * DAY);
        assert!(known.key_for("ed25519:1", Signed::Event { at_ms: NOW + DAY }).is_some());
        // It says when it stopped using it, and an older document comes after.
        let stopped = document(&[&second], &[(&first, NOW)], &[&second], NOW + 3 * DAY);
        known.learn(&stopped, true, NOW + 2 * DAY);
        for (until, is_direct) in [(NOW + DAY, true), (NOW + DAY, false), (NOW + 9 * DAY, false)] {
            known.learn(&document(&[&first], &[], &[&first], until), is_direct, NOW + 2 * DAY);
            assert_eq!(known.key_for("ed25519:1", Signed::Event { at_ms: NOW + 1 }), None);
        }
        // It goes back to it, and says so itself.
        known.learn(&document(&[&first], &[(&second, NOW)], &[&first], NOW + 3 * DAY), true, NOW + 2 * DAY);
        for signed in [Signed::Event { at_ms: NOW + 1 }, Signed::Request { now_ms: NOW + 3 * DAY }] {
            assert!(known.key_for("ed25519:1", signed).is_some(), "{signed:?}");
        }
        assert_eq!(known.key_for("ed25519:2", Signed::Request { now_ms: NOW + 2 * DAY }), None);
        // Another key of the same id counts only if the server itself says so.
        let forgery = document(&[&forged], &[], &[&forged], NOW + DAY);
        known.learn(&forgery, false, NOW);
        assert_eq!(known.all()["ed25519:1"].encode(), first.public_key_base64());
        known.learn(&forgery, true, NOW);
        assert_eq!(known.all()["ed25519:1"].encode(), forged.public_key_base64());
        let stored = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<KnownKeys>(&stored).unwrap(), known);
    }

    #[test]
    fn a_notary_signs_as_well() {
        let us = identity("1", 1);
        let notary = Identity::new(owned_server_name!("n.org"), "1", [9; 32]).unwrap();
        let plain = document(&[&us], &[], &[&us], NOW);
        let keys = &notary.public_keys()["n.org"];
        assert!(!plain.is_signed_by(notary.server_name(), keys));
        let signed = KeyDocument::check(plain.signed_by(&notary).as_bytes(), us.server_name()).unwrap();
        assert!(signed.is_signed_by(notary.server_name(), keys));
        assert!(!signed.is_signed_by(us.server_name(), keys));
    }
}
