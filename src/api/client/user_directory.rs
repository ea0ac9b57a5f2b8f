//! Finding people, and the rooms that one shares with them. Spec: "User Directory", "Mutual Rooms".
//!
//! Nothing is stored for a search: the user's own rooms are asked for their members, and rooms that are open to
//! everybody. Of more of these than are asked at once, each has its turn.

use std::collections::{BTreeMap, BTreeSet};

use actors::{
    destination::GetSharedRooms,
    room::{FoundMember, FoundMembers, IsJoined, MemberProfile, SearchMembers},
    user::{GetSharedWith, JoinedRooms},
};
use domain::{Refusal, user_search::Term};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::user_directory::search_users::v3 as search_users;
use ruma_common::{OwnedRoomId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::rooms::member_profile;
use crate::{Bearer, Context, Failure, Routes, failure, metadata::open_room, router::query};

/// The most people that are found at once.
const FOUND_MAX: u64 = 50;
/// The longest term, in bytes.
const TERM_BYTES_MAX: usize = 512;
/// The user's own rooms that are asked, the newest of them.
const OWN_ROOMS_MAX: usize = 600;
/// Rooms that are asked for one search: where there are more, an answer says that it is limited.
const ROOMS_MAX: usize = if cfg!(test) { 4 } else { 800 };
/// How long it is the turn of the same rooms that are open to everybody, in milliseconds: who looks again finds others.
const TURN_MS: u64 = 5_000;
/// Rooms asked at the same time.
const ROOMS_AT_ONCE: usize = 16;
/// Profiles looked up at the same time.
const PROFILES_AT_ONCE: usize = 16;
/// The rooms on a page of those that are shared.
const SHARED_ROOMS_MAX: usize = if cfg!(test) { 4 } else { 200 };

const MUTUAL_ROOMS: &str = "/_matrix/client/v1/mutual_rooms";
/// As today's clients ask for them: MSC2666, before it was stable.
const MUTUAL_ROOMS_UNSTABLE: &str = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms";

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried_json(search);
    routes.add_raw(Method::GET, MUTUAL_ROOMS, mutual_rooms);
    routes.add_raw(Method::GET, MUTUAL_ROOMS_UNSTABLE, mutual_rooms_unstable);
}

/// `POST /user_directory/search`.
async fn search(cx: &Context, bearer: Bearer, request: search_users::Request) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Answer {
        results: Vec<FoundMember>,
        limited: bool,
    }
    if request.search_term.len() > TERM_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A search term can have at most {TERM_BYTES_MAX} bytes")).into());
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
            // Rooms may show somebody by different names: the one that fits best is told, whichever room answers first.
            let shown = (member.display_name.is_none(), member.display_name.clone(), member.avatar_url.clone());
            let place = (place, shown);
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
    let results = stream::iter(found.into_values().take(limit)).map(|member| as_in_profile(cx, member));
    let results: Vec<_> = results.buffered(PROFILES_AT_ONCE).try_collect().await?;
    Ok(serde_json::to_vec(&Answer { results, limited })?)
}

/// Spec: «`display_name`: The display name of the user», which of users of ours is known: rooms may show another one.
async fn as_in_profile(cx: &Context, member: FoundMember) -> Result<FoundMember, Failure> {
    if !cx.is_local(&member.user_id) {
        return Ok(member);
    }
    let MemberProfile { displayname, avatar_url } = member_profile(cx, &member.user_id).await?;
    Ok(FoundMember { user_id: member.user_id, display_name: displayname, avatar_url })
}

/// The rooms whose members the user may know of, and whether that is not all of them.
async fn rooms_of_search(cx: &Context, bearer: &Bearer) -> Result<(BTreeSet<OwnedRoomId>, bool), Failure> {
    let own = bearer.call(cx, &JoinedRooms { token_hash: bearer.token_hash.clone() }).await?;
    let is_all = own.len() <= OWN_ROOMS_MAX;
    let own: BTreeSet<_> = own.into_iter().rev().take(OWN_ROOMS_MAX).collect();
    let at_once = ROOMS_MAX.saturating_sub(own.len()) as u64;
    let open = open_room::count(cx.metadata()).await?;
    // Every room is in one of so many parts.
    let parts = open.div_ceil(at_once.max(1)).max(1);
    let after = (cx.now_ms() / TURN_MS % parts).saturating_mul(at_once);
    let asked = open_room::some(cx.metadata(), after, at_once).await?;
    Ok((own.into_iter().chain(asked).collect(), !is_all || parts > 1))
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
    let Query { user_id, from } = query(&request)?;
    Ok(failure::json(StatusCode::OK, &shared_with(cx, &bearer, user_id, from).await?))
}

