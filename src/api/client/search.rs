//! `POST /search`. Spec: "Server Side Search".
//!
//! The user's rooms are gone through in parts, the newest first. In each part the rooms are asked at the same time, each
//! for no more than a page, and what they find is put in order. A token says where in that order a page ended, so that
//! nothing need be remembered; what it costs to go on does not depend on how many pages there were.

mod answer;
mod token;

use std::collections::BTreeSet;

use actors::{
    room::{Found, Hit, Search, SearchKey, SearchOrder, WantedContext},
    user::{GetSearchRooms, SearchRooms},
};
use bytes::Bytes;
use domain::Refusal;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use ruma_client_api::filter::RoomEventFilter;
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use tracing::warn;

use self::{
    answer::{Answer, of_nothing},
    token::{Group, Place, Token},
};
use super::{
    filter::checked_room_events,
    rooms::{event_filter, wants_room},
};
use crate::{
    Bearer, Body, Context, Failure, Routes,
    router::{bad_json, json_body, query},
};

/// Rooms in one part.
const PART_ROOMS: u64 = 100;
/// Parts that one request goes through while nothing is found.
const PARTS_MAX: usize = 3;
/// Rooms asked at the same time.
const ROOMS_AT_ONCE: usize = 16;
/// How often a room is asked that has not indexed everything yet.
const ASKED_MAX: usize = 5;
/// Results on a page when the client names no number, and the most.
const RESULTS_DEFAULT: u64 = 10;
const RESULTS_MAX: u64 = 50;
/// Events before a result, and after it, when the client names no number.
const CONTEXT_EVENTS_DEFAULT: u64 = 5;
/// The longest search term, in bytes.
const TERM_BYTES_MAX: usize = 4 * 1024;

pub(super) fn routes(routes: &mut Routes) {
    // Not ruma's types: to them, an event context that says nothing is none.
    for path in ["/_matrix/client/v3/search", "/_matrix/client/r0/search"] {
        routes.add_raw(Method::POST, path, search);
    }
}

#[derive(Deserialize)]
struct Asked {
    search_categories: Categories,
}

#[derive(Deserialize)]
struct Categories {
    room_events: Option<Criteria>,
}

/// What is searched for. Spec: `POST /search`, `room_events`.
#[derive(Deserialize)]
struct Criteria {
    search_term: String,
    #[serde(default)]
    keys: Option<BTreeSet<SearchKey>>,
    #[serde(default)]
    filter: RoomEventFilter,
    #[serde(default)]
    order_by: SearchOrder,
    event_context: Option<EventContext>,
    #[serde(default)]
    include_state: bool,
    #[serde(default)]
    groupings: Groupings,
}

#[derive(Deserialize)]
struct EventContext {
    before_limit: Option<u64>,
    after_limit: Option<u64>,
    #[serde(default)]
    include_profile: bool,
}

#[derive(Default, Deserialize)]
struct Groupings {
    #[serde(default)]
    group_by: Vec<Grouping>,
}

#[derive(Deserialize)]
struct Grouping {
    key: GroupKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GroupKey {
    RoomId,
    Sender,
}

impl EventContext {
    fn wanted(&self) -> WantedContext {
        WantedContext {
            before: self.before_limit.unwrap_or(CONTEXT_EVENTS_DEFAULT),
            after: self.after_limit.unwrap_or(CONTEXT_EVENTS_DEFAULT),
            profiles: self.include_profile,
        }
    }
}

/// `POST /search`.
async fn search(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Body>, Failure> {
    #[derive(Deserialize)]
    struct Query {
        next_batch: Option<String>,
    }
    let query: Query = query(&request)?;
    let asked: Asked = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let Some(criteria) = asked.search_categories.room_events else { return Ok(json_body(of_nothing().into())) };
    if criteria.search_term.len() > TERM_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("a search term has {TERM_BYTES_MAX} bytes at most")).into());
    }
    checked_room_events("filter", &criteria.filter)?;
    let token = query.next_batch.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    let searching = Searching { cx, bearer: &bearer, criteria: &criteria };
    let found = searching.page(token).await?;
    Ok(json_body(Answer { searching, found }.body().await?))
}

/// One search.
#[derive(Clone, Copy)]
struct Searching<'a> {
    cx: &'a Context,
    bearer: &'a Bearer,
    criteria: &'a Criteria,
}

/// A page of what was found, in its order.
struct FoundPage {
    /// Who asks, and whom they ignore.
    rooms: SearchRooms,
    matches: Vec<Match>,
    /// Rooms and senders of whom there is more in this part.
    rooms_with_more: Vec<OwnedRoomId>,
    count: u64,
    next: Option<Token>,
}

/// An event that matches, and its place in the order of all.
struct Match {
    place: Place,
    hit: Hit,
}

