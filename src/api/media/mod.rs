//! The content repository: files that users upload and that everyone they name them to may download.
//! Spec: "Content repository".
//!
//! In scope: what lies in the store, what is known of it ([`crate::metadata::media`]), serving it, thumbnails of it,
//! and previews of URLs. What other servers' users uploaded is fetched when somebody asks for it, and a copy kept. Out
//! of scope: asking other servers (`federation::media`). Neither an upload nor a download is ever whole in memory.

mod conditions;
#[expect(deprecated, reason = "clients that know no newer endpoint still ask the old one")]
mod config;
mod content;
mod create;
#[expect(deprecated, reason = "what was uploaded before the freeze is still served there")]
mod download;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod limit;
mod preview;
mod remote;
mod serve;
mod store;
mod stray;
pub(crate) mod tend;
#[expect(deprecated, reason = "what was uploaded before the freeze is still served there")]
mod thumbnail;
mod turns;
mod upload;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::Refusal;

pub use turns::MediaTurns;

pub(crate) use self::{
    content::{ACCESS_PRECISION_MS, Asked, To, await_content, not_found},
    remote::ArrivingFile,
    serve::Served,
    thumbnail::{Look, thumbnail_of},
};
use crate::{Context, Failure, Routes};

pub(crate) fn routes(routes: &mut Routes) {
    config::routes(routes);
    create::routes(routes);
    upload::routes(routes);
    download::routes(routes);
    thumbnail::routes(routes);
    preview::routes(routes);
}

/// The longest id of media, in bytes. Ours have 24.
const MEDIA_ID_BYTES_MAX: usize = 255;

/// Spec: "allowing only alphanumeric (A-Za-z0-9), _ and - characters in the media-id segment".
pub(crate) fn check_media_id(media_id: &str) -> Result<(), Refusal> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if media_id.is_empty() || media_id.len() > MEDIA_ID_BYTES_MAX || !media_id.bytes().all(is_allowed) {
        return Err(Refusal::InvalidParam("A media id has letters, digits, _ and - only".to_owned()));
    }
    Ok(())
}

/// A new id of media: nobody guesses one.
fn new_media_id(cx: &Context) -> Result<String, Failure> {
    Ok(BASE64_URL_SAFE_NO_PAD.encode(cx.random::<18>()?))
}
