//! The devices and keys of other servers' users: kept as long as their servers tell of every change, fetched otherwise.
//! Spec: Server-Server API, "Device Management".

use std::collections::{BTreeMap, BTreeSet};

use actors::{
    destination::{
        AsOf, CacheDeviceLists, CachedDeviceList, CachedDeviceLists, DeviceList, DeviceListUpdate,
        GetCachedDeviceLists, UpdateDeviceLists,
    },
    room::{DeviceListsChanged, JoinedSince, JoinedThroughout},
};
use domain::{readable, signed_key::SignedKey};
use futures_util::{
    StreamExt, TryStreamExt,
    future::{join_all, try_join},
    stream,
};
use ruma_common::{OwnedDeviceId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, serde::Raw};
use ruma_federation_api::{device::get_devices::v1 as devices, keys::get_keys::v1 as query};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    AskError, Elsewhere,
    edus::settled,
    user_keys::{SERVERS_AT_ONCE, TOLD_BYTES_MAX, bounds},
};
use crate::{Context, Failure};

/// Rooms that are asked for one request who has been in them: of more users the lists are fetched, and not kept.
const ROOMS_MAX: usize = 32;
/// Rooms that are asked, or told, at the same time.
const ROOMS_AT_ONCE: usize = 16;
/// So many users of a server are asked for one by one, with the numbers of their lists: then what is new can be
/// applied. More are asked for at once, and again when there is something new.
const ONE_BY_ONE_MAX: usize = 4;

/// What is known of users of other servers.
#[derive(Default)]
pub(super) struct Cache {
    /// What is current.
    pub lists: Vec<(OwnedUserId, DeviceList)>,
    /// Where the others are: who is in no room of ours of whom we would be told.
    pub seats: BTreeMap<OwnedUserId, Seat>,
    as_of: BTreeMap<OwnedServerName, AsOf>,
}

/// A room that a user is in, and a position of its log.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    room_id: OwnedRoomId,
    since: u64,
}

/// A list, and the number that its server has for it.
pub(super) struct Fetched {
    pub keys: DeviceList,
    stream_id: Option<u64>,
}

impl Context {
    /// What is known here of some users, and where they are of whom it is not.
    ///
    /// # Errors
    /// A fault of ours.
    pub(super) async fn cached_device_lists<T>(&self, asked: &Elsewhere<T>) -> Result<Cache, Failure> {
        let mut cache = Cache::default();
        let mut missing: BTreeMap<OwnedUserId, Option<u64>> = BTreeMap::new();
        let mut lists: BTreeMap<OwnedRoomId, Vec<CachedDeviceList>> = BTreeMap::new();
        let mut shared: BTreeMap<OwnedServerName, Vec<OwnedRoomId>> = BTreeMap::new();
        let mut bytes = 0_usize;
        let calls = asked.iter().map(async |(server, users)| {
            let call = GetCachedDeviceLists { users: users.keys().cloned().collect() };
            match self.call(server.as_str(), &call).await {
                Err(Failure::Absent) => Ok((server, CachedDeviceLists::default())),
                kept => kept.map(|kept| (server, kept)),
            }
        });
        let mut calls = stream::iter(calls).buffer_unordered(SERVERS_AT_ONCE);
        while bytes < TOLD_BYTES_MAX
            && let Some((server, kept)) = calls.try_next().await?
        {
            if kept.rooms.is_empty() {
                continue;
            }
            missing.extend(asked.get(server).into_iter().flat_map(BTreeMap::keys).map(|user| (user.clone(), None)));
            cache.as_of.insert(server.clone(), kept.as_of);
            shared.insert(server.clone(), kept.rooms);
            for list in kept.lists {
                bytes = list.keys.devices.values().fold(bytes, |bytes, keys| bytes.saturating_add(keys.get().len()));
                lists.entry(list.room_id.clone()).or_default().push(list);
            }
        }
        drop(calls);
        let checks = lists.into_iter().take(ROOMS_MAX).map(async |(room_id, lists)| {
            let users = lists.iter().map(|list| (list.user.clone(), Some(list.since))).collect();
            Ok::<_, Failure>((self.joined_since(&room_id, users).await?.users, lists))
        });
        let checked: Vec<_> = stream::iter(checks).buffer_unordered(ROOMS_AT_ONCE).try_collect().await?;
        for (joined, lists) in checked {
            for list in lists.into_iter().filter(|list| joined.contains(&list.user)) {
                missing.remove(&list.user);
                cache.lists.push((list.user, list.keys));
            }
        }
        cache.seats = self.seats(missing.into_keys().collect(), &shared).await?;
        Ok(cache)
    }

