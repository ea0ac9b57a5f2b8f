//! Keys that are given out, and the device that nobody is logged in on.

use std::collections::{BTreeMap, BTreeSet};

use domain::signed_key::testing::Signer;
use platform::Address;
use ruma_common::{OwnedDeviceId, OwnedUserId};
use serde_json::value::{RawValue, to_raw_value};

use super::{Story, address, client::number};
use crate::user::{self, ClaimKeys, KeyCounts, UploadKeys};

/// Whose device, and its id.
pub(super) type Device = (OwnedUserId, OwnedDeviceId);

/// The only algorithm here.
const ALGORITHM: &str = "a";

/// What a device has to be given out, and what it was sent.
#[derive(Default)]
pub(super) struct Published {
    /// One-time keys that are left, in the order in which they are given out: by upload, then by name.
    left: BTreeSet<(u64, String)>,
    /// Those that were given out and may still be asked for by the same claim.
    given: BTreeMap<(u64, String), String>,
    /// The fallback key, and whether it was given out.
    fallback: Option<(String, bool)>,
    /// The last upload, which a client repeats that heard nothing.
    upload: Option<UploadKeys>,
    /// The messages it was sent.
    pub inbox: Vec<u64>,
}

impl Published {
    pub(super) fn counts(&self) -> KeyCounts {
        let mut counts = KeyCounts::default();
        if !self.left.is_empty() {
            counts.one_time.insert(ALGORITHM.to_owned(), self.left.len() as u64);
        }
        if self.fallback.as_ref().is_some_and(|(_, used)| !used) {
            counts.unused_fallback.push(ALGORITHM.to_owned());
        }
        counts
    }

    /// New one-time keys: of what was given out, only that of the upload before is remembered.
    fn adds(&mut self, upload: u64, names: impl Iterator<Item = String>) {
        let last = self.left.iter().chain(self.given.keys()).map(|(upload, _)| *upload).max().unwrap_or(0);
        self.given.retain(|(upload, _), _| *upload >= last);
        self.left.extend(names.map(|name| (upload, name)));
    }

    /// The key that a claim is given.
    fn gives(&mut self, claim: &str) -> Option<String> {
        if let Some(((_, name), _)) = self.given.iter().find(|(_, given_to)| *given_to == claim) {
            return Some(name.clone());
        }
        if let Some(next) = self.left.pop_first() {
            self.given.insert(next.clone(), claim.to_owned());
            return Some(next.1);
        }
        let (name, used) = self.fallback.as_mut()?;
        *used = true;
        Some(name.clone())
    }
}

/// One claim, and whose keys it asks for.
#[derive(Clone)]
pub(super) struct Claim {
    id: String,
    devices: BTreeMap<OwnedUserId, BTreeSet<OwnedDeviceId>>,
}

fn key(name: &str) -> Box<RawValue> {
    to_raw_value(name).unwrap()
}

impl Story {
    /// A few names of new keys.
    fn names(&mut self, at_most: usize) -> Vec<String> {
        // Their order is not that in which they were made.
        (0..self.roll(at_most + 1)).map(|_| format!("{ALGORITHM}:{:x}{}", self.roll(16), self.next())).collect()
    }

    pub(super) fn uploads(&mut self, index: usize) {
        let (names, fallback) = (self.names(4), self.names(1));
        let keys = |names: &[String]| names.iter().map(|name| (name.clone(), key(name))).collect();
        let client = &self.clients[index];
        let (token_hash, device) = (client.token_hash.clone(), client.device());
        let upload = || UploadKeys {
            token_hash: token_hash.clone(),
            one_time_keys: keys(&names),
            fallback_keys: keys(&fallback),
            device_keys: None,
        };
        let counts = self.world.call(device.0.as_str(), &upload()).unwrap();
        let number = self.next();
        let published = self.devices.get_mut(&device).unwrap();
        if !names.is_empty() {
            published.adds(number, names.iter().cloned());
        }
        if let Some(name) = fallback.first() {
            published.fallback = Some((name.clone(), false));
        }
        published.upload = Some(upload());
        assert_eq!(counts, published.counts(), "{} uploads", device.1);
    }

    /// The client heard nothing of its last upload: no key comes back that was given out.
    pub(super) fn uploads_again(&mut self, index: usize) {
        let device = self.clients[index].device();
        let published = &self.devices[&device];
        let Some(upload) = &published.upload else { return };
        let counts = self.world.call(device.0.as_str(), upload).unwrap();
        assert_eq!(counts, published.counts(), "{} uploads again", device.1);
    }

    pub(super) fn claims(&mut self) {
        let mut claim = Claim { id: format!("c{}", self.next()), devices: BTreeMap::new() };
        for _ in 0..=self.roll(3) {
            let (user, device) = self.any_device();
            claim.devices.entry(user).or_default().insert(device);
        }
        // It may have broken off on the way, or its answer was lost.
        let lost = self.roll(3) == 0;
        let reached = if lost { self.roll(claim.devices.len() + 1) } else { claim.devices.len() };
        self.asks_for_keys(&claim, reached);
        if lost {
            self.lost_claims.push(claim);
        }
    }

