//! Telling when forks that meet take back what no event took away: a membership, power levels.
//!
//! Resolution may do so, and people then find themselves out of a room that nobody removed them from. It is logged,
//! with the events that explain it, and counted; the log's changes of state keep what was there and what is, at the
//! position of the event with which it came.
//!
//! What loses to another fork is no such thing: something that happened there without knowing of it takes its place, or
//! forbids it. So it is one only where the state goes back to what the lost event itself had replaced, although nothing
//! from elsewhere forbids that event. It is judged by the events that it names itself, with those that are new in the
//! state in their places: what is lost together with it, for no reason either, is no reason for it to be lost, and
//! neither is what was there already, or came in full knowledge of it.

use std::collections::BTreeMap;

use domain::{Pdu, auth};
use platform::{Sql, meter};
use ruma_common::{EventId, OwnedEventId};
use ruma_events::StateEventType;

use super::{
    Room,
    graph::StateAt,
    store::{self, graph::Key},
};
use crate::{Cx, Error};

/// What is watched.
const WATCHED: [&str; 2] = ["m.room.member", "m.room.power_levels"];
/// What decides whether anything may happen.
const DECIDING: [&str; 4] = ["m.room.join_rules", "m.room.member", "m.room.power_levels", "m.room.third_party_invite"];
/// The most that are logged of one event.
const LOGGED_MAX: usize = 10;
/// The most that are judged of one event: of more, the rest is not counted.
const JUDGED_MAX: usize = 1_000;
/// How often they are judged: what is lost for a reason may be the reason for another loss.
const PASSES_MAX: usize = 5;
/// How many events are looked at for what one of them replaced.
const REPLACED_MAX: usize = 50;

/// Something that was taken back.
#[derive(Debug, PartialEq, Eq)]
struct TakenBack {
    key: Key,
    lost: OwnedEventId,
    /// What is there instead: something older.
    instead: Option<OwnedEventId>,
    /// What happened elsewhere, without knowing of it, that forbids it; `None`: nothing did.
    forbidden_by: Option<OwnedEventId>,
}

/// What changes of a state with what it decides.
#[derive(Default)]
struct Changes {
    /// Where it goes back to what was there before: the event that is lost, and what is there now.
    back: BTreeMap<Key, (Pdu, Option<OwnedEventId>)>,
    /// Where an event is new.
    new: BTreeMap<Key, OwnedEventId>,
    /// Of what goes back, that which something new forbids; and what that is.
    reasons: BTreeMap<Key, OwnedEventId>,
}

impl Room {
    /// Of what changes when the state becomes `now`, that which goes back.
    fn taken_back(&self, sql: &dyn Sql, now: &StateAt) -> Result<Vec<TakenBack>, Error> {
        let mut changes = Changes::default();
        for (key, event) in now.clone().into_changes() {
            if !DECIDING.contains(&key.0.as_str()) {
                continue;
            }
            let lost = store::state::current(sql, &key.0, &key.1)?.map(|lost| lost.pdu);
            match (lost, event) {
                (Some(lost), event) if is_older(sql, &key, &lost, event.as_deref())? => {
                    if key.0 != "m.room.member" || changes.back.len() < JUDGED_MAX {
                        changes.back.insert(key, (lost, event));
                    }
                }
                (_, Some(event)) => drop(changes.new.insert(key, event)),
                (_, None) => {}
            }
        }
        for _ in 0..PASSES_MAX {
            let mut more = BTreeMap::new();
            for (key, (lost, _)) in changes.back.iter().filter(|(key, _)| !changes.reasons.contains_key(*key)) {
                if let Some(reason) = self.forbids(sql, key, lost, &changes)? {
                    more.insert(key.clone(), reason);
                }
            }
            if more.is_empty() {
                break;
            }
            changes.reasons.extend(more);
        }
        let Changes { back, mut reasons, .. } = changes;
        let watched = back.into_iter().filter(|(key, _)| WATCHED.contains(&key.0.as_str()));
        Ok(watched
            .map(|(key, (lost, instead))| TakenBack {
                lost: lost.event_id().to_owned(),
                instead,
                forbidden_by: reasons.remove(&key),
                key,
            })
            .collect())
    }

