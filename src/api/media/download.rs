//! `GET /media/download`: with an access token, and without one where the deprecated endpoints still serve.

use http::{HeaderMap, Response};
use platform::Fault;
use ruma_client_api::{authenticated_media, media as deprecated};

use super::{
    content::{Asked, To, await_content, find, not_found},
    serve::serve,
};
use crate::{
    Body, Caller, Context, Failure, Routes,
    metadata::media::{Content, Mxc},
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_file(download);
    routes.add_file(download_as);
    routes.add_file(download_deprecated);
    routes.add_file(download_as_deprecated);
}

async fn download(
    cx: &Context,
    caller: Caller,
    request: authenticated_media::get_content::v1::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let asked = Asked { mxc, timeout: request.timeout_ms, to: To::User(&caller.user_id), allow_remote: true };
    answer(cx, &asked, None, &headers).await
}

async fn download_as(
    cx: &Context,
    caller: Caller,
    request: authenticated_media::get_content_as_filename::v1::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let asked = Asked { mxc, timeout: request.timeout_ms, to: To::User(&caller.user_id), allow_remote: true };
    answer(cx, &asked, Some(request.filename), &headers).await
}

async fn download_deprecated(
    cx: &Context,
    (): (),
    request: deprecated::get_content::v3::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let asked = Asked { mxc, timeout: request.timeout_ms, to: To::Everyone, allow_remote: request.allow_remote };
    answer(cx, &asked, None, &headers).await
}

async fn download_as_deprecated(
    cx: &Context,
    (): (),
    request: deprecated::get_content_as_filename::v3::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let asked = Asked { mxc, timeout: request.timeout_ms, to: To::Everyone, allow_remote: request.allow_remote };
    answer(cx, &asked, Some(request.filename), &headers).await
}

async fn answer(
    cx: &Context,
    asked: &Asked<'_>,
    filename: Option<String>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    let found = await_content(cx, asked).await?;
    match serve(cx, found.served(filename), headers).await? {
        Some(response) => Ok(response),
        None => Err(gone(cx, asked.mxc, &found.content).await?),
    }
}

/// What it means that a file is not there: its media was deleted since we looked, or we have lost it.
async fn gone(cx: &Context, mxc: Mxc<'_>, content: &Content) -> Result<Failure, Failure> {
    match find(cx, mxc).await?.and_then(|media| media.content) {
        Some(now) if now.file == content.file => Err(Fault::new(format!("the file {} is lost", content.file)).into()),
        _ => Ok(not_found()),
    }
}
