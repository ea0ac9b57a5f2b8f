//! Media for other servers, and media of theirs for us. Spec: server-server API, "Content Repository".

use bytes::Bytes;
use domain::{Refusal, federation::discovery::REDIRECTS_MAX};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Response, header};
use platform::{Fault, OutgoingResponse};
use ruma_common::http_headers::ContentDisposition;
use ruma_federation_api::authenticated_media::{get_content::v1 as download, get_content_thumbnail::v1 as thumbnail};

use super::{
    AskError, Bounds, Origin,
    ask::Asking,
    by_url::{HttpsUrl, redirected},
    multipart::{self, ENVELOPE_BYTES_MAX},
    queries::not_told,
};
use crate::{
    Body, Context, Failure, Routes,
    media::{self, ArrivingFile, Asked, Look, Served, To, not_found},
    metadata::media::Mxc,
};

/// How long fetching a file may take, in milliseconds.
pub(crate) const FETCH_MS_MAX: u64 = 10 * 60 * 1000;
/// How long it may take until the file begins, besides the time that its server is asked to wait for it, in
/// milliseconds.
const BEGIN_MS_MAX: u64 = 10_000;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_file(download);
    routes.add_file(thumbnail);
}

async fn download(
    cx: &Context,
    _: Origin,
    request: download::Request,
    _: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: cx.server_name(), media_id: &request.media_id };
    let asked = Asked { mxc, timeout: request.timeout_ms, to: To::Server, allow_remote: false };
    let found = media::await_content(cx, &asked).await?;
    let served = found.served(None);
    answer(cx, &served).await?.ok_or_else(not_found)
}

async fn thumbnail(
    cx: &Context,
    _: Origin,
    request: thumbnail::Request,
    _: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let mxc = Mxc { server_name: cx.server_name(), media_id: &request.media_id };
    let asked = Asked { mxc, timeout: request.timeout_ms, to: To::Server, allow_remote: false };
    let look = Look::of(request.method.as_ref(), request.width.into(), request.height.into(), request.animated)?;
    let thumbnail = media::thumbnail_of(cx, &asked, look).await?;
    answer(cx, &thumbnail.served()).await?.ok_or_else(not_found)
}

/// A file in its envelope; `None` if it is not there.
async fn answer(cx: &Context, served: &Served<'_>) -> Result<Option<Response<Body>>, Failure> {
    let pieces = if served.size == 0 {
        stream::empty().boxed_local()
    } else {
        let Some(blob) = cx.services().blobs.get(served.file, 0..served.size).await? else { return Ok(None) };
        blob.pieces
    };
    let header = |value: &str| HeaderValue::from_str(value).map_err(|error| Fault::new(error.to_string()));
    let headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, header(served.content_type)?),
        (header::CONTENT_DISPOSITION, header(&served.disposition.to_string())?),
    ]);
    // Nobody puts into a file what is made up only now.
    let boundary = format!("{:032x}", u128::from_be_bytes(cx.random()?));
    let (head, tail) = multipart::envelope(&boundary, &headers);
    let length = served.size.saturating_add((head.len().saturating_add(tail.len())) as u64);
    let piece = |bytes: Bytes| stream::iter([Ok(bytes)]);
    let mut response = Response::new(Body::pieces(piece(head).chain(pieces).chain(piece(tail))));
    let content_type = header(&format!("multipart/mixed; boundary={boundary}"))?;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    Ok(Some(response))
}

impl Context {
    /// A file of another server, which waits `wait_ms` for it to be uploaded.
    ///
    /// # Errors
    /// What [`not_fetched`] says.
    pub(crate) async fn file_elsewhere(&self, mxc: Mxc<'_>, wait_ms: u64) -> Result<ArrivingFile, Refusal> {
        let begin_ms = wait_ms.saturating_add(BEGIN_MS_MAX);
        let asked = self.soon(mxc.server_name, begin_ms, self.ask_for_file(mxc, wait_ms)).await;
        asked.map_err(|error| not_fetched(&error))
    }

    async fn ask_for_file(&self, mxc: Mxc<'_>, wait_ms: u64) -> Result<ArrivingFile, AskError> {
        let size_max = usize::try_from(self.config().max_upload_size).unwrap_or(usize::MAX);
        let bounds =
            Bounds { response_bytes_max: size_max.saturating_add(ENVELOPE_BYTES_MAX), timeout_ms: FETCH_MS_MAX };
        let Mxc { server_name, media_id } = mxc;
        let path = format!("/_matrix/federation/v1/media/download/{media_id}?timeout_ms={wait_ms}");
        match self.ask_streamed(server_name, Method::GET, &path, None, bounds).await {
            Ok(response) => self.opened(response, bounds).await,
            // Spec: "falling back to the deprecated /_matrix/media/* endpoints when they receive a 404 M_UNRECOGNIZED".
            Err(AskError::Refused { status, errcode, .. }) if status == 404 && errcode == "M_UNRECOGNIZED" => {
                let named = server_name.as_str().replace('[', "%5B").replace(']', "%5D");
                let path =
                    format!("/_matrix/media/v3/download/{named}/{media_id}?allow_remote=false&timeout_ms={wait_ms}");
                let asking = Asking {
                    destination: server_name,
                    method: Method::GET,
                    path_and_query: &path,
                    content: Bytes::new(),
                    is_signed: false,
                    bounds,
                };
                Ok(whole(self.exchange(asking).await?))
            }
            Err(error) => Err(error),
        }
    }