    /// What happened elsewhere that forbids a lost event.
    fn forbids(&self, sql: &dyn Sql, key: &Key, lost: &Pdu, changes: &Changes) -> Result<Option<OwnedEventId>, Error> {
        let version = self.version(sql)?;
        let Ok(needed) = auth::needed(lost.event_type(), lost.sender(), lost.state_key(), lost.content(), &version)
        else {
            return Ok(None);
        };
        let mut named: BTreeMap<Key, Pdu> = BTreeMap::new();
        let create = store::state::current(sql, "m.room.create", "")?.map(|create| create.pdu);
        for event_id in lost.auth_events() {
            named.extend(event(sql, event_id)?.and_then(keyed));
        }
        named.extend(create.and_then(keyed));
        let mut instead: BTreeMap<Key, Option<Pdu>> = BTreeMap::new();
        let is_forbidden = |instead: &BTreeMap<Key, Option<Pdu>>| {
            let state = |event_type: &StateEventType, state_key: &str| {
                let key = (event_type.to_string(), state_key.to_owned());
                instead.get(&key).map_or_else(|| named.get(&key).cloned(), Clone::clone)
            };
            auth::check_against_state(lost, &version, &state).is_err()
        };
        let mut reason = None;
        for (event_type, state_key) in needed {
            let other = (event_type.to_string(), state_key);
            let was = named.get(&other).map(Pdu::event_id);
            if let Some(new) = changes.new.get(&other) {
                // It may have been forbidden for a while only.
                let mut line = vec![new.clone()];
                line.extend(replaced_by(sql, &other, new)?);
                for (age, event_id) in line.iter().take_while(|event_id| Some(&***event_id) != was).enumerate() {
                    let Some(pdu) = event(sql, event_id)? else { continue };
                    if knows_of(sql, event_id, key, lost.event_id())? {
                        continue;
                    }
                    if is_forbidden(&BTreeMap::from([(other.clone(), Some(pdu.clone()))])) {
                        return Ok(Some(event_id.clone()));
                    }
                    if age == 0 {
                        instead.insert(other.clone(), Some(pdu));
                        reason = Some(event_id.clone());
                    }
                }
            } else if let (Some(because), Some((_, back))) = (changes.reasons.get(&other), changes.back.get(&other)) {
                let back = back.as_ref().map(|event_id| event(sql, event_id)).transpose()?.flatten();
                if is_forbidden(&BTreeMap::from([(other.clone(), back.clone())])) {
                    return Ok(Some(because.clone()));
                }
                instead.insert(other, back);
                reason = Some(because.clone());
            }
        }
        Ok(reason.filter(|_| is_forbidden(&instead)))
    }

    /// Logs what is taken back when an event comes, with which the state becomes `now`, and counts what nothing
    /// forbids.
    pub(super) fn note_taken_back(&self, sql: &dyn Sql, cx: &Cx<'_>, pdu: &Pdu, now: &StateAt) -> Result<(), Error> {
        let (forbidden, resets): (Vec<_>, Vec<_>) =
            self.taken_back(sql, now)?.into_iter().partition(|taken| taken.forbidden_by.is_some());
        meter::STATE_RESETS.add(resets.len() as u64);
        for TakenBack { key: (event_type, state_key), lost, instead, .. } in resets.into_iter().take(LOGGED_MAX) {
            tracing::warn!(room_id = cx.id, came = %pdu.event_id(), event_type, state_key, %lost, ?instead,
                "resolution took back what no event took away");
        }
        for TakenBack { key: (event_type, state_key), lost, instead, forbidden_by } in
            forbidden.into_iter().take(LOGGED_MAX)
        {
            tracing::info!(room_id = cx.id, came = %pdu.event_id(), event_type, state_key, %lost, ?instead,
                ?forbidden_by, "resolution took back what an event elsewhere forbids");
        }
        Ok(())
    }
}

fn event(sql: &dyn Sql, event_id: &EventId) -> Result<Option<Pdu>, Error> {
    Ok(store::graph::by_id(sql, event_id)?.map(|node| node.pdu))
}

