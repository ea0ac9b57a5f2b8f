//! `POST /search`. Spec: "Server Side Search".
//!
//! Each of the user's rooms is asked for no more than a page, and what they find is put in order. A token says where in
//! that order a page ended, so that nothing need be remembered; what it costs to go on does not depend on how many
//! pages there were. Who has more rooms than one request asks is shown what is in those where something happened last,
//! and then what is in the next ones: the order is one within such a part.

mod answer;
mod token;

use std::{cell::Cell, collections::BTreeSet};

use actors::{
    room::{Found, Hit, Search, SearchKey, SearchOrder, WantedContext},
    user::{GetSearchRooms, SearchRooms},
};
use bytes::Bytes;
use domain::Refusal;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use ruma_client_api::filter::RoomEventFilter;
use ruma_common::{OwnedRoomId, OwnedUserId, RoomId};
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

/// Rooms in one part: the most that are asked for one page, if anything is found there.
const PART_ROOMS: u64 = if cfg!(test) { 6 } else { 800 };
/// Parts that one request goes through while nothing is found.
const PARTS_MAX: usize = 3;
/// Rooms asked at the same time.
const ROOMS_AT_ONCE: usize = 16;
/// How often a room is asked that has not indexed everything yet.
const ASKED_MAX: usize = 5;
/// How often rooms are asked again in one request, all together.
const ASKED_AGAIN_MAX: usize = 400;
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
    let Some(criteria) = asked.search_categories.room_events else {
        // No room asks who it is.
        bearer.verify(cx).await?;
        return Ok(json_body(of_nothing().into()));
    };
    if criteria.search_term.len() > TERM_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A search term has {TERM_BYTES_MAX} bytes at most")).into());
    }
    checked_room_events("filter", &criteria.filter)?;
    let token = query.next_batch.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    let asks_left = Cell::new(ASKED_AGAIN_MAX);
    let searching = Searching { cx, bearer: &bearer, criteria: &criteria, asks_left: &asks_left };
    let found = searching.page(token).await?;
    Ok(json_body(Answer { searching, found }.body().await?))
}

/// One search.
#[derive(Clone, Copy)]
struct Searching<'a> {
    cx: &'a Context,
    bearer: &'a Bearer,
    criteria: &'a Criteria,
    /// How often a room may be asked again.
    asks_left: &'a Cell<usize>,
}

/// A page of what was found, in its order.
struct FoundPage {
    /// Who asks, and whom they ignore.
    rooms: SearchRooms,
    matches: Vec<Match>,
    /// Rooms of which there is more.
    rooms_with_more: BTreeSet<OwnedRoomId>,
    count: u64,
    next: Option<Token>,
}

/// An event that matches, and its place in the order of all.
struct Match {
    place: Place,
    hit: Hit,
}

/// The first matches of the rooms that were asked.
struct Best {
    order: SearchOrder,
    limit: usize,
    matches: Vec<Match>,
    /// Whether there were more than these.
    is_cut: bool,
    rooms_with_more: BTreeSet<OwnedRoomId>,
    count: u64,
    /// Behind it a room may have more: what others have there has to wait.
    floor: Option<Place>,
}

impl Best {
    fn new(order: SearchOrder, limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let rooms_with_more = BTreeSet::new();
        Self { order, limit, matches: Vec::new(), is_cut: false, rooms_with_more, count: 0, floor: None }
    }

    fn take_in(&mut self, room_id: &RoomId, found: Found) {
        self.count = self.count.saturating_add(found.count);
        if let Some(reached) = found.reached {
            self.rooms_with_more.insert(room_id.to_owned());
            self.floor = self.floor.take().max(Some(Place::of(self.order, reached.score, reached.position, room_id)));
        }
        let place = |hit: &Hit| Place::of(self.order, hit.score, hit.position, room_id);
        self.matches.extend(found.hits.into_iter().map(|hit| Match { place: place(&hit), hit }));
        self.matches.sort_unstable_by(|one, other| other.place.cmp(&one.place));
        if self.matches.len() > self.limit {
            self.is_cut = true;
            self.wait(self.limit);
        }
    }

    /// What comes from there on is for a later page.
    fn wait(&mut self, from: usize) {
        let later = self.matches.split_off(from);
        self.rooms_with_more.extend(later.into_iter().map(|it| it.place.room_id));
    }