    /// The file in an envelope, or where that says it is.
    async fn opened(&self, response: OutgoingResponse, bounds: Bounds) -> Result<ArrivingFile, AskError> {
        let content_type = text(&response.headers, &header::CONTENT_TYPE);
        let boundary = content_type.as_deref().and_then(multipart::boundary);
        let boundary = boundary.ok_or_else(|| AskError::Nonsense("no multipart/mixed".to_owned()))?;
        let (headers, pieces) = multipart::second_part(response.body, boundary).await?;
        match headers.get(header::LOCATION) {
            None => Ok(described(&headers, pieces)),
            Some(location) => {
                let url = location.to_str().ok().and_then(HttpsUrl::parse);
                self.file_at(url.ok_or_else(|| AskError::Nonsense("a location without HTTPS".to_owned()))?, bounds)
                    .await
            }
        }
    }

    /// The file at a URL that another server names: a stranger to us and to it, who is told nothing of either.
    async fn file_at(&self, mut url: HttpsUrl, bounds: Bounds) -> Result<ArrivingFile, AskError> {
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(url.request(bounds)).await?;
            if response.status.is_success() {
                return Ok(whole(response));
            }
            let next = response.status.is_redirection().then(|| redirected(&response.headers, &url)).flatten();
            url = next.ok_or_else(|| AskError::Nonsense(format!("its file's place answers {}", response.status)))?;
        }
        Err(AskError::Nonsense("its file is nowhere".to_owned()))
    }
}

fn whole(response: OutgoingResponse) -> ArrivingFile {
    described(&response.headers, response.body)
}

fn described(headers: &HeaderMap, pieces: platform::Arriving) -> ArrivingFile {
    let disposition = headers.get(header::CONTENT_DISPOSITION);
    let disposition = disposition.and_then(|value| ContentDisposition::try_from(value.as_bytes()).ok());
    ArrivingFile {
        content_type: text(headers, &header::CONTENT_TYPE),
        name: disposition.and_then(|disposition| disposition.filename),
        pieces,
    }
}

fn text(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// What a client learns when another server's file is not to be had: `M_NOT_FOUND`, `M_NOT_YET_UPLOADED`, 502
/// `M_TOO_LARGE`; 502 where it does not answer.
pub(crate) fn not_fetched(error: &AskError) -> Refusal {
    match error {
        AskError::TooLarge => Refusal::TooLargeElsewhere("Content is too large to serve".to_owned()),
        AskError::Refused { errcode, .. } if errcode == "M_TOO_LARGE" => not_fetched(&AskError::TooLarge),
        AskError::Refused { errcode, .. } if errcode == "M_NOT_YET_UPLOADED" => Refusal::NotYetUploaded,
        // That is between us and them: the client did nothing wrong.
        AskError::Refused { status, .. } if matches!(status.as_u16(), 403 | 429) => {
            Refusal::OtherServer("The other server does not give it to this one".to_owned())
        }
        error => not_told(error, || Refusal::NotFound("There is no such media".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, header};
    use serde_json::Value;

    use crate::{
        federation::tests::{answered, identity, server_among, signed},
        testing::refused,
    };

    #[test]
    fn other_servers_get_our_media_in_an_envelope() {
        let other = || identity("b.test:1", "1", 1);
        let (server, _) = server_among(vec![other()], &[]);
        let token = server.register("alice");
        for content in ["abc", ""] {
            let upload = Request::post("/_matrix/media/v3/upload?filename=a%20b.txt");
            let upload = upload.header(header::AUTHORIZATION, format!("Bearer {token}"));
            let upload = server.answer(upload.header(header::CONTENT_TYPE, "text/plain").body(content.into()).unwrap());
            let uploaded: Value = serde_json::from_slice(upload.body()).unwrap();
            let media_id =
                uploaded["content_uri"].as_str().unwrap().strip_prefix("mxc://localhost/").unwrap().to_owned();
            let path = format!("/_matrix/federation/v1/media/download/{media_id}");
            let answer = server.answer(signed(&other(), "localhost", Method::GET, &path, ""));
            let boundary = answer.headers()[header::CONTENT_TYPE].to_str().unwrap();
            let boundary = boundary.strip_prefix("multipart/mixed; boundary=").unwrap();
            let expected = format!(
                "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\ncontent-type: text/plain\r\n\
                 content-disposition: inline; filename=\"a b.txt\"\r\n\r\n{content}\r\n--{boundary}--\r\n"
            );
            assert_eq!(answer.body(), expected.as_bytes());
            assert_eq!(answer.headers()[header::CONTENT_LENGTH], expected.len().to_string());
        }
        for path in ["nothing", "a.b"] {
            let path = format!("/_matrix/federation/v1/media/download/{path}");
            let told = answered(&server, signed(&other(), "localhost", Method::GET, &path, ""));
            assert_eq!(refused(told), (404, "M_NOT_FOUND".to_owned()), "{path}");
            assert_eq!(refused(server.get(&path, &token)), (401, "M_UNAUTHORIZED".to_owned()));
        }
    }
}
