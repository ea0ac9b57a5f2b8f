//! Spec: "Client Config".

use actors::user::{GetAccountData, SetAccountData};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::config::{get_global_account_data::v3 as global, get_room_account_data::v3 as of_room};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde_json::{json, value::RawValue};

use crate::{Bearer, Context, Failure, Routes, failure, router::kept_json};

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's types: they take any JSON for a content.
    routes.add_raw(Method::PUT, "/_matrix/client/v3/user/{user_id}/account_data/{type}", set_global);
    routes.add_raw(Method::PUT, "/_matrix/client/r0/user/{user_id}/account_data/{type}", set_global);
    let of_room = "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}";
    routes.add_raw(Method::PUT, of_room, set_of_room);
    let of_room = "/_matrix/client/r0/user/{user_id}/rooms/{room_id}/account_data/{type}";
    routes.add_raw(Method::PUT, of_room, set_of_room);
    routes.add_carried_json(get_global);
    routes.add_carried_json(get_of_room);
}

async fn set_global(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let [user_id, event_type] = <[String; 2]>::try_from(path_args).unwrap_or_default();
    set(cx, &bearer, user_id, None, event_type, request.body()).await
}

async fn set_of_room(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let [user_id, room_id, event_type] = <[String; 3]>::try_from(path_args).unwrap_or_default();
    let room_id = OwnedRoomId::try_from(room_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    set(cx, &bearer, user_id, Some(room_id), event_type, request.body()).await
}

async fn set(
    cx: &Context,
    bearer: &Bearer,
    user_id: String,
    room_id: Option<OwnedRoomId>,
    event_type: String,
    body: &[u8],
) -> Result<Response<Bytes>, Failure> {
    let user_id = OwnedUserId::try_from(user_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    bearer.must_be(&user_id)?;
    let content: Box<RawValue> = kept_json(body)?;
    if !content.get().starts_with('{') {
        return Err(Refusal::BadJson("Account data is a JSON object".to_owned()).into());
    }
    let call = SetAccountData { token_hash: bearer.token_hash.clone(), room_id, event_type, content };
    bearer.call(cx, &call).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

async fn get_global(cx: &Context, bearer: Bearer, request: global::Request) -> Result<Box<RawValue>, Failure> {
    bearer.must_be(&request.user_id)?;
    let (token_hash, event_type) = (bearer.token_hash.clone(), request.event_type.to_string());
    bearer.call(cx, &GetAccountData { token_hash, room_id: None, event_type }).await
}

async fn get_of_room(cx: &Context, bearer: Bearer, request: of_room::Request) -> Result<Box<RawValue>, Failure> {
    bearer.must_be(&request.user_id)?;
    let (token_hash, event_type) = (bearer.token_hash.clone(), request.event_type.to_string());
    bearer.call(cx, &GetAccountData { token_hash, room_id: Some(request.room_id), event_type }).await
}
