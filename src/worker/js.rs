//! The runtime's objects as this host uses them: every call that can throw is caught here.
//!
//! The `worker` crate leaves some of these out and does not catch others; an uncaught exception would abort
//! the whole instance.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, stream};
use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use platform::Fault;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{ReadableStream, ReadableStreamDefaultReader, Request, RequestInit, Response, WebSocket};

#[wasm_bindgen]
extern "C" {
    /// What the runtime gives each Durable Object.
    #[derive(Clone)]
    pub type ObjectState;
    #[wasm_bindgen(method, getter)]
    pub fn id(this: &ObjectState) -> ObjectId;
    #[wasm_bindgen(method, getter)]
    pub fn storage(this: &ObjectState) -> Storage;
    #[wasm_bindgen(method, catch, js_name = acceptWebSocket)]
    pub fn accept_web_socket(this: &ObjectState, socket: &ParkedSocket) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = getWebSockets)]
    pub fn web_sockets(this: &ObjectState) -> Result<Array, JsValue>;

    pub type ObjectId;
    #[wasm_bindgen(method, getter)]
    pub fn name(this: &ObjectId) -> Option<String>;

    pub type Storage;
    #[wasm_bindgen(method, getter)]
    pub fn sql(this: &Storage) -> SqlStorage;
    #[wasm_bindgen(method, catch, js_name = transactionSync)]
    pub fn transaction_sync(
        this: &Storage,
        body: &mut dyn FnMut() -> Result<JsValue, JsValue>,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = setAlarm)]
    pub fn set_alarm(this: &Storage, at_ms: f64) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = getAlarm)]
    pub fn alarm(this: &Storage) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = deleteAlarm)]
    pub fn delete_alarm(this: &Storage) -> Result<Promise, JsValue>;

    pub type SqlStorage;
    #[wasm_bindgen(method, catch, variadic)]
    pub fn exec(this: &SqlStorage, statement: &str, params: &Array) -> Result<SqlCursor, JsValue>;

    pub type SqlCursor;
    #[wasm_bindgen(method, catch)]
    pub fn raw(this: &SqlCursor) -> Result<RawRows, JsValue>;
    #[wasm_bindgen(method, getter, js_name = rowsRead)]
    pub fn rows_read(this: &SqlCursor) -> f64;
    #[wasm_bindgen(method, getter, js_name = rowsWritten)]
    pub fn rows_written(this: &SqlCursor) -> f64;

    pub type RawRows;
    #[wasm_bindgen(method, catch, js_name = toArray)]
    pub fn to_array(this: &RawRows) -> Result<Array, JsValue>;

    /// A class of Durable Objects, and the way to one of them.
    pub type Namespace;
    #[wasm_bindgen(method, catch, js_name = getByName)]
    pub fn get_by_name(this: &Namespace, name: &str) -> Result<Stub, JsValue>;

    pub type Stub;
    #[wasm_bindgen(method, catch)]
    pub fn fetch(this: &Stub, url: &str, init: &RequestInit) -> Result<Promise, JsValue>;

    /// An object's end of a socket; the object may sleep behind it.
    #[wasm_bindgen(extends = Object, js_name = WebSocket)]
    pub type ParkedSocket;
    #[wasm_bindgen(method, getter, js_name = readyState)]
    pub fn ready_state(this: &ParkedSocket) -> u16;
    #[wasm_bindgen(method, catch)]
    pub fn send(this: &ParkedSocket, message: &Uint8Array) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    pub fn close(this: &ParkedSocket, code: u16, reason: &str) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = serializeAttachment)]
    pub fn serialize_attachment(this: &ParkedSocket, value: &JsValue) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = deserializeAttachment)]
    pub fn deserialize_attachment(this: &ParkedSocket) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(js_name = ReadableStream)]
    type Readable;
    #[wasm_bindgen(method, catch, js_name = getReader)]
    fn reader(this: &Readable) -> Result<ReadableStreamDefaultReader, JsValue>;

    #[wasm_bindgen(js_name = WebSocketPair)]
    pub type SocketPair;
    #[wasm_bindgen(constructor, catch, js_class = WebSocketPair)]
    pub fn new() -> Result<SocketPair, JsValue>;
    #[wasm_bindgen(method, getter, js_name = "0")]
    pub fn client(this: &SocketPair) -> WebSocket;
    #[wasm_bindgen(method, getter, js_name = "1")]
    pub fn server(this: &SocketPair) -> ParkedSocket;

    #[wasm_bindgen(js_namespace = console, js_name = log)]
    pub fn console_log(line: &str);
    #[wasm_bindgen(js_namespace = console, js_name = warn)]
    pub fn console_warn(line: &str);
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    pub fn console_error(line: &str);
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = fetch)]
    pub fn fetch(request: &Request) -> Promise;

    /// A connection of our own to somebody else.
    pub type RawSocket;
    /// Settles when the connection is made, or cannot be.
    #[wasm_bindgen(method, catch, getter)]
    pub fn opened(this: &RawSocket) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = startTls)]
    pub fn start_tls(this: &RawSocket, options: &Object) -> Result<RawSocket, JsValue>;
}

