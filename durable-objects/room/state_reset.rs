//! Telling when forks that meet take back what no event took away: a membership, power levels.
//!
//! Resolution may do so, and people then find themselves out of a room that nobody removed them from. It is logged, with
//! the events that explain it, and counted; the log's changes of state keep what was there and what is, at the position
//! of the event with which it came.
//!
//! What loses to another fork is no such thing: something that happened there without knowing of it takes its place, or
//! forbids it. So it is one only where the state goes back to what the lost event itself had replaced, although nothing
//! in the new state forbids that event.

use domain::Pdu;
use platform::{Sql, meter};
use ruma_common::{EventId, OwnedEventId};

use super::{
    Room,
    graph::StateAt,
    store::{self, graph::Key},
};
use crate::{Cx, Error};

/// What is watched.
const WATCHED: [&str; 2] = ["m.room.member", "m.room.power_levels"];
/// The most that are logged of one event.
const LOGGED_MAX: usize = 10;

/// How many events are looked at for what one of them replaced.
const REPLACED_MAX: usize = 50;

/// Something that was taken back.
#[derive(Debug, PartialEq, Eq)]
struct TakenBack {
    key: Key,
    lost: OwnedEventId,
    /// What is there instead: something older.
    instead: Option<OwnedEventId>,
}

impl Room {
    /// Of what changes when the state becomes `now`, that which no event made.
    fn taken_back(&self, sql: &dyn Sql, now: &StateAt) -> Result<Vec<TakenBack>, Error> {
        let version = self.version(sql)?;
        let mut all = Vec::new();
        for (key, instead) in now.clone().into_changes() {
            if !WATCHED.contains(&key.0.as_str()) {
                continue;
            }
            let Some(lost) = store::state::current(sql, &key.0, &key.1)? else { continue };
            if replaced(sql, &key, &lost.pdu, instead.as_deref())?
                && self.check_by_state(sql, &lost.pdu, &version, Some(now))?.is_ok()
            {
                all.push(TakenBack { key, lost: lost.pdu.event_id().to_owned(), instead });
            }
        }
        Ok(all)
    }

    /// Logs and counts what is taken back when an event comes, with which the state becomes `now`.
    pub(super) fn note_taken_back(&self, sql: &dyn Sql, cx: &Cx<'_>, pdu: &Pdu, now: &StateAt) -> Result<(), Error> {
        let all = self.taken_back(sql, now)?;
        meter::STATE_RESETS.add(all.len() as u64);
        for TakenBack { key: (event_type, state_key), lost, instead } in all.into_iter().take(LOGGED_MAX) {
            tracing::warn!(room_id = cx.id, came = %pdu.event_id(), event_type, state_key, %lost, ?instead,
                "resolution took back what no event took away");
        }
        Ok(())
    }
}

