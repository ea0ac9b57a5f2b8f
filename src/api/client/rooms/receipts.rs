//! Receipts and read markers. Spec: "Receipts", "Read and unread markers".

use actors::{
    room::{MarkRead, NewReceipt, ReceiptKind, is_thread},
    user::{GetAccountData, SetFullyRead},
};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_common::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::not_in_room;
use crate::{Bearer, Caller, Context, Failure, OrAbsent, Routes, authenticate::Who, failure, router::bad_json};

pub(super) fn routes(routes: &mut Routes) {
    // Not ruma's types: to them, a thread id that is no text is bad JSON.
    let paths = [
        "/_matrix/client/v3/rooms/{room_id}/receipt/{receipt_type}/{event_id}",
        "/_matrix/client/r0/rooms/{room_id}/receipt/{receipt_type}/{event_id}",
    ];
    for path in paths {
        routes.add_raw(Method::POST, path, receipt);
    }
    for path in ["/_matrix/client/v3/rooms/{room_id}/read_markers", "/_matrix/client/r0/rooms/{room_id}/read_markers"] {
        routes.add_raw(Method::POST, path, read_markers);
    }
}

/// `POST …/receipt/{receiptType}/{eventId}`.
async fn receipt(
    cx: &Context,
    caller: Caller,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let [room_id, receipt_type, event_id] = <[String; 3]>::try_from(path_args).unwrap_or_default();
    let body: Map<String, Value> = serde_json::from_slice(body_of(&request)).map_err(|error| bad_json(&error))?;
    let event_id = event(&event_id)?;
    let thread = thread(body.get("thread_id"))?;
    let mut call = mark_read(caller);
    match receipt_type.as_str() {
        "m.read" => call.receipts.push(NewReceipt { kind: ReceiptKind::Public, event_id, thread, at_ms: None }),
        "m.read.private" => {
            call.receipts.push(NewReceipt { kind: ReceiptKind::Private, event_id, thread, at_ms: None })
        }
        "m.fully_read" if thread.is_none() => call.fully_read = Some(event_id),
        "m.fully_read" => {
            return Err(Refusal::InvalidParam("`m.fully_read` is not for a thread: no thread_id".to_owned()).into());
        }
        _ => return Err(Refusal::InvalidParam(format!("{receipt_type:?} is no type of receipt")).into()),
    }
    mark(cx, &request, &room_id, call).await
}

/// `POST …/read_markers`.
async fn read_markers(
    cx: &Context,
    caller: Caller,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Markers {
        #[serde(rename = "m.fully_read")]
        fully_read: Option<String>,
        #[serde(rename = "m.read")]
        public: Option<String>,
        #[serde(rename = "m.read.private")]
        private: Option<String>,
    }
    let [room_id] = <[String; 1]>::try_from(path_args).unwrap_or_default();
    let markers: Markers = serde_json::from_slice(body_of(&request)).map_err(|error| bad_json(&error))?;
    let mut call = mark_read(caller);
    call.fully_read = markers.fully_read.as_deref().map(event).transpose()?;
    for (kind, event_id) in [(ReceiptKind::Public, markers.public), (ReceiptKind::Private, markers.private)] {
        if let Some(event_id) = event_id {
            call.receipts.push(NewReceipt { kind, event_id: event(&event_id)?, thread: None, at_ms: None });
        }
    }
    mark(cx, &request, &room_id, call).await
}

fn mark_read(caller: Caller) -> MarkRead {
    MarkRead { user: caller.user_id, device: caller.device_id, receipts: Vec::new(), fully_read: None, marker: None }
}

