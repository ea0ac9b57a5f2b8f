//! Finding the content that media has, waiting for it, and for what other servers have of it.

use std::time::Duration;

use domain::Refusal;
use ruma_common::{
    UserId,
    http_headers::{ContentDisposition, ContentDispositionType},
};

use super::{check_media_id, remote, serve::Served};
use crate::{
    Context, Failure,
    metadata::media::{self, Content, Media, Mxc},
};

/// Spec: "The content repository SHOULD impose a maximum value for this parameter".
const WAIT_MS_MAX: u64 = 60_000;
/// How often one who waits looks, in milliseconds: the longer it takes, the less.
const LOOK_MS_MIN: u64 = 100;
const LOOK_MS_MAX: u64 = 1_000;
/// When media was last served is noted to this precision, in milliseconds: a download seldom writes.
pub(crate) const ACCESS_PRECISION_MS: u64 = 24 * 60 * 60 * 1000;

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

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum To<'a> {
    User(&'a UserId),
    /// Whoever it is, by a deprecated endpoint.
    Everyone,
    /// Another server.
    Server,
}

/// What is asked for.
pub(crate) struct Asked<'a> {
    pub mxc: Mxc<'a>,
    /// How long whoever asks waits for it to be uploaded.
    pub timeout: Duration,
    pub to: To<'a>,
    /// Whether another server may be asked for it.
    pub allow_remote: bool,
}

impl Asked<'_> {
    fn wait_ms(&self) -> u64 {
        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX).min(WAIT_MS_MAX)
    }

    /// Spec: after the freeze, the deprecated endpoints do not have what was uploaded, or fetched, since.
    fn may_see(&self, media: &Media) -> bool {
        !media.is_quarantined && (self.to != To::Everyone || !media.authenticated)
    }
}

/// Media and the content it has.
pub(crate) struct Found {
    pub media: Media,
    pub content: Content,
}

impl Found {
    /// The content as it is served, by the name it has or another.
    pub(crate) fn served(&self, filename: Option<String>) -> Served<'_> {
        let Found { media, content } = self;
        let filename = filename.or_else(|| media.upload_name.clone());
        Served {
            file: &content.file,
            size: content.size,
            etag: format!("\"{}\"", content.sha256),
            content_type: &media.content_type,
            disposition: ContentDisposition::new(disposition(&media.content_type)).with_filename(filename),
            authenticated: media.authenticated,
        }
    }
}

/// Media with its content, once that is uploaded, or was fetched from the server that has it.
///
/// # Errors
/// `M_NOT_FOUND`: there is none, or it is not for those who ask. `M_NOT_YET_UPLOADED` when the time passed. What
/// [`Context::file_elsewhere`] says.
pub(crate) async fn await_content(cx: &Context, asked: &Asked<'_>) -> Result<Found, Failure> {
    check_media_id(asked.mxc.media_id).map_err(|_| not_found())?;
    let found = if asked.mxc.server_name == cx.server_name() {
        await_upload(cx, asked).await?
    } else {
        remote::find_or_fetch(cx, asked, asked.wait_ms()).await?
    };
    let Some(found) = found.filter(|found| asked.may_see(&found.media)) else { return Err(not_found()) };
    if cx.now_ms().saturating_sub(found.media.accessed_ms) > ACCESS_PRECISION_MS {
        media::touch(cx.metadata(), asked.mxc, cx.now_ms()).await?;
    }
    Ok(found)
}

async fn await_upload(cx: &Context, asked: &Asked<'_>) -> Result<Option<Found>, Failure> {
    let deadline_ms = cx.now_ms().saturating_add(asked.wait_ms());
    let mut look_ms = LOOK_MS_MIN;
    loop {
        let Some(mut media) = find(cx, asked.mxc).await? else { return Ok(None) };
        if let Some(content) = media.content.take() {
            return Ok(Some(Found { media, content }));
        }
        if !asked.may_see(&media) {
            return Ok(None);
        }
        let left_ms = deadline_ms.saturating_sub(cx.now_ms());
        if left_ms == 0 {
            return Err(Refusal::NotYetUploaded.into());
        }
        cx.pause(look_ms.min(left_ms)).await;
        look_ms = look_ms.saturating_mul(2).min(LOOK_MS_MAX);
    }
}

/// What is known of media, unless it expired before it had its content.
pub(super) async fn find(cx: &Context, mxc: Mxc<'_>) -> Result<Option<Media>, Failure> {
    check_media_id(mxc.media_id).map_err(|_| not_found())?;
    let now_ms = cx.now_ms();
    let media = media::find(cx.metadata(), mxc).await?;
    Ok(media.filter(|media| media.content.is_some() || media.expires_ms.is_some_and(|expires_ms| expires_ms > now_ms)))
}

pub(crate) fn not_found() -> Failure {
    Refusal::NotFound("There is no such media".to_owned()).into()
}

fn disposition(content_type: &str) -> ContentDispositionType {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if INLINE.contains(&&*essence) { ContentDispositionType::Inline } else { ContentDispositionType::Attachment }
}
