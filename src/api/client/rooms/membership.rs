//! Joining, inviting, leaving, and their opposites. Spec: "Room membership".

use actors::{
    room::{ChangeMembership, MemberProfile, MembershipAction},
    user::GetProfile,
};
use domain::Refusal;
use ruma_client_api::membership::{
    ban_user, invite_user, join_room_by_id, join_room_by_id_or_alias, kick_user, leave_room, unban_user,
};
use ruma_common::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::{call_id, no_such_room};
use crate::{Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(join);
    routes.add(join_by_id_or_alias);
    routes.add(invite);
    routes.add(leave);
    routes.add(kick);
    routes.add(ban);
    routes.add(unban);
}

/// What a user's profile says of them in rooms; nothing for a user we do not know.
pub(super) async fn member_profile(cx: &Context, user_id: &UserId) -> Result<MemberProfile, Failure> {
    let profile = match cx.user(user_id).call(&GetProfile {}).await {
        Ok(profile) => profile,
        Err(Failure::Absent) => return Ok(MemberProfile::default()),
        Err(failure) => return Err(failure),
    };
    let field = |name: &str| profile.get(name).and_then(|value| value.as_str()).map(ToOwned::to_owned);
    Ok(MemberProfile { displayname: field("displayname"), avatar_url: field("avatar_url") })
}

/// Refuses users of other servers, as long as we do not federate.
pub(super) fn must_be_local(cx: &Context, user_id: &UserId) -> Result<(), Refusal> {
    if cx.is_local(user_id) {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!("{user_id} is on another server, and this server does not federate")))
}

async fn change(
    cx: &Context,
    room_id: &RoomId,
    sender: OwnedUserId,
    target: OwnedUserId,
    action: MembershipAction,
    reason: Option<String>,
) -> Result<(), Failure> {
    let profile = match action {
        MembershipAction::Join | MembershipAction::Invite | MembershipAction::Knock => {
            member_profile(cx, &target).await?
        }
        MembershipAction::Leave | MembershipAction::Kick | MembershipAction::Ban | MembershipAction::Unban => {
            MemberProfile::default()
        }
    };
    let call = ChangeMembership { call_id: call_id(cx)?, sender, target, action, reason, profile };
    cx.room(room_id).call(&call).await.or_absent(no_such_room())
}

/// The action of a user on their own membership.
async fn change_own(
    cx: &Context,
    room_id: &RoomId,
    caller: Caller,
    action: MembershipAction,
    reason: Option<String>,
) -> Result<(), Failure> {
    change(cx, room_id, caller.user_id.clone(), caller.user_id, action, reason).await
}

async fn join(
    cx: &Context,
    caller: Caller,
    request: join_room_by_id::v3::Request,
) -> Result<join_room_by_id::v3::Response, Failure> {
    change_own(cx, &request.room_id, caller, MembershipAction::Join, request.reason).await?;
    Ok(join_room_by_id::v3::Response::new(request.room_id))
}

async fn join_by_id_or_alias(
    cx: &Context,
    caller: Caller,
    request: join_room_by_id_or_alias::v3::Request,
) -> Result<join_room_by_id_or_alias::v3::Response, Failure> {
    let room_id = OwnedRoomId::try_from(request.room_id_or_alias)
        .map_err(|alias| Refusal::NotFound(format!("There is no room with the alias {alias}")))?;
    change_own(cx, &room_id, caller, MembershipAction::Join, request.reason).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room_id))
}

async fn invite(
    cx: &Context,
    caller: Caller,
    request: invite_user::v3::Request,
) -> Result<invite_user::v3::Response, Failure> {
    let invite_user::v3::InvitationRecipient::UserId(invited) = request.recipient else {
        return Err(Refusal::InvalidParam("Invitations by third-party id are not available here".to_owned()).into());
    };
    must_be_local(cx, &invited.user_id)?;
    change(cx, &request.room_id, caller.user_id, invited.user_id, MembershipAction::Invite, invited.reason).await?;
    Ok(invite_user::v3::Response::new())
}

async fn leave(
    cx: &Context,
    caller: Caller,
    request: leave_room::v3::Request,
) -> Result<leave_room::v3::Response, Failure> {
    change_own(cx, &request.room_id, caller, MembershipAction::Leave, request.reason).await?;
    Ok(leave_room::v3::Response::new())
}

async fn kick(
    cx: &Context,
    caller: Caller,
    request: kick_user::v3::Request,
) -> Result<kick_user::v3::Response, Failure> {
    change(cx, &request.room_id, caller.user_id, request.user_id, MembershipAction::Kick, request.reason).await?;
    Ok(kick_user::v3::Response::new())
}

async fn ban(cx: &Context, caller: Caller, request: ban_user::v3::Request) -> Result<ban_user::v3::Response, Failure> {
    change(cx, &request.room_id, caller.user_id, request.user_id, MembershipAction::Ban, request.reason).await?;
    Ok(ban_user::v3::Response::new())
}

async fn unban(
    cx: &Context,
    caller: Caller,
    request: unban_user::v3::Request,
) -> Result<unban_user::v3::Response, Failure> {
    change(cx, &request.room_id, caller.user_id, request.user_id, MembershipAction::Unban, request.reason).await?;
    Ok(unban_user::v3::Response::new())
}
