//! `GET /media/thumbnail`: made when first asked for, and kept. Spec: "Thumbnails".
//!
//! Whoever asks for what moves gets it moving: a smaller one, or the content itself where that takes no more. What has
//! too much to move stands still.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod jpeg;
mod moving;
mod picture;
mod places;
mod png_rows;
mod rows;
mod sizes;
mod webp;
mod webp_tables;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::{Bytes, BytesMut};
use domain::Refusal;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Response};
use platform::Fault;
use ruma_client_api::{authenticated_media, media as deprecated};
use ruma_common::{
    http_headers::{ContentDisposition, ContentDispositionType},
    media::Method as AskedMethod,
};

pub(super) use self::places::Pictures;
use self::{
    picture::{Picture, REACH, SOURCE_BYTES_MAX, Unfit},
    places::Place,
    sizes::{Made, Method, Size},
};
use super::{
    content::{Asked, Found, To, await_content, not_found},
    serve::{Served, serve},
    stray,
};
use crate::{
    Body, Caller, Context, Failure, Routes,
    metadata::{
        media::{Content, Mxc},
        thumbnail::{self as metadata, Outcome},
    },
};

/// How long one waits for others' thumbnails to be made, how often one looks, and when to come again, in milliseconds.
const WAIT_MS_MAX: u64 = 30_000;
const LOOK_MS: u64 = 50;
const RETRY_MS: u64 = 5_000;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_file(thumbnail);
    routes.add_file(thumbnail_deprecated);
}

async fn thumbnail(
    cx: &Context,
    caller: Caller,
    request: authenticated_media::get_content_thumbnail::v1::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let asked = Asked { mxc, timeout: request.timeout_ms, to: To::User(&caller.user_id), allow_remote: true };
    let look = Look::of(request.method.as_ref(), request.width.into(), request.height.into(), request.animated)?;
    answer(cx, &asked, look, &headers).await
}

async fn thumbnail_deprecated(
    cx: &Context,
    (): (),
    request: deprecated::get_content_thumbnail::v3::Request,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: &request.server_name, media_id: &request.media_id };
    let asked = Asked { mxc, timeout: request.timeout_ms, to: To::Everyone, allow_remote: request.allow_remote };
    let look = Look::of(request.method.as_ref(), request.width.into(), request.height.into(), request.animated)?;
    answer(cx, &asked, look, &headers).await
}

async fn answer(cx: &Context, asked: &Asked<'_>, look: Look, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
    let thumbnail = thumbnail_of(cx, asked, look).await?;
    // Whoever deletes media deletes its thumbnails.
    serve(cx, thumbnail.served(), headers).await?.ok_or_else(not_found)
}

/// What a thumbnail is to look like.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    size: Size,
    animated: bool,
}

impl Look {
    pub(crate) fn of(
        method: Option<&AskedMethod>,
        width: u64,
        height: u64,
        animated: Option<bool>,
    ) -> Result<Self, Refusal> {
        let method = match method {
            None | Some(AskedMethod::Scale) => Method::Scale,
            Some(AskedMethod::Crop) => Method::Crop,
            Some(_) => return Err(Refusal::InvalidParam("The method is crop or scale".to_owned())),
        };
        if width == 0 || height == 0 {
            return Err(Refusal::InvalidParam("A thumbnail has a width and a height".to_owned()));
        }
        let side = |side: u64| u32::try_from(side).unwrap_or(u32::MAX);
        let size = Size { method, width: side(width), height: side(height) };
        Ok(Self { size, animated: animated == Some(true) })
    }
}

/// A thumbnail that was made, or content that serves as its own.
pub(crate) struct Thumbnail {
    found: Found,
    /// Names it among all thumbnails of this content.
    name: String,
    file: String,
    content_type: String,
    size: u64,
}

