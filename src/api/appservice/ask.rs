//! Requests to application services. Spec: Application Service API, "Homeserver -> Application Service API".

use bytes::Bytes;
use domain::Appservice;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use platform::{OutgoingRequest, Peer, Scheme, SendError};
use serde::Deserialize;

use crate::{Context, federation::USER_AGENT};

/// The largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// A request to an application service.
pub(super) struct Question {
    pub method: Method,
    /// Path and query, from the root of its API.
    pub path: String,
    /// Where its predecessor was before there were versions, if there was one. Spec: "Legacy routes".
    pub legacy_path: Option<String>,
    /// Whether it is asked again and again until it is taken. Then the old path is for who says that they do not know
    /// the new one: another time they may answer there, and whoever else answers at the old one has not taken it.
    pub is_insistent: bool,
    /// JSON; empty for none.
    pub body: Bytes,
    pub timeout_ms: u64,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    NoUrl,
    Failed(SendError),
}

/// What may stand in a path's segment as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Asks once, and once more by the old path where the new one is not known.
pub(super) async fn ask(
    cx: &Context,
    appservice: &Appservice,
    question: &Question,
) -> Result<(StatusCode, Bytes), Unanswered> {
    let (status, body) = ask_at(cx, appservice, question, &question.path).await?;
    match &question.legacy_path {
        Some(legacy) if is_unknown(status, &body) && (!question.is_insistent || says_unknown(status)) => {
            // Who knows the old paths only may know tokens in queries only.
            let sign = if legacy.contains('?') { '&' } else { '?' };
            let legacy = format!("{legacy}{sign}access_token={}", segment(appservice.hs_token.expose()));
            ask_at(cx, appservice, question, &legacy).await
        }
        _ => Ok((status, body)),
    }
}

/// Whether an answer says that its path is not known, rather than what was asked for. The specification has every
/// answer that is no success asked again; what an application service denies it denies by its old path as well.
fn is_unknown(status: StatusCode, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Told {
        errcode: String,
    }
    match serde_json::from_slice::<Told>(body) {
        Ok(told) if status.is_client_error() => told.errcode == "M_UNRECOGNIZED",
        _ => !status.is_success(),
    }
}

fn says_unknown(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
}

async fn ask_at(
    cx: &Context,
    appservice: &Appservice,
    question: &Question,
    path: &str,
) -> Result<(StatusCode, Bytes), Unanswered> {
    let url = appservice.url.as_ref().ok_or(Unanswered::NoUrl)?;
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    let authorization = HeaderValue::from_str(&format!("Bearer {}", appservice.hs_token.expose()))
        .map_err(|error| Unanswered::Failed(SendError::Unreachable(format!("hs_token: {error}"))))?;
    headers.insert(header::AUTHORIZATION, authorization);
    if !question.body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let scheme = if url.encrypted { Scheme::Https } else { Scheme::Http };
    let request = OutgoingRequest {
        peer: Peer::of_operator(scheme, &url.host, url.port),
        method: question.method.clone(),
        path_and_query: format!("{}{path}", url.path),
        headers,
        body: question.body.clone(),
        response_bytes_max: ANSWER_BYTES_MAX,
        timeout_ms: question.timeout_ms,
    };
    let outcome = match cx.send(request).await {
        Ok(response) => response.whole().await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok((status, _, body)) => Ok((status, body)),
        Err(error) => {
            tracing::info!(appservice = appservice.id, %error, "an application service does not answer");
            Err(Unanswered::Failed(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::{is_unknown, segment};

    #[test]
    fn an_old_path_is_for_who_does_not_know_the_new_one() {
        for (status, body, expected) in [
            (200, "{}", false),
            (404, r#"{"errcode":"M_NOT_FOUND"}"#, false),
            (404, r#"{"errcode":"COM.EXAMPLE.NOT_FOUND"}"#, false),
            (403, r#"{"errcode":"M_FORBIDDEN"}"#, false),
            (404, r#"{"errcode":"M_UNRECOGNIZED"}"#, true),
            (405, r#"{"errcode":"M_UNRECOGNIZED"}"#, true),
            (404, "<h1>not found</h1>", true),
            (500, r#"{"errcode":"M_UNKNOWN"}"#, true),
            (501, "", true),
        ] {
            assert_eq!(is_unknown(StatusCode::from_u16(status).unwrap(), body.as_bytes()), expected, "{status} {body}");
        }
        assert_eq!(segment("#_irc_a/ü:b.org"), "%23_irc_a%2F%C3%BC%3Ab.org");
    }
}
