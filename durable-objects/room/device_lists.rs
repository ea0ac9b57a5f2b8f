//! Whose devices a member's clients have to look at again, and whose no longer.
//!
//! A member's changed devices take a position of the log, as a receipt does. Who came and went is in the log already.
//! Spec: "End-to-End Encryption", "Tracking the device list for a user", "Extensions to /sync".

use std::collections::BTreeSet;

use domain::Pdu;
use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedUserId, UserId};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};

use super::{Room, state::MEMBER, store, viewer::Viewer};
use crate::{Call, Cx, Error, destination::DevicesChanged, outbox};

/// Members of a room without encryption that are told to one who joins it: in a larger one nobody sends them keys, and
/// once it is encrypted all are told. Spec: `changed` has those «who now share an encrypted room with the client».
const UNENCRYPTED_MEMBERS_MAX: u64 = 1_000;
/// Members of any room that are told at once.
const MEMBERS_MAX: u64 = 100_000;
/// Members of a room left that are looked at.
const LEFT_MAX: u64 = 1_000;
/// Users of other servers whose devices changed, of one call. Spec: a transaction has at most 100 EDUs.
const CHANGED_AT_ONCE: usize = 100;
/// How much the clocks of servers may differ, in milliseconds.
const CLOCKS_DIFFER_MS: u64 = 3_600_000;
/// Members of a room that is looked through for who came with a server. Others wait for the next change of theirs.
const LOOKED_THROUGH_MAX: u64 = 10_000;
/// Changed memberships that are looked up one by one; of more, all count as new.
const MOVED_MAX: usize = 500;

/// The devices or keys of a local user changed at `changed_ms`, by the user's own clock. Late and repeated ones change
/// nothing, and nothing is written for who is not in the room.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeviceListChanged {
    pub user: OwnedUserId,
    /// In milliseconds since the Unix epoch.
    pub changed_ms: u64,
}

impl Call for DeviceListChanged {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "device_list_changed";
    type Reply = ();
}

/// The devices or keys of users of another server changed: it just said so. Nothing is written for who is not in the
/// room.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeviceListsChanged {
    /// As many as one transaction between servers tells of, at most.
    pub users: Vec<OwnedUserId>,
    /// When it said so, in milliseconds since the Unix epoch.
    pub changed_ms: u64,
}

impl Call for DeviceListsChanged {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "device_lists_changed";
    type Reply = ();
}

/// A local user came into the room: the other servers in it are told of their devices, as far as they were not told in
/// other rooms. Spec: Server-Server API, "Device Management", «when that user joins a room which contains servers which
/// are not already receiving updates for that user's device list».
#[derive(Debug, Serialize, Deserialize)]
pub struct TellOfDevices {
    pub user: OwnedUserId,
    /// When they changed last, as in [`DeviceListChanged`].
    pub changed_ms: u64,
}

impl Call for TellOfDevices {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "tell_of_devices";
    type Reply = ();
}

/// What the room tells of devices since a position, as `/sync` would.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetDeviceLists {
    pub user: OwnedUserId,
    /// `None`: the user did not know the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
}

/// The same, with how far that was.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetDevicesSince {
    pub user: OwnedUserId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DevicesSince {
    pub to: u64,
    #[serde(default, skip_serializing_if = "DeviceLists::is_empty")]
    pub lists: DeviceLists,
}

impl Call for GetDevicesSince {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_devices_since";
    type Reply = DevicesSince;
}

/// Users by what became of them.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLists {
    /// Whose devices changed, or who shares a room with the user now that did not share this one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<OwnedUserId>,
    /// Who shares this room with the user no longer; another one perhaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<OwnedUserId>,
}

impl DeviceLists {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

impl Call for GetDeviceLists {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_device_lists";
    type Reply = DeviceLists;
}

impl Room {
    pub(super) fn device_list_changed(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: DeviceListChanged) -> Result<(), Error> {
        let is_news = self.note_devices(tx, cx, &call.user, call.changed_ms)?;
        if is_news && cx.is_local(&call.user) {
            owe_devices(tx, cx, DevicesChanged { user: call.user, changed_ms: call.changed_ms })?;
        }
        Ok(())
    }

    pub(super) fn device_lists_changed(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: DeviceListsChanged) -> Result<(), Error> {
        for user in call.users.iter().take(CHANGED_AT_ONCE).filter(|user| !cx.is_local(user)) {
            self.note_devices(tx, cx, user, call.changed_ms)?;
        }
        Ok(())
    }