impl Thumbnail {
    pub(crate) fn served(&self) -> Served<'_> {
        let extension = self.content_type.strip_prefix("image/").unwrap_or_default();
        let filename = Some(format!("thumbnail.{extension}"));
        Served {
            file: &self.file,
            size: self.size,
            etag: format!("\"{}-{}\"", self.found.content.sha256, self.name),
            content_type: &self.content_type,
            disposition: ContentDisposition::new(ContentDispositionType::Inline).with_filename(filename),
            authenticated: self.found.media.authenticated,
        }
    }
}

/// The thumbnail of media that looks like this, or comes nearest.
///
/// # Errors
/// As [`await_content`]. 413 `M_TOO_LARGE`, 502 if it is another server's; 400 `M_UNKNOWN` where it is no picture that
/// we read.
pub(crate) async fn thumbnail_of(cx: &Context, asked: &Asked<'_>, look: Look) -> Result<Thumbnail, Failure> {
    let found = await_content(cx, asked).await?;
    let too_large = || {
        let told = "Content is too large to thumbnail".to_owned();
        let is_ours = asked.mxc.server_name == cx.server_name();
        Failure::from(if is_ours { Refusal::TooLarge(told) } else { Refusal::TooLargeElsewhere(told) })
    };
    if found.content.size > SOURCE_BYTES_MAX {
        return Err(too_large());
    }
    let made = look.size.made();
    let mut moving = None;
    if look.animated
        && let itself @ Outcome::Itself { .. } = outcome(cx, &found.content, Wanted::Movement).await?
    {
        moving = match made {
            Made::Whole => Some((Wanted::Movement, itself)),
            Made::Sized(size) => match outcome(cx, &found.content, Wanted::Moving(size)).await? {
                // It has too much to move.
                Outcome::TooLarge { .. } | Outcome::Unreadable => None,
                outcome => Some((Wanted::Moving(size), outcome)),
            },
        };
    }
    let (wanted, outcome) = match moving {
        Some(moving) => moving,
        None => (Wanted::Still(made), outcome(cx, &found.content, Wanted::Still(made)).await?),
    };
    let name = wanted.to_string();
    match outcome {
        Outcome::Itself { content_type } => {
            let (file, size) = (found.content.file.clone(), found.content.size);
            Ok(Thumbnail { found, name, file, content_type, size })
        }
        Outcome::Made { content_type, size, file } => Ok(Thumbnail { found, name, file, content_type, size }),
        Outcome::TooLarge { .. } => Err(too_large()),
        Outcome::Unreadable => {
            Err(Refusal::Unknown("Cannot generate thumbnails for the requested content".to_owned()).into())
        }
    }
}

/// What is asked about a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Still(Made),
    /// Whether it moves: then it serves as it is.
    Movement,
    Moving(Size),
}

impl fmt::Display for Wanted {
    /// Names the answer among all of one picture's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Still(made) => made.fmt(f),
            Wanted::Movement => f.write_str("moving"),
            Wanted::Moving(size) => write!(f, "{}-moving", Made::Sized(*size)),
        }
    }
}

/// What became of the attempt to make this of a picture, made now if it never was.
async fn outcome(cx: &Context, content: &Content, wanted: Wanted) -> Result<Outcome, Failure> {
    let name = wanted.to_string();
    if let Some(outcome) = known(cx, content, &name).await? {
        return Ok(outcome);
    }
    let place = place(cx).await?;
    // Whoever had the place before may have made it.
    if let Some(outcome) = known(cx, content, &name).await? {
        return Ok(outcome);
    }
    let Some(bytes) = read(cx, content).await? else { return Err(not_found()) };
    let attempted = cx.heavy(move || {
        let attempted = attempt(&bytes, wanted);
        drop((bytes, place));
        attempted
    });
    let (outcome, thumbnail) = match attempted.await? {
        Ok(Attempt::Itself(content_type)) => (Outcome::Itself { content_type: content_type.to_owned() }, None),
        Ok(Attempt::Made(thumbnail)) => {
            let content_type = picture::content_type(&thumbnail).to_owned();
            let file = stray::new_file(cx, cx.now_ms()).await?;
            let outcome = Outcome::Made { content_type, size: thumbnail.len() as u64, file };
            (outcome, Some(Bytes::from(thumbnail)))
        }
        Err(Unfit::TooLarge) => (Outcome::TooLarge { pixels_max: REACH }, None),
        Err(Unfit::Unreadable) => (Outcome::Unreadable, None),
    };
    if let (Outcome::Made { size, file, .. }, Some(thumbnail)) = (&outcome, thumbnail) {
        let pieces = Box::pin(stream::iter([Ok(thumbnail)]));
        if let Err(fault) = cx.services().blobs.put(file, Some(*size), pieces).await {
            stray::discard(cx, file).await?;
            return Err(fault.into());
        }
    }
    metadata::insert(cx.metadata(), &content.sha256, &name, &outcome).await?;
    if let Outcome::Made { file, .. } = &outcome {
        stray::settle(cx, file).await?;
    }
    // Somebody may have been first, or the content may be gone.
    metadata::find(cx.metadata(), &content.sha256, &name).await?.ok_or_else(not_found)
}

