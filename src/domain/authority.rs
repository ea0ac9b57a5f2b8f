//! Who stands how high in a room, for those who ask before there is an event to authorise.
//!
//! [`crate::auth`] decides on events; this answers who could make one. Spec: Client-Server API, "Permissions".

use std::collections::HashSet;

use ruma_common::{OwnedUserId, UserId};
use ruma_events::room::power_levels::UserPowerLevel;
use ruma_state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField};

use crate::{Pdu, RoomVersion};

/// The power in a room, by its create event and its power levels.
pub struct Authority<'a> {
    version: &'a RoomVersion,
    creators: HashSet<OwnedUserId>,
    levels: Option<RoomPowerLevelsEvent<Pdu>>,
}

impl<'a> Authority<'a> {
    /// Of a room whose state holds these two events.
    ///
    /// # Errors
    /// What is wrong with the create event: an accepted one is not.
    pub fn of(create: &Pdu, power_levels: Option<Pdu>, version: &'a RoomVersion) -> Result<Self, String> {
        let creators = RoomCreateEvent::new(create).creators(&version.rules().authorization)?;
        Ok(Self { version, creators, levels: power_levels.map(RoomPowerLevelsEvent::new) })
    }

    /// The users who created the room. Since v12 they stand above all levels.
    pub fn creators(&self) -> &HashSet<OwnedUserId> {
        &self.creators
    }

    /// Whether a member with this id may invite others. Levels that are malformed give nobody power.
    pub fn may_invite(&self, user_id: &UserId) -> bool {
        let rules = &self.version.rules().authorization;
        let needed = match &self.levels {
            Some(levels) => levels.get_as_int_or_default(RoomPowerLevelsIntField::Invite, rules),
            None => Ok(RoomPowerLevelsIntField::Invite.default_value()),
        };
        needed.is_ok_and(|needed| self.level(user_id).is_some_and(|level| level >= UserPowerLevel::Int(needed)))
    }

    /// Everyone who has a level of their own.
    pub fn named(&self) -> impl Iterator<Item = &OwnedUserId> {
        let rules = &self.version.rules().authorization;
        let users = self.levels.as_ref().and_then(|levels| levels.users(rules).ok().flatten());
        self.creators.iter().chain(users.into_iter().flat_map(|users| users.keys()))
    }

    fn level(&self, user_id: &UserId) -> Option<UserPowerLevel> {
        let rules = &self.version.rules().authorization;
        let creates = self.creators.contains(user_id);
        match &self.levels {
            _ if creates && rules.explicitly_privilege_room_creators => Some(UserPowerLevel::Infinite),
            Some(levels) => levels.user_power_level(user_id, rules).ok().map(UserPowerLevel::Int),
            // «If the room contains no m.room.power_levels event, the room's creator has 100, everyone else 0.»
            None => Some(UserPowerLevel::Int(if creates { 100.into() } else { 0.into() })),
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma_events::StateEventType;
    use serde_json::{Value, json};

    use super::Authority;
    use crate::fixture::{Room, state, user, version};

    #[test]
    fn who_may_invite() {
        let (alice, bob) = ("@alice:example.org", "@bob:example.org");
        let levels = |invite: Value, users: Value| json!({ "invite": invite, "users": users });
        for (version_id, content, expected) in [
            ("10", levels(json!(0), json!({})), [true, true]),
            ("10", levels(json!(50), json!({ alice: 50 })), [true, false]),
            ("10", levels(json!(50), json!({ alice: 49, bob: 51 })), [false, true]),
            ("9", levels(json!("50"), json!({ alice: "50" })), [true, false]),
            ("12", levels(json!(50), json!({})), [true, false]),
            ("12", levels(json!(50), json!({ bob: 50 })), [true, true]),
        ] {
            let version = version(version_id);
            let mut room = Room::of_alice(version.clone(), []);
            let levels = room.force(&state("alice", "m.room.power_levels", "", content.clone()));
            let authority = Authority::of(&room.create, Some(levels), &version).unwrap();
            let may = [user("alice"), user("bob")].map(|user_id| authority.may_invite(&user_id));
            assert_eq!(may, expected, "version {version_id}: {content}");
        }
    }

    #[test]
    fn a_room_without_levels_is_its_creators() {
        let version = version("11");
        let room = Room::of_alice(version.clone(), []);
        assert!(room.get(&StateEventType::RoomPowerLevels, "").is_some());
        let authority = Authority::of(&room.create, None, &version).unwrap();
        assert!(authority.may_invite(&user("alice")) && authority.may_invite(&user("bob")), "inviting takes 0");
        assert_eq!(authority.named().collect::<Vec<_>>(), [&user("alice")]);
    }
}