fn keyed(pdu: Pdu) -> Option<(Key, Pdu)> {
    let state_key = pdu.state_key()?.to_owned();
    Some(((pdu.event_type().to_string(), state_key), pdu))
}

/// Whether `other` is what an event replaced, or what had been replaced by that; `None`: nothing was there at first.
fn is_older(sql: &dyn Sql, key: &Key, event: &Pdu, other: Option<&EventId>) -> Result<bool, Error> {
    let Some(other) = other else { return Ok(true) };
    Ok(replaced_by(sql, key, event.event_id())?.iter().any(|replaced| replaced == other))
}

/// What an event replaced, and what had been replaced by that, and so on.
fn replaced_by(sql: &dyn Sql, key: &Key, event_id: &EventId) -> Result<Vec<OwnedEventId>, Error> {
    let (mut line, mut last) = (Vec::new(), event_id.to_owned());
    while line.len() < REPLACED_MAX {
        let Some(node) = store::graph::by_id(sql, &last)? else { break };
        let replaced = match node.state_before(sql)? {
            Some(before) => before.get(sql, &key.0, &key.1)?,
            // Memberships and power levels name what they replace among what allows them.
            None => {
                let mut named = None;
                for event_id in node.pdu.auth_events() {
                    let keyed = event(sql, event_id)?.and_then(keyed);
                    named = named.or(keyed.filter(|(other, _)| other == key).map(|_| event_id.clone()));
                }
                named
            }
        };
        let Some(replaced) = replaced.filter(|replaced| !line.contains(replaced)) else { break };
        line.push(replaced.clone());
        last = replaced;
    }
    Ok(line)
}