    /// Gives a member's changed devices a position. Answers whether that is news.
    fn note_devices(&self, tx: &Tx<'_>, cx: &Cx<'_>, user: &UserId, changed_ms: u64) -> Result<bool, Error> {
        let user_id = user.as_str();
        if store::members::membership(&**tx, user_id)?.as_deref() != Some("join") {
            return Ok(false);
        }
        let last_ms = store::device_lists::changed_ms(&**tx, user_id)?;
        // A user of ours has a clock that never says the same twice. What another server says is new whenever it says
        // so, and whatever the clocks of those say here who heard it.
        let changed_ms = if cx.is_local(user) { changed_ms } else { changed_ms.max(last_ms.saturating_add(1)) };
        if changed_ms <= last_ms {
            return Ok(false);
        }
        let position = self.next_position(&**tx, cx)?;
        store::device_lists::put(tx, user_id, changed_ms, position)?;
        cx.room.public_head.set(Some(position));
        Ok(true)
    }

    pub(super) fn tell_of_devices(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: TellOfDevices) -> Result<(), Error> {
        if store::members::membership(&**tx, call.user.as_str())?.as_deref() != Some("join") {
            return Ok(());
        }
        owe_devices(tx, cx, DevicesChanged { user: call.user, changed_ms: call.changed_ms })
    }

    pub(super) fn devices_since(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetDevicesSince,
    ) -> Result<DevicesSince, Error> {
        let GetDevicesSince { user, from } = call;
        Ok(DevicesSince {
            to: self.heads(sql)?.public,
            lists: self.device_lists(sql, cx, GetDeviceLists { user, from })?,
        })
    }

