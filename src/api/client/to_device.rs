//! Spec: "Send-to-Device messaging".

use std::collections::BTreeMap;

use actors::user::{ReceiveToDevice, check_to_device};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::Refusal;
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma_client_api::to_device::send_event_to_device::v3::{Request, Response};
use ruma_common::{OwnedServerName, OwnedUserId, TransactionId, serde::Raw};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{Caller, Context, Failure, Routes};

/// Users who are written to at once.
const USERS_MAX: usize = 5_000;
/// The longest type, and the longest transaction id, in bytes: receivers remember them.
const NAME_BYTES_MAX: usize = 255;
/// Servers whose users are written to at once.
const SERVERS_MAX: usize = 500;
/// Bytes of messages in one EDU for another server: of more, there are several.
const EDU_BYTES_MAX: usize = 64 * 1024;
const MESSAGE_ID_CHARS_MAX: usize = 32;
/// Users who are told at the same time.
const USERS_AT_ONCE: usize = 32;

/// Contents by device, or `*`.
type Messages = BTreeMap<String, Box<RawValue>>;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(send);
}

/// Answers once everybody's inbox holds the messages, and the queue of every other server those for its users. Who does
/// not exist gets none. Refused: `InvalidParam` for more than [`USERS_MAX`] users or [`SERVERS_MAX`] servers; as
/// [`check_to_device`] does; `LimitExceeded` when too many servers are written to of which nothing is known here.
async fn send(cx: &Context, caller: Caller, request: Request) -> Result<Response, Failure> {
    if request.messages.len() > USERS_MAX {
        return Err(Refusal::InvalidParam(format!("{USERS_MAX} users may be written to at once")).into());
    }
    if request.txn_id.as_str().len() > NAME_BYTES_MAX || request.event_type.to_string().len() > NAME_BYTES_MAX {
        let sentence = format!("A type and a transaction id have {NAME_BYTES_MAX} bytes at most");
        return Err(Refusal::InvalidParam(sentence).into());
    }
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
    if elsewhere.len() > SERVERS_MAX {
        return Err(Refusal::InvalidParam(format!("Users of {SERVERS_MAX} servers may be written to at once")).into());
    }
    let (caller, event_type, txn_id) = (&caller, &request.event_type.to_string(), &request.txn_id);
    for (server, messages) in elsewhere.into_iter().filter(|(server, _)| cx.talks_to(server)) {
        for (number, part) in in_parts(messages).into_iter().enumerate() {
            let message_id = message_id(caller, event_type, txn_id, number);
            cx.write_to_devices_elsewhere(&server, caller, &message_id, event_type, &part).await?;
        }
    }
    let calls = users.into_iter().map(|(user_id, messages)| async move {
        let call = ReceiveToDevice {
            sender: caller.user_id.clone(),
            sender_device: caller.device_id.clone(),
            txn_id: txn_id.to_string(),
            event_type: event_type.clone(),
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

/// The messages for a server's users, in as few parts as keep each small. The same messages make the same parts.
fn in_parts(messages: BTreeMap<OwnedUserId, Messages>) -> Vec<BTreeMap<OwnedUserId, Messages>> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), BTreeMap::<OwnedUserId, Messages>::new(), 0_usize);
    for (user_id, messages) in messages {
        for (device_id, content) in messages {
            let size = user_id.as_str().len() + device_id.len() + content.get().len();
            bytes = bytes.saturating_add(size);
            if bytes > EDU_BYTES_MAX && !part.is_empty() {
                parts.push(std::mem::take(&mut part));
                bytes = size;
            }
            part.entry(user_id.clone()).or_default().insert(device_id, content);
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// The same for a repeated transaction, and no other's. Spec: `message_id` has «maximum length 32 codepoints».
fn message_id(caller: &Caller, event_type: &str, txn_id: &TransactionId, part: usize) -> String {
    let mut hash = Sha256::new();
    for part in [caller.user_id.as_str(), caller.device_id.as_str(), event_type, &part.to_string()] {
        hash.update(part);
        hash.update([0]);
    }
    hash.update(txn_id.as_str());
    let mut id = BASE64_URL_SAFE_NO_PAD.encode(hash.finalize());
    id.truncate(MESSAGE_ID_CHARS_MAX);
    id
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::{Method, Request, header};
    use serde_json::{Value, json, value::to_raw_value};

    use super::{EDU_BYTES_MAX, Messages, in_parts};
    use crate::testing::{TestServer, refused};

    fn messages(devices: &[(&str, usize)]) -> Messages {
        let content = |bytes: usize| to_raw_value(&json!({ "x": "x".repeat(bytes) })).unwrap();
        devices.iter().map(|(device, bytes)| ((*device).to_owned(), content(*bytes))).collect()
    }

    /// Such a content made the server panic on its way to another, and no client could read an answer with it.
    #[test]
    fn what_not_everybody_can_read_is_sent_to_nobody() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let nested = format!("{}{}", "[".repeat(32_000), "]".repeat(32_000));
        for (number, value) in [r#""\ud800""#, "1e999", &nested].into_iter().enumerate() {
            for user in ["@alice:localhost", "@bob:b.test"] {
                let body = format!(r#"{{"messages":{{"{user}":{{"*":{{"a":{value}}}}}}}}}"#);
                let path = format!("/_matrix/client/v3/sendToDevice/m.x/{number}");
                let request = Request::builder().method(Method::PUT).uri(path);
                let request = request.header(header::AUTHORIZATION, format!("Bearer {alice}"));
                let answer = server.answer(request.body(body.into()).unwrap());
                let body: Value = serde_json::from_slice(answer.body()).unwrap();
                assert_eq!(refused((answer.status(), body)), (400, "M_BAD_JSON".to_owned()), "{number} {user}");
            }
        }
    }

    #[test]
    fn much_for_one_server_goes_in_parts() {
        let user = |name: &str| ruma_common::OwnedUserId::try_from(format!("@{name}:there.test")).unwrap();
        let half = EDU_BYTES_MAX / 2;
        let all = BTreeMap::from([
            (user("a"), messages(&[("A", 10), ("B", half), ("C", half), ("D", 20)])),
            (user("b"), messages(&[("E", 30), ("F", EDU_BYTES_MAX), ("G", 40)])),
            (user("c"), messages(&[])),
        ]);
        let parts = in_parts(all);
        let names = |part: &BTreeMap<_, Messages>| part.values().flat_map(BTreeMap::keys).cloned().collect::<String>();
        assert_eq!(parts.iter().map(names).collect::<Vec<_>>(), ["AB", "CDE", "F", "G"]);
        assert!(in_parts(BTreeMap::new()).is_empty());
    }
}
