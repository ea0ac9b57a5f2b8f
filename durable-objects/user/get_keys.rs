use std::collections::BTreeMap;

use domain::signed_key::{SignedKey, Usage};
use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{User, authenticate, own_id, store, store::keys::Kind};
use crate::{Call, Cx, Error};

/// The user's public keys, as `viewer` may see them: the user-signing key is the user's own to see. Without a viewer
/// they are for another server.
///
/// Spec: "End-to-End Encryption", `/keys/query`, "Key and signature security".
#[derive(Debug, Serialize, Deserialize)]
pub struct GetKeys {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub viewer: Option<OwnedUserId>,
    /// Devices to be shown; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<OwnedDeviceId>,
}

/// Each key as it was uploaded, with the signatures of the user's own keys.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct UserKeys {
    pub devices: BTreeMap<OwnedDeviceId, Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signing: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_signing: Option<Box<RawValue>>,
    /// The stream id of the device that changed last.
    #[serde(default)]
    pub stream_id: u64,
}

impl Call for GetKeys {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_keys";
    type Reply = UserKeys;
}

/// What the user signed of others' master keys: nobody else sees it.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetSignatures {
    pub token_hash: String,
    pub of: Vec<OwnedUserId>,
}

/// Signatures of one master key.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeySignatures {
    /// The public key, in base64.
    pub key: String,
    /// By the id of the key that signed.
    pub signatures: BTreeMap<String, String>,
}

impl Call for GetSignatures {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_signatures";
    type Reply = BTreeMap<OwnedUserId, KeySignatures>;
}

impl User {
    pub(super) fn keys(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetKeys) -> Result<UserKeys, Error> {
        let ids: Vec<&str> = call.devices.iter().map(|device_id| device_id.as_str()).collect();
        let asked = if ids.is_empty() { None } else { Some(&*ids) };
        let names: BTreeMap<OwnedDeviceId, String> = store::device::all(sql)?
            .into_iter()
            .filter_map(|device| Some((device.device_id, device.display_name?)))
            .collect();
        let mut devices = BTreeMap::new();
        for (device_id, keys) in store::keys::all(sql, Kind::Device, asked)? {
            let device_id = OwnedDeviceId::from(device_id);
            let name = names.get(&device_id).map(String::as_str);
            let keys = SignedKey::parse(&keys)?.with_display_name(name);
            devices.insert(device_id, RawValue::from_string(keys.to_json())?);
        }
        let stream_id = store::keys::devices_head(sql)?;
        let mut keys = UserKeys { devices, stream_id, ..UserKeys::default() };
        for (usage, key) in store::keys::all(sql, Kind::CrossSigning, None)? {
            let key = Some(RawValue::from_string(key)?);
            match Usage::ALL.into_iter().find(|known| known.as_str() == usage) {
                Some(Usage::Master) => keys.master = key,
                Some(Usage::SelfSigning) => keys.self_signing = key,
                Some(Usage::UserSigning) if call.viewer == Some(own_id(cx)?) => keys.user_signing = key,
                Some(Usage::UserSigning) | None => {}
            }
        }
        Ok(keys)
    }

    pub(super) fn signatures(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetSignatures,
    ) -> Result<<GetSignatures as Call>::Reply, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        let ids: Vec<&str> = call.of.iter().map(|user_id| user_id.as_str()).collect();
        let mut signatures = BTreeMap::new();
        for (user_id, signed) in store::keys::all(sql, Kind::Signature, Some(&ids))? {
            if let Ok(user_id) = OwnedUserId::try_from(user_id) {
                signatures.insert(user_id, serde_json::from_str(&signed)?);
            }
        }
        Ok(signatures)
    }
}
