//! Media of other servers: fetched when somebody asks for it, by one at a time, and kept as ours is.

use std::rc::Rc;

use domain::{RateLimited, Refusal};
use futures_util::StreamExt;
use platform::Arriving;
use ruma_common::UserId;

use super::{
    content::{Asked, Found, To},
    limit::Limit,
    store::store,
    stray,
    turns::Taken,
    upload::{CONTENT_TYPE, CONTENT_TYPE_BYTES_MAX, is_good_name},
};
use crate::{
    Context, Failure,
    federation::{FETCH_MS_MAX, not_fetched},
    metadata::media::{self, Mxc, Quota, Upload},
};

/// Whoever fetches a file and has got nothing for so long, in milliseconds, may be gone: then somebody else may.
const SILENT_MS_MAX: u64 = 90_000;
/// A file that was not to be had is not asked for again so soon, in milliseconds.
const ASK_AGAIN_MS: u64 = 10_000;
/// Nor is one that is not yet uploaded so soon: as long as those who wait look for their turn.
const ASK_ABOUT_UPLOAD_MS: u64 = 1_000;

/// A file of another server, as it arrives, and what that says of it.
pub(crate) struct ArrivingFile {
    pub content_type: Option<String>,
    pub name: Option<String>,
    pub pieces: Arriving,
}

/// Media of another server; `None` if it is not here and may not be fetched.
pub(super) async fn find_or_fetch(cx: &Context, asked: &Asked<'_>, wait_ms: u64) -> Result<Option<Found>, Failure> {
    let mxc = asked.mxc;
    if let Some(found) = find(cx, mxc).await? {
        return Ok(Some(found));
    }
    // What is fetched after the freeze, the deprecated endpoints do not have.
    let is_of_use = asked.to != To::Everyone || !cx.config().authenticated_media;
    if !asked.allow_remote || !is_of_use {
        return Ok(None);
    }
    let name = format!("{}/{}", mxc.server_name, mxc.media_id);
    // However often somebody else had the turn, nobody waits longer than they said.
    let deadline_ms = cx.now_ms().saturating_add(wait_ms);
    let fetching = loop {
        match cx.services().media_turns.files.take(cx, &name, SILENT_MS_MAX).await {
            // Whoever asked did not wait for so long.
            Err(Refusal::NotYetUploaded) if cx.now_ms() < deadline_ms => {
                cx.pause(deadline_ms.saturating_sub(cx.now_ms()).min(ASK_ABOUT_UPLOAD_MS)).await;
            }
            taken => break taken?,
        }
    };
    // Whoever had the turn before may have it.
    if let Some(found) = find(cx, mxc).await? {
        return Ok(Some(found));
    }
    let limited = match asked.to {
        To::User(user_id) => cx.limit(RateLimited::RemoteMedia, user_id.as_str())?,
        To::Everyone | To::Server => cx.limit_by_address(RateLimited::RemoteMedia)?,
    };
    limited.keep();
    let fetching = Rc::new(fetching);
    let left_ms = deadline_ms.saturating_sub(cx.now_ms());
    if let Err(failure) = fetch(cx, mxc, left_ms, &fetching).await {
        match &failure {
            // It may come at any moment, and those who waited as long are told now.
            Failure::Refused(refusal @ Refusal::NotYetUploaded) => {
                fetching.is_refused(refusal, cx.now_ms(), ASK_ABOUT_UPLOAD_MS);
            }
            Failure::Refused(refusal) => fetching.is_refused(refusal, cx.now_ms(), ASK_AGAIN_MS),
            _ => {}
        }
        return Err(failure);
    }
    find(cx, mxc).await
}

async fn find(cx: &Context, mxc: Mxc<'_>) -> Result<Option<Found>, Failure> {
    let Some(mut media) = media::find(cx.metadata(), mxc).await? else { return Ok(None) };
    Ok(media.content.take().map(|content| Found { media, content }))
}

/// Makes a copy of another server's media.
async fn fetch(cx: &Context, mxc: Mxc<'_>, wait_ms: u64, fetching: &Rc<Taken>) -> Result<(), Failure> {
    let size_max = cx.config().max_upload_size;
    let ends_ms = cx.now_ms().saturating_add(FETCH_MS_MAX);
    let ArrivingFile { content_type, name, pieces } = cx.file_elsewhere(mxc, wait_ms).await?;
    let (fetching, clock) = (fetching.clone(), cx.services().clock.clone());
    let pieces = pieces.map(move |piece| {
        fetching.goes_on(clock.now_ms(), SILENT_MS_MAX);
        piece.map_err(|error| not_fetched(&error.into()).into())
    });
    let refusal = Refusal::TooLargeElsewhere("Content is too large to serve".to_owned());
    let content = store(cx, None, pieces, Limit { size_max, refusal }, ends_ms).await?;
    let content_type = content_type.filter(|content_type| content_type.len() <= CONTENT_TYPE_BYTES_MAX);
    let name = name.filter(|name| is_good_name(name));
    let upload = Upload {
        uploader: None::<&UserId>,
        content_type: content_type.as_deref().unwrap_or(CONTENT_TYPE),
        upload_name: name.as_deref(),
        authenticated: cx.config().authenticated_media,
        quota: Quota::default(),
    };
    media::insert(cx.metadata(), mxc, &upload, &content, cx.now_ms()).await?;
    stray::settle(cx, &content.file).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
