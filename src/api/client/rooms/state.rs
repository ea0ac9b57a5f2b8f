//! Reading a room's state. Spec: "Getting events for a room".

use actors::room::{GetState, GetStateEvent};
use ruma_client_api::state::{get_state_event_for_key, get_state_events};
use serde_json::value::RawValue;

use super::{not_in_room, push_array};
use crate::{Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(state);
    routes.add_json(state_event);
}

/// `GET …/state`.
async fn state(cx: &Context, caller: Caller, request: get_state_events::v3::Request) -> Result<String, Failure> {
    let call = GetState { user: caller.user_id, device: caller.device_id };
    let events = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    let mut json = String::new();
    push_array(&mut json, &events);
    Ok(json)
}

/// `GET …/state/{eventType}/{stateKey}`.
async fn state_event(
    cx: &Context,
    caller: Caller,
    request: get_state_event_for_key::v3::Request,
) -> Result<Box<RawValue>, Failure> {
    let call = GetStateEvent {
        user: caller.user_id,
        device: caller.device_id,
        event_type: request.event_type,
        state_key: request.state_key,
    };
    let found = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    Ok(match request.format {
        get_state_event_for_key::v3::StateEventFormat::Event => found.event,
        _ => found.content,
    })
}
