//! Addresses by which people are known: email addresses, where mail is set up. This server sends no messages to phones
//! and binds nothing at identity servers (whom they know is asked for invitations, in `identity_server`): the endpoints
//! for those, and all of them where no mail is sent, say so in the words of the spec.
//! Spec: "Adding Account Administrative Contact Information", "Account registration", "Password management".

use bytes::Bytes;
use domain::{Refusal, config::Registration, contact::Email};
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::account::{
    bind_3pid, delete_3pid, get_3pids, request_3pid_management_token_via_email as contact_email,
    request_3pid_management_token_via_msisdn as contact_phone,
    request_password_change_token_via_email as password_email,
    request_password_change_token_via_msisdn as password_phone, request_registration_token_via_email as register_email,
    request_registration_token_via_msisdn as register_phone, unbind_3pid,
};
use ruma_common::{
    UserId,
    api::{IncomingRequest, Metadata, path_builder::PathBuilder},
    thirdparty::Medium,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Bearer, Caller, Context, Failure, Routes,
    authenticate::Authenticate,
    failure,
    mail::validation::{self, Credentials, Purpose, Wish},
    metadata::contact::{self, Added, CONTACTS_MAX},
    router::bad_json,
    uiaa::{self, Auth, Operation},
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(contacts);
    refuse::<contact_phone::v3::Request>(routes, medium_not_supported);
    refuse::<register_phone::v3::Request>(routes, denied);
    refuse::<password_phone::v3::Request>(routes, not_found);
    refuse::<bind_3pid::v3::Request>(routes, not_trusted);
    routes.add_json(remove);
    routes.add_json(async |_, _, _: unbind_3pid::v3::Request| Ok(not_bound()));
    // Not through ruma's types: they refuse `"auth": {}`, and know no deprecated endpoint.
    for path in ["/_matrix/client/v3/account/3pid", "/_matrix/client/r0/account/3pid"] {
        routes.add_raw(Method::POST, path, add_deprecated);
    }
    for path in ["/_matrix/client/v3/account/3pid/add", "/_matrix/client/r0/account/3pid/add"] {
        routes.add_raw(Method::POST, path, add);
    }
    for path in contact_email::v3::Request::PATH_BUILDER.all_paths() {
        routes.add_raw(Method::POST, path, for_account);
    }
    for path in register_email::v3::Request::PATH_BUILDER.all_paths() {
        routes.add_raw(Method::POST, path, for_registration);
    }
    for path in password_email::v3::Request::PATH_BUILDER.all_paths() {
        routes.add_raw(Method::POST, path, for_password);
    }
}

/// Adds an endpoint that understands what it is asked, and has one answer.
fn refuse<R>(routes: &mut Routes, refusal: fn() -> Refusal)
where
    R: IncomingRequest + 'static,
    R::Authentication: Authenticate,
{
    routes.add_json::<R, Vec<u8>>(async move |_, _, _| Err(refusal().into()));
}

type Answer = Result<Response<Bytes>, Failure>;

