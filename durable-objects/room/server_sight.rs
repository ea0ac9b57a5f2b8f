//! What the users of another server may see of the room's history, taken together: what it is given whole.
//! Spec: Client-Server API, "Room history visibility".

use std::{cell::OnceCell, collections::BTreeMap};

use platform::{Fault, Sql};
use ruma_common::{OwnedServerName, ServerName, UserId};
use ruma_events::room::history_visibility::HistoryVisibility;

use super::{
    append::membership_of,
    state::MEMBER,
    store::{self, graph::Node},
};

/// The users of a server who are looked at for what it may see, while none of them was in the room without a break.
pub(super) const USERS_MAX: u64 = 1_000;
/// How many of their memberships are, the newest: what was before these is not seen.
pub(super) const MEMBERSHIPS_MAX: u64 = 10_000;

/// What the users of a server may see, taken together.
pub(super) struct ServerSight {
    server: OwnedServerName,
    /// From here on somebody of it is in the room.
    since: Option<u64>,
    /// What its users were when that is not enough to know: read once, for whoever asks first.
    memberships: OnceCell<Memberships>,
}

/// Users of a server, and from where on in the log each was what: in its order.
type Memberships = BTreeMap<String, Vec<(u64, String)>>;

impl ServerSight {
    pub(super) fn load(sql: &dyn Sql, server: &ServerName) -> Result<Self, Fault> {
        let joined = store::servers::one(sql, server.as_str())?.filter(|following| following.until.is_none());
        // Of where history was missing nobody counted who came and went.
        let edge = store::history::newest(sql, 0, store::graph::POSITION_MAX)?.map_or(0, |edge| edge.position);
        let since = joined.map(|following| following.since.max(edge));
        Ok(Self { server: server.to_owned(), since, memberships: OnceCell::new() })
    }

