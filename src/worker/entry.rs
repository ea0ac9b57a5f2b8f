//! Requests from outside: from the runtime's types to `http`'s, and the answer back.

use std::{cell::RefCell, rc::Rc};

use api::{Arriving, Body, ClientAddress, Server, Services, Unread, is_seen_through};
use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    future::{Either, select},
};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header::CONTENT_LENGTH};
use js_sys::{Array, Promise, Uint8Array};
use platform::{Blob, Clock, Fault, Heavy, Pieces};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise};
use web_sys::{Headers, ReadableStream, Request, Response, ResponseInit};
use worker::Env;

use crate::{
    actors_by_stub::Stubs,
    chance::Runtime,
    contract,
    js::{self, Leaving, Reading},
    outgoing,
    r2::R2,
    settings::{known_servers, media_turns, metadata, rate_limits, routes, settings},
};

/// Whom the platform heard from. It sets this itself: what a client writes there does not arrive.
const CONNECTING_IP: &str = "cf-connecting-ip";

/// What nobody wanted of a request is still taken in for so long, or so many bytes, that the client gets to read its
/// answer.
const DISCARD_TIMEOUT_MS: u64 = 10_000;
const DISCARDED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The runtime ends what goes on for 30 seconds after an answer, as carriers do. In what is left they say how far they
/// got.
const CARRIER_MS_MAX: u64 = 26_000;

/// Answers one request. Rejects only when not even an answer could be made.
#[wasm_bindgen]
pub fn answer(request: Request, env: Env) -> Promise {
    future_to_promise(async move {
        let leaving = Until(Leaving::new(&request)?);
        let answered = Box::pin(respond(&request, &env));
        if Method::from_bytes(request.method().as_bytes()).is_ok_and(|method| is_seen_through(&method)) {
            // The runtime gives what goes on without a client half a minute.
            return answered.await;
        }
        match select(answered, JsFuture::from(leaving.0.promise())).await {
            Either::Left((response, _)) => response,
            // Nobody reads an answer. Dropping the work closes what it waits on.
            Either::Right(_) => Ok(Response::new()?.into()),
        }
    })
}

/// Carries out of this server what an actor has for others. Never rejects.
#[wasm_bindgen]
pub fn carry(actor: String, env: Env) -> Promise {
    future_to_promise(async move {
        let until_ms = Runtime.now_ms().saturating_add(CARRIER_MS_MAX);
        match services(&env).await {
            Ok(services) => {
                let outgoing = Rc::new(outgoing::Runtime::until(&services.settings.config.outgoing, until_ms));
                let (routes, services) = (routes(&services.settings), Services { outgoing, ..services });
                Server::new(services, routes).carry(&actor).await;
            }
            Err(fault) => tracing::error!(%fault, "the server cannot start"),
        }
        Ok(JsValue::UNDEFINED)
    })
}

/// Does what has to be done from time to time.
#[wasm_bindgen]
pub fn tend(env: Env) -> Promise {
    future_to_promise(async move {
        let done = async {
            let services = services(&env).await?;
            let routes = routes(&services.settings);
            Server::new(services, routes).tend().await
        };
        if let Err(fault) = done.await {
            tracing::error!(%fault, "what has to be done from time to time was not");
        }
        Ok(JsValue::UNDEFINED)
    })
}

/// Stops listening when the answer is made.
struct Until(Leaving);

impl Drop for Until {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A `Response`, or a [`Streamed`] that is to become one.
async fn respond(request: &Request, env: &Env) -> Result<JsValue, JsValue> {
    let body = match request.body() {
        Some(body) => Some(Rc::new(Reading::of(&body)?)),
        None => None,
    };
    let answer = match read(request, body.clone()) {
        Ok(request) => match services(env).await {
            Ok(services) if contract::is_asked(&request, &services) => {
                contract::answer(env, &services).await.map(Body::from)
            }
            Ok(services) => {
                let routes = routes(&services.settings);
                Server::new(services, routes).answer(request).await
            }
            Err(fault) => {
                tracing::error!(%fault, "the server cannot start");
                js::console_error(&format!("the server cannot start: {fault}"));
                error(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "The server cannot start; its log says why.")
            }
        },
        Err(fault) => error(StatusCode::BAD_REQUEST, "M_UNKNOWN", &fault.to_string()),
    };
    if let Some(body) = body {
        select(Box::pin(discard(&body)), Runtime.pause(DISCARD_TIMEOUT_MS)).await;
    }
    write(answer)
}

async fn services(env: &Env) -> Result<Services, Fault> {
    let settings = settings(env).await?;
    Ok(Services {
        actors: Rc::new(Stubs::new(env.clone())),
        metadata: metadata(env)?,
        blobs: Rc::new(R2::bound(env)?),
        clock: Rc::new(Runtime),
        random: Rc::new(Runtime),
        heavy: Rc::new(Runtime),
        rate_limits: rate_limits(&settings),
        outgoing: Rc::new(outgoing::Runtime::new(&settings.config.outgoing)),
        known_servers: known_servers(),
        media_turns: media_turns(),
        carrier_ms_max: Some(CARRIER_MS_MAX),
        settings,
    })
}

/// The request, with its body yet to arrive.
fn read(request: &Request, body: Option<Rc<Reading>>) -> Result<http::Request<Arriving>, Fault> {
    let failed = |thrown: JsValue| js::fault("request", &thrown);
    let malformed = |error: http::Error| Fault::new(format!("request: {error}"));
    let mut parsed = http::Request::new(Arriving::from(Bytes::new()));
    *parsed.method_mut() = Method::from_bytes(request.method().as_bytes()).map_err(|error| malformed(error.into()))?;
    *parsed.uri_mut() = origin_form(&request.url()).parse::<Uri>().map_err(|error| malformed(error.into()))?;
    for entry in request.headers().entries() {
        let entry: Array = entry.map_err(failed)?.unchecked_into();
        let (Some(name), Some(value)) = (entry.get(0).as_string(), entry.get(1).as_string()) else { continue };
        // The runtime's headers are strings of bytes, one character each.
        let value: Vec<u8> = value.chars().filter_map(|byte| u8::try_from(u32::from(byte)).ok()).collect();
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            parsed.headers_mut().append(name, value);
        }
    }
    let address = parsed.headers().get(CONNECTING_IP).and_then(|address| address.to_str().ok()?.parse().ok());
    if let Some(address) = address {
        parsed.extensions_mut().insert(ClientAddress(address));
    }
    if let Some(body) = body {
        let length = parsed.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        *parsed.body_mut() = Arriving::new(length, Reading::on(body).map_err(|_| Unread::Broken));
    }
    Ok(parsed)
}

