//! The rooms of a space, page by page, and a room in a few words. Spec: "Spaces", `GET /room_summary/{roomIdOrAlias}`.

mod token;
mod walk;

use actors::{
    room::{Asker, GetSummary, IsJoined, Summary},
    user::GetAsked,
};
use domain::{
    Refusal,
    space::{Accessible, RoomSummary},
};
use ruma_client_api::{room::get_summary, space::get_hierarchy};
use ruma_common::{RoomId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{first_joined, rooms::room_named};
use crate::{
    Caller, Context, Failure, Routes,
    federation::elsewhere::{candidates, residence},
};
use token::Token;
use walk::Walk;

/// The most rooms on a page, and how many there are unless a client wants fewer.
const PAGE_ROOMS_MAX: usize = 50;
/// How far down a space is looked into, unless a client wants less.
const DEPTH_MAX: u8 = 10;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(hierarchy);
    routes.add_json(summary);
}

/// `GET /rooms/{roomId}/hierarchy`.
async fn hierarchy(cx: &Context, caller: Caller, request: get_hierarchy::v1::Request) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Page {
        rooms: Vec<Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_batch: Option<String>,
    }
    let limit = request.limit.map_or(PAGE_ROOMS_MAX, |limit| usize::try_from(limit).unwrap_or(PAGE_ROOMS_MAX));
    if limit == 0 {
        return Err(Refusal::InvalidParam("`limit` is greater than zero".to_owned()).into());
    }
    let max_depth = request.max_depth.and_then(|depth| u8::try_from(depth).ok()).unwrap_or(DEPTH_MAX).min(DEPTH_MAX);
    let token = match &request.from {
        None => Token::start(request.room_id, max_depth, request.suggested_only),
        Some(from) => {
            let token = Token::parse(from).filter(|token| token.root() == Some(&*request.room_id));
            let token = token
                .ok_or_else(|| Refusal::InvalidParam("This token is none of ours, or of another room".to_owned()))?;
            if (token.max_depth, token.suggested_only) != (max_depth, request.suggested_only) {
                let sentence = "`suggested_only` and `max_depth` cannot change from page to page";
                return Err(Refusal::InvalidParam(sentence.to_owned()).into());
            }
            token
        }
    };
    let mut walk = Walk::from(cx, caller.user_id, token).await?;
    let rooms = walk.page(limit.min(PAGE_ROOMS_MAX)).await?;
    Ok(serde_json::to_vec(&Page { rooms, next_batch: walk.next() })?)
}

/// `GET /room_summary/{roomIdOrAlias}`. Who says no name learns of rooms that are here: other servers are asked for
/// users only.
async fn summary(cx: &Context, caller: Option<Caller>, request: get_summary::v1::Request) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Answer {
        #[serde(flatten)]
        summary: RoomSummary,
        #[serde(skip_serializing_if = "Option::is_none")]
        membership: Option<String>,
    }
    let is_of_others =
        request.room_id_or_alias.is_room_alias_id() && request.room_id_or_alias.server_name() != Some(cx.server_name());
    if caller.is_none() && is_of_others {
        return Err(Refusal::MissingToken.into());
    }
    let (room_id, servers) = room_named(cx, &request.room_id_or_alias).await?;
    let asker = caller.as_ref().map_or(Asker::Anyone, |caller| Asker::User(caller.user_id.clone()));
    let here = here(cx, &room_id, &GetSummary { asker, children: false, suggested_only: false }).await?;
    let user_id = caller.as_ref().map(|caller| &*caller.user_id);
    let (summary, accessible, membership) = match (here, user_id) {
        (Some(Summary { room, accessible, membership, .. }), _) => (room, accessible, membership),
        (None, None) => return Err(no_such_room().into()),
        (None, Some(user_id)) => {
            let known = residence(cx, &room_id).await?.servers;
            let via = request.via.into_iter().chain(servers).collect();
            let servers = candidates(cx, &room_id, user_id, via, known).await?;
            let told = cx.hierarchy_elsewhere(&room_id, &servers, false).await.ok_or_else(no_such_room)?;
            let membership = asked_in(cx, &room_id, user_id).await?;
            let accessible = match membership.as_deref() {
                Some("invite") => Accessible::Yes,
                _ => told.room.accessible_to_strangers(),
            };
            (told.room.clone(), accessible, membership)
        }
    };
    let may_know = match (accessible, user_id) {
        (Accessible::Yes, _) => true,
        (Accessible::ToMembers, Some(user_id)) => {
            let is_joined = IsJoined { user: user_id.to_owned() };
            first_joined(cx, &is_joined, summary.allowed_room_ids.clone()).await?.is_some()
        }
        (Accessible::ToMembers, None) | (Accessible::No, _) => false,
    };
    if !may_know {
        return Err(no_such_room().into());
    }
    let membership = user_id.map(|_| membership.unwrap_or_else(|| "leave".to_owned()));
    Ok(serde_json::to_vec(&Answer { summary: summary.as_specified(), membership })?)
}

fn no_such_room() -> Refusal {
    Refusal::NotFound("There is no such room that you may know of".to_owned())
}

/// What a room says of itself, if this server knows what happens in it.
async fn here(cx: &Context, room_id: &RoomId, call: &GetSummary) -> Result<Option<Summary>, Failure> {
    match cx.room(room_id).call(call).await {
        Ok(summary) => Ok(Some(summary).filter(|summary| summary.here)),
        Err(Failure::Absent) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The membership of a user in a room that is not here: they may be invited, or have knocked.
async fn asked_in(cx: &Context, room_id: &RoomId, user_id: &UserId) -> Result<Option<String>, Failure> {
    let asked = cx.user(user_id).call(&GetAsked { room_id: room_id.to_owned() }).await?;
    Ok(asked.map(|asked| asked.membership))
}

/// Whether a user is invited to a room that is not here.
async fn is_invited(cx: &Context, room_id: &RoomId, user_id: &UserId) -> Result<bool, Failure> {
    Ok(asked_in(cx, room_id, user_id).await?.as_deref() == Some("invite"))
}
