//! Spec: "Login", "Refreshing access tokens".

use actors::user::{Acting, LogIn, LogInByToken, LogInOfAppservice, Refresh};
use bytes::Bytes;
use domain::{Appservice, RateLimited, Refusal};
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::session::{
    get_login_types::v3::{
        self as login_types, ApplicationServiceLoginType, LoginType, PasswordLoginType, TokenLoginType,
    },
    refresh_token::v3 as refreshing,
};
use ruma_common::{OwnedDeviceId, OwnedUserId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Context, Failure, OrAbsent, Routes, access_token,
    appservice::{Perhaps, must_have_user, no_appservices},
    credentials::{NamedUser, check_password, counted, wrong},
    failure,
    new_login::{NewLogin, Tokens, Wanted, refreshed},
    router::{bad_json, query},
    well_known,
};

/// A login with a password. Not ruma's type: that one panics when the request has no `type`.
#[derive(Deserialize)]
struct Login {
    #[serde(flatten)]
    user: NamedUser,
    password: String,
    #[serde(flatten)]
    device: Wanted,
}

#[derive(Serialize)]
struct Answer<'a> {
    user_id: OwnedUserId,
    /// Deprecated, and still asked for.
    home_server: &'a ServerName,
    device_id: OwnedDeviceId,
    #[serde(flatten)]
    tokens: Tokens,
    #[serde(skip_serializing_if = "Option::is_none")]
    well_known: Option<Value>,
}

pub(super) fn routes(routes: &mut Routes) {
    routes.add(flows);
    for path in ["/_matrix/client/v3/login", "/_matrix/client/r0/login"] {
        routes.add_raw(Method::POST, path, login);
    }
    routes.add_json(refresh);
    for path in ["/_matrix/client/v3/login/sso/redirect", "/_matrix/client/r0/login/sso/redirect"] {
        routes.add_raw(Method::GET, path, no_single_sign_on);
    }
    for path in ["/_matrix/client/v3/login/sso/redirect/{idp_id}", "/_matrix/client/r0/login/sso/redirect/{idp_id}"] {
        routes.add_raw(Method::GET, path, no_single_sign_on);
    }
}

async fn flows(cx: &Context, (): (), _: login_types::Request) -> Result<login_types::Response, Failure> {
    let mut flows = vec![LoginType::Password(PasswordLoginType::new())];
    if cx.config().login_tokens {
        let mut by_token = TokenLoginType::new();
        by_token.get_login_token = true;
        flows.push(LoginType::Token(by_token));
    }
    if !cx.config().appservices.is_empty() {
        flows.push(LoginType::ApplicationService(ApplicationServiceLoginType::new()));
    }
    Ok(login_types::Response::new(flows))
}

/// No identity provider is known here: «404: The IdP ID was not recognized by the server».
async fn no_single_sign_on(
    _: &Context,
    (): (),
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Query {
        redirect_url: Option<String>,
    }
    let Query { redirect_url } = query(&request)?;
    if redirect_url.is_none() {
        return Err(Refusal::MissingParam("`redirectUrl` is required".to_owned()).into());
    }
    Err(Refusal::NotFound("This server has no such identity provider to log in with".to_owned()).into())
}

async fn login(
    cx: &Context,
    who: Perhaps,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let body: Value = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    match body.get("type").and_then(Value::as_str) {
        Some("m.login.password") => by_password(cx, body).await,
        Some("m.login.application_service") => {
            // Spec: «If the access token is not valid, does not correspond to an appservice …»
            let appservice = who.appservice(cx).map_err(|refusal| match refusal {
                Refusal::UnknownToken { .. } => no_appservices(),
                other => other,
            });
            of_appservice(cx, appservice?, body).await
        }
        Some("m.login.token") if cx.config().login_tokens => by_token(cx, body).await,
        Some(_) => Err(Refusal::Unknown("This login type is not supported".to_owned()).into()),
        None => Err(Refusal::BadJson("The login has no type".to_owned()).into()),
    }
}

async fn by_password(cx: &Context, body: Value) -> Result<Response<Bytes>, Failure> {
    let request = Login::deserialize(body).map_err(|error| bad_json(&error))?;
    let user_id = request.user.user_id(cx).await?;
    let (named, account) = (request.user.counted(&user_id), counted(&user_id));
    let (user_id, password_hash) = check_password(cx, user_id, &named, request.password).await?;
    cx.limit(RateLimited::LoginAccount, &account)?.keep();
    let NewLogin { device, tokens } = NewLogin::of_user(cx, &user_id, request.device)?;
    let call = LogIn { password_hash, device };
    cx.user(&user_id).call(&call).await.or_absent(wrong())?;
    Ok(logged_in(cx, user_id, call.device.device_id, tokens))
}

