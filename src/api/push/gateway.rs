//! One request to a push gateway. Spec: Push Gateway API, `POST /_matrix/push/v1/notify`.

use actors::{
    room::{Notification, Notifications},
    user::{OwedPusher, OwedRoom, Unread},
};
use bytes::Bytes;
use domain::push::Gateway;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use platform::{OutgoingRequest, Peer, Scheme};
use ruma_common::{EventId, RoomId, UserId, push::Action};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{Context, federation::USER_AGENT};

/// How long a gateway may take, in milliseconds.
const TIMEOUT_MS: u64 = 10_000;
/// The largest answer of a gateway, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a gateway answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has it.
    Taken,
    /// It knows the pusher no longer.
    Rejected,
    /// It did not answer, or not as it should.
    Failed,
}

#[derive(Serialize)]
struct Body<'a> {
    notification: Told<'a>,
}

#[derive(Default, Serialize)]
struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<&'a UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_display_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_alias: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_is_target: Option<bool>,
    prio: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    counts: Map<String, Value>,
    devices: [Device<'a>; 1],
}

#[derive(Default, Serialize)]
struct Device<'a> {
    app_id: &'a str,
    pushkey: &'a str,
    /// In seconds.
    pushkey_ts: u64,
    data: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    tweaks: Map<String, Value>,
}

/// Tells a pusher of an event.
pub(super) async fn tell_event(
    cx: &Context,
    owed: &OwedPusher,
    room: &OwedRoom,
    found: &Notifications,
    notification: &Notification,
    badge: Unread,
) -> Answer {
    let tweaks = tweaks(&notification.actions);
    let mut told = Told {
        event_id: notification.event_id.as_deref(),
        room_id: Some(&room.room_id),
        prio: priority(notification, &tweaks),
        counts: counts(badge),
        devices: [device(owed, tweaks)],
        ..Told::default()
    };
    if !owed.pusher.is_event_id_only() {
        told.event_type = Some(&notification.event_type);
        told.sender = Some(&notification.sender);
        told.sender_display_name = notification.sender_display_name.as_deref();
        told.room_name = found.room_name.as_deref();
        told.room_alias = found.room_alias.as_deref();
        told.user_is_target = (notification.event_type == "m.room.member").then_some(notification.user_is_target);
        told.content = Some(&notification.content);
    }
    send(cx, owed, told).await
}

/// Tells a pusher how much is unread by now.
pub(super) async fn tell_counts(cx: &Context, owed: &OwedPusher, badge: Unread) -> Answer {
    let mut counts = counts(badge);
    // «Counts whose value is zero should be omitted», but where nothing else is said, this is what there is to say:
    // gateways leave the badge as it is when it is not mentioned.
    counts.entry("unread").or_insert_with(|| 0.into());
    let told = Told { prio: "low", counts, devices: [device(owed, Map::new())], ..Told::default() };
    send(cx, owed, told).await
}

fn counts(badge: Unread) -> Map<String, Value> {
    let counts = [("unread", badge.unread), ("missed_calls", badge.missed_calls)];
    counts.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count.into())).collect()
}

fn device(owed: &OwedPusher, tweaks: Map<String, Value>) -> Device<'_> {
    Device {
        app_id: &owed.pusher.app_id,
        pushkey: &owed.pusher.pushkey,
        pushkey_ts: owed.changed_ms / 1_000,
        data: owed.pusher.forwarded_data(),
        tweaks,
    }
}

/// The tweaks among a rule's actions. «If a `highlight` tweak is given with no value, its value is defined to be
/// `true`.»
fn tweaks(actions: &[Action]) -> Map<String, Value> {
    let tweak = |action: &Action| {
        let mut action = serde_json::to_value(action).ok()?;
        let name = action.get("set_tweak")?.as_str()?.to_owned();
        let given = action.get_mut("value").map(Value::take);
        let value = given.unwrap_or_else(|| if name == "highlight" { true.into() } else { Value::Null });
        Some((name, value))
    };
    actions.iter().filter_map(tweak).collect()
}