#[wasm_bindgen(module = "cloudflare:sockets")]
extern "C" {
    #[wasm_bindgen(catch)]
    pub fn connect(address: &Object, options: &Object) -> Result<RawSocket, JsValue>;
}

#[wasm_bindgen(module = "/waits.mjs")]
extern "C" {
    pub type FirstMessage;
    #[wasm_bindgen(constructor, catch)]
    pub fn new(socket: &WebSocket) -> Result<FirstMessage, JsValue>;
    #[wasm_bindgen(method, getter)]
    pub fn promise(this: &FirstMessage) -> Promise;
    #[wasm_bindgen(method)]
    pub fn end(this: &FirstMessage);

    pub type Leaving;
    #[wasm_bindgen(constructor, catch)]
    pub fn new(request: &Request) -> Result<Leaving, JsValue>;
    #[wasm_bindgen(method, getter)]
    pub fn promise(this: &Leaving) -> Promise;
    #[wasm_bindgen(method)]
    pub fn end(this: &Leaving);

    #[wasm_bindgen(catch)]
    pub fn upgraded(socket: &WebSocket) -> Result<Response, JsValue>;
    #[wasm_bindgen(js_name = socketOf)]
    pub fn socket_of(response: &Response) -> Option<WebSocket>;
}

/// A stream that nobody else may read from now on. Dropped, it tells its source that nobody wants more.
pub(crate) struct Reading(ReadableStreamDefaultReader);

impl Reading {
    pub(crate) fn of(stream: &ReadableStream) -> Result<Self, JsValue> {
        Ok(Self(stream.unchecked_ref::<Readable>().reader()?))
    }

    /// The next bytes, `None` at the end.
    pub(crate) async fn next(&self) -> Result<Option<Uint8Array>, JsValue> {
        let read = JsFuture::from(self.0.read()).await?;
        if Reflect::get(&read, &"done".into())?.is_truthy() {
            return Ok(None);
        }
        Reflect::get(&read, &"value".into())?.dyn_into().map(Some)
    }

    /// All that is still to come.
    pub(crate) fn on(this: Rc<Self>) -> impl Stream<Item = Result<Bytes, JsValue>> {
        stream::try_unfold(this, |reading| async move {
            let piece = reading.next().await?;
            Ok(piece.map(|piece| (Bytes::from(piece.to_vec()), reading)))
        })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // A stream that is broken says so once more, to nobody.
        spawn_local(JsFuture::from(self.0.cancel()).map(drop));
    }
}

/// An object's alarm, as the runtime answers [`Storage::alarm`]: milliseconds since the Unix epoch.
pub(crate) async fn armed_ms(asked: Result<Promise, JsValue>) -> Result<Option<u64>, Fault> {
    let failed = |thrown: JsValue| fault("alarm", &thrown);
    let at_ms = JsFuture::from(asked.map_err(failed)?).await.map_err(failed)?;
    Ok(at_ms.as_f64().map(|at_ms| at_ms as u64))
}

/// What was thrown, as a fault. Repeating the call may help when the runtime says so.
pub(crate) fn fault(context: &str, thrown: &JsValue) -> Fault {
    let what = format!("{context}: {}", message(thrown));
    match thrown {
        thrown if has(thrown, "overloaded") => Fault::overloaded(what),
        thrown if is_retryable(thrown) => Fault::retriable(what),
        _ => Fault::new(what),
    }
}

pub(crate) fn message(thrown: &JsValue) -> String {
    match thrown.dyn_ref::<js_sys::Error>() {
        Some(error) => String::from(error.message()),
        None => thrown.as_string().unwrap_or_else(|| "an exception without a message".to_owned()),
    }
}

/// Whether the runtime says that the same call to an object may succeed with a fresh stub.
///
/// An overloaded object is never asked again: that would be more load.
pub(crate) fn is_retryable(thrown: &JsValue) -> bool {
    has(thrown, "retryable") && !has(thrown, "overloaded")
}

fn has(thrown: &JsValue, flag: &str) -> bool {
    js_sys::Reflect::get(thrown, &flag.into()).is_ok_and(|flag| flag.is_truthy())
}
