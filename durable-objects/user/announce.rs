//! News of the user on their way to the rooms: a changed profile, changed devices or keys.
//!
//! The account's row says how far each got: it goes out a slice of rooms at a time, and the row moves on when a slice
//! has answered, so that a change costs as many written rows in two thousand rooms as there are slices. A crash repeats
//! a slice, which rooms do not mind; a room that could not be reached gets a row of the outbox.

use platform::{Sql, Tx};
use ruma_common::{OwnedUserId, RoomId};

use super::{
    CLOCKS_APART_MS, ROOMS_BEFORE_ANSWER_MAX, User, own_id, profile,
    store::{self, announcement, profile::Profile},
};
use crate::{
    Cx, Error,
    cx::Key,
    outbox,
    room::{DeviceListChanged, LEAD_MAX, RefreshMember, TellOfDevices},
    schedule,
};

/// What all rooms shall know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Profile,
    DeviceList,
    /// The same, of a device that has no keys, and had none. Who is in the rooms has no use for that and is not told;
    /// their servers are.
    KeylessDevice,
}

impl News {
    /// The schedule's name for taking up an announcement that a crash cut short.
    fn due(self) -> &'static str {
        match self {
            News::Profile => "profile",
            News::DeviceList | News::KeylessDevice => "device_list",
        }
    }

    pub(super) fn of_due(what: &str) -> Option<Self> {
        [News::Profile, News::DeviceList].into_iter().find(|news| news.due() == what)
    }
}

/// The slices that are on their way, of each kind of news.
#[derive(Default)]
pub(super) struct Announcing {
    profile: Option<Slice>,
    device_list: Option<Slice>,
}

impl Announcing {
    fn of(&mut self, news: News) -> &mut Option<Slice> {
        match news {
            News::Profile => &mut self.profile,
            News::DeviceList | News::KeylessDevice => &mut self.device_list,
        }
    }

    fn all(&mut self) -> [&mut Option<Slice>; 2] {
        [&mut self.profile, &mut self.device_list]
    }
}

/// How long a slice may take, in milliseconds, before the alarm looks what became of it.
const RETRY_MS: u64 = 10_000;

/// The slice that is on its way.
struct Slice {
    /// Which news, by when it became so.
    changed_ms: u64,
    /// The number of its last room.
    up_to: u64,
    /// Rooms that have not answered.
    open: usize,
    /// Whether it is the last.
    last: bool,
    /// Whether an operation changed this memory and is not committed yet.
    uncommitted: bool,
}

/// A room is told of what became so at `changed_ms`.
#[derive(Debug, Clone)]
pub(crate) struct Announced {
    pub news: News,
    pub room_id: String,
    pub changed_ms: u64,
}

/// What a room is told of the profile as it is.
pub(super) fn refresh(sql: &dyn Sql, user: OwnedUserId, changed_ms: u64) -> Result<RefreshMember, Error> {
    let profile = profile::shown_in_rooms(&store::profile::get(sql)?);
    Ok(RefreshMember { user, profile, changed_at_ms: changed_ms })
}

fn device_list(cx: &Cx<'_>, changed_ms: u64) -> Result<DeviceListChanged, Error> {
    Ok(DeviceListChanged { user: own_id(cx)?, changed_ms })
}

/// A room that the user came to is told of devices that changed before the user knew to be there, for it was not when
/// all rooms were. Of those that changed earlier the other servers in it are told, as far as they do not know.
pub(super) fn devices_while_joining(tx: &Tx<'_>, cx: &Cx<'_>, room_id: &RoomId, joined: u64) -> Result<(), Error> {
    let Some((changed_ms, _)) = announcement::get(&**tx, News::DeviceList)? else { return Ok(()) };
    // Positions of rooms count the milliseconds, and may be a little ahead of them.
    let is_recent = changed_ms.saturating_add(CLOCKS_APART_MS).saturating_add(LEAD_MAX) >= joined;
    // Devices without keys are nothing to who is in the room.
    if is_recent && !store::keys::devices_after(&**tx, None, 1)?.is_empty() {
        outbox::owe(tx, cx, room_id.as_str(), &device_list(cx, changed_ms)?, false)
    } else {
        outbox::owe(tx, cx, room_id.as_str(), &TellOfDevices { user: own_id(cx)?, changed_ms }, false)
    }
}

impl User {
    /// Keeps a profile that every room the user is in shall show. With few rooms, all do before the answer.
    pub(super) fn announce_profile(&self, tx: &Tx<'_>, cx: &Cx<'_>, profile: &Profile) -> Result<(), Error> {
        store::profile::set(tx, profile)?;
        self.announce(tx, cx, News::Profile)
    }

