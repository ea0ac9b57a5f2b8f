//! The stateless request tier: HTTP in, calls to actors, HTTP out. The same on both hosts.
//!
//! In scope: routing from ruma's metadata, authentication, parsing, waiting, answers. Out of scope: deciding
//! anything about rooms or users (actors do), sockets and TLS (hosts do).

mod access_token;
mod admin;
mod appservice;
mod authenticate;
mod body;
mod client;
mod client_address;
mod context;
mod credentials;
mod failure;
mod federation;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guest_access;
mod html;
mod identity_server;
mod mail;
mod media;
mod metadata;
mod named_service;
mod new_login;
mod notices;
mod operator;
mod password;
mod push;
mod rate_limits;
mod recaptcha;
mod recent;
mod router;
mod sealed;
mod shift;
mod suspension;
mod uiaa;
mod well_known;

#[cfg(test)]
mod testing;

use std::{rc::Rc, sync::Arc};

use actors::Settings;
use bytes::Bytes;
use domain::{Config, Refusal, appservice::SIGIL};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use platform::{Actors, Blobs, Clock, Fault, Heavy, Metadata, Outgoing, Random, meter};
use tracing::{Instrument, debug, error, field::Empty, info_span};

pub use appservice::{ActsFor, OfAppservice};
pub use authenticate::{Bearer, Caller, Who};
pub use body::{Arriving, BODY_BYTES_MAX, Body, Unread};
pub use client_address::ClientAddress;
pub use context::{Context, Handle, RoomHandle, UserHandle};
pub use failure::{Failure, OrAbsent};
pub use federation::{AskError, Bounds, KnownServers, NeededKey, Origin, ServerKeys};
pub use media::MediaTurns;
pub use metadata::{import_signing_key, load_settings};
pub use operator::may_use_test_hooks;
pub use rate_limits::RateLimits;
pub use router::{JsonBytes, Routes};

use router::Found;

/// What a host supplies to the request tier.
#[derive(Clone)]
pub struct Services {
    pub actors: Rc<dyn Actors>,
    pub metadata: Rc<dyn Metadata>,
    /// Where media lies.
    pub blobs: Rc<dyn Blobs>,
    pub clock: Rc<dyn Clock>,
    pub random: Rc<dyn Random>,
    pub heavy: Rc<dyn Heavy>,
    pub settings: Rc<Settings>,
    pub rate_limits: Arc<RateLimits>,
    pub outgoing: Rc<dyn Outgoing>,
    pub known_servers: Arc<KnownServers>,
    pub media_turns: Arc<MediaTurns>,
    /// How long a carrier may take in all, in milliseconds, where the host ends it then.
    pub carrier_ms_max: Option<u64>,
}

/// Names the request in our logs, for whoever reports a problem.
const REQUEST_ID: &str = "x-request-id";

/// The homeserver's HTTP interface.
pub struct Server {
    services: Rc<Services>,
    routes: Rc<Routes>,
}

/// Whether a request goes on when its client leaves. One that may change something does, so that it is not another
/// server alone that knows of a join, or of an invitation; one that only reads, or waits, ends there.
pub fn is_seen_through(method: &Method) -> bool {
    !method.is_safe()
}

/// Every endpoint that the configuration allows. A host whose services live for one request makes this once.
pub fn routes(config: &Config) -> Rc<Routes> {
    let mut routes = Routes::default();
    client::routes(&mut routes, config);
    appservice::routes(&mut routes);
    if config.mail.is_some() {
        mail::validation::routes(&mut routes);
        push::routes(&mut routes);
    }
    media::routes(&mut routes);
    well_known::routes(&mut routes, config);
    federation::routes_for_services(&mut routes);
    if config.federation.is_on {
        federation::routes(&mut routes);
    }
    operator::routes(&mut routes, config);
    admin::routes(&mut routes, config);
    Rc::new(routes)
}

impl Server {
    pub fn new(services: Services, routes: Rc<Routes>) -> Self {
        Self { services: Rc::new(services), routes }
    }

