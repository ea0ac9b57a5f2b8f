//! Which server sent a request. Spec: "Request Authentication".

use bytes::Bytes;
use domain::{
    Refusal,
    federation::{
        server_keys::Signed,
        x_matrix::{SignedRequest, XMatrix},
    },
};
use http::{Request, header};
use ruma_common::OwnedServerName;
use ruma_federation_api::authentication::ServerSignatures;

use super::NeededKey;
use crate::{
    Context, Failure,
    authenticate::{Authenticate, Who},
};

/// Signatures of one request that are looked at.
const SIGNATURES_MAX: usize = 8;

/// The server that sent a request: it bears its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(pub OwnedServerName);

impl Authenticate for ServerSignatures {
    type Caller = Origin;
}

/// Who says that they sent a request, with their signatures.
fn claimed(cx: &Context, request: &Request<Bytes>) -> Result<(OwnedServerName, Vec<XMatrix>), Failure> {
    // One header for each key that a server signs with: one good signature is enough.
    let headers = request.headers().get_all(header::AUTHORIZATION).into_iter();
    let headers = headers.take(SIGNATURES_MAX);
    let given: Vec<XMatrix> = headers.filter_map(|header| XMatrix::parse(header.to_str().ok()?)).collect();
    let Some(first) = given.first() else {
        return Err(unauthorized("This request needs the signature of a server, as X-Matrix"));
    };
    let origin = first.origin.clone();
    if given.iter().any(|given| given.destination.as_deref().is_some_and(|name| name != cx.server_name())) {
        return Err(unauthorized("This request is for another server"));
    }
    if origin == cx.server_name() || given.iter().any(|given| given.origin != origin) {
        return Err(unauthorized("This request is not from another server"));
    }
    if !cx.config().federation.allows(&origin) {
        return Err(Refusal::Forbidden("This server does not talk to yours".to_owned()).into());
    }
    Ok((origin, given))
}

impl Who for Origin {
    // The signature is of the body, too.
    const NEEDS_BODY: bool = true;

    fn check_head(cx: &Context, head: &Request<Bytes>) -> Result<(), Failure> {
        claimed(cx, head).map(drop)
    }

    async fn of(cx: &Context, request: &Request<Bytes>) -> Result<Self, Failure> {
        let (origin, given) = claimed(cx, request)?;
        let signed = Signed::Request { now_ms: cx.now_ms() };
        let needed =
            given.iter().map(|given| NeededKey { server: origin.clone(), key_id: given.key_id.clone(), signed });
        let keys = cx.server_keys_for_stranger(needed).await?;
        let uri = request.uri().path_and_query().map_or("/", |uri| uri.as_str());
        let what = SignedRequest { method: request.method().as_str(), uri, content: request.body() };
        let is_good = |given: &XMatrix| {
            let key = keys.key_for(&origin, &given.key_id, signed);
            key.is_some_and(|key| given.is_of(&what, cx.server_name(), key))
        };
        if given.iter().any(is_good) {
            cx.hears_of(&origin).await?;
            return Ok(Self(origin));
        }
        let is_known = given.iter().any(|given| keys.key_for(&origin, &given.key_id, signed).is_some());
        Err(unauthorized(if is_known { "The signature is not of this request" } else { "The key is not to be had" }))
    }
}

fn unauthorized(why: &str) -> Failure {
    Refusal::Unauthorized(why.to_owned()).into()
}
