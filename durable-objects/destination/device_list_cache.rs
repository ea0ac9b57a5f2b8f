//! The devices and keys of the server's users, so that they need not be asked for again, and are known while the server
//! is away.
//!
//! The server tells of every change as long as it shares a room with us in which the user is. So a list is good while
//! nothing is told that does not follow from it, and while the user, and somebody of ours, has been in one room
//! throughout; that room knows whether they have ([`crate::room::JoinedSince`]). What is told while a list is fetched
//! may be in it or not: such a list is not kept. Spec: Server-Server API, "Device Management".

use std::collections::BTreeMap;

use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Destination, store};
use crate::{Call, Cx, Error};

/// Users whose devices and keys are kept, those who were asked for last.
const USERS_MAX: u64 = 20_000;
/// The largest list that is kept, in bytes: some hundred devices.
const LIST_BYTES_MAX: usize = 256 * 1024;
/// Users of whom it is remembered when something was told of them.
const TOLD_MAX: usize = 1_000;
/// The lists of one answer, in bytes: who is beyond is as missing.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Rooms in which users may be found to be, those in which something happened last.
const ROOMS_MAX: u64 = 32;

/// What is kept of these users.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetCachedDeviceLists {
    pub users: Vec<OwnedUserId>,
}

/// Of some users what is kept, and what it takes to keep that of the others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CachedDeviceLists {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<CachedDeviceList>,
    /// Rooms that are shared with the server: whoever is in one can be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<OwnedRoomId>,
    pub as_of: AsOf,
}

/// A user's devices and keys, as their server tells others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DeviceList {
    pub devices: BTreeMap<OwnedDeviceId, Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signing: Option<Box<RawValue>>,
}

/// All of a user's devices and keys. To be trusted, the room has to say that the user has been in it since.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CachedDeviceList {
    pub user: OwnedUserId,
    pub room_id: OwnedRoomId,
    /// A position of the room's log.
    pub since: u64,
    /// «A unique ID for a given user_id which describes the version of the returned device list.» `None`: the server
    /// did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<u64>,
    pub keys: DeviceList,
}

/// A moment in what the server tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsOf {
    /// This life of the actor.
    life: u64,
    told: u64,
}

impl Call for GetCachedDeviceLists {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "get_cached_device_lists";
    type Reply = CachedDeviceLists;
}

/// Keeps what was fetched after `as_of`, but for what may be old already.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CacheDeviceLists {
    pub as_of: AsOf,
    pub lists: Vec<CachedDeviceList>,
}

impl Call for CacheDeviceLists {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "cache_device_lists";
    type Reply = ();
}

/// The server tells of its users' devices and keys, in its order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpdateDeviceLists {
    pub updates: Vec<(OwnedUserId, DeviceListUpdate)>,
}

/// What is new of a user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceListUpdate {
    /// This is one of the user's devices, or (without keys) none any more.
    Device {
        device_id: OwnedDeviceId,
        stream_id: u64,
        /// The updates that this one follows.
        prev_id: Vec<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keys: Option<Box<RawValue>>,
    },
    /// These are the user's cross-signing keys; of one that is not given there is no news.
    CrossSigning {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        master: Option<Box<RawValue>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        self_signing: Option<Box<RawValue>>,
    },
    /// It cannot be told from this what it is.
    Unclear,
}

impl Call for UpdateDeviceLists {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "update_device_lists";
    type Reply = UpdatedDeviceLists;
}

/// What the server told is known here. In either case, the rooms that are shared with it: their members have to look.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UpdatedDeviceLists {
    /// All that was told followed from what is kept.
    Followed(Vec<OwnedRoomId>),
    Ended {
        rooms: Vec<OwnedRoomId>,
        /// Whose lists were kept until something came that did not follow from them: they are to be fetched again.
        /// Spec: «If a server receives an EDU which refers to a `prev_id` it does not recognise, it must resynchronise
        /// its list».
        ended: Vec<OwnedUserId>,
    },
}

impl UpdatedDeviceLists {
    /// The rooms, and whose lists ended.
    pub fn into_parts(self) -> (Vec<OwnedRoomId>, Vec<OwnedUserId>) {
        match self {
            UpdatedDeviceLists::Followed(rooms) => (rooms, Vec::new()),
            UpdatedDeviceLists::Ended { rooms, ended } => (rooms, ended),
        }
    }
}

/// When something was told of whom.
#[derive(Default)]
pub(super) struct Told {
    /// Unlike those of the actor's other lives; 0 before it is known.
    life: u64,
    count: u64,
    users: BTreeMap<OwnedUserId, u64>,
    /// Of whom it was forgotten: everybody may have been told of up to this.
    forgotten: u64,
}

