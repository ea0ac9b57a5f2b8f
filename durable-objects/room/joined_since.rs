//! Who has been in the room without a break. What another server tells of such users, it told us all the while.

use platform::{ActorKind, Sql};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{Room, device_lists::was_joined, store};
use crate::{Call, Cx, Error};

/// Members of this server that are looked at: one who was here throughout is enough.
const LOCALS_MAX: u64 = 20;

/// Those of some users who have been in the room, and somebody of this server with them, throughout since a position;
/// `None`: who are in it now.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinedSince {
    pub users: Vec<(OwnedUserId, Option<u64>)>,
}

/// Who has been in the room.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct JoinedThroughout {
    pub users: Vec<OwnedUserId>,
    /// Until this position.
    pub until: u64,
}

impl Call for JoinedSince {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "joined_since";
    type Reply = JoinedThroughout;
}

impl Room {
    pub(super) fn joined_since(&self, sql: &dyn Sql, _: &Cx<'_>, call: JoinedSince) -> Result<JoinedThroughout, Error> {
        let until = self.heads(sql)?.public;
        let locals = store::members::joined_locals(sql, LOCALS_MAX)?;
        let mut are_here_since = None;
        let mut users = Vec::new();
        for (user, since) in call.users {
            if since.is_some_and(|since| since > until) {
                continue;
            }
            let since = since.unwrap_or(until);
            // One answer is good for all that is asked of a later time.
            if are_here_since.is_none_or(|known| since < known) {
                if !is_any_joined_since(sql, &locals, since, until)? {
                    continue;
                }
                are_here_since = Some(since);
            }
            if is_joined_since(sql, user.as_str(), since, until)? {
                users.push(user);
            }
        }
        Ok(JoinedThroughout { users, until })
    }
}

fn is_any_joined_since(sql: &dyn Sql, locals: &[String], since: u64, until: u64) -> Result<bool, Error> {
    for local in locals {
        if is_joined_since(sql, local, since, until)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a user was joined at `since` and at every moment up to `until`, which is now.
fn is_joined_since(sql: &dyn Sql, user: &str, since: u64, until: u64) -> Result<bool, Error> {
    let Some(joined) = store::members::joined_position(sql, user)? else { return Ok(false) };
    if joined <= since {
        return Ok(true);
    }
    Ok(was_joined(sql, user, since)? && !store::device_lists::was_out(sql, user, since, until)?)
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use ruma_common::{OwnedRoomId, UserId, user_id};
    use serde_json::json;

    use super::JoinedSince;
    use crate::{room::MembershipAction, world::World};

    #[test]
    fn who_was_in_the_room_with_us_throughout() {
        let (alice, bob, zoe) =
            (user_id!("@alice:myelin.test"), user_id!("@bob:myelin.test"), user_id!("@zoe:there.test"));
        let world = World::new(1);
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        let asks = |since: Option<u64>| asks(&world, &room_id, zoe, since);
        let changes = |sender: &UserId, target: &UserId, action| {
            world.changes(sender, &room_id, target, action).unwrap();
        };
        let (is_in, founded) = asks(None);
        assert!(!is_in);
        world.joins_from_elsewhere(&room_id, zoe);
        let (is_in, came) = asks(None);
        assert!(is_in && !asks(Some(founded)).0, "not before she came");
        world.sends(alice, &room_id, "m.room.message", None, &json!({ "body": "x" })).unwrap();
        assert!(asks(Some(came)).0 && !asks(Some(came + 100)).0, "nobody knows the future");
        changes(bob, bob, MembershipAction::Join);
        let (_, bob_came) = asks(None);
        changes(alice, zoe, MembershipAction::Kick);
        assert!(!asks(None).0 && !asks(Some(came)).0);
        world.joins_from_elsewhere(&room_id, zoe);
        assert!(!asks(Some(came)).0 && !asks(Some(bob_came)).0, "she was out");
        let (is_in, again) = asks(None);
        assert!(is_in && asks(Some(again)).0);
        // She changes her name: that is no leaving.
        world.joins_from_elsewhere(&room_id, zoe);
        assert!(asks(Some(again)).0);
        changes(alice, alice, MembershipAction::Leave);
        assert!(asks(Some(again)).0, "Bob was there all the while");
        let carol = user_id!("@carol:myelin.test");
        changes(carol, carol, MembershipAction::Join);
        let (_, carol_came) = asks(None);
        changes(bob, bob, MembershipAction::Leave);
        assert!(!asks(Some(again)).0, "Carol came later");
        assert!(asks(Some(carol_came)).0);
        changes(carol, carol, MembershipAction::Leave);
        assert!(!asks(None).0, "nobody of ours is there");
    }

    /// Whether she is, and where the log ends.
    fn asks(world: &World, room_id: &OwnedRoomId, user: &UserId, since: Option<u64>) -> (bool, u64) {
        let call = JoinedSince { users: vec![(user.to_owned(), since)] };
        let joined = world.call(room_id.as_str(), &call).unwrap();
        (joined.users == [user], joined.until)
    }
}