/// Whether an event replaced another one, or what had replaced that; `None`: nothing was there at first.
fn replaced(sql: &dyn Sql, key: &Key, event: &Pdu, other: Option<&EventId>) -> Result<bool, Error> {
    let Some(other) = other else { return Ok(true) };
    let mut event_id = event.event_id().to_owned();
    for _ in 0..REPLACED_MAX {
        let node = store::graph::by_id(sql, &event_id)?;
        let Some(before) = node.map(|node| node.state_before(sql)).transpose()?.flatten() else { return Ok(false) };
        match before.get(sql, &key.0, &key.1)? {
            Some(replaced) if replaced == other => return Ok(true),
            Some(replaced) => event_id = replaced,
            None => return Ok(false),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{Pdu, event::Draft, power::Preset};
    use platform::{ActorKind, Address, meter};
    use ruma_common::{OwnedEventId, OwnedRoomId, UserId, user_id};
    use ruma_events::room::member::MembershipState;
    use serde_json::{Value, json, value::to_raw_value};

    use super::TakenBack;
    use crate::{
        room::{
            CheckedEvent, HoldEvents, MembershipAction, ReceiveEvent, Received, Room, graph::StateAt, store,
            viewer::Viewer,
        },
        world::World,
    };

    const MEMBER: &str = "m.room.member";
    const POWER: &str = "m.room.power_levels";

    /// A room of alice's, of which somebody elsewhere is a moderator.
    fn room_with_moderator(moderator: &UserId) -> (Rc<World>, OwnedRoomId) {
        let (world, alice) = (World::new(1), user_id!("@alice:myelin.test"));
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, moderator);
        let levels = json!({ "users": { (alice.as_str()): 100, (moderator.as_str()): 50 } });
        world.sends(alice, &room_id, POWER, Some(""), &levels).unwrap();
        (world, room_id)
    }

    fn receives(world: &World, room_id: &OwnedRoomId, event: CheckedEvent) {
        let call = ReceiveEvent::of(event);
        assert_eq!(world.call(room_id.as_str(), &call).unwrap(), Received::Accepted);
    }

    /// What somebody elsewhere says who knows nothing that came after `prev`.
    fn elsewhere(
        world: &World,
        room_id: &OwnedRoomId,
        sender: &UserId,
        prev: &Pdu,
        (kind, content): (&str, Value),
    ) -> CheckedEvent {
        let draft = Draft {
            event_type: kind.into(),
            content: to_raw_value(&content).unwrap(),
            state_key: Some(String::new()),
            sender: sender.to_owned(),
            redacts: None,
        };
        world.says_elsewhere(room_id, &draft, prev)
    }

    /// What is taken back if these events take the places of those.
    fn taken_back(
        world: &World,
        room_id: &OwnedRoomId,
        gone: &[&OwnedEventId],
        came: &[&OwnedEventId],
    ) -> Vec<TakenBack> {
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let head = store::log::head_position(&*sql).unwrap();
        let mut state: Vec<OwnedEventId> =
            store::graph::state_at(&*sql, head).unwrap().into_iter().map(|(_, event_id)| event_id).collect();
        state.retain(|event_id| !gone.contains(&event_id));
        state.extend(came.iter().copied().cloned());
        Room::default().taken_back(&*sql, &StateAt::told(&*sql, head, &state).unwrap()).unwrap()
    }

    /// Somebody elsewhere says the same again and again as if nothing had happened since.
    #[test]
    fn forks_without_number_are_few_and_take_nothing_back() {
        let world = World::new(1);
        let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, zoe);
        let levels = json!({ "users": { (alice.as_str()): 100, (zoe.as_str()): 50 }, "state_default": 50 });
        world.sends(alice, &room_id, POWER, Some(""), &levels).unwrap();
        let old = world.newest(&room_id, POWER, "");
        let sql = || world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        receives(
            &world,
            &room_id,
            elsewhere(&world, &room_id, zoe, &old, ("m.room.topic", json!({ "topic": "on a fork" }))),
        );
        let topic = || world.newest(&room_id, "m.room.topic", "").event_id().to_owned();
        let current = || {
            let sql = sql();
            let head = store::log::head_position(&*sql).unwrap();
            store::graph::event_at(&*sql, ("m.room.topic", ""), head).unwrap()
        };
        let forked = topic();
        for number in 0..100 {
            let said = (&*format!("org.example.{number}"), json!({}));
            receives(&world, &room_id, elsewhere(&world, &room_id, zoe, &old, said));
            assert!(store::graph::extremities(&*sql()).unwrap().ids.len() <= super::super::append::EXTREMITIES_MAX);
            assert_eq!(current(), Some(forked.clone()), "after {number}");
        }
        assert!(store::graph::are_extremities_dropped(&*sql()).unwrap());
        // Ours bring them together again.
        while store::graph::extremities(&*sql()).unwrap().ids.len() > 1 {
            world.sends(alice, &room_id, "m.room.message", None, &json!({})).unwrap();
        }
        assert!(!store::graph::are_extremities_dropped(&*sql()).unwrap());
        assert_eq!(current(), Some(forked));
        for number in 0..100 {
            let key = format!("org.example.{number}");
            let head = store::log::head_position(&*sql()).unwrap();
            assert!(store::graph::event_at(&*sql(), (&key, ""), head).unwrap().is_some(), "{number}");
        }
    }

    #[test]
    fn what_loses_to_another_fork_is_not_taken_back() {
        let world = World::new(1);
        let (alice, bob, zoe) =
            (user_id!("@alice:myelin.test"), user_id!("@bob:myelin.test"), user_id!("@zoe:there.test"));
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, zoe);
        let levels = |ban: u64| json!({ "ban": ban, "users": { (alice.as_str()): 100, (zoe.as_str()): 50 } });
        world.sends(alice, &room_id, POWER, Some(""), &levels(50)).unwrap();
        let (first, public) = (world.newest(&room_id, POWER, ""), world.newest(&room_id, "m.room.join_rules", ""));
        let rules = elsewhere(&world, &room_id, zoe, &first, ("m.room.join_rules", json!({ "join_rule": "invite" })));
        let power = elsewhere(&world, &room_id, zoe, &first, (POWER, levels(40)));
        let (by_invitation, others) = (rules.event_id.clone(), power.event_id.clone());
        world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
        world.sends(alice, &room_id, POWER, Some(""), &levels(60)).unwrap();
        assert!(world.call(room_id.as_str(), &HoldEvents { events: vec![rules, power] }).unwrap().is_empty());
        let join = world.newest(&room_id, MEMBER, bob.as_str()).event_id().to_owned();
        let newest = world.newest(&room_id, POWER, "");
        // It is forbidden by what happened elsewhere; something else happened there to the same.
        let (public, newest) = (public.event_id().to_owned(), newest.event_id().to_owned());
        assert_eq!(taken_back(&world, &room_id, &[&join, &public], &[&by_invitation]), []);
        assert_eq!(taken_back(&world, &room_id, &[&newest], &[&others]), []);
        // Nothing forbids it.
        let key = |kind: &str, state_key: &str| (kind.to_owned(), state_key.to_owned());
        let lost = |key, lost: &OwnedEventId, instead| TakenBack { key, lost: lost.clone(), instead };
        let expected = [lost(key(MEMBER, bob.as_str()), &join, None)];
        assert_eq!(taken_back(&world, &room_id, &[&join], &[]), expected);
        let first = first.event_id().to_owned();
        let expected = [lost(key(POWER, ""), &newest, Some(first.clone()))];
        assert_eq!(taken_back(&world, &room_id, &[&newest], &[&first]), expected);
    }

    /// Bob takes another name, with a clock that was set back: where forks meet, what he was before counts as the later.
    #[test]
    fn a_membership_that_resolution_takes_back_is_counted() {
        let (bob, zoe) = (user_id!("@bob:myelin.test"), user_id!("@zoe:there.test"));
        let (world, room_id) = room_with_moderator(zoe);
        let now_ms = world.now_ms();
        world.sets_clock(now_ms + 3_600_000);
        world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
        let join = world.newest(&room_id, MEMBER, bob.as_str());
        world.sets_clock(now_ms);
        let renamed = json!({ "membership": "join", "displayname": "Robert" });
        world.sends(bob, &room_id, MEMBER, Some(bob.as_str()), &renamed).unwrap();
        let event = elsewhere(&world, &room_id, zoe, &join, ("m.room.topic", json!({ "topic": "Tea" })));
        let before = meter::STATE_RESETS.get();
        receives(&world, &room_id, event);
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let current = store::state::current(&*sql, MEMBER, bob.as_str()).unwrap().unwrap();
        assert_eq!(current.pdu.event_id(), join.event_id(), "the name is lost");
        assert!(meter::STATE_RESETS.get() > before);
    }

    /// Zoe closed the room before Bob came in, and her server was slow to say so: no event says that he is out.
    #[test]
    fn whom_resolution_puts_out_of_a_room_reads_no_further() {
        let (bob, zoe) = (user_id!("@bob:myelin.test"), user_id!("@zoe:there.test"));
        let (world, room_id) = room_with_moderator(zoe);
        let first = world.newest(&room_id, POWER, "");
        let event = elsewhere(&world, &room_id, zoe, &first, ("m.room.join_rules", json!({ "join_rule": "invite" })));
        world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
        receives(&world, &room_id, event);
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        assert!(store::state::current(&*sql, MEMBER, bob.as_str()).unwrap().is_none());
        let viewer = Viewer::load(&*sql, bob.to_owned(), "PHONE".into()).unwrap();
        assert_eq!(viewer.membership().map(|(membership, _)| membership), Some(&MembershipState::Leave));
        let said = world
            .sends(user_id!("@alice:myelin.test"), &room_id, "m.room.message", None, &json!({ "body": "He is gone" }))
            .unwrap();
        let said = store::log::by_id(&*sql, said.as_str()).unwrap().unwrap();
        assert!(!viewer.may_see(&said));
    }
}
