//! `GET /media/download`: with an access token, and without one where the deprecated endpoints still serve.

use std::time::Duration;

use domain::Refusal;
use http::{HeaderMap, Response};
use platform::Fault;
use ruma_client_api::{authenticated_media, media as deprecated};
use ruma_common::http_headers::{ContentDisposition, ContentDispositionType};

use super::{
    find,
    serve::{Served, serve},
};
use crate::{
    Body, Caller, Context, Failure, Routes,
    metadata::media::{self, Content, Media, Mxc},
};

/// Spec: "The content repository SHOULD impose a maximum value for this parameter".
const WAIT_MS_MAX: u64 = 60_000;
/// How often one who waits looks, in milliseconds: the longer it takes, the less.
const LOOK_MS_MIN: u64 = 100;
const LOOK_MS_MAX: u64 = 1_000;
/// When media was last served is noted to this precision, in milliseconds: a download seldom writes.
const ACCESS_PRECISION_MS: u64 = 24 * 60 * 60 * 1000;

/// Spec: "Serving inline content".
const INLINE: &[&str] = &[
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

pub(super) fn routes(routes: &mut Routes) {
    routes.add_file(download);
    routes.add_file(download_as);
    routes.add_file(download_deprecated);
    routes.add_file(download_as_deprecated);
}

async fn download(
    cx: &Context,
    _: Caller,
    request: authenticated_media::get_content::v1::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let media = await_content(cx, mxc, request.timeout_ms, To::Users).await?;
    answer(cx, mxc, &media, None, &headers).await
}

async fn download_as(
    cx: &Context,
    _: Caller,
    request: authenticated_media::get_content_as_filename::v1::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let media = await_content(cx, mxc, request.timeout_ms, To::Users).await?;
    answer(cx, mxc, &media, Some(request.filename), &headers).await
}

async fn download_deprecated(
    cx: &Context,
    (): (),
    request: deprecated::get_content::v3::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let media = await_content(cx, mxc, request.timeout_ms, To::Everyone).await?;
    answer(cx, mxc, &media, None, &headers).await
}

async fn download_as_deprecated(
    cx: &Context,
    (): (),
    request: deprecated::get_content_as_filename::v3::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let media = await_content(cx, mxc, request.timeout_ms, To::Everyone).await?;
    answer(cx, mxc, &media, Some(request.filename), &headers).await
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Users,
    Everyone,
}

/// Media and the content it has, for which this waits.
pub(super) struct Found {
    pub media: Media,
    pub content: Content,
}

/// Media with its content, once that is uploaded.
///
/// # Errors
/// `M_NOT_FOUND`: there is none, or it is not for those who ask. `M_NOT_YET_UPLOADED` when `timeout` passed.
pub(super) async fn await_content(cx: &Context, mxc: Mxc<'_>, timeout: Duration, to: To) -> Result<Found, Failure> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).min(WAIT_MS_MAX);
    let deadline_ms = cx.now_ms().saturating_add(timeout_ms);
    let mut look_ms = LOOK_MS_MIN;
    loop {
        let media = find(cx, mxc).await?.filter(|media| !media.is_quarantined);
        // Spec: after the freeze, the deprecated endpoints do not have what was uploaded since.
        let media = media.filter(|media| to == To::Users || !media.authenticated);
        let Some(mut media) = media else { return Err(not_found()) };
        if let Some(content) = media.content.take() {
            if cx.now_ms().saturating_sub(media.accessed_ms) > ACCESS_PRECISION_MS {
                media::touch(cx.metadata(), mxc, cx.now_ms()).await?;
            }
            return Ok(Found { media, content });
        }
        let left_ms = deadline_ms.saturating_sub(cx.now_ms());
        if left_ms == 0 {
            return Err(Refusal::NotYetUploaded.into());
        }
        cx.pause(look_ms.min(left_ms)).await;
        look_ms = look_ms.saturating_mul(2).min(LOOK_MS_MAX);
    }
}

pub(super) fn not_found() -> Failure {
    Refusal::NotFound("There is no such media".to_owned()).into()
}

async fn answer(
    cx: &Context,
    mxc: Mxc<'_>,
    found: &Found,
    filename: Option<String>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    let Found { media, content } = found;
    let filename = filename.or_else(|| media.upload_name.clone());
    let served = Served {
        file: &content.file,
        size: content.size,
        etag: format!("\"{}\"", content.sha256),
        content_type: &media.content_type,
        disposition: ContentDisposition::new(disposition(&media.content_type)).with_filename(filename),
        authenticated: media.authenticated,
    };
    match serve(cx, served, headers).await? {
        Some(response) => Ok(response),
        None => Err(gone(cx, mxc, content).await?),
    }
}

/// What it means that a file is not there: its media was deleted since we looked, or we have lost it.
async fn gone(cx: &Context, mxc: Mxc<'_>, content: &Content) -> Result<Failure, Failure> {
    match find(cx, mxc).await?.and_then(|media| media.content) {
        Some(now) if now.file == content.file => Err(Fault::new(format!("the file {} is lost", content.file)).into()),
        _ => Ok(not_found()),
    }
}

fn disposition(content_type: &str) -> ContentDispositionType {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if INLINE.contains(&&*essence) { ContentDispositionType::Inline } else { ContentDispositionType::Attachment }
}