/// The same by its former path. While the proposal changed, so did what a page is continued by: each name is served.
async fn mutual_rooms_unstable(
    cx: &Context,
    bearer: Bearer,
    request: Request<bytes::Bytes>,
    _: Vec<String>,
) -> Result<Response<bytes::Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Query {
        user_id: Option<String>,
        from: Option<String>,
        batch_token: Option<String>,
    }
    #[derive(Serialize)]
    struct Answer {
        #[serde(flatten)]
        page: SharedRooms,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_batch_token: Option<OwnedRoomId>,
    }
    let Query { user_id, from, batch_token } = query(&request)?;
    let page = shared_with(cx, &bearer, user_id, from.or(batch_token)).await?;
    let next_batch_token = page.next_batch.clone();
    Ok(failure::json(StatusCode::OK, &Answer { page, next_batch_token }))
}

/// A page of the rooms that two share.
#[derive(Serialize)]
struct SharedRooms {
    joined: Vec<OwnedRoomId>,
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<OwnedRoomId>,
}

/// The rooms that the caller shares with somebody, from a token on.
async fn shared_with(
    cx: &Context,
    bearer: &Bearer,
    user_id: Option<String>,
    from: Option<String>,
) -> Result<SharedRooms, Failure> {
    let invalid = |why: &str| Refusal::InvalidParam(why.to_owned());
    let other = user_id.ok_or_else(|| Refusal::MissingParam("`user_id` is required".to_owned()))?;
    let other = UserId::parse(other).map_err(|_| invalid("The user id is none"))?;
    if other.validate_strict().is_err() {
        return Err(invalid("This user id is of a historical form").into());
    }
    if other == bearer.user_id {
        return Err(invalid("You share every room with yourself").into());
    }
    let from = from.map(OwnedRoomId::try_from).transpose().map_err(|_| invalid("This token is none of ours"))?;
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
    Ok(SharedRooms { joined: page, count, next_batch })
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
pub(super) async fn with_server(
    cx: &Context,
    other: &OwnedUserId,
    own: Vec<OwnedRoomId>,
) -> Result<BTreeSet<OwnedRoomId>, Failure> {
    let shared = match cx.call(other.server_name().as_str(), &GetSharedRooms { newest: None }).await {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::StatusCode;
    use serde_json::{Value, json};

    use super::TURN_MS;
    use crate::testing::{TestServer, refused};

    fn room(server: &TestServer, token: &str, request: &Value) -> String {
        let (status, created) = server.post("/_matrix/client/v3/createRoom", token, request);
        assert_eq!(status, StatusCode::OK, "{created}");
        created["room_id"].as_str().unwrap().to_owned()
    }

    fn joins(server: &TestServer, token: &str, room: &str) {
        let (status, answer) = server.post(&format!("/_matrix/client/v3/rooms/{room}/join"), token, &json!({}));
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    #[test]
    fn who_shares_a_room_or_is_in_an_open_one_is_found() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
        let finds = |token: &str, term: &str| {
            let body = json!({ "search_term": term });
            let (status, answer) = server.post("/_matrix/client/v3/user_directory/search", token, &body);
            assert_eq!((status, &answer["limited"]), (StatusCode::OK, &json!(false)), "{answer}");
            let results = answer["results"].as_array().unwrap();
            results.iter().map(|found| found["user_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let private = room(&server, &alice, &json!({ "preset": "private_chat", "invite": ["@bob:localhost"] }));
        assert!(finds(&alice, "bob").is_empty() && finds(&carol, "alice").is_empty());
        joins(&server, &bob, &private);
        assert_eq!(finds(&alice, "BOB"), ["@bob:localhost"]);
        assert!(finds(&carol, "").is_empty());
        let open = room(&server, &bob, &json!({ "preset": "public_chat" }));
        assert_eq!(server.texts("SELECT room_id FROM open_room WHERE open = 1"), [open.as_str()]);
        assert_eq!(finds(&carol, ""), ["@bob:localhost"]);
        let rules = format!("/_matrix/client/v3/rooms/{open}/state/m.room.join_rules");
        server.put(&rules, &bob, &json!({ "join_rule": "invite" }));
        assert!(finds(&carol, "").is_empty());
    }

    #[test]
    fn whoever_is_found_is_called_as_in_their_profile() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
        let profile = "/_matrix/client/v3/profile/@alice:localhost/displayname";
        assert_eq!(server.put(profile, &alice, &json!({ "displayname": "Alice Cooper" })).0, StatusCode::OK);
        let finds = |term: &str| {
            let body = json!({ "search_term": term });
            let (_, answer) = server.post("/_matrix/client/v3/user_directory/search", &bob, &body);
            answer["results"].clone()
        };
        let private = room(&server, &alice, &json!({ "invite": ["@bob:localhost"] }));
        joins(&server, &bob, &private);
        let cooper = json!([{ "user_id": "@alice:localhost", "display_name": "Alice Cooper" }]);
        assert_eq!(finds("cooper"), cooper);
        let own = format!("/_matrix/client/v3/rooms/{private}/state/m.room.member/@alice:localhost");
        let freddy = json!({ "membership": "join", "displayname": "Freddy" });
        assert_eq!(server.put(&own, &alice, &freddy).0, StatusCode::OK);
        assert_eq!(finds("@alice:localhost"), cooper);
        assert_eq!(finds("freddy"), json!([]), "that is between those in the room");
        room(&server, &alice, &json!({ "preset": "public_chat" }));
        for term in ["@alice:localhost", "cooper", "alice"] {
            assert_eq!(finds(term), cooper, "{term}");
        }
    }

    #[test]
    fn of_many_open_rooms_each_has_its_turn() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        for number in 0..9 {
            let user = server.register(&format!("user{number}"));
            room(&server, &user, &json!({ "preset": "public_chat" }));
        }
        let mut found = BTreeSet::new();
        for _ in 0..3 {
            let body = json!({ "search_term": "user" });
            let (_, answer) = server.post("/_matrix/client/v3/user_directory/search", &alice, &body);
            assert_eq!(answer["limited"], true, "{answer}");
            found.extend(answer["results"].as_array().unwrap().iter().map(|found| found["user_id"].to_string()));
            server.pass_ms(TURN_MS);
        }
        assert_eq!(found.len(), 9, "{found:?}");
    }

    #[test]
    fn many_shared_rooms_come_in_pages_by_either_path() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
        let mut shared: Vec<String> = (0..=2 * super::SHARED_ROOMS_MAX)
            .map(|_| room(&server, &alice, &json!({ "preset": "public_chat" })))
            .collect();
        shared.iter().for_each(|room| joins(&server, &bob, room));
        shared.sort();
        for (path, given, asked) in [
            (super::MUTUAL_ROOMS, "next_batch", "from"),
            (super::MUTUAL_ROOMS_UNSTABLE, "next_batch", "from"),
            (super::MUTUAL_ROOMS_UNSTABLE, "next_batch_token", "batch_token"),
        ] {
            let (mut all, mut from) = (Vec::new(), String::new());
            loop {
                let (_, page) = server.get(&format!("{path}?user_id=@bob:localhost{from}"), &alice);
                let rooms: Vec<String> = serde_json::from_value(page["joined"].clone()).unwrap();
                assert!(rooms.len() <= super::SHARED_ROOMS_MAX && page["count"] == shared.len(), "{page}");
                all.extend(rooms);
                let Some(next) = page[given].as_str() else { break };
                from = format!("&{asked}={next}");
            }
            assert_eq!(all, shared, "{path} {given}");
        }
    }

    #[test]
    fn the_rooms_that_two_share_come_in_order() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
        let mut shared = Vec::new();
        for _ in 0..3 {
            let shared_room = room(&server, &alice, &json!({ "preset": "public_chat" }));
            joins(&server, &bob, &shared_room);
            shared.push(shared_room);
        }
        room(&server, &alice, &json!({}));
        shared.sort();
        let asks = |query: &str| server.get(&format!("{}?{query}", super::MUTUAL_ROOMS), &alice);
        let expected = json!({ "joined": shared, "count": 3 });
        assert_eq!(asks("user_id=@bob:localhost").1, expected);
        let after = asks(&format!("user_id=@bob:localhost&from={}", shared[0])).1;
        assert_eq!(after, json!({ "joined": shared[1..], "count": 3 }));
        for nobody in ["@nobody:localhost", "@nobody:away.test"] {
            assert_eq!(asks(&format!("user_id={nobody}")).1, json!({ "joined": [], "count": 0 }));
        }
        let old = |query: &str| {
            server.get(&format!("{}?user_id=@bob:localhost{query}", super::MUTUAL_ROOMS_UNSTABLE), &alice)
        };
        assert_eq!(old("").1, expected);
        for name in ["from", "batch_token"] {
            assert_eq!(old(&format!("&{name}={}", shared[0])).1["joined"], json!(shared[1..]));
        }
        for (query, errcode) in [
            ("", "M_MISSING_PARAM"),
            ("user_id=bob", "M_INVALID_PARAM"),
            ("user_id=@Bob:localhost", "M_INVALID_PARAM"),
            ("user_id=@alice:localhost", "M_INVALID_PARAM"),
            ("user_id=@bob:localhost&from=x", "M_INVALID_PARAM"),
        ] {
            assert_eq!(refused(asks(query)), (400, errcode.to_owned()), "{query}");
        }
    }
}
