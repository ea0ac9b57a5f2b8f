//! The room in a few words, for who is in it, may come in or may read it; and the rooms of a space.
//! Spec: "Spaces", `GET /rooms/{roomId}/hierarchy`, `GET /room_summary/{roomIdOrAlias}`.

use domain::{
    event,
    space::{Accessible, CHILD, CHILDREN_MAX, Child, RoomSummary},
};
use platform::{ActorKind, Sql};
use ruma_common::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Room, directory, resident::check_acl, restricted_join::allowed_rooms, store};
use crate::{Call, Cx, Error};

/// The most that the children of a space are told with, in bytes.
const CHILDREN_BYTES_MAX: usize = 512 * 1024;
/// The most bytes of a space's children that are looked at for that.
const CHILDREN_READ_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The longest name of an algorithm that is shown, in bytes.
const ENCRYPTION_BYTES_MAX: usize = 255;

/// Who wants to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asker {
    /// Somebody who said no name.
    Anyone,
    User(OwnedUserId),
    /// Another server, for its users.
    Server(OwnedServerName),
}

/// What the room says of itself, and whether it may be said to who asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetSummary {
    pub asker: Asker,
    /// Whether the rooms of a space are wanted, too.
    #[serde(default)]
    pub children: bool,
    /// Those that it suggests, only.
    #[serde(default)]
    pub suggested_only: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// Whether this server knows what happens in the room. If not, all of this is as it was when it last did.
    pub here: bool,
    /// Whether it may be told.
    pub accessible: Accessible,
    /// The membership of the user who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<String>,
    pub room: RoomSummary,
    /// The events that make the children, stripped but for their time, in the order of the specification.
    #[serde(default)]
    pub children: Vec<Box<RawValue>>,
}

impl Call for GetSummary {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_summary";
    type Reply = Summary;
}

/// Whether a user of another server is in the room now, as far as this server knows what happens in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IsServerJoined {
    pub server: OwnedServerName,
}

impl Call for IsServerJoined {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "is_server_joined";
    type Reply = bool;
}

impl Room {
    pub(super) fn get_summary(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetSummary) -> Result<Summary, Error> {
        let room = self.in_words(sql, cx)?;
        let membership = match &call.asker {
            Asker::User(user_id) => store::members::membership(sql, user_id.as_str())?,
            Asker::Anyone | Asker::Server(_) => None,
        };
        let accessible = match (&call.asker, membership.as_deref()) {
            (_, Some("join" | "invite")) => Accessible::Yes,
            // Who is banned may not come in; read it may whoever asks.
            (_, Some("ban")) => only_if(room.room.world_readable),
            (Asker::Server(server), _) => accessible_to_server(sql, server, &room)?,
            (Asker::Anyone | Asker::User(_), _) => room.accessible_to_strangers(),
        };
        let children = if call.children && room.is_space() { children(sql, call.suggested_only)? } else { Vec::new() };
        Ok(Summary { here: self.is_resident(sql)?, accessible, membership, room, children })
    }

    pub(super) fn is_server_joined(&self, sql: &dyn Sql, _cx: &Cx<'_>, call: IsServerJoined) -> Result<bool, Error> {
        Ok(store::servers::is_joined(sql, call.server.as_str())? && self.is_resident(sql)?)
    }

    fn in_words(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<RoomSummary, Error> {
        #[derive(Deserialize)]
        struct Encryption {
            algorithm: String,
        }
        let encryption = store::state::current(sql, "m.room.encryption", "")?
            .and_then(|event| event.pdu.content_as::<Encryption>().ok())
            .map(|encryption| encryption.algorithm)
            .filter(|algorithm| algorithm.len() <= ENCRYPTION_BYTES_MAX);
        let version = self.version(sql)?;
        Ok(RoomSummary {
            room: directory::shown(sql, cx)?,
            allowed_room_ids: allowed_rooms(sql, &version)?.unwrap_or_default(),
            encryption,
            room_version: Some(version.as_str().to_owned()),
        })
    }
}

fn only_if(condition: bool) -> Accessible {
    if condition { Accessible::Yes } else { Accessible::No }
}

/// Whether some user of a server may know of the room. «all the space-room's children the requesting server could
/// feasibly peek/join are returned».
fn accessible_to_server(sql: &dyn Sql, server: &OwnedServerName, room: &RoomSummary) -> Result<Accessible, Error> {
    match check_acl(sql, server) {
        Err(Error::Refused(_)) => return Ok(Accessible::No),
        outcome => outcome?,
    }
    // Nobody of theirs may come in; nobody is to hear of it there.
    if !room.room.federates {
        return Ok(Accessible::No);
    }
    if store::servers::is_joined(sql, server.as_str())? || store::members::is_server_invited(sql, server.as_str())? {
        return Ok(Accessible::Yes);
    }
    Ok(room.accessible_to_strangers())
}

fn children(sql: &dyn Sql, suggested_only: bool) -> Result<Vec<Box<RawValue>>, Error> {
    let events = store::state::of_type(sql, CHILD, CHILDREN_MAX as u64)?;
    let events = store::log::within(sql, &events, CHILDREN_READ_BYTES_MAX)?;
    let events = events.iter().map(|event| event::stripped_json_with_time(&event.pdu)).collect();
    let mut children: Vec<_> = Child::sorted(events, suggested_only).into_iter().map(|(_, event)| event).collect();
    let mut left = CHILDREN_BYTES_MAX;
    children.retain(|event| {
        left = left.saturating_sub(event.get().len());
        left > 0
    });
    Ok(children)
}

#[cfg(test)]
mod tests {
    use domain::{power::Preset, space::Accessible};
    use ruma_common::{OwnedUserId, RoomId, UserId, server_name, user_id};
    use serde_json::{Value, json};

