//! Accounts come into being. Spec: "Account registration", "Token-authenticated registration", "Terms of service at
//! registration", "Guest Access".

use actors::user::{Create, GetProfile, UpgradeGuest, check_profile_field};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use domain::{Appservice, Refusal, config::Registration, contact::Email};
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::{
    account::{
        check_registration_token_validity::v1 as token_validity, get_username_availability::v3 as username_available,
    },
    uiaa::AuthType,
};
use ruma_common::{DeviceId, OwnedUserId, ServerName};
use serde::{Deserialize, Serialize};

use crate::{
    Bearer, Context, Failure, Routes,
    appservice::{Perhaps, must_have_user},
    failure,
    mail::validation::{self, Proven},
    metadata::{contact, register_account, registration_token},
    new_login::{NewLogin, Tokens, Wanted, letters},
    password,
    router::{json_or_default, query},
    uiaa::{self, Authenticated},
};

/// The longest user id, in bytes. Spec: Appendices, "User Identifiers".
const USER_ID_BYTES_MAX: usize = 255;

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
    #[serde(flatten)]
    device: Wanted,
    auth: Option<uiaa::Auth>,
    inhibit_login: Option<bool>,
    /// Of a guest who becomes a user like any other.
    guest_access_token: Option<String>,
    #[serde(rename = "type")]
    login_type: Option<String>,
}

/// Who is to be registered.
enum Kind {
    User,
    Guest,
}

#[derive(Deserialize)]
struct Query {
    kind: Option<String>,
}

/// Not ruma's type: that one says `"device_id": null` to who does not log in.
#[derive(Serialize)]
struct Answer<'a> {
    user_id: OwnedUserId,
    #[serde(flatten)]
    login: Option<LoginAnswer<'a>>,
}

#[derive(Serialize)]
struct LoginAnswer<'a> {
    /// Deprecated, and still asked for.
    home_server: &'a ServerName,
    device_id: &'a DeviceId,
    #[serde(flatten)]
    tokens: &'a Tokens,
}

async fn register(
    cx: &Context,
    who: Perhaps,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    match kind(&request)? {
        Kind::Guest => register_guest(cx, request.body()).await,
        Kind::User => {
            let request: Registering = json_or_default(request.body())?;
            match request.login_type.as_deref() {
                Some("m.login.application_service") => register_of_appservice(cx, who.appservice(cx)?, request).await,
                _ => register_user(cx, request).await,
            }
        }
    }
}

/// Makes a user of an application service, who has no password. Spec: Application Service API, "Server admin style
/// permissions".
async fn register_of_appservice(
    cx: &Context,
    appservice: &Appservice,
    request: Registering,
) -> Result<Response<Bytes>, Failure> {
    let username = request.username.as_deref();
    let username = username.ok_or_else(|| Refusal::MissingParam("The user needs a `username`".to_owned()))?;
    let user_id = user_id(cx, username)?;
    must_have_user(cx, appservice, &user_id)?;
    let login = match request.inhibit_login.unwrap_or_default() {
        true => None,
        false => Some(NewLogin::of_user(cx, &user_id, request.device)?),
    };
    let account = Account { user_id, password_hash: None, admin: false, guest: false, display_name: None };
    create(cx, &account, login.as_ref()).await?;
    Ok(answer(cx, account.user_id, login.as_ref()))
}

