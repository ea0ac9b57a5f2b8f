//! Letting users of other servers into rooms here, and out of them.
//! Spec: "Joining Rooms", "Restricted rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)".

use std::collections::BTreeMap;

use actors::room::{
    AdmitMembership, CheckedEvent, GetHeldEvents, GetJoinConditions, GetMissing, GetShownState, GetStateIds,
    GetVersionForServer, IsJoined, MembershipAction, PrepareMembership, PreparedMembership,
};
use domain::{Pdu, RateLimited, Refusal, RoomVersion};
use platform::Fault;
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId};
use ruma_events::{TimelineEventType, room::member::MembershipState};
use ruma_federation_api::membership::{
    create_join_event, create_knock_event, create_leave_event, prepare_join_event, prepare_knock_event,
    prepare_leave_event,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Origin, elsewhere::residence, event_lists::pages, events::all_ids, pdus::ReadPdu, receiving::Receiving};
use crate::{Body, Context, Failure, OrAbsent, Routes, client::first_joined};

/// Servers that are asked for what a membership comes after, and how long all of that may take, in milliseconds:
/// somebody waits.
const SERVERS_ASKED_MAX: usize = 2;
const FETCHED_MS: u64 = 15_000;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(make_join);
    routes.add_body(send_join);
    routes.add(make_leave);
    routes.add(send_leave);
    routes.add(make_knock);
    routes.add_json(send_knock);
}

/// `GET /make_join/{roomId}/{userId}`.
async fn make_join(
    cx: &Context,
    Origin(origin): Origin,
    request: prepare_join_event::v1::Request,
) -> Result<prepare_join_event::v1::Response, Failure> {
    of_origin(&request.user_id, &origin)?;
    check_version(cx, &origin, &request.room_id, &request.ver).await?;
    let mut call =
        PrepareMembership { user: request.user_id.clone(), action: MembershipAction::Join, member_of: Vec::new() };
    let room = cx.room(&request.room_id);
    call.member_of.extend(met_condition(cx, &request.room_id, &request.user_id).await?);
    let prepared = room.call(&call).await?;
    let mut response = prepare_join_event::v1::Response::new(prepared.event);
    response.room_version = Some(RoomVersionId::try_from(prepared.room_version.as_str()).map_err(no_version)?);
    Ok(response)
}

/// `GET /make_leave/{roomId}/{userId}`.
async fn make_leave(
    cx: &Context,
    Origin(origin): Origin,
    request: prepare_leave_event::v1::Request,
) -> Result<prepare_leave_event::v1::Response, Failure> {
    of_origin(&request.user_id, &origin)?;
    let prepared = prepare(cx, &request.room_id, request.user_id, MembershipAction::Leave).await?;
    let version = RoomVersionId::try_from(prepared.room_version.as_str()).map_err(no_version)?;
    Ok(prepare_leave_event::v1::Response::new(Some(version), prepared.event))
}

/// `GET /make_knock/{roomId}/{userId}`.
async fn make_knock(
    cx: &Context,
    Origin(origin): Origin,
    request: prepare_knock_event::v1::Request,
) -> Result<prepare_knock_event::v1::Response, Failure> {
    of_origin(&request.user_id, &origin)?;
    check_version(cx, &origin, &request.room_id, &request.ver).await?;
    let prepared = prepare(cx, &request.room_id, request.user_id, MembershipAction::Knock).await?;
    let version = RoomVersionId::try_from(prepared.room_version.as_str()).map_err(no_version)?;
    Ok(prepare_knock_event::v1::Response::new(version, prepared.event))
}

async fn prepare(
    cx: &Context,
    room_id: &RoomId,
    user: OwnedUserId,
    action: MembershipAction,
) -> Result<PreparedMembership, Failure> {
    let call = PrepareMembership { user, action, member_of: Vec::new() };
    cx.room(room_id).call(&call).await.or_absent(unknown_room())
}

