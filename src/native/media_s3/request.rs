//! One request to the service: signed, sent, and sent again if that may help.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use platform::{Fault, Outgoing as _, OutgoingRequest, OutgoingResponse, Peer, Scheme, SendError};
use rusty_s3::signing;
use url::Url;

use super::S3;

/// How long a signature holds, in seconds: longer than clocks differ.
const SIGNED_SECONDS: u64 = 15 * 60;
/// How long the service may take for everything but what a client downloads, in milliseconds.
const ANSWER_MS: u64 = 5 * 60 * 1000;
/// How long a download may take, in milliseconds.
const DOWNLOAD_MS: u64 = 60 * 60 * 1000;
/// The largest answer that is no file, in bytes.
const TOLD_BYTES_MAX: usize = 4 << 20;
/// How often a request is sent, and the first pause before it is sent again.
const ATTEMPTS_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_millis(100);

/// A request for an object, or for the bucket.
pub(super) struct S3Request<'a> {
    method: Method,
    object: &'a str,
    query: Vec<(&'static str, &'a str)>,
    range: Option<String>,
    body: Bytes,
}

impl<'a> S3Request<'a> {
    /// A request for an object; an empty name is the bucket itself.
    pub(super) fn new(method: Method, object: &'a str) -> Self {
        Self { method, object, query: vec![], range: None, body: Bytes::new() }
    }

    pub(super) fn with(mut self, name: &'static str, value: &'a str) -> Self {
        self.query.push((name, value));
        // Signed in this order.
        self.query.sort_unstable();
        self
    }

    pub(super) fn with_range(self, range: &Range<u64>) -> Self {
        Self { range: Some(format!("bytes={}-{}", range.start, range.end.saturating_sub(1))), ..self }
    }

    pub(super) fn with_body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }
}

impl S3 {
    /// Sends a request. Each may be sent twice: it says what is to be, and not what is to change.
    pub(super) async fn send(&self, request: S3Request<'_>) -> Result<Answered, Fault> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let answered = self.connections.send(self.signed(&request)?).await;
            let may_help = match &answered {
                Ok(response) => response.status.is_server_error() || response.status == StatusCode::TOO_MANY_REQUESTS,
                Err(SendError::Unreachable(_) | SendError::TimedOut) => true,
                Err(SendError::PrivateAddress | SendError::TooLarge(_) | SendError::Nonsense(_)) => false,
            };
            if !may_help || attempt >= ATTEMPTS_MAX {
                let failed =
                    |error: SendError| Fault::new(format!("S3: {} {}: {error}", request.method, request.object));
                return answered.map(Answered).map_err(failed);
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        Err(Fault::new("S3: no attempt"))
    }

    fn signed(&self, request: &S3Request<'_>) -> Result<OutgoingRequest, Fault> {
        let method = match request.method {
            Method::GET => rusty_s3::Method::Get,
            Method::HEAD => rusty_s3::Method::Head,
            Method::PUT => rusty_s3::Method::Put,
            Method::POST => rusty_s3::Method::Post,
            Method::DELETE => rusty_s3::Method::Delete,
            _ => return Err(Fault::new("S3: it has no such method")),
        };
        let (bucket, credentials) = (&self.of.bucket, &self.of.credentials);
        let url = signing::sign(
            &jiff::Timestamp::now(),
            method,
            bucket.object_url(request.object),
            credentials.key(),
            credentials.secret(),
            credentials.token(),
            bucket.region(),
            SIGNED_SECONDS,
            request.query.iter().copied(),
            std::iter::empty(),
        );
        let mut headers = HeaderMap::new();
        if matches!(request.method, Method::PUT | Method::POST) {
            // Said even of nothing.
            headers.insert(header::CONTENT_LENGTH, request.body.len().into());
        }
        if let Some(range) = &request.range {
            let range = HeaderValue::from_str(range).map_err(|error| Fault::new(error.to_string()))?;
            headers.insert(header::RANGE, range);
        }
        let is_download = request.range.is_some();
        Ok(OutgoingRequest {
            peer: peer(&url)?,
            method: request.method.clone(),
            path_and_query: url
                .query()
                .map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path())),
            headers,
            body: request.body.clone(),
            response_bytes_max: if is_download { usize::MAX } else { TOLD_BYTES_MAX },
            timeout_ms: if is_download { DOWNLOAD_MS } else { ANSWER_MS },
        })
    }
}

fn peer(url: &Url) -> Result<Peer, Fault> {
    let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
    let host = url.host_str().ok_or_else(|| Fault::new("S3: the endpoint leads nowhere"))?;
    Ok(Peer::at(scheme, host, url.port()))
}

/// What the service answers.
pub(super) struct Answered(OutgoingResponse);

impl Answered {
    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(super) fn etag(&self) -> Option<String> {
        self.0.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned)
    }

    /// What it says, if it did what it was asked.
    pub(super) async fn done(self) -> Result<String, Fault> {
        if !self.0.status.is_success() {
            return Err(self.refused().await);
        }
        self.told().await
    }

    /// As [`Answered::done`], for what may as well not be there.
    pub(super) async fn done_or_gone(self) -> Result<(), Fault> {
        if self.0.status == StatusCode::NOT_FOUND { Ok(()) } else { self.done().await.map(drop) }
    }

    /// Why it did not.
    pub(super) async fn refused(self) -> Fault {
        let status = self.0.status;
        let told = self.told().await.unwrap_or_default();
        let why = texts(&told, "Code").chain(texts(&told, "Message")).collect::<Vec<_>>().join(": ");
        Fault::new(format!("S3: {status}: {why}"))
    }

    async fn told(self) -> Result<String, Fault> {
        let (_, _, body) = self.0.whole().await.map_err(|error| Fault::new(format!("S3: {error}")))?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The body as it arrives.
    pub(super) fn pieces(self) -> impl Stream<Item = Result<Bytes, Fault>> + 'static {
        self.0.body.map(|piece| piece.map_err(|error| Fault::new(format!("S3: {error}"))))
    }
}

/// The texts of all elements of this name, which have no attributes. What we ask for, names that we gave and that the
/// service gave, has nothing that XML writes otherwise.
pub(super) fn texts<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&open)?;
        let (text, after) = after.split_once(&close)?;
        rest = after;
        Some(text)
    })
}

/// A text of XML as it is meant: others' names may have anything in them.
pub(super) fn plain(text: &str) -> String {
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    named.into_iter().fold(text.to_owned(), |text, (written, meant)| text.replace(written, meant))
}

#[cfg(test)]
mod tests {
    use super::{plain, texts};

    #[test]
    fn texts_are_as_they_are_meant() {
        assert_eq!(plain("a&amp;lt;&lt;b&gt; &quot;c&apos;"), "a&lt;<b> \"c'");
    }

    #[test]
    fn elements_are_found_by_name() {
        let xml = "<?xml version='1.0'?><R xmlns='x'><Upload><Key>a/b</Key><UploadId>1</UploadId></Upload><Upload><Key>c</Key>";
        assert_eq!(texts(xml, "Key").collect::<Vec<_>>(), ["a/b", "c"]);
        assert_eq!(texts(xml, "UploadId").collect::<Vec<_>>(), ["1"]);
        assert_eq!(texts(xml, "Code").count() + texts("<Key>cut", "Key").count(), 0);
    }
}
