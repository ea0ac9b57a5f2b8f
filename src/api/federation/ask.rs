//! Asks other servers, and signs what is asked. Spec: "Request Authentication".

use actors::destination::IsUp;
use bytes::Bytes;
use domain::federation::{discovery::Route, x_matrix::SignedRequest};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use platform::{OutgoingRequest, OutgoingResponse, Peer, Scheme, SendError};
use ruma_common::{
    ServerName,
    api::{
        IncomingResponse, IncomingResponseExt as _, Metadata, OutgoingBody as _, OutgoingRequest as Outgoing,
        path_builder::PathBuilder,
    },
};
use ruma_federation_api::authentication::ServerSignatures;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{Context, Failure};

/// Of several places where a server may be, so many are tried.
const ROUTES_TRIED_MAX: usize = 3;
/// Who had less time to answer than this, in milliseconds, is not down for it.
const FAIR_MS: u64 = 5_000;
/// The largest answer of a server that refuses, in bytes.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// How long a server is left alone that is asked too much and does not say how long, and at most, in milliseconds.
const RETRY_AFTER_MS: u64 = 5_000;
const RETRY_AFTER_MS_MAX: u64 = 3_600_000;

/// How we call ourselves.
pub(super) const NAME: &str = "Myelin";
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(crate) const USER_AGENT: &str = concat!("Myelin/", env!("CARGO_PKG_VERSION"));

/// How much of an answer is taken, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub response_bytes_max: usize,
    /// For everything but finding out where the server is.
    pub timeout_ms: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { response_bytes_max: 8 * 1024 * 1024, timeout_ms: 30_000 }
    }
}

/// Why another server did not do what it was asked. Texts are for logs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AskError {
    /// It is one that we do not talk to, or we ourselves.
    #[error("it is not asked")]
    Denied,
    /// It was not reached, or did not answer in time. It may have done what it was asked.
    #[error("it does not answer: {0}")]
    Unreachable(String),
    /// It said no.
    #[error("it answers {status} {errcode}: {message}")]
    Refused {
        status: StatusCode,
        errcode: String,
        message: String,
        /// What it said besides.
        body: Map<String, Value>,
    },
    /// What it answers is larger than is taken.
    #[error("its answer is too large")]
    TooLarge,
    /// What it answers makes no sense.
    #[error("it answers nonsense: {0}")]
    Nonsense(String),
    /// It was not asked: what it was to be asked with cannot be written, or not be signed.
    #[error("our own request is none: {0}")]
    Unwritable(String),
}

impl AskError {
    /// After how many milliseconds a server is to be asked again that is asked too much; nothing where it is not that.
    pub(super) fn retry_after_ms(&self) -> Option<u64> {
        match self {
            AskError::Refused { status, body, .. } if *status == StatusCode::TOO_MANY_REQUESTS => {
                let said = body.get("retry_after_ms").and_then(Value::as_u64);
                Some(said.unwrap_or(RETRY_AFTER_MS).min(RETRY_AFTER_MS_MAX))
            }
            _ => None,
        }
    }
}

impl From<SendError> for AskError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Unreachable(_) | SendError::TimedOut | SendError::PrivateAddress => {
                AskError::Unreachable(error.to_string())
            }
            SendError::TooLarge(_) => AskError::TooLarge,
            SendError::Nonsense(_) => AskError::Nonsense(error.to_string()),
        }
    }
}

fn unwritable(error: &dyn std::fmt::Display) -> AskError {
    AskError::Unwritable(error.to_string())
}

/// A request to another server, before it is known where that is.
pub(super) struct Asking<'a> {
    pub destination: &'a ServerName,
    pub method: Method,
    pub path_and_query: &'a str,
    pub content: Bytes,
    pub is_signed: bool,
    pub bounds: Bounds,
}

