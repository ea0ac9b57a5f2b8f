//! Services that the operator names in the configuration, asked while a person waits.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use platform::{Fault, OutgoingRequest, Peer, Scheme};
use serde::de::DeserializeOwned;

use crate::{Context, federation::USER_AGENT};

/// The largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long it may take, in milliseconds.
const TIMEOUT_MS: u64 = 10_000;
/// Content types of what is asked.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
pub(crate) const JSON: &str = "application/json";

/// A question.
pub(crate) struct Post<'a> {
    /// Of the configuration.
    pub url: &'a str,
    pub content_type: &'static str,
    /// A token that shows who asks.
    pub bearer: Option<&'a str>,
    pub body: Bytes,
}

impl Post<'_> {
    /// Has it taken, whatever is said of that; within, what kept it from being so, to be logged.
    ///
    /// # Errors
    /// As [`Post::asks`].
    pub(crate) async fn delivers(self, cx: &Context) -> Result<Result<(), String>, Fault> {
        let outcome = match cx.send(self.request()?).await {
            Ok(response) => response.whole().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Ok(outcome.and_then(|(status, ..)| match status.is_success() {
            true => Ok(()),
            false => Err(format!("it answers {status}")),
        }))
    }

    /// The answer; within, what kept it from coming, to be logged.
    ///
    /// # Errors
    /// A URL or a token that the configuration should not have let pass.
    pub(crate) async fn asks<T: DeserializeOwned>(self, cx: &Context) -> Result<Result<T, String>, Fault> {
        let outcome = match cx.send(self.request()?).await {
            Ok(response) => response.whole().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Ok(outcome.and_then(|(status, _, body)| match serde_json::from_slice(&body) {
            Ok(answer) if status.is_success() => Ok(answer),
            _ => Err(format!("it answers {status}")),
        }))
    }

    fn request(self) -> Result<OutgoingRequest, Fault> {
        let bad_url = || Fault::new("the configuration has a URL that is none");
        let url: Uri = self.url.parse().map_err(|_| bad_url())?;
        let scheme = if url.scheme_str() == Some("http") { Scheme::Http } else { Scheme::Https };
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(token) = self.bearer {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Fault::new("the configuration has a token that no header can bear"))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(OutgoingRequest {
            peer: Peer::of_operator(scheme, url.host().ok_or_else(bad_url)?, url.port_u16()),
            method: Method::POST,
            path_and_query: url.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            headers,
            body: self.body,
            response_bytes_max: ANSWER_BYTES_MAX,
            timeout_ms: TIMEOUT_MS,
        })
    }
}