    pub(super) fn device_lists(&self, sql: &dyn Sql, _: &Cx<'_>, call: GetDeviceLists) -> Result<DeviceLists, Error> {
        let to = self.heads(sql)?.public;
        let viewer = Viewer::load(sql, call.user, "".into())?;
        match viewer.membership() {
            Some((MembershipState::Join, _)) => {
                let since = call.from.filter(|from| *from <= to && viewer.joined_throughout(*from));
                of_member(sql, &viewer.user, since, to)
            }
            membership => match (call.from, membership.map(|(_, left)| left).or(viewer.forgotten())) {
                (Some(from), Some(left)) if from < left => of_gone(sql, &viewer.user, from, left),
                _ => Ok(DeviceLists::default()),
            },
        }
    }
}

/// The other servers in the room are told that a user of ours has other devices than before.
fn owe_devices(tx: &Tx<'_>, cx: &Cx<'_>, changed: DevicesChanged) -> Result<(), Error> {
    for server in store::servers::joined(&**tx)? {
        outbox::owe(tx, cx, &server, &changed, false)?;
    }
    Ok(())
}

/// A server comes into the room by a join that may have been on its way for long. Whoever joined asked for devices when
/// it was made; what changed of our users' since nobody told their server.
pub(super) fn owe_missed(tx: &Tx<'_>, cx: &Cx<'_>, server: &str, join: &Pdu) -> Result<(), Error> {
    let made_ms = u64::from(join.origin_server_ts().get()).saturating_sub(CLOCKS_DIFFER_MS);
    for (user, changed_ms) in store::device_lists::of_locals(&**tx, made_ms)? {
        let Ok(user) = OwnedUserId::try_from(user) else { continue };
        outbox::owe(tx, cx, server, &DevicesChanged { user, changed_ms }, false)?;
    }
    Ok(())
}

/// That a server came at `since` its Destination knows only now. What the server said of its users' devices meanwhile
/// found no room, and is not said again: those who came with it are to be looked at.
pub(super) fn were_unheard(room: &Room, tx: &Tx<'_>, cx: &Cx<'_>, server: &str, since: u64) -> Result<(), Error> {
    if store::members::joined_exceed(&**tx, LOOKED_THROUGH_MAX)? {
        return Ok(());
    }
    for user in store::device_lists::came(&**tx, server, since)? {
        let Ok(user) = OwnedUserId::try_from(user) else { continue };
        room.note_devices(tx, cx, &user, cx.now_ms)?;
    }
    Ok(())
}

/// For one who is in the room, and was since `since`; `None`: who is new here.
pub(super) fn of_member(sql: &dyn Sql, viewer: &UserId, since: Option<u64>, to: u64) -> Result<DeviceLists, Error> {
    let mut lists = DeviceLists::default();
    let is_large = || store::members::joined_exceed(sql, UNENCRYPTED_MEMBERS_MAX);
    let Some(since) = since else {
        if !is_large()? || store::state::position_at(sql, "m.room.encryption", "", to)?.is_some() {
            lists.changed = users(store::members::joined_by(sql, to, MEMBERS_MAX)?, viewer);
        }
        return Ok(lists);
    };
    if store::device_lists::encrypted_since(sql, since)? && is_large()? {
        lists.changed = users(store::members::joined_by(sql, to, MEMBERS_MAX)?, viewer);
    } else {
        // The viewer's own devices are news, too.
        let changed = store::device_lists::changed(sql, since, to)?;
        lists.changed = changed.into_iter().filter_map(|user| OwnedUserId::try_from(user).ok()).collect();
    }
    let moved = store::device_lists::moved(sql, since, to)?;
    let one_by_one = moved.len() <= MOVED_MAX;
    for (user, joined) in moved {
        // A new name is no new member.
        let was_joined = if one_by_one { was_joined(sql, &user, since)? } else { !joined };
        let list = match (was_joined, joined) {
            (false, true) => &mut lists.changed,
            // While they were out, nobody told this room of their devices.
            (true, true) if store::device_lists::was_out(sql, &user, since, to)? => &mut lists.changed,
            (true, false) => &mut lists.left,
            _ => continue,
        };
        list.extend(users(vec![user], viewer));
    }
    Ok(lists)
}

/// For one who left the room, or was banned, at a position: those who were there by then, or when the viewer read last.
/// Who came later is nobody of theirs.
pub(super) fn of_gone(sql: &dyn Sql, viewer: &UserId, since: u64, left: u64) -> Result<DeviceLists, Error> {
    if !was_joined(sql, viewer.as_str(), since)? {
        return Ok(DeviceLists::default());
    }
    let mut were_there: BTreeSet<String> = store::members::joined_by(sql, left, LEFT_MAX)?.into_iter().collect();
    // They may have left as well, or have another name.
    for (user, _) in store::device_lists::moved(sql, since, store::graph::POSITION_MAX)?.into_iter().take(MOVED_MAX) {
        if !were_there.contains(&user) && (was_joined(sql, &user, since)? || was_joined(sql, &user, left)?) {
            were_there.insert(user);
        }
    }
    Ok(DeviceLists { changed: Vec::new(), left: users(were_there, viewer) })
}

pub(super) fn was_joined(sql: &dyn Sql, user: &str, at: u64) -> Result<bool, Error> {
    let Some(member) = store::state::at(sql, MEMBER, user, at)? else { return Ok(false) };
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Member {
        membership: String,
    }
    Ok(member.pdu.content_as::<Member>().unwrap_or_default().membership == "join")
}

fn users(ids: impl IntoIterator<Item = String>, but: &UserId) -> Vec<OwnedUserId> {
    ids.into_iter().filter(|id| id != but).filter_map(|id| OwnedUserId::try_from(id).ok()).collect()
}

#[cfg(test)]
mod tests {
    use domain::{
        Identity, Pdu, RoomVersion,
        event::{self, Draft, Place},
        power::Preset,
    };
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{UserId, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::{CLOCKS_DIFFER_MS, DeviceListChanged, DeviceListsChanged, GetDeviceLists};
    use crate::{
        CallError,
        destination::GetEdus,
        room::{CheckedEvent, Forget, MembershipAction, ReceiveEvent},
        world::World,
    };

    /// Two changes in one millisecond, or on machines whose clocks differ, are two. Strangers leave nothing behind.
    #[test]
    fn what_another_server_says_is_news_whatever_the_clock_says() {
        let (alice, bob) = (user_id!("@alice:myelin.test"), user_id!("@bob:there.test"));
        let world = World::new(1);
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, bob);
        let position = |world: &World| {
            let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
            let mut rows = sql.query("SELECT max(position) FROM device_list", &[]).unwrap();
            rows.pop().unwrap().unsigned_or_null(0).unwrap().unwrap_or(0)
        };
        let changes = |users: &[&UserId], changed_ms: u64| {
            let users = users.iter().map(|user| (*user).to_owned()).collect();
            world.call(room_id.as_str(), &DeviceListsChanged { users, changed_ms }).unwrap();
        };
        let now_ms = world.now_ms();
        let mut last = position(&world);
        for changed_ms in [now_ms, now_ms, now_ms - 5_000] {
            changes(&[user_id!("@nobody:there.test"), bob], changed_ms);
            assert!(position(&world) > last, "{changed_ms}");
            last = position(&world);
        }
        let before = world.rows_written();
        changes(&[user_id!("@nobody:there.test"), alice], now_ms + 1);
        assert_eq!(world.rows_written(), before, "who is not here, or not theirs");
        let call = GetDeviceLists { user: alice.to_owned(), from: Some(last - 1) };
        assert_eq!(world.call(room_id.as_str(), &call).unwrap().changed, [bob]);
    }

