//! Keys to sign with, as clients do.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use crate::User;

/// One Ed25519 key pair.
pub struct Keys(SigningKey);

impl Keys {
    /// The same seed makes the same keys.
    pub fn of(seed: u8) -> Self {
        Self(SigningKey::from_bytes(&[seed; 32]))
    }

    /// The public key, in base64.
    pub fn public(&self) -> String {
        BASE64_STANDARD_NO_PAD.encode(self.0.verifying_key().as_bytes())
    }

    /// The object with one more signature. Spec: Appendices, "Signing JSON".
    #[must_use]
    pub fn signs(&self, object: Value, user: &User, name: &str) -> Value {
        self.signs_as(object, &user.id, &format!("ed25519:{name}"))
    }

    /// The object with one more signature of a user or a server.
    #[must_use]
    pub fn signs_as(&self, mut object: Value, who: &str, key_id: &str) -> Value {
        let mut signed = object.clone();
        for field in ["signatures", "unsigned"] {
            signed.as_object_mut().expect("an object").remove(field);
        }
        // A `Value` is written without spaces and with its keys in their order: canonical JSON.
        let signature = self.0.sign(signed.to_string().as_bytes());
        object["signatures"][who][key_id] = BASE64_STANDARD_NO_PAD.encode(signature.to_bytes()).into();
        object
    }

    /// The identity keys of a user's device.
    pub fn device(&self, user: &User) -> Value {
        self.signs(self.device_named(user, &user.device_id), user, &user.device_id)
    }

    /// The identity keys of a user's device by this name, not signed yet.
    pub fn device_named(&self, user: &User, name: &str) -> Value {
        json!({
            "user_id": user.id, "device_id": name,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": { (format!("ed25519:{name}")): self.public(), (format!("curve25519:{name}")): "c" },
        })
    }

    /// This as a cross-signing key, not signed yet.
    pub fn cross_signing(&self, user: &User, usage: &str) -> Value {
        let key = self.public();
        json!({ "user_id": user.id, "usage": [usage], "keys": { (format!("ed25519:{key}")): key } })
    }
}
