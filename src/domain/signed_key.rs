//! Keys that devices and users publish: what a well-formed one is, and whose signatures it bears.
//!
//! Spec: "End-to-End Encryption", "Uploading keys", "Cross-signing"; Appendices, "Signing JSON".

use ruma_common::{CanonicalJsonObject, CanonicalJsonValue, SigningKeyAlgorithm, serde::Base64};
use ruma_signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes};

use crate::Refusal;

/// The only algorithm of signatures.
const ED25519: &str = "ed25519:";

/// A signed JSON object that holds public keys of one user.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedKey(CanonicalJsonObject);

/// What one of a user's three cross-signing keys is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Master,
    SelfSigning,
    UserSigning,
}

impl Usage {
    pub const ALL: [Usage; 3] = [Usage::Master, Usage::SelfSigning, Usage::UserSigning];

    /// As the specification writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Usage::Master => "master",
            Usage::SelfSigning => "self_signing",
            Usage::UserSigning => "user_signing",
        }
    }
}

impl SignedKey {
    /// Refused: `BadJson` for what is no object, or none that can be signed.
    pub fn parse(json: &str) -> Result<Self, Refusal> {
        serde_json::from_str(json).map(Self).map_err(|error| Refusal::BadJson(format!("A key is not valid: {error}")))
    }

    /// The canonical JSON of all of it.
    pub fn to_json(&self) -> String {
        CanonicalJsonValue::Object(self.0.clone()).to_string()
    }

    /// Whether both are the same key, whoever signed them.
    pub fn is_same_key(&self, other: &Self) -> bool {
        let (ours, theirs) = (unsigned(&self.0), unsigned(&other.0));
        ours == theirs
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field).and_then(CanonicalJsonValue::as_str)
    }

    /// The public key under `key_id`, in base64.
    pub fn public_key(&self, key_id: &str) -> Option<&str> {
        self.0.get("keys")?.as_object()?.get(key_id)?.as_str()
    }

    /// The one public key of a cross-signing key, in base64.
    pub fn only_public_key(&self) -> Option<&str> {
        let keys = self.0.get("keys")?.as_object()?;
        let (key_id, key) = keys.iter().next().filter(|_| keys.len() == 1)?;
        let key = key.as_str()?;
        (key_id.strip_prefix(ED25519) == Some(key)).then_some(key)
    }

    /// The ids of the keys that one user signed it with.
    pub fn signers(&self, user_id: &str) -> Vec<&str> {
        let signatures = self.0.get("signatures").and_then(CanonicalJsonValue::as_object);
        let of_user = signatures.and_then(|users| users.get(user_id)).and_then(CanonicalJsonValue::as_object);
        of_user.map(|keys| keys.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    /// One signature, in base64.
    pub fn signature(&self, user_id: &str, key_id: &str) -> Option<&str> {
        self.0.get("signatures")?.as_object()?.get(user_id)?.as_object()?.get(key_id)?.as_str()
    }

    /// Whether `user_id` signed it with this key.
    pub fn is_signed_by(&self, user_id: &str, key_id: &str, public_key: &str) -> bool {
        let verify = || {
            let signature = <Base64>::parse(self.signature(user_id, key_id)?).ok()?;
            let public_key = <Base64>::parse(public_key).ok()?;
            let signed = to_canonical_json_string_for_signing(&self.0).ok()?;
            let (key, signature) = (public_key.as_bytes(), signature.as_bytes());
            verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key, signature, signed.as_bytes()).ok()
        };
        key_id.starts_with(ED25519) && verify().is_some()
    }

    /// Takes over a signature from elsewhere. Answers whether that changed anything.
    pub fn add_signature(&mut self, user_id: &str, key_id: &str, signature: &str) -> bool {
        let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
        let signatures = self.0.entry("signatures".to_owned()).or_insert_with(empty);
        if !matches!(signatures, CanonicalJsonValue::Object(_)) {
            *signatures = empty();
        }
        let CanonicalJsonValue::Object(signatures) = signatures else { return false };
        let of_user = signatures.entry(user_id.to_owned()).or_insert_with(empty);
        if !matches!(of_user, CanonicalJsonValue::Object(_)) {
            *of_user = empty();
        }
        let CanonicalJsonValue::Object(of_user) = of_user else { return false };
        let signature = CanonicalJsonValue::String(signature.to_owned());
        of_user.insert(key_id.to_owned(), signature.clone()) != Some(signature)
    }

    /// The same key with nobody's signatures but those kept, as (user id, key id) says.
    #[must_use]
    pub fn with_signatures(mut self, keeps: impl Fn(&str, &str) -> bool) -> Self {
        if let Some(CanonicalJsonValue::Object(signatures)) = self.0.get_mut("signatures") {
            signatures.retain(|user_id, of_user| match of_user {
                CanonicalJsonValue::Object(of_user) => {
                    of_user.retain(|key_id, _| keeps(user_id, key_id));
                    !of_user.is_empty()
                }
                _ => false,
            });
        }
        self
    }

    /// Adds what servers say of a device besides. Spec: `unsigned.device_display_name`.
    #[must_use]
    pub fn with_display_name(mut self, name: Option<&str>) -> Self {
        let mut said = CanonicalJsonObject::new();
        if let Some(name) = name {
            said.insert("device_display_name".to_owned(), CanonicalJsonValue::String(name.to_owned()));
        }
        self.0.insert("unsigned".to_owned(), CanonicalJsonValue::Object(said));
        self
    }

    /// Whether these are the identity keys of a device, signed by it.
    ///
    /// Refused: `InvalidParam` for another user's or device's, or without the device's Ed25519 key; `InvalidSignature`.
    pub fn check_device(&self, user_id: &str, device_id: &str) -> Result<(), Refusal> {
        if self.text("user_id") != Some(user_id) || self.text("device_id") != Some(device_id) {
            return Err(Refusal::InvalidParam("`device_keys` are of another user or device".to_owned()));
        }
        let algorithms = self.0.get("algorithms").and_then(CanonicalJsonValue::as_array);
        if !algorithms.is_some_and(|names| names.iter().all(|name| name.as_str().is_some())) {
            return Err(Refusal::InvalidParam("`device_keys` need a list of `algorithms`".to_owned()));
        }
        let key_id = format!("{ED25519}{device_id}");
        let Some(public_key) = self.public_key(&key_id) else {
            return Err(Refusal::InvalidParam("`device_keys` need the device's ed25519 key".to_owned()));
        };
        if !self.is_signed_by(user_id, &key_id, public_key) {
            return Err(Refusal::InvalidSignature("The device's keys are not signed by it".to_owned()));
        }
        Ok(())
    }

    /// Whether this is a user's cross-signing key for a usage; answers its public key. The signatures are another
    /// matter.
    ///
    /// Refused: `InvalidParam` for another user's, one for another usage, or one without one Ed25519 key.
    pub fn check_cross_signing(&self, user_id: &str, usage: Usage) -> Result<&str, Refusal> {
        let invalid = |what: &str| Refusal::InvalidParam(format!("The {} key {what}", usage.as_str()));
        if self.text("user_id") != Some(user_id) {
            return Err(invalid("is of another user"));
        }
        let usages = self.0.get("usage").and_then(CanonicalJsonValue::as_array);
        if !usages.is_some_and(|usages| usages.iter().any(|used| used.as_str() == Some(usage.as_str()))) {
            return Err(invalid("is for another usage"));
        }
        self.only_public_key().ok_or_else(|| invalid("needs exactly one ed25519 key, named as it is"))
    }
}