/// What makes a sound or stands out is urgent; what is encrypted may be, and only the client can tell.
fn priority(notification: &Notification, tweaks: &Map<String, Value>) -> &'static str {
    let is_urgent = tweaks.contains_key("sound") || tweaks.get("highlight") == Some(&Value::Bool(true));
    if is_urgent || notification.event_type == "m.room.encrypted" { "high" } else { "low" }
}

async fn send(cx: &Context, owed: &OwedPusher, told: Told<'_>) -> Answer {
    let Ok(gateway) = owed.pusher.gateway() else { return Answer::Rejected };
    let Ok(body) = serde_json::to_vec(&Body { notification: told }) else { return Answer::Failed };
    let host = gateway.host.clone();
    let outcome = match cx.send(request(gateway, body.into())).await {
        Ok(response) => response.whole().await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok((status, _, body)) if status.is_success() => answered(&body, &owed.pusher.pushkey),
        // It does not want this one, however often it is asked.
        Ok((
            status @ (StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY),
            ..,
        )) => {
            tracing::info!(host, %status, "a push gateway does not want a notification");
            Answer::Taken
        }
        Ok((status, ..)) => {
            tracing::info!(host, %status, "a push gateway did not take a notification");
            Answer::Failed
        }
        Err(error) => {
            tracing::info!(host, %error, "a push gateway did not take a notification");
            Answer::Failed
        }
    }
}

fn request(gateway: Gateway, body: Bytes) -> OutgoingRequest {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    OutgoingRequest {
        peer: Peer::at(Scheme::Https, &gateway.host, gateway.port),
        method: Method::POST,
        path_and_query: gateway.path_and_query,
        headers,
        body,
        response_bytes_max: ANSWER_BYTES_MAX,
        timeout_ms: TIMEOUT_MS,
    }
}

fn answered(body: &[u8], pushkey: &str) -> Answer {
    #[derive(Deserialize)]
    struct Told {
        #[serde(default)]
        rejected: Vec<String>,
    }
    match serde_json::from_slice::<Told>(body) {
        Ok(told) if told.rejected.iter().any(|rejected| rejected == pushkey) => Answer::Rejected,
        Ok(_) => Answer::Taken,
        // Something else is there.
        Err(_) => Answer::Failed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tweaks_are_passed_on_as_they_are() {
        let of = |actions: Value| Value::from(tweaks(&serde_json::from_value::<Vec<Action>>(actions).unwrap()));
        assert_eq!(of(json!(["notify"])), json!({}));
        assert_eq!(
            of(json!(["notify", { "set_tweak": "sound", "value": "bing" }, { "set_tweak": "highlight" }])),
            json!({ "sound": "bing", "highlight": true })
        );
        assert_eq!(
            of(
                json!([{ "set_tweak": "highlight", "value": false }, { "set_tweak": "org.example", "value": { "a": 1 } }])
            ),
            json!({ "highlight": false, "org.example": { "a": 1 } })
        );
    }

    #[test]
    fn counts_that_are_zero_are_left_out() {
        assert_eq!(
            Value::from(counts(Unread { unread: 2, missed_calls: 1 })),
            json!({ "unread": 2, "missed_calls": 1 })
        );
        assert_eq!(Value::from(counts(Unread { unread: 2, missed_calls: 0 })), json!({ "unread": 2 }));
        assert_eq!(Value::from(counts(Unread::default())), json!({}));
    }

    #[test]
    fn a_gateway_is_believed_when_it_speaks_of_the_key() {
        for (body, answer) in [
            (r#"{"rejected":["k"]}"#, Answer::Rejected),
            (r#"{"rejected":["other"]}"#, Answer::Taken),
            (r#"{"rejected":[]}"#, Answer::Taken),
            ("{}", Answer::Taken),
            ("<html>", Answer::Failed),
        ] {
            assert_eq!(answered(body.as_bytes(), "k"), answer, "{body}");
        }
    }
}
