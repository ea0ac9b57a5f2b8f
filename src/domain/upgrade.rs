//! What the successor of an upgraded room begins with, and what the old room ends with.
//!
//! Turns the old room's state into drafts; the rooms build, authorise and append them. Who is asked first, and what
//! becomes of aliases, is left to others. Spec: Client-Server API, "Room Upgrades", "Server behaviour".

use std::collections::HashSet;

use ruma_common::{EventId, OwnedUserId, RoomId, UserId};
use ruma_events::{StateEventType, TimelineEventType};
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    Authority, Pdu, Refusal, RoomVersion,
    event::Draft,
    power::{self, NewRoom, Preset},
};

/// The state that is transferred, in the order it is sent. «The recommended state events to transfer».
pub const TRANSFERRED: [StateEventType; 8] = [
    StateEventType::RoomJoinRules,
    StateEventType::RoomHistoryVisibility,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomServerAcl,
    StateEventType::RoomEncryption,
    StateEventType::RoomName,
    StateEventType::RoomAvatar,
    StateEventType::RoomTopic,
];

/// The room to replace, as it is.
pub struct OldRoom<'a> {
    /// Its version.
    pub version: &'a RoomVersion,
    /// Its create event.
    pub create: &'a Pdu,
    /// Its newest event.
    pub last_event: &'a EventId,
    /// Its power levels.
    pub power_levels: Option<&'a Pdu>,
    /// Those of [`TRANSFERRED`] that it has, and the children of a space.
    pub state: &'a [Pdu],
    /// The memberships of who is banned.
    pub bans: &'a [Pdu],
}

/// Who wants which successor.
pub struct Upgrade<'a> {
    /// Who upgrades: the successor's creator.
    pub upgrader: &'a UserId,
    /// The display name of their profile.
    pub displayname: Option<String>,
    /// The avatar of their profile.
    pub avatar_url: Option<String>,
    /// The version of the successor.
    pub version: &'a RoomVersion,
    /// The JSON array of its additional creators, if any were asked for.
    pub additional_creators: Option<&'a Value>,
}

