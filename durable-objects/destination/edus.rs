//! What is no event of a room's and may not get lost: messages to devices, changed devices, the ends of invitations.
//! Spec: Server-Server API, "EDUs".

use platform::{ActorKind, Sql, Tx};
use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Destination, OwedDeviceList,
    carrying::{self, Standing},
    portion, store,
};
use crate::{Call, Cx, Error};

/// Bytes of EDUs after which a transaction has no more of them. Any has at least one.
const TRANSACTION_BYTES_MAX: usize = 1024 * 1024;
/// EDUs that are read at once.
const READ_AT_ONCE: u64 = 10;
/// Users whose devices are looked at for one transaction.
const DEVICE_LISTS_MAX: u64 = 20;
/// What is kept for a server that does not answer, in EDUs of [`UNIT_BYTES`], and a hundred more at most: then the
/// oldest are dropped. A larger EDU counts for several, so that this bounds their bytes as well.
pub(super) const KEPT_MAX: u64 = 10_000;
/// Bytes that count as one EDU.
const UNIT_BYTES: usize = 8 * 1024;

/// Something for the server. Repeated, it is queued once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueEdu {
    /// What it is about: something newer with the same key takes its place, as long as it is not on its way.
    pub key: String,
    /// With `edu_type` and `content`.
    pub edu: Box<RawValue>,
}

impl Call for QueueEdu {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "queue_edu";
    type Reply = ();
}

/// As [`QueueEdu`], but only for a server that was owed something before: for any other it is `Absent`, and nothing is
/// kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueEduIfKnown(pub QueueEdu);

impl Call for QueueEduIfKnown {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "queue_edu_if_known";
    type Reply = ();
}

/// The next of them, as many as fit into one transaction; or those up to a position, again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetEdus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<u64>,
}

/// Some of them, in order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Edus {
    pub edus: Vec<Box<RawValue>>,
    /// The position of the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<u64>,
    /// Users to be asked for what is new of their devices, which is queued then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_lists: Vec<OwedDeviceList>,
}

impl Call for GetEdus {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "get_edus";
    type Reply = Edus;
}

/// The rooms that are shared with the server, as far as it was told of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetSharedRooms {
    /// Only so many, those first of which the server was owed something last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u64>,
}

impl Call for GetSharedRooms {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "get_shared_rooms";
    type Reply = Vec<OwnedRoomId>;
}

impl Destination {
    pub(super) fn queue_edu(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: QueueEdu) -> Result<(), Error> {
        if put(tx, &call.key, &call.edu)? { self.look_for_a_carrier(tx, cx) } else { Ok(()) }
    }

    pub(super) fn queue_edu_if_known(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: QueueEduIfKnown) -> Result<(), Error> {
        self.queue_edu(tx, cx, call.0)
    }

    pub(super) fn get_edus(&self, sql: &dyn Sql, _cx: &Cx<'_>, call: GetEdus) -> Result<Edus, Error> {
        let edus_max = match call.up_to {
            Some(_) => portion::EDUS_MAX,
            None => self.portion(sql, &Standing::load(sql)?)?.edus,
        };
        let mut edus = Edus::default();
        let mut bytes = 0_usize;
        'transaction: while (edus.edus.len() as u64) < edus_max {
            let limit = edus_max.saturating_sub(edus.edus.len() as u64).min(READ_AT_ONCE);
            let page = store::edus(sql, edus.up_to.unwrap_or(0), call.up_to, limit)?;
            if page.is_empty() {
                break;
            }
            for (position, json) in page {
                bytes = bytes.saturating_add(json.len());
                if bytes > TRANSACTION_BYTES_MAX && edus.up_to.is_some() {
                    break 'transaction;
                }
                edus.edus.push(RawValue::from_string(json)?);
                edus.up_to = Some(position);
            }
        }
        if call.up_to.is_none() {
            edus.device_lists = store::owed_device_lists(sql, DEVICE_LISTS_MAX)?;
        }
        Ok(edus)
    }

    pub(super) fn get_shared_rooms(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: GetSharedRooms,
    ) -> Result<Vec<OwnedRoomId>, Error> {
        let rooms = match call.newest {
            Some(limit) => self.rooms.newest(sql, limit)?,
            None => store::rooms(sql)?,
        };
        Ok(rooms.into_iter().filter_map(|room_id| OwnedRoomId::try_from(room_id).ok()).collect())
    }
}

