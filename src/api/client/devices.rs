//! Spec: "Device Management".

use actors::user::{DeleteDevices, Device, GetDevices, PutDevice, RenameDevice};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::device::{get_device::v3 as one, get_devices::v3 as all};
use ruma_common::OwnedDeviceId;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Bearer, Context, Failure, Routes, failure,
    new_login::{NewLogin, Wanted},
    router::{bad_json, json_or_default},
    uiaa::{self, Auth, Operation},
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried_json(get_all);
    routes.add_carried_json(get_one);
    for path in ["/_matrix/client/v3/devices/{device_id}", "/_matrix/client/r0/devices/{device_id}"] {
        routes.add_raw(Method::PUT, path, rename);
        routes.add_raw(Method::DELETE, path, delete_one);
    }
    for path in ["/_matrix/client/v3/delete_devices", "/_matrix/client/r0/delete_devices"] {
        routes.add_raw(Method::POST, path, delete_many);
    }
}

/// Not ruma's type: that one says `null` for what is not known.
#[derive(Serialize)]
struct Shown {
    device_id: OwnedDeviceId,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_ts: Option<u64>,
}

fn shown(device: Device) -> Shown {
    let Device { device_id, display_name, last_seen_ms, last_seen_ip } = device;
    Shown { device_id, display_name, last_seen_ip, last_seen_ts: last_seen_ms }
}

async fn get_all(cx: &Context, bearer: Bearer, _: all::Request) -> Result<Vec<u8>, Failure> {
    let devices = bearer.call(cx, &GetDevices { token_hash: bearer.token_hash.clone(), device_id: None }).await?;
    let devices: Vec<Shown> = devices.into_iter().map(shown).collect();
    Ok(serde_json::to_vec(&json!({ "devices": devices }))?)
}

async fn get_one(cx: &Context, bearer: Bearer, request: one::Request) -> Result<Vec<u8>, Failure> {
    let call = GetDevices { token_hash: bearer.token_hash.clone(), device_id: Some(request.device_id) };
    let device = bearer.call(cx, &call).await?.pop();
    let device = device.ok_or_else(|| Refusal::NotFound("You have no such device".to_owned()))?;
    Ok(serde_json::to_vec(&shown(device))?)
}

/// Not through ruma's type: that one knows no answer but 200.
async fn rename(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Default, Deserialize)]
    struct Body {
        display_name: Option<String>,
    }
    let Body { display_name } = json_or_default(request.body())?;
    let device_id: OwnedDeviceId = path_args.into_iter().next().unwrap_or_default().into();
    if bearer.acts_for.is_some() {
        return put(cx, &bearer, device_id, display_name).await;
    }
    bearer.call(cx, &RenameDevice { token_hash: bearer.token_hash.clone(), device_id, display_name }).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

/// An application service makes devices, too. Spec: Application Service API, "Device management".
async fn put(
    cx: &Context,
    bearer: &Bearer,
    device_id: OwnedDeviceId,
    initial_device_display_name: Option<String>,
) -> Result<Response<Bytes>, Failure> {
    let wanted = Wanted { device_id: Some(device_id), initial_device_display_name, refresh_token: None };
    // Its token, nobody will ever have.
    let NewLogin { device, tokens: _ } = NewLogin::of_user(cx, &bearer.user_id, wanted)?;
    let is_new = bearer.call(cx, &PutDevice { token_hash: bearer.token_hash.clone(), device }).await?;
    Ok(failure::json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &json!({})))
}

#[derive(Default, Deserialize)]
struct DeletingOne {
    auth: Option<Auth>,
}

async fn delete_one(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    bearer.verify(cx).await?;
    let DeletingOne { auth } = json_or_default(request.body())?;
    delete(cx, &bearer, path_args.into_iter().map(Into::into).collect(), auth).await
}

#[derive(Deserialize)]
struct DeletingMany {
    devices: Vec<OwnedDeviceId>,
    auth: Option<Auth>,
}

async fn delete_many(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    bearer.verify(cx).await?;
    let DeletingMany { devices, auth } = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    delete(cx, &bearer, devices, auth).await
}

async fn delete(
    cx: &Context,
    bearer: &Bearer,
    devices: Vec<OwnedDeviceId>,
    auth: Option<Auth>,
) -> Result<Response<Bytes>, Failure> {
    let request = uiaa::digest(&devices)?;
    // Spec: a session is for «subsequent attempts to authenticate in the same API call».
    let name = format!("delete devices {request}");
    let operation = Operation { name: &name, user_id: Some(&bearer.user_id), flows: uiaa::PASSWORD, request };
    let password_hash = match bearer.acts_for {
        Some(_) => String::new(),
        None => operation.authenticate(cx, auth.as_ref()).await?.password_hash()?,
    };
    bearer.call(cx, &DeleteDevices { token_hash: bearer.token_hash.clone(), password_hash, devices }).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}