impl Searching<'_> {
    fn limit(&self) -> u64 {
        self.criteria.filter.limit.map_or(RESULTS_DEFAULT, Into::into).clamp(1, RESULTS_MAX)
    }

    /// The next page from a place on: of the first part in which anything is found.
    async fn page(&self, mut token: Token) -> Result<FoundPage, Failure> {
        let mut parts: usize = 1;
        loop {
            let page = self.part(&token).await?;
            match &page.next {
                Some(next) if page.matches.is_empty() && parts < PARTS_MAX => token = next.clone(),
                _ => return Ok(page),
            }
            parts = parts.saturating_add(1);
        }
    }

    /// What is found in one part of the rooms.
    async fn part(&self, token: &Token) -> Result<FoundPage, Failure> {
        let mut rooms = self.rooms(token).await?;
        let filter = &self.criteria.filter;
        rooms.rooms.retain(|room_id| wants_room(filter.rooms.as_deref(), &filter.not_rooms, room_id));
        let found: Vec<(&OwnedRoomId, Found)> = stream::iter(&rooms.rooms)
            .map(async |room_id| (room_id, self.in_room(&rooms, room_id, token).await))
            .buffer_unordered(ROOMS_AT_ONCE)
            .collect()
            .await;
        let order = self.criteria.order_by;
        let (mut matches, mut rooms_with_more, mut count, mut floor) = (Vec::new(), Vec::new(), 0_u64, None);
        for (room_id, found) in found {
            count = count.saturating_add(found.count);
            if let Some(reached) = found.reached {
                rooms_with_more.push(room_id.clone());
                // Behind it a room may have more: what others have there has to wait.
                floor = floor.max(Some(Place::of(order, reached.score, reached.position, room_id)));
            }
            let matched = |hit: Hit| Match { place: Place::of(order, hit.score, hit.position, room_id), hit };
            matches.extend(found.hits.into_iter().map(matched));
        }
        matches.sort_unstable_by(|one, other| other.place.cmp(&one.place));
        let in_order = matches.partition_point(|it| floor.as_ref().is_none_or(|floor| it.place >= *floor));
        let taken = usize::try_from(self.limit()).unwrap_or(usize::MAX).min(in_order);
        for left in matches.split_off(taken) {
            if !rooms_with_more.contains(&left.place.room_id) {
                rooms_with_more.push(left.place.room_id);
            }
        }
        let (below, group) = (token.below, token.group.clone());
        let next = if rooms_with_more.is_empty() {
            rooms.next_below.map(|below| Token { below: Some(below), after: None, group })
        } else {
            let last = if taken < in_order { None } else { floor };
            let last = last.or_else(|| matches.last().map(|last| last.place.clone()));
            Some(Token { below, after: last, group })
        };
        Ok(FoundPage { rooms, matches, rooms_with_more, count, next })
    }

    /// The rooms of the part that a token stands in.
    async fn rooms(&self, token: &Token) -> Result<SearchRooms, Failure> {
        let only = match &token.group {
            Some(Group::Room(room_id)) => Some(vec![room_id.clone()]),
            _ => self.criteria.filter.rooms.clone(),
        };
        let token_hash = self.bearer.token_hash.clone();
        self.bearer.call(self.cx, &GetSearchRooms { token_hash, below: token.below, only, limit: PART_ROOMS }).await
    }

    /// What is found in one room. One that cannot answer is left out.
    async fn in_room(&self, rooms: &SearchRooms, room_id: &OwnedRoomId, token: &Token) -> Found {
        let call = Search {
            user: self.bearer.user_id.clone(),
            device: rooms.device.clone(),
            ignored: rooms.ignored.clone(),
            words: self.criteria.search_term.split_whitespace().map(str::to_owned).collect(),
            keys: self.criteria.keys.iter().flatten().copied().collect(),
            order: self.criteria.order_by,
            after: token.after.as_ref().map(|place| place.in_room(room_id)),
            limit: self.limit(),
            filter: event_filter(&self.criteria.filter, room_id),
            sender: self.sender(token),
        };
        let mut asked: usize = 1;
        loop {
            match self.cx.room(room_id).call(&call).await {
                Ok(found) if found.unfinished && asked < ASKED_MAX => asked = asked.saturating_add(1),
                Ok(found) => return found,
                Err(Failure::Absent) => return Found::default(),
                Err(failure) => {
                    warn!(%room_id, fault = %failure.into_fault(), "a room could not be searched");
                    return Found::default();
                }
            }
        }
    }

    fn sender(&self, token: &Token) -> Option<OwnedUserId> {
        match &token.group {
            Some(Group::Sender(sender)) => Some(sender.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Criteria;

    #[test]
    fn a_key_counts_once_however_often_it_is_named() {
        let keys = vec!["content.body"; 10_000];
        let criteria: Criteria = serde_json::from_value(json!({ "search_term": "a", "keys": keys })).unwrap();
        assert_eq!(criteria.keys.map(|keys| keys.len()), Some(1));
    }
}
