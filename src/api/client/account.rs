//! Spec: "Account management".

use std::pin::pin;

use actors::user::{ChangePassword, Deactivate, GetAskedRooms, ResetPassword};
use bytes::Bytes;
use domain::{Refusal, contact::Email};
use futures_util::{StreamExt, TryStreamExt, future::select, stream};
use http::{Method, Request, Response, StatusCode};
use ruma_common::{OwnedRoomId, UserId};
use serde::Deserialize;
use serde_json::{Map, json};

use crate::{
    Bearer, Context, Failure, OrAbsent, Routes, failure,
    federation::elsewhere::{Elsewhere, is_here_for, residence},
    mail::validation,
    metadata::contact,
    password,
    router::{bad_json, json_or_default},
    uiaa::{self, Auth, Operation},
};

/// Rooms elsewhere that are left when an account is deactivated, so many at once, and the servers tried for each; for
/// so long, in milliseconds.
const ROOMS_TOLD_MAX: usize = 200;
const ROOMS_AT_ONCE: usize = 8;
const SERVERS_TOLD_MAX: usize = 2;
const TOLD_MS_MAX: u64 = 10_000;

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's types: they let clients come without a token, and refuse `"auth": {}`.
    for path in ["/_matrix/client/v3/account/password", "/_matrix/client/r0/account/password"] {
        routes.add_raw(Method::POST, path, change_password);
    }
    for path in ["/_matrix/client/v3/account/deactivate", "/_matrix/client/r0/account/deactivate"] {
        routes.add_raw(Method::POST, path, deactivate);
    }
}

#[derive(Deserialize)]
struct NewPassword {
    new_password: String,
    logout_devices: Option<bool>,
    auth: Option<Auth>,
}

/// With a token, or without for who proves that an address of the account is theirs.
async fn change_password(
    cx: &Context,
    bearer: Option<Bearer>,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    match bearer {
        Some(bearer) => change_own_password(cx, &bearer, &request).await,
        None if cx.config().mail.is_some() => reset_password(cx, &request).await,
        None => Err(Refusal::MissingToken.into()),
    }
}