fn unsigned(object: &CanonicalJsonObject) -> Vec<(&String, &CanonicalJsonValue)> {
    object.iter().filter(|(field, _)| !matches!(field.as_str(), "signatures" | "unsigned")).collect()
}

/// The id of the key that signs for a device, or of a cross-signing key by its public key.
pub fn signing_key_id(name: &str) -> String {
    format!("{ED25519}{name}")
}

/// Keys to sign with, for tests.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
pub mod testing {
    use ruma_common::{CanonicalJsonObject, serde::Base64};
    use ruma_signatures::{Ed25519KeyPair, KeyPair, to_canonical_json_string_for_signing};
    use serde_json::{Value, json};

    use super::{Usage, signing_key_id};
    use crate::identity::PKCS8_PREFIX;

    /// One key pair.
    pub struct Signer(Ed25519KeyPair);

    impl Signer {
        /// The same seed makes the same keys.
        pub fn new(seed: u8) -> Self {
            let document = [PKCS8_PREFIX.as_slice(), &[seed; 32]].concat();
            Self(Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap())
        }

        /// The public key, in base64.
        pub fn public(&self) -> String {
            <Base64<ruma_common::serde::base64::Standard, [u8; 32]>>::new(self.0.public_key()).encode()
        }

        /// Adds a signature to an object.
        pub fn sign(&self, object: &mut Value, user_id: &str, key_id: &str) {
            let signed: CanonicalJsonObject = serde_json::from_value(object.clone()).unwrap();
            let signature = self.0.sign(to_canonical_json_string_for_signing(&signed).unwrap().as_bytes()).base64();
            object["signatures"][user_id][key_id] = signature.into();
        }

