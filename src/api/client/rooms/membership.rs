//! Inviting, leaving, kicking, banning, forgetting. Spec: "Room membership". For joining and knocking see `joining`.

use actors::{
    room::{ChangeMembership, Forget, MemberProfile, MembershipAction},
    user::{AskInvite, GetAsked, GetProfile},
};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::membership::{
    ban_user,
    invite_user::{self, v3::InvitationRecipient},
    kick_user, leave_room, unban_user,
};
use ruma_common::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{call_id, not_in_room, third_party_invites};
use crate::{
    Caller, Context, Failure, OrAbsent, Routes, failure,
    federation::elsewhere::{Elsewhere, residence},
    identity_server::ThirdParty,
    router::json_or_default,
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(invite);
    routes.add(leave);
    // Not through ruma's type: it takes any body.
    for path in ["/_matrix/client/v3/rooms/{room_id}/forget", "/_matrix/client/r0/rooms/{room_id}/forget"] {
        routes.add_raw(Method::POST, path, forget);
    }
    routes.add(kick);
    routes.add(ban);
    routes.add(unban);
}

/// What a user's profile says of them in rooms; nothing for a user we do not know.
pub(super) async fn member_profile(cx: &Context, user_id: &UserId) -> Result<MemberProfile, Failure> {
    if !cx.is_local(user_id) {
        return Ok(MemberProfile::default());
    }
    let profile = match cx.user(user_id).call(&GetProfile {}).await {
        Ok(profile) => profile,
        Err(Failure::Absent) => return Ok(MemberProfile::default()),
        Err(failure) => return Err(failure),
    };
    let field = |name: &str| profile.get(name).and_then(|value| value.as_str()).map(ToOwned::to_owned);
    Ok(MemberProfile { displayname: field("displayname"), avatar_url: field("avatar_url") })
}

/// As [`member_profile`], of a user who is to be invited.
///
/// Refused: `InviteBlocked`.
pub(super) async fn invitee_profile(cx: &Context, user_id: &UserId) -> Result<MemberProfile, Failure> {
    if !cx.is_local(user_id) {
        return Ok(MemberProfile::default());
    }
    match cx.user(user_id).call(&AskInvite {}).await {
        Err(Failure::Absent) => Ok(MemberProfile::default()),
        outcome => outcome,
    }
}

/// Refuses users of servers that we do not talk to.
pub(super) fn must_be_reachable(cx: &Context, user_id: &UserId) -> Result<(), Refusal> {
    if cx.is_local(user_id) || cx.talks_to(user_id.server_name()) {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!("This server does not talk to that of {user_id}")))
}

/// Refuses users of other servers.
pub(super) fn must_be_local(cx: &Context, user_id: &UserId) -> Result<(), Refusal> {
    if cx.is_local(user_id) {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!("{user_id} is on another server: invite them once the room is there")))
}

/// A change of membership that somebody asks for.
pub(super) struct Change {
    sender: OwnedUserId,
    target: OwnedUserId,
    action: MembershipAction,
    reason: Option<String>,
    guest: bool,
}

impl Change {
    /// Of a user's own membership.
    pub(super) fn own(caller: Caller, action: MembershipAction, reason: Option<String>) -> Self {
        let guest = caller.is_guest;
        Self { sender: caller.user_id.clone(), target: caller.user_id, action, reason, guest }
    }

    fn of(caller: Caller, target: OwnedUserId, action: MembershipAction, reason: Option<String>) -> Self {
        Self { sender: caller.user_id, target, action, reason, guest: caller.is_guest }
    }

    /// The call that makes it, with what the target's profile says where the membership shows it.
    pub(super) async fn call(self, cx: &Context) -> Result<ChangeMembership, Failure> {
        let Self { sender, target, action, reason, guest } = self;
        let profile = match action {
            MembershipAction::Join | MembershipAction::Knock => member_profile(cx, &target).await?,
            MembershipAction::Invite => invitee_profile(cx, &target).await?,
            MembershipAction::Leave | MembershipAction::Kick | MembershipAction::Ban | MembershipAction::Unban => {
                MemberProfile::default()
            }
        };
        Ok(ChangeMembership {
            call_id: call_id(cx)?,
            sender,
            target,
            action,
            reason,
            profile,
            member_of: Vec::new(),
            guest,
            unattended: false,
        })
    }

    /// Makes the change. A room that is not here is one that nobody here is in.
    async fn make(self, cx: &Context, room_id: &RoomId) -> Result<(), Failure> {
        let call = self.call(cx).await?;
        cx.room(room_id).call(&call).await.or_absent(not_in_room(&call.sender))
    }
}