impl Told {
    fn note(&mut self, user: &OwnedUserId) {
        self.count = self.count.saturating_add(1);
        if self.users.len() >= TOLD_MAX {
            self.users.clear();
            self.forgotten = self.count;
        }
        self.users.insert(user.clone(), self.count);
    }

    /// Whether nothing was told of a user after a moment.
    fn is_silent_since(&self, user: &OwnedUserId, as_of: AsOf) -> bool {
        let last = self.users.get(user).copied().unwrap_or(0).max(self.forgotten);
        self.life != 0 && self.life == as_of.life && last <= as_of.told
    }
}

impl CachedDeviceList {
    /// Takes an update in. Answers whether it follows from what is here; if not, nobody knows what the list is now.
    fn update(&mut self, update: DeviceListUpdate) -> bool {
        match update {
            // What was told while the list was fetched, or is told twice. One that follows nothing says only that there
            // is news: some servers number all of them alike.
            DeviceListUpdate::Device { stream_id, ref prev_id, .. }
                if self.stream_id == Some(stream_id) && !prev_id.is_empty() =>
            {
                true
            }
            DeviceListUpdate::Device { device_id, stream_id, prev_id, keys } => {
                if prev_id.is_empty() || prev_id.iter().any(|prev_id| Some(*prev_id) != self.stream_id) {
                    return false;
                }
                self.stream_id = Some(stream_id);
                match keys {
                    Some(keys) => drop(self.keys.devices.insert(device_id, keys)),
                    None => drop(self.keys.devices.remove(&device_id)),
                }
                true
            }
            DeviceListUpdate::CrossSigning { master, self_signing } => {
                self.keys.master = master.or(self.keys.master.take());
                self.keys.self_signing = self_signing.or(self.keys.self_signing.take());
                true
            }
            DeviceListUpdate::Unclear => false,
        }
    }
}

impl Destination {
    pub(super) fn get_cached_device_lists(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetCachedDeviceLists,
    ) -> Result<CachedDeviceLists, Error> {
        let lists = store::device_list_cache::get(sql, &call.users, ANSWER_BYTES_MAX)?;
        let rooms = self.rooms.newest(sql, ROOMS_MAX)?.into_iter();
        let rooms = rooms.filter_map(|room_id| OwnedRoomId::try_from(room_id).ok()).collect();
        let mut told = self.told.borrow_mut();
        if told.life == 0 {
            // Numbers in JSON are no larger.
            told.life = u64::from(u32::from_ne_bytes(cx.random()?)).max(1);
        }
        Ok(CachedDeviceLists { lists, rooms, as_of: AsOf { life: told.life, told: told.count } })
    }

    pub(super) fn cache_device_lists(&self, tx: &Tx<'_>, _cx: &Cx<'_>, call: CacheDeviceLists) -> Result<(), Error> {
        for list in call.lists {
            if self.told.borrow().is_silent_since(&list.user, call.as_of) {
                put(tx, &list)?;
            }
        }
        Ok(store::device_list_cache::forget_oldest(tx, USERS_MAX)?)
    }

    pub(super) fn update_device_lists(
        &self,
        tx: &Tx<'_>,
        _cx: &Cx<'_>,
        call: UpdateDeviceLists,
    ) -> Result<UpdatedDeviceLists, Error> {
        let mut ended = Vec::new();
        for (user, update) in call.updates {
            self.told.borrow_mut().note(&user);
            let Some(mut list) = store::device_list_cache::get(&**tx, std::slice::from_ref(&user), 0)?.pop() else {
                continue;
            };
            if list.update(update) {
                put(tx, &list)?;
            } else {
                store::device_list_cache::forget(tx, user.as_str())?;
                ended.push(user);
            }
        }
        let rooms = store::rooms(&**tx)?;
        let rooms = rooms.into_iter().filter_map(|room_id| OwnedRoomId::try_from(room_id).ok()).collect();
        Ok(match ended.is_empty() {
            true => UpdatedDeviceLists::Followed(rooms),
            false => UpdatedDeviceLists::Ended { rooms, ended },
        })
    }
}