    use super::{Asker, GetSummary, IsServerJoined, Summary};
    use crate::{room::MembershipAction, world::World};

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn asks(world: &World, room_id: &RoomId, asker: Asker) -> Summary {
        world.call(room_id.as_str(), &GetSummary { asker, children: true, suggested_only: false }).unwrap()
    }

    fn sets(world: &World, room_id: &RoomId, event_type: &str, state_key: &str, content: &Value) {
        world.sends(&alice(), room_id, event_type, Some(state_key), content).unwrap();
    }

    #[test]
    fn a_room_says_what_it_is_and_to_whom() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "11", Preset::PrivateChat);
        let bob = user_id!("@bob:myelin.test");
        let accessible = |asker: &Asker| asks(&world, &room_id, asker.clone()).accessible;
        let user = |user_id: &UserId| Asker::User(user_id.to_owned());
        let server = Asker::Server(server_name!("away.test").to_owned());
        sets(&world, &room_id, "m.room.name", "", &json!({ "name": "Den" }));
        sets(&world, &room_id, "m.room.encryption", "", &json!({ "algorithm": "m.megolm.v1.aes-sha2" }));
        let summary = asks(&world, &room_id, user(&alice()));
        assert_eq!((summary.accessible, summary.membership.as_deref()), (Accessible::Yes, Some("join")));
        assert!(summary.here && summary.children.is_empty());
        let shown = serde_json::to_value(&summary.room).unwrap();
        assert_eq!(
            shown,
            json!({
                "room_id": room_id, "num_joined_members": 1, "world_readable": false, "guest_can_join": true,
                "join_rule": "invite", "name": "Den", "encryption": "m.megolm.v1.aes-sha2", "room_version": "11",
            })
        );
        for asker in [user(bob), Asker::Anyone, server.clone()] {
            assert_eq!(accessible(&asker), Accessible::No, "{asker:?}");
        }
        world.changes(&alice(), &room_id, bob, MembershipAction::Invite).unwrap();
        assert_eq!(accessible(&user(bob)), Accessible::Yes);
        world.changes(&alice(), &room_id, bob, MembershipAction::Ban).unwrap();
        sets(&world, &room_id, "m.room.join_rules", "", &json!({ "join_rule": "public" }));
        assert_eq!(accessible(&user(bob)), Accessible::No, "who is banned may not come in");
        for asker in [Asker::Anyone, server.clone()] {
            assert_eq!(accessible(&asker), Accessible::Yes, "{asker:?}");
        }
        sets(&world, &room_id, "m.room.server_acl", "", &json!({ "allow": ["*"], "deny": ["away.test"] }));
        assert_eq!(accessible(&server), Accessible::No, "it may not take part");
        let allow = json!([{ "type": "m.room_membership", "room_id": "!club:myelin.test" }]);
        sets(&world, &room_id, "m.room.join_rules", "", &json!({ "join_rule": "restricted", "allow": allow }));
        assert_eq!(accessible(&Asker::Anyone), Accessible::ToMembers);
        assert_eq!(asks(&world, &room_id, Asker::Anyone).room.allowed_room_ids, ["!club:myelin.test"]);
        let create = json!({ "m.federate": false });
        let local = world.creates_room_with(&alice(), "11", Preset::PublicChat, Some(&create));
        let accessible = |asker: &Asker| asks(&world, &local, asker.clone()).accessible;
        assert_eq!((accessible(&server), accessible(&Asker::Anyone)), (Accessible::No, Accessible::Yes));
        let joined = IsServerJoined { server: server_name!("away.test").to_owned() };
        assert!(!world.call(room_id.as_str(), &joined).unwrap());
    }
}
