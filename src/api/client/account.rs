//! Spec: "Account management".

use actors::user::{ChangePassword, Deactivate};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Bearer, Context, Failure, Routes, failure, password,
    router::{bad_json, json_or_default},
    uiaa::{self, Auth, Operation},
};

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's types: they let clients come without a token, and refuse `"auth": {}`.
    for path in ["/_matrix/client/v3/account/password", "/_matrix/client/r0/account/password"] {
        routes.add_raw(Method::POST, path, change_password);
    }
    for path in ["/_matrix/client/v3/account/deactivate", "/_matrix/client/r0/account/deactivate"] {
        routes.add_raw(Method::POST, path, deactivate);
    }
}

#[derive(Deserialize)]
struct NewPassword {
    new_password: String,
    logout_devices: Option<bool>,
    auth: Option<Auth>,
}

/// Only with a token: there is no other way to know whose password it is, such as an address they proved to be theirs.
async fn change_password(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    bearer.verify(cx).await?;
    let NewPassword { new_password, logout_devices, auth } =
        serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    password::check(cx, &new_password)?;
    let operation = Operation {
        name: "change password",
        user_id: Some(&bearer.user_id),
        flows: uiaa::PASSWORD,
        request: uiaa::digest(&logout_devices)?,
    };
    let old_password_hash = operation.authenticate(cx, auth.as_ref()).await?.password_hash()?;
    let call = ChangePassword {
        token_hash: bearer.token_hash.clone(),
        old_password_hash,
        password_hash: password::hash(cx, new_password).await?,
        logout_devices: logout_devices.unwrap_or(true),
    };
    bearer.call(cx, &call).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

#[derive(Default, Deserialize)]
struct Deactivation {
    auth: Option<Auth>,
    erase: Option<bool>,
}

async fn deactivate(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    bearer.verify(cx).await?;
    let Deactivation { auth, erase } = json_or_default(request.body())?;
    let operation = Operation {
        name: "deactivate",
        user_id: Some(&bearer.user_id),
        flows: uiaa::PASSWORD,
        request: uiaa::digest(&erase)?,
    };
    let password_hash = operation.authenticate(cx, auth.as_ref()).await?.password_hash()?;
    let call = Deactivate { token_hash: bearer.token_hash.clone(), password_hash, erase: erase.unwrap_or_default() };
    bearer.call(cx, &call).await?;
    // Spec: "This must be `success` if the homeserver has no identifiers to unbind for the user."
    Ok(failure::json(StatusCode::OK, &json!({ "id_server_unbind_result": "success" })))
}