async fn register_user(cx: &Context, request: Registering) -> Result<Response<Bytes>, Failure> {
    let flows = flows(cx)?;
    let flows: Vec<&[AuthType]> = flows.iter().map(Vec::as_slice).collect();
    let inhibit_login = request.inhibit_login.unwrap_or_default();
    let guest = request.guest_access_token.as_deref().map(|token| Bearer::of_token(cx, token)).transpose()?;
    let user_id = match (&guest, &request.username) {
        (Some(guest), username) => upgraded(cx, guest, username.as_deref()).await?,
        (None, Some(username)) => free_user_id(cx, username).await?,
        (None, None) => generated_user_id(cx)?,
    };
    if let Some(password) = &request.password {
        password::check(cx, password)?;
    }
    // What can be refused is refused before a password is hashed: that costs much, and no refusal counts as a
    // registration.
    let login = match inhibit_login {
        true => None,
        false => Some(NewLogin::of_user(cx, &user_id, request.device)?),
    };
    // Any request: nobody's leave is asked for, and whoever finds the name taken tries another one.
    let request_digest = uiaa::digest(&())?;
    let operation = uiaa::Operation { name: uiaa::REGISTER, user_id: None, flows: &flows, request: request_digest };
    let authenticated = operation.authenticate(cx, request.auth.as_ref()).await?;
    let account = Account { user_id, password_hash: None, admin: false, guest: false, display_name: None };
    let made = make(cx, &operation, &authenticated, account, request.password, guest, login.as_ref()).await;
    if let Err(Failure::Refused(_) | Failure::Challenge(_)) = &made {
        authenticated.give_back(cx).await?;
    }
    Ok(answer(cx, made?, login.as_ref()))
}

/// Makes the account that somebody has authenticated for, with what they proved. That is a proof still if it is
/// refused, as it is without a password: nobody could log in to the account again, or close it.
async fn make(
    cx: &Context,
    operation: &uiaa::Operation<'_>,
    authenticated: &Authenticated,
    mut account: Account,
    password: Option<String>,
    guest: Option<Bearer>,
    login: Option<&NewLogin>,
) -> Result<OwnedUserId, Failure> {
    let password = password.ok_or_else(|| Refusal::MissingParam("The account needs a `password`".to_owned()))?;
    account.password_hash = Some(password::hash(cx, password).await?);
    if let Some(token) = &authenticated.registration_token
        && !registration_token::consume(cx.metadata(), token, cx.now_ms()).await?
    {
        return Err(operation.ask_again(cx, "This registration token is not valid"));
    }
    let email = match &authenticated.email_session {
        Some(session) => match proven_email(cx, operation, session).await {
            Ok(proven) => Some(proven),
            Err(failure) => {
                if let Some(token) = &authenticated.registration_token {
                    registration_token::give_back(cx.metadata(), token).await?;
                }
                return Err(failure);
            }
        },
        None => None,
    };
    let made = match guest {
        Some(guest) => upgrade(cx, &guest, &account, login).await,
        None => create(cx, &account, login).await,
    };
    if let Err(Failure::Refused(_)) = &made {
        if let Some(token) = &authenticated.registration_token {
            registration_token::give_back(cx.metadata(), token).await?;
        }
        if let Some(proven) = &email {
            validation::give_back(cx, proven).await?;
        }
    }
    made?;
    if let Some(Proven { address, validated_ms, .. }) = email {
        // Whoever else made it theirs a moment ago keeps it.
        contact::add(cx.metadata(), &account.user_id, &address, validated_ms, cx.now_ms()).await?;
    }
    Ok(account.user_id)
}

/// The address that a session proved, which is used up.
async fn proven_email(cx: &Context, operation: &uiaa::Operation<'_>, session: &str) -> Result<Proven, Failure> {
    let Some(proven) = validation::take(cx, session).await? else {
        return Err(operation.ask_again(cx, "This proof has been used"));
    };
    match contact::owner(cx.metadata(), &Email::parse(&proven.address)?).await? {
        Some(_) => Err(Refusal::ThreepidInUse.into()),
        None => Ok(proven),
    }
}

/// Spec: "When registering a guest account, all parameters in the request body with the exception of
/// `initial_device_display_name` MUST BE ignored by the server."
async fn register_guest(cx: &Context, body: &[u8]) -> Result<Response<Bytes>, Failure> {
    #[derive(Default, Deserialize)]
    struct RegisteringGuest {
        initial_device_display_name: Option<String>,
    }
    if !cx.config().allow_guests {
        return Err(Refusal::Forbidden("This server has no guests".to_owned()).into());
    }
    let request: RegisteringGuest = json_or_default(body)?;
    let user_id = generated_user_id(cx)?;
    let login = NewLogin::of_guest(cx, &user_id, request.initial_device_display_name)?;
    let account = Account { user_id, password_hash: None, admin: false, guest: true, display_name: None };
    create(cx, &account, Some(&login)).await?;
    Ok(answer(cx, account.user_id, Some(&login)))
}