/// `PUT /send_join/{roomId}/{eventId}`: the join as it is in the room now, with the state before it and its auth chain,
/// in pieces as the room gives them.
async fn send_join(
    cx: &Context,
    Origin(origin): Origin,
    request: create_join_event::v2::Request,
) -> Result<Body, Failure> {
    let join = admit(cx, &origin, &request.room_id, &request.event_id, &request.pdu, MembershipState::Join).await?;
    let call = GetStateIds {
        server: None,
        event_id: join.event_id().to_owned(),
        auth_chain_only: false,
        omit_members: request.omit_members,
        after: None,
    };
    let room = cx.room(&request.room_id);
    let ids = all_ids(cx, &request.room_id, call).await?;
    // The room's policy server may have signed it, too.
    let held = room.call(&GetHeldEvents { event_ids: vec![join.event_id().to_owned()] }).await?;
    let event = held.first().map_or(join.json(), |held| held.get());
    let servers = serde_json::to_string(&ids.servers)?;
    let origin = serde_json::to_string(cx.server_name())?;
    let start = format!(
        r#"{{"origin":{origin},"members_omitted":{},"servers_in_room":{servers},"event":{event},"state":["#,
        ids.members_omitted,
    );
    let texts = [start, r#"],"auth_chain":["#.to_owned(), "]}".to_owned()];
    Ok(pages(cx, &request.room_id, texts, [ids.state, ids.auth_chain]))
}

/// `PUT /send_leave/{roomId}/{eventId}`.
async fn send_leave(
    cx: &Context,
    Origin(origin): Origin,
    request: create_leave_event::v2::Request,
) -> Result<create_leave_event::v2::Response, Failure> {
    admit(cx, &origin, &request.room_id, &request.event_id, &request.pdu, MembershipState::Leave).await?;
    Ok(create_leave_event::v2::Response::new())
}

/// `PUT /send_knock/{roomId}/{eventId}`.
async fn send_knock(
    cx: &Context,
    Origin(origin): Origin,
    request: create_knock_event::v1::Request,
) -> Result<Vec<u8>, Failure> {
    let knock = admit(cx, &origin, &request.room_id, &request.event_id, &request.pdu, MembershipState::Knock).await?;
    let state = cx.room(&request.room_id).call(&GetShownState { user: knock.sender().to_owned() }).await?;
    Ok(serde_json::to_vec(&BTreeMap::from([("knock_room_state", state)]))?)
}

/// Takes a membership that another server completed into the room; answers it as it is now.
async fn admit(
    cx: &Context,
    origin: &ServerName,
    room_id: &RoomId,
    event_id: &OwnedEventId,
    json: &RawValue,
    membership: MembershipState,
) -> Result<Pdu, Failure> {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
        join_authorised_via_users_server: Option<OwnedUserId>,
    }
    let call = GetVersionForServer { server: origin.to_owned() };
    let version = RoomVersion::parse(&cx.room(room_id).call(&call).await.or_absent(unknown_room())?)?;
    let mut json = json.to_owned();
    let bad_json = |error: &dyn std::fmt::Display| Refusal::BadJson(error.to_string());
    // Spec: Appendices, "Canonical JSON": what is none gets «`M_BAD_JSON` error on most endpoints».
    let read = |json: &RawValue| ReadPdu::read(json, &version).map_err(Refusal::BadJson);
    let draft = Pdu::from_stored(event_id.clone(), json.get().to_owned(), false).map_err(|error| bad_json(&error))?;
    let content: Content = draft.content_as().map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    let is_as_said = read(&json)?.event_id == *event_id
        && draft.room_id() == room_id
        && *draft.event_type() == TimelineEventType::RoomMember
        && draft.state_key() == Some(draft.sender().as_str())
        && content.membership == membership;
    if !is_as_said {
        let sentence = format!("This is not a membership `{membership}` of this room, or has another id");
        return Err(Refusal::InvalidParam(sentence).into());
    }
    if draft.sender().server_name() != origin {
        return Err(Refusal::InvalidParam(format!("{} is not a user of {origin}", draft.sender())).into());
    }
    // In whose name the user comes in, that one's server has to sign.
    let vouches = content.join_authorised_via_users_server.is_some_and(|user| cx.is_local(&user));
    let mut met = None;
    if membership == MembershipState::Join {
        if vouches {
            met = met_condition(cx, room_id, &draft.sender().to_owned()).await?;
        }
        // Spec: «The resident homeserver then adds its signature to this event».
        json = domain::event::countersign(&json, &version, cx.identity()).map_err(Refusal::from)?;
    }
    let pdu = cx.check_pdu(&version, read(&json)?).await?.map_err(Refusal::InvalidParam)?;
    let call = AdmitMembership { server: origin.to_owned(), event: CheckedEvent::of(&pdu) };
    let room = cx.room(room_id);
    let admitted = match room.call(&call).await {
        // Whoever prepared it may know of events that have not come here yet.
        Err(Failure::Refused(Refusal::OtherServer(_))) if fetch_before(cx, origin, &pdu, &version).await? => {
            room.call(&call).await
        }
        admitted => admitted,
    };
    match admitted {
        Err(Failure::Refused(Refusal::Forbidden(rule))) if met.is_some() => {
            Err(Refusal::UnableToGrantJoin(rule).into())
        }
        admitted => admitted.map(|()| pdu),
    }
}

