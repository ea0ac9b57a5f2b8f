//! When another server had somebody in the room: what happens then goes to it, up to the event with which the last of
//! them left. Of what happens besides it is told what ends an invitation or a knock of one of its users.

use std::collections::BTreeSet;

use platform::{Fault, Sql};
use ruma_common::{OwnedServerName, ServerName, UserId};
use ruma_events::{TimelineEventType, room::member::MembershipState};

use super::{
    append::membership_of,
    server_sight::{MEMBERSHIPS_MAX, USERS_MAX},
    store::{self, graph::Node},
};

/// The stays of a server, as far as they matter behind a position.
pub(super) struct ServerStays {
    server: OwnedServerName,
    /// From where to where, with both ends, in their order; `None`: it has been in the room all the time.
    stays: Option<Vec<(u64, u64)>>,
}

impl ServerStays {
    pub(super) fn behind(sql: &dyn Sql, server: &ServerName, after: u64) -> Result<Self, Fault> {
        let following = store::servers::one(sql, server.as_str())?;
        let stays = match following {
            Some(following) if following.until.is_none() && following.since <= after => None,
            _ => Some(stays(store::servers::memberships(sql, server.as_str(), USERS_MAX, MEMBERSHIPS_MAX)?)),
        };
        Ok(Self { server: server.to_owned(), stays })
    }

    /// Whether the server is in the room, and may ask for what it is not told.
    pub(super) fn may_ask(&self) -> bool {
        self.stays.as_ref().is_none_or(|stays| stays.last().is_some_and(|(_, to)| *to == u64::MAX))
    }

    /// Whether an event of the log goes to the server.
    pub(super) fn are_told(&self, node: &Node) -> Result<bool, Fault> {
        let Some(stays) = &self.stays else { return Ok(true) };
        let begun = stays.partition_point(|(from, _)| *from <= node.number);
        let last = begun.checked_sub(1).and_then(|last| stays.get(last));
        if last.is_some_and(|(_, to)| node.number <= *to) {
            return Ok(true);
        }
        let is_own = |user: &str| <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == self.server);
        let is_about_own =
            *node.pdu.event_type() == TimelineEventType::RoomMember && node.pdu.state_key().is_some_and(is_own);
        Ok(is_about_own && matches!(membership_of(&node.pdu)?, MembershipState::Leave | MembershipState::Ban))
    }
}