async fn reset_password(cx: &Context, request: &Request<Bytes>) -> Result<Response<Bytes>, Failure> {
    let NewPassword { new_password, logout_devices, auth } =
        serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    password::check(cx, &new_password)?;
    let operation = Operation {
        name: uiaa::RESET_PASSWORD,
        user_id: None,
        flows: uiaa::EMAIL,
        request: uiaa::digest(&logout_devices)?,
    };
    let session = operation.authenticate(cx, auth.as_ref()).await?.email_session;
    let proven = match session {
        Some(session) => validation::of_session(cx, &session).await?,
        None => None,
    };
    let Some(proven) = proven else { return Err(operation.ask_again(cx, "This proof has been used")) };
    let nobody = || Refusal::ThreepidNotFound("Nobody is known here by this address".to_owned());
    let owner = contact::owner(cx.metadata(), &Email::parse(&proven.address)?).await?.ok_or_else(nobody)?;
    let call = ResetPassword {
        password_hash: password::hash(cx, new_password).await?,
        logout_devices: logout_devices.unwrap_or(true),
    };
    cx.user(&owner).call(&call).await.or_absent(nobody())?;
    // Last: whoever never hears of it tries again.
    validation::take(cx, &proven.sid).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

async fn change_own_password(
    cx: &Context,
    bearer: &Bearer,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Failure> {
    bearer.verify(cx).await?;
    let NewPassword { new_password, logout_devices, auth } =
        serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    password::check(cx, &new_password)?;
    let operation = Operation {
        name: "change password",
        user_id: Some(&bearer.user_id),
        flows: uiaa::PASSWORD,
        request: uiaa::digest(&logout_devices)?,
    };
    let old_password_hash = operation.authenticate(cx, auth.as_ref()).await?.password_hash()?;
    let call = ChangePassword {
        token_hash: bearer.token_hash.clone(),
        old_password_hash,
        password_hash: password::hash(cx, new_password).await?,
        logout_devices: logout_devices.unwrap_or(true),
    };
    bearer.call(cx, &call).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

#[derive(Default, Deserialize)]
struct Deactivation {
    auth: Option<Auth>,
    erase: Option<bool>,
}

async fn deactivate(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    bearer.verify(cx).await?;
    let Deactivation { auth, erase } = json_or_default(request.body())?;
    let operation = Operation {
        name: "deactivate",
        user_id: Some(&bearer.user_id),
        flows: uiaa::PASSWORD,
        request: uiaa::digest(&erase)?,
    };
    // Spec: Application Service API, «full control over its namespace»: its users have no passwords.
    let password_hash = match bearer.acts_for {
        Some(_) => String::new(),
        None => operation.authenticate(cx, auth.as_ref()).await?.password_hash()?,
    };
    let asked = cx.user(&bearer.user_id).call(&GetAskedRooms {}).await?;
    let elsewhere = what_is_elsewhere(cx, &bearer.user_id, asked.get(..ROOMS_TOLD_MAX).unwrap_or(&asked)).await?;
    let call = Deactivate { token_hash: bearer.token_hash.clone(), password_hash, erase: erase.unwrap_or_default() };
    bearer.call(cx, &call).await?;
    // The account is closed, whatever other servers have to say.
    select(pin!(turn_down(&elsewhere)), pin!(cx.pause(cx.in_time(TOLD_MS_MAX)))).await;
    // Spec: "This must be `success` if the homeserver has no identifiers to unbind for the user."
    Ok(failure::json(StatusCode::OK, &json!({ "id_server_unbind_result": "success" })))
}

/// The user's invitations to, and knocks on, rooms that are not here.
async fn what_is_elsewhere<'a>(
    cx: &'a Context,
    user_id: &'a UserId,
    rooms: &'a [OwnedRoomId],
) -> Result<Vec<Elsewhere<'a>>, Failure> {
    let elsewhere = async |room_id: &'a OwnedRoomId| {
        let residence = residence(cx, room_id).await?;
        if is_here_for(cx, &residence, room_id, user_id).await? {
            return Ok::<_, Failure>(None);
        }
        let of = (user_id, Map::new());
        let mut elsewhere = Elsewhere::in_words(cx, room_id, of, Vec::new(), residence.servers).await?;
        elsewhere.servers.truncate(SERVERS_TOLD_MAX);
        Ok(Some(elsewhere))
    };
    let found: Vec<_> = stream::iter(rooms).map(elsewhere).buffered(ROOMS_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Tells the servers that have these rooms that the user does not come.
async fn turn_down(rooms: &[Elsewhere<'_>]) {
    let left = stream::iter(rooms).map(async |elsewhere| {
        if let Err(failure) = elsewhere.leave().await {
            let (room_id, fault) = (elsewhere.room_id, failure.into_fault());
            tracing::error!(%room_id, %fault, "an invitation of a closed account is not turned down");
        }
    });
    left.buffer_unordered(ROOMS_AT_ONCE).collect().await
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    const REGISTRATION: &str = r##"{ "id": "irc", "url": null, "as_token": "as", "hs_token": "hs",
        "sender_localpart": "irc", "namespaces": { "users": [{ "regex": "@_irc_", "exclusive": true }] } }"##;

    #[test]
    fn an_application_service_closes_the_accounts_of_its_users() {
        let server = TestServer::new(&[("APPSERVICES", REGISTRATION), ("REGISTRATION", "open")]);
        let ghost = json!({ "type": "m.login.application_service", "username": "_irc_a", "inhibit_login": true });
        assert_eq!(server.post("/_matrix/client/v3/register", "as", &ghost).0, StatusCode::OK);
        let deactivate = "/_matrix/client/v3/account/deactivate?user_id=@_irc_a:localhost";
        let (status, answer) = server.post(deactivate, "as", &json!({}));
        assert_eq!(status, StatusCode::OK, "{answer}");
        let gone = server.get("/_matrix/client/v3/account/whoami?user_id=@_irc_a:localhost", "as");
        assert_eq!(refused(gone), (403, "M_USER_DEACTIVATED".to_owned()));
        // Everybody else proves that it is them.
        let alice = server.register("alice");
        let asked = server.post("/_matrix/client/v3/account/deactivate", &alice, &json!({}));
        assert_eq!(asked.0, StatusCode::UNAUTHORIZED, "{}", asked.1);
    }
}