/// With a token that another client made, see [`super::login_token`].
async fn by_token(cx: &Context, body: Value) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Login {
        token: String,
        #[serde(flatten)]
        device: Wanted,
    }
    let Login { token, device } = Login::deserialize(body).map_err(|error| bad_json(&error))?;
    let unknown = || Refusal::Forbidden("This login token is invalid or has expired".to_owned());
    let user_id = access_token::logs_in(&token, cx.server_name()).ok_or_else(unknown)?;
    let NewLogin { device, tokens } = NewLogin::of_user(cx, &user_id, device)?;
    let call = LogInByToken { login_hash: access_token::hash(&token), device };
    cx.user(&user_id).call(&call).await.or_absent(unknown())?;
    Ok(logged_in(cx, user_id, call.device.device_id, tokens))
}

/// Of a user of an application service, which needs no password. Spec: Application Service API, "Server admin style
/// permissions".
async fn of_appservice(cx: &Context, appservice: &Appservice, body: Value) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Login {
        #[serde(flatten)]
        user: NamedUser,
        #[serde(flatten)]
        device: Wanted,
    }
    let Login { user, device } = Login::deserialize(body).map_err(|error| bad_json(&error))?;
    let user_id = user.user_id(cx).await?;
    must_have_user(cx, appservice, &user_id)?;
    let NewLogin { device, tokens } = NewLogin::of_user(cx, &user_id, device)?;
    let acting = Acting { appservice: appservice.id.clone(), device_id: None };
    let call = LogInOfAppservice { token_hash: acting.token_hash()?, device };
    cx.user(&user_id).call(&call).await.or_absent(Refusal::Forbidden("There is no such user".to_owned()))?;
    Ok(logged_in(cx, user_id, call.device.device_id, tokens))
}

fn logged_in(cx: &Context, user_id: OwnedUserId, device_id: OwnedDeviceId, tokens: Tokens) -> Response<Bytes> {
    let answer = Answer {
        user_id,
        home_server: cx.server_name(),
        device_id,
        tokens,
        well_known: new_address(cx).map(|base_url| well_known::of_client(cx, base_url)),
    };
    failure::json(StatusCode::OK, &answer)
}

async fn refresh(cx: &Context, (): (), request: refreshing::Request) -> Result<Vec<u8>, Failure> {
    let unknown = || Refusal::UnknownToken { soft_logout: false };
    let (user_id, device_id) = access_token::refreshed(&request.refresh_token, cx.server_name()).ok_or_else(unknown)?;
    let (next, tokens) = refreshed(cx, &user_id, &device_id)?;
    let call = Refresh { device_id, refresh_hash: access_token::hash(&request.refresh_token), next };
    cx.user(&user_id).call(&call).await.or_absent(unknown())?;
    Ok(serde_json::to_vec(&tokens)?)
}

