//! Registration by whoever knows the shared secret, as the tool `register_new_matrix_user` does it.

use bytes::Bytes;
use domain::Refusal;
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, Request, Response, StatusCode};
use platform::Fault;
use serde::Deserialize;
use serde_json::json;
use sha1::Sha1;

use crate::{
    Context, Failure, Routes,
    client::register::{Account, create, free_user_id},
    failure,
    metadata::nonce,
    new_login::{NewLogin, Wanted},
    password,
    router::bad_json,
    sealed,
};

const PATH: &str = "/_synapse/admin/v1/register";
const PURPOSE: &str = "shared-secret registration";
/// How long a nonce lasts: one minute.
const NONCE_MS: u64 = 60_000;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_raw(Method::GET, PATH, new_nonce);
    routes.add_raw(Method::POST, PATH, register);
}

#[derive(Deserialize)]
struct Registration {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    displayname: Option<String>,
    mac: String,
}

async fn new_nonce(cx: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let nonce = sealed::seal(cx, PURPOSE, NONCE_MS)?;
    Ok(failure::json(StatusCode::OK, &json!({ "nonce": nonce })))
}

async fn register(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let registration: Registration = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let stale = || Refusal::Unknown("This nonce is not known, or was used".to_owned());
    let expires_ms = sealed::open(cx, PURPOSE, &registration.nonce)?.ok_or_else(stale)?;
    let secret = cx.config().registration_shared_secret.as_ref().map_or("", |secret| secret.expose());
    if !is_signed(&registration, secret)? {
        return Err(Refusal::Forbidden("The HMAC is not correct".to_owned()).into());
    }
    if !nonce::use_up(cx.metadata(), &registration.nonce, expires_ms, cx.now_ms()).await? {
        return Err(stale().into());
    }
    let user_id = free_user_id(cx, &registration.username).await?;
    let password_hash = Some(password::hash(cx, registration.password).await?);
    let login = NewLogin::of_user(cx, &user_id, Wanted::default())?;
    let account = Account {
        user_id,
        password_hash,
        admin: registration.admin,
        guest: false,
        display_name: registration.displayname,
    };
    create(cx, &account, Some(&login)).await?;
    let body = json!({
        "user_id": account.user_id,
        "home_server": cx.server_name(),
        "access_token": login.tokens.access_token,
        "device_id": login.device.device_id,
    });
    Ok(failure::json(StatusCode::OK, &body))
}

/// HMAC-SHA1 in hexadecimal over the nonce, username, password and whether it is an administrator, each but the last
/// followed by a NUL; a user type follows with a NUL before it. Compared in constant time.
fn is_signed(registration: &Registration, secret: &str) -> Result<bool, Fault> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).map_err(|error| Fault::new(error.to_string()))?;
    let admin = if registration.admin { "admin" } else { "notadmin" };
    let parts = [&*registration.nonce, &*registration.username, &*registration.password, admin];
    mac.update(parts.join("\0").as_bytes());
    if let Some(user_type) = &registration.user_type {
        mac.update(b"\0");
        mac.update(user_type.as_bytes());
    }
    Ok(decode_hex(&registration.mac).is_some_and(|tag| mac.verify_slice(&tag).is_ok()))
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use http::StatusCode;
    use serde_json::{Value, json};
    use sha1::Sha1;

    use crate::testing::{TestServer, refused};

    fn signed(nonce: &str, username: &str, admin: bool, secret: &str) -> Value {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
        let word = if admin { "admin" } else { "notadmin" };
        mac.update(format!("{nonce}\0{username}\0secret\0{word}").as_bytes());
        let mac: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        json!({ "nonce": nonce, "username": username, "password": "secret", "admin": admin, "mac": mac })
    }

    fn nonce(server: &TestServer) -> String {
        server.get(super::PATH, "").1["nonce"].as_str().unwrap().to_owned()
    }

    /// The token of a new administrator; the server has to have this secret.
    pub(in crate::admin) fn administrator(server: &TestServer) -> String {
        let (status, answer) = server.post(super::PATH, "", &signed(&nonce(server), "root", true, SECRET));
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    pub(in crate::admin) const SECRET: &str = "open sesame";

    #[test]
    fn who_knows_the_secret_registers_even_where_registration_is_closed() {
        let server = TestServer::new(&[("REGISTRATION_SHARED_SECRET", "open sesame")]);
        let body = signed(&nonce(&server), "root", true, "open sesame");
        let (status, answer) = server.post(super::PATH, "", &body);
        assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!("@root:localhost")), "{answer}");
        assert_eq!(refused(server.post(super::PATH, "", &body)), (400, "M_UNKNOWN".to_owned()), "a nonce is used once");
        // An administrator, and only one, makes registration tokens.
        let tokens = "/_synapse/admin/v1/registration_tokens/new";
        let root = answer["access_token"].as_str().unwrap();
        let (status, made) = server.post(tokens, root, &json!({ "token": "friends", "uses_allowed": 3 }));
        assert_eq!((status, &made["uses_allowed"]), (StatusCode::OK, &json!(3)));
        assert_eq!(
            refused(server.post(tokens, root, &json!({ "token": "friends" }))),
            (400, "M_INVALID_PARAM".to_owned())
        );
        let bob = server.post(super::PATH, "", &signed(&nonce(&server), "bob", false, "open sesame")).1;
        let refusal = refused(server.post(tokens, bob["access_token"].as_str().unwrap(), &json!({})));
        assert_eq!(refusal, (403, "M_FORBIDDEN".to_owned()));
    }

    #[test]
    fn who_does_not_know_it_does_not() {
        let server = TestServer::new(&[("REGISTRATION_SHARED_SECRET", "open sesame")]);
        let guess = signed(&nonce(&server), "eve", true, "open barley");
        assert_eq!(refused(server.post(super::PATH, "", &guess)), (403, "M_FORBIDDEN".to_owned()));
        let mut raised = signed(&nonce(&server), "eve", false, "open sesame");
        raised["admin"] = true.into();
        assert_eq!(refused(server.post(super::PATH, "", &raised)), (403, "M_FORBIDDEN".to_owned()));
        let own = signed("nonce", "eve", true, "open sesame");
        assert_eq!(refused(server.post(super::PATH, "", &own)), (400, "M_UNKNOWN".to_owned()));
        let late = signed(&nonce(&server), "eve", true, "open sesame");
        server.pass_ms(super::NONCE_MS);
        assert_eq!(refused(server.post(super::PATH, "", &late)), (400, "M_UNKNOWN".to_owned()));
        assert_eq!(refused(TestServer::new(&[]).get(super::PATH, "")), (404, "M_UNRECOGNIZED".to_owned()));
    }

    #[test]
    fn hexadecimal_is_read() {
        assert_eq!(super::decode_hex("00ffA0"), Some(vec![0, 255, 160]));
        for text in ["0", "0g", "é0"] {
            assert_eq!(super::decode_hex(text), None);
        }
    }
}
