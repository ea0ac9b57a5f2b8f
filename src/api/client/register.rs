//! Accounts come into being. Spec: "Account registration", "Token-authenticated registration".

use actors::user::{Create, GetProfile, NewDevice, check_profile_field};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use domain::{Refusal, config::Registration};
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::{
    account::{
        check_registration_token_validity::v1 as token_validity, get_username_availability::v3 as username_available,
    },
    uiaa::{AuthData, AuthType},
};
use ruma_common::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Map, Value};

use crate::{
    Context, Failure, Routes, access_token, failure,
    metadata::{register_account, registration_token},
    password,
    router::bad_json,
    uiaa,
};

/// The longest user id, in bytes. Spec: Appendices, "User Identifiers".
const USER_ID_BYTES_MAX: usize = 255;
/// The longest device id taken from a client, in bytes.
const DEVICE_ID_BYTES_MAX: usize = 255;

pub(super) fn routes(routes: &mut Routes) {
    for path in ["/_matrix/client/v3/register", "/_matrix/client/r0/register"] {
        routes.add_raw(Method::POST, path, register);
    }
    routes.add(is_available);
    routes.add(is_token_valid);
}

/// Not ruma's type: that one refuses `"auth": {}`, with which some clients begin.
#[derive(Default, Deserialize)]
struct Registering {
    username: Option<String>,
    password: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default, deserialize_with = "auth_or_nothing")]
    auth: Option<AuthData>,
    inhibit_login: Option<bool>,
    #[serde(rename = "type")]
    login_type: Option<String>,
}

/// No `auth`, `null` and `{}` are the same.
fn auth_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AuthData>, D::Error> {
    let auth = Option::<Map<String, Value>>::deserialize(deserializer)?.filter(|auth| !auth.is_empty());
    auth.map(|auth| serde_json::from_value(Value::Object(auth)).map_err(D::Error::custom)).transpose()
}

#[derive(Deserialize)]
struct Query {
    kind: Option<String>,
}

/// Not ruma's type: that one says `"device_id": null` to who does not log in.
#[derive(Serialize)]
struct Answer<'a> {
    user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<&'a DeviceId>,
}

async fn register(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let flows = flows(cx)?;
    let request = parse(&request)?;
    let inhibit_login = request.inhibit_login.unwrap_or_default();
    let user_id = match &request.username {
        Some(username) => free_user_id(cx, username).await?,
        None => generated_user_id(cx)?,
    };
    let operation = uiaa::Operation {
        name: "register",
        flows: &[flows],
        request: uiaa::digest(&(&request.username, &request.device_id, inhibit_login))?,
    };
    let authenticated = operation.authenticate(cx, request.auth.as_ref()).await?;
    let password_hash = match request.password {
        Some(password) => Some(password::hash(cx, password).await?),
        None => None,
    };
    let login = match inhibit_login {
        true => None,
        false => Some(login(cx, &user_id, request.device_id, request.initial_device_display_name)?),
    };
    if let Some(token) = &authenticated.registration_token
        && !registration_token::consume(cx.metadata(), token, cx.now_ms()).await?
    {
        return Err(operation.ask_again(cx, "This registration token is not valid"));
    }
    let account = Account { user_id, password_hash, admin: false, display_name: None };
    let created = create(cx, &account, login.as_ref()).await;
    if let (Err(Failure::Refused(_)), Some(token)) = (&created, &authenticated.registration_token) {
        registration_token::give_back(cx.metadata(), token).await?;
    }
    created?;
    let answer = Answer {
        user_id: account.user_id,
        access_token: login.as_ref().map(|login| &*login.access_token),
        device_id: login.as_ref().map(|login| &*login.device.device_id),
    };
    Ok(failure::json(StatusCode::OK, &answer))
}

fn parse(request: &Request<Bytes>) -> Result<Registering, Refusal> {
    let query: Query = serde_html_form::from_str(request.uri().query().unwrap_or_default())
        .map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    match query.kind.as_deref() {
        None | Some("user") => {}
        Some("guest") => return Err(Refusal::GuestAccessForbidden),
        Some(_) => return Err(Refusal::InvalidParam("There is no such kind of account".to_owned())),
    }
    if request.body().is_empty() {
        return Ok(Registering::default());
    }
    let request: Registering = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    if request.login_type.as_deref() == Some("m.login.application_service") {
        return Err(Refusal::Unknown("There is no such appservice".to_owned()));
    }
    Ok(request)
}

async fn is_available(
    cx: &Context,
    (): (),
    request: username_available::Request,
) -> Result<username_available::Response, Failure> {
    free_user_id(cx, &request.username).await?;
    Ok(username_available::Response::new(true))
}

