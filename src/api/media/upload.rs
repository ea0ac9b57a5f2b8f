//! `POST /media/v3/upload`, and `PUT` to a name that was created before.

use domain::Refusal;
use futures_util::StreamExt;
use ruma_client_api::media::{create_content, create_content_async};
use ruma_common::{OwnedMxcUri, UserId};
use serde_json::json;

use super::{
    content::find,
    limit::{self, Limit},
    new_media_id,
    store::store,
    stray,
};
use crate::{
    Arriving, Caller, Context, Failure, Routes, Unread,
    metadata::media::{self, Content, Media, Mxc, Quota, Upload},
};

/// How long an upload may take, in milliseconds.
const UPLOAD_MS_MAX: u64 = 60 * 60 * 1000;
/// What a content type or a file name may have, in bytes.
pub(super) const CONTENT_TYPE_BYTES_MAX: usize = 255;
const NAME_BYTES_MAX: usize = 1024;
/// Spec: "Defaults to application/octet-stream if it is not set".
pub(super) const CONTENT_TYPE: &str = "application/octet-stream";

pub(super) fn routes(routes: &mut Routes) {
    routes.add_arriving(upload);
    routes.add_arriving(upload_to_created);
}

pub(super) fn uri(Mxc { server_name, media_id }: Mxc<'_>) -> OwnedMxcUri {
    format!("mxc://{server_name}/{media_id}").into()
}

async fn upload(
    cx: &Context,
    caller: Caller,
    request: create_content::v3::Request,
    body: Arriving,
) -> Result<Vec<u8>, Failure> {
    let mut upload = described(cx, &caller.user_id, request.content_type.as_deref(), request.filename.as_deref())?;
    let content = take_in(cx, body, Limit::of_user(cx, &caller.user_id).await?).await?;
    upload.quota = quota_for(cx, &content);
    let media_id = new_media_id(cx)?;
    let mxc = Mxc { server_name: cx.server_name(), media_id: &media_id };
    media::insert(cx.metadata(), mxc, &upload, &content, cx.now_ms()).await?;
    stray::settle(cx, &content.file).await?;
    if upload.quota.is_any() && find(cx, mxc).await?.is_none() {
        return Err(limit::reached_meanwhile(cx, &caller.user_id, content.size).await?.into());
    }
    Ok(serde_json::to_vec(&json!({ "content_uri": uri(mxc) }))?)
}

async fn upload_to_created(
    cx: &Context,
    caller: Caller,
    request: create_content_async::v3::Request,
    body: Arriving,
) -> Result<Vec<u8>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let mut upload = described(cx, &caller.user_id, request.content_type.as_deref(), request.filename.as_deref())?;
    // Other servers' media nobody here created.
    let Some(Media { uploader: Some(uploader), content, .. }) = find(cx, mxc).await? else { return Err(unknown()) };
    if uploader != caller.user_id.as_str() {
        return Err(Refusal::Forbidden("Somebody else created this".to_owned()).into());
    }
    if content.is_some() {
        return Err(Refusal::CannotOverwriteMedia.into());
    }
    let content = take_in(cx, body, Limit::of_user(cx, &caller.user_id).await?).await?;
    upload.quota = quota_for(cx, &content);
    media::fill(cx.metadata(), mxc, &upload, &content, cx.now_ms()).await?;
    stray::settle(cx, &content.file).await?;
    match find(cx, mxc).await?.map(|media| media.content) {
        Some(Some(filled)) if filled.sha256 == content.sha256 => Ok(b"{}".to_vec()),
        Some(Some(_)) => Err(Refusal::CannotOverwriteMedia.into()),
        // It is there for the taking: it was the quota that did not allow it.
        Some(None) => Err(limit::reached_meanwhile(cx, &caller.user_id, content.size).await?.into()),
        None => Err(unknown()),
    }
}

fn unknown() -> Failure {
    Refusal::NotFound("This media id is not known, or has expired".to_owned()).into()
}

/// What an upload says of itself, if it may.
fn described<'a>(
    cx: &Context,
    uploader: &'a UserId,
    content_type: Option<&'a str>,
    upload_name: Option<&'a str>,
) -> Result<Upload<'a>, Refusal> {
    let content_type = content_type.unwrap_or(CONTENT_TYPE);
    if content_type.len() > CONTENT_TYPE_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A content type can have at most {CONTENT_TYPE_BYTES_MAX} bytes")));
    }
    if !upload_name.is_none_or(is_good_name) {
        let allowed = format!("A file name can have at most {NAME_BYTES_MAX} bytes, and no control characters");
        return Err(Refusal::InvalidParam(allowed));
    }
    let (authenticated, quota) = (cx.config().authenticated_media, Quota::default());
    Ok(Upload { uploader: Some(uploader), content_type, upload_name, authenticated, quota })
}

/// Whether a file may be called so.
pub(super) fn is_good_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

