//! Keys for end-to-end encryption. Spec: "End-to-End Encryption", "Key management API", "Cross-signing".

use std::{collections::BTreeMap, time::Duration};

use actors::{
    destination::DeviceList,
    room::GetDeviceLists,
    user::{
        ClaimKeys, GetKeys, GetOwnDeviceLists, GetSignatures, KeySignatures, Signed, SyncPlan, UploadCrossSigning,
        UploadKeys, UploadSignatures, UserKeys,
    },
};
use bytes::Bytes;
use domain::{Refusal, signed_key::SignedKey};
use futures_util::{StreamExt, TryStreamExt, future::join, stream};
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::keys::{
    claim_keys::v3 as claim, get_key_changes::v3 as changes, get_keys::v3 as query, upload_keys::v3 as upload,
    upload_signatures::v3 as signatures,
};
use ruma_common::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId, encryption::OneTimeKey, serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{device_lists::DeviceLists, rooms::call_id};
use crate::{
    Bearer, Caller, Context, Failure, Routes, failure,
    federation::Elsewhere,
    router::bad_json,
    uiaa::{self, Auth, Operation},
};

/// Users whose keys may be asked for at once.
const USERS_MAX: usize = 5_000;
/// Users asked at the same time.
const USERS_AT_ONCE: usize = 32;
/// The keys of devices that one answer to another server has, in bytes.
const ELSEWHERE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long other servers may take, in milliseconds, unless a client wishes otherwise, and at most.
const TIMEOUT_MS: u64 = 10_000;
const TIMEOUT_MS_MAX: u64 = 20_000;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried_json(upload);
    routes.add_carried_json(query);
    routes.add_json(claim);
    routes.add_carried_json(sign);
    routes.add_carried_json(changes);
    for path in ["/_matrix/client/v3/keys/device_signing/upload", "/_matrix/client/unstable/keys/device_signing/upload"]
    {
        routes.add_raw(Method::POST, path, upload_cross_signing);
    }
}

async fn upload(cx: &Context, bearer: Bearer, request: upload::Request) -> Result<Vec<u8>, Failure> {
    let keys = |keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>| -> BTreeMap<String, Box<RawValue>> {
        keys.into_iter().map(|(name, key)| (name.to_string(), key.into_json())).collect()
    };
    let call = UploadKeys {
        token_hash: bearer.token_hash.clone(),
        device_keys: request.device_keys.map(Raw::into_json),
        one_time_keys: keys(request.one_time_keys),
        fallback_keys: keys(request.fallback_keys),
    };
    let counts = bearer.call(cx, &call).await?;
    Ok(serde_json::to_vec(&json!({ "one_time_key_counts": counts.told() }))?)
}

/// Not ruma's type: keys go through as they are, in pieces of ready JSON.
#[derive(Default, Serialize)]
pub(crate) struct Keys {
    pub failures: BTreeMap<String, Value>,
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Box<RawValue>>>,
    pub master_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    pub self_signing_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    pub user_signing_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
}

impl Keys {
    /// Adds a user's; of the devices, those that were asked for, or all.
    pub(crate) fn add(&mut self, user: OwnedUserId, list: DeviceList, asked: &[OwnedDeviceId]) {
        let DeviceList { mut devices, master, self_signing } = list;
        if !asked.is_empty() {
            devices.retain(|device_id, _| asked.contains(device_id));
        }
        self.device_keys.insert(user.clone(), devices);
        self.master_keys.extend(master.map(|key| (user.clone(), key)));
        self.self_signing_keys.extend(self_signing.map(|key| (user, key)));
    }

    fn extend(&mut self, other: Keys) {
        self.failures.extend(other.failures);
        self.device_keys.extend(other.device_keys);
        self.master_keys.extend(other.master_keys);
        self.self_signing_keys.extend(other.self_signing_keys);
        self.user_signing_keys.extend(other.user_signing_keys);
    }
}

async fn query(cx: &Context, bearer: Bearer, request: query::Request) -> Result<Vec<u8>, Failure> {
    let of = request.device_keys.keys().cloned().collect();
    let signed = bearer.call(cx, &GetSignatures { token_hash: bearer.token_hash.clone(), of }).await?;
    let Asked { here, elsewhere } = asked(cx, request.device_keys)?;
    let viewer = Some(&*bearer.user_id);
    let there = cx.keys_elsewhere(elsewhere, timeout_ms(request.timeout));
    let (keys, there) = join(keys_here(cx, viewer, here), there).await;
    let mut keys = keys?;
    keys.extend(there?);
    for (user_id, signed) in &signed {
        if let Some(master) = keys.master_keys.remove(user_id) {
            keys.master_keys.insert(user_id.clone(), signed_master(master, &bearer.user_id, signed)?);
        }
    }
    Ok(serde_json::to_vec(&keys)?)
}

