//! An image that is fetched becomes media of ours.

use bytes::{Bytes, BytesMut};
use domain::Refusal;
use futures_util::{StreamExt, stream};
use ruma_common::OwnedMxcUri;
use serde_json::{Map, Value};

use super::fetch::{Fetched, failed};
use crate::{
    Arriving, Context, Failure, Unread,
    media::{limit::Limit, upload},
    metadata::media::{Content, Quota, Upload},
};

/// The largest image, in bytes.
pub(super) const IMAGE_BYTES_MAX: usize = 10 << 20;
/// What is looked at to learn what an image is, in bytes: cameras write a lot before the size.
const HEAD_BYTES: usize = 64 << 10;

/// An image in our store, of nothing yet.
pub(super) struct Image {
    pub content: Content,
    content_type: &'static str,
    /// Width and height, where they are known.
    size: Option<(u64, u64)>,
}

/// Stores an image; `None` for what is no image that every client shows.
pub(super) async fn store(cx: &Context, fetched: Fetched) -> Result<Option<Image>, Failure> {
    let mut body = fetched.body;
    let mut head = BytesMut::new();
    while head.len() < HEAD_BYTES
        && let Some(piece) = body.next().await
    {
        head.extend_from_slice(&piece.map_err(|error| failed(&error))?);
    }
    let Some(content_type) = content_type(&head) else { return Ok(None) };
    let size = imagesize::blob_size(&head).ok().map(|size| (size.width as u64, size.height as u64));
    // Nobody may make us keep what is called a page and is no image, however large.
    let mut left = IMAGE_BYTES_MAX;
    let rest = body.map(|piece| piece.map_err(|_| Unread::Broken));
    let pieces = stream::iter([Ok(head.freeze())]).chain(rest).map(move |piece: Result<Bytes, Unread>| {
        let piece = piece?;
        left = left.checked_sub(piece.len()).ok_or(Unread::Broken)?;
        Ok(piece)
    });
    match upload::take_in(cx, Arriving::new(None, pieces), Limit::of_any(cx)).await {
        Ok(content) => Ok(Some(Image { content, content_type, size })),
        Err(Failure::Refused(_)) => Err(Refusal::OtherServer("The image could not be fetched".to_owned()).into()),
        Err(failure) => Err(failure),
    }
}

/// What an image is, by its first bytes: what a server calls it may be something else. No SVG: that is a program.
fn content_type(head: &[u8]) -> Option<&'static str> {
    let is_at = |place: usize, mark: &[u8]| head.get(place..).is_some_and(|rest| rest.starts_with(mark));
    match () {
        () if is_at(0, b"\x89PNG\r\n\x1a\n") => Some("image/png"),
        () if is_at(0, b"\xff\xd8\xff") => Some("image/jpeg"),
        () if is_at(0, b"GIF87a") || is_at(0, b"GIF89a") => Some("image/gif"),
        () if is_at(0, b"RIFF") && is_at(8, b"WEBP") => Some("image/webp"),
        () if is_at(4, b"ftypavif") => Some("image/avif"),
        () => None,
    }
}

impl Image {
    pub(super) fn upload(&self, cx: &Context) -> Upload<'static> {
        let authenticated = cx.config().authenticated_media;
        Upload {
            uploader: None,
            content_type: self.content_type,
            upload_name: None,
            authenticated,
            quota: Quota::default(),
        }
    }

    /// Says what and where the image is.
    pub(super) fn describe(&self, uri: OwnedMxcUri, properties: &mut Map<String, Value>) {
        let mut set = |name: &str, value: Value| properties.insert(name.to_owned(), value);
        set("og:image", uri.as_str().into());
        set("og:image:type", self.content_type.into());
        set("matrix:image:size", self.content.size.into());
        if let Some((width, height)) = self.size {
            set("og:image:width", width.into());
            set("og:image:height", height.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::content_type;

    #[test]
    fn an_image_is_what_begins_like_one() {
        for (head, expected) in [
            (&b"\x89PNG\r\n\x1a\n..."[..], Some("image/png")),
            (b"\xff\xd8\xff\xe0", Some("image/jpeg")),
            (b"GIF89a", Some("image/gif")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"\0\0\0\x1cftypavif", Some("image/avif")),
            (b"<svg xmlns='http://www.w3.org/2000/svg'>", None),
            (b"<html>", None),
            (b"", None),
        ] {
            assert_eq!(content_type(head), expected, "{head:?}");
        }
    }
}
