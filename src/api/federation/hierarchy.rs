//! Spaces: ours for other servers, and theirs for our users. Spec: Server-Server API, "Spaces".

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use actors::room::{Asker, GetSummary, IsServerJoined, Summary};
use domain::{
    Refusal,
    space::{Accessible, CHILDREN_MAX, Child, RoomSummary},
};
use futures_util::{StreamExt, stream};
use http::Method;
use ruma_common::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use ruma_federation_api::space::get_hierarchy::v1 as get_hierarchy;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{AskError, Bounds, Origin, pdus::encoded, queries};
use crate::{Context, Failure, Routes};

/// Rooms asked at the same time.
const ROOMS_AT_ONCE: usize = 16;
/// Rooms whose members may know of a room, as another server has it: each is asked whether a user is in it.
const ALLOWED_MAX: usize = 100;
/// Rooms of ours that one request has asked whether the other server is in them. Children of one space mostly allow the
/// members of that, so that a space of many rooms needs one answer.
const QUESTIONS_MAX: usize = if cfg!(test) { 10 } else { 300 };
/// The largest answer about a space, in bytes.
const SPACE_BYTES_MAX: usize = 1024 * 1024;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(hierarchy);
}

/// A room and, where they are asked for, the events that make its children.
#[derive(Serialize)]
pub(crate) struct Chunk<'a> {
    #[serde(flatten)]
    pub summary: &'a RoomSummary,
    pub children_state: &'a [Box<RawValue>],
}

/// `GET /hierarchy/{roomId}`.
async fn hierarchy(cx: &Context, Origin(origin): Origin, request: get_hierarchy::Request) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Answer<'a> {
        room: Chunk<'a>,
        children: Vec<RoomSummary>,
        inaccessible_children: Vec<OwnedRoomId>,
    }
    let call = |children| {
        let asker = Asker::Server(origin.clone());
        GetSummary { asker, children, suggested_only: request.suggested_only }
    };
    let mut joined = Joined::new(cx, &origin);
    let space = match asked(cx, &request.room_id, &call(true)).await? {
        Some(space) if joined.may_know(&space).await? => space,
        _ => return Err(Refusal::NotFound("There is no such room that your server may know of".to_owned()).into()),
    };
    let of_child = &call(false);
    let children = space.children.iter().filter_map(|event| Child::read(event)).take(CHILDREN_MAX);
    let mut answers = stream::iter(children)
        .map(async |child| {
            let answer = asked(cx, &child.room_id, of_child).await;
            (child.room_id, answer)
        })
        .buffered(ROOMS_AT_ONCE);
    let (mut children, mut inaccessible_children) = (Vec::new(), Vec::new());
    while let Some((room_id, answer)) = answers.next().await {
        match answer? {
            Some(child) if joined.may_know(&child).await? => children.push(child.room),
            Some(_) => inaccessible_children.push(room_id),
            // «Rooms which the responding server cannot provide details on will be outright excluded».
            None => {}
        }
    }
    let room = Chunk { summary: &space.room, children_state: &space.children };
    Ok(serde_json::to_vec(&Answer { room, children, inaccessible_children })?)
}

