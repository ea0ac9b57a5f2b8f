//! Spec: "OpenID".

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::Refusal;
use platform::Fault;
use ruma_client_api::account::request_openid_token::v3::{Request, Response};
use ruma_common::{OwnedUserId, UserId, authentication::TokenType};

use crate::{Caller, Context, Failure, Routes, sealed};

/// How long a token is good for.
const LIFETIME: Duration = Duration::from_secs(3600);
/// `myo_<localpart in URL-safe base64>.<sealed text>`: it names its user, and nothing is stored for it.
const PREFIX: &str = "myo_";
/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 1024;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(request_token);
}

async fn request_token(cx: &Context, caller: Caller, request: Request) -> Result<Response, Failure> {
    if request.user_id != caller.user_id {
        return Err(Refusal::Forbidden("This is another user".to_owned()).into());
    }
    let lifetime_ms = u64::try_from(LIFETIME.as_millis()).unwrap_or(u64::MAX);
    let sealed = sealed::seal(cx, &purpose(&caller.user_id), lifetime_ms)?;
    let token = format!("{PREFIX}{}.{sealed}", BASE64_URL_SAFE_NO_PAD.encode(caller.user_id.localpart()));
    Ok(Response::new(token, TokenType::Bearer, cx.server_name().to_owned(), LIFETIME))
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
