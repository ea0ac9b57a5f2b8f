//! The first events of a new room: who has power in it, who may join, who may see.
//!
//! Turns a `createRoom` request into drafts in the order of the spec; the room builds, authorises and appends them one
//! after the other. Third-party invites, the alias' existence and who may be invited are left to others.
//! Spec: Client-Server API, "Creation", `POST /createRoom`; Room version 12 for creators.

use std::collections::HashSet;

use ruma_common::{OwnedMxcUri, OwnedRoomAliasId, OwnedUserId, UserId};
use ruma_events::{StateEventType, TimelineEventType};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{Refusal, RoomVersion, event::Draft};

/// A convenience of `createRoom`: several settings under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// By invitation.
    PrivateChat,
    /// By invitation, and everyone invited has the creator's power.
    TrustedPrivateChat,
    /// Everyone may join.
    PublicChat,
}

impl Preset {
    fn join_rule(self) -> &'static str {
        match self {
            Self::PrivateChat | Self::TrustedPrivateChat => "invite",
            Self::PublicChat => "public",
        }
    }

    fn guest_access(self) -> &'static str {
        match self {
            Self::PrivateChat | Self::TrustedPrivateChat => "can_join",
            Self::PublicChat => "forbidden",
        }
    }

    /// In a private room every member may invite; in a public one, who has some power. As Synapse.
    fn invite_level(self) -> i64 {
        match self {
            Self::PrivateChat | Self::TrustedPrivateChat => 0,
            Self::PublicChat => 50,
        }
    }
}

/// What was asked of `createRoom`, as far as it makes events.
#[derive(Debug, Clone)]
pub struct NewRoom {
    /// Who asked.
    pub creator: OwnedUserId,
    /// Their display name, for their `m.room.member`.
    pub creator_displayname: Option<String>,
    /// Their avatar, for their `m.room.member`.
    pub creator_avatar_url: Option<OwnedMxcUri>,
    /// Given, or derived from `visibility`.
    pub preset: Preset,
    /// Extra keys of the content of `m.room.create`.
    pub creation_content: Option<Box<RawValue>>,
    /// Keys that replace those of the default power levels.
    pub power_level_content_override: Option<Box<RawValue>>,
    /// The canonical alias, already reserved.
    pub alias: Option<OwnedRoomAliasId>,
    /// State events of the client's own, in its order.
    pub initial_state: Vec<InitialState>,
    /// `m.room.name`.
    pub name: Option<String>,
    /// `m.room.topic`.
    pub topic: Option<String>,
    /// Users to invite: each once.
    pub invite: Vec<Invitee>,
    /// Whether the invites say that this is a direct chat.
    pub is_direct: bool,
}

impl NewRoom {
    /// A room of this preset and nothing else.
    pub fn new(creator: OwnedUserId, preset: Preset) -> Self {
        Self {
            creator,
            preset,
            creator_displayname: None,
            creator_avatar_url: None,
            creation_content: None,
            power_level_content_override: None,
            alias: None,
            initial_state: Vec::new(),
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
        }
    }

    fn initial(&self, event_type: &StateEventType) -> Option<&InitialState> {
        self.initial_state.iter().rev().find(|state| state.event_type == *event_type && state.state_key.is_empty())
    }

    fn state(&self, event_type: TimelineEventType, state_key: &str, content: &Value) -> Result<Draft, Refusal> {
        let content = to_raw_value(content).map_err(|error| Refusal::BadJson(error.to_string()))?;
        Ok(self.raw_state(event_type, state_key, content))
    }

    fn raw_state(&self, event_type: TimelineEventType, state_key: &str, content: Box<RawValue>) -> Draft {
        let state_key = Some(state_key.to_owned());
        Draft { event_type, content, state_key, sender: self.creator.clone(), redacts: None }
    }
}

/// A user to invite, with what their profile says, for their `m.room.member`.
#[derive(Debug, Clone)]
pub struct Invitee {
    /// Who.
    pub user_id: OwnedUserId,
    /// Their display name.
    pub displayname: Option<String>,
    /// Their avatar.
    pub avatar_url: Option<OwnedMxcUri>,
}