/// What became of an attempt, if there was one that looked at as much as we do.
async fn known(cx: &Context, content: &Content, name: &str) -> Result<Option<Outcome>, Fault> {
    let outcome = metadata::find(cx.metadata(), &content.sha256, name).await?;
    Ok(outcome.filter(|outcome| !matches!(outcome, Outcome::TooLarge { pixels_max } if *pixels_max < REACH)))
}

/// Waits for a place to work on a picture.
async fn place(cx: &Context) -> Result<Place, Failure> {
    let until_ms = cx.now_ms().saturating_add(WAIT_MS_MAX);
    loop {
        if let Some(place) = cx.services().media_turns.pictures.place(cx.now_ms()) {
            return Ok(place);
        }
        if cx.now_ms() >= until_ms {
            return Err(Refusal::Unavailable { retry_after_ms: RETRY_MS }.into());
        }
        cx.pause(LOOK_MS).await;
    }
}

/// The whole of a file that is known to be small enough; `None` if it is not there.
async fn read(cx: &Context, content: &Content) -> Result<Option<Bytes>, Fault> {
    if content.size == 0 {
        return Ok(Some(Bytes::new()));
    }
    let Some(blob) = cx.services().blobs.get(&content.file, 0..content.size).await? else { return Ok(None) };
    let mut pieces = blob.pieces;
    let mut bytes = BytesMut::with_capacity(usize::try_from(content.size).unwrap_or_default());
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(Some(bytes.freeze()))
}

/// What is made of a picture.
enum Attempt {
    /// The file itself will do, which is of this type.
    Itself(&'static str),
    Made(Vec<u8>),
}

fn attempt(bytes: &[u8], wanted: Wanted) -> Result<Attempt, Unfit> {
    // Decoders of other people's formats are where panics are found: natively one costs an attempt.
    let attempted = catch_unwind(AssertUnwindSafe(|| {
        let picture = Picture::of(bytes)?;
        let itself = Attempt::Itself(picture.content_type());
        match wanted {
            Wanted::Movement | Wanted::Moving(_) if !picture.is_animated => Err(Unfit::Unreadable),
            Wanted::Movement => Ok(itself),
            Wanted::Moving(size) if picture.fits(Made::Sized(size)) => Ok(itself),
            Wanted::Moving(size) => Ok(moving::thumbnail(&picture, bytes, size)?.map_or(itself, Attempt::Made)),
            Wanted::Still(made) if picture.fits(made) && !picture.is_animated => Ok(itself),
            Wanted::Still(made) => match picture.thumbnail(bytes, made) {
                // Where much is asked for, all of it will do.
                Err(Unfit::TooLarge) if made.is_large() && !picture.is_animated => Ok(itself),
                thumbnail => thumbnail.map(Attempt::Made),
            },
        }
    }));
    attempted.unwrap_or(Err(Unfit::Unreadable))
}

#[cfg(test)]
mod tests;