/// Path and query of a URL, as a request line has them.
fn origin_form(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    after_scheme.find('/').and_then(|start| after_scheme.get(start..)).unwrap_or("/")
}

/// Takes in what is left of a body.
async fn discard(body: &Reading) {
    let mut discarded = 0_usize;
    while discarded <= DISCARDED_BYTES_MAX {
        match body.next().await {
            Ok(Some(piece)) => discarded = discarded.saturating_add(piece.length() as usize),
            // A body that broke is no worse than one that ended.
            Ok(None) | Err(_) => return,
        }
    }
}

fn write(answer: http::Response<Body>) -> Result<JsValue, JsValue> {
    let headers = Headers::new()?;
    for (name, value) in answer.headers() {
        let value: String = value.as_bytes().iter().copied().map(char::from).collect();
        headers.append(name.as_str(), &value)?;
    }
    let status = answer.status().as_u16();
    let init = ResponseInit::new();
    init.set_status(status);
    init.set_headers(&headers);
    match answer.into_body() {
        Body::Whole(bytes) => {
            // Some statuses have no body, not even an empty one.
            let body = (!bytes.is_empty()).then(|| Uint8Array::from(bytes.as_ref()));
            Ok(Response::new_with_opt_js_u8_array_and_init(body.as_ref(), &init)?.into())
        }
        Body::Stored(Blob { pieces, of_host }) => match of_host.and_then(|of_host| of_host.downcast().ok()) {
            // The runtime sends a stream of its own without waking us for it.
            Some(stream) => {
                let stream: Box<ReadableStream> = stream;
                Ok(Response::new_with_opt_readable_stream_and_init(Some(&stream), &init)?.into())
            }
            None => Ok(Streamed::new(status, headers, pieces).into()),
        },
        Body::Pieces(pieces) => Ok(Streamed::new(status, headers, pieces).into()),
    }
}

/// An answer made while it is sent. The entry pulls its pieces, and frees this when nobody
/// wants more: the work that makes them ends with it.
#[wasm_bindgen]
pub struct Streamed {
    status: u16,
    headers: Headers,
    /// Not there while a piece is being made, and at the end.
    pieces: Rc<RefCell<Option<Pieces>>>,
}

impl Streamed {
    fn new(status: u16, headers: Headers, pieces: Pieces) -> Self {
        Self { status, headers, pieces: Rc::new(RefCell::new(Some(pieces))) }
    }
}

#[wasm_bindgen]
impl Streamed {
    #[wasm_bindgen(getter)]
    pub fn status(&self) -> u16 {
        self.status
    }

    #[wasm_bindgen(getter)]
    pub fn headers(&self) -> Headers {
        self.headers.clone()
    }

    /// The next piece, `undefined` at the end. Rejects when there is no more to be had: the connection must break.
    pub fn next(&self) -> Promise {
        let pieces = self.pieces.clone();
        future_to_promise(async move {
            let Some(mut made) = pieces.take() else { return Ok(JsValue::UNDEFINED) };
            match made.next().await {
                Some(Ok(piece)) => {
                    pieces.replace(Some(made));
                    Ok(Uint8Array::from(piece.as_ref()).into())
                }
                Some(Err(fault)) => {
                    tracing::error!(%fault, "an answer was cut short");
                    Err(js_sys::Error::new("cut short").into())
                }
                None => Ok(JsValue::UNDEFINED),
            }
        })
    }
}

fn error(status: StatusCode, errcode: &str, message: &str) -> http::Response<Body> {
    let body = serde_json::json!({ "errcode": errcode, "error": message }).to_string();
    let mut response = http::Response::new(Bytes::from(body).into());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
