//! Joining rooms and knocking on them. Spec: "Joining rooms", "Knocking on rooms", "Restricted rooms".

use actors::{
    Call,
    room::{ChangeMembership, GetJoinConditions, IsJoined, MemberProfile, MembershipAction, SendEvent},
};
use domain::Refusal;
use futures_util::{StreamExt, stream};
use platform::ActorKind;
use ruma_client_api::{
    knock::knock_room,
    membership::{ThirdPartySigned, join_room_by_id, join_room_by_id_or_alias},
    state::send_state_event,
};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, UserId};
use ruma_events::room::member::MembershipState;
use serde::Deserialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    aliases::room_named,
    call_id,
    membership::{Change, invitee_of, invitee_profile, is_asked, member_profile},
    no_such_room, not_in_room,
    send::wished_time_ms,
};
use crate::{
    Caller, Context, Failure, OrAbsent, Routes,
    federation::elsewhere::{Elsewhere, is_here_for, residence},
};

/// Rooms asked at the same time whether a user is in them.
const ROOMS_AT_ONCE: usize = 16;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(join);
    routes.add(join_by_id_or_alias);
    routes.add(knock);
}

/// `POST /rooms/{roomId}/join`.
async fn join(
    cx: &Context,
    caller: Caller,
    request: join_room_by_id::v3::Request,
) -> Result<join_room_by_id::v3::Response, Failure> {
    let joining = Joining { room_id: &request.room_id, reason: request.reason, via: Vec::new() };
    joining.of(cx, caller, request.third_party_signed).await?;
    Ok(join_room_by_id::v3::Response::new(request.room_id))
}

/// `POST /join/{roomIdOrAlias}`. Through which servers, `via`, matters for rooms of others.
async fn join_by_id_or_alias(
    cx: &Context,
    caller: Caller,
    request: join_room_by_id_or_alias::v3::Request,
) -> Result<join_room_by_id_or_alias::v3::Response, Failure> {
    let (room_id, servers) = room_named(cx, &request.room_id_or_alias).await?;
    let via = request.via.into_iter().chain(servers).collect();
    let joining = Joining { room_id: &room_id, reason: request.reason, via };
    joining.of(cx, caller, request.third_party_signed).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room_id))
}

/// `POST /knock/{roomIdOrAlias}`.
async fn knock(
    cx: &Context,
    caller: Caller,
    request: knock_room::v3::Request,
) -> Result<knock_room::v3::Response, Failure> {
    let (room_id, servers) = room_named(cx, &request.room_id_or_alias).await?;
    let via = request.via.into_iter().chain(servers).collect();
    let call = Change::own(caller, MembershipAction::Knock, request.reason).call(cx).await?;
    match elsewhere(cx, &room_id, &call, via).await? {
        Some(elsewhere) => elsewhere.knock().await.map(drop)?,
        None => cx.room(&room_id).call(&call).await.or_absent(no_such_room())?,
    }
    Ok(knock_room::v3::Response::new(room_id))
}

/// The same for a room in which nobody of this server is; `None` where somebody is, or no other server may be.
async fn elsewhere<'a>(
    cx: &'a Context,
    room_id: &'a RoomId,
    call: &'a ChangeMembership,
    via: Vec<OwnedServerName>,
) -> Result<Option<Elsewhere<'a>>, Failure> {
    let residence = residence(cx, room_id).await?;
    if is_here_for(cx, &residence, room_id, &call.target).await? {
        return Ok(None);
    }
    let elsewhere = Elsewhere::of(cx, room_id, call, via, residence.servers).await?;
    Ok(Some(elsewhere).filter(|elsewhere| !elsewhere.servers.is_empty()))
}

/// A join that somebody asks for.
struct Joining<'a> {
    room_id: &'a RoomId,
    reason: Option<String>,
    via: Vec<OwnedServerName>,
}

impl Joining<'_> {
    /// Joins the room. Who may not, but was invited by an address, as an identity server signed, is invited first.
    /// Spec: «If supplied, the homeserver must verify that it matches a pending m.room.third_party_invite event»: the
    /// room does.
    async fn of(self, cx: &Context, caller: Caller, signed: Option<ThirdPartySigned>) -> Result<(), Failure> {
        let Some(signed) = signed else { return self.joins(cx, caller).await };
        let user_id = caller.user_id.clone();
        match self.joins(cx, caller.clone()).await {
            Err(Failure::Refused(Refusal::Forbidden(_))) => {}
            joined => return joined,
        }
        cx.invite_by_third_party(self.room_id, &signed.sender, &user_id, to_raw_value(&signed)?).await?;
        self.joins(cx, caller).await
    }

    async fn joins(&self, cx: &Context, caller: Caller) -> Result<(), Failure> {
        joins(cx, self.room_id, caller, self.reason.clone(), self.via.clone()).await
    }
}