/// Whether an event came where another one was the state for a key.
fn knows_of(sql: &dyn Sql, event_id: &EventId, key: &Key, other: &EventId) -> Result<bool, Error> {
    let node = store::graph::by_id(sql, event_id)?;
    let before = node.map(|node| node.state_before(sql)).transpose()?.flatten();
    let there = before.map(|before| before.get(sql, &key.0, &key.1)).transpose()?.flatten();
    Ok(there.as_deref() == Some(other))
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
            CheckedEvent, HoldEvents, MembershipAction, ReceiveEvent, Received, Room,
            graph::StateAt,
            store::{self, graph::Key},
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
        let lost = |key, lost: &OwnedEventId, instead| lost_to(key, lost, instead, None);
        let expected = [lost_to(key(MEMBER, bob.as_str()), &join, None, Some(&by_invitation))];
        assert_eq!(taken_back(&world, &room_id, &[&join, &public], &[&by_invitation]), expected);
        assert_eq!(taken_back(&world, &room_id, &[&newest], &[&others]), []);
        // Nothing forbids it.
        let expected = [lost(key(MEMBER, bob.as_str()), &join, None)];
        assert_eq!(taken_back(&world, &room_id, &[&join], &[]), expected);
        let first = first.event_id().to_owned();
        let expected = [lost(key(POWER, ""), &newest, Some(first.clone()))];
        assert_eq!(taken_back(&world, &room_id, &[&newest], &[&first]), expected);
    }

    fn key(kind: &str, state_key: &str) -> Key {
        (kind.to_owned(), state_key.to_owned())
    }

    fn lost_to(
        key: Key,
        lost: &OwnedEventId,
        instead: Option<OwnedEventId>,
        forbidden_by: Option<&OwnedEventId>,
    ) -> TakenBack {
        TakenBack { key, lost: lost.clone(), instead, forbidden_by: forbidden_by.cloned() }
    }

    /// What let people in, or stopped letting them in, is no reason for losing them.
    #[test]
    fn what_is_lost_at_once_hides_nothing_that_is_lost() {
        let (alice, bob, zoe) =
            (user_id!("@alice:myelin.test"), user_id!("@bob:myelin.test"), user_id!("@zoe:there.test"));
        let (world, room_id) = room_with_moderator(zoe);
        let id = |kind: &str, state_key: &str| world.newest(&room_id, kind, state_key).event_id().to_owned();
        let (first, public) = (id(POWER, ""), id("m.room.join_rules", ""));
        world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
        let levels = json!({ "users": { (alice.as_str()): 100, (zoe.as_str()): 50, (bob.as_str()): 10 } });
        world.sends(alice, &room_id, POWER, Some(""), &levels).unwrap();
        let (join, newest, others) = (id(MEMBER, bob.as_str()), id(POWER, ""), id(MEMBER, zoe.as_str()));
        let lost = |key, lost: &OwnedEventId, instead| lost_to(key, lost, instead, None);
        let both = [lost(key(MEMBER, bob.as_str()), &join, None), lost(key(MEMBER, zoe.as_str()), &others, None)];
        assert_eq!(taken_back(&world, &room_id, &[&public, &join, &others], &[]), both);
        let create = id("m.room.create", "");
        let levels = lost(key(POWER, ""), &newest, Some(first.clone()));
        let all = both.into_iter().chain([levels]).collect::<Vec<_>>();
        assert_eq!(taken_back(&world, &room_id, &[&create, &public, &join, &others, &newest], &[&first]), all);
        // Nobody else comes in any more; bob was in.
        world.sends(alice, &room_id, "m.room.join_rules", Some(""), &json!({ "join_rule": "invite" })).unwrap();
        assert_eq!(taken_back(&world, &room_id, &[&join], &[]), [lost(key(MEMBER, bob.as_str()), &join, None)]);
    }

    /// Zoe bans max, who had made carol a moderator meanwhile, and she had put bob out.
    #[test]
    fn what_an_event_elsewhere_forbids_takes_with_it_what_that_allowed() {
        let (alice, bob, zoe) =
            (user_id!("@alice:myelin.test"), user_id!("@bob:myelin.test"), user_id!("@zoe:there.test"));
        let (max, carol) = (user_id!("@max:myelin.test"), user_id!("@carol:myelin.test"));
        let (world, room_id) = room_with_moderator(zoe);
        for user in [bob, max, carol] {
            world.changes(user, &room_id, user, MembershipAction::Join).unwrap();
        }
        let levels = |carols: u64| {
            let users = json!({
                (alice.as_str()): 100, (zoe.as_str()): 90, (max.as_str()): 60, (carol.as_str()): carols,
            });
            json!({ "users": users, "kick": 50, "ban": 50, "state_default": 50 })
        };
        world.sends(alice, &room_id, POWER, Some(""), &levels(0)).unwrap();
        let fork = world.newest(&room_id, POWER, "");
        let id = |kind: &str, state_key: &str| world.newest(&room_id, kind, state_key).event_id().to_owned();
        let (first, max_in, bob_in) = (id(POWER, ""), id(MEMBER, max.as_str()), id(MEMBER, bob.as_str()));
        let ban = Draft {
            event_type: MEMBER.into(),
            content: to_raw_value(&json!({ "membership": "ban" })).unwrap(),
            state_key: Some(max.to_string()),
            sender: zoe.to_owned(),
            redacts: None,
        };
        let ban = world.says_elsewhere(&room_id, &ban, &fork);
        world.sends(max, &room_id, POWER, Some(""), &levels(55)).unwrap();
        world.changes(carol, &room_id, bob, MembershipAction::Kick).unwrap();
        let (second, kick) = (id(POWER, ""), id(MEMBER, bob.as_str()));
        assert!(world.call(room_id.as_str(), &HoldEvents { events: vec![ban.clone()] }).unwrap().is_empty());
        let ban = &ban.event_id;
        let all = [
            lost_to(key(MEMBER, bob.as_str()), &kick, Some(bob_in.clone()), Some(ban)),
            lost_to(key(POWER, ""), &second, Some(first.clone()), Some(ban)),
        ];
        assert_eq!(taken_back(&world, &room_id, &[&max_in, &second, &kick], &[ban, &first, &bob_in]), all);
        // Without the ban there is no reason for any of it.
        let none = all.map(|taken| TakenBack { forbidden_by: None, ..taken });
        assert_eq!(taken_back(&world, &room_id, &[&second, &kick], &[&first, &bob_in]), none);
    }

    /// Bob takes another name, with a clock that was set back: where forks meet, what he was before counts as the
    /// later.
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