/// What a room says of itself; nothing where this server does not know itself.
async fn asked(cx: &Context, room_id: &RoomId, call: &GetSummary) -> Result<Option<Summary>, Failure> {
    match cx.room(room_id).call(call).await {
        Ok(summary) => Ok(Some(summary).filter(|summary| summary.here)),
        Err(Failure::Absent) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The rooms that the other server is in or is not, each asked once, and so many of them in one request.
struct Joined<'a> {
    cx: &'a Context,
    is_joined: IsServerJoined,
    answers: BTreeMap<OwnedRoomId, bool>,
    left: usize,
}

impl<'a> Joined<'a> {
    fn new(cx: &'a Context, origin: &ServerName) -> Self {
        let is_joined = IsServerJoined { server: origin.to_owned() };
        Self { cx, is_joined, answers: BTreeMap::new(), left: QUESTIONS_MAX }
    }

    /// Whether the other server may know of a room.
    async fn may_know(&mut self, summary: &Summary) -> Result<bool, Failure> {
        match summary.accessible {
            Accessible::Yes => Ok(true),
            Accessible::No => Ok(false),
            Accessible::ToMembers => self.is_in_any(&summary.room.allowed_room_ids).await,
        }
    }

    /// Of a room that failed to answer it matters only if no other says so.
    async fn is_in_any(&mut self, rooms: &[OwnedRoomId]) -> Result<bool, Failure> {
        if rooms.iter().any(|room_id| self.answers.get(room_id) == Some(&true)) {
            return Ok(true);
        }
        let new: BTreeSet<OwnedRoomId> =
            rooms.iter().filter(|room_id| !self.answers.contains_key(*room_id)).take(self.left).cloned().collect();
        self.left = self.left.saturating_sub(new.len());
        let (cx, is_joined) = (self.cx, &self.is_joined);
        let ask = async |room_id: OwnedRoomId| {
            let answer = match cx.call(room_id.as_str(), is_joined).await {
                Err(Failure::Absent) => Ok(false),
                answer => answer,
            };
            (room_id, answer)
        };
        let mut answers = stream::iter(new).map(ask).buffer_unordered(ROOMS_AT_ONCE);
        let (mut is_in_any, mut failure) = (false, None);
        while let Some((room_id, answer)) = answers.next().await {
            match answer {
                Ok(is_in) => {
                    is_in_any |= is_in;
                    self.answers.insert(room_id, is_in);
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(failure) if !is_in_any => Err(failure),
            _ => Ok(is_in_any),
        }
    }
}

/// A room of others, as one of them tells it; to whom of our users it may be told is another question.
#[derive(Debug)]
pub(crate) struct SpaceElsewhere {
    pub room: RoomSummary,
    /// In the order of the specification.
    pub children_state: Vec<Box<RawValue>>,
    /// What it tells of the children.
    pub children: HashMap<OwnedRoomId, RoomSummary>,
    /// Children of which no other server will tell us more.
    pub inaccessible: BTreeSet<OwnedRoomId>,
}

impl SpaceElsewhere {
    /// Reads an answer about a room; what is wrong with it otherwise. A child that makes no sense is left out.
    pub(super) fn read(answer: &[u8], room_id: &RoomId, suggested_only: bool) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            room: &'a RawValue,
            #[serde(borrow, default)]
            children: Vec<&'a RawValue>,
            #[serde(default)]
            inaccessible_children: Vec<String>,
        }
        #[derive(Deserialize)]
        struct Children {
            #[serde(default)]
            children_state: Vec<Box<RawValue>>,
        }
        let wrong = |error: serde_json::Error| error.to_string();
        let answer: Answer<'_> = serde_json::from_slice(answer).map_err(wrong)?;
        let mut room: RoomSummary = serde_json::from_str(answer.room.get()).map_err(wrong)?;
        room.allowed_room_ids.truncate(ALLOWED_MAX);
        if room.room.room_id != *room_id {
            return Err("it tells of another room".to_owned());
        }
        let Children { children_state } = serde_json::from_str(answer.room.get()).map_err(wrong)?;
        let children = answer.children.into_iter().take(CHILDREN_MAX);
        let children = children.filter_map(|child| serde_json::from_str::<RoomSummary>(child.get()).ok());
        let children = children.map(|mut child| {
            child.allowed_room_ids.truncate(ALLOWED_MAX);
            child
        });
        let inaccessible = answer.inaccessible_children.into_iter().take(CHILDREN_MAX);
        Ok(Self {
            children_state: Child::sorted(children_state, suggested_only).into_iter().map(|(_, event)| event).collect(),
            children: children.map(|child| (child.room.room_id.clone(), child)).collect(),
            inaccessible: inaccessible.filter_map(|room_id| OwnedRoomId::try_from(room_id).ok()).collect(),
            room,
        })
    }
}

impl Context {
    /// What the first of these servers that knows says of a room, perhaps a moment ago.
    pub(crate) async fn hierarchy_elsewhere(
        &self,
        room_id: &RoomId,
        servers: &[OwnedServerName],
        suggested_only: bool,
    ) -> Option<Arc<SpaceElsewhere>> {
        let path =
            format!("/_matrix/federation/v1/hierarchy/{}?suggested_only={suggested_only}", encoded(room_id.as_str()));
        let bounds = Bounds { response_bytes_max: SPACE_BYTES_MAX, timeout_ms: queries::TIMEOUT_MS };
        for server in servers {
            let key = (room_id.to_owned(), server.clone(), suggested_only);
            if let Some(space) = self.known_servers().space(&key, self.now_ms()) {
                return Some(space);
            }
            if server == self.server_name() || self.known_servers().is_down(server, self.now_ms()) {
                continue;
            }
            let answer = self.ask_raw(server, Method::GET, &path, None, bounds).await;
            let space = answer.and_then(|(_, answer)| {
                SpaceElsewhere::read(&answer, room_id, suggested_only).map_err(AskError::Nonsense)
            });
            match space {
                Ok(space) => {
                    let space = Arc::new(space);
                    self.known_servers().remember_space(key, space.clone(), self.now_ms());
                    return Some(space);
                }
                Err(error) => tracing::debug!(%server, %room_id, %error, "a server does not tell of a room"),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::{RoomId, room_id, server_name};
    use serde_json::{Value, json};

    use super::{ALLOWED_MAX, Origin, QUESTIONS_MAX, SpaceElsewhere, get_hierarchy, hierarchy};
    use crate::testing::{TestServer, block_on};

    fn summary(room: &str) -> Value {
        json!({ "room_id": room, "num_joined_members": 1, "world_readable": false, "guest_can_join": false })
    }

    fn read(answer: &Value) -> Result<SpaceElsewhere, String> {
        SpaceElsewhere::read(answer.to_string().as_bytes(), room_id!("!s:b"), false)
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let mut room = summary("!s:b");
        let child = |room: &str| {
            json!({
                "type": "m.space.child", "state_key": room, "sender": "@b:b", "origin_server_ts": 1,
                "content": { "via": ["b"] },
            })
        };
        room["children_state"] = json!([child("!two:b"), child("no room"), child("!one:b")]);
        let children = json!([summary("!one:b"), { "room_id": "!half:b" }, 7]);
        let space =
            read(&json!({ "room": room, "children": children, "inaccessible_children": ["!x:b", "no room"] })).unwrap();
        assert_eq!(space.room.room.join_rule, "public", "what is not said");
        let ids: Vec<_> = space.children.keys().map(|room_id| room_id.as_str()).collect();
        assert_eq!((ids, space.inaccessible.len()), (vec!["!one:b"], 1));
        let state: Vec<Value> =
            space.children_state.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect();
        assert_eq!(state, [child("!one:b"), child("!two:b")]);
    }

    #[test]
    fn so_many_rooms_are_asked_for_who_may_know() {
        let allowed: Vec<String> = (0..5_000).map(|number| format!("!{number}:b")).collect();
        let (mut room, mut child) = (summary("!s:b"), summary("!c:b"));
        room["allowed_room_ids"] = json!(allowed);
        child["allowed_room_ids"] = json!(allowed);
        let space = read(&json!({ "room": room, "children": [child] })).unwrap();
        let children: Vec<_> = space.children.values().map(|child| child.allowed_room_ids.len()).collect();
        assert_eq!((space.room.allowed_room_ids.len(), children), (ALLOWED_MAX, vec![ALLOWED_MAX]));
    }

    /// However many conditions there are, and however often each.
    #[test]
    fn so_many_of_our_rooms_are_asked_for_another_server() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let creates = |body: &Value| {
            let (_, made) = server.post("/_matrix/client/v3/createRoom", &alice, body);
            made["room_id"].as_str().unwrap().to_owned()
        };
        let child = |name: &str, conditions: usize| {
            let allow = |number| json!({ "type": "m.room_membership", "room_id": format!("!{name}{number}:b.test") });
            let allow: Vec<Value> = (0..conditions).map(allow).collect();
            let rules = json!({ "join_rule": "restricted", "allow": allow });
            creates(&json!({ "initial_state": [{ "type": "m.room.join_rules", "content": rules }] }))
        };
        let same: Vec<String> = (0..5).map(|_| child("a", 4)).collect();
        let more: Vec<String> = (0..5).map(|number| child(&format!("b{number}"), 20)).collect();
        let in_space =
            |room: &String| json!({ "type": "m.space.child", "state_key": room, "content": { "via": ["a"] } });
        let state: Vec<Value> = same.iter().chain(&more).map(in_space).collect();
        let kind = json!({ "type": "m.space" });
        let space = creates(&json!({ "preset": "public_chat", "creation_content": kind, "initial_state": state }));
        let before = server.actors();
        let request = get_hierarchy::Request::new(<&RoomId>::try_from(&*space).unwrap().to_owned());
        let answer =
            block_on(hierarchy(&server.context(), Origin(server_name!("b.test").to_owned()), request)).unwrap();
        assert_eq!(server.actors() - before, QUESTIONS_MAX, "rooms that are not here");
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((&answer["children"], answer["inaccessible_children"].as_array().unwrap().len()), (&json!([]), 10));
    }

    #[test]
    fn an_answer_about_another_room_is_none() {
        for answer in [json!({ "room": summary("!other:b"), "children": [] }), json!({ "children": [] }), json!([])] {
            assert!(read(&answer).is_err(), "{answer}");
        }
    }
}