/// What its uploader's quota says when content is taken. Nothing fits even where there is more than the quota by now.
fn quota_for(cx: &Context, content: &Content) -> Quota {
    if content.size == 0 { Quota::default() } else { limit::quota(cx) }
}

/// Stores what arrives as a stray file.
pub(super) async fn take_in(cx: &Context, body: Arriving, limit: Limit) -> Result<Content, Failure> {
    limit.check(body.length.unwrap_or_default())?;
    let ends_ms = cx.now_ms().saturating_add(UPLOAD_MS_MAX);
    let clock = cx.services().clock.clone();
    let pieces = body.pieces.map(move |piece| match piece {
        Ok(_) if clock.now_ms() > ends_ms => Err(Unread::TooSlow.into()),
        piece => piece.map_err(Failure::from),
    });
    store(cx, body.length, pieces, limit, ends_ms).await
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, StatusCode, header};
    use serde_json::{Value, json};

    use crate::testing::{TestServer, refused};

    fn sends(server: &TestServer, method: Method, path: &str, token: &str, body: &'static str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(format!("/_matrix/media/{path}"));
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        let response = server.answer(request.body(body.into()).unwrap());
        (response.status(), serde_json::from_slice(response.body()).unwrap())
    }

    fn server() -> (TestServer, String) {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("MAX_UPLOAD_SIZE", "5")]);
        let token = server.register("alice");
        (server, token)
    }

    #[test]
    fn the_same_content_lies_in_one_file() {
        let (server, token) = server();
        for body in ["a", "b", "a", "a"] {
            assert_eq!(sends(&server, Method::POST, "v3/upload", &token, body).0, StatusCode::OK);
        }
        assert_eq!(server.blobs.keys().len(), 2);
        assert_eq!(server.strays(), Vec::<String>::new());
    }

    #[test]
    fn what_is_refused_leaves_nothing() {
        let (server, token) = server();
        let refused = refused(sends(&server, Method::POST, "v3/upload", &token, "123456"));
        assert_eq!(refused, (413, "M_TOO_LARGE".to_owned()));
        assert_eq!((server.blobs.keys(), server.strays()), (vec![], vec![]));
    }

    #[test]
    fn a_store_that_fails_leaves_at_most_a_stray() {
        let (server, token) = server();
        for calls in 0..3 {
            server.blobs.fails_after(calls);
            let _ = sends(&server, Method::POST, "v3/upload", &token, "abc");
            server.blobs.fails_after(usize::MAX);
            let media = server.files();
            let strays = server.strays();
            for file in server.blobs.keys() {
                assert!(media.contains(&file) || strays.contains(&file), "{file} belongs to nothing");
            }
            for file in media {
                assert!(server.blobs.keys().contains(&file), "{file} is lost");
            }
        }
    }

    #[test]
    fn a_name_that_is_not_used_expires() {
        let (server, token) = server();
        let (_, created) = server.post("/_matrix/media/v1/create", &token, &json!({}));
        let mxc = created["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
        let expires_ms = created["unused_expires_at"].as_u64().unwrap();
        assert_eq!(expires_ms, server.context().now_ms() + 24 * 3_600_000);
        let download = format!("/_matrix/client/v1/media/download/{mxc}");
        let begun_ms = server.context().now_ms();
        assert_eq!(refused(server.get(&download, &token)), (504, "M_NOT_YET_UPLOADED".to_owned()));
        assert_eq!(server.context().now_ms(), begun_ms + 20_000, "the default");
        let patient = format!("{download}?timeout_ms=99999999999999");
        assert_eq!(refused(server.get(&patient, &token)), (504, "M_NOT_YET_UPLOADED".to_owned()));
        assert_eq!(server.context().now_ms(), begun_ms + 80_000, "nobody waits longer than a minute");
        server.pass_ms(24 * 3_600_000);
        assert_eq!(refused(server.get(&download, &token)), (404, "M_NOT_FOUND".to_owned()));
        let put = sends(&server, Method::PUT, &format!("v3/upload/{mxc}"), &token, "late");
        assert_eq!(refused(put), (404, "M_NOT_FOUND".to_owned()));
        assert_eq!((server.blobs.keys(), server.strays()), (vec![], vec![]));
        for _ in 0..5 {
            assert_eq!(server.post("/_matrix/media/v1/create", &token, &json!({})).0, StatusCode::OK);
        }
    }

    #[test]
    fn a_download_is_noted_once_a_day() {
        let (server, token) = server();
        let (_, uploaded) = sends(&server, Method::POST, "v3/upload", &token, "abc");
        let mxc = uploaded["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
        let mut seen = Vec::new();
        for _ in 0..5 {
            server.pass_ms(10 * 3_600_000);
            server.get(&format!("/_matrix/client/v1/media/download/{mxc}"), &token);
            seen.push(server.numbers("SELECT accessed_ms FROM media"));
        }
        seen.dedup();
        assert_eq!(seen.len(), 2, "{seen:?}");
    }
}
