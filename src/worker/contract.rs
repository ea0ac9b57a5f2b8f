//! For tests only: `POST /_myelin/test/contract` runs `platform`'s contract suites on this host's adapters.
//!
//! A suite needs the runtime around it, so it runs where the adapters do: metadata, clock, chance and calls
//! in the Worker, the database and the alarm in an object of its own.

use api::{Arriving, Services};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header::CONTENT_TYPE};
use platform::{
    ActorKind, Address, Fault, LocalFuture, ObjectHost,
    contract::{self, Outcome},
};
use serde_json::{Value, json};
use worker::Env;

use crate::{
    actors_by_stub::Stubs,
    chance::Runtime,
    js::{self, Storage},
};

/// What the shell of an object runs its suites for.
pub(crate) const CONTRACT_PATH: &str = "contract";

/// Whether a request asks for the suites, and may.
pub(crate) fn is_asked(request: &Request<Arriving>, services: &Services) -> bool {
    request.method() == Method::POST
        && request.uri().path() == "/_myelin/test/contract"
        && api::may_use_test_hooks(request, &services.settings.config)
}

/// Answers every outcome: `[{"name": …, "broken": null or how}]`.
pub(crate) async fn answer(env: &Env, services: &Services) -> Response<Bytes> {
    let mut outcomes = contract::metadata(&*services.metadata).await;
    outcomes.extend(contract::blobs(&*services.blobs, "contract").await);
    outcomes.extend(contract::clock(&Runtime));
    outcomes.extend(contract::random(&Runtime));
    outcomes.extend(contract::actors(&*services.actors, &Address::new(ActorKind::User, "contract stranger")).await);
    let mut all: Vec<Value> = outcomes.iter().map(to_json).collect();
    let object = Address::new(ActorKind::Appservice, "contract");
    let of_object = Stubs::new(env.clone()).post(&object, CONTRACT_PATH, b"").await;
    match of_object.and_then(|bytes| Ok(serde_json::from_slice::<Vec<Value>>(&bytes)?)) {
        Ok(outcomes) => all.extend(outcomes),
        Err(fault) => all.push(json!({ "name": "an object runs its suites", "broken": fault.to_string() })),
    }
    let mut response = Response::new(Value::Array(all).to_string().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Runs the suites of an object, and answers their outcomes as JSON.
pub(crate) async fn of_object(host: &dyn ObjectHost, storage: &Storage) -> String {
    let mut outcomes = contract::sql_of(host.sql());
    let armed = || -> LocalFuture<'_, Result<Option<u64>, Fault>> { Box::pin(js::armed_ms(storage.alarm())) };
    outcomes.extend(contract::object_host(host, &armed).await);
    Value::Array(outcomes.iter().map(to_json).collect()).to_string()
}

fn to_json(outcome: &Outcome) -> Value {
    json!({ "name": outcome.name, "broken": outcome.result.as_ref().err() })
}