        /// Identity keys of a device whose key this is.
        pub fn device(&self, user_id: &str, device_id: &str) -> Value {
            let mut keys = json!({
                "user_id": user_id, "device_id": device_id,
                "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
                "keys": { signing_key_id(device_id): self.public(), (format!("curve25519:{device_id}")): "c" },
            });
            self.sign(&mut keys, user_id, &signing_key_id(device_id));
            keys
        }

        /// This as a cross-signing key, signed by a master key.
        pub fn cross_signing(&self, user_id: &str, usage: Usage, master: Option<&Signer>) -> Value {
            let key = self.public();
            let mut key = json!({
                "user_id": user_id, "usage": [usage.as_str()], "keys": { signing_key_id(&key): key },
            });
            if let Some(master) = master {
                master.sign(&mut key, user_id, &signing_key_id(&master.public()));
            }
            key
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::CanonicalJsonValue;
    use serde_json::{Value, json};

    use super::testing::Signer;
    use super::{SignedKey, Usage};
    use crate::Refusal;

    const ALICE: &str = "@alice:a.test";

    fn device(change: impl FnOnce(&mut Value)) -> SignedKey {
        let key = Signer::new(1);
        let mut keys = json!({
            "user_id": ALICE, "device_id": "PHONE", "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { "ed25519:PHONE": key.public(), "curve25519:PHONE": "c" },
        });
        change(&mut keys);
        key.sign(&mut keys, ALICE, "ed25519:PHONE");
        SignedKey::parse(&keys.to_string()).unwrap()
    }

    #[test]
    fn a_device_signs_its_keys() {
        let good = device(|_| ());
        assert_eq!(good.check_device(ALICE, "PHONE"), Ok(()));
        for (user, id) in [(ALICE, "LAPTOP"), ("@bob:a.test", "PHONE")] {
            assert!(matches!(good.check_device(user, id), Err(Refusal::InvalidParam(_))));
        }
        for field in ["algorithms", "keys", "user_id", "device_id"] {
            let bad = device(|keys| drop(keys.as_object_mut().unwrap().remove(field)));
            assert!(matches!(bad.check_device(ALICE, "PHONE"), Err(Refusal::InvalidParam(_))), "{field}");
        }
        let mut forged = good.clone();
        forged.0.insert("more".to_owned(), CanonicalJsonValue::Bool(true));
        assert!(matches!(forged.check_device(ALICE, "PHONE"), Err(Refusal::InvalidSignature(_))));
        assert!(!forged.is_same_key(&good));
        let named = good.clone().with_display_name(Some("phone"));
        assert_eq!(named.check_device(ALICE, "PHONE"), Ok(()), "what servers add is not signed");
        assert!(named.is_same_key(&good));
    }

    #[test]
    fn a_cross_signing_key_is_named_as_it_is() {
        let key = |keys: Value, usage: Value| {
            let key = json!({ "user_id": ALICE, "usage": usage, "keys": keys });
            SignedKey::parse(&key.to_string()).unwrap()
        };
        let good = key(json!({ "ed25519:a": "a" }), json!(["master"]));
        assert_eq!(good.check_cross_signing(ALICE, Usage::Master), Ok("a"));
        for bad in [
            good.check_cross_signing("@bob:a.test", Usage::Master),
            good.check_cross_signing(ALICE, Usage::SelfSigning),
            key(json!({ "ed25519:a": "b" }), json!(["master"])).check_cross_signing(ALICE, Usage::Master),
            key(json!({ "ed25519:a": "a", "ed25519:b": "b" }), json!(["master"]))
                .check_cross_signing(ALICE, Usage::Master),
            key(json!({}), json!(["master"])).check_cross_signing(ALICE, Usage::Master),
        ] {
            assert!(matches!(bad, Err(Refusal::InvalidParam(_))), "{bad:?}");
        }
    }

    #[test]
    fn signatures_come_and_go() {
        let mut key = device(|_| ());
        assert!(key.add_signature(ALICE, "ed25519:x", "s"));
        assert!(!key.add_signature(ALICE, "ed25519:x", "s"), "it has it already");
        assert_eq!(key.signers(ALICE), ["ed25519:PHONE", "ed25519:x"]);
        let key = key.with_signatures(|_, key_id| key_id == "ed25519:x");
        assert_eq!(key.signers(ALICE), ["ed25519:x"]);
        assert_eq!(key.signature(ALICE, "ed25519:x"), Some("s"));
        for nonsense in ["[]", "1.5", r#"{"a":1.5}"#] {
            assert!(matches!(SignedKey::parse(nonsense), Err(Refusal::BadJson(_))), "{nonsense}");
        }
    }
}