impl Context {
    /// Asks another server, with our signature.
    ///
    /// # Errors
    /// [`AskError`]: whatever kept it from doing so.
    pub async fn ask<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, AskError>
    where
        R: Outgoing + Metadata<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.ask_within(destination, request, Bounds::default()).await
    }

    /// As [`Context::ask`], within other bounds.
    ///
    /// # Errors
    /// [`AskError`]: whatever kept it from doing so.
    pub async fn ask_within<R>(
        &self,
        destination: &ServerName,
        request: R,
        bounds: Bounds,
    ) -> Result<R::IncomingResponse, AskError>
    where
        R: Outgoing + Metadata<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        // The host is added by whoever finds out where the server is.
        let written = request.try_into_http_request_inner("https://host", ()).map_err(|error| unwritable(&error))?;
        let (head, body) = written.into_parts();
        let content: Vec<u8> = body.try_into_buf().map_err(|error| unwritable(&error.into()))?;
        let path_and_query = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let asking = Asking {
            destination,
            method: head.method,
            path_and_query: &path_and_query,
            content: content.into(),
            is_signed: true,
            bounds,
        };
        let (status, body) = whole(self.exchange(asking).await?).await?;
        let mut response = Response::new(&*body);
        *response.status_mut() = status;
        parsed::<R::IncomingResponse>(response)
    }

    /// Asks another server what ruma does not model, with our signature, and answers what it said if that was no
    /// refusal.
    ///
    /// # Errors
    /// [`AskError`]: whatever kept it from doing so.
    pub async fn ask_raw(
        &self,
        destination: &ServerName,
        method: Method,
        path_and_query: &str,
        content: Option<Box<RawValue>>,
        bounds: Bounds,
    ) -> Result<(StatusCode, Bytes), AskError> {
        whole(self.ask_streamed(destination, method, path_and_query, content, bounds).await?).await
    }

    /// As [`Context::ask_raw`], for an answer that is taken as it arrives.
    ///
    /// # Errors
    /// [`AskError`]: whatever kept it from doing so.
    pub async fn ask_streamed(
        &self,
        destination: &ServerName,
        method: Method,
        path_and_query: &str,
        content: Option<Box<RawValue>>,
        bounds: Bounds,
    ) -> Result<OutgoingResponse, AskError> {
        let content = content.map(|content| Bytes::from(String::from(Box::<str>::from(content)))).unwrap_or_default();
        self.exchange(Asking { destination, method, path_and_query, content, is_signed: true, bounds }).await
    }

    /// A server answers, or asks us something: what waits for it is tried at once.
    ///
    /// # Errors
    /// A fault of its Destination.
    pub(super) async fn hears_of(&self, server: &ServerName) -> Result<(), Failure> {
        if self.known_servers().is_up(server, self.now_ms()) {
            match self.call(server.as_str(), &IsUp {}).await {
                Ok(()) | Err(Failure::Absent) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Asks one server at whichever of its places answers.
    pub(super) async fn exchange(&self, asking: Asking<'_>) -> Result<OutgoingResponse, AskError> {
        let destination = asking.destination;
        if destination == self.server_name() || !self.config().federation.allows(destination) {
            return Err(AskError::Denied);
        }
        // Some hosts would write this character differently, and then the signature would be of another request.
        let path_and_query = asking.path_and_query.replace('^', "%5E");
        let headers = self.headers(&asking, &path_and_query)?;
        let timeout_ms = self.in_time(asking.bounds.timeout_ms);
        let until_ms = self.now_ms().saturating_add(timeout_ms);
        let mut failure = AskError::Unreachable("it is nowhere".to_owned());
        for route in self.routes_to(destination).await.into_iter().take(ROUTES_TRIED_MAX) {
            let request = OutgoingRequest {
                peer: peer(route),
                method: asking.method.clone(),
                path_and_query: path_and_query.clone(),
                headers: headers.clone(),
                body: asking.content.clone(),
                response_bytes_max: asking.bounds.response_bytes_max,
                timeout_ms: until_ms.saturating_sub(self.now_ms()),
            };
            match self.send(request).await {
                Ok(response) => {
                    if let Err(failure) = self.hears_of(destination).await {
                        // What waits for it is tried again anyway, later.
                        tracing::error!(%destination, failure = %failure.into_fault(), "nobody was told that a server is up");
                    }
                    let is_done = response.status.is_success();
                    return if is_done { Ok(response) } else { Err(refused(response).await) };
                }
                // It answers, and with more than enough.
                Err(SendError::TooLarge(_)) => return Err(AskError::TooLarge),
                Err(error) => {
                    let may_be_elsewhere = matches!(error, SendError::Unreachable(_) | SendError::PrivateAddress);
                    failure = error.into();
                    if !may_be_elsewhere {
                        break;
                    }
                }
            }
        }
        if timeout_ms < FAIR_MS.min(asking.bounds.timeout_ms) {
            return Err(failure);
        }
        // It may have moved.
        self.known_servers().was_not_there(destination.host());
        self.known_servers().did_not_answer(destination, self.now_ms());
        Err(failure)
    }

    fn headers(&self, asking: &Asking<'_>, path_and_query: &str) -> Result<HeaderMap, AskError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if !asking.content.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if asking.is_signed {
            let signed =
                SignedRequest { method: asking.method.as_str(), uri: path_and_query, content: &asking.content };
            let authorization = signed.authorization(self.identity(), asking.destination);
            let authorization = authorization.map_err(|error| unwritable(&error))?;
            let authorization = HeaderValue::from_str(&authorization).map_err(|error| unwritable(&error))?;
            headers.insert(header::AUTHORIZATION, authorization);
        }
        Ok(headers)
    }
}

fn peer(route: Route) -> Peer {
    Peer {
        scheme: Scheme::Https,
        host: route.host,
        port: route.port,
        certificate_name: route.certificate_name,
        host_header: route.host_header,
        is_operators_word: false,
    }
}

pub(super) async fn whole(response: OutgoingResponse) -> Result<(StatusCode, Bytes), AskError> {
    let (status, _, body) = response.whole().await?;
    Ok((status, body))
}

fn parsed<R: IncomingResponse>(response: Response<&[u8]>) -> Result<R, AskError> {
    R::try_from_http_response(response).map_err(|_| AskError::Nonsense("not what was asked for".to_owned()))
}

/// What a server that did not do it says.
async fn refused(mut response: OutgoingResponse) -> AskError {
    #[derive(Deserialize)]
    struct Told {
        errcode: String,
        #[serde(default)]
        error: String,
        #[serde(flatten)]
        body: Map<String, Value>,
    }
    let status = response.status;
    let mut body = Vec::new();
    while let Some(Ok(piece)) = futures_util::StreamExt::next(&mut response.body).await {
        body.extend_from_slice(&piece);
        if body.len() > REFUSAL_BYTES_MAX {
            return AskError::Nonsense(format!("{status} with too many words"));
        }
    }
    match serde_json::from_slice::<Told>(&body) {
        Ok(Told { errcode, error, body }) => AskError::Refused { status, errcode, message: error, body },
        // A proxy's, in front of the server.
        Err(_) if status == StatusCode::PAYLOAD_TOO_LARGE => AskError::Refused {
            status,
            errcode: "M_TOO_LARGE".to_owned(),
            message: "a proxy finds it too large".to_owned(),
            body: Map::new(),
        },
        // A proxy in front of a server that is down.
        Err(_) if status.is_server_error() => AskError::Unreachable(format!("{status}")),
        Err(_) => AskError::Nonsense(format!("{status} that is not Matrix's")),
    }
}
