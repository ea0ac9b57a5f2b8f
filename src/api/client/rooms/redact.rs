//! Redacting events. Spec: "Redactions".

use actors::room::RedactEvent;
use ruma_client_api::redact::redact_event;

use super::not_in_room;
use crate::{Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(redact);
}

/// `PUT …/redact/{eventId}/{txnId}`: once per transaction id.
async fn redact(
    cx: &Context,
    caller: Caller,
    request: redact_event::v3::Request,
) -> Result<redact_event::v3::Response, Failure> {
    let call = RedactEvent {
        sender: caller.user_id,
        device: caller.device_id,
        transaction_id: request.txn_id,
        event_id: request.event_id,
        reason: request.reason,
        administrator: caller.administrator,
        own_only: caller.is_suspended,
    };
    let event_id = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.sender))?;
    Ok(redact_event::v3::Response::new(event_id))
}
