//! The server's name and its Ed25519 signing key.
//!
//! Owns signing, and the text form in which the key is exported and imported: Synapse's signing key file, so a server
//! can move here with its identity. Where the key is kept, and making its 32 random bytes, is left to others.
//! Spec: Appendices, "Signing JSON"; Server-Server API, "Retrieving server keys".

use std::fmt;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ruma_common::{CanonicalJsonObject, OwnedServerName, ServerName, serde::Base64};
use ruma_signatures::{Ed25519KeyPair, KeyPair, PublicKeyMap, PublicKeySet};

/// Matrix base64: unpadded when written, with or without padding when read.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        // The specification's own test key has them.
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An Ed25519 private key in PKCS#8 v1 is this, then the seed (RFC 8410, section 7).
pub(crate) const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Who we are to other servers.
pub struct Identity {
    server_name: OwnedServerName,
    key_pair: Ed25519KeyPair,
    seed: [u8; 32],
    former_keys: Vec<FormerKey>,
}

/// A key that signed for us once. What it signed then is still ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerKey {
    /// Its id, `ed25519:xxxx`.
    pub key_id: String,
    /// The public key.
    pub public_key: Base64,
    /// When it stopped, in milliseconds since the Unix epoch.
    pub expired_ms: u64,
}

/// Why an identity could not be made or used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// The part of the key id after `ed25519:`.
    #[error("a signing key's version has letters, digits and underscores only: {0:?}")]
    KeyVersion(String),
    /// The text is not `ed25519 <version> <base64>`. The text itself is secret and not repeated here.
    #[error("a signing key reads `ed25519 a_xxxx <unpadded base64 of 32 bytes>`")]
    Format,
    /// What was to be signed has a `signatures` that is not an object.
    #[error("cannot sign: {0}")]
    Sign(String),
}