/// From when to when any of these users was in the room, of what each became, in its order.
fn stays(memberships: Vec<(String, u64, String)>) -> Vec<(u64, u64)> {
    let (mut joined, mut stays, mut since) = (BTreeSet::new(), Vec::new(), None);
    for (user, position, membership) in memberships {
        if membership == "join" {
            joined.insert(user);
            since.get_or_insert(position);
        } else if joined.remove(&user) && joined.is_empty() {
            stays.extend(since.take().map(|since| (since, position)));
        }
    }
    stays.extend(since.map(|since| (since, u64::MAX)));
    stays
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use ruma_common::{OwnedServerName, user_id};
    use serde_json::{Value, json};

    use super::stays;
    use crate::{
        destination::{Range, TakeWork, Work},
        room::{GetNewestOutgoing, GetOutgoing, MembershipAction},
        world::World,
    };

    const THERE: &str = "there.test";

    /// What a server is owed of the one room there is, and sent from the oldest on, and from the newest.
    fn owed(world: &World, limit: u64) -> [Vec<Value>; 2] {
        let Work::Owed(ranges) = world.call(THERE, &TakeWork { carrier: "one".to_owned() }).unwrap() else {
            return [vec![], vec![]];
        };
        let [Range { room_id, after, up_to, .. }] = &ranges[..] else { panic!("{ranges:?}") };
        let server = OwnedServerName::try_from(THERE).unwrap();
        let (after, up_to) = (*after, *up_to);
        let oldest = GetOutgoing { server: server.clone(), after, up_to, limit };
        let oldest = world.call(room_id.as_str(), &oldest).unwrap().events;
        let newest = world.call(room_id.as_str(), &GetNewestOutgoing { server, after, up_to, limit }).unwrap().events;
        [oldest, newest].map(|events| {
            let content = |event: Value| match event["content"]["membership"].as_str() {
                Some(membership) => json!([event["state_key"], membership]),
                None => event["content"].clone(),
            };
            events.iter().map(|event| content(serde_json::from_str(event.get()).unwrap())).collect()
        })
    }

    #[test]
    fn a_server_that_is_away_is_told_of_its_end_in_the_room_and_of_nothing_between() {
        let world = World::new(1);
        let (alice, zoe, max) =
            (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"), user_id!("@max:there.test"));
        let room_id = world.creates_room(alice, "12", Preset::PublicChat);
        let says = |number: u64| {
            world.sends(alice, &room_id, "m.room.message", None, &json!({ "n": number })).unwrap();
            world.settle();
        };
        let rules = |rule: &str| {
            world.sends(alice, &room_id, "m.room.join_rules", Some(""), &json!({ "join_rule": rule })).unwrap();
        };
        let becomes = |user, action| {
            world.changes(alice, &room_id, user, action).unwrap();
            world.settle();
        };
        says(1);
        world.joins_from_elsewhere(&room_id, zoe);
        says(2);
        becomes(zoe, MembershipAction::Kick);
        let stay = [json!({ "n": 2 }), json!([zoe, "leave"])];
        assert_eq!(owed(&world, 50), [&stay[..]; 2]);
        assert_eq!(owed(&world, 1), [&stay[..1]; 2], "it may not ask for what lies before its end");
        says(3);
        rules("knock");
        for user in [max, zoe] {
            world.comes_from_elsewhere(&room_id, user, MembershipAction::Knock);
            says(4);
            becomes(user, MembershipAction::Kick);
        }
        rules("public");
        says(5);
        let with_ends = [&stay[..], &[json!([max, "leave"]), json!([zoe, "leave"])]].concat();
        assert_eq!(owed(&world, 50), [&with_ends[..]; 2]);
        // Who comes again is given what was before.
        world.joins_from_elsewhere(&room_id, zoe);
        says(6);
        assert_eq!(owed(&world, 50), [&[json!({ "n": 6 })][..]; 2]);
    }

    #[test]
    fn of_several_knocks_that_come_to_nothing_each_is_told() {
        let world = World::new(2);
        let alice = user_id!("@alice:myelin.test");
        let room_id = world.creates_room(alice, "12", Preset::PublicChat);
        let rule = json!({ "join_rule": "knock" });
        world.sends(alice, &room_id, "m.room.join_rules", Some(""), &rule).unwrap();
        let knocking = [user_id!("@zoe:there.test"), user_id!("@max:there.test")];
        for user in knocking {
            world.comes_from_elsewhere(&room_id, user, MembershipAction::Knock);
        }
        world.settle();
        // At once: the room has not told of the one when the other comes.
        for user in knocking {
            world.changes(alice, &room_id, user, MembershipAction::Kick).unwrap();
        }
        world.settle();
        let ends = knocking.map(|user| json!([user, "leave"]));
        assert_eq!(owed(&world, 50), [&ends[..]; 2]);
    }

    #[test]
    fn a_stay_lasts_until_the_last_one_left() {
        let became = |user: &str, position, membership: &str| (user.to_owned(), position, membership.to_owned());
        let memberships = vec![
            became("a", 1, "invite"),
            became("a", 2, "join"),
            became("a", 3, "join"),
            became("b", 4, "join"),
            became("a", 5, "leave"),
            became("b", 6, "ban"),
            became("b", 7, "leave"),
            became("a", 8, "join"),
        ];
        assert_eq!(stays(memberships), [(2, 6), (8, u64::MAX)]);
    }
}
