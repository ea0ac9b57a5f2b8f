//! The shell around each actor: what the runtime calls when a Durable Object is touched.
//!
//! One implementation serves all four classes. The object is opened with the first request or alarm, under
//! the name the runtime knows it by; its constructor does nothing, since closing sockets run it too.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::{Rc, Weak},
};

use actors::Object;
use base64::{Engine, engine::general_purpose::STANDARD};
use js_sys::{Array, Function, Promise, Uint8Array};
use platform::{
    ActorKind, Actors, Address, Clock, Fault, LocalFuture, Metadata, ObjectHost, Random, Sql, WAITING_CALLS_MAX, meter,
};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise};
use web_sys::{Request, Response, ResponseInit};
use worker::Env;

use crate::{
    actors_by_stub::{BODY_HEADER, DEADLINE_HEADER, Stubs, WAIT_IS_OVER},
    chance::Runtime,
    contract::{self, CONTRACT_PATH},
    js::{self, ObjectState, ParkedSocket, SocketPair},
    object_sql::ObjectSql,
    settings::{metadata, settings},
};

/// A socket that is open, as the runtime counts its states.
const OPEN: u16 = 1;
/// How long an alarm rests when the object could not be opened.
const ALARM_RETRY_MS: u64 = 30_000;

/// One Durable Object of any class.
#[wasm_bindgen]
pub struct Shell(Rc<Inner>);

struct Inner {
    kind: String,
    state: ObjectState,
    env: Env,
    keep_awake: Function,
    call_carrier: Function,
    object: OnceCell<Rc<Object>>,
    /// When the alarm rings, as the runtime said last.
    armed_ms: Rc<Cell<Option<u64>>>,
}

#[wasm_bindgen]
impl Shell {
    /// `keep_awake` takes a promise, and keeps the object awake until it settles or this instance is lost.
    /// `call_carrier` takes an actor's id, and has the request tier carry out of this server what it has for others.
    #[wasm_bindgen(constructor)]
    pub fn new(kind: String, state: ObjectState, env: Env, keep_awake: Function, call_carrier: Function) -> Self {
        let (object, armed_ms) = (OnceCell::new(), Rc::default());
        Self(Rc::new(Inner { kind, state, env, keep_awake, call_carrier, object, armed_ms }))
    }

    /// Answers one request of another part of this deployment; nobody else reaches an object.
    pub fn fetch(&self, request: Request) -> Promise {
        let inner = self.0.clone();
        future_to_promise(async move {
            let answer = match inner.answer(&request).await {
                Ok(answer) => answer,
                Err(fault) => plain(if fault.retriable { 503 } else { 500 }, fault.to_string().as_bytes())?,
            };
            Ok(answer.into())
        })
    }

    /// The object's alarm. Never rejects: the runtime gives up on an alarm that keeps failing.
    pub fn alarm(&self) -> Promise {
        let inner = self.0.clone();
        future_to_promise(async move {
            match inner.ringing().await {
                Ok(object) => object.alarm().await,
                Err(fault) => {
                    tracing::error!(kind = inner.kind, %fault, "an alarm rests");
                    let at_ms = Runtime.now_ms().saturating_add(ALARM_RETRY_MS);
                    let _ = inner.state.storage().set_alarm(at_ms as f64);
                }
            }
            Ok(JsValue::UNDEFINED)
        })
    }
}

impl Inner {
    async fn object(&self) -> Result<Rc<Object>, Fault> {
        let settings = settings(&self.env).await?;
        if let Some(object) = self.object.get() {
            return Ok(object.clone());
        }
        self.look_at_alarm().await?;
        if let Some(object) = self.object.get() {
            // Opened meanwhile.
            return Ok(object.clone());
        }
        let id = self.state.id().name().ok_or_else(|| Fault::new("an object without a name"))?;
        let address = Address { kind: self.kind.parse::<ActorKind>()?, id };
        let host = Rc::new(self.host());
        let object = Object::new(address, host.clone(), settings);
        host.object.replace(Rc::downgrade(&object));
        Ok(self.object.get_or_init(|| object).clone())
    }

    /// The object, when its alarm has fired: what was set since is known to its host.
    async fn ringing(&self) -> Result<Rc<Object>, Fault> {
        let object = self.object().await?;
        self.look_at_alarm().await?;
        Ok(object)
    }

