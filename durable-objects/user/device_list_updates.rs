//! What other servers are told of a user's devices: the feed of `m.device_list_update` and `m.signing_key_update`.
//!
//! Whoever has changed devices says so to the rooms (see [`super::announce`]), and there a Destination that follows
//! them learns whom to ask. It keeps two numbers for each local user that its server shares a room with: the
//! `stream_id` of the last `m.device_list_update` that it sent, and the `stream_id` of the last keys that it sent in an
//! `m.signing_key_update`. With these it asks here, sends what it is answered in the order of the answer, and keeps the
//! new numbers once the other server has acknowledged the transaction; while there is `more` it asks again.
//!
//! Nothing is queued: every device is told as it is now, so that a server that was away for a month is sent one update
//! for each device that changed, and `prev_id` names the one before among those that this server is sent. A first
//! update has none, and neither has one after numbers that are not of this stream: then the other server asks for the
//! whole list, which is this answer to no numbers, with `stream_id`. Where no device is left, the last one that went is
//! told: the other server may have a list all the same, because it asked. Spec: server-server API, "Device Management",
//! "End-to-End Encryption".

use domain::signed_key::Usage;
use platform::{ActorKind, Sql};
use ruma_common::OwnedDeviceId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    User,
    store::{self, keys::Kind},
};
use crate::{Call, Cx, Error};

/// Devices told at once; a transaction between servers has at most 100 EDUs.
const UPDATES_AT_ONCE: u64 = if cfg!(test) { 3 } else { 50 };

/// Which devices changed, each as it is now, and the user's own keys if they did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct GetDeviceListUpdates {
    /// The stream id of the last device that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices_after: Option<u64>,
    /// The stream id of the last keys of the user's own that were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_after: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DeviceListUpdates {
    /// In the order of their stream ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceListUpdate>,
    /// Whether there are more devices.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// The user's own keys, if they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityUpdate>,
    /// The stream id of the last device of all that changed, whether it is told here or not.
    pub stream_id: u64,
}

/// A device, in the form of `m.device_list_update`.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeviceListUpdate {
    pub device_id: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_display_name: Option<String>,
    pub stream_id: u64,
    /// The update before, among those of whoever asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prev_id: Vec<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Its identity keys; none if it is deleted, or has none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Box<RawValue>>,
}

/// The user's own keys, in the form of `m.signing_key_update`.
#[derive(Debug, Serialize, Deserialize)]
pub struct IdentityUpdate {
    pub stream_id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_key: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signing_key: Option<Box<RawValue>>,
}

impl Call for GetDeviceListUpdates {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_device_list_updates";
    type Reply = DeviceListUpdates;
}

impl User {
    pub(super) fn device_list_updates(
        &self,
        sql: &dyn Sql,
        _: &Cx<'_>,
        call: GetDeviceListUpdates,
    ) -> Result<DeviceListUpdates, Error> {
        let stream_id = store::keys::devices_head(sql)?;
        let mut prev = call.devices_after.filter(|after| *after <= stream_id);
        let limit = UPDATES_AT_ONCE.saturating_add(1);
        let mut changed = store::keys::devices_after(sql, prev, limit)?;
        if prev.is_none() && changed.is_empty() && stream_id > 0 {
            changed = store::keys::devices_after(sql, Some(stream_id.saturating_sub(1)), 1)?;
        }
        let more = changed.len() as u64 > UPDATES_AT_ONCE;
        changed.truncate(usize::try_from(UPDATES_AT_ONCE).unwrap_or(usize::MAX));
        let mut devices = Vec::with_capacity(changed.len());
        for (id, stream_id, keys) in changed {
            let device_id = OwnedDeviceId::from(id);
            let device = store::device::get(sql, &device_id)?;
            devices.push(DeviceListUpdate {
                deleted: device.is_none() && keys.is_none(),
                device_display_name: device.and_then(|device| device.display_name),
                device_id,
                stream_id,
                prev_id: prev.into_iter().collect(),
                keys: keys.map(RawValue::from_string).transpose()?,
            });
            prev = Some(stream_id);
        }
        Ok(DeviceListUpdates { devices, more, identity: identity(sql, call.identity_after)?, stream_id })
    }
}

