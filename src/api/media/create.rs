//! `POST /media/v1/create`: a name for what is uploaded later.

use domain::Refusal;
use ruma_client_api::media::create_mxc_uri::v1::{Request, Response};
use ruma_common::MilliSecondsSinceUnixEpoch;

use super::{limit::Limit, new_media_id, upload::uri};
use crate::{
    Caller, Context, Failure, Routes,
    metadata::media::{self, Mxc},
};

/// Spec: "The recommended default expiration is 24 hours".
const UNUSED_MS: u64 = 24 * 60 * 60 * 1000;
/// How many names one user may have that are not used yet.
const UNUSED_MAX: u64 = 5;
/// When to try again who has that many, in milliseconds.
const RETRY_MS: u64 = 60_000;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(create);
}

async fn create(cx: &Context, caller: Caller, _: Request) -> Result<Response, Failure> {
    // What has nothing to be filled with is not made.
    Limit::of_user(cx, &caller.user_id).await?.check(1)?;
    let media_id = new_media_id(cx)?;
    let mxc = Mxc { server_name: cx.server_name(), media_id: &media_id };
    let now_ms = cx.now_ms();
    let expires_ms = now_ms.saturating_add(UNUSED_MS);
    let is_authenticated = cx.config().authenticated_media;
    let times = (now_ms, expires_ms);
    if !media::reserve(cx.metadata(), mxc, &caller.user_id, times, is_authenticated, UNUSED_MAX).await? {
        return Err(Refusal::LimitExceeded { retry_after_ms: RETRY_MS }.into());
    }
    let mut response = Response::new(uri(mxc));
    response.unused_expires_at = js_int::UInt::new(expires_ms).map(MilliSecondsSinceUnixEpoch);
    Ok(response)
}
