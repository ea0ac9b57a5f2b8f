//! Telling other servers: a nudge to the Destination of every server with somebody in the room, when there is something
//! for it.
//!
//! What originates here goes to the others: events of our users, and those that other servers asked us to bring into
//! the room for theirs (joins, leaves, knocks). Guarantees: every such event is told to the Destination of each server
//! that was in the room by then, up to and including the one with which it left, and besides every event that ends what
//! one of its users was invited to or knocked for; a crash forgets who was told, and the alarm set in the commit tells
//! everybody again, which Destinations do not mind. That a server came, its Destination has to confirm: until it does
//! it is told again, also after a crash, and where nothing goes to other servers; if that took longer than a nudge
//! does, what the server said of devices meanwhile is taken for missed. At most [`IN_FLIGHT_MAX`] nudges are on their
//! way at once, however many servers there are; one that cannot be reached holds up nobody else.

use std::collections::BTreeMap;

use domain::backoff;
use platform::{Fault, Sql, Tx};

use super::{
    Room,
    append::room_id,
    device_lists,
    follow::NUDGE_CHECK_MS,
    store::{self, servers::Following},
};
use crate::{
    Cx, Error, call,
    cx::{Key, Nudged},
    destination::RoomMoved,
    room::Typing,
};

/// Nudges on their way at once.
const IN_FLIGHT_MAX: usize = 16;
/// The longest a Destination that cannot be reached is left alone, in milliseconds: ten minutes.
const PAUSE_MS_MAX: u64 = 600_000;

/// How long a nudge may take, in milliseconds: one that failed is tried again later than that.
const LATE_MS: u64 = NUDGE_CHECK_MS - 1;

/// The servers that follow the room, and what they were told.
#[derive(Default)]
pub(super) struct Servers {
    following: BTreeMap<String, Told>,
    /// The newest position that goes to other servers.
    head: u64,
    in_flight: usize,
    /// Whether an operation changed this memory and is not committed yet.
    uncommitted: bool,
}

struct Told {
    since: u64,
    until: Option<u64>,
    is_known: bool,
    told: u64,
    in_flight: bool,
    failures: u32,
    not_before_ms: u64,
}

impl Told {
    fn new(following: &Following) -> Self {
        let Following { since, until, is_known, .. } = *following;
        let told = since.saturating_sub(u64::from(!is_known));
        Self { since, until, is_known, told, in_flight: false, failures: 0, not_before_ms: 0 }
    }

    /// Up to where it is to be told.
    fn due(&self, head: u64) -> u64 {
        self.until.map_or(head, |until| head.min(until))
    }

    fn is_untold(&self, head: u64) -> bool {
        self.told < self.due(head)
    }
}

impl Servers {
    fn load(sql: &dyn Sql, head: u64) -> Result<Self, Fault> {
        let following = store::servers::all(sql)?;
        let unknown = following.iter().filter(|server| !server.is_known).map(|server| server.since).max();
        let head = head.max(unknown.unwrap_or(0));
        let following = following.iter().map(|server| (server.name.clone(), Told::new(server))).collect();
        Ok(Self { following, head, in_flight: 0, uncommitted: false })
    }

    /// Tells those who were not told, as many as may be at once.
    fn tell(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        let head = self.head;
        for (name, server) in &mut self.following {
            if self.in_flight >= IN_FLIGHT_MAX {
                break;
            }
            if server.in_flight || !server.is_untold(head) || server.not_before_ms > cx.now_ms {
                continue;
            }
            server.in_flight = true;
            self.uncommitted = true;
            self.in_flight = self.in_flight.saturating_add(1);
            let to = server.due(head);
            let moved = RoomMoved { room_id: room_id(cx)?, since: server.since, to, left: server.until.is_some() };
            let nudged = Nudged { follower: name.clone(), to, typing: Typing::default(), reads: 0, more: 0 };
            cx.deliver(name.as_str(), &moved, Key::Nudge(nudged), false)?;
        }
        Ok(())
    }
}

impl Room {
    /// Memory follows the servers that came and went, and everybody is told what there is for them.
    pub(super) fn servers_committed(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        let moved = cx.room.servers.take();
        let outgoing = cx.room.outgoing.get();
        let mut servers = self.servers.borrow_mut();
        if moved.is_empty() && outgoing.is_none() {
            if let Some(servers) = servers.as_mut() {
                servers.uncommitted = false;
            }
            return Ok(());
        }
        let servers = match servers.as_mut() {
            Some(servers) => {
                for name in moved {
                    if let Some(following) = store::servers::one(sql, &name)? {
                        servers.head = servers.head.max(following.since);
                        let told = servers.following.entry(name).or_insert_with(|| Told::new(&following));
                        told.until = following.until;
                        if following.since > told.since {
                            told.since = following.since;
                            told.is_known = following.is_known;
                            told.told = told.told.max(Told::new(&following).told);
                        }
                    }
                }
                servers
            }
            None => {
                let servers = servers.insert(Servers::load(sql, 0)?);
                for (name, told) in &mut servers.following {
                    // Those that came just now have Destinations that do not know the room yet.
                    if moved.contains(name) {
                        servers.head = servers.head.max(told.since);
                        told.told = told.told.min(told.since.saturating_sub(1));
                    }
                }
                servers
            }
        };
        servers.head = servers.head.max(outgoing.unwrap_or(0));
        servers.tell(cx)?;
        servers.uncommitted = false;
        Ok(())
    }