/// How long other servers may take, in milliseconds. Spec: "10 seconds is the recommended default".
fn timeout_ms(wished: Option<Duration>) -> u64 {
    wished.map_or(TIMEOUT_MS, |wished| u64::try_from(wished.as_millis()).unwrap_or(u64::MAX)).min(TIMEOUT_MS_MAX)
}

/// The keys of our own users, as `viewer` may see them; `None` is another server, which is refused more than it could
/// take in. Who does not exist is left out.
pub(crate) async fn keys_here(
    cx: &Context,
    viewer: Option<&UserId>,
    users: Vec<(OwnedUserId, Vec<OwnedDeviceId>)>,
) -> Result<Keys, Failure> {
    let calls = users.into_iter().map(|(user_id, devices)| async {
        let call = GetKeys { viewer: viewer.map(ToOwned::to_owned), devices };
        Ok::<_, Failure>((existing(cx.user(&user_id).call(&call).await)?, user_id))
    });
    let mut found = stream::iter(calls).buffer_unordered(USERS_AT_ONCE);
    let (mut answer, mut bytes) = (Keys::default(), 0_usize);
    while let Some((keys, user_id)) = found.try_next().await? {
        let Some(UserKeys { devices, master, self_signing, user_signing, .. }) = keys else { continue };
        bytes = devices.values().fold(bytes, |bytes, keys| bytes.saturating_add(keys.get().len()));
        if viewer.is_none() && bytes > ELSEWHERE_BYTES_MAX {
            return Err(Refusal::TooLarge("So many users have too large keys: ask for fewer".to_owned()).into());
        }
        answer.user_signing_keys.extend(user_signing.map(|key| (user_id.clone(), key)));
        answer.add(user_id, DeviceList { devices, master, self_signing }, &[]);
    }
    Ok(answer)
}

/// Somebody's master key, with what the viewer signed it with, if it is the one they signed.
fn signed_master(master: Box<RawValue>, viewer: &UserId, signed: &KeySignatures) -> Result<Box<RawValue>, Failure> {
    let mut key = SignedKey::parse(master.get())?;
    if key.only_public_key() != Some(&signed.key) {
        return Ok(master);
    }
    for (key_id, signature) in &signed.signatures {
        key.add_signature(viewer.as_str(), key_id, signature);
    }
    Ok(RawValue::from_string(key.to_json())?)
}

/// One-time keys by user, device and id.
pub(crate) type ClaimedKeys = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, BTreeMap<String, Box<RawValue>>>>;

async fn claim(cx: &Context, _: Caller, request: claim::Request) -> Result<Vec<u8>, Failure> {
    let Asked { here, elsewhere } = asked(cx, request.one_time_keys)?;
    let there = cx.claim_elsewhere(elsewhere, timeout_ms(request.timeout));
    let (keys, (there, failures)) = join(claimed_here(cx, here), there).await;
    let mut one_time_keys = keys?;
    one_time_keys.extend(there);
    #[derive(Serialize)]
    struct Claimed {
        failures: BTreeMap<String, Value>,
        one_time_keys: ClaimedKeys,
    }
    Ok(serde_json::to_vec(&Claimed { failures, one_time_keys })?)
}

/// Takes one-time keys of our own users. Who does not exist, and who has none, is left out.
pub(crate) async fn claimed_here(
    cx: &Context,
    users: Vec<(OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>)>,
) -> Result<ClaimedKeys, Failure> {
    let call_id = Some(call_id(cx)?);
    let calls = users.into_iter().map(|(user_id, devices)| async {
        let devices = devices.into_iter().map(|(device_id, algorithm)| (device_id, algorithm.to_string())).collect();
        let call = ClaimKeys { call_id: call_id.clone(), devices };
        Ok::<_, Failure>((existing(cx.user(&user_id).call(&call).await)?, user_id))
    });
    let claimed: Vec<_> = stream::iter(calls).buffer_unordered(USERS_AT_ONCE).try_collect().await?;
    let keys = claimed.into_iter().filter_map(|(keys, user_id)| Some((user_id, keys.filter(|keys| !keys.is_empty())?)));
    Ok(keys.collect())
}

/// What is asked of our own users, and of those of other servers.
struct Asked<T> {
    here: Vec<(OwnedUserId, T)>,
    elsewhere: Elsewhere<T>,
}

fn asked<T>(cx: &Context, users: BTreeMap<OwnedUserId, T>) -> Result<Asked<T>, Refusal> {
    if users.len() > USERS_MAX {
        return Err(Refusal::InvalidParam(format!("The keys of {USERS_MAX} users may be asked for at once")));
    }
    let mut asked = Asked { here: Vec::new(), elsewhere: Elsewhere::new() };
    for (user_id, what) in users {
        if cx.is_local(&user_id) {
            asked.here.push((user_id, what));
        } else {
            asked.elsewhere.entry(user_id.server_name().to_owned()).or_default().insert(user_id, what);
        }
    }
    Ok(asked)
}

