//! Keys for end-to-end encryption, of our users for other servers and of theirs for our users. Spec: "End-to-End
//! Encryption", "Device Management".

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use actors::{destination::DeviceList, user::GetKeys};
use domain::{Refusal, readable};
use futures_util::{StreamExt, stream};
use js_int::UInt;
use ruma_common::{OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, serde::Raw};
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
pub(super) const SERVERS_AT_ONCE: usize = 16;
/// The largest answer of a server, in bytes; and what it may have for the first user asked for, and for each.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
const FIRST_USER_BYTES_MAX: usize = 1024 * 1024;
const USER_BYTES_MAX: usize = 128 * 1024;
/// All that servers tell for one request, in bytes: who has not answered when that is reached counts as silent.
pub(super) const TOLD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most servers that are asked for one request; those beyond count as silent.
const SERVERS_MAX: usize = 1_000;

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
    /// The keys of other servers' users: those that are known here to be current, and what their servers say of the
    /// rest. Servers that do not say are among the failures, and so are those that were not listened to any more.
    ///
    /// # Errors
    /// A fault of ours.
    pub(crate) async fn keys_elsewhere(
        &self,
        asked: Elsewhere<Vec<OwnedDeviceId>>,
        timeout_ms: u64,
    ) -> Result<Keys, Failure> {
        let mut listening = Listening::to(&asked);
        let mut asked: Elsewhere<_> = asked.into_iter().take(SERVERS_MAX).collect();
        let mut cache = self.cached_device_lists(&asked).await?;
        let mut found = Keys::default();
        for (user, list) in std::mem::take(&mut cache.lists) {
            let Some(of_server) = asked.get_mut(user.server_name()) else { continue };
            let Some(devices) = of_server.remove(&user) else { continue };
            if of_server.is_empty() {
                listening.heard(user.server_name());
            }
            listening.counts_all(&list);
            found.add(user, list, &devices);
        }
        asked.retain(|_, users| !users.is_empty());
        let seats = &cache.seats;
        let fetches = asked.iter().map(async |(server, users)| {
            let fetched = self.fetch_device_lists(server, users, seats, timeout_ms).await;
            (server, users, fetched)
        });
        let mut fetches = stream::iter(fetches).buffer_unordered(SERVERS_AT_ONCE);
        let mut fetched = Vec::new();
        while !listening.is_over()
            && let Some((server, users, answered)) = fetches.next().await
        {
            listening.heard(server);
            match answered {
                Err(error) => drop(found.failures.insert(server.to_string(), failure(&error))),
                Ok(lists) => {
                    lists.values().for_each(|list| listening.counts_all(&list.keys));
                    for (user, list) in &lists {
                        found.add(user.clone(), list.keys.clone(), users.get(user).map_or(&[], Vec::as_slice));
                    }
                    fetched.push((server, lists));
                }
            }
        }
        found.failures.extend(listening.ends());
        self.cache_device_lists(fetched, &cache).await?;
        Ok(found)
    }

    /// One-time keys of other servers' users, which those servers give to nobody else. Servers that do not say are
    /// among the failures.
    pub(crate) async fn claim_elsewhere(
        &self,
        asked: Elsewhere<BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
        timeout_ms: u64,
    ) -> (ClaimedKeys, BTreeMap<String, Value>) {
        let mut listening = Listening::to(&asked);
        let calls = asked.into_iter().take(SERVERS_MAX).map(|(server, users)| async move {
            let names: Vec<OwnedUserId> = users.keys().cloned().collect();
            let answered = self.query(&server, claim::Request::new(users), bounds(names.len(), timeout_ms)).await;
            (server, names, answered)
        });
        let mut calls = stream::iter(calls).buffer_unordered(SERVERS_AT_ONCE);
        let (mut claimed, mut failures) = (ClaimedKeys::new(), BTreeMap::new());
        while let Some((server, names, answered)) = calls.next().await {
            listening.heard(&server);
            match answered {
                Ok(mut answer) => claimed.extend(names.into_iter().filter_map(|name| {
                    let devices = answer.one_time_keys.remove(&name)?.into_iter().map(|(device_id, keys)| {
                        let keys = keys.into_iter().map(|(id, key)| (id.to_string(), key.into_json()));
                        let keys = keys.inspect(|(_, key)| listening.counts(key));
                        (device_id, keys.filter(|(_, key)| is_key(key)).collect())
                    });
                    Some((name, devices.collect()))
                })),
                Err(error) => drop(failures.insert(server.to_string(), failure(&error))),
            }
            if listening.is_over() {
                break;
            }
        }
        failures.extend(listening.ends());
        (claimed, failures)
    }
}

