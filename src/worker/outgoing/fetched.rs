use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use js_sys::{Array, Reflect, Uint8Array};
use platform::{Arriving, Clock, OutgoingRequest, OutgoingResponse, SendError};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, Headers, ReadableStreamDefaultReader, Request, RequestInit, RequestRedirect, Response};

use super::{scheme, within};
use crate::{chance, js};

/// Sends a request with the runtime's `fetch`.
pub(super) async fn send(authority: &str, request: OutgoingRequest) -> Result<OutgoingResponse, SendError> {
    let until_ms = chance::Runtime.now_ms().saturating_add(request.timeout_ms);
    let under_way = UnderWay(AbortController::new().map_err(|thrown| failed(&thrown))?);
    let url = format!("{}://{authority}{}", scheme(&request.peer), request.path_and_query);
    let written = written(&url, &request, &under_way).map_err(|thrown| failed(&thrown))?;
    let answered = async {
        let response = JsFuture::from(js::fetch(&written)).await.map_err(|thrown| failed(&thrown))?;
        response.dyn_into::<Response>().map_err(|thrown| failed(&thrown))
    };
    let response = within(request.timeout_ms, answered).await?;
    let status = StatusCode::from_u16(response.status()).map_err(|error| SendError::Nonsense(error.to_string()))?;
    let headers = headers_of(&response.headers()).map_err(|thrown| failed(&thrown))?;
    let reader = response.body().map(|body| body.get_reader().unchecked_into::<ReadableStreamDefaultReader>());
    let rest = Rest { reader, bytes_left: request.response_bytes_max, until_ms, under_way };
    let mut body = arriving(rest, request.response_bytes_max);
    if is_unreached(status) {
        let first = body.try_next().await?.unwrap_or_default();
        if first.starts_with(ERROR_CODE) {
            return Err(SendError::Unreachable(String::from_utf8_lossy(&first).trim_end().to_owned()));
        }
        body = Box::pin(stream::iter([Ok(first)]).chain(body));
    }
    Ok(OutgoingResponse { status, headers, body })
}

/// What the runtime itself says begins with this.
const ERROR_CODE: &[u8] = b"error code: ";

/// Whether this may be what the runtime says of a server that it does not reach, in that server's place: it throws
/// nothing for a name that is nowhere, or a connection that is refused.
fn is_unreached(status: StatusCode) -> bool {
    matches!(status.as_u16(), 520..=527 | 530)
}

/// Ends what is still under way when nobody wants it any more: connections at the same time are few.
struct UnderWay(AbortController);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn written(url: &str, request: &OutgoingRequest, under_way: &UnderWay) -> Result<Request, JsValue> {
    let headers = Headers::new()?;
    for (name, value) in &request.headers {
        let value: String = value.as_bytes().iter().copied().map(char::from).collect();
        headers.append(name.as_str(), &value)?;
    }
    let init = RequestInit::new();
    init.set_method(request.method.as_str());
    init.set_headers(&headers);
    init.set_redirect(RequestRedirect::Manual);
    init.set_signal(Some(&under_way.0.signal()));
    if !request.body.is_empty() {
        init.set_body(&Uint8Array::from(request.body.as_ref()));
    }
    Request::new_with_str_and_init(url, &init)
}

fn headers_of(given: &Headers) -> Result<HeaderMap, JsValue> {
    let mut headers = HeaderMap::new();
    for entry in given.entries() {
        let entry: Array = entry?.unchecked_into();
        let (Some(name), Some(value)) = (entry.get(0).as_string(), entry.get(1).as_string()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

struct Rest {
    reader: Option<ReadableStreamDefaultReader>,
    bytes_left: usize,
    until_ms: u64,
    under_way: UnderWay,
}

fn arriving(rest: Rest, bytes_max: usize) -> Arriving {
    Box::pin(stream::try_unfold(rest, move |mut rest| async move {
        let Some(reader) = &rest.reader else { return Ok(None) };
        let left_ms = rest.until_ms.saturating_sub(chance::Runtime.now_ms());
        let read = async { JsFuture::from(reader.read()).await.map_err(|thrown| failed(&thrown)) };
        let read = within(left_ms, read).await?;
        let Some(piece) = piece(&read).map_err(|thrown| failed(&thrown))? else { return Ok(None) };
        rest.bytes_left = rest.bytes_left.checked_sub(piece.len()).ok_or(SendError::TooLarge(bytes_max))?;
        let _ = &rest.under_way;
        Ok(Some((piece, rest)))
    }))
}

/// What a reader read; `None` at the end.
fn piece(read: &JsValue) -> Result<Option<Bytes>, JsValue> {
    if Reflect::get(read, &"done".into())?.is_truthy() {
        return Ok(None);
    }
    let piece: Uint8Array = Reflect::get(read, &"value".into())?.dyn_into()?;
    Ok(Some(piece.to_vec().into()))
}

fn failed(thrown: &JsValue) -> SendError {
    SendError::Unreachable(js::message(thrown))
}