    #[test]
    fn who_leaves_is_told_of_all_who_were_there_whatever_became_of_them() {
        let alice = user_id!("@alice:myelin.test");
        let [bob, carol, dave, erin] =
            ["@bob:myelin.test", "@carol:myelin.test", "@dave:myelin.test", "@erin:myelin.test"]
                .map(|user| UserId::parse(user).unwrap());
        for forgets in [false, true] {
            let world = World::new(1);
            let room_id = world.creates_room(alice, "11", Preset::PublicChat);
            let does = |user: &UserId, action| world.changes(user, &room_id, user, action).unwrap();
            for user in [&bob, &carol, &dave] {
                does(user, MembershipAction::Join);
            }
            let from = world.head_of(&room_id);
            does(&dave, MembershipAction::Leave);
            does(&bob, MembershipAction::Leave);
            let renamed = json!({ "membership": "join", "displayname": "Al" });
            world.sends(alice, &room_id, "m.room.member", Some(alice.as_str()), &renamed).unwrap();
            does(&carol, MembershipAction::Leave);
            does(&erin, MembershipAction::Join);
            if forgets {
                world.call(room_id.as_str(), &Forget { user: bob.clone() }).unwrap();
            }
            let lists = |from| {
                let call = GetDeviceLists { user: bob.clone(), from: Some(from) };
                world.call(room_id.as_str(), &call).unwrap()
            };
            assert_eq!(lists(from).left, [alice.to_owned(), carol.clone(), dave.clone()], "forgets: {forgets}");
            assert!(lists(world.head_of(&room_id)).left.is_empty(), "she knows");
        }
    }

    /// Of what changed well before a join was made the server hears when it asks; of what changed since nobody told it.
    #[test]
    fn a_server_whose_join_is_late_is_told_what_changed_meanwhile() {
        let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
        let owed = |world: &World| match world.call("there.test", &GetEdus { up_to: None }) {
            Ok(edus) => edus.device_lists.into_iter().map(|owed| owed.user).collect::<Vec<_>>(),
            Err(CallError::Absent) => Vec::new(),
            Err(error) => panic!("{error:?}"),
        };
        for is_late in [false, true] {
            let world = World::new(1);
            let room_id = world.creates_room(alice, "11", Preset::PublicChat);
            let version = RoomVersion::parse("11").unwrap();
            let made_ms = world.now_ms();
            world.passes(2 * CLOCKS_DIFFER_MS);
            let changed = DeviceListChanged { user: alice.to_owned(), changed_ms: world.now_ms() };
            world.call(room_id.as_str(), &changed).unwrap();
            let made_ms = if is_late { made_ms } else { world.now_ms() + 2 * CLOCKS_DIFFER_MS };
            let known = world.newest(&room_id, "m.room.guest_access", "");
            let reference = |pdu: &Pdu| event::reference(pdu, &version).unwrap();
            let auth = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")];
            let draft = Draft {
                event_type: "m.room.member".into(),
                content: to_raw_value(&json!({ "membership": "join" })).unwrap(),
                state_key: Some(zoe.to_string()),
                sender: zoe.to_owned(),
                redacts: None,
            };
            let place = Place {
                room_id: Some(&room_id),
                prev_events: &[reference(&known)],
                auth_events: &auth.map(|(event_type, key)| reference(&world.newest(&room_id, event_type, key))),
                depth: known.depth() + 1,
                origin_server_ts: made_ms,
            };
            let identity = Identity::new(zoe.server_name().to_owned(), "a", [3; 32]).unwrap();
            let join = event::build(&draft, &place, &version, &identity, [0; 18]).unwrap();
            let call = ReceiveEvent::of(CheckedEvent::of(&join));
            world.call(room_id.as_str(), &call).unwrap();
            world.settle();
            assert_eq!(owed(&world), if is_late { vec![alice.to_owned()] } else { Vec::new() });
        }
    }
}
