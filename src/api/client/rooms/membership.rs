//! Inviting, leaving, kicking, banning, forgetting. Spec: "Room membership". For joining and knocking see `joining`.

use actors::{
    room::{ChangeMembership, DescribeForInvitation, Forget, MemberProfile, MembershipAction},
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
    federation::elsewhere::{Elsewhere, is_here_for, residence},
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
pub(in crate::client) async fn member_profile(cx: &Context, user_id: &UserId) -> Result<MemberProfile, Failure> {
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

/// What the profile of a user of ours says who is to be invited to a room; an application service makes them first, if
/// they are its own. Whoever may invite nobody learns nothing of them, and has nobody made.
///
/// Refused: `InviteBlocked`; what the room has against who invites.
pub(super) async fn invitee_of(
    cx: &Context,
    caller: &Caller,
    room_id: &RoomId,
    user_id: &UserId,
) -> Result<MemberProfile, Failure> {
    let acting = caller.acts_for.as_ref().map(|acts_for| &*acts_for.appservice);
    if cx.could_be_made(user_id, acting) {
        must_be_inviter(cx, caller, room_id).await?;
        cx.make_user(user_id, acting).await?;
    }
    match invitee_profile(cx, user_id).await {
        // The room, which is to judge anyway, is asked beforehand only where it matters.
        Err(Failure::Refused(refusal)) => {
            must_be_inviter(cx, caller, room_id).await?;
            Err(refusal.into())
        }
        outcome => outcome,
    }
}

/// Refuses who may invite nobody to the room.
async fn must_be_inviter(cx: &Context, caller: &Caller, room_id: &RoomId) -> Result<(), Failure> {
    let call = DescribeForInvitation { sender: caller.user_id.clone() };
    cx.room(room_id).call(&call).await.or_absent(not_in_room(&caller.user_id)).map(drop)
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

    /// The call that makes it, with what the target's profile says where the membership shows it. For invitations see
    /// [`invite_known`].
    pub(super) async fn call(self, cx: &Context) -> Result<ChangeMembership, Failure> {
        let profile = match self.action {
            MembershipAction::Join | MembershipAction::Knock => member_profile(cx, &self.target).await?,
            MembershipAction::Invite
            | MembershipAction::Leave
            | MembershipAction::Kick
            | MembershipAction::Ban
            | MembershipAction::Unban => MemberProfile::default(),
        };
        self.showing(cx, profile)
    }

    /// The call that makes it, and shows this profile.
    fn showing(self, cx: &Context, profile: MemberProfile) -> Result<ChangeMembership, Failure> {
        let Self { sender, target, action, reason, guest } = self;
        let call = ChangeMembership::new(call_id(cx)?, sender, target, action);
        Ok(ChangeMembership { reason, profile, guest, ..call })
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
            let words = Words { reason: invited.reason, is_direct: false };
            invite_known(cx, caller, &request.room_id, invited.user_id, words).await?;
        }
        InvitationRecipient::ThirdPartyId(wanted) => {
            let third_party = ThirdParty::from(wanted);
            third_party_invites::invite(cx, caller, &request.room_id, &third_party.at(cx)?, false).await?;
        }
        _ => return Err(Refusal::BadJson("The body names nobody to be invited".to_owned()).into()),
    }
    Ok(invite_user::v3::Response::new())
}

/// What an invitation says, besides who is invited.
#[derive(Default)]
pub(super) struct Words {
    pub reason: Option<String>,
    /// Whether the room is to be a direct chat.
    pub is_direct: bool,
}

/// Invites a user, of whichever server.
pub(super) async fn invite_known(
    cx: &Context,
    caller: Caller,
    room_id: &RoomId,
    user_id: OwnedUserId,
    words: Words,
) -> Result<(), Failure> {
    if !cx.is_local(&user_id) {
        must_be_reachable(cx, &user_id)?;
        let content = invitation(words)?;
        let absent = not_in_room(&caller.user_id);
        return cx.invite_elsewhere(room_id, &caller.user_id, &user_id, content, None, absent).await.map(drop);
    }
    let profile = invitee_of(cx, &caller, room_id, &user_id).await?;
    let Words { reason, is_direct } = words;
    let call = Change::of(caller, user_id, MembershipAction::Invite, reason).showing(cx, profile)?;
    let call = ChangeMembership { is_direct, ..call };
    cx.room(room_id).call(&call).await.or_absent(not_in_room(&call.sender))
}

/// The content of an invitation of another server's user: what they call themselves there is theirs to say.
fn invitation(words: Words) -> Result<Box<RawValue>, Failure> {
    let mut content = Map::from_iter([("membership".to_owned(), "invite".into())]);
    if let Some(reason) = words.reason {
        content.insert("reason".to_owned(), reason.into());
    }
    if words.is_direct {
        content.insert("is_direct".to_owned(), true.into());
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
    let is_elsewhere = asked && !is_here_for(cx, &residence, room_id, &call.target).await?;
    let elsewhere = Elsewhere::of(cx, room_id, &call, Vec::new(), residence.servers);
    // Only who was invited, or knocked, has something to leave elsewhere; whether or not a server can be told.
    if is_elsewhere {
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

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};

    use crate::testing::{TestServer, refused};

    const REGISTRATION: &str = r#"{ "id": "irc", "url": "http://irc.test:1", "as_token": "a", "hs_token": "h",
        "sender_localpart": "irc", "namespaces": { "users": [{ "regex": "@irc_.*", "exclusive": true }] } }"#;

    #[test]
    fn who_may_invite_nobody_learns_nothing_of_whom_they_name() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("APPSERVICES", REGISTRATION)]);
        let asked: Rc<RefCell<Vec<String>>> = Rc::default();
        let notes = asked.clone();
        server.others_answer(move |request| {
            notes.borrow_mut().push(request.path_and_query.clone());
            Ok((StatusCode::NOT_FOUND, HeaderMap::new(), "{}".into()))
        });
        let [alice, bob, mallory] = ["alice", "bob", "mallory"].map(|name| server.register(name));
        let blocks = "/_matrix/client/v3/user/@bob:localhost/account_data/m.invite_permission_config";
        assert_eq!(server.put(blocks, &bob, &json!({ "default_action": "block" })).0, StatusCode::OK);
        let create = json!({ "preset": "public_chat", "power_level_content_override": { "invite": 50 } });
        let room = server.post("/_matrix/client/v3/createRoom", &alice, &create).1["room_id"].clone();
        let room = format!("/_matrix/client/v3/rooms/{}", room.as_str().unwrap());
        let invites = |who: &str, whom: &str| {
            let by_post = server.post(&format!("{room}/invite"), who, &json!({ "user_id": whom }));
            let path = format!("{room}/state/m.room.member/{whom}");
            let by_put = server.put(&path, who, &json!({ "membership": "invite" }));
            [by_post, by_put]
        };
        let asks_bridge = || asked.borrow_mut().drain(..).any(|path| path.contains("/users/"));
        let none = |answers: [(StatusCode, Value); 2]| answers.map(refused).map(|(_, errcode)| errcode);
        let forbidden = ["M_FORBIDDEN"; 2];
        for is_in_room in [false, true] {
            if is_in_room {
                assert_eq!(server.post(&format!("{room}/join"), &mallory, &json!({})).0, StatusCode::OK);
            }
            assert_eq!(none(invites(&mallory, "@bob:localhost")), forbidden);
            assert_eq!(none(invites(&mallory, "@irc_x:localhost")), forbidden);
            assert!(!asks_bridge(), "nobody is made for them");
        }
        let nowhere = server.post(
            "/_matrix/client/v3/rooms/!nowhere:localhost/invite",
            &mallory,
            &json!({ "user_id": "@bob:localhost" }),
        );
        assert_eq!(refused(nowhere), (403, "M_FORBIDDEN".to_owned()));
        assert_eq!(none(invites(&alice, "@bob:localhost")), ["M_INVITE_BLOCKED"; 2]);
        assert!(!asks_bridge());
        assert_eq!(invites(&alice, "@irc_x:localhost").map(|(status, _)| status), [StatusCode::OK; 2]);
        assert!(asks_bridge());
    }
}