async fn joins(
    cx: &Context,
    room_id: &RoomId,
    caller: Caller,
    reason: Option<String>,
    via: Vec<OwnedServerName>,
) -> Result<(), Failure> {
    let mut call = Change::own(caller, MembershipAction::Join, reason).call(cx).await?;
    if let Some(elsewhere) = elsewhere(cx, room_id, &call, via.clone()).await? {
        return join_through(&elsewhere, &call).await;
    }
    let user_id = call.sender.clone();
    match on_conditions(cx, room_id, &user_id, &mut call, |call: &mut ChangeMembership| &mut call.member_of).await {
        // The user meets a condition, and only another server has somebody who may invite.
        Err(Failure::Refused(Refusal::UnableToGrantJoin(rule))) => {
            let known = residence(cx, room_id).await?.servers;
            let elsewhere = Elsewhere::of(cx, room_id, &call, via, known).await?;
            if elsewhere.servers.is_empty() {
                return Err(Refusal::Forbidden(rule).into());
            }
            join_through(&elsewhere, &call).await
        }
        joined => joined,
    }
}

/// Joins with the help of another server, which does not know who is a guest.
async fn join_through(elsewhere: &Elsewhere<'_>, call: &ChangeMembership) -> Result<(), Failure> {
    if call.guest {
        return Err(Refusal::GuestAccessForbidden.into());
    }
    elsewhere.join(&call.call_id).await.map(drop)
}

/// The content of a membership in a client's own words. What it leaves out of a profile is filled in, as where the
/// server writes it.
///
/// Refused: `InviteBlocked` for an invitation that the target wants none of.
pub(super) async fn with_profile(cx: &Context, target: &UserId, content: &RawValue) -> Result<Box<RawValue>, Failure> {
    let content = fields(content)?;
    let is_told = content.contains_key("displayname") && content.contains_key("avatar_url");
    let membership = content.get("membership").and_then(Value::as_str).map(MembershipState::from);
    let profile = match membership {
        Some(MembershipState::Join | MembershipState::Knock) if !is_told => member_profile(cx, target).await?,
        Some(MembershipState::Invite) => invitee_profile(cx, target).await?,
        _ => MemberProfile::default(),
    };
    filled(content, profile)
}

fn fields(content: &RawValue) -> Result<Map<String, Value>, Refusal> {
    serde_json::from_str(content.get())
        .map_err(|error| Refusal::BadJson(format!("The content of m.room.member: {error}")))
}

fn filled(mut content: Map<String, Value>, profile: MemberProfile) -> Result<Box<RawValue>, Failure> {
    for (field, value) in [("displayname", profile.displayname), ("avatar_url", profile.avatar_url)] {
        if let Some(value) = value {
            content.entry(field).or_insert_with(|| value.into());
        }
    }
    Ok(to_raw_value(&content)?)
}

/// `PUT …/state/m.room.member/{stateKey}`.
pub(super) async fn send_membership(
    cx: &Context,
    caller: Caller,
    request: send_state_event::v3::Request,
) -> Result<OwnedEventId, Failure> {
    let room_id = &request.room_id;
    let target = <&UserId>::try_from(request.state_key.as_str())
        .map_err(|_| Refusal::BadJson("The state key of m.room.member is a user id".to_owned()))?;
    let at_ms = wished_time_ms(&caller, request.timestamp);
    let membership = said_membership(request.body.json());
    if membership == Some(MembershipState::Invite) && !is_exempt(&caller) {
        cx.limit_invitation(room_id, &caller.user_id, target)?;
    }
    let content = if membership == Some(MembershipState::Invite) && cx.is_local(target) {
        filled(fields(request.body.json())?, invitee_of(cx, &caller, room_id, target).await?)?
    } else {
        with_profile(cx, target, request.body.json()).await?
    };
    if membership == Some(MembershipState::Invite) && !cx.is_local(target) {
        let absent = not_in_room(&caller.user_id);
        return cx.invite_elsewhere(room_id, &caller.user_id, target, content, at_ms, absent).await;
    }
    let is_own = *target == *caller.user_id;
    if is_own
        && let Some(membership) = &membership
        && let Some(event_id) = own_elsewhere(cx, &caller, room_id, membership, &content).await?
    {
        return Ok(event_id);
    }
    let user_id = caller.user_id.clone();
    let mut call = SendEvent {
        administrator: caller.administrator,
        sender: caller.user_id,
        device: caller.device_id,
        transaction_id: None,
        call_id: Some(call_id(cx)?),
        event_type: request.event_type.into(),
        content,
        state_key: Some(request.state_key.clone()),
        member_of: Vec::new(),
        at_ms,
    };
    if !is_own || membership != Some(MembershipState::Join) {
        return cx.room(room_id).call(&call).await.or_absent(not_in_room(&user_id));
    }
    match on_conditions(cx, room_id, &user_id, &mut call, |call: &mut SendEvent| &mut call.member_of).await {
        Err(Failure::Refused(Refusal::UnableToGrantJoin(rule))) => Err(Refusal::Forbidden(rule).into()),
        joined => joined,
    }
}

