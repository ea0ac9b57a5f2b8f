//! Spec: "Push Notifications", `/pushers`.

use actors::user::{DropPusher, GetPushers, OwnPusher, RemovePusher, SetPusher};
use bytes::Bytes;
use domain::{
    Refusal,
    push::{Pusher, PusherKind, check_key},
};
use http::{Method, Request, Response, StatusCode};
use ruma_common::OwnedDeviceId;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Bearer, Context, Failure, Routes, failure,
    metadata::{self, contact},
    router::kept_json,
};

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's types: they do not tell a missing field from a malformed one, and know fewer kinds of `data`.
    for version in ["v3", "r0"] {
        let [get_path, set_path] = match version {
            "v3" => ["/_matrix/client/v3/pushers", "/_matrix/client/v3/pushers/set"],
            _ => ["/_matrix/client/r0/pushers", "/_matrix/client/r0/pushers/set"],
        };
        routes.add_raw(Method::GET, get_path, get);
        routes.add_raw(Method::POST, set_path, set);
    }
}

async fn get(cx: &Context, bearer: Bearer, _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let pushers = bearer.call(cx, &GetPushers { token_hash: bearer.token_hash.clone() }).await?;
    let shown: Vec<Shown> = pushers.into_iter().map(Shown::from).collect();
    Ok(failure::json(StatusCode::OK, &json!({ "pushers": shown })))
}

/// A pusher as it is shown.
#[derive(Serialize)]
struct Shown {
    kind: &'static str,
    app_id: String,
    pushkey: String,
    app_display_name: String,
    device_display_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_tag: Option<String>,
    lang: String,
    data: Map<String, Value>,
    #[serde(rename = "org.matrix.msc3881.enabled")]
    enabled: bool,
    #[serde(rename = "org.matrix.msc3881.device_id", skip_serializing_if = "Option::is_none")]
    device_id: Option<OwnedDeviceId>,
}

impl From<OwnPusher> for Shown {
    fn from(OwnPusher { pusher, device_id }: OwnPusher) -> Self {
        let Pusher { kind, app_id, pushkey, app_display_name, device_display_name, profile_tag, lang, data, enabled } =
            pusher;
        let kind = kind.as_str();
        Self {
            kind,
            app_id,
            pushkey,
            app_display_name,
            device_display_name,
            profile_tag,
            lang,
            data,
            enabled,
            device_id,
        }
    }
}

/// A pusher as it is sent.
#[derive(Deserialize)]
struct Sent {
    /// Not there, `null`, or a string.
    #[serde(default, deserialize_with = "given")]
    kind: Option<Option<String>>,
    app_id: Option<String>,
    pushkey: Option<String>,
    app_display_name: Option<String>,
    device_display_name: Option<String>,
    profile_tag: Option<String>,
    lang: Option<String>,
    data: Option<Map<String, Value>>,
    #[serde(default)]
    append: Option<bool>,
    /// MSC3881. Which device has the pusher is not the client's to say.
    #[serde(rename = "org.matrix.msc3881.enabled")]
    enabled: Option<bool>,
}

fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