/// Fetches what a membership comes after and is not here from those who may have it: the server that sent it, if it is
/// in the room, or else some that are. Whether anything was missing, and is here now.
async fn fetch_before(cx: &Context, origin: &ServerName, pdu: &Pdu, version: &RoomVersion) -> Result<bool, Failure> {
    let room_id = pdu.room_id();
    let named = pdu.prev_events().iter().chain(pdu.auth_events()).cloned().collect();
    let missing = cx.room(room_id).call(&GetMissing { event_ids: named }).await?;
    if missing.is_empty() {
        return Ok(false);
    }
    cx.limit(RateLimited::RemoteQueries, origin.as_str())?.keep();
    let mut servers = residence(cx, room_id).await?.servers;
    servers.sort_by_key(|server| server != origin.as_str());
    let until_ms = cx.now_ms().saturating_add(cx.in_time(FETCHED_MS));
    for server in servers.into_iter().take(SERVERS_ASKED_MAX) {
        let Ok(server) = OwnedServerName::try_from(server) else { continue };
        let receiving =
            Receiving { cx, origin: &server, room_id, version, until_ms, is_last_try: false, takes_gaps: true };
        if receiving.receive_all(&missing).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A room of which the user is a member and that lets them into this one; `None` where nothing such is asked for.
///
/// Refused: `Forbidden` for who meets no condition; `UnableToAuthoriseJoin` where not all of them can be judged here.
async fn met_condition(cx: &Context, room_id: &RoomId, user: &OwnedUserId) -> Result<Option<OwnedRoomId>, Failure> {
    let call = GetJoinConditions { user: user.clone() };
    let conditions = cx.room(room_id).call(&call).await.or_absent(unknown_room())?;
    if !conditions.is_asked_for {
        return Ok(None);
    }
    let conditions = conditions.member_of_any;
    if let Some(met) = first_joined(cx, &IsJoined { user: user.clone() }, conditions.clone()).await? {
        return Ok(Some(met));
    }
    for room_id in &conditions {
        if !residence(cx, room_id).await?.here {
            let sentence = "This server is not in all of the rooms whose members may join".to_owned();
            return Err(Refusal::UnableToAuthoriseJoin(sentence).into());
        }
    }
    Err(Refusal::Forbidden(format!("{user} is in none of the rooms whose members may join")).into())
}

/// Refuses who speaks for somebody of another server.
fn of_origin(user_id: &UserId, origin: &ServerName) -> Result<(), Refusal> {
    if user_id.server_name() == origin {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!("{user_id} is not a user of {origin}")))
}

/// Refuses a server that does not know the room's version, with `M_INCOMPATIBLE_ROOM_VERSION`.
async fn check_version(
    cx: &Context,
    origin: &ServerName,
    room_id: &RoomId,
    known: &[RoomVersionId],
) -> Result<(), Failure> {
    let call = GetVersionForServer { server: origin.to_owned() };
    let version = cx.room(room_id).call(&call).await.or_absent(unknown_room())?;
    if known.iter().any(|known| known.as_str() == version) {
        return Ok(());
    }
    Err(Refusal::IncompatibleRoomVersion { room_version: version }.into())
}

pub(super) fn unknown_room() -> Refusal {
    Refusal::NotFound("This server is not in the room".to_owned())
}

fn no_version(_: ruma_common::IdParseError) -> Fault {
    Fault::new("a room has a version that is none")
}
