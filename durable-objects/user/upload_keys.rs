use std::collections::BTreeMap;

use domain::{
    Refusal, readable,
    signed_key::{SignedKey, Usage, signing_key_id},
};
use platform::{ActorKind, Sql, Tx};
use ruma_common::{DeviceId, OwnedDeviceId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{KeyCounts, User, authenticate, device::remove_device, own_id, store, store::keys::Kind};
use crate::{Call, Cx, Error};

/// The most devices with keys: everybody who shares a room with the user is told of all of them.
const DEVICES_MAX: u64 = 500;
/// One-time keys that a device may have at a time, given out or not.
const ONE_TIME_KEYS_MAX: usize = 1_000;
/// Algorithms of fallback keys of one device.
const FALLBACK_KEYS_MAX: usize = 16;
/// Bytes of a device's identity keys.
const DEVICE_KEYS_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a one-time or fallback key.
const KEY_BYTES_MAX: usize = 4 * 1024;
/// Bytes of the name `<algorithm>:<key id>`.
const NAME_BYTES_MAX: usize = 255;

/// Publishes keys of the caller's device. Repeated, it changes nothing, and brings no key back that was given out.
///
/// Refused: `UnknownToken`; `BadJson`, `InvalidParam` or `InvalidSignature` for device keys that are not this device's,
/// or not signed by it; `MissingParam` for an application service that names no device; `InvalidParam` for another key
/// under the name of a one-time key that is there, and beyond the limits.
/// Spec: "End-to-End Encryption", "Uploading keys".
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct UploadKeys {
    pub token_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_keys: Option<Box<RawValue>>,
    /// By `<algorithm>:<key id>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub one_time_keys: BTreeMap<String, Box<RawValue>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fallback_keys: BTreeMap<String, Box<RawValue>>,
}

impl Call for UploadKeys {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "upload_keys";
    type Reply = KeyCounts;
}

impl User {
    pub(super) fn upload_keys(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: UploadKeys) -> Result<KeyCounts, Error> {
        let device_id = authenticate(&**tx, cx, &call.token_hash)?;
        if device_id.as_str().is_empty() {
            return Err(Refusal::MissingParam("Keys are a device's: `device_id` says whose".to_owned()).into());
        }
        if let Some(keys) = &call.device_keys {
            self.put_device_keys(tx, cx, &device_id, keys.get())?;
        }
        self.add_one_time_keys(tx, cx, &device_id, &call.one_time_keys)?;
        self.put_fallback_keys(tx, cx, &device_id, &call.fallback_keys)?;
        Ok(store::keys::counts(&**tx, &device_id)?)
    }

    pub(super) fn put_device_keys(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        device_id: &DeviceId,
        keys: &str,
    ) -> Result<(), Error> {
        if keys.len() > DEVICE_KEYS_BYTES_MAX {
            return Err(
                Refusal::InvalidParam(format!("`device_keys` can have at most {DEVICE_KEYS_BYTES_MAX} bytes")).into()
            );
        }
        readable::check(keys.as_bytes())?;
        let keys = SignedKey::parse(keys)?;
        let user_id = own_id(cx)?;
        keys.check_device(user_id.as_str(), device_id.as_str())?;
        match store::keys::of_device(&**tx, device_id)? {
            Ok(before) => {
                let mut known = SignedKey::parse(&before)?;
                if known.is_same_key(&keys) {
                    // The same keys again keep the signatures they got meanwhile, and may bring one.
                    let signer = signed_by_user(&**tx, &keys, &user_id)?;
                    let signature = signer.as_deref().and_then(|signer| keys.signature(user_id.as_str(), signer));
                    let (Some(signer), Some(signature)) = (&signer, signature) else { return Ok(()) };
                    if known.add_signature(user_id.as_str(), signer, signature) {
                        self.list_device(tx, cx, device_id, Some(&known.to_json()))?;
                    }
                    return Ok(());
                }
                // What is left of another device by the same name: nobody could use it.
                self.forget(tx, |tx| store::keys::forget_one_time(tx, device_id))?;
            }
            Err(others) if others >= DEVICES_MAX => make_room(tx, cx, device_id)?,
            Err(_) => {}
        }
        let signers = [Some(signing_key_id(device_id.as_str())), signed_by_user(&**tx, &keys, &user_id)?];
        let is_kept = |key_id: &str| signers.iter().flatten().any(|signer| signer == key_id);
        let keys = keys.with_signatures(|user, key_id| user == user_id && is_kept(key_id));
        self.list_device(tx, cx, device_id, Some(&keys.to_json()))
    }

    pub(super) fn add_one_time_keys(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        device_id: &DeviceId,
        keys: &BTreeMap<String, Box<RawValue>>,
    ) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let kept = store::keys::one_time(&**tx, device_id, false)?;
        let known: BTreeMap<(&str, &str), Option<&str>> =
            kept.iter().map(|kept| ((&*kept.algorithm, &*kept.key_id), kept.key.as_deref())).collect();
        let mut new = Vec::new();
        for (name, key) in keys {
            let (algorithm, key_id) = split(name, key)?;
            match known.get(&(algorithm, key_id)) {
                None => new.push(json!({ "algorithm": algorithm, "key_id": key_id, "key": key.get() })),
                // It was given out already: this is a repetition.
                Some(None) => {}
                Some(Some(known)) if is_same(known, key.get()) => {}
                Some(Some(_)) => {
                    return Err(Refusal::InvalidParam(format!("There is another one-time key {name}")).into());
                }
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        if kept.iter().filter(|kept| kept.key.is_some()).count().saturating_add(new.len()) > ONE_TIME_KEYS_MAX {
            return Err(
                Refusal::InvalidParam(format!("A device can have at most {ONE_TIME_KEYS_MAX} one-time keys")).into()
            );
        }
        // What was given out is remembered as long as it may come in a repetition of the last upload.
        let last = kept.iter().map(|kept| kept.uploaded).max().unwrap_or(0);
        let position = self.own_position(&**tx, cx)?;
        self.forget(tx, |tx| store::keys::forget_given(tx, device_id, last))?;
        Ok(store::keys::add_one_time(tx, device_id, &serde_json::to_string(&new)?, position)?)
    }

    pub(super) fn put_fallback_keys(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        device_id: &DeviceId,
        keys: &BTreeMap<String, Box<RawValue>>,
    ) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let kept = store::keys::one_time(&**tx, device_id, true)?;
        let mut algorithms: Vec<&str> = Vec::new();
        for (name, key) in keys {
            let (algorithm, key_id) = split(name, key)?;
            // Spec: "There can only be at most one key per algorithm uploaded".
            if algorithms.contains(&algorithm) {
                return Err(Refusal::InvalidParam(format!("There are several fallback keys for {algorithm}")).into());
            }
            algorithms.push(algorithm);
            let same = |kept: &&store::keys::Kept| kept.algorithm == algorithm && kept.key_id == key_id;
            let is_there = kept.iter().find(same).and_then(|kept| kept.key.as_deref());
            if is_there.is_some_and(|there| is_same(there, key.get())) {
                continue;
            }
            let position = self.own_position(&**tx, cx)?;
            store::keys::put_fallback(tx, device_id, (algorithm, key_id), key.get(), position)?;
        }
        algorithms.extend(kept.iter().map(|kept| kept.algorithm.as_str()));
        algorithms.sort_unstable();
        algorithms.dedup();
        if algorithms.len() > FALLBACK_KEYS_MAX {
            return Err(
                Refusal::InvalidParam(format!("A device can have at most {FALLBACK_KEYS_MAX} fallback keys")).into()
            );
        }
        Ok(())
    }

    /// The next position of the user's own stream, for what changes now: every waiting sync looks at it.
    pub(super) fn own_position(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<u64, Error> {
        cx.wake();
        self.with_moves(sql, |moves| Ok(moves.own_news(cx.now_ms)))
    }

    /// A new device changes the list before it has keys. Spec: «must be sent whenever that user's device list changes
    /// (i.e. for new or deleted devices […])». The one that came with the account came before anybody shared a room
    /// with the user: that one is told with its keys, or its next name.
    pub(super) fn device_came(&self, tx: &Tx<'_>, cx: &Cx<'_>, device_id: &DeviceId) -> Result<(), Error> {
        self.list_device(tx, cx, device_id, None)
    }

    /// A device's name is shown with its keys.
    pub(super) fn device_renamed(&self, tx: &Tx<'_>, cx: &Cx<'_>, device_id: &DeviceId) -> Result<(), Error> {
        let keys = store::keys::get(&**tx, Kind::Device, device_id.as_str())?;
        self.list_device(tx, cx, device_id, keys.as_deref())
    }

    /// Devices that this operation removed take their keys along.
    pub(super) fn keys_of_removed(&self, tx: &Tx<'_>, cx: &Cx<'_>, gone: &[OwnedDeviceId]) -> Result<(), Error> {
        for device_id in gone {
            self.list_device(tx, cx, device_id, None)?;
            self.forget(tx, |tx| store::keys::forget_one_time(tx, device_id))?;
        }
        Ok(())
    }

    /// The list says something else of a device now. Whoever encrypts for the user is to know, if it has keys, or had.
    fn list_device(&self, tx: &Tx<'_>, cx: &Cx<'_>, device_id: &DeviceId, keys: Option<&str>) -> Result<(), Error> {
        let had_keys = store::keys::has_device(&**tx, device_id)?;
        let position = self.own_position(&**tx, cx)?;
        store::keys::put(tx, Kind::Device, device_id.as_str(), keys, position)?;
        let changed =
            if had_keys || keys.is_some() { &cx.user.device_list_changed } else { &cx.user.keyless_device_changed };
        changed.set(true);
        Ok(())
    }
}

/// A device that is to have keys takes the place of the one that was seen least lately.
fn make_room(tx: &Tx<'_>, cx: &Cx<'_>, newcomer: &DeviceId) -> Result<(), Error> {
    match store::device::least_lately_seen_with_keys(&**tx, newcomer)? {
        Some(device_id) => remove_device(tx, cx, &device_id),
        None => Ok(()),
    }
}

/// The id of the user's self-signing key, if it signed the keys of a device.
fn signed_by_user(sql: &dyn Sql, keys: &SignedKey, user_id: &UserId) -> Result<Option<String>, Error> {
    let self_signing = store::keys::cross_signing(sql, Usage::SelfSigning)?;
    let Some(public_key) = self_signing.as_ref().and_then(SignedKey::only_public_key) else { return Ok(None) };
    let signer = signing_key_id(public_key);
    Ok(keys.is_signed_by(user_id.as_str(), &signer, public_key).then_some(signer))
}

/// `<algorithm>:<key id>`, for a key that is a text or an object and not too large.
fn split<'a>(name: &'a str, key: &RawValue) -> Result<(&'a str, &'a str), Refusal> {
    let parts = name.split_once(':').filter(|(algorithm, key_id)| !algorithm.is_empty() && !key_id.is_empty());
    let Some(parts) = parts.filter(|_| name.len() <= NAME_BYTES_MAX) else {
        return Err(Refusal::InvalidParam("A key's name has the form <algorithm>:<key id>".to_owned()));
    };
    if key.get().len() > KEY_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A one-time key can have at most {KEY_BYTES_MAX} bytes")));
    }
    readable::check(key.get().as_bytes())?;
    match serde_json::from_str(key.get()) {
        Ok(Value::String(_) | Value::Object(_)) => Ok(parts),
        _ => Err(Refusal::BadJson(format!("The key {name} is neither a text nor an object"))),
    }
}