/// The most users that a client may name as additional creators.
pub const ADDITIONAL_CREATORS_MAX: usize = 1_000;

/// A state event the client wants in its new room.
#[derive(Debug, Clone)]
pub struct InitialState {
    /// The type.
    pub event_type: StateEventType,
    /// The state key, often empty.
    pub state_key: String,
    /// The content.
    pub content: Box<RawValue>,
}

/// The `m.room.create` event.
///
/// Since v12, `additional_creators` gains the invited users of a trusted private chat.
///
/// # Errors
/// [`Refusal::BadJson`] when `creation_content` is not an object, or, since v12, its `additional_creators` is not an
/// array of user ids; [`Refusal::InvalidParam`] when it names more than [`ADDITIONAL_CREATORS_MAX`].
pub fn create_draft(room: &NewRoom, version: &RoomVersion) -> Result<Draft, Refusal> {
    let rules = &version.rules().authorization;
    let mut content = object(room.creation_content.as_deref(), "creation_content")?;
    content.insert("room_version".to_owned(), version.as_str().into());
    // Since v11: the creator is the sender of the event.
    if rules.use_room_create_sender {
        content.remove("creator");
    } else {
        content.insert("creator".to_owned(), room.creator.as_str().into());
    }
    if rules.additional_room_creators {
        let creators = additional_creators(room, &content)?;
        if !creators.is_empty() {
            content.insert("additional_creators".to_owned(), json!(creators));
        }
    }
    room.state(TimelineEventType::RoomCreate, "", &Value::Object(content))
}

/// Everyone who creates the room.
///
/// # Errors
/// As [`create_draft`].
pub(crate) fn creators(room: &NewRoom, version: &RoomVersion) -> Result<HashSet<OwnedUserId>, Refusal> {
    let mut creators = HashSet::from([room.creator.clone()]);
    if version.rules().authorization.additional_room_creators {
        let asked = object(room.creation_content.as_deref(), "creation_content")?;
        creators.extend(additional_creators(room, &asked)?);
    }
    Ok(creators)
}

/// The additional creators asked for and, in a trusted private chat, the users invited: each once.
fn additional_creators(room: &NewRoom, creation_content: &Map<String, Value>) -> Result<Vec<OwnedUserId>, Refusal> {
    let bad = || Refusal::BadJson("`additional_creators` is an array of user ids".to_owned());
    let asked = match creation_content.get("additional_creators") {
        Some(Value::Array(asked)) => asked.as_slice(),
        Some(_) => return Err(bad()),
        None => &[],
    };
    if asked.len() > ADDITIONAL_CREATORS_MAX {
        let sentence = format!("`additional_creators` may name {ADDITIONAL_CREATORS_MAX} users");
        return Err(Refusal::InvalidParam(sentence));
    }
    let mut creators = Vec::with_capacity(asked.len());
    for user_id in asked {
        creators.push(user_id.as_str().and_then(|user_id| UserId::parse(user_id).ok()).ok_or_else(bad)?);
    }
    if room.preset == Preset::TrustedPrivateChat {
        let invited = room.invite.iter().map(|invitee| &invitee.user_id);
        creators.extend(invited.filter(|user_id| **user_id != room.creator).cloned());
    }
    let mut seen = HashSet::with_capacity(creators.len());
    creators.retain(|user_id| seen.insert(user_id.clone()));
    Ok(creators)
}