fn put(tx: &Tx<'_>, list: &CachedDeviceList) -> Result<(), Error> {
    let keys = serde_json::to_string(&list.keys)?;
    if keys.len() > LIST_BYTES_MAX {
        return Ok(store::device_list_cache::forget(tx, list.user.as_str())?);
    }
    Ok(store::device_list_cache::put(tx, list, &keys)?)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use platform::{ActorKind, Address};
    use ruma_common::{OwnedUserId, room_id, user_id};
    use serde_json::{
        Value, json,
        value::{RawValue, to_raw_value},
    };

    use super::{
        ANSWER_BYTES_MAX, AsOf, CacheDeviceLists, CachedDeviceList, CachedDeviceLists, DeviceListUpdate,
        GetCachedDeviceLists, LIST_BYTES_MAX, TOLD_MAX, UpdateDeviceLists,
    };
    use crate::{
        destination::{DeviceList, RoomMoved},
        world::World,
    };

    const THERE: &str = "there.test";

    fn bob() -> OwnedUserId {
        user_id!("@bob:there.test").to_owned()
    }

    fn key(text: &str) -> Box<RawValue> {
        to_raw_value(&json!({ "keys": text })).unwrap()
    }

    fn world() -> Rc<World> {
        let world = World::new(1);
        let room_id = room_id!("!room:myelin.test").to_owned();
        world.call(THERE, &RoomMoved { room_id, since: 0, to: 1, left: false }).unwrap();
        world
    }

    fn gets(world: &World) -> CachedDeviceLists {
        world.call(THERE, &GetCachedDeviceLists { users: vec![bob()] }).unwrap()
    }

    /// What is kept of Bob: his devices with their keys, and his master key.
    fn kept(world: &World) -> Value {
        let Some(list) = gets(world).lists.pop() else { return Value::Null };
        json!({ "devices": list.keys.devices, "master": list.keys.master, "stream_id": list.stream_id })
    }

    fn list(stream_id: Option<u64>, phone: &str) -> CachedDeviceList {
        let devices = [("PHONE".into(), key(phone))].into();
        let keys = DeviceList { devices, master: Some(key("m")), self_signing: None };
        CachedDeviceList { user: bob(), room_id: room_id!("!room:myelin.test").to_owned(), since: 7, stream_id, keys }
    }

    fn caches(world: &World, as_of: AsOf, list: CachedDeviceList) {
        world.call(THERE, &CacheDeviceLists { as_of, lists: vec![list] }).unwrap();
    }

    fn device(name: &str, prev_id: &[u64], stream_id: u64, keys: Option<&str>) -> DeviceListUpdate {
        let keys = keys.map(key);
        DeviceListUpdate::Device { device_id: name.into(), stream_id, prev_id: prev_id.to_vec(), keys }
    }

    /// Answers whose list is to be fetched again.
    fn tells(world: &World, user: OwnedUserId, update: DeviceListUpdate) -> Vec<OwnedUserId> {
        let updated = world.call(THERE, &UpdateDeviceLists { updates: vec![(user, update)] }).unwrap();
        let (rooms, ended) = updated.into_parts();
        assert_eq!(rooms, ["!room:myelin.test"], "whatever was kept, the room has to know");
        ended
    }

    #[test]
    fn a_list_is_kept_and_updated_by_what_follows_from_it() {
        let world = world();
        let missing = gets(&world);
        assert_eq!(missing.rooms, ["!room:myelin.test"]);
        caches(&world, missing.as_of, list(Some(5), "one"));
        let found = gets(&world);
        assert_eq!((found.lists.len(), found.lists[0].since), (1, 7));
        assert_eq!(kept(&world)["devices"], json!({ "PHONE": { "keys": "one" } }));
        tells(&world, bob(), device("LAPTOP", &[5], 8, Some("new")));
        tells(&world, bob(), device("PHONE", &[8], 9, None));
        let master = Some(key("another"));
        tells(&world, bob(), DeviceListUpdate::CrossSigning { master, self_signing: None });
        let now =
            json!({ "devices": { "LAPTOP": { "keys": "new" } }, "master": { "keys": "another" }, "stream_id": 9 });
        assert_eq!(kept(&world), now);
        world.evict(&Address::new(ActorKind::Destination, THERE));
        assert_eq!(kept(&world), now);
        tells(&world, user_id!("@zoe:there.test").to_owned(), device("PHONE", &[1], 2, None));
        assert_eq!(kept(&world), now, "that is somebody else");
        assert!(tells(&world, bob(), device("PHONE", &[8], 9, Some("again"))).is_empty());
        assert_eq!(kept(&world), now, "that is in it");
    }

    #[test]
    fn what_does_not_follow_ends_it() {
        let unclear = [
            device("PHONE", &[4], 6, Some("two")),
            device("PHONE", &[], 6, Some("two")),
            device("PHONE", &[], 5, None),
            device("PHONE", &[5, 4], 6, Some("two")),
            DeviceListUpdate::Unclear,
        ];
        for update in unclear {
            let world = world();
            caches(&world, gets(&world).as_of, list(Some(5), "one"));
            assert!(!kept(&world).is_null());
            assert_eq!(tells(&world, bob(), update.clone()), [bob()]);
            assert_eq!(kept(&world), Value::Null, "{update:?}");
            assert!(tells(&world, bob(), update).is_empty(), "of whom nothing is kept nothing is fetched");
        }
        let world = world();
        caches(&world, gets(&world).as_of, list(None, "one"));
        tells(&world, bob(), device("PHONE", &[5], 6, None));
        assert_eq!(kept(&world), Value::Null, "nobody knows what that followed");
    }

    #[test]
    fn what_was_fetched_while_something_was_told_is_not_kept() {
        let world = world();
        let before = gets(&world).as_of;
        tells(&world, user_id!("@zoe:there.test").to_owned(), DeviceListUpdate::Unclear);
        caches(&world, before, list(Some(5), "one"));
        assert!(!kept(&world).is_null(), "it was of somebody else");
        tells(&world, bob(), DeviceListUpdate::Unclear);
        caches(&world, before, list(Some(5), "one"));
        assert_eq!(kept(&world), Value::Null);
        let before = gets(&world).as_of;
        caches(&world, before, list(Some(6), "two"));
        assert!(!kept(&world).is_null());
        // Whether anything was told is forgotten with everything else in memory, or when it is too much.
        tells(&world, bob(), DeviceListUpdate::Unclear);
        let before = gets(&world).as_of;
        world.evict(&Address::new(ActorKind::Destination, THERE));
        caches(&world, before, list(Some(6), "two"));
        assert_eq!(kept(&world), Value::Null);
        let before = gets(&world).as_of;
        for other in 0..=TOLD_MAX {
            let other = OwnedUserId::try_from(format!("@u{other}:there.test")).unwrap();
            tells(&world, other, DeviceListUpdate::Unclear);
        }
        caches(&world, before, list(Some(6), "two"));
        assert_eq!(kept(&world), Value::Null);
    }

    #[test]
    fn too_large_a_list_is_not_kept() {
        let world = world();
        caches(&world, gets(&world).as_of, list(Some(5), &"k".repeat(LIST_BYTES_MAX)));
        assert_eq!(kept(&world), Value::Null);
        caches(&world, gets(&world).as_of, list(Some(5), "one"));
        tells(&world, bob(), device("LAPTOP", &[5], 6, Some(&"k".repeat(LIST_BYTES_MAX))));
        assert_eq!(kept(&world), Value::Null, "nor does it grow to be one");
    }

    #[test]
    fn large_lists_are_read_a_few_at_a_time_and_no_more_than_are_answered() {
        let world = world();
        let name = |number: usize| OwnedUserId::try_from(format!("@u{number}:there.test")).unwrap();
        let bytes = LIST_BYTES_MAX - 1024;
        let (as_of, large, count) = (gets(&world).as_of, "k".repeat(bytes), 2 * ANSWER_BYTES_MAX / bytes);
        for number in 0..count {
            caches(&world, as_of, CachedDeviceList { user: name(number), ..list(None, &large) });
        }
        let sql = world.sql(&Address::new(ActorKind::Destination, THERE));
        sql.bytes_at_once.set(0);
        let users = (0..count).map(name).collect();
        let kept = world.call(THERE, &GetCachedDeviceLists { users }).unwrap();
        assert_eq!(kept.lists.len(), ANSWER_BYTES_MAX / bytes + 1);
        assert!(sql.bytes_at_once.get() < 3 * 1024 * 1024, "{} bytes", sql.bytes_at_once.get());
    }

    #[test]
    fn of_so_many_users_the_oldest_go() {
        let world = world();
        let name = |number: u64| OwnedUserId::try_from(format!("@u{number}:there.test")).unwrap();
        let lists =
            (0..super::USERS_MAX + 1).map(|number| CachedDeviceList { user: name(number), ..list(None, "one") });
        let as_of = gets(&world).as_of;
        world.call(THERE, &CacheDeviceLists { as_of, lists: lists.collect() }).unwrap();
        let users = vec![name(0), name(1), name(super::USERS_MAX)];
        let kept = world.call(THERE, &GetCachedDeviceLists { users }).unwrap();
        assert_eq!(kept.lists.into_iter().map(|list| list.user).collect::<Vec<_>>(), [name(1), name(super::USERS_MAX)]);
    }
}
