//! Where calls between clients that cannot reach each other are relayed. Spec: "Voice over IP".

use base64::{Engine, prelude::BASE64_STANDARD};
use domain::{
    Refusal,
    config::{Relay, Secret},
};
use hmac::{Hmac, KeyInit, Mac};
use platform::Fault;
use ruma_client_api::voip::get_turn_server_info::v3::Request;
use ruma_common::UserId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha1::Sha1;

use crate::{
    Caller, Context, Failure, Routes,
    named_service::{JSON, Post},
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(turn_server);
}

#[derive(Serialize)]
struct Credentials {
    username: String,
    password: String,
    uris: Vec<String>,
    ttl: u64,
}

/// `GET /voip/turnServer`; an empty object where there is none.
async fn turn_server(cx: &Context, caller: Caller, _: Request) -> Result<Vec<u8>, Failure> {
    let Some(turn) = &cx.config().turn else { return Ok(b"{}".to_vec()) };
    let credentials = match &turn.relay {
        Relay::Own { uris, secret } => own(uris, secret, turn.lifetime_s, &caller.user_id, cx.now_ms())?,
        Relay::Cloudflare { url, api_token } => cloudflares(cx, url, api_token, turn.lifetime_s).await?,
    };
    Ok(serde_json::to_vec(&credentials)?)
}

/// Credentials that a TURN server believes who knows the same secret: the name says until when, and the password is its
/// HMAC. This is what TURN servers call «TURN REST API».
fn own(uris: &[String], secret: &Secret, ttl: u64, user_id: &UserId, now_ms: u64) -> Result<Credentials, Fault> {
    let expires_s = (now_ms / 1000).saturating_add(ttl);
    let username = format!("{expires_s}:{user_id}");
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes())
        .map_err(|error| Fault::new(format!("the secret of the TURN server: {error}")))?;
    mac.update(username.as_bytes());
    let password = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    Ok(Credentials { username, password, uris: uris.to_vec(), ttl })
}

/// What Cloudflare's TURN service answers.
#[derive(Deserialize)]
struct IceServers {
    #[serde(rename = "iceServers")]
    ice_servers: Vec<IceServer>,
}

/// A server; only one that relays has a name and a password.
#[derive(Deserialize)]
struct IceServer {
    urls: Vec<String>,
    username: Option<String>,
    credential: Option<String>,
}

/// Credentials that Cloudflare makes, for one who asks.
///
/// # Errors
/// 502 where it makes none.
async fn cloudflares(cx: &Context, url: &str, api_token: &Secret, ttl: u64) -> Result<Credentials, Failure> {
    let body = serde_json::to_vec(&json!({ "ttl": ttl }))?.into();
    let post = Post { url, content_type: JSON, bearer: Some(api_token.expose()), body };
    let answer = post.asks::<IceServers>(cx).await?;
    let made = answer.and_then(|answer| relayed(answer, ttl).ok_or_else(|| "it names no relay".to_owned()));
    Ok(made.map_err(|error| {
        tracing::warn!(error, "Cloudflare's TURN service makes no credentials");
        Refusal::OtherServer("The TURN service gives no credentials: try again later".to_owned())
    })?)
}

/// The first that relays.
fn relayed(answer: IceServers, ttl: u64) -> Option<Credentials> {
    answer.ice_servers.into_iter().find_map(|server| {
        let IceServer { urls, username: Some(username), credential: Some(password) } = server else { return None };
        let uris: Vec<String> = urls.into_iter().filter(|url| is_of_use(url)).collect();
        (!uris.is_empty()).then_some(Credentials { username, password, uris, ttl })
    })
}

/// Browsers do not connect to port 53, and clients that try lose time with it.
fn is_of_use(url: &str) -> bool {
    let is_turn = url.starts_with("turn:") || url.starts_with("turns:");
    is_turn && !url.split('?').next().unwrap_or_default().ends_with(":53")
}

#[cfg(test)]
mod tests {
    use domain::config::Relay;
    use ruma_common::user_id;
    use serde_json::json;

    use super::{own, relayed};
    use crate::testing::config;

    #[test]
    fn the_password_is_the_names_hmac() {
        let config = config(&[("TURN_URIS", "turn:a.org?transport=udp"), ("TURN_SHARED_SECRET", "open sesame")]);
        let turn = config.turn.unwrap();
        let Relay::Own { uris, secret } = turn.relay else { panic!() };
        let given = own(&uris, &secret, turn.lifetime_s, user_id!("@alice:a.org"), 1_700_000_000_123).unwrap();
        assert_eq!((given.username.as_str(), given.ttl), ("1700086400:@alice:a.org", 86_400));
        // printf 1700086400:@alice:a.org | openssl dgst -sha1 -hmac 'open sesame' -binary | base64
        assert_eq!(given.password, "mOsXXwAc/Ycxf5mGmjIVvLs/Maw=");
        assert_eq!(given.uris, ["turn:a.org?transport=udp"]);
    }

    #[test]
    fn of_many_servers_the_one_that_relays_is_told() {
        let told = |servers| relayed(serde_json::from_value(json!({ "iceServers": servers })).unwrap(), 60);
        assert!(told(json!([])).is_none());
        assert!(told(json!([{ "urls": ["stun:a.test"] }, { "urls": ["turn:a.test"], "username": "u" }])).is_none());
        let stun = json!({ "urls": ["stun:a.test"], "username": "u", "credential": "c" });
        assert!(told(json!([stun])).is_none());
        let urls =
            ["stun:a.test", "turn:a.test:3478?transport=udp", "turn:a.test:53?transport=udp", "turns:a.test:443"];
        let all = told(json!([stun, { "urls": urls, "username": "name", "credential": "word" }])).unwrap();
        assert_eq!((all.username.as_str(), all.password.as_str()), ("name", "word"));
        assert_eq!(all.uris, ["turn:a.test:3478?transport=udp", "turns:a.test:443"]);
    }
}
