//! What comes with a join from another server, staged as it arrives and judged before it shows anywhere.
//!
//! The state of a large room does not fit into memory, and it comes before the events that it is judged by. So slices
//! of it are staged under the join, and judged once all is there, by depth: what an event is judged by is less deep. A
//! join that was given up leaves its stage to an alarm.
//! Spec: Server-Server API, "Joining Rooms".

use std::collections::{BTreeMap, BTreeSet};

use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::OwnedEventId;
use serde::{Deserialize, Serialize};

use super::{
    CheckedEvent, Room, UncheckedEvent, omitted_members,
    receive::Named,
    store::{
        self,
        graph::{StateBefore, Verdict},
    },
};
use crate::{Call, Cx, Error, schedule};

/// Events judged in one call: of the largest ones they take some MB.
const JUDGED_AT_ONCE: u64 = 100;
/// The most events that are looked at again because what they name could not be checked.
const IN_VAIN_MAX: u64 = 200;
/// A join of which nothing was heard for this long was given up, in milliseconds.
const GIVEN_UP_MS: u64 = 15 * 60 * 1_000;

/// What the room is to do when a join may have been given up.
pub(super) const DUE: &str = "stage";

/// Where the joins under way are noted.
const JOINS: &str = "joins";

/// Stages a slice of what came with a join.
///
/// Refused: `Unknown` for a join that was given up, or that brings too much.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageEvents {
    pub join: String,
    /// How many were staged before.
    pub first: u64,
    /// Whether they are of the state, and not only of its auth chain.
    pub are_state: bool,
    pub events: Vec<CheckedEvent>,
}

impl Call for StageEvents {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "stage_events";
    type Reply = ();
}

/// Judges some of what is staged, and holds it.
///
/// Refused: as [`StageEvents`] is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JudgeStaged {
    pub join: String,
    /// Those behind this number; 0 for a first look.
    pub after: u64,
}

/// How far that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Where the next call begins; `None`: all were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// How many are held now that were not.
    pub held: u64,
    /// How many could not be judged: what they name is not held.
    pub waiting: u64,
}

impl Call for JudgeStaged {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "judge_staged";
    type Reply = Judged;
}

/// The joins under way, by slot: their names, and until when something of them is expected.
#[derive(Default, Serialize, Deserialize)]
struct Joins(BTreeMap<u64, (String, u64)>);

impl Joins {
    fn load(sql: &dyn Sql) -> Result<Self, Error> {
        Ok(match store::meta::text(sql, JOINS)? {
            Some(text) => serde_json::from_str(&text)?,
            None => Self::default(),
        })
    }

    fn keep(&self, tx: &Tx<'_>) -> Result<(), Error> {
        Ok(store::meta::set(tx, JOINS, serde_json::to_string(self)?.into())?)
    }

    fn slot(&self, join: &str) -> Option<u64> {
        self.0.iter().find(|(_, (name, _))| name == join).map(|(slot, _)| *slot)
    }

    /// Whether one is under way, but for this one.
    fn is_any_but(&self, join: Option<&str>, now_ms: u64) -> bool {
        self.0.values().any(|(name, until_ms)| *until_ms > now_ms && join != Some(name))
    }

    /// Forgets those that were given up.
    fn expire(&mut self, tx: &Tx<'_>, now_ms: u64) -> Result<(), Error> {
        let given_up: Vec<u64> =
            self.0.iter().filter(|(_, (_, until_ms))| *until_ms <= now_ms).map(|(slot, _)| *slot).collect();
        for slot in given_up {
            self.0.remove(&slot);
            store::stage::clear(tx, slot)?;
        }
        Ok(())
    }
}

