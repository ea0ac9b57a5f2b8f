//! What operators and tests ask: is it up, what did it cost, forget what you know.

use bytes::Bytes;
use domain::{Config, Refusal};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use platform::{ActorKind, Address, Peer, Scheme, contract, meter};
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq;

use crate::{Context, Failure, Routes, failure, media, router::bad_json};

pub(crate) fn routes(routes: &mut Routes, config: &Config) {
    routes.add_raw(Method::GET, "/health", health);
    if config.metrics {
        routes.add_raw(Method::GET, "/metrics", metrics);
    }
    if config.test_hooks {
        routes.add_raw(Method::POST, "/_myelin/test/evict", evict);
        routes.add_raw(Method::POST, "/_myelin/test/outgoing", outgoing);
        routes.add_raw(Method::POST, "/_myelin/test/tend", tend);
    }
}

/// The server started, so it has its settings and its database.
async fn health(_: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    Ok(failure::json(StatusCode::OK, &json!({ "status": "ok" })))
}

async fn metrics(_: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let mut response = Response::new(meter::render().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    Ok(response)
}

/// Whether hooks for tests are on and the request carries REGISTRATION_SHARED_SECRET as its bearer token: hooks write
/// to the server's databases. To anybody else they do not exist.
pub fn may_use_test_hooks<B>(request: &Request<B>, config: &Config) -> bool {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    match (&config.registration_shared_secret, given) {
        (Some(secret), Some(given)) if config.test_hooks => secret.expose().as_bytes().ct_eq(given).into(),
        _ => false,
    }
}

/// An actor that shall forget what it has in memory.
#[derive(Deserialize)]
struct Evict {
    kind: String,
    id: String,
}

async fn evict(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    if !may_use_test_hooks(&request, cx.config()) {
        return Err(Refusal::Unrecognized { status: 404 }.into());
    }
    let Evict { kind, id } = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let kind: ActorKind = kind.parse().map_err(|_| Refusal::InvalidParam("There is no such kind".to_owned()))?;
    cx.services().actors.evict(&Address::new(kind, id)).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

/// A server to run the contract of `platform::Outgoing` with.
#[derive(Deserialize)]
struct Other {
    host: String,
    port: u16,
    certificate_name: String,
    host_header: String,
    nobody: u16,
}

/// Answers every outcome: `[{"name": …, "broken": null or how}]`.
async fn outgoing(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    if !may_use_test_hooks(&request, cx.config()) {
        return Err(Refusal::Unrecognized { status: 404 }.into());
    }
    let Other { host, port, certificate_name, host_header, nobody } =
        serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let peer = Peer { scheme: Scheme::Https, host, port, certificate_name, host_header, is_operators_word: false };
    let outcomes = contract::outgoing(&*cx.services().outgoing, &peer, nobody).await;
    let outcomes = outcomes.iter().map(|one| json!({ "name": one.name, "broken": one.result.as_ref().err() }));
    Ok(failure::json(StatusCode::OK, &outcomes.collect::<Vec<_>>()))
}

/// Does now what the host does from time to time.
async fn tend(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    if !may_use_test_hooks(&request, cx.config()) {
        return Err(Refusal::Unrecognized { status: 404 }.into());
    }
    media::tend::tend(cx.services()).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};
    use platform::{ActorKind, Address};
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    #[test]
    fn hooks_and_metrics_are_there_when_asked_for() {
        let plain = TestServer::new(&[]);
        let alice = json!({ "kind": "user", "id": "@alice:localhost" });
        assert_eq!(refused(plain.get("/metrics", "")), (404, "M_UNRECOGNIZED".to_owned()));
        assert_eq!(refused(plain.post("/_myelin/test/evict", "", &alice)), (404, "M_UNRECOGNIZED".to_owned()));

        let open = TestServer::new(&[("TEST_HOOKS", "on")]);
        assert_eq!(refused(open.post("/_myelin/test/evict", "", &alice)), (404, "M_UNRECOGNIZED".to_owned()));

        let pairs = [("METRICS", "on"), ("TEST_HOOKS", "on"), ("REGISTRATION_SHARED_SECRET", "open sesame")];
        let server = TestServer::new(&pairs);
        assert_eq!(server.get("/health", "").0, StatusCode::OK);
        let metrics = server.answer(Request::get("/metrics").body("".into()).unwrap());
        assert!(std::str::from_utf8(metrics.body()).unwrap().contains("myelin_http_requests_total"));
        for token in ["", "open", "open sesame!"] {
            assert_eq!(refused(server.post("/_myelin/test/evict", token, &alice)), (404, "M_UNRECOGNIZED".to_owned()));
        }
        assert_eq!(server.post("/_myelin/test/evict", "open sesame", &alice), (StatusCode::OK, json!({})));
        assert_eq!(server.evicted(), [Address::new(ActorKind::User, "@alice:localhost")]);
        let wrong = json!({ "kind": "ghost", "id": "x" });
        assert_eq!(
            refused(server.post("/_myelin/test/evict", "open sesame", &wrong)),
            (400, "M_INVALID_PARAM".to_owned())
        );
    }
}
