//! What goes to another server that was away for long: the newest of what it missed, and not all of it.
//!
//! Whatever is left out comes before something that is not, so that the server finds out that it is missing, and can
//! ask for it. Where that cannot be told, nothing is left out; nor is it for a server that is no longer in the room,
//! which may not ask. Spec: Server-Server API, "Backfilling and retrieving missing events".

use platform::{ActorKind, Sql};
use ruma_common::OwnedServerName;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Direction, GetOutgoing, Room,
    get_outgoing::{PAGE_BYTES_MAX, SCAN_MAX, raw},
    server_stays::ServerStays,
    store::{self, graph::StateBefore},
};
use crate::{Call, Cx, Error};

/// The newest of what goes to a server of a part of the log, as [`GetOutgoing`] gives it from the oldest on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetNewestOutgoing {
    pub server: OwnedServerName,
    pub after: u64,
    pub up_to: u64,
    pub limit: u64,
}

/// Some of it: all between two positions.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewestOutgoing {
    /// What came before this position is left out.
    pub after: u64,
    /// In their order.
    pub events: Vec<Box<RawValue>>,
    pub up_to: u64,
}

impl Call for GetNewestOutgoing {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_newest_outgoing";
    type Reply = NewestOutgoing;
}

impl Room {
    pub(super) fn get_newest_outgoing(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetNewestOutgoing,
    ) -> Result<NewestOutgoing, Error> {
        let GetNewestOutgoing { server, after, up_to, limit } = call;
        let servers = [cx.own_server(), &*server];
        let outgoing = store::log::outgoing(sql, (after, up_to), Direction::Backwards, servers, SCAN_MAX)?;
        let seen = outgoing.seen.map_or(after, |position| position.saturating_sub(1));
        if outgoing.positions.is_empty() && seen == after {
            return Ok(NewestOutgoing { after, events: Vec::new(), up_to });
        }
        let from_the_oldest = |server| {
            let page = self.get_outgoing(sql, cx, GetOutgoing { server, after, up_to, limit })?;
            Ok(NewestOutgoing { after, events: page.events, up_to: page.up_to })
        };
        let stays = ServerStays::behind(sql, &server, after)?;
        if !stays.may_ask() {
            return from_the_oldest(server);
        }
        let (mut events, mut bytes, mut has_all_behind, mut full_at) = (Vec::new(), 0_usize, false, None);
        for event in store::log::each(&outgoing.positions, |slice| store::graph::at(sql, slice)) {
            let event = event?;
            if !stays.are_told(&event)? {
                continue;
            }
            bytes = bytes.saturating_add(event.pdu.json().len());
            if events.len() as u64 >= limit || bytes > PAGE_BYTES_MAX {
                full_at = Some(event.number);
                break;
            }
            // It came after everything that was there.
            has_all_behind |= event.before == StateBefore::InTurn;
            events.push(raw(event.pdu.json())?);
        }
        let from = full_at.unwrap_or(seen);
        if from > after && !has_all_behind {
            return from_the_oldest(server);
        }
        events.reverse();
        Ok(NewestOutgoing { after: from, events, up_to })
    }
}

#[cfg(test)]
mod tests {
    use domain::{event::Draft, power::Preset};
    use ruma_common::{OwnedRoomId, UserId, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::{GetNewestOutgoing, GetOutgoing, NewestOutgoing};
    use crate::{
        room::{ReceiveEvent, Received},
        world::World,
    };

    fn server() -> ruma_common::OwnedServerName {
        "there.test".try_into().unwrap()
    }

    fn says(world: &World, room_id: &OwnedRoomId, number: u64) {
        let alice = user_id!("@alice:myelin.test");
        world.sends(alice, room_id, "m.room.message", None, &json!({ "n": number })).unwrap();
    }

    /// Somebody elsewhere says something on what was there before the newest events.
    fn forks(world: &World, room_id: &OwnedRoomId, who: &UserId) {
        let content = to_raw_value(&json!({ "body": "x" })).unwrap();
        let draft = Draft {
            event_type: "m.room.message".into(),
            content,
            state_key: None,
            sender: who.to_owned(),
            redacts: None,
        };
        let event = world.says_elsewhere(room_id, &draft, &world.newest(room_id, "m.room.member", who.as_str()));
        let call = ReceiveEvent::of(event);
        assert_eq!(world.call(room_id.as_str(), &call).unwrap(), Received::Accepted);
    }

    fn asks(world: &World, room_id: &OwnedRoomId, after: u64, limit: u64) -> NewestOutgoing {
        let call = GetNewestOutgoing { server: server(), after, up_to: u64::MAX >> 12, limit };
        world.call(room_id.as_str(), &call).unwrap()
    }

    fn numbers(events: &[Box<serde_json::value::RawValue>]) -> Vec<u64> {
        let number = |event: &serde_json::value::RawValue| {
            serde_json::from_str::<Value>(event.get()).unwrap()["content"]["n"].as_u64().unwrap_or(0)
        };
        events.iter().map(|event| number(event)).collect()
    }

    #[test]
    fn the_newest_go_first_and_again_exactly_so() {
        let world = World::new(1);
        let room_id = world.creates_room(user_id!("@alice:myelin.test"), "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, user_id!("@zoe:there.test"));
        let after = world.head_of(&room_id);
        (1..=20).for_each(|number| says(&world, &room_id, number));
        let all = asks(&world, &room_id, after, 20);
        assert_eq!((all.after, numbers(&all.events)), (after, (1..=20).collect()), "nothing is left out");
        let newest = asks(&world, &room_id, after, 5);
        assert_eq!(numbers(&newest.events), [16, 17, 18, 19, 20]);
        let call = GetOutgoing { server: server(), after: newest.after, up_to: newest.up_to, limit: 5 };
        let again = world.call(room_id.as_str(), &call).unwrap();
        assert_eq!((numbers(&again.events), again.up_to), (vec![16, 17, 18, 19, 20], newest.up_to));
        assert!(asks(&world, &room_id, world.head_of(&room_id), 5).events.is_empty());
    }

    /// Of events that nothing sent comes after the server would never hear.
    #[test]
    fn nothing_is_left_out_that_is_not_before_what_is_sent() {
        let world = World::new(1);
        let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, zoe);
        let after = world.head_of(&room_id);
        (1..=5).for_each(|number| says(&world, &room_id, number));
        // Ours come after what is known here, also after a fork.
        forks(&world, &room_id, zoe);
        (6..=8).for_each(|number| says(&world, &room_id, number));
        assert_eq!(numbers(&asks(&world, &room_id, after, 2).events), [7, 8]);
        // Others' that we brought into the room need not: they came by us with what was there before.
        world.joins_from_elsewhere(&room_id, user_id!("@yan:other.test"));
        assert_eq!(numbers(&asks(&world, &room_id, after, 1).events), [0], "it came after everything");
    }
}
