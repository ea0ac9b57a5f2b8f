//! `GET /media/preview_url`: what is at a URL, in OpenGraph's words. Spec: "Content repository".
//!
//! In scope: fetching what a user names and what that names in turn, within bounds; reading it; keeping it for a while.
//! Out of scope: judging addresses, which is the host's ([`platform::Outgoing`]).

mod charset;
mod fetch;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod image;
mod oembed;
mod page;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use platform::Fault;
use ruma_client_api::{authenticated_media, media as deprecated};
use ruma_common::MilliSecondsSinceUnixEpoch;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use url::Url;

use self::{
    fetch::{Fetched, Wants},
    image::Image,
    page::Page,
};
use super::upload::uri;
use crate::{
    Caller, Context, Failure, Routes, Services,
    metadata::{
        deletion::leaving,
        media::{self, Mxc},
        url_preview::{self, Outdated, Preview},
    },
};

/// How long what was found holds, in milliseconds.
const HELD_MS: u64 = 60 * 60 * 1000;
/// How long it is kept for those who ask what was there, in milliseconds.
const KEPT_MS: u64 = 48 * 60 * 60 * 1000;
/// How many are kept.
const KEPT_MAX: u64 = 10_000;
/// How many are forgotten at one time, of those that are too many or too old.
const FORGOTTEN_TOGETHER: u64 = 500;
/// How much of a page is read, in bytes: what it says of itself stands at its beginning.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// How long fetching a page may take, with all redirects, in milliseconds; and then what it names.
const PAGE_MS: u64 = 10_000;
const NAMED_MS: u64 = 10_000;
/// How long a failure is remembered, in milliseconds.
const FAILED_MS: u64 = 60_000;

#[expect(deprecated, reason = "clients that know no newer endpoint still ask the old one")]
pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(async |cx: &Context, _: Caller, request: authenticated_media::get_media_preview::v1::Request| {
        preview(cx, &request.url, request.ts).await
    });
    routes.add_json(async |cx: &Context, _: Caller, request: deprecated::get_media_preview::v3::Request| {
        preview(cx, &request.url, request.ts).await
    });
}

/// What is, or was, at a URL, as JSON.
async fn preview(cx: &Context, url: &str, at: Option<MilliSecondsSinceUnixEpoch>) -> Result<String, Failure> {
    // «The OpenGraph data for the URL, which may be empty.»
    if !cx.config().url_previews.are_on {
        return Ok("{}".to_owned());
    }
    let url = fetch::parsed(url)?;
    let url_sha256 = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(url.as_str()));
    let at_ms = at.map_or(u64::MAX, |at| at.0.into()).min(cx.now_ms());
    if let Some(answer) = url_preview::find(cx.metadata(), &url_sha256, at_ms).await? {
        return Ok(answer);
    }
    // Many see the same message at once: the first asks for them all.
    let taken = cx.services().media_turns.urls.take(cx, &url_sha256, PAGE_MS + NAMED_MS).await?;
    if let Some(answer) = url_preview::find(cx.metadata(), &url_sha256, at_ms).await? {
        return Ok(answer);
    }
    match look(cx, url).await {
        Ok(found) => found.keep(cx, &url_sha256).await,
        Err(Failure::Refused(refusal)) => {
            taken.is_refused(&refusal, cx.now_ms(), FAILED_MS);
            Err(refusal.into())
        }
        Err(failure) => Err(failure),
    }
}

/// What was found at a URL.
#[derive(Default)]
struct Found {
    properties: Map<String, Value>,
    image: Option<Image>,
}

async fn look(cx: &Context, url: Url) -> Result<Found, Failure> {
    let until_ms = cx.now_ms().saturating_add(PAGE_MS);
    let fetched = fetch::fetch(cx, url, Wants::Page, until_ms).await?;
    if fetched.is_image() {
        return Ok(Found { image: image::store(cx, fetched).await?, ..Found::default() });
    }
    if !fetched.is_page() {
        return Ok(Found::default());
    }
    let (url, charset) = (fetched.url.clone(), fetched.charset.clone());
    let bytes = fetched.beginning(PAGE_BYTES_MAX).await?;
    let mut page = Page::read(&charset::decoded(&bytes, charset.as_deref()));
    drop(bytes);
    let until_ms = cx.now_ms().saturating_add(NAMED_MS);
    if let Some(told) = page.oembed.take().filter(|_| !page.says_all()).and_then(|link| page.resolves(&url, &link)) {
        match oembed::fetch(cx, told, until_ms).await {
            Ok(oembed) => page.learns(oembed),
            Err(failure) => none_of(failure)?,
        }
    }
    let image = page.image().and_then(|link| page.resolves(&url, link));
    let mut found = Found { properties: page.properties(), image: None };
    if let Some(image) = image {
        match named_image(cx, image, until_ms).await {
            Ok(image) => found.image = image,
            Err(failure) => none_of(failure)?,
        }
    }
    Ok(found)
}

async fn named_image(cx: &Context, url: Url, until_ms: u64) -> Result<Option<Image>, Failure> {
    let fetched: Fetched = fetch::fetch(cx, url, Wants::Image, until_ms).await?;
    image::store(cx, fetched).await
}

/// What a page names and does not have is left out; what we break is not.
fn none_of(failure: Failure) -> Result<(), Failure> {
    match failure {
        Failure::Refused(refusal) => {
            tracing::debug!(%refusal, "what a page names is not there");
            Ok(())
        }
        failure => Err(failure),
    }
}

impl Found {
    /// Keeps what was found, in one transaction with its image, and answers it.
    async fn keep(mut self, cx: &Context, url_sha256: &str) -> Result<String, Failure> {
        let image = match &self.image {
            Some(image) => {
                let media_id = super::new_media_id(cx)?;
                let mxc = Mxc { server_name: cx.server_name(), media_id: &media_id };
                image.describe(uri(mxc), &mut self.properties);
                Some((media_id, image))
            }
            None => None,
        };
        let answer = serde_json::to_string(&self.properties)?;
        let now_ms = cx.now_ms();
        let kept = url_preview::inserting(&Preview {
            url_sha256,
            fetched_ms: now_ms,
            expires_ms: now_ms.saturating_add(HELD_MS),
            answer: &answer,
            image_media_id: image.as_ref().map(|(media_id, _)| media_id.as_str()),
        });
        let Some((media_id, image)) = &image else {
            cx.metadata().query(kept).await?;
            return Ok(answer);
        };
        let mxc = Mxc { server_name: cx.server_name(), media_id };
        let mut statements = media::inserting(mxc, &image.upload(cx), &image.content, now_ms);
        statements.push(kept);
        cx.metadata().batch(statements).await?;
        super::stray::settle(cx, &image.content.file).await?;
        Ok(answer)
    }
}

/// Deletes some of what was found too long ago, or is too much, with its images. Answers whether there may be more.
pub(super) async fn tend(services: &Services) -> Result<bool, Fault> {
    let metadata = &*services.metadata;
    let before_ms = services.clock.now_ms().saturating_sub(KEPT_MS);
    let outdated = url_preview::outdated(metadata, before_ms, KEPT_MAX, FORGOTTEN_TOGETHER).await?;
    let Some(Outdated { until_ms, count }) = outdated else { return Ok(false) };
    let forgetting = url_preview::forgetting(services.settings.config.server_name.as_str(), until_ms);
    metadata.batch(forgetting.into_iter().chain(leaving()).collect()).await?;
    Ok(count >= FORGOTTEN_TOGETHER)
}

#[cfg(test)]
mod tests;