/// Everything after the create event, in the order of the spec: the creator's join, power levels, canonical alias,
/// the preset's events, `initial_state`, name, topic, invites.
///
/// `initial_state` takes precedence over what would be there without it, and gives way to `name` and `topic`; an event
/// that gives way is not sent at all. Power levels in `initial_state` take the place of the default ones, and of what
/// `power_level_content_override` makes of those.
///
/// # Errors
/// [`Refusal::BadJson`] when something that should be an object is not; [`Refusal::InvalidRoomState`] when, since v12,
/// the power levels name a creator, or the level of `m.room.tombstone` is not above `state_default`; otherwise as
/// [`create_draft`]. What the rules of the room forbid is found when the drafts are authorised.
pub fn initial_events(room: &NewRoom, version: &RoomVersion) -> Result<Vec<Draft>, Refusal> {
    let mut drafts = vec![creator_join(room)?];
    drafts.push(room.state(TimelineEventType::RoomPowerLevels, "", &Value::Object(power_levels(room, version)?))?);
    if let Some(alias) = &room.alias
        && room.initial(&StateEventType::RoomCanonicalAlias).is_none()
    {
        drafts.push(room.state(TimelineEventType::RoomCanonicalAlias, "", &json!({ "alias": alias }))?);
    }
    for (event_type, content) in [
        (StateEventType::RoomJoinRules, json!({ "join_rule": room.preset.join_rule() })),
        (StateEventType::RoomHistoryVisibility, json!({ "history_visibility": "shared" })),
        (StateEventType::RoomGuestAccess, json!({ "guest_access": room.preset.guest_access() })),
    ] {
        if room.initial(&event_type).is_none() {
            drafts.push(room.state(event_type.into(), "", &content)?);
        }
    }
    for state in &room.initial_state {
        let elsewhere = state.state_key.is_empty()
            && match &state.event_type {
                StateEventType::RoomPowerLevels => true,
                StateEventType::RoomName => room.name.is_some(),
                StateEventType::RoomTopic => room.topic.is_some(),
                _ => false,
            };
        if !elsewhere {
            drafts.push(room.raw_state(state.event_type.clone().into(), &state.state_key, state.content.clone()));
        }
    }
    if let Some(name) = &room.name {
        drafts.push(room.state(TimelineEventType::RoomName, "", &json!({ "name": name }))?);
    }
    if let Some(topic) = &room.topic {
        let text = json!([{ "body": topic, "mimetype": "text/plain" }]);
        let content = json!({ "topic": topic, "m.topic": { "m.text": text } });
        drafts.push(room.state(TimelineEventType::RoomTopic, "", &content)?);
    }
    for Invitee { user_id, displayname, avatar_url } in &room.invite {
        let mut content = membership("invite", displayname.as_deref(), avatar_url.as_ref());
        if room.is_direct {
            content.insert("is_direct".to_owned(), true.into());
        }
        drafts.push(room.state(TimelineEventType::RoomMember, user_id.as_str(), &Value::Object(content))?);
    }
    Ok(drafts)
}

pub(crate) fn creator_join(room: &NewRoom) -> Result<Draft, Refusal> {
    let content = membership("join", room.creator_displayname.as_deref(), room.creator_avatar_url.as_ref());
    room.state(TimelineEventType::RoomMember, room.creator.as_str(), &Value::Object(content))
}

fn membership(membership: &str, displayname: Option<&str>, avatar_url: Option<&OwnedMxcUri>) -> Map<String, Value> {
    let mut content = Map::from_iter([("membership".to_owned(), membership.into())]);
    if let Some(displayname) = displayname {
        content.insert("displayname".to_owned(), displayname.into());
    }
    if let Some(avatar_url) = avatar_url {
        content.insert("avatar_url".to_owned(), avatar_url.as_str().into());
    }
    content
}

/// The content of a new room's `m.room.power_levels`.
///
/// # Errors
/// As [`initial_events`].
pub fn power_levels(room: &NewRoom, version: &RoomVersion) -> Result<Map<String, Value>, Refusal> {
    let rules = &version.rules().authorization;
    let replaced = object(room.power_level_content_override.as_deref(), "power_level_content_override")?;
    // What `initial_state` says comes after what is generated, and so in its place.
    let mut content = match room.initial(&StateEventType::RoomPowerLevels) {
        Some(state) => object(Some(&state.content), "content")?,
        None => {
            let mut content = default_power_levels(room, version);
            content.extend(replaced);
            content
        }
    };
    if rules.explicitly_privilege_room_creators {
        // «… MUST be explicitly defined and given a power level higher than `state_default` … Clients may override
        // this».
        let state_default = content.get("state_default").and_then(Value::as_i64).unwrap_or(50);
        let level = state_default.saturating_add(1).max(TOMBSTONE_LEVEL_V12);
        let events = content.entry("events").or_insert_with(|| json!({}));
        if let Value::Object(events) = events {
            events.entry("m.room.tombstone").or_insert_with(|| level.into());
        }
        let creators = creators(room, version)?;
        let users = content.get("users").and_then(Value::as_object);
        if let Some(creator) =
            creators.iter().find(|creator| users.is_some_and(|users| users.contains_key(creator.as_str())))
        {
            let sentence = format!("{creator} is a creator of the room and cannot be named in its power levels");
            return Err(Refusal::InvalidRoomState(sentence));
        }
    }
    check_levels(&content).map_err(|refusal| Refusal::InvalidRoomState(refusal.to_string()))?;
    Ok(content)
}