    /// Where users are, as far as so many rooms can tell: those first that are shared with most of their servers.
    async fn seats(
        &self,
        mut users: BTreeSet<OwnedUserId>,
        shared: &BTreeMap<OwnedServerName, Vec<OwnedRoomId>>,
    ) -> Result<BTreeMap<OwnedUserId, Seat>, Failure> {
        let mut candidates: BTreeMap<&OwnedRoomId, usize> = BTreeMap::new();
        for server in users.iter().map(|user| user.server_name()).collect::<BTreeSet<_>>() {
            // Of one server those in which something happened last.
            for (age, room_id) in shared.get(server).into_iter().flatten().enumerate() {
                let weight = candidates.entry(room_id).or_default();
                *weight = weight.saturating_add(ROOMS_MAX.saturating_sub(age));
            }
        }
        let mut candidates: Vec<_> = candidates.into_iter().map(|(room_id, weight)| (weight, room_id)).collect();
        candidates.sort_unstable_by(|one, other| other.cmp(one));
        candidates.truncate(ROOMS_MAX);
        let mut seats = BTreeMap::new();
        for rooms in candidates.chunks(ROOMS_AT_ONCE) {
            if users.is_empty() {
                break;
            }
            let users_there = &users;
            let asked = join_all(rooms.iter().map(async |(_, room_id)| {
                let is_shared =
                    |user: &&OwnedUserId| shared.get(user.server_name()).is_some_and(|rooms| rooms.contains(room_id));
                let users = users_there.iter().filter(is_shared).map(|user| (user.clone(), None)).collect();
                self.joined_since(room_id, users).await.map(|joined| (*room_id, joined))
            }));
            for joined in asked.await {
                let (room_id, joined) = joined?;
                for user in joined.users.into_iter().filter(|user| users.remove(user)) {
                    seats.insert(user, Seat { room_id: room_id.clone(), since: joined.until });
                }
            }
        }
        Ok(seats)
    }

    async fn joined_since(
        &self,
        room_id: &RoomId,
        users: Vec<(OwnedUserId, Option<u64>)>,
    ) -> Result<JoinedThroughout, Failure> {
        match self.room(room_id).call(&JoinedSince { users }).await {
            Err(Failure::Absent) => Ok(JoinedThroughout::default()),
            joined => joined,
        }
    }

    /// What a server says of some of its users; of all devices of who has a seat, and else of those that are asked for.
    ///
    /// # Errors
    /// [`AskError`]: whatever kept it from doing so.
    pub(super) async fn fetch_device_lists(
        &self,
        server: &ServerName,
        users: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
        seats: &BTreeMap<OwnedUserId, Seat>,
        timeout_ms: u64,
    ) -> Result<BTreeMap<OwnedUserId, Fetched>, AskError> {
        if users.len() <= ONE_BY_ONE_MAX && users.keys().all(|user| seats.contains_key(user)) {
            let fetched = join_all(users.keys().map(async |user| {
                let answer = self.query(server, devices::Request::new(user.clone()), bounds(1, timeout_ms)).await?;
                Ok((user.clone(), one(answer)))
            }));
            match fetched.await.into_iter().collect() {
                // It may not have one of them, or not know the question, or of one device tell what nobody can read.
                Err(AskError::Refused { .. } | AskError::Nonsense(_)) => {}
                fetched => return fetched,
            }
        }
        let wanted = users.iter().map(|(user, devices)| {
            let devices = if seats.contains_key(user) { Vec::new() } else { devices.clone() };
            (user.clone(), devices)
        });
        let mut answer =
            self.query(server, query::Request::new(wanted.collect()), bounds(users.len(), timeout_ms)).await?;
        // Of whom it says nothing it has not.
        let lists = users.keys().filter_map(|user| {
            let devices = answer.device_keys.remove(user);
            let master = answer.master_keys.remove(user).map(Raw::into_json).and_then(sound);
            let self_signing = answer.self_signing_keys.remove(user).map(Raw::into_json).and_then(sound);
            if devices.is_none() && master.is_none() && self_signing.is_none() {
                return None;
            }
            let devices = devices.unwrap_or_default().into_iter();
            let devices = devices.filter_map(|(id, keys)| Some((id, sound(keys.into_json())?))).collect();
            Some((user.clone(), Fetched { keys: DeviceList { devices, master, self_signing }, stream_id: None }))
        });
        Ok(lists.collect())
    }

