//! Our keys, and those of others that we vouch for. Spec: "Publishing Keys", "Querying Keys Through Another Server".

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::{
    RateLimited, Refusal,
    federation::server_keys::{KeyDocument, Signed, VALID_MS_MAX, own_document},
};
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use ruma_common::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Context, Failure, Routes, failure::json_bytes, metadata::remote_key, router::bad_json};

/// Servers that somebody may ask about at once.
const QUERIED_MAX: usize = 100;
/// Of which so many are looked at at the same time.
const QUERIED_AT_ONCE: usize = 8;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_raw(Method::GET, "/_matrix/key/v2/server", own);
    // A deprecated form names a key; everyone gets all of them.
    routes.add_raw(Method::GET, "/_matrix/key/v2/server/", own);
    routes.add_raw(Method::GET, "/_matrix/key/v2/server/{key_id}", own);
    // Not through ruma's type: it asks a clock of its own for the time.
    routes.add_raw(Method::GET, "/_matrix/key/v2/query/{server_name}", query);
    // Nor this one: a name that is none would spoil it for all others.
    routes.add_raw(Method::POST, "/_matrix/key/v2/query", query_batch);
}

async fn own(cx: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    Ok(json_bytes(StatusCode::OK, own_document(cx.identity(), cx.now_ms()).into()))
}

async fn query(
    cx: &Context,
    (): (),
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Query {
        minimum_valid_until_ts: Option<u64>,
    }
    let invalid = |error: &dyn std::fmt::Display| Refusal::InvalidParam(error.to_string());
    let server = path_args.into_iter().next().unwrap_or_default();
    let server = OwnedServerName::try_from(server).map_err(|error| invalid(&error))?;
    let Query { minimum_valid_until_ts } =
        serde_html_form::from_str(request.uri().query().unwrap_or_default()).map_err(|error| invalid(&error))?;
    let document = vouched(cx, &server, &[], minimum_valid_until_ts.unwrap_or(cx.now_ms())).await?;
    Ok(json_bytes(StatusCode::OK, answer(document.into_iter().collect())?.into()))
}

async fn query_batch(
    cx: &Context,
    (): (),
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Default, Deserialize)]
    struct Criteria {
        minimum_valid_until_ts: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Asked {
        server_keys: BTreeMap<String, BTreeMap<String, Criteria>>,
    }
    let Asked { server_keys } = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    if server_keys.len() > QUERIED_MAX {
        return Err(Refusal::InvalidParam(format!("This server may be asked about {QUERIED_MAX} others")).into());
    }
    let least = |keys: &BTreeMap<String, Criteria>| {
        keys.values().filter_map(|criteria| criteria.minimum_valid_until_ts).max().unwrap_or(cx.now_ms())
    };
    let named =
        server_keys.iter().filter_map(|(name, keys)| Some((<&ServerName>::try_from(name.as_str()).ok()?, keys)));
    let documents = stream::iter(named)
        .map(async |(server, keys)| {
            let key_ids: Vec<&str> = keys.keys().map(String::as_str).collect();
            vouched(cx, server, &key_ids, least(keys)).await
        })
        .buffer_unordered(QUERIED_AT_ONCE);
    let documents: Vec<Result<Option<String>, Failure>> = documents.collect().await;
    let (mut known, mut refusal) = (Vec::new(), None);
    for document in documents {
        match document {
            Ok(document) => known.extend(document),
            // Of the others there may be something.
            Err(Failure::Refused(no)) => refusal = Some(no),
            Err(failure) => return Err(failure),
        }
    }
    match refusal {
        Some(refusal) if known.is_empty() => Err(refusal.into()),
        _ => Ok(json_bytes(StatusCode::OK, answer(known)?.into())),
    }
}

fn answer(documents: Vec<String>) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Answer {
        server_keys: Vec<Box<RawValue>>,
    }
    let server_keys = documents.into_iter().map(RawValue::from_string).collect::<Result<_, _>>()?;
    Ok(serde_json::to_vec(&Answer { server_keys })?)
}

/// What a server published last, with our signature, good until then and with these keys if that can be had. `None` if
/// nothing is known.
async fn vouched(
    cx: &Context,
    server: &ServerName,
    key_ids: &[&str],
    least_ms: u64,
) -> Result<Option<String>, Failure> {
    if server == cx.server_name() {
        return Ok(Some(own_document(cx.identity(), cx.now_ms())));
    }
    let stored = document(cx, server).await?;
    // Spec: "Intermediate notary servers should cache a response for half of its lifetime". No document is good for
    // longer than a week, and none for what it does not say.
    let is_fresh = |(document, fetched_ms): &(KeyDocument, u64)| {
        let lifetime_ms = document.valid_until_ms.saturating_sub(*fetched_ms).min(VALID_MS_MAX);
        document.valid_until_ms >= least_ms
            && cx.now_ms() <= fetched_ms.saturating_add(lifetime_ms / 2)
            && key_ids.iter().all(|key_id| document.names(key_id))
    };
    if let Some((document, _)) = stored.as_ref().filter(|stored| is_fresh(stored)) {
        return Ok(Some(document.signed_by(cx.identity())));
    }
    // Whoever asks too often gets what is stored.
    match cx.limit_by_address(RateLimited::RemoteQueries) {
        Ok(taken) => taken.keep(),
        Err(_) if stored.is_some() => return Ok(stored.map(|(document, _)| document.signed_by(cx.identity()))),
        Err(refusal) => return Err(refusal.into()),
    }
    let current = Signed::Request { now_ms: cx.now_ms() };
    cx.fetch_keys_of(server, &[(String::new(), current)]).await?;
    Ok(document(cx, server).await?.map(|(document, _)| document.signed_by(cx.identity())))
}

/// What a server published last, and when that was fetched.
async fn document(cx: &Context, server: &ServerName) -> Result<Option<(KeyDocument, u64)>, Failure> {
    let stored = remote_key::load(cx.metadata(), server).await?;
    Ok(stored
        .and_then(|stored| Some((KeyDocument::check(stored.document.as_bytes(), server).ok()?, stored.fetched_ms))))
}
