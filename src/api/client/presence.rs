//! Spec: "Presence".

use actors::{
    destination::GetPresences,
    presence::{Presence, PresenceState},
    room::{EventFilter, IsJoined},
    user::{GetPresence, JoinedRooms, SetPresence, SyncPresence},
};
use domain::Refusal;
use ruma_client_api::{
    filter::Filter,
    presence::{get_presence::v3 as get, set_presence::v3 as set},
};
use ruma_common::{OwnedRoomId, OwnedUserId, presence::PresenceState as Given};
use serde_json::value::RawValue;

use super::{first_joined, user_directory::with_server};
use crate::{Bearer, Context, Failure, OrAbsent, Routes};

/// The largest filter, in bytes of JSON, that is looked at before a sync has something to say. What waits must be
/// small.
const WAITING_FILTER_BYTES_MAX: usize = 2_048;

/// The most rooms that are asked whether another server's user is in them.
const ROOMS_ASKED_MAX: usize = 200;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried(set_presence);
    routes.add_carried_json(get_presence);
}

async fn set_presence(cx: &Context, bearer: Bearer, request: set::Request) -> Result<set::Response, Failure> {
    bearer.must_be(&request.user_id)?;
    let call = SetPresence {
        token_hash: bearer.token_hash.clone(),
        state: state_of("presence", &request.presence)?,
        status_msg: request.status_msg,
    };
    bearer.call(cx, &call).await?;
    Ok(set::Response::new())
}

async fn get_presence(cx: &Context, bearer: Bearer, request: get::Request) -> Result<Box<RawValue>, Failure> {
    // Their own user says whether the token is good, and which rooms they are in.
    let rooms = bearer.call(cx, &JoinedRooms { token_hash: bearer.token_hash.clone() }).await?;
    let unknown = || Refusal::NotFound("There is no such user here".to_owned());
    if !cx.is_local(&request.user_id) {
        let presence = of_another_server(cx, request.user_id, rooms).await?;
        return Ok(presence.to_status(cx.now_ms())?);
    }
    let call = GetPresence { asker: bearer.user_id, rooms };
    let presence = cx.user(&request.user_id).call(&call).await.or_absent(unknown())?;
    Ok(presence.to_status(cx.now_ms())?)
}

/// The presence of another server's user, as that told it, for who is in these rooms.
async fn of_another_server(cx: &Context, user_id: OwnedUserId, rooms: Vec<OwnedRoomId>) -> Result<Presence, Failure> {
    let common = with_server(cx, &user_id, rooms).await?.into_iter().take(ROOMS_ASKED_MAX).collect();
    let shares_room = first_joined(cx, &IsJoined { user: user_id.clone() }, common).await?.is_some();
    if !shares_room {
        return Err(Refusal::Forbidden("You share no room with this user".to_owned()).into());
    }
    let call = GetPresences { room_id: None, users: vec![user_id.clone()] };
    let known = cx.call(user_id.server_name().as_str(), &call).await?.pop();
    Ok(known.unwrap_or_else(|| Presence::absent(user_id)))
}

/// What a sync says and wants of presence, when it is asked at this time and waits so long; nothing where there is
/// none.
pub(super) fn of_sync(
    cx: &Context,
    set_presence: &Given,
    (asked_at_ms, timeout_ms): (u64, u64),
    filter: Option<&Filter>,
) -> Result<Option<SyncPresence>, Refusal> {
    let set = state_of("set_presence", set_presence)?;
    let filter = filter.map(wanted).unwrap_or_default();
    let size = serde_json::to_vec(&filter).map_or(0, |filter| filter.len());
    // What a large one leaves out may end the wait, but is not shown.
    let filter = if size > WAITING_FILTER_BYTES_MAX { EventFilter::default() } else { filter };
    Ok(cx.config().presence.then_some(SyncPresence { set, asked_at_ms, timeout_ms, filter }))
}

/// The same for the end of the sync, with the filter that holds.
pub(super) fn closing(asked: Option<&SyncPresence>, filter: &Filter) -> Option<SyncPresence> {
    asked.map(|asked| SyncPresence { filter: wanted(filter), ..asked.clone() })
}

/// A client's filter of presence.
fn wanted(filter: &Filter) -> EventFilter {
    let ids = |users: &[ruma_common::OwnedUserId]| users.iter().map(ToString::to_string).collect::<Vec<_>>();
    EventFilter {
        limit: filter.limit.map(Into::into),
        types: filter.types.clone(),
        not_types: filter.not_types.clone(),
        senders: filter.senders.as_deref().map(ids),
        not_senders: ids(&filter.not_senders),
        ..EventFilter::default()
    }
}

fn state_of(parameter: &str, given: &Given) -> Result<PresenceState, Refusal> {
    match given {
        Given::Online => Ok(PresenceState::Online),
        Given::Unavailable => Ok(PresenceState::Unavailable),
        Given::Offline => Ok(PresenceState::Offline),
        _ => Err(Refusal::InvalidParam(format!("{parameter} is online, unavailable or offline"))),
    }
}