fn answer(cx: &Context, user_id: OwnedUserId, login: Option<&NewLogin>) -> Response<Bytes> {
    let login = login.map(|login| LoginAnswer {
        home_server: cx.server_name(),
        device_id: &login.device.device_id,
        tokens: &login.tokens,
    });
    failure::json(StatusCode::OK, &Answer { user_id, login })
}

fn kind(request: &Request<Bytes>) -> Result<Kind, Refusal> {
    let query: Query = query(request)?;
    match query.kind.as_deref() {
        None | Some("user") => Ok(Kind::User),
        Some("guest") => Ok(Kind::Guest),
        Some(_) => Err(Refusal::InvalidParam("There is no such kind of account".to_owned())),
    }
}

async fn is_available(
    cx: &Context,
    (): (),
    request: username_available::Request,
) -> Result<username_available::Response, Failure> {
    // Who cannot register need not know who did.
    flows(cx)?;
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

/// The stages that let someone register, each list of them by itself.
fn flows(cx: &Context) -> Result<Vec<Vec<AuthType>>, Refusal> {
    let terms = cx.config().terms.as_ref().map(|_| AuthType::Terms);
    let captcha = cx.config().recaptcha.as_ref().map(|_| AuthType::ReCaptcha);
    let token = match cx.config().registration {
        Registration::Closed => return Err(Refusal::Forbidden("Registration is closed on this server".to_owned())),
        Registration::Token => Some(AuthType::RegistrationToken),
        Registration::Open => None,
    };
    let mut plain: Vec<AuthType> = token.into_iter().chain(terms).collect();
    let Some(mail) = &cx.config().mail else {
        plain.splice(0..0, captcha);
        if plain.is_empty() {
            plain.push(AuthType::Dummy);
        }
        return Ok(vec![plain]);
    };
    let with_email = captcha.clone().into_iter().chain([AuthType::EmailIdentity]).chain(plain.clone()).collect();
    plain.splice(0..0, captcha);
    if mail.required_at_registration {
        return Ok(vec![with_email]);
    }
    // So that nobody is done with it who wants to prove an address, too. Spec: "Dummy Auth".
    plain.push(AuthType::Dummy);
    Ok(vec![plain, with_email])
}

/// The guest who is to become a user like any other. Spec: "They are also required to specify the `username` parameter
/// to the value of the local part of their username".
async fn upgraded(cx: &Context, guest: &Bearer, username: Option<&str>) -> Result<OwnedUserId, Failure> {
    match username {
        Some(username) if guest.is_guest && username == guest.user_id.localpart() => {}
        Some(_) => return Err(Refusal::Forbidden("This is not the name of the guest".to_owned()).into()),
        None => return Err(Refusal::MissingParam("A guest has to give their username".to_owned()).into()),
    }
    guest.verify(cx).await?;
    Ok(guest.user_id.clone())
}

async fn upgrade(cx: &Context, guest: &Bearer, account: &Account, login: Option<&NewLogin>) -> Result<(), Failure> {
    let missing = || Refusal::MissingParam("A guest becomes a user with a password".to_owned());
    let call = UpgradeGuest {
        token_hash: guest.token_hash.clone(),
        password_hash: account.password_hash.clone().ok_or_else(missing)?,
        device: login.map(|login| login.device.clone()),
    };
    guest.call(cx, &call).await
}

/// The user to be.
pub(crate) struct Account {
    pub user_id: OwnedUserId,
    pub password_hash: Option<String>,
    pub admin: bool,
    pub guest: bool,
    pub display_name: Option<String>,
}

/// Founds the user. The row in metadata comes first: whoever exists is listed.
///
/// # Errors
/// `M_USER_IN_USE`; `M_INVALID_PARAM` for a display name that is too long.
pub(crate) async fn create(cx: &Context, account: &Account, login: Option<&NewLogin>) -> Result<(), Failure> {
    if let Some(display_name) = &account.display_name {
        check_profile_field("displayname", display_name)?;
    }
    register_account(cx.metadata(), &account.user_id, cx.now_ms()).await?;
    let create = Create {
        password_hash: account.password_hash.clone(),
        admin: account.admin,
        guest: account.guest,
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
/// `M_INVALID_USERNAME`, `M_USER_IN_USE`; `M_EXCLUSIVE` for one that an application service keeps for itself.
pub(crate) async fn free_user_id(cx: &Context, username: &str) -> Result<OwnedUserId, Failure> {
    let user_id = user_id(cx, username)?;
    if cx.config().server_notices.as_ref().is_some_and(|notices| notices.sender == user_id) {
        return Err(Refusal::UserInUse.into());
    }
    if cx.config().keeps_user(&user_id, None) {
        return Err(Refusal::Exclusive("An application service keeps this name for itself".to_owned()).into());
    }
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

    /// A password costs much to hash, and what is refused does not count as a registration.
    #[test]
    fn what_is_refused_costs_little() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("ALLOW_GUESTS", "on")]);
        for (name, value, errcode) in [
            ("device_id", "x".repeat(256), "M_INVALID_PARAM"),
            // Of the guest «alice».
            ("guest_access_token", "myg_YWxpY2U.made-up".to_owned(), "M_UNKNOWN_TOKEN"),
        ] {
            let mut body = body("alice");
            body[name] = value.into();
            assert_eq!(refused(server.post(REGISTER, "", &body)).1, errcode, "{name}");
            assert_eq!(server.computations(), 0, "{name}");
        }
        assert_eq!(server.post(REGISTER, "", &body("alice")).0, StatusCode::OK);
        assert_eq!(server.computations(), 1);
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
        let mut nameless = json!({ "auth": { "type": "m.login.dummy" }, "inhibit_login": true });
        let without_password = server.post(REGISTER, "", &nameless);
        assert_eq!(refused(without_password), (400, "M_MISSING_PARAM".to_owned()));
        nameless["password"] = "secret".into();
        let (status, answer) = server.post(REGISTER, "", &nameless);
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["user_id"]);
        let mut other = body("carol");
        other["device_id"] = "".into();
        assert_eq!(refused(server.post(REGISTER, "", &other)), (400, "M_INVALID_PARAM".to_owned()));
        other["device_id"] = "X".into();
        other["initial_device_display_name"] = "x".repeat(101).into();
        other["password"] = "".into();
        assert_eq!(refused(server.post(REGISTER, "", &other)), (400, "M_WEAK_PASSWORD".to_owned()));
        other["password"] = "secret".into();
        let (_, answer) = server.post(REGISTER, "", &other);
        let (_, device) = server.get("/_matrix/client/v3/devices/X", answer["access_token"].as_str().unwrap());
        assert_eq!(device["display_name"], "x".repeat(100), "as much of a name as fits");
    }

    #[test]
    fn a_closed_server_registers_nobody() {
        let server = TestServer::new(&[]);
        assert_eq!(refused(server.post(REGISTER, "", &body("alice"))), (403, "M_FORBIDDEN".to_owned()));
        for name in ["alice", "a%20b"] {
            let available = server.get(&format!("{REGISTER}/available?username={name}"), "");
            assert_eq!(refused(available), (403, "M_FORBIDDEN".to_owned()), "{name}");
        }
        let validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token=x";
        assert_eq!(refused(server.get(validity, "")), (403, "M_FORBIDDEN".to_owned()));
        let open = TestServer::new(&[("REGISTRATION", "open")]);
        let guest = open.post(&format!("{REGISTER}?kind=guest"), "", &json!({}));
        assert_eq!(refused(guest), (403, "M_FORBIDDEN".to_owned()));
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