async fn is_token_valid(
    cx: &Context,
    (): (),
    request: token_validity::Request,
) -> Result<token_validity::Response, Failure> {
    flows(cx)?;
    let is_valid = registration_token::is_valid(cx.metadata(), &request.token, cx.now_ms()).await?;
    Ok(token_validity::Response::new(is_valid))
}

/// The stages that let someone register.
fn flows(cx: &Context) -> Result<&'static [AuthType], Refusal> {
    match cx.config().registration {
        Registration::Closed => Err(Refusal::Forbidden("Registration is closed on this server".to_owned())),
        Registration::Token => Ok(&[AuthType::RegistrationToken]),
        Registration::Open => Ok(&[AuthType::Dummy]),
    }
}

/// The user to be.
pub(crate) struct Account {
    pub user_id: OwnedUserId,
    pub password_hash: Option<String>,
    pub admin: bool,
    pub display_name: Option<String>,
}

/// A device to be logged in and what only its client may know.
pub(crate) struct Login {
    pub device: NewDevice,
    pub access_token: String,
}

/// Makes a token for a device, which is a new one unless the client names it.
///
/// # Errors
/// `M_INVALID_PARAM` for a device id that is empty or too long, and for a name that is too long.
pub(crate) fn login(
    cx: &Context,
    user_id: &UserId,
    device_id: Option<OwnedDeviceId>,
    display_name: Option<String>,
) -> Result<Login, Failure> {
    let device_id = match device_id {
        Some(device_id) if device_id.as_str().is_empty() || device_id.as_str().len() > DEVICE_ID_BYTES_MAX => {
            return Err(Refusal::InvalidParam(format!("A device id has 1 to {DEVICE_ID_BYTES_MAX} bytes")).into());
        }
        Some(device_id) => device_id,
        None => letters(&cx.random::<10>()?, b'A').into(),
    };
    let access_token = access_token::make(cx, user_id)?;
    let token_hash = access_token::hash(&access_token);
    let ip = cx.client_address().map(|address| address.0.to_string());
    let device = NewDevice { display_name, ip, ..NewDevice::new(device_id, token_hash) };
    device.check()?;
    Ok(Login { device, access_token })
}

/// Founds the user. The row in metadata comes first: whoever exists is listed.
///
/// # Errors
/// `M_USER_IN_USE`; `M_INVALID_PARAM` for a display name that is too long.
pub(crate) async fn create(cx: &Context, account: &Account, login: Option<&Login>) -> Result<(), Failure> {
    if let Some(display_name) = &account.display_name {
        check_profile_field("displayname", display_name)?;
    }
    register_account(cx.metadata(), &account.user_id, cx.now_ms()).await?;
    let create = Create {
        password_hash: account.password_hash.clone(),
        admin: account.admin,
        guest: false,
        display_name: account.display_name.clone(),
        device: login.map(|login| login.device.clone()),
        call_id: BASE64_URL_SAFE_NO_PAD.encode(cx.random::<16>()?),
    };
    cx.user(&account.user_id).call(&create).await?;
    Ok(())
}

/// The id of a user who may be registered.
///
/// # Errors
/// `M_INVALID_USERNAME`, `M_USER_IN_USE`.
pub(crate) async fn free_user_id(cx: &Context, username: &str) -> Result<OwnedUserId, Failure> {
    let user_id = user_id(cx, username)?;
    match cx.user(&user_id).call(&GetProfile {}).await {
        Ok(_) => Err(Refusal::UserInUse.into()),
        Err(Failure::Absent) => Ok(user_id),
        Err(failure) => Err(failure),
    }
}

/// Spec: Appendices, "User Identifiers": servers must not make ids outside of this grammar. Capitals become small.
fn user_id(cx: &Context, username: &str) -> Result<OwnedUserId, Refusal> {
    let localpart = username.to_ascii_lowercase();
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte);
    if localpart.is_empty() || !localpart.bytes().all(allowed) {
        let sentence = "A username has the letters a to z, digits and ._=-/+ only";
        return Err(Refusal::InvalidUsername(sentence.to_owned()));
    }
    let user_id = format!("@{localpart}:{}", cx.server_name());
    if user_id.len() > USER_ID_BYTES_MAX {
        return Err(Refusal::InvalidUsername("This username is too long".to_owned()));
    }
    OwnedUserId::try_from(user_id).map_err(|error| Refusal::InvalidUsername(error.to_string()))
}

fn generated_user_id(cx: &Context) -> Result<OwnedUserId, Failure> {
    Ok(user_id(cx, &letters(&cx.random::<12>()?, b'a'))?)
}

