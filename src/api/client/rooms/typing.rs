//! Spec: "Typing Notifications".

use actors::room::SetTyping;
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_common::OwnedRoomId;
use serde::Deserialize;
use serde_json::json;

use super::not_in_room;
use crate::{Caller, Context, Failure, OrAbsent, Routes, failure, router::bad_json};

/// How long somebody types who does not say how long, in milliseconds: as other servers have it.
const TIMEOUT_MS_DEFAULT: u64 = 30_000;

pub(super) fn routes(routes: &mut Routes) {
    // Not ruma's type: to that one, who types without saying how long is bad JSON.
    for path in
        ["/_matrix/client/v3/rooms/{room_id}/typing/{user_id}", "/_matrix/client/r0/rooms/{room_id}/typing/{user_id}"]
    {
        routes.add_raw(Method::PUT, path, typing);
    }
}

/// `PUT …/typing/{userId}`.
async fn typing(
    cx: &Context,
    caller: Caller,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct State {
        typing: bool,
        timeout: Option<u64>,
    }
    let [room_id, user_id] = <[String; 2]>::try_from(path_args).unwrap_or_default();
    let room_id = OwnedRoomId::try_from(room_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    let state: State = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    if user_id != caller.user_id {
        return Err(Refusal::Forbidden("You may not type for somebody else".to_owned()).into());
    }
    let timeout_ms = state.typing.then(|| state.timeout.unwrap_or(TIMEOUT_MS_DEFAULT));
    let call = SetTyping { user: caller.user_id, timeout_ms };
    cx.room(&room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    cx.tell_of_typing(&room_id, &call.user, state.typing).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}