    /// Keeps that the user's devices or keys changed, as every room they are in shall know.
    pub(super) fn announce_device_list(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        self.announce(tx, cx, News::DeviceList)
    }

    /// Keeps that a device without keys came, changed or went. What is on its way already to all goes on to all.
    pub(super) fn announce_keyless_device(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let is_under_way = announcement::get(&**tx, News::DeviceList)?.is_some_and(|(_, told_to)| told_to.is_some());
        self.announce(tx, cx, if is_under_way { News::DeviceList } else { News::KeylessDevice })
    }

    fn announce(&self, tx: &Tx<'_>, cx: &Cx<'_>, news: News) -> Result<(), Error> {
        // Never the same time twice: of two changes, a room must know the later one.
        let last_ms = announcement::get(&**tx, news)?.map_or(0, |(changed_ms, _)| changed_ms);
        let changed_ms = last_ms.saturating_add(1).max(cx.now_ms);
        announcement::begin(tx, news, changed_ms)?;
        schedule::at(tx, cx, news.due(), cx.now_ms.saturating_add(RETRY_MS))?;
        self.announce_slice(tx, cx, (news, changed_ms), 0, news != News::KeylessDevice)
    }

    /// The alarm looks what became of an announcement.
    pub(super) fn resume_announcement(&self, tx: &Tx<'_>, cx: &Cx<'_>, news: News) -> Result<(), Error> {
        let Some((changed_ms, Some(told_to))) = announcement::get(&**tx, news)? else { return Ok(()) };
        schedule::at(tx, cx, news.due(), cx.now_ms.saturating_add(RETRY_MS))?;
        let is_it = |slice: &Slice| slice.changed_ms == changed_ms;
        let is_under_way = self.announcing.borrow_mut().of(news).as_ref().is_some_and(is_it);
        if is_under_way { Ok(()) } else { self.announce_slice(tx, cx, (news, changed_ms), told_to, false) }
    }

    /// A room answered, or could not be reached.
    pub(super) fn announced(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        announced: &Announced,
        is_delivered: bool,
    ) -> Result<(), Error> {
        let Announced { news, ref room_id, changed_ms } = *announced;
        if !is_delivered {
            let room_id = room_id.as_str();
            match news {
                News::Profile => outbox::owe(tx, cx, room_id, &refresh(&**tx, own_id(cx)?, changed_ms)?, false)?,
                News::DeviceList | News::KeylessDevice => {
                    outbox::owe(tx, cx, room_id, &device_list(cx, changed_ms)?, false)?;
                }
            }
        }
        let (up_to, last) = {
            let mut announcing = self.announcing.borrow_mut();
            let is_it = |slice: &&mut Slice| slice.changed_ms == changed_ms;
            let Some(slice) = announcing.of(news).as_mut().filter(is_it) else { return Ok(()) };
            slice.uncommitted = true;
            slice.open = slice.open.saturating_sub(1);
            if slice.open > 0 {
                return Ok(());
            }
            (slice.up_to, slice.last)
        };
        if last {
            return self.end_announcement(tx, news);
        }
        announcement::advance(tx, news, up_to)?;
        self.announce_slice(tx, cx, (news, changed_ms), up_to, false)
    }

    fn announce_slice(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        (news, changed_ms): (News, u64),
        told_to: u64,
        before_answer: bool,
    ) -> Result<(), Error> {
        let rooms = store::rooms::joined_after(&**tx, told_to, ROOMS_BEFORE_ANSWER_MAX as u64)?;
        let Some((up_to, _)) = rooms.last().cloned() else { return self.end_announcement(tx, news) };
        let (open, last) = (rooms.len(), rooms.len() < ROOMS_BEFORE_ANSWER_MAX);
        *self.announcing.borrow_mut().of(news) = Some(Slice { changed_ms, up_to, open, last, uncommitted: true });
        let rooms = rooms.into_iter().map(|(_, room_id)| {
            let key = Key::Announcement(Announced { news, room_id: room_id.clone(), changed_ms });
            (room_id, key)
        });
        match news {
            News::Profile => {
                let call = refresh(&**tx, own_id(cx)?, changed_ms)?;
                rooms.into_iter().try_for_each(|(room_id, key)| cx.deliver(room_id, &call, key, before_answer))
            }
            News::KeylessDevice => {
                let call = TellOfDevices { user: own_id(cx)?, changed_ms };
                rooms.into_iter().try_for_each(|(room_id, key)| cx.deliver(room_id, &call, key, before_answer))
            }
            News::DeviceList => {
                let call = device_list(cx, changed_ms)?;
                rooms.into_iter().try_for_each(|(room_id, key)| cx.deliver(room_id, &call, key, before_answer))
            }
        }
    }