/// Whether another server's one-time key is one that everybody can read: who cannot reads none of the answer.
fn is_key(key: &RawValue) -> bool {
    readable::check(key.get().as_bytes()).is_ok()
}

/// What a server may answer that is asked for so many users.
pub(super) fn bounds(users: usize, timeout_ms: u64) -> Bounds {
    let of_users = USER_BYTES_MAX.saturating_mul(users).saturating_add(FIRST_USER_BYTES_MAX);
    Bounds { response_bytes_max: of_users.min(ANSWER_BYTES_MAX), timeout_ms }
}

/// How long one request goes on listening to other servers.
struct Listening {
    silent: BTreeSet<OwnedServerName>,
    told: Cell<usize>,
}

impl Listening {
    fn to<T>(asked: &Elsewhere<T>) -> Self {
        Self { silent: asked.keys().cloned().collect(), told: Cell::new(0) }
    }

    fn heard(&mut self, server: &ServerName) {
        self.silent.remove(server);
    }

    fn counts(&self, keys: &RawValue) {
        self.told.set(self.told.get().saturating_add(keys.get().len()));
    }

    fn counts_all(&self, list: &DeviceList) {
        list.devices.values().chain(&list.master).chain(&list.self_signing).for_each(|key| self.counts(key));
    }

    fn is_over(&self) -> bool {
        self.told.get() >= TOLD_BYTES_MAX
    }

    /// What is said of those who were not heard.
    fn ends(self) -> impl Iterator<Item = (String, Value)> {
        let error = json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "Too much was asked for at once" });
        self.silent.into_iter().map(move |server| (server.to_string(), error.clone()))
    }
}

/// What a client learns of a server that did not say. Spec: `failures`.
fn failure(error: &AskError) -> Value {
    tracing::debug!(%error, "another server did not tell keys");
    match error {
        AskError::Refused { errcode, message, .. } => json!({ "errcode": errcode, "error": message }),
        AskError::Denied => json!({ "errcode": "M_FORBIDDEN", "error": "This server does not talk to that one" }),
        AskError::Unreachable(_) | AskError::TooLarge | AskError::Nonsense(_) | AskError::Unwritable(_) => {
            json!({ "errcode": "M_UNKNOWN", "error": "The server does not answer" })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::value::{RawValue, to_raw_value};

    use super::{ANSWER_BYTES_MAX, Elsewhere, Listening, TOLD_BYTES_MAX, bounds, is_key};

    #[test]
    fn a_key_that_not_everybody_can_read_is_none() {
        let is_key = |json: &str| is_key(&RawValue::from_string(json.to_owned()).unwrap());
        assert!(is_key(r#"{"key":"\ud83d\ude00"}"#) && is_key(r#""k""#));
        assert!(!is_key(r#"{"key":"\ud83d"}"#) && !is_key(&format!("{}{}", "[".repeat(101), "]".repeat(101))));
    }

    #[test]
    fn so_much_is_listened_to_and_who_is_not_heard_is_named() {
        let server = |name: &str| ruma_common::OwnedServerName::try_from(name).unwrap();
        let asked: Elsewhere<()> = ["a.test", "b.test", "c.test"].map(|name| (server(name), BTreeMap::new())).into();
        let mut listening = Listening::to(&asked);
        listening.heard(&server("b.test"));
        let keys = to_raw_value(&"x".repeat(TOLD_BYTES_MAX / 2)).unwrap();
        listening.counts(&keys);
        assert!(!listening.is_over());
        listening.counts(&keys);
        assert!(listening.is_over());
        assert_eq!(listening.ends().map(|(server, _)| server).collect::<Vec<_>>(), ["a.test", "c.test"]);
        assert!(bounds(1, 0).response_bytes_max < ANSWER_BYTES_MAX / 2);
        assert_eq!(bounds(5_000, 0).response_bytes_max, ANSWER_BYTES_MAX);
    }
}
