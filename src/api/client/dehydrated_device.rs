//! Spec: MSC3814, "Dehydrated Devices with SSSS".

use std::collections::BTreeMap;

use actors::user::{
    DehydratedDevice, DehydratedEvents, DeleteDehydratedDevice, GetDehydratedDevice, GetDehydratedEvents,
    PutDehydratedDevice, ToDeviceMessage,
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::dehydrated_device::{
    delete_dehydrated_device::unstable as delete, get_dehydrated_device::unstable as get,
    get_events::unstable as events, put_dehydrated_device::unstable as put,
};
use ruma_common::{OwnedDeviceId, OwnedOneTimeKeyId, encryption::OneTimeKey, serde::Raw};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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
    #[derive(Serialize)]
    struct Shown {
        device_id: OwnedDeviceId,
        device_data: Box<RawValue>,
    }
    let call = GetDehydratedDevice { token_hash: bearer.token_hash.clone() };
    let DehydratedDevice { device_id, data: device_data } = bearer.call(cx, &call).await?;
    Ok(serde_json::to_vec(&Shown { device_id, device_data })?)
}

/// Which device it is comes first, so that deleting it may be repeated.
async fn delete(cx: &Context, bearer: Bearer, _: delete::Request) -> Result<delete::Response, Failure> {
    let device = bearer.call(cx, &GetDehydratedDevice { token_hash: bearer.token_hash.clone() }).await?;
    let device_id = device.device_id;
    let call = DeleteDehydratedDevice { token_hash: bearer.token_hash.clone(), device_id: device_id.clone() };
    bearer.call(cx, &call).await?;
    Ok(delete::Response::new(device_id))
}

/// A page of messages as it is shown.
#[derive(Serialize)]
struct Page {
    events: Vec<ToDeviceMessage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// As older drafts have it, and clients of them: a page always has a `next_batch`, and an empty one is the last.
async fn events(cx: &Context, bearer: Bearer, request: events::Request) -> Result<Vec<u8>, Failure> {
    let events::Request { device_id, next_batch, .. } = request;
    let DehydratedEvents { events, next_batch, more: _ } = page(cx, &bearer, device_id, next_batch).await?;
    Ok(serde_json::to_vec(&Page { events, next_batch: Some(next_batch) })?)
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
    Ok(failure::json(StatusCode::OK, &Page { events, next_batch: more.then_some(next_batch) }))
}

async fn page(
    cx: &Context,
    bearer: &Bearer,
    device_id: OwnedDeviceId,
    next_batch: Option<String>,
) -> Result<DehydratedEvents, Failure> {
    bearer.call(cx, &GetDehydratedEvents { token_hash: bearer.token_hash.clone(), device_id, next_batch }).await
}

#[cfg(test)]
mod tests {
    use actors::user::ToDeviceMessage;
    use serde_json::value::RawValue;

    use super::Page;

    /// Others wrote them, and an earlier release took any: who wants their keys back reads past them.
    #[test]
    fn messages_are_told_as_they_are() {
        let content = RawValue::from_string(r#"{"a":1e999}"#.to_owned()).unwrap();
        let event = ToDeviceMessage { sender: "@a:b".to_owned(), event_type: "m".to_owned(), content };
        let page = |next_batch: Option<&str>| Page { events: vec![], next_batch: next_batch.map(ToOwned::to_owned) };
        let told = |page: &Page| serde_json::to_string(page).unwrap();
        assert_eq!(told(&page(None)), r#"{"events":[]}"#);
        let page = Page { events: vec![event], ..page(Some("e1")) };
        assert_eq!(told(&page), r#"{"events":[{"sender":"@a:b","type":"m","content":{"a":1e999}}],"next_batch":"e1"}"#);
    }
}
