use std::collections::BTreeMap;

use platform::{ActorKind, Fault, Tx};
use ruma_common::OwnedDeviceId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{User, store};
use crate::{Call, Cx, Error};

/// Takes one key of each device and algorithm asked for: a one-time key, the oldest first, which nobody gets again, or
/// else the fallback key. Devices without any are left out. Repeated with the same call id, the call answers the same
/// one-time keys.
///
/// Spec: "End-to-End Encryption", `/keys/claim`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClaimKeys {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// An algorithm for each device.
    pub devices: BTreeMap<OwnedDeviceId, String>,
}

impl Call for ClaimKeys {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "claim_keys";
    /// For each device a key by `<algorithm>:<key id>`.
    type Reply = BTreeMap<OwnedDeviceId, BTreeMap<String, Box<RawValue>>>;
}

impl User {
    pub(super) fn claim_keys(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: ClaimKeys,
    ) -> Result<<ClaimKeys as Call>::Reply, Error> {
        let mut claimed: <ClaimKeys as Call>::Reply = BTreeMap::new();
        for (device_id, algorithm) in call.devices {
            let claim = call.call_id.as_deref();
            let Some((key, fallback, given)) = store::keys::next(&**tx, &device_id, &algorithm, claim)? else {
                continue;
            };
            // A fallback key is used up with the first time, as far as the device is told.
            if !given {
                let position = self.own_position(&**tx, cx)?;
                store::keys::give(tx, &device_id, (&key, fallback), claim, position)?;
            }
            let json = key.key.ok_or_else(|| Fault::new("a key was given out already"))?;
            let name = format!("{}:{}", key.algorithm, key.key_id);
            claimed.insert(device_id, BTreeMap::from([(name, RawValue::from_string(json)?)]));
        }
        Ok(claimed)
    }
}
