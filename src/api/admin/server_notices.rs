//! Telling a user something, with the endpoints of Synapse's admin API.

use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_common::{OwnedTransactionId, OwnedUserId};
use ruma_events::TimelineEventType;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{
    Context, Failure, Routes,
    authenticate::Administrator,
    failure,
    notices::{self, Notice},
    router::{bad_json, check_object},
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_raw(Method::POST, "/_synapse/admin/v1/send_server_notice", send);
    routes.add_raw(Method::PUT, "/_synapse/admin/v1/send_server_notice/{txn_id}", send);
}

#[derive(Deserialize)]
struct Body {
    user_id: OwnedUserId,
    content: Box<RawValue>,
    #[serde(rename = "type")]
    event_type: Option<TimelineEventType>,
    state_key: Option<String>,
}

async fn send(
    cx: &Context,
    administrator: Administrator,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let off = || Refusal::Unknown("This server has nobody who sends notices: see SERVER_NOTICES_LOCALPART".to_owned());
    let notices = cx.config().server_notices.as_ref().ok_or_else(off)?;
    let Body { user_id, content, event_type, state_key } =
        serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    check_object(content.get().as_bytes())?;
    let notice = Notice {
        event_type: event_type.unwrap_or(TimelineEventType::RoomMessage),
        state_key,
        content,
        // Each administrator's device has its own, though all notices have one sender.
        transaction_id: path_args.first().map(|txn_id| {
            OwnedTransactionId::from(format!("{} {} {txn_id}", administrator.user_id, administrator.device_id))
        }),
    };
    let event_id = notices::tell(cx, notices, &user_id, notice).await?;
    Ok(failure::json(StatusCode::OK, &json!({ "event_id": event_id })))
}
