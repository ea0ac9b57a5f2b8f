//! Registration tokens, with the endpoint of Synapse's admin API that makes one.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Context, Failure, Routes,
    authenticate::Administrator,
    failure,
    metadata::registration_token::{self, TOKEN_BYTES_MAX},
    router::bad_json,
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_raw(Method::POST, "/_synapse/admin/v1/registration_tokens/new", new_token);
}

#[derive(Deserialize)]
struct NewToken {
    token: Option<String>,
    uses_allowed: Option<u64>,
    /// Milliseconds since the Unix epoch.
    expiry_time: Option<u64>,
}

async fn new_token(
    cx: &Context,
    _: Administrator,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let NewToken { token, uses_allowed, expiry_time } =
        serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let token = match token {
        Some(token) => token,
        None => BASE64_URL_SAFE_NO_PAD.encode(cx.random::<12>()?),
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(allowed) {
        return Err(Refusal::InvalidParam("A token has 1 to 64 letters, digits and -._~".to_owned()).into());
    }
    if !registration_token::insert(cx.metadata(), &token, uses_allowed, expiry_time).await? {
        return Err(Refusal::InvalidParam("There is a token of that name".to_owned()).into());
    }
    let body = json!({
        "token": token,
        "uses_allowed": uses_allowed,
        "pending": 0,
        "completed": 0,
        "expiry_time": expiry_time,
    });
    Ok(failure::json(StatusCode::OK, &body))
}