    pub(super) fn servers_rolled_back(&self) {
        let mut servers = self.servers.borrow_mut();
        if servers.as_ref().is_some_and(|servers| servers.uncommitted) {
            *servers = None;
        }
    }

    /// The alarm looks whether everyone was told.
    pub(super) fn check_servers(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        let mut servers = self.servers.borrow_mut();
        let servers = match servers.as_mut() {
            Some(servers) => servers,
            None => servers.insert(Servers::load(sql, store::log::newest_outgoing(sql, cx.own_server().as_str())?)?),
        };
        servers.tell(cx)?;
        let untold = servers.following.values().filter(|server| server.is_untold(servers.head));
        let next_ms = untold.map(|server| server.not_before_ms.max(cx.now_ms.saturating_add(NUDGE_CHECK_MS))).min();
        if let Some(next_ms) = next_ms {
            cx.set_alarm(next_ms)?;
        }
        Ok(())
    }

    /// A Destination answered, or could not be reached.
    pub(super) fn server_answered(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        nudged: &Nudged,
        reply: Option<&[u8]>,
    ) -> Result<(), Error> {
        let mut servers = self.servers.borrow_mut();
        let Some(servers) = servers.as_mut() else { return Ok(()) };
        let Some(server) = servers.following.get_mut(&nudged.follower) else { return Ok(()) };
        servers.uncommitted = true;
        if server.in_flight {
            server.in_flight = false;
            servers.in_flight = servers.in_flight.saturating_sub(1);
        }
        if let Some(Ok(())) = reply.map(call::open::<RoomMoved>) {
            server.told = server.told.max(nudged.to);
            if !server.is_known && nudged.to >= server.since {
                server.is_known = true;
                store::servers::is_known(tx, &nudged.follower, nudged.to)?;
                // Positions are no lower than the time at which they were given.
                if cx.now_ms.saturating_sub(server.since) > LATE_MS && server.until.is_none() {
                    device_lists::were_unheard(self, tx, cx, &nudged.follower, server.since)?;
                }
            }
            (server.failures, server.not_before_ms) = (0, 0);
            if server.until.is_some_and(|until| until <= nudged.to) {
                store::servers::forget(tx, &nudged.follower, nudged.to)?;
                servers.following.remove(&nudged.follower);
            }
        } else {
            let pause_ms = backoff::pause_ms(NUDGE_CHECK_MS, server.failures, PAUSE_MS_MAX);
            server.failures = server.failures.saturating_add(1);
            server.not_before_ms = cx.now_ms.saturating_add(pause_ms);
            cx.set_alarm(server.not_before_ms)?;
        }
        servers.tell(cx)
    }
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use platform::{ActorKind, Address};
    use ruma_common::user_id;

    use crate::{
        CallError,
        destination::{DeviceListUpdate, GetSharedRooms, UpdateDeviceLists},
        room::GetDeviceLists,
        world::World,
    };

    const THERE: &str = "there.test";

    /// A server comes, and says that devices changed before its Destination knows that it came. Nothing goes to other
    /// servers any more.
    #[test]
    fn what_was_said_of_devices_before_a_server_was_known_to_be_there_is_not_missed() {
        let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
        for (crashes, is_founded) in [(true, true), (true, false), (false, true), (false, false)] {
            let world = World::new(1);
            let there = Address::new(ActorKind::Destination, THERE);
            let [other, room_id] = [(); 2].map(|()| world.creates_room(alice, "12", Preset::PublicChat));
            if is_founded {
                world.joins_from_elsewhere(&other, zoe);
            }
            world.settle();
            world.unreachable.borrow_mut().insert(there);
            world.joins_from_elsewhere(&room_id, zoe);
            let from = Some(world.head_of(&room_id));
            let update = UpdateDeviceLists { updates: vec![(zoe.to_owned(), DeviceListUpdate::Unclear)] };
            match world.call(THERE, &update) {
                Ok(updated) => assert_eq!(updated.into_parts().0, [other]),
                absent => assert!(matches!(absent, Err(CallError::Absent)), "{absent:?}"),
            }
            if crashes {
                world.crash();
            }
            world.settle();
            world.unreachable.borrow_mut().clear();
            let changed = || {
                let call = GetDeviceLists { user: alice.to_owned(), from };
                world.call(room_id.as_str(), &call).unwrap().changed
            };
            assert!(changed().is_empty());
            world.passes(10_000);
            world.passes(10_000);
            assert!(world.call(THERE, &GetSharedRooms { newest: None }).unwrap().contains(&room_id));
            assert_eq!(changed(), [zoe.to_owned()], "{crashes} {is_founded}");
            let before = world.rows_written();
            world.crash();
            world.passes(10_000);
            assert_eq!(world.rows_written(), before, "it is known now");
        }
    }
}
