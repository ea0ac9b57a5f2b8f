//! HTTP with JSON, with or without an access token.

use std::time::Duration;

use serde_json::Value;
use ureq::{
    Agent,
    http::{HeaderMap, Request},
};

use crate::Answer;

/// Longer than any long-poll of the tests; a server that takes this long is broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Speaks to one server.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    base_url: String,
    authorization: Option<String>,
    address: Option<String>,
}

impl Client {
    pub fn new(base_url: &str) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_WITHIN))
            .max_idle_connections(0)
            .max_redirects(0)
            .build()
            .new_agent();
        Self { agent, base_url: base_url.to_owned(), authorization: None, address: None }
    }

    pub fn with_token(&self, token: &str) -> Self {
        self.with_authorization(&format!("Bearer {token}"))
    }

    /// Sends this `Authorization` header.
    pub fn with_authorization(&self, authorization: &str) -> Self {
        Self { authorization: Some(authorization.to_owned()), ..self.clone() }
    }

    /// Speaks from this internet address, as the platform says on Workers and a proxy on our side natively; what is
    /// before a comma is only claimed.
    pub fn from_address(&self, address: &str) -> Self {
        Self { address: Some(address.to_owned()), ..self.clone() }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None)
    }

    pub fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body.to_string()))
    }

    pub fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body.to_string()))
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None)
    }

    /// Sends a body as it is, JSON or not.
    pub fn send(&self, method: &str, path: &str, body: Option<String>) -> Answer {
        self.try_send(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Like [`Client::send`], for servers that may be dead.
    pub fn try_send(&self, method: &str, path: &str, body: Option<String>) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base_url));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        if let Some(address) = &self.address {
            let known = address.rsplit(',').next().unwrap_or_default().trim();
            request = request.header("X-Forwarded-For", address).header("CF-Connecting-IP", known);
        }
        let mut response = match body {
            None => self.agent.run(request.body(())?)?,
            Some(body) => self.agent.run(request.header("Content-Type", "application/json").body(body)?)?,
        };
        let headers: HeaderMap = response.headers().clone();
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string()?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Answer { request: format!("{method} {path}"), status, headers, body, text })
    }
}

/// Percent-encodes one path segment or query value.
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// A query string, `?` included, of the pairs given.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    format!("?{}", pairs.join("&"))
}
