//! Proving that an email address is somebody's: a link goes to the address, and whoever opens it confirms it.
//!
//! A session is named by what it is for, the address, and the client's secret, of which it is a digest: so who asks
//! again has the same session, and who knows the secret needs nothing else to use it. Of the link's token only the hash
//! is kept.
//! Spec: `POST …/email/requestToken`; Identity Service API, "Email associations".

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use domain::{
    RateLimited, Refusal,
    config::Mail,
    contact::{Email, check_secret},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Message, send};
use crate::{
    Context, Failure, Routes, failure,
    html::{escaped, page, page_that_leaves},
    metadata::{
        contact,
        email_validation::{self, Link, Requested},
    },
    router::query,
};

/// How long a link is good, in milliseconds: one hour.
const LINK_MS: u64 = 3_600_000;
/// How long a proof is good for what it was made for, in milliseconds: one day.
const PROOF_MS: u64 = 86_400_000;
/// The longest address that whoever confirmed is sent on to, in bytes.
const NEXT_LINK_BYTES_MAX: usize = 2_048;

pub(crate) const PATH: &str = "/_myelin/client/validate_email";
const CONFIRM: &str = include_str!("pages/confirm.html");
const CONFIRMED: &str = include_str!("pages/confirmed.html");
const EXPIRED: &str = include_str!("pages/expired.html");

pub(crate) fn routes(routes: &mut Routes) {
    routes.add_raw(Method::GET, PATH, show);
    routes.add_raw(Method::POST, PATH, confirm);
}

/// What an address is proven for. A proof for one thing is none for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Register,
    ResetPassword,
    Add,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Register, Self::ResetPassword, Self::Add];

    /// Its name, stable: sessions are named by it.
    fn as_str(self) -> &'static str {
        match self {
            Purpose::Register => "register",
            Purpose::ResetPassword => "password",
            Purpose::Add => "add",
        }
    }

    fn said(self) -> &'static str {
        match self {
            Purpose::Register => "register an account",
            Purpose::ResetPassword => "set a new password for your account",
            Purpose::Add => "add this address to your account",
        }
    }
}

/// What a client shows of a session. Spec: "Email-based (identity / homeserver)".
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Credentials {
    pub sid: String,
    pub client_secret: String,
}

/// An address that somebody proved to be theirs.
pub(crate) struct Proven {
    pub sid: String,
    pub address: String,
    pub validated_ms: u64,
}

impl Proven {
    fn of(sid: &str, email_validation::Proven { address, validated_ms }: email_validation::Proven) -> Self {
        Self { sid: sid.to_owned(), address, validated_ms }
    }
}

/// What a client asks with. Spec: `RequestEmailValidation`.
#[derive(Deserialize)]
pub(crate) struct Wish {
    client_secret: String,
    email: String,
    send_attempt: u64,
    next_link: Option<String>,
}

/// `POST …/email/requestToken`.
///
/// # Errors
/// `M_INVALID_PARAM` for what cannot be; `M_THREEPID_IN_USE` for an address of an account here, and
/// `M_THREEPID_NOT_FOUND` for one of none, as the purpose has it; `M_LIMIT_EXCEEDED`; 502 if the message is not taken.
pub(crate) async fn request(
    cx: &Context,
    mail: &Mail,
    purpose: Purpose,
    wish: Wish,
) -> Result<Response<Bytes>, Failure> {
    let Wish { client_secret, email, send_attempt, next_link } = wish;
    check_secret("client_secret", &client_secret)?;
    let email = Email::parse(&email)?;
    let next_link = next_link.filter(|link| !link.is_empty());
    next_link.as_deref().map_or(Ok(()), check_next_link)?;
    let of_client = cx.limit_by_address(RateLimited::EmailValidation)?;
    let of_email = cx.limit(RateLimited::EmailValidation, email.as_str())?;
    match (purpose, contact::owner(cx.metadata(), &email).await?) {
        (Purpose::Register | Purpose::Add, Some(_)) => return Err(Refusal::ThreepidInUse.into()),
        (Purpose::ResetPassword, None) => {
            return Err(Refusal::ThreepidNotFound("Nobody is known here by this address".to_owned()).into());
        }
        _ => {}
    }
    let sid = session(purpose, &email, &client_secret);
    let token = BASE64_URL_SAFE_NO_PAD.encode(cx.random::<32>()?);
    let token_hash = hash(&token);
    let requested = Requested {
        sid: &sid,
        purpose: purpose.as_str(),
        address: email.as_str(),
        token_hash: &token_hash,
        send_attempt,
        next_link: next_link.as_deref(),
        expires_ms: cx.now_ms().saturating_add(LINK_MS),
    };
    if email_validation::request(cx.metadata(), &requested, cx.now_ms()).await? {
        of_client.keep();
        of_email.keep();
        if let Err(failure) = send(cx, mail, &email, message(cx, purpose, &sid, &token)).await {
            // It was not sent: the same attempt may be made again.
            email_validation::forget(cx.metadata(), &sid, requested.token_hash).await?;
            return Err(failure);
        }
    } else {
        // «If they do not, the server should respond with success but not resend the email.»
        of_client.give_back();
        of_email.give_back();
    }
    Ok(failure::json(StatusCode::OK, &json!({ "sid": sid })))
}

