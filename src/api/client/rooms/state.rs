//! Reading a room's state. Spec: "Getting events for a room".

use actors::room::{EventFilter, GetState, GetStateEvent};
use domain::Refusal;
use ruma_client_api::state::{
    get_state_event_for_key::{self, v3::StateEventFormat},
    get_state_events,
};
use serde_json::value::RawValue;

use super::{
    not_in_room,
    pages::{in_pages, of_state},
};
use crate::{Body, Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_body(state);
    routes.add_json(state_event);
}

/// `GET …/state`.
async fn state(cx: &Context, caller: Caller, request: get_state_events::v3::Request) -> Result<Body, Failure> {
    let (user, device, filter) = (caller.user_id, caller.device_id, EventFilter::default());
    let call = GetState { user, device, at: None, after: None, filter, synced: None };
    let page = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    Ok(in_pages(cx, request.room_id, "[", of_state(call, page)?, of_state, "]"))
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
    if !matches!(request.format, StateEventFormat::Content | StateEventFormat::Event) {
        return Err(Refusal::InvalidParam("`format` is `content` or `event`".to_owned()).into());
    }
    let found = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    Ok(if request.format == StateEventFormat::Event { found.event } else { found.content })
}