impl Room {
    /// A join is under way.
    pub(super) fn begin_stage(&self, tx: &Tx<'_>, cx: &Cx<'_>, join: &str) -> Result<(), Error> {
        let mut joins = Joins::load(&**tx)?;
        joins.expire(tx, cx.now_ms)?;
        let free = (0..store::stage::SLOTS).find(|slot| !joins.0.contains_key(slot));
        let slot = joins.slot(join).or(free);
        let slot = slot.ok_or_else(|| Refusal::Unknown("Too many users join this room just now".to_owned()))?;
        store::stage::clear(tx, slot)?;
        joins.0.insert(slot, (join.to_owned(), cx.now_ms.saturating_add(GIVEN_UP_MS)));
        joins.keep(tx)?;
        Ok(schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(GIVEN_UP_MS))?)
    }

    /// Whether users of ours are joining a room in which nobody of ours is, or whose members are not known yet.
    pub(super) fn is_joining(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<bool, Error> {
        Ok(!omitted_members::is_whole(sql)?
            || Joins::load(sql)?.is_any_but(None, cx.now_ms) && store::members::joined_locals(sql, 1)?.is_empty())
    }

    /// Whether another join than this one is under way.
    pub(super) fn is_another_staged(&self, sql: &dyn Sql, cx: &Cx<'_>, join: &str) -> Result<bool, Error> {
        Ok(Joins::load(sql)?.is_any_but(Some(join), cx.now_ms))
    }

    /// The state that came with a join, by ids.
    pub(super) fn staged_state(&self, sql: &dyn Sql, join: &str) -> Result<Vec<OwnedEventId>, Error> {
        Ok(store::stage::state(sql, slot_of(&Joins::load(sql)?, join)?)?)
    }

    /// What came with a join and is not held: what it names could not be checked.
    pub(super) fn staged_in_vain(&self, sql: &dyn Sql, join: &str) -> Result<Vec<UncheckedEvent>, Error> {
        let staged = store::stage::ahead(sql, slot_of(&Joins::load(sql)?, join)?, 0, IN_VAIN_MAX)?;
        Ok(staged.into_iter().map(|event| UncheckedEvent { json: event.json, is_state: event.is_state }).collect())
    }

    /// Nothing of a join is needed any more.
    pub(super) fn end_stage(&self, tx: &Tx<'_>, join: &str) -> Result<(), Error> {
        let mut joins = Joins::load(&**tx)?;
        if let Some(slot) = joins.slot(join) {
            store::stage::clear(tx, slot)?;
            joins.0.remove(&slot);
            joins.keep(tx)?;
        }
        Ok(())
    }

    /// Forgets what was given up.
    pub(super) fn stage_due(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let mut joins = Joins::load(&**tx)?;
        joins.expire(tx, cx.now_ms)?;
        joins.keep(tx)?;
        self.nothing_is_joined(tx, cx)?;
        match joins.0.values().map(|(_, until_ms)| *until_ms).min() {
            Some(until_ms) => Ok(schedule::at(tx, cx, DUE, until_ms)?),
            None => Ok(()),
        }
    }

    pub(super) fn stage_events(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: StageEvents) -> Result<(), Error> {
        let mut joins = Joins::load(&**tx)?;
        let slot = slot_of(&joins, &call.join)?;
        if call.first.saturating_add(call.events.len() as u64) > store::stage::EVENTS_MAX {
            return Err(Refusal::Unknown("The room is too large to be joined".to_owned()).into());
        }
        let mut rows = Vec::with_capacity(call.events.len());
        for (event, count) in call.events.into_iter().zip(call.first..) {
            let pdu = event.pdu(cx)?;
            let number = store::stage::number(slot, pdu.depth(), count);
            rows.push((number, pdu.event_id().to_owned(), u8::from(call.are_state), pdu.json().to_owned()));
        }
        store::stage::insert(tx, serde_json::to_string(&rows)?)?;
        self.fetching.borrow_mut().goes_on(&call.join, cx.now_ms);
        joins.0.insert(slot, (call.join, cx.now_ms.saturating_add(GIVEN_UP_MS)));
        joins.keep(tx)
    }

    pub(super) fn judge_staged(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: JudgeStaged) -> Result<Judged, Error> {
        let mut joins = Joins::load(&**tx)?;
        let slot = slot_of(&joins, &call.join)?;
        self.fetching.borrow_mut().goes_on(&call.join, cx.now_ms);
        joins.0.insert(slot, (call.join, cx.now_ms.saturating_add(GIVEN_UP_MS)));
        joins.keep(tx)?;
        let version = self.version(&**tx)?;
        let named = Named::default();
        let staged = store::stage::ahead(&**tx, slot, call.after, JUDGED_AT_ONCE)?;
        let is_all = (staged.len() as u64) < JUDGED_AT_ONCE;
        let mut judged =
            Judged { next: staged.last().filter(|_| !is_all).map(|last| last.number), held: 0, waiting: 0 };
        let mut held = BTreeSet::new();
        for event in staged {
            let pdu = CheckedEvent { event_id: event.event_id, json: event.json }.pdu(cx)?;
            // It may have come twice.
            if held.contains(pdu.event_id()) {
                continue;
            }
            if !self.missing_authorisation(&**tx, cx, &pdu)?.is_empty() {
                judged.waiting += 1;
                continue;
            }
            let is_allowed = self.check_by_own_events(&**tx, cx, &pdu, &version, &named)?.is_ok();
            let verdict = if is_allowed { Verdict::Accepted } else { Verdict::Rejected };
            store::graph::insert_beside(tx, &pdu, verdict, StateBefore::Unknown)?;
            judged.held += 1;
            held.insert(pdu.event_id().to_owned());
        }
        Ok(judged)
    }
}

