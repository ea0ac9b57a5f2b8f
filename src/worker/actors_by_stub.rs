//! Reaches any actor through the runtime: a stub by name, and a fetch whose path names the call.
//!
//! `POST /call/NAME` carries a call. `GET /wait/NAME` asks for an upgrade and carries the call's body in the
//! header `myelin-body`, because an upgrade has none: the object answers at once, or parks the socket and
//! sleeps until it has something to say. `POST /evict` is for tests; the entry module sees to it.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::{Either, select};
use js_sys::{ArrayBuffer, Uint8Array};
use platform::{ActorKind, Actors, Address, Clock, Fault, LocalFuture};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{Headers, RequestInit, Response};
use worker::Env;

use crate::{
    chance::Runtime,
    js::{self, FirstMessage, Namespace},
};

/// Carries a waiting call's body, in base64.
pub(crate) const BODY_HEADER: &str = "myelin-body";
/// Carries when a waiting call's caller leaves, in milliseconds since the Unix epoch.
pub(crate) const DEADLINE_HEADER: &str = "myelin-deadline";
/// The largest body of a waiting call, in bytes: what the object keeps with its socket is at most 16 KiB.
pub(crate) const WAIT_BODY_BYTES_MAX: usize = 12 * 1024;
/// An object closes a waiting call's socket with this code when the call has waited for long enough.
pub(crate) const WAIT_IS_OVER: u16 = 4000;
/// How often a wait is taken up again when the object restarted under it.
const WAIT_ATTEMPTS_MAX: usize = 2;

/// The binding of the actors of one kind.
fn binding(kind: ActorKind) -> &'static str {
    match kind {
        ActorKind::Room => "ROOM",
        ActorKind::User => "USER",
        ActorKind::Destination => "DESTINATION",
        ActorKind::Appservice => "APPSERVICE",
    }
}

/// The actors of this deployment.
pub(crate) struct Stubs {
    env: Env,
}

impl Stubs {
    pub(crate) fn new(env: Env) -> Self {
        Self { env }
    }

    /// Sends one request to an object. A stub whose object is gone is broken, so each request takes its own.
    async fn fetch(&self, to: &Address, path: &str, init: &RequestInit) -> Result<Response, JsValue> {
        let namespace: Namespace = js_sys::Reflect::get(&self.env, &binding(to.kind).into())?.unchecked_into();
        let stub = namespace.get_by_name(&to.id)?;
        let response = JsFuture::from(stub.fetch(&format!("https://actor/{path}"), init)?).await?;
        response.dyn_into()
    }

    /// As [`Stubs::fetch`], repeated once when the runtime says that this may help.
    async fn fetch_or_retry(&self, to: &Address, path: &str, init: &RequestInit) -> Result<Response, Fault> {
        let response = match self.fetch(to, path, init).await {
            Err(thrown) if js::is_retryable(&thrown) => self.fetch(to, path, init).await,
            outcome => outcome,
        };
        response.map_err(|thrown| js::fault(&to.to_string(), &thrown))
    }

    /// Sends `body` to one of an object's paths and answers what it replied.
    pub(crate) async fn post(&self, to: &Address, path: &str, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let init = RequestInit::new();
        init.set_method("POST");
        init.set_body(&Uint8Array::from(body));
        let response = self.fetch_or_retry(to, path, &init).await?;
        reply(to, &response).await
    }

    /// Waits once, for `timeout_ms` at most.
    async fn wait_once(&self, to: &Address, call: &str, body: &[u8], timeout_ms: u64) -> Result<Waited, Fault> {
        let failed = |thrown: JsValue| js::fault(&to.to_string(), &thrown);
        let headers = Headers::new().map_err(failed)?;
        let deadline_ms = Runtime.now_ms().saturating_add(timeout_ms);
        for (name, value) in [
            ("upgrade", "websocket"),
            (BODY_HEADER, &STANDARD.encode(body)),
            (DEADLINE_HEADER, &deadline_ms.to_string()),
        ] {
            headers.set(name, value).map_err(failed)?;
        }
        let init = RequestInit::new();
        init.set_headers(&headers);
        let response = self.fetch_or_retry(to, &format!("wait/{call}"), &init).await?;
        let Some(socket) = js::socket_of(&response) else { return reply(to, &response).await.map(Waited::Answered) };
        let socket = Closing(FirstMessage::new(&socket).map_err(failed)?);
        let message = JsFuture::from(socket.0.promise());
        let timeout = worker::Delay::from(Duration::from_millis(timeout_ms));
        match select(message, timeout).await {
            Either::Left((message, _)) => {
                let message = message.map_err(failed)?;
                Ok(match message.dyn_ref::<ArrayBuffer>() {
                    Some(bytes) => Waited::Answered(Uint8Array::new(bytes).to_vec()),
                    None if message.as_f64() == Some(f64::from(WAIT_IS_OVER)) => Waited::Over,
                    None => Waited::Lost,
                })
            }
            Either::Right(_) => Ok(Waited::Over),
        }
    }
}

impl Actors for Stubs {
    fn call<'a>(&'a self, to: &'a Address, call: &'a str, body: Vec<u8>) -> LocalFuture<'a, Result<Vec<u8>, Fault>> {
        Box::pin(async move { self.post(to, &format!("call/{call}"), &body).await })
    }

    fn wait<'a>(
        &'a self,
        to: &'a Address,
        call: &'a str,
        body: Vec<u8>,
        timeout_ms: u64,
    ) -> LocalFuture<'a, Result<Option<Vec<u8>>, Fault>> {
        Box::pin(async move {
            if body.len() > WAIT_BODY_BYTES_MAX {
                return Err(Fault::new(format!("waiting call {call} of {} bytes", body.len())));
            }
            let until_ms = Runtime.now_ms().saturating_add(timeout_ms);
            for _ in 0..WAIT_ATTEMPTS_MAX {
                let left_ms = until_ms.saturating_sub(Runtime.now_ms());
                match self.wait_once(to, call, &body, left_ms).await? {
                    Waited::Answered(reply) => return Ok(Some(reply)),
                    Waited::Lost if Runtime.now_ms() < until_ms => {}
                    Waited::Over | Waited::Lost => return Ok(None),
                }
            }
            Ok(None)
        })
    }

    fn evict<'a>(&'a self, to: &'a Address) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let init = RequestInit::new();
            init.set_method("POST");
            match self.fetch(to, "evict", &init).await {
                Ok(_) => Err(Fault::new("eviction is for tests only")),
                // The object dies of it, so no answer comes.
                Err(_) => Ok(()),
            }
        })
    }
}

/// How one wait ended.
enum Waited {
    Answered(Vec<u8>),
    /// Its time passed, or the object ended it.
    Over,
    /// The object restarted under it.
    Lost,
}

/// The reply in an object's answer. Any status but 200 is the shell's word for a fault.
async fn reply(to: &Address, response: &Response) -> Result<Vec<u8>, Fault> {
    let failed = |thrown: JsValue| js::fault(&to.to_string(), &thrown);
    let body = JsFuture::from(response.array_buffer().map_err(failed)?).await.map_err(failed)?;
    let bytes = Uint8Array::new(&body).to_vec();
    match response.status() {
        200 => Ok(bytes),
        503 => Err(Fault::retriable(format!("{to}: {}", String::from_utf8_lossy(&bytes)))),
        _ => Err(Fault::new(format!("{to}: {}", String::from_utf8_lossy(&bytes)))),
    }
}

/// Closes the socket on every way out, or the object would keep it: answer, timeout, the client's leaving.
struct Closing(FirstMessage);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.end();
    }
}