/// The user's own keys, unless they are what was told.
fn identity(sql: &dyn Sql, after: Option<u64>) -> Result<Option<IdentityUpdate>, Error> {
    let stream_id = store::keys::identity_head(sql)?;
    if stream_id == 0 || after == Some(stream_id) {
        return Ok(None);
    }
    let key = |usage: Usage| -> Result<Option<Box<RawValue>>, Error> {
        let key = store::keys::get(sql, Kind::CrossSigning, usage.as_str())?;
        Ok(key.map(RawValue::from_string).transpose()?)
    };
    let (master_key, self_signing_key) = (key(Usage::Master)?, key(Usage::SelfSigning)?);
    Ok(Some(IdentityUpdate { stream_id, master_key, self_signing_key }))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::signed_key::{Usage, testing::Signer};
    use platform::{ActorKind, Address};
    use serde_json::value::to_raw_value;

    use super::{DeviceListUpdates, GetDeviceListUpdates, UPDATES_AT_ONCE};
    use crate::{
        user::{Create, LogIn, LogOut, NewDevice, RenameDevice, UploadCrossSigning, UploadKeys},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn alice() -> Rc<World> {
        let world = World::new(3);
        let create = Create { password_hash: Some("h".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &create).unwrap();
        world
    }

    /// A device with keys; its token is its name.
    fn logs_in(world: &World, name: &str) {
        let device = NewDevice::new(name, name);
        world.call(ALICE, &LogIn { password_hash: "h".to_owned(), device }).unwrap();
        let device_keys = Some(to_raw_value(&Signer::new(1).device(ALICE, name)).unwrap());
        world.call(ALICE, &UploadKeys { token_hash: name.to_owned(), device_keys, ..UploadKeys::default() }).unwrap();
    }

    fn asks(world: &World, devices_after: Option<u64>, identity_after: Option<u64>) -> DeviceListUpdates {
        world.call(ALICE, &GetDeviceListUpdates { devices_after, identity_after }).unwrap()
    }

    /// Each device that is told, and whether it is deleted.
    fn told(updates: &DeviceListUpdates) -> Vec<(&str, bool)> {
        updates.devices.iter().map(|device| (device.device_id.as_str(), device.deleted)).collect()
    }

    #[test]
    fn a_device_is_told_as_it_is_now() {
        let world = alice();
        assert_eq!((asks(&world, None, None).stream_id, told(&asks(&world, None, None))), (0, vec![]));
        logs_in(&world, "ONE");
        logs_in(&world, "TWO");
        let first = asks(&world, None, None);
        assert_eq!(told(&first), [("ONE", false), ("TWO", false)]);
        let ids: Vec<u64> = first.devices.iter().map(|device| device.stream_id).collect();
        assert_eq!((&first.devices[0].prev_id[..], &first.devices[1].prev_id[..]), (&[][..], &ids[..1]));
        assert_eq!(first.stream_id, ids[1]);
        assert!(told(&asks(&world, Some(ids[1]), None)).is_empty(), "nothing is new");
        for name in ["Phone", "My phone"] {
            let (token_hash, device_id) = ("ONE".to_owned(), "ONE".into());
            world.call(ALICE, &RenameDevice { token_hash, device_id, display_name: Some(name.to_owned()) }).unwrap();
        }
        logs_in(&world, "THREE");
        world.call(ALICE, &LogOut { token_hash: "THREE".to_owned(), all: false }).unwrap();
        world.evict(&Address::new(ActorKind::User, ALICE));
        let next = asks(&world, Some(ids[1]), None);
        assert_eq!(told(&next), [("ONE", false), ("THREE", true)], "each once, whatever it was meanwhile");
        let [one, three] = &next.devices[..] else { panic!("{next:?}") };
        assert_eq!(one.device_display_name.as_deref(), Some("My phone"));
        assert_eq!((&one.prev_id, &three.prev_id), (&vec![ids[1]], &vec![one.stream_id]), "one after the other");
        assert!(one.keys.is_some() && three.keys.is_none());
        let again = asks(&world, Some(ids[1]), None);
        assert_eq!(told(&again), told(&next), "an answer that was lost is told again");
        let lost = asks(&world, Some(three.stream_id + 1_000_000_000_000), None);
        assert_eq!(told(&lost), [("TWO", false), ("ONE", false)], "all there are");
        assert!(lost.devices[0].prev_id.is_empty(), "so that the other server asks for the whole list");
        assert_eq!(lost.stream_id, three.stream_id);
    }

    /// Spec: «must be sent whenever that user's device list changes (i.e. for new or deleted devices […])», and `keys`
    /// «may be absent if the device has no E2E keys defined».
    #[test]
    fn a_device_without_keys_comes_and_goes_too() {
        let world = alice();
        logs_in(&world, "ONE");
        let before = asks(&world, None, None).stream_id;
        let device = NewDevice::new("TWO", "TWO").named(Some("Laptop".to_owned()));
        world.call(ALICE, &LogIn { password_hash: "h".to_owned(), device: device.clone() }).unwrap();
        let came = asks(&world, Some(before), None);
        let [two] = &came.devices[..] else { panic!("{came:?}") };
        assert_eq!((two.device_id.as_str(), two.device_display_name.as_deref()), ("TWO", Some("Laptop")));
        assert!(!two.deleted && two.keys.is_none());
        world.call(ALICE, &LogIn { password_hash: "h".to_owned(), device }).unwrap();
        assert!(told(&asks(&world, Some(came.stream_id), None)).is_empty(), "it was there");
        let (token_hash, device_id) = ("ONE".to_owned(), "TWO".into());
        let rename = RenameDevice { token_hash, device_id, display_name: Some("Phone".to_owned()) };
        world.call(ALICE, &rename).unwrap();
        let renamed = asks(&world, Some(came.stream_id), None);
        assert_eq!(renamed.devices[0].device_display_name.as_deref(), Some("Phone"));
        assert_eq!(told(&asks(&world, None, None)), [("ONE", false)], "of all there are, those with keys");
        world.call(ALICE, &LogOut { token_hash: "TWO".to_owned(), all: false }).unwrap();
        let gone = asks(&world, Some(renamed.stream_id), None);
        assert_eq!(told(&gone), [("TWO", true)]);
    }

    /// Who was told nothing may have asked: it is not to go on encrypting for a device that is gone.
    #[test]
    fn where_no_device_is_left_the_last_one_is_told() {
        let world = alice();
        for name in ["ONE", "TWO"] {
            logs_in(&world, name);
        }
        world.call(ALICE, &LogOut { token_hash: "TWO".to_owned(), all: false }).unwrap();
        assert_eq!(told(&asks(&world, None, None)), [("ONE", false)]);
        world.call(ALICE, &LogOut { token_hash: "ONE".to_owned(), all: false }).unwrap();
        for unknown in [None, Some(1 << 52)] {
            let updates = asks(&world, unknown, None);
            assert_eq!(told(&updates), [("ONE", true)]);
            let [one] = &updates.devices[..] else { panic!("{updates:?}") };
            assert!(one.prev_id.is_empty() && one.stream_id == updates.stream_id && !updates.more, "{updates:?}");
        }
        let stream_id = asks(&world, None, None).stream_id;
        assert!(told(&asks(&world, Some(stream_id), None)).is_empty(), "that was told");
    }

    #[test]
    fn many_devices_come_in_slices() {
        let world = alice();
        let names: Vec<String> = (0..UPDATES_AT_ONCE * 2 + 1).map(|number| format!("D{number}")).collect();
        names.iter().for_each(|name| logs_in(&world, name));
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let updates = asks(&world, after, None);
            assert!(updates.devices.len() as u64 <= UPDATES_AT_ONCE);
            let prev = updates.devices.first().map(|device| device.prev_id.clone());
            assert_eq!(prev, Some(after.into_iter().collect()));
            after = updates.devices.last().map(|device| device.stream_id);
            all.extend(told(&updates).into_iter().map(|(name, _)| name.to_owned()));
            if !updates.more {
                break;
            }
        }
        assert_eq!(all, names);
    }

    #[test]
    fn the_users_own_keys_are_told_apart() {
        let world = alice();
        logs_in(&world, "ONE");
        let master = Signer::new(2);
        let key =
            |seed, usage| Some(to_raw_value(&Signer::new(seed).cross_signing(ALICE, usage, Some(&master))).unwrap());
        let call = |seed| UploadCrossSigning {
            token_hash: "ONE".to_owned(),
            master_key: Some(to_raw_value(&master.cross_signing(ALICE, Usage::Master, None)).unwrap()),
            self_signing_key: key(seed, Usage::SelfSigning),
            user_signing_key: key(4, Usage::UserSigning),
            password_hash: Some("h".to_owned()),
        };
        world.call(ALICE, &call(3)).unwrap();
        let devices_after = Some(asks(&world, None, None).stream_id);
        let first = asks(&world, devices_after, None);
        let identity = first.identity.unwrap();
        assert!(first.devices.is_empty() && identity.master_key.is_some() && identity.self_signing_key.is_some());
        assert!(asks(&world, devices_after, Some(identity.stream_id)).identity.is_none());
        world.call(ALICE, &call(5)).unwrap();
        let next = asks(&world, devices_after, Some(identity.stream_id));
        assert!(next.devices.is_empty(), "no device is told, and none misses one before it");
        assert!(next.identity.is_some_and(|next| next.stream_id > identity.stream_id));
        assert!(asks(&world, None, Some(1 << 52)).identity.is_some(), "of a stream that was lost");
    }
}