    pub(super) fn claims_again(&mut self) {
        if !self.lost_claims.is_empty() {
            let claim = self.lost_claims.remove(self.roll(self.lost_claims.len()));
            self.asks_for_keys(&claim, claim.devices.len());
        }
    }

    /// Asks some users' actors, one after the other, as they happen to be asked.
    fn asks_for_keys(&mut self, claim: &Claim, users: usize) {
        for (user, devices) in claim.devices.iter().take(users) {
            let of_algorithm = devices.iter().map(|device| (device.clone(), ALGORITHM.to_owned()));
            let call = ClaimKeys { call_id: Some(claim.id.clone()), devices: of_algorithm.collect() };
            let reply = self.world.call(user.as_str(), &call).unwrap();
            for device_id in devices {
                let given = reply.get(device_id).map(|keys| keys.keys().next().unwrap().clone());
                let device = (user.clone(), device_id.clone());
                let published = self.devices.get_mut(&device);
                let fallback = published.as_ref().and_then(|published| published.fallback.clone());
                let expected = published.and_then(|published| published.gives(&claim.id));
                assert_eq!(given, expected, "{device_id} gives the claim {}", claim.id);
                let Some(name) = given.filter(|name| fallback.is_none_or(|(fallback, _)| fallback != *name)) else {
                    continue;
                };
                let to = self.given.entry(name.clone()).or_insert_with(|| claim.id.clone());
                assert_eq!(*to, claim.id, "{name} is given out twice");
            }
        }
    }

    /// A dehydrated device in the place of the last one, or the same again.
    pub(super) fn dehydrates(&mut self, index: usize) {
        let (number, client) = (self.next(), self.clients[index].clone());
        let again = self.dehydrated.get(&client.user).filter(|_| self.roll(2) == 0);
        if let Some(put) = again {
            let put = user::PutDehydratedDevice { token_hash: client.token_hash, ..clone_of(put) };
            self.world.call(client.user.as_str(), &put).unwrap();
            return;
        }
        let device_id = OwnedDeviceId::from(format!("DRY{number}"));
        let names = self.names(3);
        let fallback = format!("{ALGORITHM}:f{number}");
        let keys = Signer::new(number as u8).device(client.user.as_str(), device_id.as_str());
        let put = user::PutDehydratedDevice {
            token_hash: client.token_hash,
            device_id: device_id.clone(),
            data: to_raw_value(&serde_json::json!({ "algorithm": "a" })).unwrap(),
            display_name: None,
            device_keys: to_raw_value(&keys).unwrap(),
            one_time_keys: names.iter().map(|name| (name.clone(), key(name))).collect(),
            fallback_keys: [(fallback.clone(), key(&fallback))].into(),
        };
        self.world.call(client.user.as_str(), &put).unwrap();
        self.forgets_dehydrated(&client.user);
        let mut published = Published { fallback: Some((fallback, false)), ..Published::default() };
        published.adds(number, names.into_iter());
        self.devices.insert((client.user.clone(), device_id), published);
        self.changes(&client.user);
        self.dehydrated.insert(client.user, put);
    }

    /// Somebody reads what the dehydrated device was sent, perhaps not to the end.
    pub(super) fn rehydrates(&mut self, index: usize) {
        let client = self.clients[index].clone();
        let call = user::GetDehydratedDevice { token_hash: client.token_hash.clone() };
        let found = self.world.call(client.user.as_str(), &call).ok().map(|device| device.device_id);
        let put = self.dehydrated.get(&client.user).map(|put| put.device_id.clone());
        assert_eq!(found, put, "{} has a dehydrated device", client.user);
        let Some(device_id) = found else { return };
        let inbox = self.devices[&(client.user.clone(), device_id.clone())].inbox.clone();
        let (mut told, mut next_batch): (Vec<u64>, _) = (Vec::new(), None);
        loop {
            let (token_hash, device_id) = (client.token_hash.clone(), device_id.clone());
            let call = user::GetDehydratedEvents { token_hash, device_id, next_batch };
            let page = self.world.call(client.user.as_str(), &call).unwrap();
            if page.events.is_empty() {
                assert_eq!(told, inbox, "{} of {}", call.device_id, client.user);
                return;
            }
            told.extend(page.events.iter().map(|event| number(event.content.get())));
            next_batch = Some(page.next_batch);
            if self.roll(4) == 0 {
                let address: Address = address(&client.user);
                self.world.evict(&address);
            }
        }
    }

    pub(super) fn deletes_dehydrated(&mut self, index: usize) {
        let client = self.clients[index].clone();
        let Some(put) = self.dehydrated.get(&client.user) else { return };
        let (token_hash, device_id) = (client.token_hash, put.device_id.clone());
        let call = user::DeleteDehydratedDevice { token_hash, device_id };
        for _ in 0..=self.roll(2) {
            self.world.call(client.user.as_str(), &call).unwrap();
        }
        self.forgets_dehydrated(&client.user);
        self.changes(&client.user);
    }

    fn forgets_dehydrated(&mut self, user: &OwnedUserId) {
        if let Some(put) = self.dehydrated.remove(user) {
            self.devices.remove(&(user.clone(), put.device_id));
        }
    }
}

fn clone_of(put: &user::PutDehydratedDevice) -> user::PutDehydratedDevice {
    serde_json::from_str(&serde_json::to_string(put).unwrap()).unwrap()
}