    /// Asks the runtime for the alarm, which reads its own memory. While one fires it answers what was set since.
    async fn look_at_alarm(&self) -> Result<(), Fault> {
        self.armed_ms.set(js::armed_ms(self.state.storage().alarm()).await?);
        Ok(())
    }

    fn host(&self) -> Host {
        Host {
            armed_ms: self.armed_ms.clone(),
            state: self.state.clone(),
            sql: ObjectSql::new(self.state.storage()),
            actors: Stubs::new(self.env.clone()),
            env: self.env.clone(),
            keep_awake: self.keep_awake.clone(),
            call_carrier: self.call_carrier.clone(),
            object: RefCell::default(),
        }
    }

    async fn answer(&self, request: &Request) -> Result<Response, Fault> {
        let failed = |thrown: JsValue| js::fault("object", &thrown);
        let object = self.object().await?;
        let url = request.url();
        let path = url.strip_prefix("https://actor/").unwrap_or_default();
        match path.split_once('/') {
            Some(("call", call)) => {
                let body = JsFuture::from(request.array_buffer().map_err(failed)?).await.map_err(failed)?;
                let reply = object.call(call, &Uint8Array::new(&body).to_vec()).await;
                plain(200, &reply).map_err(failed)
            }
            Some(("wait", call)) => self.park(&object, call, request),
            _ if path == CONTRACT_PATH && settings(&self.env).await?.config.test_hooks => {
                let outcomes = contract::of_object(&self.host(), &self.state.storage()).await;
                plain(200, outcomes.as_bytes()).map_err(failed)
            }
            _ => Err(Fault::new("an object was asked for something unknown")),
        }
    }

    /// Answers a waiting call at once, or parks its socket. Asking and parking are one step without an
    /// await, so no wake falls between.
    fn park(&self, object: &Object, call: &str, request: &Request) -> Result<Response, Fault> {
        let failed = |thrown: JsValue| js::fault("wait", &thrown);
        let header = |name: &str| {
            let value = request.headers().get(name).map_err(failed)?;
            value.ok_or_else(|| Fault::new(format!("a waiting call without {name}")))
        };
        let body = STANDARD.decode(header(BODY_HEADER)?).map_err(|error| Fault::new(error.to_string()))?;
        let deadline_ms = header(DEADLINE_HEADER)?.parse().map_err(|_| Fault::new("a deadline that is no number"))?;
        platform::meter::OBJECT_CALLS.add(1);
        if let Some(reply) = object.wait(call, &body) {
            return plain(200, &reply).map_err(failed);
        }
        make_room(&self.state);
        let pair = SocketPair::new().map_err(failed)?;
        let socket = pair.server();
        self.state.accept_web_socket(&socket).map_err(failed)?;
        let parked = Parked { call: call.to_owned(), body, since_ms: Runtime.now_ms() as f64, deadline_ms };
        socket.serialize_attachment(&parked.to_js()).map_err(failed)?;
        js::upgraded(&pair.client()).map_err(failed)
    }
}

/// What an object keeps with a parked socket, also while it sleeps.
struct Parked {
    call: String,
    body: Vec<u8>,
    since_ms: f64,
    /// When the caller leaves. A trap in the caller's instance leaves the socket open: this ends it.
    deadline_ms: f64,
}

impl Parked {
    fn to_js(&self) -> JsValue {
        let body = Uint8Array::from(self.body.as_slice());
        Array::of4(&self.call.as_str().into(), &body, &self.deadline_ms.into(), &self.since_ms.into()).into()
    }

    fn of(socket: &ParkedSocket) -> Option<Self> {
        let attachment: Array = socket.deserialize_attachment().ok()?.dyn_into().ok()?;
        let body: Uint8Array = attachment.get(1).dyn_into().ok()?;
        Some(Self {
            call: attachment.get(0).as_string()?,
            body: body.to_vec(),
            deadline_ms: attachment.get(2).as_f64()?,
            since_ms: attachment.get(3).as_f64()?,
        })
    }
}