impl Identity {
    /// Makes an identity from a seed of 32 random bytes. `key_id_version` is what follows `ed25519:`, such as `a_Xy1z`.
    ///
    /// # Errors
    /// [`IdentityError::KeyVersion`] when the version is not of `[a-zA-Z0-9_]+`.
    pub fn new(server_name: OwnedServerName, key_id_version: &str, seed: [u8; 32]) -> Result<Self, IdentityError> {
        if key_id_version.is_empty() || !key_id_version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return Err(IdentityError::KeyVersion(key_id_version.to_owned()));
        }
        let document = [PKCS8_PREFIX.as_slice(), seed.as_slice()].concat();
        let key_pair =
            Ed25519KeyPair::from_der(&document, key_id_version.to_owned()).map_err(|_| IdentityError::Format)?;
        Ok(Self { server_name, key_pair, seed, former_keys: Vec::new() })
    }

    /// The same, with the keys that signed for us before.
    #[must_use]
    pub fn with_former_keys(self, former_keys: Vec<FormerKey>) -> Self {
        Self { former_keys, ..self }
    }

    /// The keys that signed for us before.
    pub fn former_keys(&self) -> &[FormerKey] {
        &self.former_keys
    }

    /// Our key as one that stops at a time.
    pub fn as_former_key(&self, expired_ms: u64) -> FormerKey {
        let public_key = Base64::new(self.key_pair.public_key().to_vec());
        FormerKey { key_id: self.key_id(), public_key, expired_ms }
    }

    /// Reads a key in the format of [`Identity::export`].
    ///
    /// # Errors
    /// [`IdentityError::Format`] or [`IdentityError::KeyVersion`].
    pub fn import(server_name: OwnedServerName, text: &str) -> Result<Self, IdentityError> {
        let mut words = text.split_whitespace();
        let (Some("ed25519"), Some(version), Some(seed), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(IdentityError::Format);
        };
        let seed = BASE64.decode(seed).map_err(|_| IdentityError::Format)?;
        let seed = <[u8; 32]>::try_from(seed).map_err(|_| IdentityError::Format)?;
        Self::new(server_name, version, seed)
    }

    /// The key as one line of Synapse's signing key file: `ed25519 a_xxxx <unpadded base64 seed>`. Secret.
    pub fn export(&self) -> String {
        format!("ed25519 {} {}", self.key_pair.version(), BASE64.encode(self.seed))
    }

    /// Our server name.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The id of the key, `ed25519:xxxx`.
    pub fn key_id(&self) -> String {
        format!("ed25519:{}", self.key_pair.version())
    }

    /// The public key, in unpadded base64, as published at `/_matrix/key/v2/server`.
    pub fn public_key_base64(&self) -> String {
        BASE64.encode(self.key_pair.public_key())
    }

    /// Our public keys, former ones among them, as [`crate::event::check`] takes them.
    pub fn public_keys(&self) -> PublicKeyMap {
        let former = self.former_keys.iter().map(|former| (former.key_id.clone(), former.public_key.clone()));
        let mut keys: PublicKeySet = former.collect();
        keys.insert(self.key_id(), Base64::new(self.key_pair.public_key().to_vec()));
        PublicKeyMap::from([(self.server_name.to_string(), keys)])
    }

    /// Adds our signature to a JSON object, leaving out `signatures` and `unsigned` as the spec says.
    /// Events are signed by [`crate::event::build`].
    ///
    /// # Errors
    /// [`IdentityError::Sign`] when `signatures` is there and not an object.
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) -> Result<(), IdentityError> {
        ruma_signatures::sign_json(self.server_name.as_str(), &self.key_pair, object)
            .map_err(|error| IdentityError::Sign(error.to_string()))
    }

    pub(crate) fn key_pair(&self) -> &impl KeyPair {
        &self.key_pair
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("server_name", &self.server_name)
            .field("key_id", &self.key_id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::server_name;
    use ruma_signatures::verify_json;

    use super::{Identity, IdentityError};

    /// Appendices, "Cryptographic Test Vectors".
    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";

    fn of_the_spec() -> Identity {
        Identity::import(server_name!("domain").to_owned(), &format!("ed25519 1 {SEED}\n")).unwrap()
    }

    #[test]
    fn the_test_vectors_of_the_spec_hold() {
        let identity = of_the_spec();
        assert_eq!(identity.key_id(), "ed25519:1");
        let mut object = serde_json::from_str(r#"{"one": 1, "two": "Two"}"#).unwrap();
        identity.sign_json(&mut object).unwrap();
        let signature = "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw";
        assert_eq!(object["signatures"].as_object().unwrap()["domain"].as_object().unwrap()["ed25519:1"], signature);
        verify_json(&identity.public_keys(), &object).unwrap();
    }

    #[test]
    fn a_key_survives_export_and_import() {
        let identity = Identity::new(server_name!("localhost:8448").to_owned(), "a_Xy1z", [7; 32]).unwrap();
        let again = Identity::import(identity.server_name().to_owned(), &identity.export()).unwrap();
        assert_eq!(again.export(), identity.export());
        assert_eq!(again.public_key_base64(), identity.public_key_base64());
        let canonical = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";
        assert_eq!(of_the_spec().export(), canonical, "without the trailing bits");
    }

    #[test]
    fn bad_keys_are_refused_and_secrets_not_shown() {
        let name = || server_name!("domain").to_owned();
        for text in ["", "ed25519", "rsa 1 AAAA", "ed25519 1 AAAA", "ed25519 1 ????", &format!("ed25519 1 {SEED} x")] {
            assert_eq!(Identity::import(name(), text).unwrap_err(), IdentityError::Format, "{text}");
        }
        assert_eq!(Identity::new(name(), "a b", [0; 32]).unwrap_err(), IdentityError::KeyVersion("a b".to_owned()));
        assert_eq!(format!("{:?}", of_the_spec()), r#"Identity { server_name: "domain", key_id: "ed25519:1", .. }"#);
    }
}
