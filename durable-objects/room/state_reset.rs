//! Telling when forks that meet take back what no event took away: a membership, power levels.
//!
//! Resolution may do so, and people then find themselves out of a room that nobody removed them from. It is logged, with
//! the events that explain it, and counted; the log's changes of state keep what was there and what is, at the position
//! of the event with which it came.

use platform::{Sql, meter};
use ruma_common::OwnedEventId;

use super::store;
use crate::{Cx, Error};
use domain::Pdu;

/// What is watched.
const WATCHED: [&str; 2] = ["m.room.member", "m.room.power_levels"];
/// The most that are logged of one event.
const LOGGED_MAX: usize = 10;

/// A change of the current state: which key, and the event that is there from now on.
type Change = ((String, String), Option<OwnedEventId>);

/// Something that was taken back.
#[derive(Debug, PartialEq, Eq)]
struct TakenBack<'a> {
    event_type: &'a str,
    state_key: &'a str,
    lost: OwnedEventId,
    /// What is there instead: something older.
    instead: Option<&'a OwnedEventId>,
}

/// Of these changes, which `pdu` brings, those that no event made.
fn taken_back<'a>(sql: &dyn Sql, pdu: &Pdu, changes: &'a [Change]) -> Result<Vec<TakenBack<'a>>, Error> {
    let mut all = Vec::new();
    for ((event_type, state_key), instead) in changes {
        if !WATCHED.contains(&event_type.as_str()) || instead.as_deref() == Some(pdu.event_id()) {
            continue;
        }
        let Some(lost) = store::state::current(sql, event_type, state_key)? else { continue };
        let now = match instead {
            Some(event_id) => store::log::anywhere(sql, event_id.as_str())?,
            None => None,
        };
        // Something newer took its place, as events do.
        if now.as_ref().is_some_and(|now| now.position < store::graph::LOG_START || now.position >= lost.position) {
            continue;
        }
        let (lost, instead) = (lost.pdu.event_id().to_owned(), instead.as_ref());
        all.push(TakenBack { event_type, state_key, lost, instead });
    }
    Ok(all)
}

/// Logs and counts what is taken back when an event comes.
pub(super) fn note(sql: &dyn Sql, cx: &Cx<'_>, pdu: &Pdu, changes: &[Change]) -> Result<(), Error> {
    let all = taken_back(sql, pdu, changes)?;
    meter::STATE_RESETS.add(all.len() as u64);
    for TakenBack { event_type, state_key, lost, instead } in all.into_iter().take(LOGGED_MAX) {
        tracing::warn!(room_id = cx.id, came = %pdu.event_id(), event_type, state_key, %lost, ?instead,
            "resolution took back what no event took away");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use domain::{
        Identity, Pdu, RoomVersion,
        event::{self, Draft, Place},
        power::Preset,
    };
    use platform::{ActorKind, Address, Sql, meter};
    use ruma_common::{OwnedEventId, OwnedRoomId, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::{TakenBack, taken_back};
    use crate::{
        room::{CheckedEvent, IsJoined, MembershipAction, ReceiveEvent, Received},
        world::World,
    };

    fn logged(world: &World, room_id: &OwnedRoomId, event_type: &str, state_key: &str) -> Pdu {
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let mut row = sql
            .query(
                "SELECT event_id, json FROM event WHERE type = ?1 AND state_key = ?2 ORDER BY position DESC LIMIT 1",
                &[event_type.into(), state_key.into()],
            )
            .unwrap()
            .pop()
            .unwrap();
        let event_id = OwnedEventId::try_from(row.text(0).unwrap()).unwrap();
        Pdu::from_stored(event_id, row.text(1).unwrap(), false).unwrap()
    }

    /// Bob joins a public room while somebody elsewhere makes it one for those who are invited.
    #[test]
    fn a_membership_that_resolution_takes_back_is_told() {
        let world = World::new(1);
        let (alice, bob, zoe) =
            (user_id!("@alice:myelin.test"), user_id!("@bob:myelin.test"), user_id!("@zoe:there.test"));
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, zoe);
        let levels = json!({ "users": { (alice.as_str()): 100, (zoe.as_str()): 50 } });
        world.sends(alice, &room_id, "m.room.power_levels", Some(""), &levels).unwrap();
        let fork = logged(&world, &room_id, "m.room.power_levels", "");
        world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
        let join = logged(&world, &room_id, "m.room.member", bob.as_str());

        let version = RoomVersion::parse("11").unwrap();
        let named = [logged(&world, &room_id, "m.room.create", ""), fork.clone()];
        let named = [&named[0], &named[1], &logged(&world, &room_id, "m.room.member", zoe.as_str())]
            .map(|pdu| event::reference(pdu, &version).unwrap());
        let place = Place {
            room_id: Some(&room_id),
            prev_events: &[event::reference(&fork, &version).unwrap()],
            auth_events: &named,
            depth: fork.depth() + 1,
            origin_server_ts: world.now_ms(),
        };
        let draft = Draft {
            event_type: "m.room.join_rules".into(),
            content: to_raw_value(&json!({ "join_rule": "invite" })).unwrap(),
            state_key: Some(String::new()),
            sender: zoe.to_owned(),
            redacts: None,
        };
        let identity = Identity::new(zoe.server_name().to_owned(), "a", [3; 32]).unwrap();
        let pdu = event::build(&draft, &place, &version, &identity, [0; 18]).unwrap();
        let before = meter::STATE_RESETS.get();
        let event = CheckedEvent { event_id: pdu.event_id().to_owned(), json: pdu.json().to_owned() };
        let received = world.call(room_id.as_str(), &ReceiveEvent { event, state_before: None }).unwrap();
        assert_eq!(received, Received::Accepted);
        assert!(!world.call(room_id.as_str(), &IsJoined { user: bob.to_owned() }).unwrap());
        assert!(meter::STATE_RESETS.get() > before);

        // What an event does itself is no such thing, nor is what nobody watches.
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let member = |user: &ruma_common::UserId| ("m.room.member".to_owned(), user.to_string());
        let (mine, old) = (Some(pdu.event_id().to_owned()), Some(join.event_id().to_owned()));
        let rules = ("m.room.join_rules".to_owned(), String::new());
        let changes = [(member(zoe), mine), (member(bob), old), (rules, None), (member(alice), None)];
        let lost = logged(&world, &room_id, "m.room.member", alice.as_str()).event_id().to_owned();
        let (event_type, state_key) = ("m.room.member", alice.as_str());
        let expected = [TakenBack { event_type, state_key, lost, instead: None }];
        assert_eq!(taken_back(&*sql, &pdu, &changes).unwrap(), expected);
    }
}