/// Every socket on which a caller may still wait.
fn open_sockets(state: &ObjectState) -> impl Iterator<Item = ParkedSocket> {
    let sockets = state.web_sockets().unwrap_or_default().into_iter().map(JsCast::unchecked_into::<ParkedSocket>);
    sockets.filter(|socket| socket.ready_state() == OPEN)
}

/// The callers that still wait, with their sockets; those past their deadline wait no longer.
fn parked(state: &ObjectState) -> Vec<(ParkedSocket, Parked)> {
    let now_ms = Runtime.now_ms() as f64;
    let still_waits = |socket: ParkedSocket| match Parked::of(&socket) {
        Some(parked) if parked.deadline_ms > now_ms => Some((socket, parked)),
        _ => {
            end_wait(&socket);
            None
        }
    };
    open_sockets(state).filter_map(still_waits).collect()
}

fn end_wait(socket: &ParkedSocket) {
    // It may be closing already.
    let _ = socket.close(WAIT_IS_OVER, "over");
}

/// Ends the oldest wait when there is no room for one more.
fn make_room(state: &ObjectState) {
    if open_sockets(state).count() < WAITING_CALLS_MAX {
        return;
    }
    let parked = parked(state);
    if parked.len() >= WAITING_CALLS_MAX
        && let Some((oldest, _)) = parked.iter().min_by(|(_, one), (_, other)| one.since_ms.total_cmp(&other.since_ms))
    {
        end_wait(oldest);
    }
}

/// What one Durable Object gives its actor.
struct Host {
    armed_ms: Rc<Cell<Option<u64>>>,
    state: ObjectState,
    sql: ObjectSql,
    actors: Stubs,
    env: Env,
    keep_awake: Function,
    call_carrier: Function,
    object: RefCell<Weak<Object>>,
}

impl Clock for Host {
    fn now_ms(&self) -> u64 {
        Runtime.now_ms()
    }
}

impl Random for Host {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        Runtime.fill(bytes)
    }
}

impl ObjectHost for Host {
    fn sql(&self) -> &dyn Sql {
        &self.sql
    }

    fn actors(&self) -> &dyn Actors {
        &self.actors
    }

    fn metadata(&self) -> Result<Rc<dyn Metadata>, Fault> {
        metadata(&self.env)
    }

    /// The runtime's own output gate holds back answers and calls until what was written is durable.
    fn durable(&self) -> LocalFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }

    fn spawn(&self, work: LocalFuture<'static, ()>) {
        let promise = future_to_promise(async move {
            work.await;
            Ok(JsValue::UNDEFINED)
        });
        // The work runs either way; this keeps the object awake for it.
        let _ = self.keep_awake.call1(&JsValue::NULL, &promise);
    }

    fn carry(&self, actor: &str) {
        // Whether somebody comes does not matter here: the object asks again.
        let _ = self.call_carrier.call1(&JsValue::NULL, &actor.into());
    }

    fn set_alarm(&self, at_ms: Option<u64>) -> Result<(), Fault> {
        let storage = self.state.storage();
        meter::ROWS_WRITTEN.add(1);
        // Its promise says nothing that the output gate does not.
        match at_ms {
            Some(at_ms) => storage.set_alarm(at_ms as f64),
            None => storage.delete_alarm(),
        }
        .map(|_| ())
        .map_err(|thrown| js::fault("alarm", &thrown))
    }

    fn armed_ms(&self) -> Option<u64> {
        self.armed_ms.get()
    }

    /// Counts those past their deadline too, until the next wake: to tell them apart would be to read them all.
    fn waiting(&self) -> usize {
        open_sockets(&self.state).count()
    }

    fn wake(&self) {
        let Some(object) = self.object.borrow().upgrade() else { return };
        for (socket, parked) in parked(&self.state) {
            let Some(reply) = object.wait(&parked.call, &parked.body) else { continue };
            // A caller that left meanwhile needs no reply.
            let _ = socket.send(&Uint8Array::from(reply.as_slice()));
            let _ = socket.close(1000, "answered");
        }
    }
}

fn plain(status: u16, body: &[u8]) -> Result<Response, JsValue> {
    let init = ResponseInit::new();
    init.set_status(status);
    Response::new_with_opt_js_u8_array_and_init(Some(&Uint8Array::from(body)), &init)
}
