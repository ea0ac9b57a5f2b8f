//! Spec: "Send-to-Device messaging".

use std::collections::BTreeMap;

use actors::user::{ReceiveToDevice, check_to_device};
use domain::Refusal;
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma_client_api::to_device::send_event_to_device::v3::{Request, Response};
use ruma_common::{OwnedUserId, serde::Raw};
use serde_json::value::RawValue;

use crate::{Caller, Context, Failure, Routes};

/// Users who are written to at once.
const USERS_MAX: usize = 5_000;
/// Users who are told at the same time.
const USERS_AT_ONCE: usize = 32;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(send);
}

/// Answers once everybody's inbox holds the messages. Who does not exist, and who is elsewhere, gets none: there is no
/// federation.
async fn send(cx: &Context, caller: Caller, request: Request) -> Result<Response, Failure> {
    if request.messages.len() > USERS_MAX {
        return Err(Refusal::InvalidParam(format!("{USERS_MAX} users may be written to at once")).into());
    }
    let mut users: Vec<(OwnedUserId, BTreeMap<String, Box<RawValue>>)> = Vec::new();
    for (user_id, devices) in request.messages.into_iter().filter(|(user_id, _)| cx.is_local(user_id)) {
        let messages = devices.into_iter().map(|(device, content)| (device.to_string(), Raw::into_json(content)));
        let messages = messages.collect();
        check_to_device(&messages)?;
        users.push((user_id, messages));
    }
    let (caller, event_type, txn_id) = (&caller, &request.event_type, &request.txn_id);
    let calls = users.into_iter().map(|(user_id, messages)| async move {
        let call = ReceiveToDevice {
            sender: caller.user_id.clone(),
            sender_device: caller.device_id.clone(),
            txn_id: txn_id.to_string(),
            event_type: event_type.to_string(),
            messages,
        };
        match cx.user(&user_id).call(&call).await {
            Err(Failure::Absent) => Ok(()),
            outcome => outcome,
        }
    });
    stream::iter(calls).buffer_unordered(USERS_AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(Response::new())
}