/// The room first: it knows its events, and what is refused there changes nothing.
async fn mark(
    cx: &Context,
    request: &Request<Bytes>,
    room_id: &str,
    mut call: MarkRead,
) -> Result<Response<Bytes>, Failure> {
    let room_id = OwnedRoomId::try_from(room_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    let bearer = match call.fully_read {
        Some(_) => Some(Bearer::of(cx, request).await?),
        None => None,
    };
    if let Some(bearer) = &bearer {
        call.marker = marker(cx, bearer, &room_id).await?;
    }
    let moved = cx.room(&room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    cx.tell_of_receipts(&room_id, &call, moved.as_deref()).await?;
    let stays = call.marker_stays(moved.as_deref());
    if let (Some(bearer), Some(event_id), false) = (bearer, call.fully_read, stays) {
        let token_hash = bearer.token_hash.clone();
        bearer.call(cx, &SetFullyRead { token_hash, room_id, event_id }).await?;
    }
    Ok(failure::json(StatusCode::OK, &json!({})))
}

/// The event that the caller's marker in a room points at.
async fn marker(cx: &Context, bearer: &Bearer, room_id: &OwnedRoomId) -> Result<Option<OwnedEventId>, Failure> {
    #[derive(Deserialize)]
    struct FullyRead {
        event_id: OwnedEventId,
    }
    let (token_hash, event_type) = (bearer.token_hash.clone(), "m.fully_read".to_owned());
    let call = GetAccountData { token_hash, room_id: Some(room_id.clone()), event_type };
    match bearer.call(cx, &call).await {
        Ok(content) => Ok(serde_json::from_str::<FullyRead>(content.get()).ok().map(|marker| marker.event_id)),
        Err(Failure::Refused(Refusal::NotFound(_))) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Some clients send nothing at all.
fn body_of(request: &Request<Bytes>) -> &[u8] {
    if request.body().is_empty() { b"{}" } else { request.body() }
}

fn event(event_id: &str) -> Result<OwnedEventId, Refusal> {
    OwnedEventId::try_from(event_id).map_err(|error| Refusal::InvalidParam(format!("{event_id:?}: {error}")))
}

/// Spec: «thread_id field must be a non-empty string».
fn thread(thread_id: Option<&Value>) -> Result<Option<String>, Refusal> {
    match thread_id {
        None => Ok(None),
        Some(Value::String(thread)) if is_thread(thread) => Ok(Some(thread.clone())),
        Some(_) => {
            Err(Refusal::InvalidParam("`thread_id` must be \"main\" or the event id of a thread's root".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    #[test]
    fn the_marker_goes_forward_only() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &json!({}));
        let room_id = created["room_id"].as_str().unwrap();
        let room = format!("/_matrix/client/v3/rooms/{room_id}");
        let [first, second, third] = [1, 2, 3].map(|number| {
            let (_, sent) = server.put(
                &format!("{room}/send/m.room.message/{number}"),
                &alice,
                &json!({ "msgtype": "m.text", "body": "" }),
            );
            sent["event_id"].as_str().unwrap().to_owned()
        });
        let is_at = |event_id: &str, story: &str| {
            let path = format!("/_matrix/client/v3/user/@alice:localhost/rooms/{room_id}/account_data/m.fully_read");
            assert_eq!(server.get(&path, &alice).1["event_id"], event_id, "{story}");
        };
        let marks = |body: &serde_json::Value| server.post(&format!("{room}/read_markers"), &alice, body);
        let ok = (StatusCode::OK, json!({}));
        assert_eq!(marks(&json!({ "m.fully_read": second })), ok);
        is_at(&second, "the first");
        // Another device has not read as far.
        assert_eq!(marks(&json!({ "m.fully_read": first, "m.read": first, "m.read.private": second })), ok);
        is_at(&second, "with receipts");
        let path = format!("{room}/receipt/m.fully_read/{first}");
        assert_eq!(server.post(&path, &alice, &json!({})), ok);
        is_at(&second, "by the other endpoint");
        let nowhere = marks(&json!({ "m.fully_read": "$nowhere" }));
        assert_eq!(refused(nowhere), (404, "M_NOT_FOUND".to_owned()));
        assert_eq!(marks(&json!({ "m.fully_read": third, "m.read": first })), ok);
        is_at(&third, "a receipt that stays does not keep it");
    }
}
