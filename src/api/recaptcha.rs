//! Whether somebody is a person, as reCAPTCHA has it. Spec: "Google ReCaptcha".

use bytes::Bytes;
use domain::{Refusal, config::Recaptcha};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use platform::{Fault, OutgoingRequest, Peer, Scheme};
use serde::{Deserialize, Serialize};

use crate::{Context, Failure, federation::USER_AGENT};

/// The largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long it may take, in milliseconds: a person waits.
const TIMEOUT_MS: u64 = 10_000;
/// The longest response of a client, in bytes.
const RESPONSE_BYTES_MAX: usize = 8 * 1024;

/// Whether this is what somebody got for a solved challenge, who did not use it before.
///
/// # Errors
/// 502 where nobody says so.
pub(crate) async fn is_solved(cx: &Context, recaptcha: &Recaptcha, response: &str) -> Result<bool, Failure> {
    #[derive(Serialize)]
    struct Asked<'a> {
        secret: &'a str,
        response: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        remoteip: Option<String>,
    }
    #[derive(Deserialize)]
    struct Told {
        success: bool,
    }
    if response.is_empty() || response.len() > RESPONSE_BYTES_MAX {
        return Ok(false);
    }
    let remoteip = cx.client_address().map(|address| address.0.to_string());
    let asked = Asked { secret: recaptcha.private_key.expose(), response, remoteip };
    let body = serde_html_form::to_string(&asked).map_err(|error| Fault::new(error.to_string()))?;
    let outcome = match cx.send(request(recaptcha, body.into())?).await {
        Ok(response) => response.whole().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let told = outcome.and_then(|(status, _, body)| match serde_json::from_slice::<Told>(&body) {
        Ok(told) if status.is_success() => Ok(told.success),
        _ => Err(format!("it answers {status}")),
    });
    Ok(told.map_err(|error| {
        tracing::warn!(error, "reCAPTCHA does not say who is a person");
        Refusal::OtherServer("Nobody says now whether the captcha is solved: try again later".to_owned())
    })?)
}

fn request(recaptcha: &Recaptcha, body: Bytes) -> Result<OutgoingRequest, Fault> {
    let url: Uri = recaptcha.verify_url.parse().map_err(|_| Fault::new("RECAPTCHA_VERIFY_URL is no URL"))?;
    let scheme = if url.scheme_str() == Some("http") { Scheme::Http } else { Scheme::Https };
    let host = url.host().ok_or_else(|| Fault::new("RECAPTCHA_VERIFY_URL names no host"))?;
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    Ok(OutgoingRequest {
        peer: Peer::of_operator(scheme, host, url.port_u16()),
        method: Method::POST,
        path_and_query: url.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        headers,
        body,
        response_bytes_max: ANSWER_BYTES_MAX,
        timeout_ms: TIMEOUT_MS,
    })
}
