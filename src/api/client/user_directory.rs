//! Finding people, and the rooms that one shares with them. Spec: "User Directory", "Mutual Rooms".
//!
//! Nothing is stored for a search: the user's own rooms are asked for their members, and rooms that are open to
//! everybody.

use std::collections::{BTreeMap, BTreeSet};

use actors::{
    destination::GetSharedRooms,
    room::{FoundMember, FoundMembers, IsJoined, SearchMembers},
    user::{GetSharedWith, JoinedRooms},
};
use domain::{Refusal, user_search::Term};
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::user_directory::search_users::v3 as search_users;
use ruma_common::{OwnedRoomId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{Bearer, Context, Failure, Routes, failure, metadata::open_room};

/// The most people that are found at once.
const FOUND_MAX: u64 = 50;
/// The longest term, in bytes.
const TERM_BYTES_MAX: usize = 512;
/// The user's own rooms that are asked, the newest of them.
const OWN_ROOMS_MAX: usize = 150;
/// Rooms open to everybody that are asked.
const OPEN_ROOMS_MAX: u64 = 50;
/// Rooms asked at the same time.
const ROOMS_AT_ONCE: usize = 16;
/// The rooms on a page of those that are shared.
const SHARED_ROOMS_MAX: usize = 200;

const MUTUAL_ROOMS: &str = "/_matrix/client/v1/mutual_rooms";

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried_json(search);
    routes.add_raw(Method::GET, MUTUAL_ROOMS, mutual_rooms);
}

/// `POST /user_directory/search`.
async fn search(cx: &Context, bearer: Bearer, request: search_users::Request) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Answer {
        results: Vec<FoundMember>,
        limited: bool,
    }
    if request.search_term.len() > TERM_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A search term may have {TERM_BYTES_MAX} bytes")).into());
    }
    let limit = u64::from(request.limit).min(FOUND_MAX);
    let (rooms, mut limited) = rooms_of_search(cx, &bearer).await?;
    let call = &SearchMembers { user: bearer.user_id.clone(), term: request.search_term, limit };
    let mut answers = stream::iter(rooms)
        .map(|room_id| async move {
            match cx.room(&room_id).call(call).await {
                Err(Failure::Absent) => Ok(FoundMembers::default()),
                answer => answer,
            }
        })
        .buffer_unordered(ROOMS_AT_ONCE);
    let term = Term::new(&call.term);
    let mut found = BTreeMap::new();
    let mut seen = BTreeMap::new();
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        limited |= answer.limited;
        for member in answer.members {
            let Some(place) = member.place(&term) else { continue };
            // Rooms may show somebody by different names: the one that fits best is told.
            let known = seen.entry(member.user_id.clone()).or_insert_with(|| place.clone());
            if *known < place {
                continue;
            }
            found.remove(known);
            known.clone_from(&place);
            found.insert(place, member);
        }
    }
    let limit = usize::try_from(limit).unwrap_or_default();
    limited |= found.len() > limit;
    Ok(serde_json::to_vec(&Answer { results: found.into_values().take(limit).collect(), limited })?)
}

/// The rooms whose members the user may know of, and whether that is not all of them.
async fn rooms_of_search(cx: &Context, bearer: &Bearer) -> Result<(BTreeSet<OwnedRoomId>, bool), Failure> {
    let own = bearer.call(cx, &JoinedRooms { token_hash: bearer.token_hash.clone() }).await?;
    let open = open_room::some(cx.metadata(), OPEN_ROOMS_MAX.saturating_add(1)).await?;
    let limited = own.len() > OWN_ROOMS_MAX || open.len() as u64 > OPEN_ROOMS_MAX;
    let own = own.into_iter().rev().take(OWN_ROOMS_MAX);
    Ok((own.chain(open).collect(), limited))
}