/// Refused: `BadJson` for levels that are no integers. Some versions take texts; nobody is to make any more of them.
/// Spec: Server-Server API, "Auth rules": «reasonable precautions to prevent users from sending new power level events
/// with string values».
pub fn check_levels(content: &Map<String, Value>) -> Result<(), Refusal> {
    const LEVELS: [&str; 7] = ["ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"];
    let is_no_level = |level: &Value| level.as_i64().is_none();
    let wrong = |name: &str| Err(Refusal::BadJson(format!("`{name}`: a power level is an integer")));
    for name in LEVELS {
        if content.get(name).is_some_and(is_no_level) {
            return wrong(name);
        }
    }
    for name in ["events", "notifications", "users"] {
        match content.get(name) {
            None => {}
            Some(Value::Object(levels)) if !levels.values().any(is_no_level) => {}
            Some(_) => return wrong(name),
        }
    }
    Ok(())
}

/// Makes an upgrade take more than `state_default`, as v12 wants it, in levels that come from elsewhere.
pub(crate) fn raise_tombstone(content: &mut Map<String, Value>) {
    let state_default = content.get("state_default").and_then(Value::as_i64).unwrap_or(50);
    let events = content.entry("events").or_insert_with(|| json!({}));
    if let Value::Object(events) = events
        && events.get("m.room.tombstone").and_then(Value::as_i64).is_none_or(|level| level <= state_default)
    {
        let level = state_default.saturating_add(1).max(TOMBSTONE_LEVEL_V12);
        events.insert("m.room.tombstone".to_owned(), level.into());
    }
}

/// Above every level an administrator can reach: an upgrade is for creators.
const TOMBSTONE_LEVEL_V12: i64 = 150;

fn default_power_levels(room: &NewRoom, version: &RoomVersion) -> Map<String, Value> {
    let mut users = Map::new();
    let creators_are_named = !version.rules().authorization.explicitly_privilege_room_creators;
    if creators_are_named {
        users.insert(room.creator.to_string(), 100.into());
        // «All invitees are given the same power level as the room creator.»
        if room.preset == Preset::TrustedPrivateChat {
            users.extend(room.invite.iter().map(|invitee| (invitee.user_id.to_string(), 100.into())));
        }
    }
    let tombstone = if creators_are_named { 100 } else { TOMBSTONE_LEVEL_V12 };
    Map::from_iter([
        ("ban".to_owned(), 50.into()),
        (
            "events".to_owned(),
            json!({
                "m.room.avatar": 50,
                "m.room.canonical_alias": 50,
                "m.room.encryption": 100,
                "m.room.history_visibility": 100,
                "m.room.name": 50,
                "m.room.power_levels": 100,
                "m.room.server_acl": 100,
                "m.room.tombstone": tombstone,
            }),
        ),
        ("events_default".to_owned(), 0.into()),
        ("invite".to_owned(), room.preset.invite_level().into()),
        ("kick".to_owned(), 50.into()),
        ("redact".to_owned(), 50.into()),
        ("state_default".to_owned(), 50.into()),
        ("users".to_owned(), Value::Object(users)),
        ("users_default".to_owned(), 0.into()),
    ])
}

fn object(raw: Option<&RawValue>, name: &str) -> Result<Map<String, Value>, Refusal> {
    let Some(raw) = raw else { return Ok(Map::new()) };
    serde_json::from_str(raw.get()).map_err(|error| Refusal::BadJson(format!("`{name}` is not an object: {error}")))
}

#[cfg(test)]
mod tests;