impl Upgrade<'_> {
    fn new_room(&self, old: &OldRoom<'_>) -> Result<NewRoom, Refusal> {
        let content: Map<String, Value> = old.create.content_as().unwrap_or_default();
        let predecessor = json!({ "room_id": old.create.room_id(), "event_id": old.last_event });
        let mut creation = Map::from_iter([("predecessor".to_owned(), predecessor)]);
        for copied in ["type", "m.federate"] {
            if let Some(value) = content.get(copied) {
                creation.insert(copied.to_owned(), value.clone());
            }
        }
        // «When upgrading to a room version which doesn't support additional creators, this field is ignored».
        if self.version.rules().authorization.additional_room_creators
            && let Some(creators) = self.additional_creators
        {
            creation.insert("additional_creators".to_owned(), creators.clone());
        }
        let mut room = NewRoom::new(self.upgrader.to_owned(), Preset::PrivateChat);
        room.creator_displayname.clone_from(&self.displayname);
        room.creator_avatar_url = self.avatar_url.as_deref().map(Into::into);
        room.creation_content = Some(to_raw_value(&creation).map_err(|error| Refusal::BadJson(error.to_string()))?);
        Ok(room)
    }

    /// The successor's `m.room.create`.
    ///
    /// # Errors
    /// As [`power::create_draft`], of the additional creators.
    pub fn create_draft(&self, old: &OldRoom<'_>) -> Result<Draft, Refusal> {
        power::create_draft(&self.new_room(old)?, self.version)
    }

    /// Everything after the create event: the upgrader's join, power levels, transferred state, bans.
    ///
    /// Up to v11 the upgrader may not have had the power to set all that themselves: they have it until the last event,
    /// which sets the levels as they were.
    ///
    /// # Errors
    /// As [`Upgrade::create_draft`].
    pub fn events(&self, old: &OldRoom<'_>) -> Result<Vec<Draft>, Refusal> {
        let room = self.new_room(old)?;
        let creators = power::creators(&room, self.version)?;
        let levels = self.power_levels(old, &room, &creators)?;
        let bans: Vec<(&str, Value)> = old.bans.iter().filter_map(|ban| carried_ban(ban, &creators)).collect();
        let above_all = if self.version.rules().authorization.explicitly_privilege_room_creators {
            None
        } else {
            raised(&levels, self.upgrader, &bans)
        };
        let mut drafts = vec![power::creator_join(&room)?];
        let first = above_all.as_ref().unwrap_or(&levels);
        drafts.push(state(self.upgrader, StateEventType::RoomPowerLevels, "", &Value::Object(first.clone()))?);
        let mut has_join_rule = false;
        for event in old.state {
            let event_type = StateEventType::from(event.event_type().to_string());
            let mut content: Map<String, Value> = event.content_as().unwrap_or_default();
            if event_type == StateEventType::RoomJoinRules {
                has_join_rule = true;
                keep_to_known_join_rules(&mut content, self.version);
            }
            let key = event.state_key().unwrap_or_default();
            drafts.push(state(self.upgrader, event_type, key, &Value::Object(content))?);
        }
        if !has_join_rule {
            let by_invitation = json!({ "join_rule": "invite" });
            drafts.push(state(self.upgrader, StateEventType::RoomJoinRules, "", &by_invitation)?);
        }
        for (banned, content) in bans {
            drafts.push(state(self.upgrader, StateEventType::RoomMember, banned, &content)?);
        }
        if above_all.is_some() {
            drafts.push(state(self.upgrader, StateEventType::RoomPowerLevels, "", &Value::Object(levels))?);
        }
        Ok(drafts)
    }

    /// The old room's power levels in the form of the successor's version.
    fn power_levels(
        &self,
        old: &OldRoom<'_>,
        room: &NewRoom,
        creators: &HashSet<OwnedUserId>,
    ) -> Result<Map<String, Value>, Refusal> {
        let rules = &self.version.rules().authorization;
        let mut content = match old.power_levels {
            Some(levels) => levels.content_as().unwrap_or_default(),
            None => power::power_levels(room, self.version)?,
        };
        if rules.integer_power_levels {
            make_integers(&mut content);
        }
        let old_rules = &old.version.rules().authorization;
        if old_rules.explicitly_privilege_room_creators && !rules.explicitly_privilege_room_creators {
            // Who stood above all levels gets one that is as good.
            let highest = needed_level(&content).max(100);
            let authority = Authority::of(old.create, None, old.version).map_err(Refusal::Unknown)?;
            for creator in authority.creators() {
                set_level(&mut content, creator.as_str(), highest);
            }
        }
        if rules.explicitly_privilege_room_creators {
            if let Some(Value::Object(users)) = content.get_mut("users") {
                users.retain(|user_id, _| !creators.iter().any(|creator| creator == user_id.as_str()));
            }
            power::raise_tombstone(&mut content);
        }
        Ok(content)
    }
}

/// The tombstone of a room that was replaced.
///
/// # Errors
/// None that happens: it is small and made of strings.
pub fn tombstone(sender: &UserId, replacement: &RoomId) -> Result<Draft, Refusal> {
    let content = json!({ "body": "This room has been replaced", "replacement_room": replacement });
    state(sender, StateEventType::RoomTombstone, "", &content)
}

/// The power levels of a room that was replaced: fewer may speak there and invite to it. «For example, setting
/// `events_default` and `invite` to the greater of `50` and `users_default + 1`.»
///
/// # Errors
/// As [`tombstone`].
pub fn closing_power_levels(sender: &UserId, power_levels: &Pdu) -> Result<Draft, Refusal> {
    let mut content: Map<String, Value> = power_levels.content_as().unwrap_or_default();
    let users_default = content.get("users_default").and_then(level).unwrap_or(0);
    let needed = users_default.saturating_add(1).max(50);
    for field in ["events_default", "invite"] {
        let now = content.get(field).and_then(level).unwrap_or(0);
        content.insert(field.to_owned(), now.max(needed).into());
    }
    state(sender, StateEventType::RoomPowerLevels, "", &Value::Object(content))
}