/// Queues an EDU. Answers whether that was news.
pub(super) fn put(tx: &Tx<'_>, key: &str, edu: &RawValue) -> Result<bool, Error> {
    if store::has_edu(&**tx, key, edu.get())? {
        return Ok(false);
    }
    let on_its_way = carrying::edus_on_their_way(&**tx)?;
    let units = (edu.get().len() / UNIT_BYTES).saturating_add(1) as u64;
    // What waits is counted now and then.
    let used = on_its_way.max(Standing::load(&**tx)?.attempted_edus);
    if store::put_edu(tx, (key, edu.get()), units, on_its_way, used)? > 0 {
        store::drop_edus(tx, KEPT_MAX, UNIT_BYTES as u64, on_its_way)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use platform::{ActorKind, Address};
    use ruma_common::user_id;
    use serde_json::value::to_raw_value;

    use super::{GetEdus, GetSharedRooms, KEPT_MAX, QueueEdu, QueueEduIfKnown, UNIT_BYTES};
    use crate::{CallError, destination::RoomMoved, world::World};

    /// What waits begins with this.
    fn oldest(world: &World) -> String {
        let edus = world.call("there.test", &GetEdus { up_to: None }).unwrap();
        edus.edus[0].get().trim_matches(['"', 'x']).to_owned()
    }

    #[test]
    fn what_waits_has_a_bound_in_number_and_in_bytes() {
        let world = World::new(1);
        let queues = |name: String, bytes: usize| {
            let edu = to_raw_value(&(name.clone() + &"x".repeat(bytes))).unwrap();
            world.call("there.test", &QueueEdu { key: name, edu }).unwrap();
        };
        for number in 1..=KEPT_MAX {
            queues(number.to_string(), 0);
        }
        assert_eq!(oldest(&world), "1");
        for number in 1..=100 {
            queues(format!("more {number}"), 0);
        }
        assert_eq!(oldest(&world), "101");
        queues("large".to_owned(), 99 * UNIT_BYTES);
        assert_eq!(oldest(&world), "201");
        for number in 0..KEPT_MAX / 100 {
            queues(format!("large {number}"), 99 * UNIT_BYTES);
        }
        assert_eq!(oldest(&world), "large 0");
    }

    #[test]
    fn nothing_is_kept_of_a_server_that_nobody_knows() {
        let world = World::new(1);
        let queue = || {
            let edu = to_raw_value("x").unwrap();
            world.call("there.test", &QueueEduIfKnown(QueueEdu { key: "a".to_owned(), edu }))
        };
        assert!(matches!(queue(), Err(CallError::Absent)));
        assert!(matches!(world.call("there.test", &GetEdus { up_to: None }), Err(CallError::Absent)));
        world
            .call(
                "there.test",
                &RoomMoved { room_id: "!a:myelin.test".try_into().unwrap(), since: 1, to: 2, left: false },
            )
            .unwrap();
        queue().unwrap();
        assert_eq!(oldest(&world), "");
    }

    /// Also of one that forgot everything before the server came, and in which nothing was said since.
    #[test]
    fn a_server_that_comes_is_known_to_share_the_room() {
        let world = World::new(1);
        let room = world.creates_room(user_id!("@alice:myelin.test"), "11", Preset::PublicChat);
        world.evict(&Address::new(ActorKind::Room, room.as_str()));
        world.joins_from_elsewhere(&room, user_id!("@zoe:there.test"));
        world.settle();
        assert_eq!(world.call("there.test", &GetSharedRooms { newest: None }).unwrap(), [room]);
    }

    #[test]
    fn the_rooms_in_which_something_happened_last_come_first() {
        let world = World::new(1);
        for (name, to) in [("a", 30), ("b", 50), ("c", 40)] {
            let room_id = format!("!{name}:myelin.test").try_into().unwrap();
            world.call("there.test", &RoomMoved { room_id, since: 10, to, left: false }).unwrap();
        }
        let newest = |newest| {
            let rooms = world.call("there.test", &GetSharedRooms { newest }).unwrap();
            rooms.iter().filter_map(|room_id| room_id.as_str().chars().nth(1)).collect::<String>()
        };
        assert_eq!((newest(Some(2)), newest(Some(9)), newest(None)), ("bc".into(), "bca".into(), "abc".into()));
    }
}
