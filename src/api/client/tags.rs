//! Spec: "Room Tagging".

use actors::user::{GetTags, RemoveTag, SetTag, Tag};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::tag::{delete_tag::v3 as delete, get_tags::v3 as all};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde_json::json;

use crate::{Bearer, Context, Failure, Routes, failure, router::kept_json};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried_json(get);
    routes.add_carried(remove);
    // Not through ruma's type: what it does not know would be lost.
    routes.add_raw(Method::PUT, "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags/{tag}", set);
    routes.add_raw(Method::PUT, "/_matrix/client/r0/user/{user_id}/rooms/{room_id}/tags/{tag}", set);
}

async fn get(cx: &Context, bearer: Bearer, request: all::Request) -> Result<Vec<u8>, Failure> {
    bearer.must_be(&request.user_id)?;
    let call = GetTags { token_hash: bearer.token_hash.clone(), room_id: request.room_id };
    let tags = bearer.call(cx, &call).await?;
    Ok(serde_json::to_vec(&json!({ "tags": tags }))?)
}

async fn set(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let [user_id, room_id, name] = <[String; 3]>::try_from(path_args).unwrap_or_default();
    let user_id = OwnedUserId::try_from(user_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    bearer.must_be(&user_id)?;
    let room_id = OwnedRoomId::try_from(room_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    let tag: Tag = kept_json(request.body())?;
    bearer.call(cx, &SetTag { token_hash: bearer.token_hash.clone(), room_id, name, tag }).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

async fn remove(cx: &Context, bearer: Bearer, request: delete::Request) -> Result<delete::Response, Failure> {
    bearer.must_be(&request.user_id)?;
    let call =
        RemoveTag { token_hash: bearer.token_hash.clone(), room_id: request.room_id, name: request.tag.to_string() };
    bearer.call(cx, &call).await?;
    Ok(delete::Response::new())
}
