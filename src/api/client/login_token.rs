//! A token with which another client logs in, once. Spec: `POST /login/get_token`.

use actors::user::AddLoginToken;
use bytes::Bytes;
use domain::RateLimited;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Bearer, Context, Failure, Routes, access_token,
    credentials::counted,
    failure,
    router::json_or_default,
    uiaa::{self, Auth, Operation},
};

/// How long a token is good for, in milliseconds. «`120000` (2 minutes) is recommended as a default.»
const LIFETIME_MS: u64 = 120_000;

pub(super) fn routes(routes: &mut Routes) {
    for path in ["/_matrix/client/v1/login/get_token", "/_matrix/client/unstable/org.matrix.msc3882/login/get_token"] {
        routes.add_raw(Method::POST, path, get_token);
    }
}

#[derive(Default, Deserialize)]
struct Asked {
    auth: Option<Auth>,
}

/// «Servers MUST always re-prompt the user for verification», which every operation of ours does.
async fn get_token(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    bearer.verify(cx).await?;
    let Asked { auth } = json_or_default(request.body())?;
    let operation = Operation {
        name: "get a login token",
        user_id: Some(&bearer.user_id),
        flows: uiaa::PASSWORD,
        request: uiaa::digest(&())?,
    };
    let password_hash = operation.authenticate(cx, auth.as_ref()).await?.password_hash()?;
    // «Servers are encouraged to apply stricter than normal rate limiting»: each is a login.
    cx.limit(RateLimited::LoginAccount, &counted(&bearer.user_id))?.keep();
    let login_token = access_token::make_login(cx, &bearer.user_id)?;
    let call = AddLoginToken {
        token_hash: bearer.token_hash.clone(),
        password_hash,
        login_hash: access_token::hash(&login_token),
        expires_ms: cx.now_ms().saturating_add(LIFETIME_MS),
    };
    bearer.call(cx, &call).await?;
    Ok(failure::json(StatusCode::OK, &json!({ "login_token": login_token, "expires_in_ms": LIFETIME_MS })))
}