    /// Does what has to be done from time to time. Hosts call this every ten minutes or so; any number of them may.
    ///
    /// # Errors
    /// The metadata database or the store of media does not answer: the next time takes it up.
    pub async fn tend(&self) -> Result<(), Fault> {
        media::tend::tend(&self.services).await
    }

    /// Answers one request. Never fails: what breaks is logged and shown as a plain 500.
    ///
    /// Dropping the future (the client went away) is always safe.
    pub async fn answer(&self, request: Request<Arriving>) -> Response<Body> {
        meter::REQUESTS.add(1);
        if request.method() == Method::OPTIONS {
            // Spec: "Web browser clients".
            let mut response = Response::new(Body::from(Bytes::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            allow_any_origin(response.headers_mut());
            return response;
        }
        let request_id = self.request_id();
        let found = self.routes.find(request.method(), request.uri().path());
        let pattern = match &found {
            Ok(Found::Route(route, _)) => route.pattern,
            Ok(Found::WrongMethod | Found::Nothing) | Err(_) => "",
        };
        let method = request.method().clone();
        let span = info_span!("request", request_id = &*request_id, %method, route = pattern, status = Empty, duration_ms = Empty);
        self.respond(request, request_id, found).instrument(span).await
    }

    /// Does for an actor what has to do with others: carries out of this server what a Destination, which has the other
    /// server's name, has for that server, a User for their push gateways, and an Appservice; fetches what a Room
    /// lacks. A host does so when the actor asks for it.
    pub async fn carry(&self, actor: &str) {
        let request_id = self.request_id();
        let span = info_span!("carry", request_id = &*request_id, actor);
        let cx = Context::of_carrier(self.services.clone(), request_id);
        if actor.starts_with('@') {
            push::carry(&cx, actor).instrument(span).await;
        } else if actor.starts_with('!') {
            federation::fetcher::fetch(&cx, actor).instrument(span).await;
        } else if actor.starts_with(SIGIL) {
            appservice::carry(&cx, actor).instrument(span).await;
        } else {
            federation::carrier::carry(&cx, actor).instrument(span).await;
        }
    }

    async fn respond(
        &self,
        request: Request<Arriving>,
        request_id: Rc<str>,
        found: Result<Found, Refusal>,
    ) -> Response<Body> {
        let started_ms = self.services.clock.now_ms();
        let is_head = request.method() == Method::HEAD;
        let client_address = request.extensions().get().copied();
        let cx = Context::new(self.services.clone(), request_id.clone(), client_address);
        let outcome = match found {
            Ok(Found::Route(route, path_args)) => (route.endpoint)(&cx, request, path_args).await,
            Ok(Found::WrongMethod) => Err(Refusal::Unrecognized { status: 405 }.into()),
            Ok(Found::Nothing) => Err(Refusal::Unrecognized { status: 404 }.into()),
            Err(refusal) => Err(refusal.into()),
        };
        let mut response = outcome.unwrap_or_else(|failure| {
            if let Failure::Fault(fault) = &failure {
                meter::FAULTS.add(1);
                error!(%fault, "a request failed");
            }
            failure.response().map(Body::from)
        });
        if is_head {
            if let Body::Whole(body) = response.body() {
                let length = HeaderValue::from(body.len());
                response.headers_mut().insert(header::CONTENT_LENGTH, length);
            }
            *response.body_mut() = Bytes::new().into();
        }
        allow_any_origin(response.headers_mut());
        if let Ok(request_id) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(REQUEST_ID, request_id);
        }
        let duration_ms = self.services.clock.now_ms().saturating_sub(started_ms);
        let span = tracing::Span::current();
        span.record("status", response.status().as_u16());
        span.record("duration_ms", duration_ms);
        debug!(status = response.status().as_u16(), duration_ms, "answered");
        response
    }

    fn request_id(&self) -> Rc<str> {
        let mut bytes = [0; 8];
        // Without chance the request fails where it needs some; its name does not matter then.
        let _ = self.services.random.fill(&mut bytes);
        format!("{:016x}", u64::from_be_bytes(bytes)).into()
    }
}

/// Lets any web page use the API; it carries no ambient credentials. Spec: "Web browser clients".
fn allow_any_origin(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("X-Requested-With, Content-Type, Authorization"),
    );
}