fn is_exempt(caller: &Caller) -> bool {
    caller.acts_for.as_ref().is_some_and(|acts_for| acts_for.is_exempt)
}

/// Which membership a content says.
fn said_membership(content: &RawValue) -> Option<MembershipState> {
    #[derive(Deserialize)]
    struct Said {
        membership: MembershipState,
    }
    serde_json::from_str(content.get()).ok().map(|Said { membership }| membership)
}

/// A user's own membership, changed with the help of another server where nobody of this one is in the room, and the id
/// of the event; `None` where it is the room's to decide here.
async fn own_elsewhere(
    cx: &Context,
    caller: &Caller,
    room_id: &RoomId,
    membership: &MembershipState,
    content: &RawValue,
) -> Result<Option<OwnedEventId>, Failure> {
    let user_id = &*caller.user_id;
    match membership {
        MembershipState::Join | MembershipState::Knock => {
            let is_joined = IsJoined { user: user_id.to_owned() };
            if first_joined(cx, &is_joined, vec![room_id.to_owned()]).await?.is_some() {
                return Ok(None);
            }
            if !is_exempt(caller) {
                cx.limit_join(room_id, user_id)?;
            }
        }
        MembershipState::Leave if is_asked(cx, room_id, user_id).await? => {}
        _ => return Ok(None),
    }
    let residence = residence(cx, room_id).await?;
    if is_here_for(cx, &residence, room_id, user_id).await? {
        return Ok(None);
    }
    let words = serde_json::from_str(content.get())?;
    let elsewhere = Elsewhere::in_words(cx, room_id, (user_id, words), Vec::new(), residence.servers).await?;
    Ok(Some(match membership {
        MembershipState::Leave => elsewhere.leave().await?,
        _ if elsewhere.servers.is_empty() => return Ok(None),
        MembershipState::Knock => elsewhere.knock().await?,
        _ => elsewhere.join(&call_id(cx)?).await?,
    }))
}

/// Makes a call that joins a room; if it is refused and the room has conditions of which the user meets one, makes it
/// again and says so. The room decides, both times.
async fn on_conditions<C: Call>(
    cx: &Context,
    room_id: &RoomId,
    user_id: &UserId,
    call: &mut C,
    member_of: impl FnOnce(&mut C) -> &mut Vec<OwnedRoomId>,
) -> Result<C::Reply, Failure> {
    const { assert!(matches!(C::ACTOR, ActorKind::Room), "a room is joined by a call to it") };
    let refused = match cx.call(room_id.as_str(), call).await.or_absent(no_such_room()) {
        Err(Failure::Refused(Refusal::Forbidden(rule))) => Refusal::Forbidden(rule),
        outcome => return outcome,
    };
    let conditions = cx.room(room_id).call(&GetJoinConditions { user: user_id.to_owned() }).await?;
    let is_joined = IsJoined { user: user_id.to_owned() };
    let Some(met) = first_joined(cx, &is_joined, conditions.member_of_any).await? else { return Err(refused.into()) };
    member_of(call).push(met);
    cx.call(room_id.as_str(), call).await
}

/// One of these rooms that says that somebody is in it. Rooms that are not here say nothing; of one that failed to
/// answer it matters only if no other says so.
pub(crate) async fn first_joined(
    cx: &Context,
    is_joined: &impl Call<Reply = bool>,
    rooms: Vec<OwnedRoomId>,
) -> Result<Option<OwnedRoomId>, Failure> {
    let ask = |room_id: OwnedRoomId| async move {
        let joined = match cx.call(room_id.as_str(), is_joined).await {
            Err(Failure::Absent) => Ok(false),
            answer => answer,
        };
        (room_id, joined)
    };
    let mut answers = stream::iter(rooms).map(ask).buffer_unordered(ROOMS_AT_ONCE);
    let mut failure = None;
    while let Some((room_id, joined)) = answers.next().await {
        match joined {
            Ok(true) => return Ok(Some(room_id)),
            Ok(false) => {}
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(None), Err)
}