/// One letter for each random byte, from `first` on.
fn letters(random: &[u8], first: u8) -> String {
    random.iter().map(|byte| char::from(first + byte % 26)).collect()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value, json};

    use crate::testing::{TestServer, block_on, refused};

    const REGISTER: &str = "/_matrix/client/v3/register";

    fn body(username: &str) -> Value {
        json!({ "username": username, "password": "secret", "auth": { "type": "m.login.dummy" } })
    }

    #[test]
    fn a_client_registers_in_two_steps() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        for beginning in [Value::Null, json!({ "auth": null }), json!({ "auth": {} })] {
            assert_eq!(server.post(REGISTER, "", &beginning).0, StatusCode::UNAUTHORIZED, "{beginning}");
        }
        let (status, challenge) = server.post(REGISTER, "", &json!({}));
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.dummy"] }]));
        let mut body = body("Alice");
        body["auth"]["session"] = challenge["session"].clone();
        body["device_id"] = "PHONE".into();
        let (status, answer) = server.post(REGISTER, "", &body);
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!((&answer["user_id"], &answer["device_id"]), (&json!("@alice:localhost"), &json!("PHONE")));
        let token = answer["access_token"].as_str().unwrap();
        let (_, me) = server.get("/_matrix/client/v3/account/whoami", token);
        assert_eq!(me, json!({ "user_id": "@alice:localhost", "device_id": "PHONE" }));
        assert_eq!(refused(server.post(REGISTER, "", &self::body("alice"))), (400, "M_USER_IN_USE".to_owned()));
    }

    #[test]
    fn names_follow_the_grammar() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let available = |name: &str| server.get(&format!("{REGISTER}/available?username={name}"), "");
        assert_eq!(available("a.b_c=d-e%2Ff%2B1"), (StatusCode::OK, json!({ "available": true })));
        for name in ["", "a%20b", "a:b", "%40a", "%C3%A4", "a%00", "x".repeat(250).as_str()] {
            assert_eq!(refused(available(name)), (400, "M_INVALID_USERNAME".to_owned()), "{name}");
        }
        server.register("bob");
        assert_eq!(refused(available("BOB")), (400, "M_USER_IN_USE".to_owned()));
    }

    #[test]
    fn without_a_name_one_is_made_and_without_login_no_token() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let (status, answer) =
            server.post(REGISTER, "", &json!({ "auth": { "type": "m.login.dummy" }, "inhibit_login": true }));
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["user_id"]);
        let mut other = body("carol");
        other["device_id"] = "".into();
        assert_eq!(refused(server.post(REGISTER, "", &other)), (400, "M_INVALID_PARAM".to_owned()));
        other["device_id"] = "X".into();
        other["initial_device_display_name"] = "x".repeat(101).into();
        assert_eq!(refused(server.post(REGISTER, "", &other)), (400, "M_INVALID_PARAM".to_owned()));
        other["initial_device_display_name"] = "x".repeat(100).into();
        other["password"] = "".into();
        assert_eq!(refused(server.post(REGISTER, "", &other)), (400, "M_WEAK_PASSWORD".to_owned()));
    }

    #[test]
    fn a_closed_server_registers_nobody() {
        let server = TestServer::new(&[]);
        assert_eq!(refused(server.post(REGISTER, "", &body("alice"))), (403, "M_FORBIDDEN".to_owned()));
        let validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token=x";
        assert_eq!(refused(server.get(validity, "")), (403, "M_FORBIDDEN".to_owned()));
        let open = TestServer::new(&[("REGISTRATION", "open")]);
        let guest = open.post(&format!("{REGISTER}?kind=guest"), "", &json!({}));
        assert_eq!(refused(guest), (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned()));
    }

    #[test]
    fn a_token_lets_in_as_many_as_it_says() {
        let server = TestServer::new(&[("REGISTRATION", "token")]);
        block_on(crate::metadata::registration_token::insert(server.context().metadata(), "sesame", Some(1), None))
            .unwrap();
        let validity = |token: &str| {
            server.get(&format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}"), "").1
        };
        assert_eq!((validity("sesame"), validity("open")), (json!({ "valid": true }), json!({ "valid": false })));
        let with = |username: &str, token: &str| {
            let auth = json!({ "type": "m.login.registration_token", "token": token });
            server.post(REGISTER, "", &json!({ "username": username, "password": "secret", "auth": auth }))
        };
        assert_eq!(server.post(REGISTER, "", &body("eve")).0, StatusCode::UNAUTHORIZED);
        let (status, challenge) = with("eve", "open");
        assert_eq!((status, &challenge["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_UNAUTHORIZED")));
        assert_eq!(with("alice", "sesame").0, StatusCode::OK);
        assert_eq!(with("bob", "sesame").0, StatusCode::UNAUTHORIZED);
        assert_eq!(validity("sesame"), json!({ "valid": false }));
    }
}