fn is_same(one: &str, other: &str) -> bool {
    let parse = |json| serde_json::from_str::<Value>(json).ok();
    one == other || parse(one).is_some_and(|one| Some(one) == parse(other))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use domain::{Refusal, signed_key::testing::Signer};
    use platform::{ActorKind, Address};
    use ruma_common::user_id;
    use serde_json::{Value, json, value::to_raw_value};

    use super::{DEVICES_MAX, FALLBACK_KEYS_MAX, ONE_TIME_KEYS_MAX, UploadKeys};
    use crate::{
        CallError,
        user::{ClaimKeys, Create, GetKeys, KeyCounts, LogIn, LogOut, NewDevice, Verify},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn alice() -> std::rc::Rc<World> {
        let world = World::new(3);
        let device = Some(NewDevice::new("PHONE", "t"));
        world.call(ALICE, &Create { device, call_id: "a".to_owned(), ..Create::default() }).unwrap();
        world
    }

    fn keys(names: &[&str]) -> BTreeMap<String, Box<serde_json::value::RawValue>> {
        names.iter().map(|name| ((*name).to_owned(), to_raw_value(&json!({ "key": name })).unwrap())).collect()
    }

    fn upload(one_time: &[&str], fallback: &[&str]) -> UploadKeys {
        let (one_time_keys, fallback_keys) = (keys(one_time), keys(fallback));
        UploadKeys { token_hash: "t".to_owned(), one_time_keys, fallback_keys, ..UploadKeys::default() }
    }

    fn claim(world: &World, algorithm: &str) -> Option<String> {
        let devices = BTreeMap::from([("PHONE".into(), algorithm.to_owned())]);
        let mut claimed = world.call(ALICE, &ClaimKeys { call_id: None, devices }).unwrap();
        let (name, key) = claimed.pop_first()?.1.pop_first()?;
        assert_eq!(serde_json::from_str::<Value>(key.get()).unwrap(), json!({ "key": name }));
        Some(name)
    }

    fn counts(counts: &KeyCounts) -> (Option<u64>, &[String]) {
        (counts.one_time.get("a").copied(), &counts.unused_fallback)
    }

    fn is_invalid<T: std::fmt::Debug>(outcome: Result<T, CallError>) {
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{outcome:?}");
    }

    #[test]
    fn a_one_time_key_is_given_out_once_the_oldest_first() {
        let world = alice();
        assert_eq!(counts(&world.call(ALICE, &upload(&["a:2", "b:1"], &[])).unwrap()), (Some(1), &[][..]));
        let second = upload(&["a:0", "a:1"], &["a:f"]);
        let fallback = ["a".to_owned()];
        assert_eq!(counts(&world.call(ALICE, &second).unwrap()), (Some(3), &fallback[..]));
        assert_eq!(claim(&world, "a").as_deref(), Some("a:2"));
        let both: BTreeSet<_> = [claim(&world, "a"), claim(&world, "a")].into_iter().flatten().collect();
        assert_eq!(both, ["a:0", "a:1"].map(ToOwned::to_owned).into());
        // The answer to the upload was lost.
        assert_eq!(counts(&world.call(ALICE, &second).unwrap()), (None, &fallback[..]), "none comes back");
        world.evict(&Address::new(ActorKind::User, ALICE));
        for _ in 0..2 {
            assert_eq!(claim(&world, "a").as_deref(), Some("a:f"), "the fallback key is given out again and again");
        }
        assert_eq!(claim(&world, "c"), None);
        assert_eq!(counts(&world.call(ALICE, &second).unwrap()), (None, &[][..]), "the fallback key is used");
        assert_eq!(counts(&world.call(ALICE, &upload(&[], &["a:g"])).unwrap()), (None, &fallback[..]));
        assert_eq!(claim(&world, "a").as_deref(), Some("a:g"));
    }

    #[test]
    fn a_repeated_claim_is_given_the_same_key() {
        let world = alice();
        world.call(ALICE, &upload(&["a:1", "a:2", "a:3"], &["a:f"])).unwrap();
        let claims = |call_id: &str| {
            let devices = BTreeMap::from([("PHONE".into(), "a".to_owned())]);
            let call = ClaimKeys { call_id: Some(call_id.to_owned()), devices };
            world.call(ALICE, &call).unwrap().pop_first().unwrap().1.pop_first().unwrap()
        };
        for (call_id, name) in [("c", "a:1"), ("d", "a:2"), ("c", "a:1"), ("e", "a:3"), ("d", "a:2"), ("f", "a:f")] {
            world.evict(&Address::new(ActorKind::User, ALICE));
            let (claimed, key) = claims(call_id);
            assert_eq!(claimed, name, "{call_id}");
            assert_eq!(serde_json::from_str::<Value>(key.get()).unwrap(), json!({ "key": name }));
        }
        let before = world.rows_written();
        claims("c");
        assert_eq!(world.rows_written(), before, "nothing is written");
    }

    #[test]
    fn of_too_many_devices_the_one_seen_least_lately_goes() {
        let world = World::new(3);
        let create = Create { password_hash: Some("h".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &create).unwrap();
        let logs_in = |name: &str| {
            let device = NewDevice::new(name, name);
            world.call(ALICE, &LogIn { password_hash: "h".to_owned(), device }).unwrap();
            world.passes(1_000);
        };
        let uploads = |name: &str| {
            let device_keys = Some(to_raw_value(&Signer::new(1).device(ALICE, name)).unwrap());
            world
                .call(ALICE, &UploadKeys { token_hash: name.to_owned(), device_keys, ..UploadKeys::default() })
                .unwrap();
        };
        // It has no keys, and takes no room.
        logs_in("OLDEST");
        let names: Vec<String> = (100..100 + DEVICES_MAX).map(|number| format!("D{number}")).collect();
        for name in &names {
            logs_in(name);
            uploads(name);
        }
        let with_keys = || {
            let call = GetKeys { viewer: Some(user_id!("@bob:myelin.test").to_owned()), devices: Vec::new() };
            world.call(ALICE, &call).unwrap().devices.into_keys().map(|id| id.to_string()).collect::<Vec<_>>()
        };
        uploads(&names[0]);
        assert_eq!(with_keys(), names, "none is new");
        logs_in("NEW");
        uploads("NEW");
        let mut left = names[1..].to_vec();
        left.push("NEW".to_owned());
        left.sort();
        assert_eq!(with_keys(), left);
        let verify = |name: &str| {
            world.call(ALICE, &Verify { token_hash: name.to_owned(), active: false, ignored: false }).is_ok()
        };
        assert_eq!([verify("OLDEST"), verify(&names[0]), verify(&names[1])], [true, false, true]);
    }

    #[test]
    fn there_are_rules_for_names_and_numbers() {
        let world = alice();
        world.call(ALICE, &upload(&["a:1"], &[])).unwrap();
        for name in ["a", "a:", ":1"] {
            is_invalid(world.call(ALICE, &upload(&[name], &[])));
            is_invalid(world.call(ALICE, &upload(&[], &[name])));
        }
        let mut other = upload(&["a:1"], &[]);
        other.one_time_keys.insert("a:1".to_owned(), to_raw_value("another").unwrap());
        is_invalid(world.call(ALICE, &other));
        is_invalid(world.call(ALICE, &upload(&[], &["a:1", "a:2"])));
        let names: Vec<String> = (0..ONE_TIME_KEYS_MAX).map(|number| format!("a:x{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        is_invalid(world.call(ALICE, &upload(&names, &[])));
        let algorithms: Vec<String> = (0..=FALLBACK_KEYS_MAX).map(|number| format!("x{number}:1")).collect();
        let algorithms: Vec<&str> = algorithms.iter().map(String::as_str).collect();
        is_invalid(world.call(ALICE, &upload(&[], &algorithms)));
        assert_eq!(counts(&world.call(ALICE, &upload(&[], &[])).unwrap()), (Some(1), &[][..]), "nothing changed");
    }

    /// What another identity cannot use is not given out, nor in the way.
    #[test]
    fn another_identity_begins_without_keys() {
        let world = alice();
        let with = |seed: u8, one_time: &Value| {
            let device_keys = Some(to_raw_value(&Signer::new(seed).device(ALICE, "PHONE")).unwrap());
            let one_time_keys = BTreeMap::from([("a:1".to_owned(), to_raw_value(one_time).unwrap())]);
            UploadKeys { device_keys, one_time_keys, ..upload(&[], &[]) }
        };
        world.call(ALICE, &with(1, &json!({ "key": "of the first" }))).unwrap();
        world.call(ALICE, &upload(&["a:2"], &["a:f"])).unwrap();
        let now = world.call(ALICE, &with(2, &json!({ "key": "a:1" }))).unwrap();
        assert_eq!(counts(&now), (Some(1), &[][..]));
        assert_eq!(claim(&world, "a").as_deref(), Some("a:1"));
        assert_eq!(claim(&world, "a"), None);
    }

    #[test]
    fn device_keys_are_the_devices_own_and_go_with_it() {
        let world = alice();
        let shown = || {
            let call = GetKeys { viewer: Some(user_id!("@bob:myelin.test").to_owned()), devices: Vec::new() };
            world.call(ALICE, &call).unwrap().devices
        };
        let keys = Signer::new(1).device(ALICE, "PHONE");
        let with =
            |keys: &Value| UploadKeys { device_keys: Some(to_raw_value(keys).unwrap()), ..upload(&["a:1"], &[]) };
        let mut forged = keys.clone();
        forged["algorithms"] = json!([]);
        let outcome = world.call(ALICE, &with(&forged));
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidSignature(_)))), "{outcome:?}");
        is_invalid(world.call(ALICE, &with(&Signer::new(1).device(ALICE, "LAPTOP"))));
        assert!(shown().is_empty());
        for _ in 0..2 {
            world.call(ALICE, &with(&keys)).unwrap();
        }
        let mut told: Value = serde_json::from_str(shown().pop_first().unwrap().1.get()).unwrap();
        assert_eq!(told.as_object_mut().unwrap().remove("unsigned"), Some(json!({})));
        assert_eq!(told, keys);
        world.call(ALICE, &LogOut { token_hash: "t".to_owned(), all: false }).unwrap();
        assert!(shown().is_empty());
        assert_eq!(claim(&world, "a"), None);
    }
}
