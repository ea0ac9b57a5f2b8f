//! Who may redact what.
//!
//! The rules of authorisation let almost every redaction into a room; whether it takes effect is another question, and
//! for users of ours it is answered before their redaction is made. What is left of a redacted event is
//! [`crate::event::redact`]'s. Spec: Client-Server API, "Redactions"; Room Versions, "Handling redactions".

use ruma_common::UserId;
use ruma_events::{StateEventType, TimelineEventType};
use ruma_state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField};

use crate::{Pdu, Refusal, RoomVersion, auth::State};

/// A user of ours who wants to redact.
#[derive(Debug, Clone, Copy)]
pub struct Redactor<'a> {
    /// Who.
    pub user: &'a UserId,
    /// Whether they administer this server.
    pub administrator: bool,
}

/// Whether the user may redact this event of their room. That they may send an `m.room.redaction` at all is for
/// [`crate::auth`] to say; in room versions 1 and 2, its rules ask a part of this again.
///
/// # Errors
/// [`Refusal::Forbidden`] for an event of somebody else without the power to redact, and for events without which the
/// room would not be what it is; the latter whoever asks.
pub fn check(redactor: Redactor<'_>, event: &Pdu, version: &RoomVersion, state: &State<'_>) -> Result<(), Refusal> {
    match event.event_type() {
        // Up to v10 it would forget whether the room federates, and which version it has.
        TimelineEventType::RoomCreate => {
            return Err(Refusal::Forbidden("The event that made the room cannot be redacted".to_owned()));
        }
        // Without its lists it would shut out every server, this one included.
        TimelineEventType::RoomServerAcl => {
            return Err(Refusal::Forbidden("A list of servers cannot be redacted: replace it".to_owned()));
        }
        _ => {}
    }
    let own = event.sender() == redactor.user;
    // «Server administrators may redact events sent by users on their server.»
    let administers = redactor.administrator && event.sender().server_name() == redactor.user.server_name();
    if own || administers || may_redact_others(redactor.user, version, state)? {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!("{} may redact only events of their own in this room", redactor.user)))
}

/// Whether the user's power reaches the room's `redact` level.
///
/// # Errors
/// [`Refusal::Forbidden`] when the room's state is malformed: then nobody has any power.
pub fn may_redact_others(user: &UserId, version: &RoomVersion, state: &State<'_>) -> Result<bool, Refusal> {
    let rules = &version.rules().authorization;
    let malformed = |what| Refusal::Forbidden(format!("The state of the room is malformed: {what}"));
    let create =
        state(&StateEventType::RoomCreate, "").ok_or_else(|| malformed("there is no `m.room.create`".into()))?;
    let is_creator = RoomCreateEvent::new(create).creators(rules).map_err(malformed)?.contains(user);
    if is_creator && rules.explicitly_privilege_room_creators {
        return Ok(true);
    }
    let Some(levels) = state(&StateEventType::RoomPowerLevels, "").map(RoomPowerLevelsEvent::new) else {
        // Without power levels the creator has 100 and everyone else 0.
        return Ok(is_creator);
    };
    let power = levels.user_power_level(user, rules).map_err(malformed)?;
    let needed = levels.get_as_int_or_default(RoomPowerLevelsIntField::Redact, rules).map_err(malformed)?;
    Ok(power >= needed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Redactor, check};
    use crate::{
        Pdu,
        fixture::{Room, member, message, redaction, state, user, versions},
    };

    /// Alice made the room, Mallory is a member, Mona a moderator; Bob has left what he said behind.
    fn room(version: crate::RoomVersion) -> (Room, Pdu) {
        let levels = json!({ "users": { user("mona"): 50 }, "redact": 50, "invite": 0 });
        let levels = match version.as_str() {
            "12" => levels,
            _ => json!({ "users": { user("alice"): 100, user("mona"): 50 }, "redact": 50, "invite": 0 }),
        };
        let mut room = Room::of_alice(version, [state("alice", "m.room.power_levels", "", levels)]);
        for name in ["mona", "mallory", "bob"] {
            room.send(member("alice", name, "invite")).unwrap();
            room.send(member(name, name, "join")).unwrap();
        }
        let said = room.send(message("bob", json!({ "body": "oops" }))).unwrap();
        (room, said)
    }

    fn may(room: &Room, name: &str, administrator: bool, event: &Pdu) -> bool {
        let user = user(name);
        let redactor = Redactor { user: &user, administrator };
        let allowed = check(redactor, event, &room.version, &|event_type, key| room.get(event_type, key)).is_ok();
        // What we let our users do, every other server does too.
        assert!(!allowed || room.attempt(&redaction(name, event)).is_ok(), "{name} in {}", room.version.as_str());
        allowed
    }

    #[test]
    fn one_may_redact_what_is_ones_own_and_with_power_what_is_not() {
        for version in versions() {
            let (room, said) = room(version);
            for (name, administrator, expected) in [
                ("bob", false, true),
                ("alice", false, true),
                ("mona", false, true),
                ("mallory", false, false),
                ("mallory", true, true),
            ] {
                let allowed = may(&room, name, administrator, &said);
                assert_eq!(allowed, expected, "{name} in {}", room.version.as_str());
            }
        }
    }

    #[test]
    fn some_events_are_kept_whoever_asks() {
        for version in versions() {
            let (mut room, _) = room(version);
            let acl = room.send(state("alice", "m.room.server_acl", "", json!({ "allow": ["*"] }))).unwrap();
            let create = room.create.clone();
            for event in [&acl, &create] {
                assert!(!may(&room, "alice", true, event), "{}", room.version.as_str());
            }
        }
    }

    #[test]
    fn the_level_counts_and_no_other() {
        for version in versions() {
            let (mut room, said) = room(version);
            let mut levels = json!({ "users": { user("mona"): 50 }, "redact": 51, "ban": 0, "state_default": 50 });
            if room.version.as_str() != "12" {
                levels["users"][user("alice").as_str()] = 100.into();
            }
            room.send(state("alice", "m.room.power_levels", "", levels)).unwrap();
            assert!(may(&room, "alice", false, &said), "{}", room.version.as_str());
            assert!(!may(&room, "mona", false, &said), "{}", room.version.as_str());
        }
    }

    #[test]
    fn without_levels_only_the_creator_has_power() {
        for version in versions() {
            let (room, said) = room(version);
            for (name, expected) in [("alice", true), ("mallory", false)] {
                let user = user(name);
                let redactor = Redactor { user: &user, administrator: false };
                let outcome = check(redactor, &said, &room.version, &|event_type, key| {
                    (event_type.to_string() == "m.room.create").then(|| room.get(event_type, key)).flatten()
                });
                assert_eq!(outcome.is_ok(), expected, "{name} in {}", room.version.as_str());
            }
        }
    }
}