    pub(super) fn sees(&self, sql: &dyn Sql, node: &Node) -> Result<bool, Fault> {
        // State that was before us, and what was refused, is held for what others say of it.
        let Some(state) = node.state_before(sql)? else { return Ok(true) };
        let visibility = state.event(sql, "m.room.history_visibility", "")?;
        let enough: &[&str] = match domain::visibility::setting(visibility.as_ref()) {
            HistoryVisibility::WorldReadable | HistoryVisibility::Shared => return Ok(true),
            HistoryVisibility::Invited => &["join", "invite"],
            _ => &["join"],
        };
        let is_own = |user: &str| <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == self.server);
        if is_own(node.pdu.sender().as_str()) || node.pdu.state_key().is_some_and(is_own) {
            return Ok(true);
        }
        let changes = state.changes();
        let elsewhere = |user: &str| changes.get(&(MEMBER.to_owned(), user.to_owned()));
        let are_changed = changes.keys().any(|(event_type, user)| event_type == MEMBER && is_own(user));
        if !are_changed && self.since.is_some_and(|since| since <= state.base()) {
            return Ok(true);
        }
        for ((_, user), event_id) in changes.iter().filter(|((event_type, _), _)| event_type == MEMBER) {
            if let Some(event_id) = event_id.as_ref().filter(|_| is_own(user))
                && let Some(member) = store::graph::by_id(sql, event_id)?
                && enough.contains(&membership_of(&member.pdu)?.as_str())
            {
                return Ok(true);
            }
        }
        let mut unchanged = self.memberships(sql)?.iter().filter(|(user, _)| elsewhere(user).is_none());
        Ok(unchanged.any(|(_, turns)| {
            let passed = turns.partition_point(|(position, _)| *position <= state.base());
            let turn = passed.checked_sub(1).and_then(|last| turns.get(last));
            turn.is_some_and(|(_, membership)| enough.contains(&membership.as_str()))
        }))
    }

    fn memberships(&self, sql: &dyn Sql) -> Result<&Memberships, Fault> {
        if let Some(known) = self.memberships.get() {
            return Ok(known);
        }
        let mut known = Memberships::new();
        for (user, position, membership) in
            store::servers::memberships(sql, self.server.as_str(), USERS_MAX, MEMBERSHIPS_MAX)?
        {
            known.entry(user).or_default().push((position, membership));
        }
        Ok(self.memberships.get_or_init(|| known))
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{event::Draft, power::Preset};
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedRoomId, UserId, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::{MEMBER, USERS_MAX, membership_of, store};
    use crate::{
        room::{
            CheckedEvent, GetEventsForServer, ReceiveEvent, Received, Wanted,
            get_outgoing::{EVENTS_MAX, VISITED_MAX},
        },
        world::{MemorySql, World},
    };

    fn alice() -> &'static UserId {
        user_id!("@alice:myelin.test")
    }

    struct Story {
        world: Rc<World>,
        room_id: OwnedRoomId,
        sql: Rc<MemorySql>,
    }

    impl Story {
        fn new(seed: u64) -> Self {
            let world = World::new(seed);
            let room_id = world.creates_room(alice(), "11", Preset::PublicChat);
            let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
            Self { world, room_id, sql }
        }

        fn says(&self, body: &str) {
            let content = json!({ "body": body });
            self.world.sends(alice(), &self.room_id, "m.room.message", None, &content).unwrap();
        }

        fn shows(&self, setting: &str) {
            let content = json!({ "history_visibility": setting });
            self.world.sends(alice(), &self.room_id, "m.room.history_visibility", Some(""), &content).unwrap();
        }

        fn leaves(&self, user: &UserId) {
            self.says("before somebody leaves");
            let draft = Draft {
                event_type: MEMBER.into(),
                content: to_raw_value(&json!({ "membership": "leave" })).unwrap(),
                state_key: Some(user.to_string()),
                sender: user.to_owned(),
                redacts: None,
            };
            let event = self.world.says_elsewhere(
                &self.room_id,
                &draft,
                &self.world.newest(&self.room_id, "m.room.message", ""),
            );
            let call = ReceiveEvent::of(event);
            assert_eq!(self.world.call(self.room_id.as_str(), &call).unwrap(), Received::Accepted);
        }

        fn asks(&self, wanted: Wanted) -> Vec<Value> {
            let call = GetEventsForServer { server: "there.test".try_into().unwrap(), wanted };
            let events = self.world.call(self.room_id.as_str(), &call).unwrap();
            events.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect()
        }
    }

    #[test]
    fn a_server_sees_what_happened_while_somebody_of_it_was_there() {
        let users = [user_id!("@zoe:there.test"), user_id!("@yan:there.test"), user_id!("@xia:elsewhere.test")];
        let mut seen = [0, 0];
        for seed in 1..=crate::world::seeds(10) {
            let story = Story::new(seed);
            let mut there = [false; 3];
            story.shows("joined");
            for step in 0..60 {
                match story.world.dice.roll(6) {
                    0 => story.shows(["joined", "shared"][usize::from(story.world.dice.roll(4) == 0)]),
                    1 | 2 => {
                        let at = story.world.dice.roll(3) as usize;
                        if there[at] {
                            story.leaves(users[at]);
                        } else {
                            story.world.joins_from_elsewhere(&story.room_id, users[at]);
                        }
                        there[at] = !there[at];
                    }
                    _ => story.says(&step.to_string()),
                }
            }
            if !there[0] {
                story.world.joins_from_elsewhere(&story.room_id, users[0]);
            }
            let sql = &*story.sql;
            for event in store::log::forwards(sql, 0, story.world.head_of(&story.room_id), 1_000).unwrap() {
                if event.pdu.state_key().is_some() {
                    continue;
                }
                let state =
                    |event_type: &str, key: &str| store::state::at(sql, event_type, key, event.position).unwrap();
                let visibility = state("m.room.history_visibility", "").map(|event| event.pdu);
                let is_shared = domain::visibility::setting(visibility.as_ref()).as_str() == "shared";
                let is_there = |user: &UserId| {
                    let member = state(MEMBER, user.as_str());
                    member.is_some_and(|member| membership_of(&member.pdu).unwrap().as_str() == "join")
                };
                let expected = is_shared || is_there(users[0]) || is_there(users[1]);
                let told = story.asks(Wanted::Event(event.pdu.event_id().to_owned()));
                assert_eq!(told[0]["content"]["body"].is_string(), expected, "MYELIN_SEED: {seed}, {}", event.position);
                seen[usize::from(expected)] += 1;
            }
        }
        assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
    }

    /// However many users a server has, and however often they came and went.
    #[test]
    fn what_a_server_sees_is_judged_by_few_statements() {
        let story = Story::new(1);
        story.shows("joined");
        (0..EVENTS_MAX).for_each(|number| story.says(&number.to_string()));
        let newest = story.world.newest(&story.room_id, "m.room.message", "");
        story.world.crowds(&story.room_id, USERS_MAX);
        story.sql.query("UPDATE server SET name = 'there.test'", &[]).unwrap();
        for user in 0..USERS_MAX {
            let id = format!("@user{user}:there.test");
            story
                .sql
                .query(
                    "INSERT INTO state_change (type, state_key, position, before, after)
                 SELECT 'm.room.member', ?1, ?2 + position, NULL, position FROM event WHERE event_id = '$crowd1'",
                    &[id.as_str().into(), user.into()],
                )
                .unwrap();
            story
                .sql
                .query(
                    "INSERT INTO member (user_id, membership, position) VALUES (?1, 'leave', 1)",
                    &[id.as_str().into()],
                )
                .unwrap();
        }
        story.world.joins_from_elsewhere(&story.room_id, user_id!("@zoe:there.test"));
        let before = story.sql.statements.get();
        let from = vec![newest.event_id().to_owned()];
        let told = story.asks(Wanted::Backfill { from, limit: EVENTS_MAX });
        assert_eq!(told.len() as u64, EVENTS_MAX);
        assert!(told.iter().all(|event| event["type"] != "m.room.message" || event["content"]["body"].is_null()));
        let statements = story.sql.statements.get() - before;
        assert!(statements < 10 * EVENTS_MAX, "{statements}");
    }

    #[test]
    fn who_refused_events_are_before_is_looked_for_so_far() {
        let story = Story::new(1);
        story.world.joins_from_elsewhere(&story.room_id, user_id!("@zoe:there.test"));
        story.says("the first");
        let prev = story.world.newest(&story.room_id, "m.room.message", "");
        let CheckedEvent { json, .. } = CheckedEvent::of(&prev);
        for number in 0..2 * VISITED_MAX {
            let (id, before) = (format!("$r{number}"), format!("$r{}", number + 1));
            let json = json.replace(prev.prev_events()[0].as_str(), &before);
            story.sql.query(
                "INSERT INTO event (position, event_id, type, sender, json, verdict) VALUES (?1, ?2, 'm.x', '@z:z', ?3, 1)",
                &[(number + 1).into(), id.as_str().into(), json.as_str().into()],
            ).unwrap();
        }
        let before = story.sql.statements.get();
        let told = story.asks(Wanted::Backfill { from: vec!["$r0".try_into().unwrap()], limit: EVENTS_MAX });
        assert!(told.is_empty());
        let statements = story.sql.statements.get() - before;
        assert!(statements < VISITED_MAX + 50, "{statements}");
    }
}
