//! What is held beside the log of what users of other servers said: it has a bound.
//!
//! Guarantees: of a server with somebody in the room [`OF_SERVER_BYTES_MAX`] are held at most, of one with nobody in it
//! [`OF_STRANGER_BYTES_MAX`], and of all of these together [`OF_STRANGERS_BYTES_MAX`]; what is beyond is judged and not
//! kept. Of an event that the rules refuse its place in the graph is kept, and nothing that it says; and of one by a
//! user of a server with nobody in the room nothing at all, unless something in the log comes after it. What was not
//! kept is judged again when it comes again, by the same events, and so with the same result; what builds on it waits,
//! in vain, within the bounds of [`super::inbox`], or is judged by the state that its server tells.
//!
//! What comes with a join of ours is not counted: it has a bound of its own ([`super::staging`]).

use domain::Pdu;
use platform::{Sql, Tx};

use super::{
    Room,
    graph::StateAt,
    store::{
        self,
        graph::{Node, StateBefore, Verdict},
    },
};
use crate::{Cx, Error};

/// Bytes held of a server with somebody in the room: more than states and auth chains of large rooms take.
const OF_SERVER_BYTES_MAX: u64 = if cfg!(test) { 200_000 } else { 256 * 1024 * 1024 };
/// Bytes held of a server with nobody in the room: its users may have come while we heard nothing.
const OF_STRANGER_BYTES_MAX: u64 = if cfg!(test) { 20_000 } else { 8 * 1024 * 1024 };
/// Bytes held of all servers with nobody in the room.
const OF_STRANGERS_BYTES_MAX: u64 = if cfg!(test) { 60_000 } else { 128 * 1024 * 1024 };
/// What each change of the state before an event takes, about.
const CHANGE_BYTES: u64 = 150;

impl Room {
    /// Holds an event beside the log, with the state before it, for what may come after it: as far as there is room.
    pub(super) fn hold_if_there_is_room(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        pdu: &Pdu,
        held: Option<&Node>,
        verdict: Verdict,
        before: &StateAt,
    ) -> Result<(), Error> {
        if held.is_none() {
            let is_refused = verdict == Verdict::Rejected;
            if is_refused && self.is_by_stranger(&**tx, cx, pdu)? && !store::graph::is_missed(&**tx, pdu.event_id())? {
                return Ok(());
            }
            if !self.takes_room(tx, cx, pdu, verdict, before.new_changes())? {
                return Ok(());
            }
        }
        self.hold(tx, pdu, held, verdict, before)
    }

    /// Holds an event for what it says of a state or of an auth chain, as far as there is room.
    pub(super) fn hold_alone_if_there_is_room(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        pdu: &Pdu,
        verdict: Verdict,
    ) -> Result<(), Error> {
        let is_refused = verdict == Verdict::Rejected;
        if (is_refused && self.is_by_stranger(&**tx, cx, pdu)?) || !self.takes_room(tx, cx, pdu, verdict, 0)? {
            return Ok(());
        }
        store::graph::insert_beside(tx, pdu, verdict, StateBefore::Unknown)?;
        Ok(())
    }

    /// Whether a server with nobody in the room, as far as we know, speaks.
    fn is_by_stranger(&self, sql: &dyn Sql, cx: &Cx<'_>, pdu: &Pdu) -> Result<bool, Error> {
        let server = pdu.sender().server_name();
        Ok(server != cx.own_server() && !store::servers::is_joined(sql, server.as_str())?)
    }