/// `POST …/invite`. Whom nobody knows may be invited all the same: they may be about to come.
async fn invite(
    cx: &Context,
    caller: Caller,
    request: invite_user::v3::Request,
) -> Result<invite_user::v3::Response, Failure> {
    match request.recipient {
        InvitationRecipient::UserId(invited) => {
            invite_known(cx, caller, &request.room_id, invited.user_id, invited.reason).await?;
        }
        InvitationRecipient::ThirdPartyId(wanted) => {
            let third_party = ThirdParty::from(wanted);
            third_party_invites::invite(cx, caller, &request.room_id, &third_party.at(cx)?).await?;
        }
        _ => return Err(Refusal::BadJson("The body names nobody to be invited".to_owned()).into()),
    }
    Ok(invite_user::v3::Response::new())
}

/// Invites a user, of whichever server.
pub(super) async fn invite_known(
    cx: &Context,
    caller: Caller,
    room_id: &RoomId,
    user_id: OwnedUserId,
    reason: Option<String>,
) -> Result<(), Failure> {
    if !cx.is_local(&user_id) {
        must_be_reachable(cx, &user_id)?;
        let content = invitation(reason)?;
        let absent = not_in_room(&caller.user_id);
        return cx.invite_elsewhere(room_id, &caller.user_id, &user_id, content, None, absent).await.map(drop);
    }
    cx.make_user(&user_id, caller.acts_for.as_ref().map(|acts_for| &*acts_for.appservice)).await?;
    Change::of(caller, user_id, MembershipAction::Invite, reason).make(cx, room_id).await
}

/// The content of an invitation of another server's user: what they call themselves there is theirs to say.
fn invitation(reason: Option<String>) -> Result<Box<RawValue>, Failure> {
    let mut content = Map::from_iter([("membership".to_owned(), "invite".into())]);
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), reason.into());
    }
    Ok(to_raw_value(&content)?)
}

/// `POST …/leave`.
async fn leave(
    cx: &Context,
    caller: Caller,
    request: leave_room::v3::Request,
) -> Result<leave_room::v3::Response, Failure> {
    let call = Change::own(caller, MembershipAction::Leave, request.reason).call(cx).await?;
    let room_id = &request.room_id;
    let residence = residence(cx, room_id).await?;
    let asked = is_asked(cx, room_id, &call.target).await?;
    let elsewhere = Elsewhere::of(cx, room_id, &call, Vec::new(), residence.servers);
    // Only who was invited, or knocked, has something to leave elsewhere; whether or not a server can be told.
    if !residence.here && asked {
        elsewhere.await?.leave().await?;
        return Ok(leave_room::v3::Response::new());
    }
    match cx.room(room_id).call(&call).await.or_absent(not_in_room(&call.sender)) {
        // Asked before the room was here, and not in the state it came with: it is over for the user at least.
        Ok(()) | Err(Failure::Refused(Refusal::Forbidden(_))) if asked => {
            if is_asked(cx, room_id, &call.target).await? {
                elsewhere.await?.forget_asked().await?;
            }
        }
        left => left?,
    }
    Ok(leave_room::v3::Response::new())
}

/// Whether a user was invited to a room, or knocked on it, as far as they were told.
pub(super) async fn is_asked(cx: &Context, room_id: &RoomId, user_id: &UserId) -> Result<bool, Failure> {
    Ok(cx.user(user_id).call(&GetAsked { room_id: room_id.to_owned() }).await?.is_some())
}

/// `POST …/forget`. Where there was nothing to remember, it is forgotten already.
async fn forget(
    cx: &Context,
    caller: Caller,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    json_or_default::<Map<String, Value>>(request.body())?;
    let room_id = path_args.into_iter().next().unwrap_or_default();
    let room_id = OwnedRoomId::try_from(room_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    if is_asked(cx, &room_id, &caller.user_id).await? {
        return Err(Refusal::Unknown("You have not left this room".to_owned()).into());
    }
    match cx.room(&room_id).call(&Forget { user: caller.user_id }).await {
        Ok(()) | Err(Failure::Absent) => Ok(failure::json(StatusCode::OK, &Map::new())),
        Err(failure) => Err(failure),
    }
}

/// `POST …/kick`.
async fn kick(
    cx: &Context,
    caller: Caller,
    request: kick_user::v3::Request,
) -> Result<kick_user::v3::Response, Failure> {
    Change::of(caller, request.user_id, MembershipAction::Kick, request.reason).make(cx, &request.room_id).await?;
    Ok(kick_user::v3::Response::new())
}

/// `POST …/ban`.
async fn ban(cx: &Context, caller: Caller, request: ban_user::v3::Request) -> Result<ban_user::v3::Response, Failure> {
    Change::of(caller, request.user_id, MembershipAction::Ban, request.reason).make(cx, &request.room_id).await?;
    Ok(ban_user::v3::Response::new())
}

/// `POST …/unban`.
async fn unban(
    cx: &Context,
    caller: Caller,
    request: unban_user::v3::Request,
) -> Result<unban_user::v3::Response, Failure> {
    Change::of(caller, request.user_id, MembershipAction::Unban, request.reason).make(cx, &request.room_id).await?;
    Ok(unban_user::v3::Response::new())
}
