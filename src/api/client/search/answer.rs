//! The answer to a search: what was found with what is around it, in groups, and the state of the rooms.

use std::collections::{BTreeMap, HashMap};

use actors::room::{EventFilter, GetSearchResults, GetState, ResultContext, SearchResult};
use futures_util::{StreamExt, stream};
use ruma_common::OwnedRoomId;
use serde::Serialize;
use serde_json::value::RawValue;
use tracing::warn;

use super::{
    Criteria, FoundPage, GroupKey, Match, ROOMS_AT_ONCE, Searching,
    token::{Group, Token},
};
use crate::{
    Body, Failure,
    client::rooms::pages::{Rest, of_state},
};

/// Bytes of events in an answer after which results come with nothing around them.
const RESULT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a score is in the answer.
const SCORE_UNIT: f64 = 1e-9;

/// What was found, on its way to the client.
pub(super) struct Answer<'a> {
    pub searching: Searching<'a>,
    pub found: FoundPage,
}

#[derive(Serialize)]
struct RoomEvents<'a> {
    count: u64,
    highlights: Vec<String>,
    results: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<BTreeMap<&'a str, BTreeMap<String, GroupOf>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    rank: f64,
    result: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<ResultContext>,
}

#[derive(Default, Serialize)]
struct GroupOf {
    results: Vec<String>,
    order: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// The answer when no category was asked for.
pub(super) fn of_nothing() -> Vec<u8> {
    br#"{"search_categories":{}}"#.to_vec()
}

impl Answer<'_> {
    pub(super) async fn body(self) -> Result<Body, Failure> {
        let mut shown = self.shown().await;
        let Self { searching, found } = self;
        let room_events = RoomEvents {
            count: found.count,
            highlights: highlights(&searching.criteria.search_term),
            groups: groups(searching.criteria, &found)?,
            results: found
                .matches
                .iter()
                .filter_map(|it| {
                    let SearchResult { result, context, .. } = shown.remove(&at(it))?;
                    Some(Shown { rank: it.hit.score as f64 * SCORE_UNIT, result, context })
                })
                .collect(),
            next_batch: found.next.as_ref().map(Token::encoded).transpose()?,
        };
        let mut open = format!(r#"{{"search_categories":{{"room_events":{}"#, serde_json::to_string(&room_events)?);
        if !searching.criteria.include_state {
            open.push_str("}}");
            return Ok(open.into_bytes().into());
        }
        open.truncate(open.len().saturating_sub(1));
        open.push_str(r#","state":{"#);
        Ok(with_state(searching, &found, open))
    }

    /// The results, each room's asked for at once.
    async fn shown(&self) -> HashMap<(OwnedRoomId, u64), SearchResult> {
        let Searching { cx, bearer, criteria, .. } = self.searching;
        let rooms = &self.found.rooms;
        let mut positions: BTreeMap<&OwnedRoomId, Vec<u64>> = BTreeMap::new();
        for it in &self.found.matches {
            positions.entry(&it.place.room_id).or_default().push(it.place.position);
        }
        let bytes_max = RESULT_BYTES_MAX.checked_div(positions.len()).unwrap_or(RESULT_BYTES_MAX);
        let of_rooms = stream::iter(positions)
            .map(async |(room_id, positions)| {
                let call = GetSearchResults {
                    user: bearer.user_id.clone(),
                    device: rooms.device.clone(),
                    ignored: rooms.ignored.clone(),
                    positions,
                    context: criteria.event_context.as_ref().map(super::EventContext::wanted),
                    bytes_max,
                };
                let results = cx.room(room_id).call(&call).await.unwrap_or_else(|failure| {
                    warn!(%room_id, fault = %failure.into_fault(), "a room does not show what was found");
                    Vec::new()
                });
                (room_id, results)
            })
            .buffer_unordered(ROOMS_AT_ONCE);
        let mut shown = HashMap::new();
        let mut of_rooms = std::pin::pin!(of_rooms);
        while let Some((room_id, results)) = of_rooms.next().await {
            shown.extend(results.into_iter().map(|result| ((room_id.clone(), result.position), result)));
        }
        shown
    }
}

fn at(it: &Match) -> (OwnedRoomId, u64) {
    (it.place.room_id.clone(), it.place.position)
}

/// The words of a search term, as they are to be made out in the results.
fn highlights(term: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in term.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let word = word.to_lowercase();
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

type Groups = BTreeMap<&'static str, BTreeMap<String, GroupOf>>;

/// The results in groups, if that was asked for.
fn groups(criteria: &Criteria, found: &FoundPage) -> Result<Option<Groups>, Failure> {
    let keys: Vec<GroupKey> = criteria.groupings.group_by.iter().map(|grouping| grouping.key).collect();
    let mut groups = Groups::new();
    for key in &keys {
        let name = match key {
            GroupKey::RoomId => "room_id",
            GroupKey::Sender => "sender",
        };
        let mut of_key: BTreeMap<String, GroupOf> = BTreeMap::new();
        for it in &found.matches {
            let (room_id, sender) = (&it.place.room_id, &it.hit.sender);
            // Of a sender there may be more wherever there is more at all.
            let (value, group, has_more) = match key {
                GroupKey::RoomId => {
                    (room_id.to_string(), Group::Room(room_id.clone()), found.rooms_with_more.contains(room_id))
                }
                GroupKey::Sender => (sender.to_string(), Group::Sender(sender.clone()), found.next.is_some()),
            };
            let order = of_key.len().saturating_add(1);
            let group_of = match of_key.entry(value) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    let next = found.next.clone().filter(|_| has_more);
                    let next = next.map(|next| Token { group: Some(group), ..next }.encoded()).transpose()?;
                    new.insert(GroupOf { order, next_batch: next, ..GroupOf::default() })
                }
            };
            group_of.results.push(it.hit.event_id.to_string());
        }
        groups.insert(name, of_key);
    }
    Ok((!keys.is_empty()).then_some(groups))
}

/// The answer with the current state of each room, which is asked for while it is sent.
fn with_state(searching: Searching<'_>, found: &FoundPage, open: String) -> Body {
    let mut rooms: Vec<OwnedRoomId> = Vec::new();
    for it in &found.matches {
        if !rooms.contains(&it.place.room_id) {
            rooms.push(it.place.room_id.clone());
        }
    }
    let (cx, user, device) = (searching.cx.clone(), searching.bearer.user_id.clone(), found.rooms.device.clone());
    let states = stream::iter(rooms.into_iter().enumerate()).flat_map(move |(index, room_id)| {
        let comma = if index == 0 { "" } else { "," };
        let begin = serde_json::to_string(&room_id).map(|name| format!("{comma}{name}:[").into());
        let rest = Rest {
            cx: cx.clone(),
            room_id,
            next: Some(GetState {
                user: user.clone(),
                device: device.clone(),
                at: None,
                after: None,
                filter: EventFilter::default(),
                synced: None,
            }),
            has_items: false,
            turn: of_state,
            end: Some((String::new(), "]")),
        };
        stream::iter([begin.map_err(Into::into)]).chain(rest.pieces())
    });
    Body::pieces(stream::iter([Ok(open.into())]).chain(states).chain(stream::iter([Ok("}}}}".into())])))
}
