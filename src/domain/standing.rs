//! Who has how much power in a room, as far as that decides whom its events notify.

use std::collections::{BTreeMap, HashSet};

use js_int::Int;
use ruma_common::{OwnedUserId, UserId, room_version_rules::AuthorizationRules};
use ruma_state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField};

use crate::{Pdu, RoomVersion, push::NotificationLevels};

/// The level of a room's creator while it has no power levels. Spec: `m.room.power_levels`.
const CREATOR_LEVEL_DEFAULT: i64 = 100;

/// The power of everyone in a room, and what it takes to notify all of them.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Creators whose power has no level, or else has one until the room sets levels.
    creators: HashSet<OwnedUserId>,
    creator_level: Option<i64>,
    users: BTreeMap<OwnedUserId, Int>,
    users_default: i64,
    notifications: NotificationLevels,
}

impl Standing {
    /// Reads the state of a room. What is malformed gives nobody power, as in the rules of authorisation.
    pub fn new(version: &RoomVersion, create: &Pdu, power_levels: Option<&Pdu>) -> Self {
        let rules = &version.rules().authorization;
        let creators = RoomCreateEvent::new(create.clone()).creators(rules).unwrap_or_default();
        let Some(levels) = power_levels.map(|levels| RoomPowerLevelsEvent::new(levels.clone())) else {
            let level = if rules.explicitly_privilege_room_creators { i64::MAX } else { CREATOR_LEVEL_DEFAULT };
            return Self { creators, creator_level: Some(level), ..Self::default() };
        };
        let users_default = levels.get_as_int_or_default(RoomPowerLevelsIntField::UsersDefault, rules);
        Self {
            creators,
            creator_level: rules.explicitly_privilege_room_creators.then_some(i64::MAX),
            users: levels.users(rules).ok().flatten().cloned().unwrap_or_default(),
            users_default: users_default.map_or(0, i64::from),
            notifications: notifications(&levels, rules),
        }
    }

    /// A user's power level, `i64::MAX` for a creator whose power has no level.
    pub fn level(&self, user_id: &UserId) -> i64 {
        if let Some(level) = self.creator_level
            && self.creators.contains(user_id)
        {
            return level;
        }
        self.users.get(user_id).map_or(self.users_default, |level| i64::from(*level))
    }

    /// The levels that kinds of notifications take, where the room names them.
    pub fn notifications(&self) -> &NotificationLevels {
        &self.notifications
    }
}

fn notifications(levels: &RoomPowerLevelsEvent<Pdu>, rules: &AuthorizationRules) -> NotificationLevels {
    let levels = levels.notifications(rules).ok().flatten().unwrap_or_default();
    levels.into_iter().map(|(kind, level)| (kind, i64::from(level))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Standing;
    use crate::fixture::{Room, state, user, versions};

    #[test]
    fn creators_stand_above_levels_since_version_12() {
        for version in versions() {
            let privileged = version.rules().authorization.explicitly_privilege_room_creators;
            let mut users = json!({ "@bob:example.org": 30 });
            if !privileged {
                users["@alice:example.org"] = 90.into();
            }
            let levels = json!({ "users": users, "users_default": 1, "notifications": { "room": 7 } });
            let room = Room::of_alice(version, [state("alice", "m.room.power_levels", "", levels)]);
            let levels = room.get(&"m.room.power_levels".into(), "");
            let alone = Standing::new(&room.version, &room.create, None);
            let set = Standing::new(&room.version, &room.create, levels.as_ref());
            let of = |name: &str| (alone.level(&user(name)), set.level(&user(name)));
            let creator = if privileged { (i64::MAX, i64::MAX) } else { (100, 90) };
            assert_eq!(of("alice"), creator, "{}", room.version.as_str());
            assert_eq!((of("bob"), of("carol")), ((0, 30), (0, 1)));
            assert_eq!(set.notifications().get("room"), Some(&7));
            assert!(alone.notifications().is_empty());
        }
    }
}
