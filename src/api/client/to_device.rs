//! Spec: "Send-to-Device messaging".

use std::collections::BTreeMap;

use actors::user::{ReceiveToDevice, check_to_device};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::Refusal;
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma_client_api::to_device::send_event_to_device::v3::{Request, Response};
use ruma_common::{OwnedServerName, OwnedUserId, serde::Raw};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{Caller, Context, Failure, Routes};

/// Users who are written to at once.
const USERS_MAX: usize = 5_000;
/// Users who are told at the same time.
const USERS_AT_ONCE: usize = 32;

/// Contents by device, or `*`.
type Messages = BTreeMap<String, Box<RawValue>>;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(send);
}

/// Answers once everybody's inbox holds the messages, and the queue of every other server those for its users. Who does not
/// exist gets none.
async fn send(cx: &Context, caller: Caller, request: Request) -> Result<Response, Failure> {
    if request.messages.len() > USERS_MAX {
        return Err(Refusal::InvalidParam(format!("{USERS_MAX} users may be written to at once")).into());
    }
    let message_id = message_id(&caller, &request);
    let mut users: Vec<(OwnedUserId, Messages)> = Vec::new();
    let mut elsewhere: BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, Messages>> = BTreeMap::new();
    for (user_id, devices) in request.messages {
        let messages = devices.into_iter().map(|(device, content)| (device.to_string(), Raw::into_json(content)));
        let messages = messages.collect();
        check_to_device(&messages)?;
        if cx.is_local(&user_id) {
            users.push((user_id, messages));
        } else {
            elsewhere.entry(user_id.server_name().to_owned()).or_default().insert(user_id, messages);
        }
    }
    for (server, messages) in elsewhere.iter().filter(|(server, _)| cx.talks_to(server)) {
        let event_type = request.event_type.to_string();
        cx.write_to_devices_elsewhere(server, &caller.user_id, &message_id, &event_type, messages).await?;
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

/// The same for a repeated transaction, and no other's.
fn message_id(caller: &Caller, request: &Request) -> String {
    let mut hash = Sha256::new();
    for part in [caller.user_id.as_str(), caller.device_id.as_str(), &request.event_type.to_string()] {
        hash.update(part);
        hash.update([0]);
    }
    hash.update(request.txn_id.as_str());
    BASE64_URL_SAFE_NO_PAD.encode(hash.finalize())
}
