//! Replacing a room by one of another version. Spec: "Room Upgrades".
//!
//! The old room decides on its successor before there is one, so that whoever asks again, after a lost answer or a
//! crash at any point, gets the same; every step can be repeated.

use actors::room::{CompleteUpgrade, PrepareUpgrade};
use bytes::Bytes;
use domain::{Refusal, RoomVersion};
use http::{Method, Request, Response, StatusCode};
use platform::Fault;
use ruma_common::OwnedRoomId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{aliases, call_id, create::random_room_id, membership::member_profile, not_in_room};
use crate::{Caller, Context, Failure, OrAbsent, Routes, failure, metadata, router::bad_json};

pub(super) fn routes(routes: &mut Routes) {
    for path in ["/_matrix/client/v3/rooms/{room_id}/upgrade", "/_matrix/client/r0/rooms/{room_id}/upgrade"] {
        routes.add_raw(Method::POST, path, upgrade);
    }
}

/// What is wanted. Not ruma's type: to that one, a version with a space in it is bad JSON.
#[derive(Deserialize)]
struct Wanted {
    new_version: String,
    additional_creators: Option<Value>,
}

/// `POST /rooms/{roomId}/upgrade`.
async fn upgrade(
    cx: &Context,
    caller: Caller,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let [room_id] = <[String; 1]>::try_from(path_args).unwrap_or_default();
    let room_id = OwnedRoomId::try_from(room_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    let wanted: Wanted = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let version = RoomVersion::parse(&wanted.new_version)?;
    let prepare = PrepareUpgrade {
        profile: member_profile(cx, &caller.user_id).await?,
        user: caller.user_id.clone(),
        version: version.as_str().to_owned(),
        additional_creators: wanted.additional_creators,
        room_id: Some(random_room_id(cx)?),
        call_id: call_id(cx)?,
    };
    let old = cx.room(&room_id);
    let successor = old.call(&prepare).await.or_absent(not_in_room(&prepare.user))?;
    if let Some(create) = successor.create {
        // Registered before its first use: what exists can be found.
        metadata::register_room(cx.metadata(), &successor.room_id, cx.now_ms()).await?;
        cx.room(&successor.room_id).call(&create).await.map_err(|failure| match failure {
            Failure::Refused(Refusal::RoomInUse(_)) => Fault::new("the id of a successor was taken").into(),
            other => other,
        })?;
        old.call(&CompleteUpgrade { user: prepare.user, successor: successor.room_id.clone() }).await?;
    }
    // Also when everything was done before: but for this, perhaps.
    aliases::move_to_successor(cx, &caller, &room_id, &successor.room_id).await?;
    Ok(failure::json(StatusCode::OK, &json!({ "replacement_room": successor.room_id })))
}
