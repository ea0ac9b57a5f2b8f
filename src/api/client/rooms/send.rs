//! Sending events. Spec: "Sending events to a room".

use actors::room::SendEvent;
use ruma_client_api::{message::send_message_event, state::send_state_event};
use ruma_common::{MilliSecondsSinceUnixEpoch, OwnedRoomId};
use ruma_events::StateEventType;

use super::{aliases, call_id, joining::send_membership, not_in_room};
use crate::{Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(send);
    routes.add(send_state);
}

/// `PUT …/send/{eventType}/{txnId}`: a message, once per transaction id.
async fn send(
    cx: &Context,
    caller: Caller,
    request: send_message_event::v3::Request,
) -> Result<send_message_event::v3::Response, Failure> {
    let at_ms = wished_time_ms(&caller, request.timestamp);
    let call = SendEvent {
        sender: caller.user_id,
        device: caller.device_id,
        transaction_id: Some(request.txn_id),
        call_id: None,
        event_type: request.event_type.into(),
        content: request.body.into_json(),
        state_key: None,
        member_of: Vec::new(),
        at_ms,
    };
    Ok(send_message_event::v3::Response::new(append(cx, &request.room_id, &call).await?))
}

/// `PUT …/state/{eventType}/{stateKey}`: a state event.
async fn send_state(
    cx: &Context,
    caller: Caller,
    request: send_state_event::v3::Request,
) -> Result<send_state_event::v3::Response, Failure> {
    if request.event_type == StateEventType::RoomMember {
        return Ok(send_state_event::v3::Response::new(send_membership(cx, caller, request).await?));
    }
    if request.event_type == StateEventType::RoomCanonicalAlias && request.state_key.is_empty() {
        let set = aliases::set_canonical(cx, &request.room_id, caller, request.body.into_json());
        return Ok(send_state_event::v3::Response::new(set.await?));
    }
    let at_ms = wished_time_ms(&caller, request.timestamp);
    let call = SendEvent {
        sender: caller.user_id,
        device: caller.device_id,
        transaction_id: None,
        call_id: Some(call_id(cx)?),
        event_type: request.event_type.into(),
        content: request.body.into_json(),
        state_key: Some(request.state_key),
        member_of: Vec::new(),
        at_ms,
    };
    Ok(send_state_event::v3::Response::new(append(cx, &request.room_id, &call).await?))
}

/// The time that an application service wishes an event to have; nobody else is listened to. Spec: Application Service API,
/// "Timestamp massaging".
pub(super) fn wished_time_ms(caller: &Caller, timestamp: Option<MilliSecondsSinceUnixEpoch>) -> Option<u64> {
    // What is no number of canonical JSON was refused when it was read.
    timestamp.filter(|_| caller.acts_for.is_some()).map(|timestamp| timestamp.get().into())
}

async fn append(cx: &Context, room_id: &OwnedRoomId, call: &SendEvent) -> Result<ruma_common::OwnedEventId, Failure> {
    cx.room(room_id).call(call).await.or_absent(not_in_room(&call.sender))
}
