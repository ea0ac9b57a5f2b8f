//! Answers with a file of the store, or a part of it, in the headers that the specification asks for.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use platform::Fault;
use ruma_common::http_headers::ContentDisposition;

use super::conditions::{Wanted, wanted};
use crate::{Body, Context, Failure};

/// Spec: "The recommended policy".
const POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A file as it is served.
pub(crate) struct Served<'a> {
    pub file: &'a str,
    pub size: u64,
    /// The same for the same bytes only.
    pub etag: String,
    pub content_type: &'a str,
    pub disposition: ContentDisposition,
    /// Whether only users are served.
    pub authenticated: bool,
}

/// What a request with these headers gets of a file; `None` if the file is not there.
pub(super) async fn serve(
    cx: &Context,
    served: Served<'_>,
    headers: &http::HeaderMap,
) -> Result<Option<Response<Body>>, Failure> {
    let Served { file, size, etag, content_type, disposition, authenticated } = served;
    let mut response = Response::new(Body::from(Bytes::new()));
    let mut set = |name: HeaderName, value: &str| {
        let value = HeaderValue::from_str(value).map_err(|_| Fault::new(format!("a {name} that is no header")))?;
        response.headers_mut().insert(name, value);
        Ok::<_, Fault>(())
    };
    set(header::ETAG, &etag)?;
    set(header::ACCEPT_RANGES, "bytes")?;
    // It never changes; whether one may see it can.
    let cache = if authenticated { "private" } else { "public" };
    set(header::CACHE_CONTROL, &format!("{cache}, max-age=86400, immutable"))?;
    set(header::CONTENT_SECURITY_POLICY, POLICY)?;
    set(CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin")?;
    let (status, part) = match wanted(headers, &etag, size) {
        Wanted::Nothing => (StatusCode::NOT_MODIFIED, None),
        Wanted::Unsatisfiable => {
            set(header::CONTENT_RANGE, &format!("bytes */{size}"))?;
            (StatusCode::RANGE_NOT_SATISFIABLE, None)
        }
        Wanted::Part(part) => {
            let last = part.end.saturating_sub(1);
            set(header::CONTENT_RANGE, &format!("bytes {}-{last}/{size}", part.start))?;
            (StatusCode::PARTIAL_CONTENT, Some(part))
        }
        Wanted::Whole => (StatusCode::OK, Some(0..size)),
    };
    if let Some(part) = &part {
        set(header::CONTENT_TYPE, content_type)?;
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff")?;
        set(header::CONTENT_DISPOSITION, &disposition.to_string())?;
        set(header::CONTENT_LENGTH, &part.end.saturating_sub(part.start).to_string())?;
    }
    *response.status_mut() = status;
    if let Some(part) = part.filter(|part| !part.is_empty()) {
        let Some(blob) = cx.services().blobs.get(file, part).await? else { return Ok(None) };
        *response.body_mut() = Body::Stored(blob);
    }
    Ok(Some(response))
}
