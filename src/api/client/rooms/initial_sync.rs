//! A room as it is now, for who looks into it without being in it. Spec: "Room Previews".

use actors::{
    room::{Direction, EventFilter, GetState, GetStateEvent, Messages},
    user::{AccountDataEvent, RoomsAccountData},
};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response};
use ruma_client_api::room::Visibility;
use ruma_common::{OwnedRoomId, RoomId, UserId};
use ruma_events::StateEventType;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    directory::visibility_of,
    not_in_room,
    pages::{in_pages, of_state},
};
use crate::{
    Bearer, Body, Caller, Context, Failure, OrAbsent, Routes,
    router::{json_body, query},
};

pub(super) fn routes(routes: &mut Routes) {
    // Not ruma's type: that one has no limit, which clients send.
    for path in ["/_matrix/client/v3/rooms/{room_id}/initialSync", "/_matrix/client/r0/rooms/{room_id}/initialSync"] {
        routes.add_raw(Method::GET, path, initial_sync);
    }
}

/// The answer without the state, which may come in pages.
#[derive(Serialize)]
struct RoomInfo {
    room_id: OwnedRoomId,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<String>,
    messages: Messaged,
    visibility: Visibility,
    account_data: Vec<AccountDataEvent>,
}

#[derive(Serialize)]
struct Messaged {
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

/// `GET …/initialSync`.
async fn initial_sync(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Body>, Failure> {
    #[derive(Deserialize)]
    struct Query {
        limit: Option<u64>,
    }
    let Query { limit } = query(&request)?;
    let room_id = path_args.into_iter().next().unwrap_or_default();
    let room_id = OwnedRoomId::try_from(room_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    let account_data = RoomsAccountData { token_hash: bearer.token_hash.clone(), rooms: vec![room_id.clone()] };
    let account_data = bearer.call(cx, &account_data).await?.remove(&room_id).unwrap_or_default();
    let caller = bearer.checked(cx, false, true).await?;
    let room = cx.room(&room_id);
    let call = Messages {
        user: caller.user_id.clone(),
        device: caller.device_id.clone(),
        ignored: caller.ignored.clone(),
        from: None,
        to: None,
        direction: Direction::Backwards,
        filter: EventFilter { limit, ..EventFilter::default() },
        past_gaps: false,
    };
    let mut page = room.call(&call).await.or_absent(not_in_room(&call.user))?;
    page.chunk.reverse();
    let info = RoomInfo {
        membership: membership(cx, &caller, &room_id).await?,
        messages: Messaged { start: page.end, end: page.start, chunk: page.chunk },
        visibility: visibility_of(cx, &room_id).await?,
        account_data,
        room_id: room_id.clone(),
    };
    let mut open = serde_json::to_string(&info)?;
    open.truncate(open.len().saturating_sub(1));
    open.push_str(",\"state\":[");
    let Caller { user_id: user, device_id: device, .. } = caller;
    let call = GetState { user, device, at: None, after: None, filter: EventFilter::default(), synced: None };
    let first = room.call(&call).await?;
    Ok(json_body(in_pages(cx, room_id, &open, of_state(call, first)?, of_state, "]}")))
}

/// The caller's membership, if they have or had one.
async fn membership(cx: &Context, caller: &Caller, room_id: &RoomId) -> Result<Option<String>, Failure> {
    #[derive(Deserialize)]
    struct Member {
        membership: String,
    }
    let user: &UserId = &caller.user_id;
    let call = GetStateEvent {
        user: user.to_owned(),
        device: caller.device_id.clone(),
        event_type: StateEventType::RoomMember,
        state_key: user.to_string(),
    };
    match cx.room(room_id).call(&call).await {
        Ok(found) => Ok(Some(serde_json::from_str::<Member>(found.content.get())?.membership)),
        Err(Failure::Refused(Refusal::NotFound(_))) => Ok(None),
        Err(failure) => Err(failure),
    }
}
