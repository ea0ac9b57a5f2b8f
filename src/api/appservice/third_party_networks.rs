//! Other networks that one can reach from here are those that application services lead to: they are asked, all that
//! lead to a network at once, and who does not answer in time is left out. Spec: "Third-party Networks".

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use domain::{Appservice, Refusal};
use futures_util::{StreamExt, stream};
use http::Method;
use ruma_client_api::thirdparty::{
    get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols, get_user_for_protocol,
    get_user_for_user_id,
};
use ruma_common::thirdparty::{Location, User};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, value::RawValue};

use super::{
    ask::{Question, ask, segment},
    directory::instance_id,
};
use crate::{Caller, Context, Failure, Routes};

/// How long one application service may take, in milliseconds.
const TIMEOUT_MS: u64 = 5_000;
/// Questions at the same time.
const QUESTIONS_AT_ONCE: usize = 16;
/// The most questions that one request makes us ask.
const QUESTIONS_MAX: usize = 100;
/// The most that is found.
const FOUND_MAX: usize = 1_000;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(protocols);
    routes.add_json(protocol);
    routes.add_json(locations);
    routes.add_json(locations_of_alias);
    routes.add_json(users);
    routes.add_json(users_of_id);
}

/// What is asked of an application service, by its path below `thirdparty/` and its query.
struct Lookup<'a> {
    appservice: &'a Appservice,
    path: String,
    query: String,
}

impl<'a> Lookup<'a> {
    fn new(appservice: &'a Appservice, path: String, query: &impl Serialize) -> Result<Self, Refusal> {
        let query = serde_html_form::to_string(query).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
        let query = if query.is_empty() { query } else { format!("?{query}") };
        Ok(Self { appservice, path, query })
    }

    /// What it says, if it answers.
    async fn answer(self, cx: &Context) -> Option<(&'a Appservice, Bytes)> {
        let Self { appservice, path, query } = self;
        let question = Question {
            method: Method::GET,
            path: format!("/_matrix/app/v1/thirdparty/{path}{query}"),
            legacy_path: Some(format!("/_matrix/app/unstable/thirdparty/{path}{query}")),
            is_insistent: false,
            body: Bytes::new(),
            timeout_ms: TIMEOUT_MS,
        };
        let (status, body) = ask(cx, appservice, &question).await.ok()?;
        status.is_success().then_some((appservice, body))
    }
}

/// Whoever can be asked about a network, in the order of their registration.
fn leading_to<'a>(cx: &'a Context, protocol: &str) -> impl Iterator<Item = &'a Appservice> {
    cx.config()
        .appservices
        .iter()
        .filter(move |appservice| appservice.url.is_some() && appservice.has_protocol(protocol))
}

/// What they say, in the order in which they are asked.
async fn answers<'a>(cx: &Context, lookups: Vec<Lookup<'a>>) -> Vec<(&'a Appservice, Bytes)> {
    let asked = lookups.into_iter().take(QUESTIONS_MAX).map(|lookup| lookup.answer(cx));
    stream::iter(asked).buffered(QUESTIONS_AT_ONCE).filter_map(async |answer| answer).collect().await
}

async fn protocols(cx: &Context, _: Caller, _: get_protocols::v3::Request) -> Result<Vec<u8>, Failure> {
    let names: BTreeSet<&str> =
        cx.config().appservices.iter().flat_map(|appservice| &appservice.protocols).map(String::as_str).collect();
    let known = stream::iter(names.into_iter().take(QUESTIONS_MAX))
        .map(async |name| Ok::<_, Failure>((name, described(cx, name).await?)))
        .buffered(QUESTIONS_AT_ONCE);
    let known: Vec<_> = known.collect().await;
    let mut all = BTreeMap::new();
    for outcome in known {
        if let (name, Some(protocol)) = outcome? {
            all.insert(name, protocol);
        }
    }
    Ok(serde_json::to_vec(&all)?)
}

async fn protocol(cx: &Context, _: Caller, request: get_protocol::v3::Request) -> Result<Vec<u8>, Failure> {
    let protocol = described(cx, &request.protocol).await?;
    let unknown = || Refusal::NotFound("This server is not connected to such a network".to_owned());
    Ok(serde_json::to_vec(&protocol.ok_or_else(unknown)?)?)
}

