//! HTTP with JSON, with or without an access token.

use std::{io::Read, time::Duration};

use serde_json::Value;
use ureq::{
    Agent, SendBody,
    http::{HeaderMap, Request, Response, request},
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
        Self { agent: agent(ANSWER_WITHIN, 0), base_url: base_url.to_owned(), authorization: None, address: None }
    }

    /// Keeps a connection for the next request, one of its own, and waits this long for an answer.
    pub fn lasting(&self, within: Duration) -> Self {
        Self { agent: agent(within, 1), ..self.clone() }
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
        let headers: &[_] = if body.is_some() { &[("Content-Type", "application/json")] } else { &[] };
        self.try_send_bytes(method, path, headers, body.map(String::into_bytes))
    }

    /// Sends any bytes, with these headers and no others of ours.
    pub fn send_bytes(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) -> Answer {
        self.try_send_bytes(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends what comes, without saying how long it will be.
    pub fn send_chunks(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Read) -> Answer {
        let answered = self.try_send_chunks(method, path, headers, body);
        answered.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Like [`Client::send_chunks`], for bodies that break off.
    pub fn try_send_chunks(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        mut body: impl Read,
    ) -> Result<Answer, ureq::Error> {
        let request = self.request(method, path, headers).body(SendBody::from_reader(&mut body))?;
        read(format!("{method} {path}"), self.agent.run(request)?)
    }

    fn try_send_bytes(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, ureq::Error> {
        let request = self.request(method, path, headers);
        let response = match body {
            None => self.agent.run(request.body(())?)?,
            Some(body) => self.agent.run(request.body(body)?)?,
        };
        read(format!("{method} {path}"), response)
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> request::Builder {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base_url));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        if let Some(address) = &self.address {
            let known = address.rsplit(',').next().unwrap_or_default().trim();
            request = request.header("X-Forwarded-For", address).header("CF-Connecting-IP", known);
        }
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }
}

fn agent(within: Duration, idle_connections: usize) -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).max_redirects(0);
    let config = config.timeout_global(Some(within)).max_idle_connections(idle_connections);
    config.build().new_agent()
}

fn read(request: String, mut response: Response<ureq::Body>) -> Result<Answer, ureq::Error> {
    let headers: HeaderMap = response.headers().clone();
    let status = response.status().as_u16();
    let bytes = response.body_mut().with_config().limit(64 << 20).read_to_vec()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(Answer { request, status, headers, body, text, bytes })
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
