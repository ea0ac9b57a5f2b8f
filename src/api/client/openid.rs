//! Spec: "OpenID".

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use platform::Fault;
use ruma_common::{OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use crate::{Caller, Context, Failure, Routes, failure, router::json_or_default, sealed};

/// How long a token is good for.
const LIFETIME: Duration = Duration::from_secs(3600);
/// `myo_<localpart in URL-safe base64>.<sealed text>`: it names its user, and nothing is stored for it.
const PREFIX: &str = "myo_";
/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 1024;

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's type: it takes any body.
    for path in [
        "/_matrix/client/v3/user/{user_id}/openid/request_token",
        "/_matrix/client/r0/user/{user_id}/openid/request_token",
    ] {
        routes.add_raw(Method::POST, path, request_token);
    }
}

async fn request_token(
    cx: &Context,
    caller: Caller,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    json_or_default::<Map<String, Value>>(request.body())?;
    let user_id = path_args.into_iter().next().unwrap_or_default();
    let user_id = OwnedUserId::try_from(user_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    if user_id != caller.user_id {
        return Err(Refusal::Forbidden("This is another user".to_owned()).into());
    }
    let lifetime_ms = u64::try_from(LIFETIME.as_millis()).unwrap_or(u64::MAX);
    let sealed = sealed::seal(cx, &purpose(&caller.user_id), lifetime_ms)?;
    let token = format!("{PREFIX}{}.{sealed}", BASE64_URL_SAFE_NO_PAD.encode(caller.user_id.localpart()));
    let answer = json!({
        "access_token": token, "token_type": "Bearer", "matrix_server_name": cx.server_name(),
        "expires_in": LIFETIME.as_secs(),
    });
    Ok(failure::json(StatusCode::OK, &answer))
}

/// Who was given a token that is good still.
pub(crate) fn holder(cx: &Context, token: &str) -> Result<Option<OwnedUserId>, Fault> {
    let named = || {
        let token = Some(token).filter(|token| token.len() <= TOKEN_BYTES_MAX)?;
        let (localpart, sealed) = token.strip_prefix(PREFIX)?.split_once('.')?;
        let localpart = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(localpart).ok()?).ok()?;
        Some((OwnedUserId::try_from(format!("@{localpart}:{}", cx.server_name())).ok()?, sealed))
    };
    let Some((user_id, sealed)) = named() else { return Ok(None) };
    Ok(sealed::open(cx, &purpose(&user_id), sealed)?.map(|_| user_id))
}

fn purpose(user_id: &UserId) -> String {
    format!("openid {user_id}")
}