async fn set(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let sent: Sent = kept_json(request.body())?;
    let missing =
        [("kind", sent.kind.is_none()), ("app_id", sent.app_id.is_none()), ("pushkey", sent.pushkey.is_none())];
    let (Some(kind), Some(app_id), Some(pushkey)) = (sent.kind, sent.app_id, sent.pushkey) else {
        return Err(are_missing(&missing).into());
    };
    let token_hash = bearer.token_hash.clone();
    match kind.as_deref() {
        None => {
            check_key(&app_id, &pushkey)?;
            let call = RemovePusher { token_hash, app_id, pushkey };
            bearer.call(cx, &call).await?;
            metadata::pusher::forget(cx.metadata(), &call.app_id, &call.pushkey, &bearer.user_id).await?;
        }
        Some(kind @ ("http" | "email")) => {
            let missing = [
                ("app_display_name", sent.app_display_name.is_none()),
                ("device_display_name", sent.device_display_name.is_none()),
                ("lang", sent.lang.is_none()),
                ("data", sent.data.is_none()),
            ];
            let (Some(app_display_name), Some(device_display_name), Some(lang), Some(data)) =
                (sent.app_display_name, sent.device_display_name, sent.lang, sent.data)
            else {
                return Err(are_missing(&missing).into());
            };
            let profile_tag = sent.profile_tag;
            let kind = if kind == "email" { PusherKind::Email } else { PusherKind::Http };
            let pusher = Pusher {
                kind,
                app_id,
                pushkey,
                app_display_name,
                device_display_name,
                profile_tag,
                lang,
                data,
                enabled: sent.enabled.unwrap_or(true),
            };
            pusher.check()?;
            // Or anybody could have rows written in anybody's name.
            bearer.verify(cx).await?;
            if kind == PusherKind::Email {
                check_email(cx, &bearer, &pusher).await?;
            }
            let call = SetPusher { token_hash, pusher };
            // First, so that whoever has it next finds whom to take it from: the row may outlive the pusher.
            metadata::pusher::note(cx.metadata(), &call.pusher.app_id, &call.pusher.pushkey, &bearer.user_id).await?;
            bearer.call(cx, &call).await?;
            is_of(cx, &bearer, &call.pusher, sent.append.unwrap_or(false)).await?;
        }
        Some(_) => return Err(Refusal::InvalidParam("There is no such kind of pushers".to_owned()).into()),
    }
    Ok(failure::json(StatusCode::OK, &json!({})))
}

/// Mail goes to who proved that the address is theirs.
async fn check_email(cx: &Context, bearer: &Bearer, pusher: &Pusher) -> Result<(), Failure> {
    if cx.config().mail.is_none() {
        let sentence = "This server sends no mail: there are pushers of kind http".to_owned();
        return Err(Refusal::InvalidParam(sentence).into());
    }
    match contact::owner(cx.metadata(), &pusher.email()?).await? {
        Some(owner) if owner == bearer.user_id => Ok(()),
        _ => Err(Refusal::ThreepidNotFound("This address is none of your account".to_owned()).into()),
    }
}

fn are_missing(missing: &[(&str, bool)]) -> Refusal {
    let names: Vec<_> = missing.iter().filter(|(_, is_missing)| *is_missing).map(|(name, _)| *name).collect();
    Refusal::MissingParam(format!("Missing parameters: {}", names.join(", ")))
}

/// The pusher is the caller's: «the homeserver must remove any other pushers with the same App ID and pushkey for
/// different users», unless it shall be added to them.
async fn is_of(cx: &Context, bearer: &Bearer, pusher: &Pusher, is_added: bool) -> Result<(), Failure> {
    let Pusher { app_id, pushkey, .. } = pusher;
    if is_added {
        return Ok(());
    }
    for other in metadata::pusher::others(cx.metadata(), app_id, pushkey, &bearer.user_id).await? {
        let call = DropPusher { app_id: app_id.clone(), pushkey: pushkey.clone() };
        match cx.user(&other).call(&call).await {
            Ok(()) | Err(Failure::Absent) => {}
            Err(failure) => return Err(failure),
        }
        metadata::pusher::forget(cx.metadata(), app_id, pushkey, &other).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    #[test]
    fn who_only_claims_to_be_somebody_leaves_no_row() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let pusher = json!({
            "kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App",
            "device_display_name": "Phone", "lang": "en",
            "data": { "url": "https://push.example.org/_matrix/push/v1/notify" },
        });
        let sets = |token: &str| server.post("/_matrix/client/v3/pushers/set", token, &pusher);
        let (name, _) = alice.split_once('.').unwrap();
        let forged = format!("{name}.x");
        let rows = || server.numbers("SELECT count(*) FROM pusher");
        assert_eq!(refused(sets(&forged)), (401, "M_UNKNOWN_TOKEN".to_owned()));
        assert_eq!(rows(), [0]);
        assert_eq!(sets(&alice), (http::StatusCode::OK, json!({})));
        assert_eq!(rows(), [1]);
    }
}
