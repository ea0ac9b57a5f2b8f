//! Who is in a room. Spec: "Getting events for a room", "Room membership".

use actors::{
    room::{Direction, GetJoinedMembers, GetMembers, JoinedMembersPage, StatePage},
    user::JoinedRooms,
};
use domain::Refusal;
use ruma_client_api::membership::{get_member_events, joined_members, joined_rooms};
use ruma_events::room::member::MembershipState;

use super::{
    messages::position,
    not_in_room,
    pages::{Page, in_pages, joined},
};
use crate::{Bearer, Body, Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_body(members);
    routes.add_body(joined_profiles);
    routes.add_carried(rooms);
}

/// `GET …/members`.
async fn members(cx: &Context, caller: Caller, request: get_member_events::v3::Request) -> Result<Body, Failure> {
    let at = match &request.at {
        Some(token) => Some(position(cx, &caller, &request.room_id, token, Direction::Backwards).await?),
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
        after: None,
        membership: known(request.membership)?,
        not_membership: known(request.not_membership)?,
    };
    let page = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    Ok(in_pages(cx, request.room_id, "{\"chunk\":[", of_members(call, page)?, of_members, "]}"))
}

fn of_members(call: GetMembers, page: StatePage) -> Result<Page<GetMembers>, Failure> {
    let next = page.next.map(|(_, after)| GetMembers { at: Some(page.at), after: Some(after), ..call });
    Ok(Page { items: joined(&page.events), next })
}

/// `GET …/joined_members`.
async fn joined_profiles(cx: &Context, caller: Caller, request: joined_members::v3::Request) -> Result<Body, Failure> {
    let appservice = caller.acts_for.map(|acts_for| acts_for.appservice);
    let call = GetJoinedMembers { user: caller.user_id, appservice, after: None };
    let page = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    Ok(in_pages(cx, request.room_id, "{\"joined\":{", of_profiles(call, page)?, of_profiles, "}}"))
}

fn of_profiles(call: GetJoinedMembers, page: JoinedMembersPage) -> Result<Page<GetJoinedMembers>, Failure> {
    let json = serde_json::to_string(&page.joined)?;
    let items = json.strip_prefix('{').and_then(|json| json.strip_suffix('}')).unwrap_or_default().to_owned();
    let next = page.next.map(|after| GetJoinedMembers { after: Some(after), ..call });
    Ok(Page { items, next })
}

/// `GET /joined_rooms`.
async fn rooms(
    cx: &Context,
    bearer: Bearer,
    _: joined_rooms::v3::Request,
) -> Result<joined_rooms::v3::Response, Failure> {
    let call = JoinedRooms { token_hash: bearer.token_hash.clone() };
    let rooms = bearer.call(cx, &call).await?;
    Ok(joined_rooms::v3::Response::new(rooms))
}