    fn end_announcement(&self, tx: &Tx<'_>, news: News) -> Result<(), Error> {
        *self.announcing.borrow_mut().of(news) = None;
        announcement::end(tx, news)?;
        Ok(schedule::cancel(tx, news.due())?)
    }

    pub(super) fn announcement_rolled_back(&self) {
        for slice in self.announcing.borrow_mut().all() {
            if slice.as_ref().is_some_and(|slice| slice.uncommitted) {
                *slice = None;
            }
        }
    }

    /// An answer was lost on the way into the books: the alarm repeats the slice.
    pub(super) fn announcement_unsettled(&self) {
        *self.announcing.borrow_mut() = Announcing::default();
    }

    pub(super) fn announcement_committed(&self) {
        for slice in self.announcing.borrow_mut().all().into_iter().flatten() {
            slice.uncommitted = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{power::Preset, signed_key::testing::Signer};
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedRoomId, OwnedUserId, user_id};
    use ruma_events::StateEventType;
    use serde_json::value::to_raw_value;

    use crate::{
        destination::{GetEdus, QueueDeviceList},
        room::{Delta, GetDeviceLists, GetStateEvent, MembershipAction},
        user::{Create, NewDevice, SetProfileField, UploadKeys},
        world::World,
    };

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    /// Alice, in so many rooms.
    fn in_rooms(count: usize) -> (Rc<World>, Vec<OwnedRoomId>) {
        let world = World::new(7);
        let device = Some(NewDevice::new("PHONE", "t"));
        world.call(alice().as_str(), &Create { device, call_id: "a".to_owned(), ..Create::default() }).unwrap();
        let mut rooms = Vec::with_capacity(count);
        for _ in 0..count {
            world.passes(1);
            rooms.push(world.creates_room(&alice(), "12", Preset::PrivateChat));
        }
        world.passes(60_000);
        (world, rooms)
    }

    fn is_called(world: &World, name: &str) {
        let call =
            SetProfileField { token_hash: "t".to_owned(), field: "displayname".to_owned(), value: Some(name.into()) };
        world.call(alice().as_str(), &call).unwrap();
    }

    /// How many rooms show this name.
    fn shown(world: &World, rooms: &[OwnedRoomId], name: &str) -> usize {
        let shows = |room: &&OwnedRoomId| {
            let call = GetStateEvent {
                user: alice(),
                device: "PHONE".into(),
                event_type: StateEventType::RoomMember,
                state_key: alice().to_string(),
            };
            let member = world.call(room.as_str(), &call).unwrap();
            member.content.get().contains(&format!(r#""displayname":"{name}""#))
        };
        rooms.iter().filter(shows).count()
    }

    /// Rows of the outbox, and appointments.
    fn owed(world: &World) -> (u64, u64) {
        let sql = world.sql(&Address::new(ActorKind::User, alice().as_str()));
        let count = |table: &str| {
            sql.query(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().pop().unwrap().unsigned(0).unwrap()
        };
        (count("outbox"), count("due WHERE what = 'profile'"))
    }

    #[test]
    fn servers_that_share_no_room_yet_are_told_of_devices_when_the_user_comes() {
        let (world, _) = in_rooms(1);
        let bob = user_id!("@bob:myelin.test");
        world.call(bob.as_str(), &Create { call_id: "b".to_owned(), ..Create::default() }).unwrap();
        let device_keys = to_raw_value(&Signer::new(3).device(alice().as_str(), "PHONE")).unwrap();
        let upload = UploadKeys { token_hash: "t".to_owned(), device_keys: Some(device_keys), ..UploadKeys::default() };
        world.call(alice().as_str(), &upload).unwrap();
        world.passes(60_000);
        let owed = |server: &str| {
            let owed = world.call(server, &GetEdus { up_to: None }).map(|edus| edus.device_lists);
            owed.unwrap_or_default().into_iter().map(|owed| owed.user).collect::<Vec<_>>()
        };
        for server in ["one.test", "two.test"] {
            let zoe = OwnedUserId::try_from(format!("@zoe:{server}")).unwrap();
            let room = world.creates_room(bob, "12", Preset::PublicChat);
            world.joins_from_elsewhere(&room, &zoe);
            assert!(owed(server).is_empty());
            world.changes(&alice(), &room, &alice(), MembershipAction::Join).unwrap();
            world.settle();
            assert_eq!(owed(server), [alice()]);
            // It is told, and needs to be told no more when she comes to another room.
            let (changed_ms, devices) = (Some(u64::MAX >> 12), Some(1));
            let told = QueueDeviceList { user: alice(), changed_ms, devices, identity: None, edus: Vec::new() };
            world.call(server, &told).unwrap();
            let room = world.creates_room(bob, "12", Preset::PublicChat);
            world.joins_from_elsewhere(&room, &zoe);
            world.changes(&alice(), &room, &alice(), MembershipAction::Join).unwrap();
            world.settle();
            assert!(owed(server).is_empty());
        }
    }

    #[test]
    fn few_rooms_know_before_the_answer() {
        let (world, rooms) = in_rooms(3);
        is_called(&world, "Alice");
        assert_eq!(shown(&world, &rooms, "Alice"), 3);
        assert_eq!(owed(&world), (0, 0), "and nothing is left to do");
    }

    #[test]
    fn many_rooms_cost_a_row_for_each_slice() {
        let (world, rooms) = in_rooms(130);
        is_called(&world, "Alice");
        assert_eq!(shown(&world, &rooms, "Alice"), 50, "one slice goes before the answer");
        assert_eq!(owed(&world), (0, 1));
        world.settle();
        assert_eq!(shown(&world, &rooms, "Alice"), 130);
        assert_eq!(owed(&world), (0, 0));
    }

    #[test]
    fn a_crash_repeats_a_slice_and_skips_none() {
        let (world, rooms) = in_rooms(130);
        is_called(&world, "Alice");
        world.crash();
        assert_eq!(shown(&world, &rooms, "Alice"), 50);
        world.passes(10_000);
        assert_eq!(shown(&world, &rooms, "Alice"), 130);
        world.passes(10_000);
        assert_eq!(owed(&world), (0, 0));
    }

    #[test]
    fn the_last_of_two_changes_is_shown() {
        let (world, rooms) = in_rooms(130);
        is_called(&world, "Al");
        is_called(&world, "Alice");
        world.settle();
        assert_eq!(shown(&world, &rooms, "Alice"), 130);
        assert_eq!(owed(&world), (0, 0));
    }

    #[test]
    fn a_room_is_told_of_devices_that_changed_while_their_user_joined() {
        let (world, _) = in_rooms(1);
        let host = user_id!("@host:myelin.test").to_owned();
        world.call(host.as_str(), &Create { call_id: "h".to_owned(), ..Create::default() }).unwrap();
        let room_id = world.creates_room(&host, "12", Preset::PublicChat);
        // Alice does not learn that she is in the room before her devices change.
        world.lost_calls.set(1);
        world.changes(&alice(), &room_id, &alice(), MembershipAction::Join).unwrap();
        world.lost_calls.set(0);
        let asks = |from: u64| world.call(room_id.as_str(), &GetDeviceLists { user: host.clone(), from: Some(from) });
        let delta = Delta { user: host.clone(), ..serde_json::from_str(r#"{"user":"@a:a","device":"D"}"#).unwrap() };
        let joined = world.call(room_id.as_str(), &delta).unwrap().to;
        let device_keys = to_raw_value(&Signer::new(1).device(alice().as_str(), "PHONE")).unwrap();
        let upload = UploadKeys { token_hash: "t".to_owned(), device_keys: Some(device_keys), ..UploadKeys::default() };
        world.call(alice().as_str(), &upload).unwrap();
        assert_eq!(asks(joined).unwrap().changed, [] as [OwnedUserId; 0]);
        world.passes(60_000);
        assert_eq!(asks(joined).unwrap().changed, [alice()]);
        assert_eq!(owed(&world), (0, 0));
    }

    #[test]
    fn rooms_that_cannot_be_reached_are_told_later() {
        let (world, rooms) = in_rooms(130);
        world.lost_calls.set(5);
        is_called(&world, "Alice");
        world.settle();
        world.lost_calls.set(0);
        let (outbox, _) = owed(&world);
        assert!(outbox > 0, "none was lost");
        for _ in 0..5 {
            world.passes(60_000);
        }
        assert_eq!(shown(&world, &rooms, "Alice"), 130);
        assert_eq!(owed(&world), (0, 0));
    }

    #[test]
    fn a_disk_that_fails_costs_time_only() {
        let (world, rooms) = in_rooms(70);
        world.broken_statements.set(40);
        is_called(&world, "Alice");
        world.settle();
        world.broken_statements.set(0);
        for _ in 0..5 {
            world.passes(60_000);
        }
        assert_eq!(shown(&world, &rooms, "Alice"), 70);
        assert_eq!(owed(&world), (0, 0));
    }
}