async fn for_account(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Answer {
    request_token(cx, Purpose::Add, medium_not_supported, &request).await
}

async fn for_registration(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Answer {
    request_token(cx, Purpose::Register, denied, &request).await
}

async fn for_password(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Answer {
    request_token(cx, Purpose::ResetPassword, not_found, &request).await
}

/// `POST …/email/requestToken`. Where nothing can be proven, or is to be, the answer is the one that the spec has for
/// that.
async fn request_token(cx: &Context, purpose: Purpose, refusal: fn() -> Refusal, request: &Request<Bytes>) -> Answer {
    let wish: Wish = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let is_closed = purpose == Purpose::Register && cx.config().registration == Registration::Closed;
    match &cx.config().mail {
        Some(mail) if !is_closed => validation::request(cx, mail, purpose, wish).await,
        _ => Err(refusal().into()),
    }
}

/// `GET /account/3pid`.
async fn contacts(cx: &Context, caller: Caller, _: get_3pids::v3::Request) -> Result<String, Failure> {
    let contacts = contact::of_user(cx.metadata(), &caller.user_id).await?;
    let shown = contacts.into_iter().map(|contact| {
        json!({
            "medium": "email",
            "address": contact.address,
            "validated_at": contact.validated_ms,
            "added_at": contact.added_ms,
        })
    });
    Ok(json!({ "threepids": shown.collect::<Vec<Value>>() }).to_string())
}

/// `POST /account/3pid/add`.
async fn add(cx: &Context, bearer: Bearer, request: Request<Bytes>, _: Vec<String>) -> Answer {
    #[derive(Deserialize)]
    struct Body {
        #[serde(flatten)]
        credentials: Credentials,
        auth: Option<Auth>,
    }
    bearer.verify(cx).await?;
    let Body { credentials, auth } = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    add_proven(cx, &bearer.user_id, &credentials, auth.as_ref()).await
}

/// `POST /account/3pid/delete`.
async fn remove(cx: &Context, caller: Caller, request: delete_3pid::v3::Request) -> Result<String, Failure> {
    // What is no address of ours is nobody's.
    if let (Medium::Email, Ok(email)) = (request.medium, Email::parse(&request.address)) {
        contact::remove(cx.metadata(), &caller.user_id, &email).await?;
    }
    Ok(not_bound())
}

/// `POST /account/3pid`, deprecated: ruma has it no more. It asks for the password, too, which the specification leaves
/// open: whose address it is resets that.
async fn add_deprecated(cx: &Context, bearer: Bearer, request: Request<Bytes>, _: Vec<String>) -> Answer {
    #[derive(Deserialize)]
    struct Body {
        three_pid_creds: Credentials,
        auth: Option<Auth>,
    }
    bearer.verify(cx).await?;
    let body: Body = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    add_proven(cx, &bearer.user_id, &body.three_pid_creds, body.auth.as_ref()).await
}

/// The address that a session proved is the user's from now on, who gives their password for that.
async fn add_proven(cx: &Context, user_id: &UserId, credentials: &Credentials, auth: Option<&Auth>) -> Answer {
    if cx.config().mail.is_none() {
        return Err(not_proven().into());
    }
    let operation = Operation {
        name: "add contact",
        user_id: Some(user_id),
        flows: uiaa::PASSWORD,
        request: uiaa::digest(&credentials.sid)?,
    };
    operation.authenticate(cx, auth).await?;
    let proven = validation::proven(cx, Purpose::Add, credentials).await?.ok_or_else(not_proven)?;
    let added = contact::add(cx.metadata(), user_id, &proven.address, proven.validated_ms, cx.now_ms());
    match added.await? {
        Added::Ours => {}
        Added::Taken => return Err(Refusal::ThreepidInUse.into()),
        Added::TooMany => {
            return Err(Refusal::ThreepidDenied(format!("An account can have at most {CONTACTS_MAX} addresses")).into());
        }
    }
    validation::take(cx, &proven.sid).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

/// «If the homeserver does not know the original `id_server`, it MUST return a `id_server_unbind_result` of
/// `no-support`.»
fn not_bound() -> String {
    json!({ "id_server_unbind_result": "no-support" }).to_string()
}

fn medium_not_supported() -> Refusal {
    Refusal::ThreepidMediumNotSupported("This server cannot prove that such an address is yours".to_owned())
}

fn denied() -> Refusal {
    Refusal::ThreepidDenied("This server registers nobody by such an address".to_owned())
}

fn not_found() -> Refusal {
    Refusal::ThreepidNotFound("Nobody is known here by this address".to_owned())
}

fn not_proven() -> Refusal {
    Refusal::ThreepidAuthFailed("Nobody has proven here that this address is theirs".to_owned())
}

fn not_trusted() -> Refusal {
    Refusal::ServerNotTrusted("This server binds no address at an identity server".to_owned())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    #[test]
    fn each_endpoint_says_that_nobody_has_an_address_here() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let asks = |path: &str, token: &str, body| server.post(&format!("/_matrix/client/v3/{path}"), token, body);
        let email = json!({ "client_secret": "s", "email": "a@example.org", "send_attempt": 1 });
        let phone = json!({ "client_secret": "s", "country": "GB", "phone_number": "07700900001", "send_attempt": 1 });
        for (path, status, errcode) in [
            ("account/3pid", 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
            ("register", 403, "M_THREEPID_DENIED"),
            ("account/password", 400, "M_THREEPID_NOT_FOUND"),
        ] {
            for (medium, body) in [("email", &email), ("msisdn", &phone)] {
                let answer = asks(&format!("{path}/{medium}/requestToken"), "", body);
                assert_eq!(refused(answer), (status, errcode.to_owned()), "{path} {medium}");
            }
        }
        let session = json!({ "client_secret": "s", "sid": "1" });
        let bound = json!({ "client_secret": "s", "sid": "1", "id_server": "id.test", "id_access_token": "t" });
        let nested = json!({ "three_pid_creds": session });
        for (path, body, errcode) in [
            ("account/3pid/add", &session, "M_THREEPID_AUTH_FAILED"),
            ("account/3pid", &nested, "M_THREEPID_AUTH_FAILED"),
            ("account/3pid/bind", &bound, "M_SERVER_NOT_TRUSTED"),
        ] {
            assert_eq!(refused(asks(path, &alice, body)), (403, errcode.to_owned()), "{path}");
        }
        let address = json!({ "medium": "email", "address": "a@example.org" });
        for path in ["account/3pid/delete", "account/3pid/unbind"] {
            let expected = (StatusCode::OK, json!({ "id_server_unbind_result": "no-support" }));
            assert_eq!(asks(path, &alice, &address), expected, "{path}");
        }
        assert_eq!(server.get("/_matrix/client/v3/account/3pid", &alice).1, json!({ "threepids": [] }));
    }

    #[test]
    fn there_are_no_other_networks_and_no_relays() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let gets = |path: &str| server.get(&format!("/_matrix/client/v3/{path}"), &alice);
        for path in ["thirdparty/protocols", "voip/turnServer"] {
            assert_eq!(gets(path), (StatusCode::OK, json!({})), "{path}");
        }
        for path in ["protocol/irc", "location/irc", "user/irc", "location?alias=%23a:b", "user?userid=@a:b"] {
            let missing = (404, "M_NOT_FOUND".to_owned());
            assert_eq!(refused(gets(&format!("thirdparty/{path}"))), missing, "{path}");
        }
    }
}