fn slot_of(joins: &Joins, join: &str) -> Result<u64, Refusal> {
    joins.slot(join).ok_or_else(|| Refusal::Unknown("This join was given up".to_owned()))
}

#[cfg(test)]
mod tests {
    use domain::{Refusal, power::Preset};
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedRoomId, user_id};
    use serde_json::json;

    use super::{GIVEN_UP_MS, JudgeStaged, Judged, StageEvents};
    use crate::{
        CallError,
        room::{BeginJoin, CheckedEvent, CompleteJoin, MembershipAction, Received},
        world::World,
    };

    /// The events of a room that lives elsewhere, oldest first.
    fn elsewhere() -> (OwnedRoomId, Vec<CheckedEvent>) {
        let far = World::new(1);
        let alice = user_id!("@alice:one.test");
        let room_id = far.creates_room(alice, "11", Preset::PublicChat);
        for number in 0..20 {
            far.sends(alice, &room_id, "m.x", Some(&number.to_string()), &json!({})).unwrap();
        }
        let events = events_of(&far, &room_id);
        (room_id, events)
    }

    fn events_of(far: &World, room_id: &OwnedRoomId) -> Vec<CheckedEvent> {
        let sql = far.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let rows = sql.query("SELECT event_id, json FROM event ORDER BY position", &[]).unwrap();
        let event = |mut row: platform::Row| CheckedEvent {
            event_id: row.text(0).unwrap().try_into().unwrap(),
            json: row.text(1).unwrap(),
        };
        rows.into_iter().map(event).collect()
    }

    fn begins(near: &World, room_id: &OwnedRoomId, join: &str) -> Result<(), CallError> {
        near.call(room_id.as_str(), &BeginJoin { room_version: "11".into(), join: join.to_owned() })
    }

    fn stages(
        near: &World,
        room_id: &OwnedRoomId,
        join: &str,
        first: u64,
        events: &[CheckedEvent],
    ) -> Result<(), CallError> {
        let call = StageEvents { join: join.to_owned(), first, are_state: true, events: events.to_vec() };
        near.call(room_id.as_str(), &call)
    }

    fn rows(near: &World, room_id: &OwnedRoomId, table: &str) -> u64 {
        let sql = near.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        sql.query(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().remove(0).unsigned(0).unwrap()
    }

    #[test]
    fn slices_come_in_any_order_and_are_judged_by_depth() {
        let near = World::new(1);
        let (room_id, mut events) = elsewhere();
        events.reverse();
        begins(&near, &room_id, "j").unwrap();
        for (number, slice) in events.chunks(7).enumerate() {
            stages(&near, &room_id, "j", number as u64 * 7, slice).unwrap();
            stages(&near, &room_id, "j", number as u64 * 7, slice).unwrap();
        }
        assert_eq!(rows(&near, &room_id, "event"), 0, "nothing shows yet");
        let judged = near.call(room_id.as_str(), &JudgeStaged { join: "j".into(), after: 0 }).unwrap();
        assert_eq!(judged, Judged { next: None, held: events.len() as u64, waiting: 0 });
        assert_eq!(rows(&near, &room_id, "event"), events.len() as u64);
    }

    #[test]
    fn what_names_something_that_is_not_there_waits() {
        let near = World::new(1);
        let (room_id, events) = elsewhere();
        begins(&near, &room_id, "j").unwrap();
        stages(&near, &room_id, "j", 0, &events[1..]).unwrap();
        let judged = near.call(room_id.as_str(), &JudgeStaged { join: "j".into(), after: 0 }).unwrap();
        assert_eq!((judged.held, judged.waiting), (0, events.len() as u64 - 1));
    }

    #[test]
    fn a_join_that_is_given_up_leaves_nothing() {
        let near = World::new(1);
        let (room_id, events) = elsewhere();
        begins(&near, &room_id, "one").unwrap();
        begins(&near, &room_id, "other").unwrap();
        stages(&near, &room_id, "one", 0, &events).unwrap();
        stages(&near, &room_id, "other", 0, &events).unwrap();
        near.sets_clock(near.now_ms() + GIVEN_UP_MS / 2);
        stages(&near, &room_id, "other", 100, &events).unwrap();
        near.sets_clock(near.now_ms() + GIVEN_UP_MS / 2 + 1);
        near.passes(0);
        assert_eq!(rows(&near, &room_id, "stage"), 2 * events.len() as u64, "the other one goes on");
        let refused = |outcome: Result<(), CallError>| matches!(outcome, Err(CallError::Refused(Refusal::Unknown(_))));
        assert!(refused(stages(&near, &room_id, "one", 0, &events)));
        let complete =
            CompleteJoin { call_id: "one".into(), event: events[0].clone(), join: "one".into(), omitted: None };
        assert!(refused(near.call(room_id.as_str(), &complete).map(drop)));
        near.sets_clock(near.now_ms() + GIVEN_UP_MS);
        near.passes(0);
        assert_eq!(rows(&near, &room_id, "stage"), 0);
        assert!(refused(stages(&near, &room_id, "other", 0, &events)));
    }

    #[test]
    fn a_join_that_is_being_judged_is_not_given_up() {
        let near = World::new(1);
        let (room_id, events) = elsewhere();
        begins(&near, &room_id, "j").unwrap();
        stages(&near, &room_id, "j", 0, &events[1..]).unwrap();
        for _ in 0..4 {
            near.passes(GIVEN_UP_MS / 2);
            let judged = near.call(room_id.as_str(), &JudgeStaged { join: "j".into(), after: 0 }).unwrap();
            assert_eq!(judged.waiting, events.len() as u64 - 1);
        }
    }

    #[test]
    fn of_a_join_that_the_state_does_not_allow_nothing_stays_staged() {
        let near = World::new(1);
        let (room_id, events) = elsewhere();
        begins(&near, &room_id, "j").unwrap();
        stages(&near, &room_id, "j", 0, &events).unwrap();
        near.call(room_id.as_str(), &JudgeStaged { join: "j".into(), after: 0 }).unwrap();
        // By somebody who was never in the room.
        let json = events[20].json.replace(r#""sender":"@alice:one.test""#, r#""sender":"@eve:one.test""#);
        let event = CheckedEvent { event_id: "$evil".try_into().unwrap(), json };
        let complete = CompleteJoin { call_id: "j".into(), event, join: "j".into(), omitted: None };
        let received = near.call(room_id.as_str(), &complete).unwrap();
        assert!(matches!(received, Received::Rejected(_)), "{received:?}");
        assert_eq!(rows(&near, &room_id, "stage"), 0);
        begins(&near, &room_id, "another").unwrap();
    }

    #[test]
    fn a_room_that_was_made_with_another_version_is_not_joined() {
        let near = World::new(1);
        let far = World::new(1);
        let room_id = far.creates_room(user_id!("@alice:one.test"), "11", Preset::PublicChat);
        let bob = user_id!("@bob:myelin.test");
        far.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
        let mut events = events_of(&far, &room_id);
        let event = events.pop().unwrap();
        for (version, is_joined) in [("10", false), ("11", true)] {
            let begin = BeginJoin { room_version: version.into(), join: "j".into() };
            near.call(room_id.as_str(), &begin).unwrap();
            stages(&near, &room_id, "j", 0, &events).unwrap();
            near.call(room_id.as_str(), &JudgeStaged { join: "j".into(), after: 0 }).unwrap();
            let (call_id, event) = ("j".to_owned(), event.clone());
            let complete = CompleteJoin { call_id, event, join: "j".into(), omitted: None };
            let received = near.call(room_id.as_str(), &complete).unwrap();
            assert_eq!(received == Received::Accepted, is_joined, "{version}: {received:?}");
            assert_eq!(rows(&near, &room_id, "stage"), 0);
        }
    }

    #[test]
    fn so_many_joins_at_once_and_no_more() {
        let near = World::new(1);
        let (room_id, _) = elsewhere();
        for number in 0..super::store::stage::SLOTS {
            begins(&near, &room_id, &number.to_string()).unwrap();
        }
        begins(&near, &room_id, "0").unwrap();
        assert!(begins(&near, &room_id, "more").is_err());
        near.sets_clock(near.now_ms() + GIVEN_UP_MS + 1);
        begins(&near, &room_id, "more").unwrap();
    }
}