/// What another server asks of our users. Spec: «Requested users must be local to the receiving homeserver».
pub(crate) fn of_here<T>(cx: &Context, users: BTreeMap<OwnedUserId, T>) -> Result<Vec<(OwnedUserId, T)>, Refusal> {
    let Asked { here, elsewhere } = asked(cx, users)?;
    if elsewhere.is_empty() {
        Ok(here)
    } else {
        Err(Refusal::InvalidParam("Some users are not of this server".to_owned()))
    }
}

/// Who does not exist is left out.
fn existing<T>(reply: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match reply {
        Ok(reply) => Ok(Some(reply)),
        Err(Failure::Absent) => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn sign(cx: &Context, bearer: Bearer, request: signatures::Request) -> Result<Vec<u8>, Failure> {
    let signed: Signed = request
        .signed_keys
        .into_iter()
        .map(|(user_id, keys)| (user_id, keys.iter().map(|(name, key)| (name.to_owned(), key.to_owned())).collect()))
        .collect();
    // Before others are asked for theirs.
    bearer.verify(cx).await?;
    let others = signed.keys().filter(|user_id| **user_id != bearer.user_id);
    let others: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>> =
        others.map(|user_id| (user_id.clone(), Vec::new())).collect();
    let Asked { here, elsewhere } = asked(cx, others)?;
    let there = cx.keys_elsewhere(elsewhere, TIMEOUT_MS);
    let (keys, there) = join(keys_here(cx, Some(&bearer.user_id), here), there).await;
    let mut masters = keys?.master_keys;
    masters.extend(there?.master_keys);
    let call = UploadSignatures { token_hash: bearer.token_hash.clone(), signed, masters };
    let failures = bearer.call(cx, &call).await?;
    let failures: BTreeMap<OwnedUserId, BTreeMap<String, Value>> = failures
        .into_iter()
        .map(|(user_id, keys)| (user_id, keys.into_iter().map(|(name, refusal)| (name, refusal.body())).collect()))
        .collect();
    Ok(serde_json::to_vec(&json!({ "failures": failures }))?)
}

/// `to` is a hint to servers with caches that may be behind: the answer reaches up to now.
async fn changes(cx: &Context, bearer: Bearer, request: changes::Request) -> Result<Vec<u8>, Failure> {
    let changes::Request { from, to, .. } = request;
    let of_token = |since| GetOwnDeviceLists { token_hash: bearer.token_hash.clone(), since };
    bearer.call(cx, &of_token(to)).await?;
    let own = bearer.call(cx, &of_token(from.clone())).await?;
    let plan =
        SyncPlan { token_hash: bearer.token_hash.clone(), since: Some(from), looks_only: true, ..SyncPlan::default() };
    let plan = bearer.call(cx, &plan).await?;
    let calls = plan.rooms.iter().map(|room| async {
        let call = GetDeviceLists { user: bearer.user_id.clone(), from: room.from };
        existing(cx.room(&room.room_id).call(&call).await)
    });
    let told: Vec<_> = stream::iter(calls).buffer_unordered(USERS_AT_ONCE).try_collect().await?;
    let mut lists = DeviceLists::default();
    told.into_iter().flatten().for_each(|told| lists.add(told));
    lists.settle(cx, &bearer).await?;
    lists.changed.extend(own);
    Ok(serde_json::to_vec(&lists)?)
}

#[derive(Deserialize)]
struct CrossSigning {
    master_key: Option<Box<RawValue>>,
    self_signing_key: Option<Box<RawValue>>,
    user_signing_key: Option<Box<RawValue>>,
    auth: Option<Auth>,
}

async fn upload_cross_signing(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let body: CrossSigning = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let mut call = UploadCrossSigning {
        token_hash: bearer.token_hash.clone(),
        master_key: body.master_key,
        self_signing_key: body.self_signing_key,
        user_signing_key: body.user_signing_key,
        password_hash: None,
    };
    if bearer.call(cx, &call).await?.needs_password {
        let operation = Operation {
            name: "replace cross-signing keys",
            user_id: Some(&bearer.user_id),
            flows: uiaa::PASSWORD,
            request: uiaa::digest(&[&call.master_key, &call.self_signing_key, &call.user_signing_key])?,
        };
        call.password_hash = Some(operation.authenticate(cx, body.auth.as_ref()).await?.password_hash()?);
        bearer.call(cx, &call).await?;
    }
    Ok(failure::json(StatusCode::OK, &json!({})))
}
