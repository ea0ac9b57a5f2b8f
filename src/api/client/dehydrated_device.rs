//! Spec: MSC3814, "Dehydrated Devices with SSSS".

use std::collections::BTreeMap;

use actors::user::{
    DehydratedEvents, DeleteDehydratedDevice, GetDehydratedDevice, GetDehydratedEvents, PutDehydratedDevice,
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::dehydrated_device::{
    delete_dehydrated_device::unstable as delete, get_dehydrated_device::unstable as get,
    get_events::unstable as events, put_dehydrated_device::unstable as put,
};
use ruma_common::{OwnedDeviceId, OwnedOneTimeKeyId, encryption::OneTimeKey, serde::Raw};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{Bearer, Context, Failure, Routes, failure, router::query};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried(put);
    routes.add_carried_json(get);
    routes.add_carried(delete);
    routes.add_carried_json(events);
    let path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events";
    routes.add_raw(Method::GET, path, events_from);
}

async fn put(cx: &Context, bearer: Bearer, request: put::Request) -> Result<put::Response, Failure> {
    let keys = |keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>| -> BTreeMap<String, Box<RawValue>> {
        keys.into_iter().map(|(name, key)| (name.to_string(), key.into_json())).collect()
    };
    let call = PutDehydratedDevice {
        token_hash: bearer.token_hash.clone(),
        device_id: request.device_id.clone(),
        data: request.device_data.into_json(),
        display_name: request.initial_device_display_name,
        device_keys: request.device_keys.into_json(),
        one_time_keys: keys(request.one_time_keys),
        fallback_keys: keys(request.fallback_keys),
    };
    bearer.call(cx, &call).await?;
    Ok(put::Response::new(request.device_id))
}

async fn get(cx: &Context, bearer: Bearer, _: get::Request) -> Result<Vec<u8>, Failure> {
    let device = bearer.call(cx, &GetDehydratedDevice { token_hash: bearer.token_hash.clone() }).await?;
    Ok(serde_json::to_vec(&json!({ "device_id": device.device_id, "device_data": device.data }))?)
}

/// Which device it is comes first, so that deleting it may be repeated.
async fn delete(cx: &Context, bearer: Bearer, _: delete::Request) -> Result<delete::Response, Failure> {
    let device = bearer.call(cx, &GetDehydratedDevice { token_hash: bearer.token_hash.clone() }).await?;
    let device_id = device.device_id;
    let call = DeleteDehydratedDevice { token_hash: bearer.token_hash.clone(), device_id: device_id.clone() };
    bearer.call(cx, &call).await?;
    Ok(delete::Response::new(device_id))
}

/// As older drafts have it, and clients of them: a page always has a `next_batch`, and an empty one is the last.
async fn events(cx: &Context, bearer: Bearer, request: events::Request) -> Result<Vec<u8>, Failure> {
    let events::Request { device_id, next_batch, .. } = request;
    let DehydratedEvents { events, next_batch, more: _ } = page(cx, &bearer, device_id, next_batch).await?;
    Ok(serde_json::to_vec(&json!({ "events": events, "next_batch": next_batch }))?)
}

/// As newer drafts have it: the last page has no `next_batch`.
async fn events_from(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct From {
        from: Option<String>,
    }
    let From { from } = query(&request)?;
    let device_id = path_args.into_iter().next().unwrap_or_default().into();
    let DehydratedEvents { events, next_batch, more } = page(cx, &bearer, device_id, from).await?;
    let mut answer = json!({ "events": events });
    if let Some(answer) = answer.as_object_mut().filter(|_| more) {
        answer.insert("next_batch".to_owned(), next_batch.into());
    }
    Ok(failure::json(StatusCode::OK, &answer))
}

async fn page(
    cx: &Context,
    bearer: &Bearer,
    device_id: OwnedDeviceId,
    next_batch: Option<String>,
) -> Result<DehydratedEvents, Failure> {
    bearer.call(cx, &GetDehydratedEvents { token_hash: bearer.token_hash.clone(), device_id, next_batch }).await
}