    /// Keeps what was fetched, of those who have a seat.
    ///
    /// # Errors
    /// A fault of ours.
    pub(super) async fn cache_device_lists(
        &self,
        fetched: Vec<(&OwnedServerName, BTreeMap<OwnedUserId, Fetched>)>,
        cache: &Cache,
    ) -> Result<(), Failure> {
        let calls = fetched.into_iter().filter_map(|(server, lists)| {
            let lists: Vec<_> = lists
                .into_iter()
                .filter_map(|(user, Fetched { keys, stream_id })| {
                    let Seat { room_id, since } = cache.seats.get(&user)?.clone();
                    Some(CachedDeviceList { user, room_id, since, stream_id, keys })
                })
                .collect();
            let as_of = *cache.as_of.get(server).filter(|_| !lists.is_empty())?;
            Some(async move { self.call(server.as_str(), &CacheDeviceLists { as_of, lists }).await })
        });
        stream::iter(calls).buffer_unordered(SERVERS_AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
    }
}

fn one(answer: devices::Response) -> Fetched {
    let devices = answer.devices.into_iter().filter_map(|device| {
        let keys = named(device.keys.into_json(), device.device_display_name)?;
        Some((device.device_id, keys))
    });
    let keys = DeviceList {
        devices: devices.collect(),
        master: answer.master_key.map(Raw::into_json).and_then(sound),
        self_signing: answer.self_signing_key.map(Raw::into_json).and_then(sound),
    };
    Fetched { keys, stream_id: Some(answer.stream_id.into()) }
}

/// Keys that can be signed at all, and read by everybody; others are no use to anybody.
fn sound(keys: Box<RawValue>) -> Option<Box<RawValue>> {
    (readable::check(keys.get().as_bytes()).is_ok() && SignedKey::parse(keys.get()).is_ok()).then_some(keys)
}

/// A device's keys with its name, as clients are told. Servers tell each other the name beside the keys.
fn named(keys: Box<RawValue>, name: Option<String>) -> Option<Box<RawValue>> {
    let mut keys: Map<String, Value> = serde_json::from_str(sound(keys)?.get()).ok()?;
    let unsigned = keys.entry("unsigned").or_insert_with(|| Value::Object(Map::new()));
    match (unsigned.as_object_mut(), name) {
        (Some(unsigned), Some(name)) => drop(unsigned.insert("device_display_name".to_owned(), name.into())),
        (Some(unsigned), None) => drop(unsigned.remove("device_display_name")),
        (None, _) => drop(keys.remove("unsigned")),
    }
    serde_json::value::to_raw_value(&keys).ok()
}

/// What a server tells of a user's devices or keys.
pub(super) struct News {
    pub user: OwnedUserId,
    pub update: DeviceListUpdate,
}

impl News {
    /// Of an EDU; `None` for one that is of something else, or that names nobody.
    pub(super) fn read(edu_type: &str, content: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct OfUser {
            user_id: OwnedUserId,
        }
        let read = match edu_type {
            "m.device_list_update" => device_update,
            "m.signing_key_update" => cross_signing_update,
            _ => return None,
        };
        let OfUser { user_id } = serde_json::from_str(content.get()).ok()?;
        Some(Self { user: user_id, update: read(content).unwrap_or(DeviceListUpdate::Unclear) })
    }
}

fn device_update(content: &RawValue) -> Option<DeviceListUpdate> {
    #[derive(Deserialize)]
    struct Update {
        device_id: OwnedDeviceId,
        device_display_name: Option<String>,
        stream_id: js_int::UInt,
        #[serde(default)]
        prev_id: Vec<js_int::UInt>,
        deleted: Option<bool>,
        keys: Option<Box<RawValue>>,
    }
    let update: Update = serde_json::from_str(content.get()).ok()?;
    let keys = match update.keys.filter(|_| update.deleted != Some(true)) {
        Some(keys) => Some(named(keys, update.device_display_name)?),
        None => None,
    };
    Some(DeviceListUpdate::Device {
        device_id: update.device_id,
        stream_id: update.stream_id.into(),
        prev_id: update.prev_id.into_iter().map(u64::from).collect(),
        keys,
    })
}

fn cross_signing_update(content: &RawValue) -> Option<DeviceListUpdate> {
    #[derive(Deserialize)]
    struct Update {
        master_key: Option<Box<RawValue>>,
        self_signing_key: Option<Box<RawValue>>,
    }
    let Update { master_key, self_signing_key } = serde_json::from_str(content.get()).ok()?;
    let given = |key: Option<Box<RawValue>>| key.map_or(Some(None), |key| sound(key).map(Some));
    Some(DeviceListUpdate::CrossSigning { master: given(master_key)?, self_signing: given(self_signing_key)? })
}

/// How long a server may take for lists that did not follow on, in milliseconds, while its transaction waits.
const RESYNCHRONISE_TIMEOUT_MS: u64 = 10_000;

/// A server tells what is new: that is known here before anybody is told to look. Then the rooms that are shared with
/// the users tell their members, each of them once of all those users. Meanwhile lists from which it did not follow are
/// fetched again; where the server does not answer, whoever asks next has them fetched.
///
/// # Errors
/// A fault of ours.
pub(super) async fn take_in(cx: &Context, origin: &ServerName, news: Vec<News>) -> Result<(), Failure> {
    let news = news.into_iter().filter(|news| news.user.server_name() == origin);
    let updates: Vec<_> = news.map(|News { user, update }| (user, update)).collect();
    if updates.is_empty() {
        return Ok(());
    }
    let users: BTreeSet<OwnedUserId> = updates.iter().map(|(user, _)| user.clone()).collect();
    let (rooms, ended) = match cx.call(origin.as_str(), &UpdateDeviceLists { updates }).await {
        Err(Failure::Absent) => return Ok(()),
        updated => updated?.into_parts(),
    };
    // One call for all of them: a server may name anybody, and what it costs is not to grow with that.
    let call = &DeviceListsChanged { users: users.into_iter().collect(), changed_ms: cx.now_ms() };
    let told = stream::iter(&rooms).map(async |room_id| settled(cx.room(room_id).call(call).await));
    let told = told.buffer_unordered(ROOMS_AT_ONCE).try_collect::<Vec<()>>();
    let ((), _) = try_join(resynchronise(cx, origin, ended), told).await?;
    Ok(())
}

async fn resynchronise(cx: &Context, server: &ServerName, users: Vec<OwnedUserId>) -> Result<(), Failure> {
    if users.is_empty() {
        return Ok(());
    }
    let users = users.into_iter().map(|user| (user, Vec::new())).collect();
    let asked = [(server.to_owned(), users)].into();
    cx.keys_elsewhere(asked, RESYNCHRONISE_TIMEOUT_MS).await.map(drop)
}

#[cfg(test)]
mod tests {
    use actors::{
        Call,
        destination::{DeviceListUpdate, RoomMoved},
        room::DeviceListsChanged,
    };
    use ruma_common::{OwnedRoomId, OwnedUserId, server_name};

    use super::{News, take_in};
    use crate::testing::{TestServer, block_on};

    #[test]
    fn whoever_is_named_a_room_is_asked_once() {
        let server = TestServer::new(&[]);
        let (cx, origin) = (server.context(), server_name!("b.test"));
        for room in 0..3 {
            let room_id = OwnedRoomId::try_from(format!("!{room}:localhost")).unwrap();
            block_on(cx.call(origin.as_str(), &RoomMoved { room_id, since: 0, to: 1, left: false })).unwrap();
        }
        let news = |user: String| News {
            user: OwnedUserId::try_from(format!("@{user}:b.test")).unwrap(),
            update: DeviceListUpdate::Unclear,
        };
        let all = (0..50).map(|user| news((user % 25).to_string()));
        block_on(take_in(&cx, origin, all.collect())).unwrap();
        assert_eq!(server.calls(DeviceListsChanged::NAME), 3);
    }
}