/// Whoever follows it goes to a web page.
fn check_next_link(link: &str) -> Result<(), Refusal> {
    let is_web = link.starts_with("https://") || link.starts_with("http://");
    if is_web && link.len() <= NEXT_LINK_BYTES_MAX && HeaderValue::from_str(link).is_ok() {
        return Ok(());
    }
    Err(Refusal::InvalidParam("`next_link` is an https:// or http:// URL".to_owned()))
}

fn session(purpose: Purpose, email: &Email, client_secret: &str) -> String {
    hash(&format!("{} {} {client_secret}", purpose.as_str(), email.as_str()))
}

fn hash(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

fn message(cx: &Context, purpose: Purpose, sid: &str, token: &str) -> Message {
    let server = cx.server_name();
    let link = format!("{}{PATH}?sid={sid}&token={token}", cx.config().public_baseurl);
    Message {
        subject: format!("Confirm your email address for {server}"),
        text: format!(
            "Hello,\n\nsomebody, hopefully you, asked {server} to {}.\n\nIf it was you, open this link within an hour and \
             confirm:\n\n{link}\n\nIf it was not, you need not do anything.\n",
            purpose.said()
        ),
        unsubscribe: None,
    }
}

/// The address that a session proved, if it did. The proof stays good until it is [taken](take).
pub(crate) async fn proven(
    cx: &Context,
    purpose: Purpose,
    credentials: &Credentials,
) -> Result<Option<Proven>, Failure> {
    let Credentials { sid, client_secret } = credentials;
    let Some(found) = email_validation::proven(cx.metadata(), sid, cx.now_ms()).await? else { return Ok(None) };
    let Ok(email) = Email::parse(&found.address) else { return Ok(None) };
    // Only who knows the secret can name the session.
    let is_theirs = session(purpose, &email, client_secret) == *sid;
    Ok(is_theirs.then(|| Proven::of(sid, found)))
}

/// What a session proved that was [shown with its secret](proven).
pub(crate) async fn of_session(cx: &Context, sid: &str) -> Result<Option<Proven>, Failure> {
    Ok(email_validation::proven(cx.metadata(), sid, cx.now_ms()).await?.map(|found| Proven::of(sid, found)))
}

/// Uses a proof up; `None` if somebody else did, or its time is over.
pub(crate) async fn take(cx: &Context, sid: &str) -> Result<Option<Proven>, Failure> {
    Ok(email_validation::take(cx.metadata(), sid, cx.now_ms()).await?.map(|taken| Proven::of(sid, taken)))
}

/// What a proof was taken for came to nothing.
pub(crate) async fn give_back(cx: &Context, proven: &Proven) -> Result<(), Failure> {
    let until_ms = proven.validated_ms.saturating_add(PROOF_MS);
    Ok(email_validation::give_back(cx.metadata(), &proven.sid, until_ms).await?)
}

#[derive(Deserialize)]
struct Opened {
    #[serde(default)]
    sid: String,
    #[serde(default)]
    token: String,
}

async fn link(cx: &Context, request: &Request<Bytes>) -> Result<Option<Link>, Failure> {
    let Opened { sid, token } = query(request)?;
    Ok(email_validation::link(cx.metadata(), &sid, &hash(&token), cx.now_ms()).await?)
}

/// The page behind the link. Opening it changes nothing: programs open links, too.
async fn show(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let Some(link) = link(cx, &request).await? else { return Ok(expired()) };
    let text = match link.validated {
        true => CONFIRMED.to_owned(),
        false => {
            let purpose = Purpose::ALL.into_iter().find(|purpose| purpose.as_str() == link.purpose);
            CONFIRM
                .replace("{address}", &escaped(&link.address))
                .replace("{server}", cx.server_name().as_str())
                .replace("{purpose}", purpose.map_or("do this", Purpose::said))
        }
    };
    Ok(if link.next_link.is_some() { page_that_leaves(text) } else { page(text) })
}

async fn confirm(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let Some(link) = link(cx, &request).await? else { return Ok(expired()) };
    if !link.validated {
        let proof_until_ms = cx.now_ms().saturating_add(PROOF_MS);
        email_validation::confirm(cx.metadata(), &link.sid, cx.now_ms(), proof_until_ms).await?;
    }
    let mut answer = page(CONFIRMED.to_owned());
    if let Some(next) = link.next_link.and_then(|next| HeaderValue::from_str(&next).ok()) {
        *answer.status_mut() = StatusCode::SEE_OTHER;
        answer.headers_mut().insert(header::LOCATION, next);
    }
    Ok(answer)
}

fn expired() -> Response<Bytes> {
    let mut answer = page(EXPIRED.to_owned());
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}
