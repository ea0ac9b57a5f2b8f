//! Who is in a room. Spec: "Getting events for a room", "Room membership".

use actors::{
    room::{GetJoinedMembers, GetMembers},
    user::JoinedRooms,
};
use domain::Refusal;
use ruma_client_api::membership::{get_member_events, joined_members, joined_rooms};
use ruma_events::room::member::MembershipState;
use serde_json::json;

use super::{json_array, messages::position, not_in_room};
use crate::{Bearer, Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(members);
    routes.add_json(joined);
    routes.add_carried(rooms);
}

/// `GET …/members`.
async fn members(cx: &Context, caller: Caller, request: get_member_events::v3::Request) -> Result<String, Failure> {
    let at = match &request.at {
        Some(token) => Some(position(cx, &caller, &request.room_id, token).await?),
        None => None,
    };
    let known = |filter: Option<MembershipState>| match filter {
        Some(MembershipState::_Custom(_)) => Err(Refusal::InvalidParam("There is no such membership".to_owned())),
        filter => Ok(filter),
    };
    let call = GetMembers {
        user: caller.user_id,
        device: caller.device_id,
        at,
        membership: known(request.membership)?,
        not_membership: known(request.not_membership)?,
    };
    let events = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    Ok(json_array("chunk", &events))
}

/// `GET …/joined_members`.
async fn joined(cx: &Context, caller: Caller, request: joined_members::v3::Request) -> Result<Vec<u8>, Failure> {
    let call = GetJoinedMembers { user: caller.user_id };
    let joined = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    Ok(serde_json::to_vec(&json!({ "joined": joined }))?)
}

/// `GET /joined_rooms`.
async fn rooms(
    cx: &Context,
    bearer: Bearer,
    _: joined_rooms::v3::Request,
) -> Result<joined_rooms::v3::Response, Failure> {
    let call = JoinedRooms { token_hash: bearer.token_hash.clone() };
    let rooms = cx.user(&bearer.user_id).call(&call).await.or_absent(Refusal::UnknownToken { soft_logout: false })?;
    Ok(joined_rooms::v3::Response::new(rooms))
}
