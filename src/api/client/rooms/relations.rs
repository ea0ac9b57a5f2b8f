//! The events that relate to one. Spec: "Relationships API".

use actors::room::GetRelations;
use bytes::Bytes;
use domain::{RateLimited, Refusal};
use http::{Method, Request, Response, StatusCode};
use ruma_common::{OwnedEventId, OwnedRoomId, api::Direction};
use serde::Deserialize;

use super::messages::{direction, place};
use crate::{Caller, Context, Failure, OrAbsent, Routes, failure::json_bytes, router::query};

pub(super) fn routes(routes: &mut Routes) {
    // Not ruma's types: to them, `recurse=false` is as if nothing was said, and the answer differs.
    for path in [
        "/_matrix/client/v1/rooms/{room_id}/relations/{event_id}",
        "/_matrix/client/v1/rooms/{room_id}/relations/{event_id}/{rel_type}",
        "/_matrix/client/v1/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}",
        "/_matrix/client/unstable/rooms/{room_id}/relations/{event_id}",
        "/_matrix/client/unstable/rooms/{room_id}/relations/{event_id}/{rel_type}",
        "/_matrix/client/unstable/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}",
    ] {
        routes.add_raw(Method::GET, path, relations);
    }
}

#[derive(Deserialize)]
struct Query {
    from: Option<String>,
    to: Option<String>,
    limit: Option<u64>,
    #[serde(default)]
    dir: Direction,
    #[serde(alias = "org.matrix.msc3981.recurse")]
    recurse: Option<bool>,
}

/// `GET …/relations/{eventId}` and what narrows it down.
async fn relations(
    cx: &Context,
    caller: Caller,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let invalid = |error: String| Refusal::InvalidParam(error);
    let query: Query = query(&request)?;
    let mut path_args = path_args.into_iter();
    let room_id = OwnedRoomId::try_from(path_args.next().unwrap_or_default())
        .map_err(|error| invalid(format!("room_id: {error}")))?;
    let event_id = OwnedEventId::try_from(path_args.next().unwrap_or_default())
        .map_err(|error| invalid(format!("event_id: {error}")))?;
    if query.recurse == Some(true) && caller.acts_for.as_ref().is_none_or(|acts_for| !acts_for.is_exempt) {
        // The specification has this unlimited, but it goes through all that relates to the event, for each page.
        cx.limit(RateLimited::Requests, caller.user_id.as_str())?.keep();
    }
    let direction = direction(query.dir);
    let from = place(cx, &caller, &room_id, query.from.as_deref(), direction).await?;
    let to = place(cx, &caller, &room_id, query.to.as_deref(), direction.reversed()).await?;
    let call = GetRelations {
        user: caller.user_id,
        device: caller.device_id,
        ignored: caller.ignored,
        event_id,
        rel_type: path_args.next(),
        event_type: path_args.next(),
        from,
        to,
        direction,
        limit: query.limit,
        recurse: query.recurse,
    };
    // In the words of the room itself, for an event that the user may not see.
    let unseen = Refusal::NotFound("There is no such event, or it is not yours to see".to_owned());
    let mut page = cx.room(&room_id).call(&call).await.or_absent(unseen)?;
    page.prev_batch = query.from;
    Ok(json_bytes(StatusCode::OK, serde_json::to_vec(&page)?.into()))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    #[test]
    fn going_through_all_that_relates_is_limited() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("RATE_LIMITS", "on"), ("RC_REQUESTS", "0.001,2")]);
        let alice = server.register("alice");
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &json!({}));
        let room_id = created["room_id"].as_str().unwrap();
        let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/1");
        let (_, sent) = server.put(&path, &alice, &json!({ "msgtype": "m.text", "body": "" }));
        let path = format!("/_matrix/client/v1/rooms/{room_id}/relations/{}", sent["event_id"].as_str().unwrap());
        let recursing = || server.get(&format!("{path}?recurse=true"), &alice);
        assert_eq!([recursing().0, recursing().0], [StatusCode::OK; 2]);
        assert_eq!(refused(recursing()), (429, "M_LIMIT_EXCEEDED".to_owned()));
        assert_eq!(server.get(&path, &alice).0, StatusCode::OK, "one level is an index's");
    }
}
