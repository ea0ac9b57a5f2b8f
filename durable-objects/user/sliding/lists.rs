//! The user's rooms in the order of their news, and which of them a list has.

use std::collections::{BTreeMap, HashMap, HashSet};

use platform::Sql;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{ListFilters, SlidingList, connection::View};
use crate::{
    Cx, Error,
    room::Facts,
    user::{
        ask_invite,
        get_asked::inviter,
        ignored::ignored_users,
        moves::Moves,
        store::{self, account_data::GLOBAL, rooms::KnownRoom},
        tags::TAG,
        transfer_settings::DIRECT,
    },
};

/// A room that lists may have.
pub(super) struct Candidate<'a> {
    pub room: &'a KnownRoom,
    /// The time of its last news, as it is known here.
    recency: u64,
    /// For an invitation or a knock: what is shown of it.
    pub shown: Option<Shown>,
}

/// What is known of a room by what is shown to who is not in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    facts: Facts,
    pub is_direct: bool,
}

impl Shown {
    /// From stripped state, a JSON array.
    pub(super) fn of(state: &str, user_id: &str) -> Self {
        #[derive(Deserialize)]
        struct Stripped {
            #[serde(rename = "type")]
            event_type: String,
            state_key: String,
            content: HashMap<String, Value>,
        }
        let events: Vec<Box<RawValue>> = serde_json::from_str(state).unwrap_or_default();
        let mut shown = Self::default();
        for event in events.iter().filter_map(|event| serde_json::from_str::<Stripped>(event.get()).ok()) {
            let content = |field: &str| event.content.get(field);
            match (event.event_type.as_str(), event.state_key.as_str()) {
                ("m.room.create", "") => {
                    shown.facts.room_type = content("type").and_then(Value::as_str).map(ToOwned::to_owned);
                }
                ("m.room.encryption", "") => shown.facts.encrypted = true,
                ("m.room.member", key) if key == user_id => {
                    shown.is_direct = content("is_direct").and_then(Value::as_bool).unwrap_or(false);
                }
                _ => {}
            }
        }
        shown
    }
}

/// The rooms that lists may have, the one with the last news first: those the user is in, invited to, or knocks on.
pub(super) fn candidates<'a>(
    sql: &dyn Sql,
    cx: &Cx<'_>,
    rooms: &'a [KnownRoom],
    moves: &Moves,
    view: Option<View<'_>>,
) -> Result<Vec<Candidate<'a>>, Error> {
    let has_invites = rooms.iter().any(|room| room.membership == "invite");
    let invites_blocked = has_invites && ask_invite::blocks_invites(sql)?;
    let ignored = if has_invites { ignored_users(sql, cx)? } else { Vec::new() };
    let mut candidates = Vec::with_capacity(rooms.len());
    for room in rooms {
        let mut shown = None;
        let recency = match room.membership.as_str() {
            "join" => {
                let sent = view.and_then(|view| view.sent(room.number)).map_or(0, |sent| sent.reached);
                moves.told(room.number).max(room.effect).max(sent)
            }
            asked @ ("invite" | "knock") => {
                let is_invite = asked == "invite";
                if is_invite && invites_blocked {
                    continue;
                }
                let state = store::rooms::stripped_state(sql, &room.room_id, asked)?.unwrap_or_default();
                // «Servers must not send room invites from ignored users to clients».
                if is_invite && inviter(&state, cx.id).is_some_and(|user| ignored.contains(&user)) {
                    continue;
                }
                shown = Some(Shown::of(&state, cx.id));
                room.changed
            }
            _ => continue,
        };
        candidates.push(Candidate { room, recency, shown });
    }
    candidates.sort_by_key(|candidate| std::cmp::Reverse((candidate.recency, candidate.room.number)));
    Ok(candidates)
}

/// What the account says of rooms, read once it is asked for.
pub(super) struct Account<'a> {
    sql: &'a dyn Sql,
    direct: Option<HashSet<String>>,
    tags: Option<BTreeMap<String, HashSet<String>>>,
}

impl<'a> Account<'a> {
    pub(super) fn new(sql: &'a dyn Sql) -> Self {
        Self { sql, direct: None, tags: None }
    }