/// Where clients shall go from now on, if that was configured; the default is where they came from.
fn new_address(cx: &Context) -> Option<&str> {
    let base_url = &*cx.config().public_baseurl;
    let is_default = base_url.strip_prefix("https://") == Some(cx.server_name().as_str());
    (!is_default).then_some(base_url)
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::{Value, json};

    use crate::testing::{TestServer, refused};

    const LOGIN: &str = "/_matrix/client/v3/login";
    const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

    fn body(user: &str, password: &str) -> Value {
        let identifier = json!({ "type": "m.id.user", "user": user });
        json!({ "type": "m.login.password", "identifier": identifier, "password": password })
    }

    #[test]
    fn a_user_logs_in_by_id_or_localpart() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        server.register("alice");
        let by_token = json!({ "type": "m.login.token", "get_login_token": true });
        assert_eq!(server.get(LOGIN, "").1, json!({ "flows": [{ "type": "m.login.password" }, by_token] }));
        let old = json!({ "type": "m.login.password", "user": "alice", "password": "secret" });
        for body in [body("alice", "secret"), body("@alice:localhost", "secret"), body("Alice", "secret"), old] {
            let (status, answer) = server.post(LOGIN, "", &body);
            assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!("@alice:localhost")), "{body} {answer}");
            assert_eq!(answer.get("well_known"), None);
            assert_eq!(
                server.get(WHOAMI, answer["access_token"].as_str().unwrap()).1["device_id"],
                answer["device_id"]
            );
        }
    }

    #[test]
    fn whatever_is_wrong_the_answer_is_the_same() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        server.register("alice");
        let wrong = server.post(LOGIN, "", &body("alice", "wrong"));
        assert_eq!(refused(wrong.clone()), (403, "M_FORBIDDEN".to_owned()));
        for (user, password) in [("nobody", "secret"), ("@alice:elsewhere", "secret"), ("alice", "")] {
            assert_eq!(server.post(LOGIN, "", &body(user, password)), wrong, "{user}");
        }
        let elsewhere = [
            json!({ "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": "alice@localhost" } }),
            json!({ "identifier": { "type": "m.id.thirdparty", "medium": "pigeon", "address": "alice" } }),
            json!({ "identifier": { "type": "m.id.phone", "country": "CH", "phone": "1" } }),
            json!({ "medium": "email", "address": "alice@localhost" }),
        ];
        for mut body in elsewhere {
            body["type"] = "m.login.password".into();
            body["password"] = "secret".into();
            assert_eq!(server.post(LOGIN, "", &body), wrong, "{body}");
        }
        let magic =
            json!({ "type": "m.login.password", "password": "x", "identifier": { "type": "org.example.magic" } });
        assert_eq!(refused(server.post(LOGIN, "", &magic)), (400, "M_UNKNOWN".to_owned()));
        let unknown = json!({ "type": "m.login.magic" });
        assert_eq!(refused(server.post(LOGIN, "", &unknown)), (400, "M_UNKNOWN".to_owned()));
        let nameless = json!({ "type": "m.login.password", "password": "secret" });
        assert_eq!(refused(server.post(LOGIN, "", &nameless)), (400, "M_BAD_JSON".to_owned()));
        let invalid = body("@alice", "secret");
        assert_eq!(refused(server.post(LOGIN, "", &invalid)), (400, "M_INVALID_PARAM".to_owned()));
    }

    #[test]
    fn a_device_has_one_token() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let first = server.register("alice");
        let mut body = body("alice", "secret");
        body["device_id"] = "PHONE".into();
        let (_, answer) = server.post(LOGIN, "", &body);
        let second = answer["access_token"].as_str().unwrap();
        assert_eq!(answer["device_id"], "PHONE");
        assert_eq!(refused(server.get(WHOAMI, &first)), (401, "M_UNKNOWN_TOKEN".to_owned()));
        assert_eq!(server.get(WHOAMI, second).0, StatusCode::OK);
    }

    #[test]
    fn a_token_dies_with_its_device() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let phone = server.register("alice");
        let laptop = server.post(LOGIN, "", &body("alice", "secret")).1["access_token"].as_str().unwrap().to_owned();
        let tablet = server.post(LOGIN, "", &body("alice", "secret")).1["access_token"].as_str().unwrap().to_owned();
        let logout = |path: &str, token: &str| {
            server.request(Method::POST, &format!("/_matrix/client/v3/{path}"), token, &Value::Null)
        };
        assert_eq!(logout("logout", &phone), (StatusCode::OK, json!({})));
        assert_eq!(refused(server.get(WHOAMI, &phone)), (401, "M_UNKNOWN_TOKEN".to_owned()));
        assert_eq!(server.get(WHOAMI, &laptop).0, StatusCode::OK);
        assert_eq!(logout("logout/all", &laptop), (StatusCode::OK, json!({})));
        for token in [&laptop, &tablet] {
            assert_eq!(refused(server.get(WHOAMI, token)), (401, "M_UNKNOWN_TOKEN".to_owned()));
        }
        assert_eq!(refused(logout("logout", &laptop)), (401, "M_UNKNOWN_TOKEN".to_owned()));
        assert_eq!(refused(logout("logout", "mye_bm9ib2R5.x")), (401, "M_UNKNOWN_TOKEN".to_owned()));
    }

    #[test]
    fn guessing_takes_long() {
        let server = TestServer::new(&[
            ("REGISTRATION", "open"),
            ("RATE_LIMITS", "on"),
            ("RC_LOGIN", "0"),
            ("RC_LOGIN_FAILED_ATTEMPTS", "0.5,2"),
        ]);
        server.register("guessed");
        for _ in 0..10 {
            assert_eq!(server.post(LOGIN, "", &body("guessed", "secret")).0, StatusCode::OK, "success is not counted");
        }
        let retry_after_ms = ["guessed", "guessed_nobody"].map(|user| {
            for _ in 0..2 {
                assert_eq!(refused(server.post(LOGIN, "", &body(user, "wrong"))), (403, "M_FORBIDDEN".to_owned()));
            }
            let (status, limited) = server.post(LOGIN, "", &body(user, "secret"));
            assert_eq!((status, &limited["errcode"]), (StatusCode::TOO_MANY_REQUESTS, &json!("M_LIMIT_EXCEEDED")));
            limited["retry_after_ms"].as_u64().unwrap()
        });
        assert_eq!(retry_after_ms, [2_000, 2_000], "whoever exists");
        server.pass_ms(2_000);
        assert_eq!(server.post(LOGIN, "", &body("guessed", "secret")).0, StatusCode::OK);
    }

    #[test]
    fn a_configured_address_is_told() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("PUBLIC_BASEURL", "http://127.0.0.1:8008")]);
        server.register("alice");
        let (_, answer) = server.post(LOGIN, "", &body("alice", "secret"));
        assert_eq!(answer["well_known"], json!({ "m.homeserver": { "base_url": "http://127.0.0.1:8008" } }));
    }
}
