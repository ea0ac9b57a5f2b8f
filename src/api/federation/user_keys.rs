//! Keys for end-to-end encryption, of our users for other servers and of theirs for our users. Spec: "End-to-End
//! Encryption", "Device Management".

use std::collections::BTreeMap;

use actors::user::GetKeys;
use domain::{Refusal, signed_key::SignedKey};
use futures_util::{StreamExt, stream};
use js_int::UInt;
use ruma_common::{OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId, serde::Raw};
use ruma_federation_api::{
    device::get_devices::v1 as devices,
    keys::{claim_keys::v1 as claim, get_keys::v1 as query},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{AskError, Bounds, Origin};
use crate::{
    Context, Failure, OrAbsent, Routes,
    client::keys::{ClaimedKeys, Keys, claimed_here, keys_here, of_here},
};

/// Servers that are asked at the same time.
const SERVERS_AT_ONCE: usize = 16;
/// The largest answer of a server, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(query_keys);
    routes.add_json(claim_keys);
    routes.add(get_devices);
}

async fn query_keys(cx: &Context, _: Origin, request: query::Request) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Told {
        device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Box<RawValue>>>,
        master_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
        self_signing_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    }
    let keys = keys_here(cx, None, of_here(cx, request.device_keys)?).await?;
    let Keys { device_keys, master_keys, self_signing_keys, .. } = keys;
    Ok(serde_json::to_vec(&Told { device_keys, master_keys, self_signing_keys })?)
}

async fn claim_keys(cx: &Context, _: Origin, request: claim::Request) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Claimed {
        one_time_keys: ClaimedKeys,
    }
    let one_time_keys = claimed_here(cx, of_here(cx, request.one_time_keys)?).await?;
    Ok(serde_json::to_vec(&Claimed { one_time_keys })?)
}

async fn get_devices(cx: &Context, _: Origin, request: devices::Request) -> Result<devices::Response, Failure> {
    let unknown = || Refusal::NotFound("There is no such user".to_owned());
    if !cx.is_local(&request.user_id) {
        return Err(unknown().into());
    }
    let call = GetKeys { viewer: None, devices: Vec::new() };
    let keys = cx.user(&request.user_id).call(&call).await.or_absent(unknown())?;
    let stream_id = UInt::try_from(keys.stream_id).unwrap_or(UInt::MAX);
    let mut response = devices::Response::new(request.user_id, stream_id);
    response.devices = keys.devices.into_iter().map(|(device_id, keys)| device(device_id, keys)).collect();
    response.master_key = keys.master.map(Raw::from_json);
    response.self_signing_key = keys.self_signing.map(Raw::from_json);
    Ok(response)
}

/// A device as servers tell each other: its name stands beside the keys.
fn device(device_id: OwnedDeviceId, keys: Box<RawValue>) -> devices::UserDevice {
    #[derive(Default, Deserialize)]
    struct Shown {
        #[serde(default)]
        unsigned: Named,
    }
    #[derive(Default, Deserialize)]
    struct Named {
        device_display_name: Option<String>,
    }
    let Shown { unsigned } = serde_json::from_str(keys.get()).unwrap_or_default();
    let mut device = devices::UserDevice::new(device_id, Raw::from_json(keys));
    device.device_display_name = unsigned.device_display_name;
    device
}

/// What is asked of other servers, by server and user.
pub(crate) type Elsewhere<T> = BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>>;

impl Context {
    /// The keys of other servers' users. Servers that do not say are among the failures.
    pub(crate) async fn keys_elsewhere(&self, asked: Elsewhere<Vec<OwnedDeviceId>>, timeout_ms: u64) -> Keys {
        let bounds = Bounds { response_bytes_max: ANSWER_BYTES_MAX, timeout_ms };
        let calls = asked.into_iter().map(|(server, users)| async move {
            let names: Vec<OwnedUserId> = users.keys().cloned().collect();
            let answered = self.query(&server, query::Request::new(users), bounds).await;
            (server, names, answered)
        });
        let mut calls = stream::iter(calls).buffer_unordered(SERVERS_AT_ONCE);
        let mut found = Keys::default();
        while let Some((server, names, answered)) = calls.next().await {
            let mut answer = match answered {
                Ok(answer) => answer,
                Err(error) => {
                    found.failures.insert(server.to_string(), failure(&error));
                    continue;
                }
            };
            for name in names {
                let devices = answer.device_keys.remove(&name).unwrap_or_default().into_iter();
                let devices = devices.filter_map(|(id, keys)| Some((id, signed(keys)?))).collect();
                found.device_keys.insert(name.clone(), devices);
                let master = answer.master_keys.remove(&name).and_then(signed);
                found.master_keys.extend(master.map(|key| (name.clone(), key)));
                let self_signing = answer.self_signing_keys.remove(&name).and_then(signed);
                found.self_signing_keys.extend(self_signing.map(|key| (name, key)));
            }
        }
        found
    }

    /// One-time keys of other servers' users, which those servers give to nobody else. Servers that do not say are among
    /// the failures.
    pub(crate) async fn claim_elsewhere(
        &self,
        asked: Elsewhere<BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
        timeout_ms: u64,
    ) -> (ClaimedKeys, BTreeMap<String, Value>) {
        let bounds = Bounds { response_bytes_max: ANSWER_BYTES_MAX, timeout_ms };
        let calls = asked.into_iter().map(|(server, users)| async move {
            let names: Vec<OwnedUserId> = users.keys().cloned().collect();
            let answered = self.query(&server, claim::Request::new(users), bounds).await;
            (server, names, answered)
        });
        let mut calls = stream::iter(calls).buffer_unordered(SERVERS_AT_ONCE);
        let (mut claimed, mut failures) = (ClaimedKeys::new(), BTreeMap::new());
        while let Some((server, names, answered)) = calls.next().await {
            match answered {
                Ok(mut answer) => claimed.extend(names.into_iter().filter_map(|name| {
                    let devices = answer.one_time_keys.remove(&name)?.into_iter().map(|(device_id, keys)| {
                        (device_id, keys.into_iter().map(|(id, key)| (id.to_string(), key.into_json())).collect())
                    });
                    Some((name, devices.collect()))
                })),
                Err(error) => drop(failures.insert(server.to_string(), failure(&error))),
            }
        }
        (claimed, failures)
    }
}

/// Keys that can be signed at all; others are no use to anybody.
fn signed<T>(keys: Raw<T>) -> Option<Box<RawValue>> {
    let keys = keys.into_json();
    SignedKey::parse(keys.get()).is_ok().then_some(keys)
}

/// What a client learns of a server that did not say. Spec: `failures`.
fn failure(error: &AskError) -> Value {
    tracing::debug!(%error, "another server did not tell keys");
    match error {
        AskError::Refused { errcode, message, .. } => json!({ "errcode": errcode, "error": message }),
        AskError::Denied => json!({ "errcode": "M_FORBIDDEN", "error": "This server does not talk to that one" }),
        AskError::Unreachable(_) | AskError::TooLarge | AskError::Nonsense(_) => {
            json!({ "errcode": "M_UNKNOWN", "error": "The server does not answer" })
        }
    }
}