    /// The page, and behind which place the next one begins, if there is one in this part.
    fn settle(mut self) -> (Self, Option<Place>) {
        let in_order = self.matches.partition_point(|it| self.floor.as_ref().is_none_or(|floor| it.place >= *floor));
        let is_at_the_floor = in_order < self.matches.len() || !self.is_cut;
        self.wait(in_order);
        if self.rooms_with_more.is_empty() {
            return (self, None);
        }
        let floor = self.floor.take().filter(|_| is_at_the_floor);
        let last = floor.or_else(|| self.matches.last().map(|last| last.place.clone()));
        (self, last)
    }
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
        let mut best = Best::new(self.criteria.order_by, self.limit());
        let mut found = stream::iter(&rooms.rooms)
            .map(async |room_id| (room_id, self.in_room(&rooms, room_id, token).await))
            .buffer_unordered(ROOMS_AT_ONCE);
        while let Some((room_id, found)) = found.next().await {
            best.take_in(room_id, found);
        }
        drop(found);
        let (best, last) = best.settle();
        let (below, group) = (token.below, token.group.clone());
        let next = match last {
            Some(last) => Some(Token { below, after: Some(last), group }),
            None => rooms.next_below.map(|below| Token { below: Some(below), after: None, group }),
        };
        let Best { matches, rooms_with_more, count, .. } = best;
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
                Ok(found) if found.unfinished && asked < ASKED_MAX && self.asks_left.get() > 0 => {
                    asked = asked.saturating_add(1);
                    self.asks_left.set(self.asks_left.get().saturating_sub(1));
                }
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
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::{Criteria, PART_ROOMS};
    use crate::testing::TestServer;

    struct Story {
        server: TestServer,
        alice: String,
    }

    impl Story {
        fn begins() -> Self {
            let server = TestServer::new(&[("REGISTRATION", "open")]);
            let alice = server.register("alice");
            Self { server, alice }
        }

        fn rooms(&self, count: u64) -> Vec<String> {
            let create = || {
                self.server.pass_ms(1_000);
                let (_, created) = self.server.post("/_matrix/client/v3/createRoom", &self.alice, &json!({}));
                created["room_id"].as_str().unwrap().to_owned()
            };
            (0..count).map(|_| create()).collect()
        }

        fn says(&self, room: &str, text: &str) {
            self.server.pass_ms(1_000);
            let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{}", text.replace(' ', "_"));
            let (status, answer) = self.server.put(&path, &self.alice, &json!({ "msgtype": "m.text", "body": text }));
            assert_eq!(status, 200, "{answer}");
        }

        fn page(&self, order: &str, limit: u64, from: Option<&str>) -> Value {
            let criteria = json!({ "search_term": "apple", "order_by": order, "filter": { "limit": limit } });
            let query = from.map(|from| format!("?next_batch={from}")).unwrap_or_default();
            let body = json!({ "search_categories": { "room_events": criteria } });
            let (_, found) = self.server.post(&format!("/_matrix/client/v3/search{query}"), &self.alice, &body);
            found["search_categories"]["room_events"].clone()
        }

        fn pages(&self, order: &str, limit: u64) -> Vec<String> {
            let (mut all, mut from) = (Vec::new(), None);
            loop {
                let page = self.page(order, limit, from.as_deref());
                let results = page["results"].as_array().unwrap();
                all.extend(results.iter().map(|it| it["result"]["content"]["body"].as_str().unwrap().to_owned()));
                from = page["next_batch"].as_str().map(str::to_owned);
                if from.is_none() {
                    return all;
                }
            }
        }
    }

    #[test]
    fn the_order_is_one_over_all_rooms() {
        let story = Story::begins();
        let rooms = story.rooms(PART_ROOMS);
        let mut said: Vec<String> = (0..20)
            .map(|number| {
                // Some rooms have more than others.
                let text = format!("apple {number}");
                story.says(&rooms[(number * number) % rooms.len()], &text);
                text
            })
            .collect();
        said.reverse();
        for limit in [1, 3, 7, 20, 50] {
            assert_eq!(story.pages("recent", limit), said, "by {limit}");
            let ranked = story.pages("rank", limit);
            assert_eq!(ranked.len(), said.len(), "by {limit}");
            assert_eq!(ranked.iter().collect::<BTreeSet<_>>().len(), said.len(), "by {limit}, each once");
        }
        assert_eq!(story.page("recent", 3, None)["count"], json!(20));
    }

    #[test]
    fn of_many_rooms_those_come_first_where_something_happened_last() {
        let story = Story::begins();
        let rooms = story.rooms(PART_ROOMS * 2 + 1);
        // The user is told of what happens from now on.
        story.server.get("/_matrix/client/v3/sync", &story.alice);
        // The oldest room is the liveliest.
        for (number, room) in rooms.iter().rev().enumerate() {
            story.says(room, &format!("apple {number}"));
        }
        let newest_first: Vec<String> = (0..rooms.len()).rev().map(|number| format!("apple {number}")).collect();
        for limit in [1, 4, 50] {
            assert_eq!(story.pages("recent", limit), newest_first, "by {limit}");
        }
        assert_eq!(story.page("recent", 1, None)["count"], json!(PART_ROOMS));
    }

    #[test]
    fn a_key_counts_once_however_often_it_is_named() {
        let keys = vec!["content.body"; 10_000];
        let criteria: Criteria = serde_json::from_value(json!({ "search_term": "a", "keys": keys })).unwrap();
        assert_eq!(criteria.keys.map(|keys| keys.len()), Some(1));
    }
}
