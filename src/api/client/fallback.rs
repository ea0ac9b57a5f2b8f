//! Pages for clients that cannot do it themselves: logging in, and stages of user-interactive authentication.
//! Spec: "Login Fallback", "Fallback".

use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response};
use ruma_client_api::uiaa::AuthType;
use serde::Deserialize;

use crate::{
    Context, Failure, Routes,
    html::{escaped, page, page_with_captcha},
    uiaa::{self, Form},
};

const LOGIN: &str = include_str!("pages/login.html");
const TERMS: &str = include_str!("pages/terms.html");
const DUMMY: &str = include_str!("pages/dummy.html");
const REGISTRATION_TOKEN: &str = include_str!("pages/registration_token.html");
const RECAPTCHA: &str = include_str!("pages/recaptcha.html");
const DONE: &str = include_str!("pages/done.html");

pub(super) fn routes(routes: &mut Routes) {
    routes.add_raw(Method::GET, "/_matrix/static/client/login/", login);
    for path in ["/_matrix/client/v3/auth/{auth_type}/fallback/web", "/_matrix/client/r0/auth/{auth_type}/fallback/web"]
    {
        routes.add_raw(Method::GET, path, show_stage);
        routes.add_raw(Method::POST, path, complete_stage);
    }
}

async fn login(_: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    Ok(page(LOGIN.to_owned()))
}

#[derive(Deserialize)]
struct Session {
    session: String,
}

async fn show_stage(
    cx: &Context,
    (): (),
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let stage = stage(&path_args);
    if !uiaa::is_session(cx, &session(&request)?)? {
        return Err(Refusal::InvalidParam("This session is not known, or has expired".to_owned()).into());
    }
    Ok(shown(&stage, form(cx, &stage, "")?))
}

async fn complete_stage(
    cx: &Context,
    (): (),
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let stage = stage(&path_args);
    // A stage that has no page cannot be completed on one.
    form(cx, &stage, "")?;
    let sent: Form =
        serde_html_form::from_bytes(request.body()).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    match uiaa::complete_elsewhere(cx, &session(&request)?, &stage, sent).await? {
        None => Ok(page(DONE.to_owned())),
        Some(wrong) => Ok(shown(&stage, form(cx, &stage, wrong)?)),
    }
}

fn shown(stage: &AuthType, html: String) -> Response<Bytes> {
    if *stage == AuthType::ReCaptcha { page_with_captcha(html) } else { page(html) }
}

fn stage(path_args: &[String]) -> AuthType {
    AuthType::from(path_args.first().map_or("", String::as_str))
}

fn session(request: &Request<Bytes>) -> Result<String, Refusal> {
    let Session { session } = serde_html_form::from_str(request.uri().query().unwrap_or_default())
        .map_err(|_| Refusal::MissingParam("The address has no session".to_owned()))?;
    Ok(session)
}

/// The page of a stage, with what was wrong the last time.
fn form(cx: &Context, stage: &AuthType, wrong: &str) -> Result<String, Refusal> {
    let config = cx.config();
    let page = match (stage, &config.terms, &config.recaptcha) {
        (AuthType::Dummy, ..) => DUMMY.to_owned(),
        (AuthType::RegistrationToken, ..) => REGISTRATION_TOKEN.to_owned(),
        (AuthType::Terms, Some(terms), _) => {
            TERMS.replace("{name}", &escaped(&terms.name)).replace("{url}", &escaped(&terms.url))
        }
        (AuthType::ReCaptcha, _, Some(recaptcha)) => RECAPTCHA.replace("{public_key}", &escaped(&recaptcha.public_key)),
        _ => return Err(Refusal::Unrecognized { status: 404 }),
    };
    Ok(page.replace("{wrong}", &escaped(wrong)))
}