fn state(sender: &UserId, event_type: StateEventType, state_key: &str, content: &Value) -> Result<Draft, Refusal> {
    Ok(Draft {
        event_type: TimelineEventType::from(event_type),
        content: to_raw_value(content).map_err(|error| Refusal::BadJson(error.to_string()))?,
        state_key: Some(state_key.to_owned()),
        sender: sender.to_owned(),
        redacts: None,
    })
}

/// A ban as it goes into the successor; `None` of one who created it.
fn carried_ban<'a>(ban: &'a Pdu, creators: &HashSet<OwnedUserId>) -> Option<(&'a str, Value)> {
    let banned = ban.state_key().filter(|banned| !creators.iter().any(|creator| creator == *banned))?;
    let old: Map<String, Value> = ban.content_as().unwrap_or_default();
    let mut content = Map::from_iter([("membership".to_owned(), "ban".into())]);
    if let Some(reason) = old.get("reason") {
        content.insert("reason".to_owned(), reason.clone());
    }
    Some((banned, Value::Object(content)))
}

/// A join rule that the version does not know would let in nobody at all, not even who is invited.
fn keep_to_known_join_rules(content: &mut Map<String, Value>, version: &RoomVersion) {
    let rules = &version.rules().authorization;
    let known = match content.get("join_rule").and_then(Value::as_str) {
        Some("knock_restricted") if rules.knock_restricted_join_rule => return,
        Some("knock_restricted") if rules.restricted_join_rule => "restricted",
        Some("knock_restricted" | "knock") if rules.knocking => "knock",
        Some("restricted") if rules.restricted_join_rule => return,
        Some("restricted" | "knock" | "knock_restricted") => "invite",
        _ => return,
    };
    content.insert("join_rule".to_owned(), known.into());
}

/// The level that a value stands for: up to v9 it may be a string.
fn level(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

const LEVELS: [&str; 7] = ["ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"];
const MAPS_OF_LEVELS: [&str; 3] = ["events", "notifications", "users"];

/// Since v10, levels are integers: what cannot be one is left to its default.
fn make_integers(content: &mut Map<String, Value>) {
    let integer = |value: &mut Value| match level(value) {
        Some(level) => {
            *value = level.into();
            true
        }
        None => false,
    };
    content.retain(|field, value| !LEVELS.contains(&field.as_str()) || integer(value));
    content.retain(|field, value| !MAPS_OF_LEVELS.contains(&field.as_str()) || value.is_object());
    for field in MAPS_OF_LEVELS {
        if let Some(Value::Object(levels)) = content.get_mut(field) {
            levels.retain(|_, value| integer(value));
        }
    }
}

/// The level that is enough for every event of a new room.
fn needed_level(content: &Map<String, Value>) -> i64 {
    let fields = ["state_default", "ban"].map(|field| content.get(field).and_then(level).unwrap_or(50));
    let events = content.get("events").and_then(Value::as_object).into_iter().flat_map(|events| events.values());
    fields.into_iter().chain(events.filter_map(level)).max().unwrap_or(50)
}

fn level_of(content: &Map<String, Value>, user_id: &str) -> i64 {
    let own = content.get("users").and_then(|users| users.get(user_id)).and_then(level);
    own.or_else(|| content.get("users_default").and_then(level)).unwrap_or(0)
}

fn set_level(content: &mut Map<String, Value>, user_id: &str, level: i64) {
    let users = content.entry("users").or_insert_with(|| json!({}));
    if let Value::Object(users) = users {
        users.insert(user_id.to_owned(), level.into());
    }
}

/// The levels with which the upgrader can do everything there is to do; `None` where they can anyway.
fn raised(levels: &Map<String, Value>, upgrader: &UserId, bans: &[(&str, Value)]) -> Option<Map<String, Value>> {
    let above_banned = bans.iter().map(|(banned, _)| level_of(levels, banned).saturating_add(1)).max();
    let needed = needed_level(levels).max(above_banned.unwrap_or(0));
    if level_of(levels, upgrader.as_str()) >= needed {
        return None;
    }
    let mut raised = levels.clone();
    set_level(&mut raised, upgrader.as_str(), needed);
    Some(raised)
}

#[cfg(test)]
mod tests;