    /// Counts what an event takes, if that may be had.
    fn takes_room(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: &Pdu, verdict: Verdict, changes: usize) -> Result<bool, Error> {
        if cx.is_local(pdu.sender()) {
            return Ok(true);
        }
        let json = if verdict == Verdict::Rejected { pdu.outline().len() } else { pdu.json().len() };
        let bytes = store::beside::bytes_of(json).saturating_add(CHANGE_BYTES.saturating_mul(changes as u64));
        let server = pdu.sender().server_name().as_str();
        let of_server = store::beside::of_server(&**tx, server)?.saturating_add(bytes);
        let fits = if self.is_by_stranger(&**tx, cx, pdu)? {
            of_server <= OF_STRANGER_BYTES_MAX
                && store::beside::of_strangers(&**tx)?.saturating_add(bytes) <= OF_STRANGERS_BYTES_MAX
        } else {
            of_server <= OF_SERVER_BYTES_MAX
        };
        if fits {
            store::beside::grows(tx, server, bytes)?;
        } else {
            tracing::warn!(room_id = cx.id, event_id = %pdu.event_id(), server, of_server,
                "an event is not held: there is no room for more of its server");
        }
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{Pdu, event::Draft, power::Preset};
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedRoomId, UserId, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::{OF_SERVER_BYTES_MAX, OF_STRANGER_BYTES_MAX, OF_STRANGERS_BYTES_MAX};
    use crate::{
        room::{CheckedEvent, HoldEvents, MembershipAction, ReceiveEvent, Received},
        world::{MemorySql, World},
    };

    fn alice() -> &'static UserId {
        user_id!("@alice:myelin.test")
    }

