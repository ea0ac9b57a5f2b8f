//! Spaces: ours for other servers, and theirs for our users. Spec: Server-Server API, "Spaces".

use std::{
    collections::{BTreeSet, HashMap},
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
use crate::{Context, Failure, Routes, client::first_joined};

/// The rooms of a space that another server is told of.
const ROOMS_TOLD_MAX: usize = 100;
/// Rooms asked at the same time.
const ROOMS_AT_ONCE: usize = 16;
/// Rooms whose members may know of a room, as another server has it: each is asked whether a user is in it.
const ALLOWED_MAX: usize = 100;
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
    let Some((space, true)) = asked(cx, &origin, &request.room_id, &call(true)).await? else {
        return Err(Refusal::NotFound("There is no such room that your server may know of".to_owned()).into());
    };
    let of_child = &call(false);
    let children = space.children.iter().filter_map(|event| Child::read(event)).take(ROOMS_TOLD_MAX);
    let mut answers = stream::iter(children)
        .map(|child| {
            let origin = &origin;
            async move {
                let answer = asked(cx, origin, &child.room_id, of_child).await;
                (child.room_id, answer)
            }
        })
        .buffered(ROOMS_AT_ONCE);
    let (mut children, mut inaccessible_children) = (Vec::new(), Vec::new());
    while let Some((room_id, answer)) = answers.next().await {
        match answer? {
            Some((child, true)) => children.push(child.room),
            Some((_, false)) => inaccessible_children.push(room_id),
            // «Rooms which the responding server cannot provide details on will be outright excluded».
            None => {}
        }
    }
    let room = Chunk { summary: &space.room, children_state: &space.children };
    Ok(serde_json::to_vec(&Answer { room, children, inaccessible_children })?)
}

/// What a room says of itself, and whether the other server may know; nothing where this one does not know itself.
async fn asked(
    cx: &Context,
    origin: &ServerName,
    room_id: &RoomId,
    call: &GetSummary,
) -> Result<Option<(Summary, bool)>, Failure> {
    let summary = match cx.room(room_id).call(call).await {
        Ok(summary) if summary.here => summary,
        Ok(_) | Err(Failure::Absent) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let may_know = match summary.accessible {
        Accessible::Yes => true,
        Accessible::No => false,
        Accessible::ToMembers => {
            let is_joined = IsServerJoined { server: origin.to_owned() };
            first_joined(cx, &is_joined, summary.room.allowed_room_ids.clone()).await?.is_some()
        }
    };
    Ok(Some((summary, may_know)))
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
    fn read(answer: &[u8], room_id: &RoomId, suggested_only: bool) -> Result<Self, String> {
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
    use ruma_common::room_id;
    use serde_json::{Value, json};

    use super::{ALLOWED_MAX, SpaceElsewhere};

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

    #[test]
    fn an_answer_about_another_room_is_none() {
        for answer in [json!({ "room": summary("!other:b"), "children": [] }), json!({ "children": [] }), json!([])] {
            assert!(read(&answer).is_err(), "{answer}");
        }
    }
}