    /// Whether a room is a direct chat.
    pub(super) fn is_dm(&mut self, room_id: &str) -> Result<bool, Error> {
        let direct = match self.direct.take() {
            Some(direct) => direct,
            None => {
                let content = store::account_data::get(self.sql, GLOBAL, DIRECT)?;
                let users: BTreeMap<String, Value> =
                    content.and_then(|content| serde_json::from_str(&content).ok()).unwrap_or_default();
                let rooms = users.values().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
                rooms.map(ToOwned::to_owned).collect()
            }
        };
        Ok(self.direct.insert(direct).contains(room_id))
    }

    /// Whether a room has one of these tags.
    fn has_tag(&mut self, room_id: &str, wanted: &[String]) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Content {
            tags: HashMap<String, serde::de::IgnoredAny>,
        }
        let tags = match self.tags.take() {
            Some(tags) => tags,
            None => {
                let mut tags = BTreeMap::new();
                for (room_id, content) in store::account_data::of_type(self.sql, TAG)? {
                    let content = serde_json::from_str::<Content>(&content).ok();
                    tags.extend(content.map(|content| (room_id, content.tags.into_keys().collect())));
                }
                tags
            }
        };
        let tags = self.tags.insert(tags);
        Ok(tags.get(room_id).is_some_and(|tags: &HashSet<String>| wanted.iter().any(|tag| tags.contains(tag))))
    }
}

/// The rooms of a list, and those of which it is not known whether they are in it; by their places among the
/// candidates.
pub(super) struct Listed {
    pub rooms: Vec<usize>,
    pub unknown: Vec<usize>,
}

impl Listed {
    pub(super) fn of(
        list: &SlidingList,
        candidates: &[Candidate<'_>],
        account: &mut Account<'_>,
    ) -> Result<Self, Error> {
        let mut listed = Self { rooms: Vec::new(), unknown: Vec::new() };
        let within: Option<HashSet<&str>> =
            list.filters.within.as_ref().map(|rooms| rooms.iter().map(|room_id| room_id.as_str()).collect());
        for (place, candidate) in candidates.iter().enumerate() {
            if within.as_ref().is_some_and(|rooms| !rooms.contains(candidate.room.room_id.as_str())) {
                continue;
            }
            match list.filters.allow(candidate, account)? {
                Some(true) => listed.rooms.push(place),
                Some(false) => {}
                None => listed.unknown.push(place),
            }
        }
        Ok(listed)
    }

    /// Those in the list's windows.
    pub(super) fn in_windows(&self, list: &SlidingList) -> Vec<usize> {
        let is_shown = |index: usize| {
            let index = index as u64;
            list.ranges.as_ref().is_none_or(|ranges| ranges.iter().any(|(from, to)| (*from..=*to).contains(&index)))
        };
        self.rooms.iter().enumerate().filter(|(index, _)| is_shown(*index)).map(|(_, place)| *place).collect()
    }
}

impl ListFilters {
    /// Whether the filters let a room through; `None`: that is not known.
    fn allow(&self, candidate: &Candidate<'_>, account: &mut Account<'_>) -> Result<Option<bool>, Error> {
        let Candidate { room, shown, .. } = candidate;
        if self.is_invite.is_some_and(|wanted| wanted != (room.membership == "invite")) {
            return Ok(Some(false));
        }
        if let Some(wanted) = self.is_dm {
            let is_direct = shown.as_ref().is_some_and(|shown| shown.is_direct);
            if wanted != (is_direct || account.is_dm(&room.room_id)?) {
                return Ok(Some(false));
            }
        }
        if !self.not_tags.is_empty() && account.has_tag(&room.room_id, &self.not_tags)? {
            return Ok(Some(false));
        }
        if let Some(tags) = &self.tags
            && !account.has_tag(&room.room_id, tags)?
        {
            return Ok(Some(false));
        }
        if self.is_encrypted.is_none() && self.room_types.is_none() && self.not_room_types.is_empty() {
            return Ok(Some(true));
        }
        let Some(facts) = shown.as_ref().map(|shown| &shown.facts).or(room.facts.as_ref()) else { return Ok(None) };
        Ok(Some(
            self.is_encrypted.is_none_or(|wanted| wanted == facts.encrypted)
                && self.room_types.as_ref().is_none_or(|types| types.contains(&facts.room_type))
                // «`not_room_types` wins and they are not included in the result.»
                && !self.not_room_types.contains(&facts.room_type),
        ))
    }
}