/// What there is to know of a network: of several application services, that of the first, with the instances of all.
async fn described(cx: &Context, protocol: &str) -> Result<Option<Map<String, Value>>, Failure> {
    let path = || format!("protocol/{}", segment(protocol));
    let nothing: [(&str, &str); 0] = [];
    let lookups = leading_to(cx, protocol)
        .map(|appservice| Lookup::new(appservice, path(), &nothing))
        .collect::<Result<_, _>>()?;
    let mut found: Option<Map<String, Value>> = None;
    let mut instances = Vec::new();
    for (appservice, answer) in answers(cx, lookups).await {
        let Ok(mut told) = serde_json::from_slice::<Map<String, Value>>(&answer) else { continue };
        let Some(Value::Array(own)) = told.remove("instances") else { continue };
        for instance in own {
            let Value::Object(mut instance) = instance else { continue };
            let Some(network) = instance.get("network_id").and_then(Value::as_str) else { continue };
            instance.insert("instance_id".to_owned(), instance_id(&appservice.id, network).into());
            instances.push(Value::Object(instance));
        }
        found.get_or_insert(told);
    }
    Ok(found.map(|mut found| {
        found.insert("instances".to_owned(), instances.into());
        found
    }))
}

async fn locations(
    cx: &Context,
    caller: Caller,
    request: get_location_for_protocol::v3::Request,
) -> Result<Vec<u8>, Failure> {
    looked_up::<Location>(cx, &caller, "location", &request.protocol, request.fields).await
}

async fn users(cx: &Context, caller: Caller, request: get_user_for_protocol::v3::Request) -> Result<Vec<u8>, Failure> {
    looked_up::<User>(cx, &caller, "user", &request.protocol, request.fields).await
}

async fn locations_of_alias(
    cx: &Context,
    _: Caller,
    request: get_location_for_room_alias::v3::Request,
) -> Result<Vec<u8>, Failure> {
    reversed::<Location>(cx, "location", &[("alias", request.alias.as_str())]).await
}

async fn users_of_id(cx: &Context, _: Caller, request: get_user_for_user_id::v3::Request) -> Result<Vec<u8>, Failure> {
    reversed::<User>(cx, "user", &[("userid", request.userid.as_str())]).await
}

/// What a network has that fits these fields.
async fn looked_up<T: DeserializeOwned>(
    cx: &Context,
    caller: &Caller,
    kind: &str,
    protocol: &str,
    mut fields: BTreeMap<String, String>,
) -> Result<Vec<u8>, Failure> {
    // The caller's token is not for others to see.
    fields.remove("access_token");
    if caller.acts_for.is_some() {
        // Nor is it part of the question who asks.
        for own in ["user_id", "device_id", "org.matrix.msc3202.device_id"] {
            fields.remove(own);
        }
    }
    let path = || format!("{kind}/{}", segment(protocol));
    let lookups = leading_to(cx, protocol).map(|appservice| Lookup::new(appservice, path(), &fields));
    found::<T>(cx, lookups.collect::<Result<_, _>>()?).await
}

/// What any network knows of a user or an alias of ours.
async fn reversed<T: DeserializeOwned>(cx: &Context, kind: &str, query: &[(&str, &str)]) -> Result<Vec<u8>, Failure> {
    let asked = |appservice: &&Appservice| appservice.url.is_some() && !appservice.protocols.is_empty();
    let lookups = cx.config().appservices.iter().filter(asked);
    let lookups = lookups.map(|appservice| Lookup::new(appservice, kind.to_owned(), &query));
    found::<T>(cx, lookups.collect::<Result<_, _>>()?).await
}

/// All that is found, if it is what it should be.
async fn found<T: DeserializeOwned>(cx: &Context, lookups: Vec<Lookup<'_>>) -> Result<Vec<u8>, Failure> {
    let answers = answers(cx, lookups).await;
    let mut all: Vec<&RawValue> = Vec::new();
    for (_, answer) in &answers {
        let told = serde_json::from_slice::<Vec<&RawValue>>(answer).unwrap_or_default();
        all.extend(told.into_iter().filter(|one| serde_json::from_str::<T>(one.get()).is_ok()));
    }
    all.truncate(FOUND_MAX);
    if all.is_empty() {
        return Err(Refusal::NotFound("No other network knows of this".to_owned()).into());
    }
    Ok(serde_json::to_vec(&all)?)
}