/// `GET /mutual_rooms`.
async fn mutual_rooms(
    cx: &Context,
    bearer: Bearer,
    request: Request<bytes::Bytes>,
    _: Vec<String>,
) -> Result<Response<bytes::Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Query {
        user_id: Option<String>,
        from: Option<String>,
    }
    #[derive(Serialize)]
    struct Answer {
        joined: Vec<OwnedRoomId>,
        count: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_batch: Option<OwnedRoomId>,
    }
    let invalid = |why: &str| Refusal::InvalidParam(why.to_owned());
    let query: Query = serde_html_form::from_str(request.uri().query().unwrap_or_default())
        .map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    let other = query.user_id.ok_or_else(|| Refusal::MissingParam("`user_id` is required".to_owned()))?;
    let other = UserId::parse(other).map_err(|_| invalid("The user id is none"))?;
    if other.validate_strict().is_err() {
        return Err(invalid("This user id is of a historical form").into());
    }
    if other == bearer.user_id {
        return Err(invalid("You share every room with yourself").into());
    }
    let from = query.from.map(OwnedRoomId::try_from).transpose().map_err(|_| invalid("This token is none of ours"))?;
    let own = bearer.call(cx, &JoinedRooms { token_hash: bearer.token_hash.clone() }).await?;
    // What may be shared, of which the rooms of a page are asked where only they know.
    let shared =
        if cx.is_local(&other) { shared_here(cx, &other, own).await? } else { with_server(cx, &other, own).await? };
    let count = shared.len();
    let mut page: Vec<OwnedRoomId> =
        shared.into_iter().filter(|room_id| from.as_ref().is_none_or(|from| room_id > from)).collect();
    let is_more = page.len() > SHARED_ROOMS_MAX;
    page.truncate(SHARED_ROOMS_MAX);
    let next_batch = page.last().cloned().filter(|_| is_more);
    let is_whole = next_batch.is_none() && from.is_none();
    if !cx.is_local(&other) {
        page = joined(cx, &other, page).await?;
    }
    let count = if is_whole { page.len() } else { count };
    Ok(failure::json(StatusCode::OK, &Answer { joined: page, count, next_batch }))
}

/// Those of some rooms that a user of ours is in.
async fn shared_here(cx: &Context, other: &UserId, own: Vec<OwnedRoomId>) -> Result<BTreeSet<OwnedRoomId>, Failure> {
    match cx.user(other).call(&GetSharedWith { rooms: own }).await {
        Ok(shared) => Ok(shared.into_iter().collect()),
        // «If the provided `user_id` is not a valid user, the server MUST return an empty list of rooms.»
        Err(Failure::Absent) => Ok(BTreeSet::new()),
        Err(failure) => Err(failure),
    }
}

/// Those of some rooms that somebody of another user's server is in.
async fn with_server(
    cx: &Context,
    other: &OwnedUserId,
    own: Vec<OwnedRoomId>,
) -> Result<BTreeSet<OwnedRoomId>, Failure> {
    let shared = match cx.call(other.server_name().as_str(), &GetSharedRooms {}).await {
        Err(Failure::Absent) => Vec::new(),
        shared => shared?,
    };
    let own: BTreeSet<_> = own.into_iter().collect();
    Ok(shared.into_iter().filter(|room_id| own.contains(room_id)).collect())
}

/// Those of some rooms that say that the user is in them.
async fn joined(cx: &Context, user_id: &UserId, rooms: Vec<OwnedRoomId>) -> Result<Vec<OwnedRoomId>, Failure> {
    let call = &IsJoined { user: user_id.to_owned() };
    let asked = stream::iter(rooms).map(|room_id| async move {
        let is_joined = cx.room(&room_id).call(call).await?;
        Ok::<_, Failure>(Some(room_id).filter(|_| is_joined))
    });
    let answers: Vec<_> = asked.buffered(ROOMS_AT_ONCE).collect().await;
    answers.into_iter().filter_map(Result::transpose).collect()
}
