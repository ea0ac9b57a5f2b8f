//! Where calls between clients that cannot reach each other are relayed. Spec: "Voice over IP".

use base64::{Engine, prelude::BASE64_STANDARD};
use domain::config::Turn;
use hmac::{Hmac, KeyInit, Mac};
use platform::Fault;
use ruma_client_api::voip::get_turn_server_info::v3::Request;
use ruma_common::UserId;
use serde::Serialize;
use sha1::Sha1;

use crate::{Caller, Context, Failure, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(turn_server);
}

#[derive(Serialize)]
struct Credentials<'a> {
    username: String,
    password: String,
    uris: &'a [String],
    ttl: u64,
}

/// `GET /voip/turnServer`; an empty object where there is none.
async fn turn_server(cx: &Context, caller: Caller, _: Request) -> Result<Vec<u8>, Failure> {
    let Some(turn) = &cx.config().turn else { return Ok(b"{}".to_vec()) };
    Ok(serde_json::to_vec(&credentials(turn, &caller.user_id, cx.now_ms())?)?)
}

/// Credentials that a TURN server believes who knows the same secret: the name says until when, and the password is its
/// HMAC. This is what TURN servers call «TURN REST API».
fn credentials<'a>(turn: &'a Turn, user_id: &UserId, now_ms: u64) -> Result<Credentials<'a>, Fault> {
    let expires_s = (now_ms / 1000).saturating_add(turn.lifetime_s);
    let username = format!("{expires_s}:{user_id}");
    let mut mac = Hmac::<Sha1>::new_from_slice(turn.secret.expose().as_bytes())
        .map_err(|error| Fault::new(format!("the secret of the TURN server: {error}")))?;
    mac.update(username.as_bytes());
    let password = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    Ok(Credentials { username, password, uris: &turn.uris, ttl: turn.lifetime_s })
}

#[cfg(test)]
mod tests {
    use ruma_common::user_id;

    use super::credentials;
    use crate::testing::config;

    #[test]
    fn the_password_is_the_names_hmac() {
        let config = config(&[("TURN_URIS", "turn:a.org?transport=udp"), ("TURN_SHARED_SECRET", "open sesame")]);
        let turn = config.turn.unwrap();
        let given = credentials(&turn, user_id!("@alice:a.org"), 1_700_000_000_123).unwrap();
        assert_eq!((given.username.as_str(), given.ttl), ("1700086400:@alice:a.org", 86_400));
        // printf 1700086400:@alice:a.org | openssl dgst -sha1 -hmac 'open sesame' -binary | base64
        assert_eq!(given.password, "mOsXXwAc/Ycxf5mGmjIVvLs/Maw=");
        assert_eq!(given.uris, ["turn:a.org?transport=udp"]);
    }
}