    fn zoe() -> &'static UserId {
        user_id!("@zoe:there.test")
    }

    struct Story {
        world: Rc<World>,
        room_id: OwnedRoomId,
        sql: Rc<MemorySql>,
    }

    impl Story {
        fn new() -> Self {
            let world = World::new(1);
            let room_id = world.creates_room(alice(), "11", Preset::PublicChat);
            world.joins_from_elsewhere(&room_id, zoe());
            let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
            Self { world, room_id, sql }
        }

        /// What somebody elsewhere says after an event.
        fn says(&self, sender: &UserId, event_type: &str, number: u64, prev: &Pdu) -> CheckedEvent {
            let content = json!({ "body": format!("{number}{}", "x".repeat(1_000)) });
            let state_key = (event_type != "m.room.message").then(String::new);
            let content = to_raw_value(&content).unwrap();
            let draft =
                Draft { event_type: event_type.into(), content, state_key, sender: sender.to_owned(), redacts: None };
            self.world.says_elsewhere(&self.room_id, &draft, prev)
        }

        fn receives(&self, event: &CheckedEvent) -> Received {
            let call = ReceiveEvent::of(event.clone());
            self.world.call(self.room_id.as_str(), &call).unwrap()
        }

        /// How many events stand beside the log, and their bytes.
        fn beside(&self) -> (u64, u64) {
            let sql = "SELECT count(*), coalesce(sum(length(json)), 0) FROM event WHERE position < 1 << 40";
            let mut row = self.sql.query(sql, &[]).unwrap().remove(0);
            (row.unsigned(0).unwrap(), row.unsigned(1).unwrap())
        }

        /// Somebody of a server speaks, is put out of the room, and this comes only then.
        fn is_kicked_while_speaking(&self, server: u64, count: u64) -> Vec<CheckedEvent> {
            let user = ruma_common::OwnedUserId::try_from(format!("@eve:evil{server}.test")).unwrap();
            self.world.joins_from_elsewhere(&self.room_id, &user);
            let join = self.world.newest(&self.room_id, "m.room.member", user.as_str());
            let said = (0..count).map(|number| self.says(&user, "m.room.message", number, &join)).collect();
            self.world.changes(alice(), &self.room_id, &user, MembershipAction::Kick).unwrap();
            said
        }
    }

    #[test]
    fn of_who_is_not_in_the_room_nothing_refused_is_kept() {
        let story = Story::new();
        let eve = user_id!("@eve:evil1.test");
        story.is_kicked_while_speaking(1, 0);
        let kick = story.world.newest(&story.room_id, "m.room.member", eve.as_str());
        for number in 0..100 {
            let event = story.says(eve, "m.room.message", number, &kick);
            for _ in 0..2 {
                assert!(matches!(story.receives(&event), Received::Rejected(_)));
            }
            let call = HoldEvents { events: vec![event] };
            story.world.call(story.room_id.as_str(), &call).unwrap();
        }
        assert_eq!(story.beside(), (0, 0));
        assert!(story.sql.query("SELECT 1 FROM snapshot", &[]).unwrap().is_empty());
    }

    #[test]
    fn of_what_is_refused_its_place_is_kept_and_nothing_more() {
        let story = Story::new();
        let joined = story.world.newest(&story.room_id, "m.room.member", zoe().as_str());
        // She has no power for that.
        let refused = story.says(zoe(), "m.room.power_levels", 1, &joined);
        assert!(matches!(story.receives(&refused), Received::Rejected(_)));
        let (count, bytes) = story.beside();
        assert!(count == 1 && bytes < 700, "{bytes}");
        assert!(matches!(story.receives(&refused), Received::Rejected(_)), "as it was");
        // What comes after it is judged by the state before it.
        let refused = Pdu::from_stored(refused.event_id, refused.json, false).unwrap();
        assert_eq!(story.receives(&story.says(zoe(), "m.room.message", 2, &refused)), Received::Accepted);
        // What was refused for what it names stays so, whatever the state.
        let held = story.says(zoe(), "m.room.power_levels", 3, &joined);
        story.world.call(story.room_id.as_str(), &HoldEvents { events: vec![held.clone()] }).unwrap();
        assert!(matches!(story.receives(&held), Received::Rejected(_)));
    }

    #[test]
    fn so_much_is_held_of_who_is_not_in_the_room_and_no_more() {
        let story = Story::new();
        let servers = 2 * OF_STRANGERS_BYTES_MAX / OF_STRANGER_BYTES_MAX;
        let mut last = 0;
        for server in 0..servers {
            let said = story.is_kicked_while_speaking(server, 50);
            let before = story.beside().1;
            for (number, event) in said.iter().enumerate() {
                if number % 2 == 0 {
                    assert_eq!(story.receives(event), Received::SoftFailed);
                } else {
                    let call = HoldEvents { events: vec![event.clone()] };
                    assert!(story.world.call(story.room_id.as_str(), &call).unwrap().is_empty());
                }
            }
            last = story.beside().1 - before;
            assert!(last <= OF_STRANGER_BYTES_MAX, "{last}");
            assert_eq!(story.receives(&said[48]), Received::SoftFailed, "as it was");
        }
        assert_eq!(last, 0, "there is no room left for strangers");
        assert!(story.beside().1 <= OF_STRANGERS_BYTES_MAX);
        // Of who is in the room there is.
        let joined = story.world.newest(&story.room_id, "m.room.member", zoe().as_str());
        let held: Vec<_> = (0..100).map(|number| story.says(zoe(), "m.room.message", number, &joined)).collect();
        let before = story.beside().1;
        story.world.call(story.room_id.as_str(), &HoldEvents { events: held.clone() }).unwrap();
        assert!((story.beside().1 - before) > 100_000);
        // And what enters the log makes room again.
        for event in &held {
            assert_eq!(story.receives(event), Received::Accepted);
        }
        let counted = story.sql.query("SELECT bytes FROM beside WHERE server = 'there.test'", &[]).unwrap();
        assert_eq!(counted[0].clone().unsigned(0).unwrap(), 0);
        let more: Vec<_> =
            (0..400).map(|number| story.says(zoe(), "m.room.message", 1_000 + number, &joined)).collect();
        let before = story.beside().1;
        story.world.call(story.room_id.as_str(), &HoldEvents { events: more }).unwrap();
        let more = story.beside().1 - before;
        assert!(more > OF_SERVER_BYTES_MAX / 2 && more <= OF_SERVER_BYTES_MAX, "{more}");
    }
}
