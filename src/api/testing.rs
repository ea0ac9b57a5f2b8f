//! A whole server in memory for this crate's tests: nothing waits, and the test owns the clock.

mod blobs;
pub(crate) mod memory;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
};

use actors::{Object, Settings};
use bytes::Bytes;
use domain::Config;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use platform::{
    Actors, Address, Blob, Clock, Fault, Heavy, LocalFuture, Metadata, ObjectHost, Outgoing, OutgoingRequest,
    OutgoingResponse, Random, Row, SendError, Sql, SrvRecord, Statement, Value, sqlite,
};
use serde_json::Value as Json;

pub(crate) use blobs::MemoryBlobs;

use crate::{Arriving, Body, Context, KnownServers, MediaTurns, RateLimits, Server, Services, load_settings};

/// How long a carrier may take in all.
pub(crate) const CARRIER_MS_MAX: u64 = 26_000;

/// Runs a future that never has to wait.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("something here waits"),
    }
}

/// A configuration for `localhost`, with passwords that cost nothing.
pub(crate) fn config(pairs: &[(&str, &str)]) -> Config {
    let base = [("SERVER_NAME", "localhost"), ("PASSWORD_HASH_COST", "8,1,1"), ("RATE_LIMITS", "off")];
    let base = base.iter().filter(|(name, _)| !pairs.iter().any(|(given, _)| given == name));
    let pairs = base.chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_pairs(pairs).unwrap()
}

/// Tells a story on metadata that were just laid out.
pub(crate) fn with_metadata(story: impl AsyncFnOnce(&MemoryMetadata)) {
    let metadata = MemoryMetadata::default();
    block_on(async {
        load_settings(&metadata, config(&[]), &TestRandom::default()).await.unwrap();
        story(&metadata).await;
    });
}

/// SQLite in memory.
struct Database(rusqlite::Connection);

impl Default for Database {
    fn default() -> Self {
        Self(rusqlite::Connection::open_in_memory().unwrap())
    }
}

impl Sql for Database {
    fn query(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
        sqlite::query(&self.0, statement, params).map_err(|fault| fault.within(statement))
    }

    fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        let run = |statement| self.0.execute_batch(statement).map_err(|error| Fault::new(error.to_string()));
        run("SAVEPOINT tx")?;
        run(if body() { "RELEASE tx" } else { "ROLLBACK TO tx; RELEASE tx" })
    }
}

/// The metadata database, in memory. It may be told to fail.
#[derive(Default)]
pub(crate) struct MemoryMetadata {
    database: Database,
    statements: Cell<usize>,
    /// So many calls are good; then every one fails, done or not.
    fails: Cell<Option<(usize, IsDone)>>,
    /// So many calls are made; then something else happens before the next.
    interrupts: RefCell<Option<(usize, Interruption)>>,
}

/// Whether what fails has happened all the same.
type IsDone = bool;

type Interruption = Box<dyn FnOnce()>;

impl MemoryMetadata {
    pub(crate) fn fails_after(&self, good_calls: usize, is_done: IsDone) {
        self.fails.set(Some((good_calls, is_done)));
    }

    /// Has something happen once, after so many calls from now on and before the next.
    pub(crate) fn interrupted_after(&self, calls: usize, what: impl FnOnce() + 'static) {
        *self.interrupts.borrow_mut() = Some((calls, Box::new(what)));
    }

    /// Whether what was to happen meanwhile has.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.interrupts.borrow().is_none()
    }

    fn interrupt(&self) {
        let mut interrupts = self.interrupts.borrow_mut();
        match interrupts.take() {
            Some((0, what)) => {
                drop(interrupts);
                what();
            }
            Some((calls, what)) => *interrupts = Some((calls - 1, what)),
            None => {}
        }
    }

    /// How many statements came until now.
    pub(crate) fn statements(&self) -> usize {
        self.statements.get()
    }

    pub(crate) fn is_well(&self) {
        self.fails.set(None);
    }

    fn call<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        self.interrupt();
        match self.fails.get() {
            Some((0, false)) => Err(Fault::new("the database is gone")),
            Some((0, true)) => work().and_then(|_| Err(Fault::new("the database does not answer"))),
            Some((good_calls, is_done)) => {
                self.fails.set(Some((good_calls - 1, is_done)));
                work()
            }
            None => work(),
        }
    }
}

impl Metadata for MemoryMetadata {
    fn query<'a>(&'a self, statement: Statement) -> LocalFuture<'a, Result<Vec<Row>, Fault>> {
        self.statements.set(self.statements.get() + 1);
        Box::pin(async move { self.call(|| self.database.query(statement.sql, &statement.params)) })
    }

    fn batch<'a>(&'a self, statements: Vec<Statement>) -> LocalFuture<'a, Result<(), Fault>> {
        self.statements.set(self.statements.get() + statements.len());
        Box::pin(async move {
            self.call(|| {
                platform::transact(&self.database, |tx| {
                    statements.iter().try_for_each(|statement| tx.execute(statement.sql, &statement.params).map(drop))
                })
            })
        })
    }
}

/// Chance that repeats itself from test to test, but not within one.
#[derive(Default)]
pub(crate) struct TestRandom(Cell<u64>);

impl Random for TestRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        bytes.fill_with(|| {
            self.0.set(self.0.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
            self.0.get().to_be_bytes()[0]
        });
        Ok(())
    }
}

/// An answer of somebody else's server: its status, its headers, its body.
pub(crate) type Answered = Result<(StatusCode, HeaderMap, Bytes), SendError>;

type Answers = dyn Fn(&OutgoingRequest) -> Answered;

/// Other people's servers, as a test says.
#[derive(Default)]
struct Others {
    answer: RefCell<Option<Box<Answers>>>,
    services: RefCell<HashMap<String, Vec<SrvRecord>>>,
}

impl Outgoing for Others {
    fn send<'a>(&'a self, request: OutgoingRequest) -> LocalFuture<'a, Result<OutgoingResponse, SendError>> {
        let answer = self.answer.borrow();
        let answered = match answer.as_ref() {
            Some(answer) => answer(&request),
            None => Err(SendError::Unreachable("there is nobody else".to_owned())),
        };
        let response = answered.map(|(status, headers, body)| {
            let bytes_max = request.response_bytes_max;
            let body = if body.len() > bytes_max { Err(SendError::TooLarge(bytes_max)) } else { Ok(body) };
            OutgoingResponse { status, headers, body: Box::pin(futures_util::stream::iter([body])) }
        });
        Box::pin(async move { response })
    }

    fn resolve_srv<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Vec<SrvRecord>, SendError>> {
        let records = self.services.borrow().get(name).cloned().unwrap_or_default();
        Box::pin(async move { Ok(records) })
    }
}

/// The host of every actor and of the request tier.
struct Host {
    now_ms: Cell<u64>,
    random: TestRandom,
    settings: Rc<Settings>,
    metadata: Rc<dyn Metadata>,
    objects: RefCell<HashMap<Address, Rc<Object>>>,
    databases: RefCell<HashMap<Address, Rc<Database>>>,
    spawned: RefCell<Vec<LocalFuture<'static, ()>>>,
    evicted: RefCell<Vec<Address>>,
    computations: Cell<usize>,
    calls: RefCell<Vec<String>>,
    failing: Cell<Option<&'static str>>,
    broken: RefCell<Option<String>>,
    this: Weak<Self>,
}

impl Host {
    fn object(&self, address: &Address) -> Rc<Object> {
        if let Some(object) = self.objects.borrow().get(address) {
            return object.clone();
        }
        let sql = self.databases.borrow_mut().entry(address.clone()).or_default().clone();
        let host = Rc::new(ActorHost { host: self.this.upgrade().unwrap(), sql });
        let object = Object::new(address.clone(), host, self.settings.clone());
        self.objects.borrow_mut().insert(address.clone(), object.clone());
        object
    }
}

impl Actors for Host {
    fn call<'a>(&'a self, to: &'a Address, call: &'a str, body: Vec<u8>) -> LocalFuture<'a, Result<Vec<u8>, Fault>> {
        Box::pin(async move {
            if self.failing.get() == Some(call) || self.broken.borrow().as_deref() == Some(&to.id) {
                return Err(Fault::new("told to"));
            }
            self.calls.borrow_mut().push(call.to_owned());
            Ok(self.object(to).call(call, &body).await)
        })
    }

    fn wait<'a>(
        &'a self,
        to: &'a Address,
        call: &'a str,
        body: Vec<u8>,
        _timeout_ms: u64,
    ) -> LocalFuture<'a, Result<Option<Vec<u8>>, Fault>> {
        Box::pin(async move { Ok(self.object(to).wait(call, &body)) })
    }

    fn evict<'a>(&'a self, to: &'a Address) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.objects.borrow_mut().remove(to);
            self.evicted.borrow_mut().push(to.clone());
            Ok(())
        })
    }
}

impl Clock for Host {
    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }
}

impl Random for Host {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        self.random.fill(bytes)
    }
}

impl Heavy for Host {
    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalFuture<'a, Result<Vec<u8>, Fault>> {
        self.computations.set(self.computations.get() + 1);
        Box::pin(async move { Ok(work()) })
    }

    fn pause<'a>(&'a self, ms: u64) -> LocalFuture<'a, ()> {
        Box::pin(async move { self.now_ms.set(self.now_ms.get() + ms) })
    }
}

/// What one actor has of the host.
struct ActorHost {
    host: Rc<Host>,
    sql: Rc<Database>,
}

impl Clock for ActorHost {
    fn now_ms(&self) -> u64 {
        self.host.now_ms()
    }
}

impl Random for ActorHost {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        self.host.fill(bytes)
    }
}

impl ObjectHost for ActorHost {
    fn sql(&self) -> &dyn Sql {
        &*self.sql
    }

    fn actors(&self) -> &dyn Actors {
        &*self.host
    }

    fn metadata(&self) -> Result<Rc<dyn Metadata>, Fault> {
        Ok(self.host.metadata.clone())
    }

    fn durable(&self) -> LocalFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }

    fn spawn(&self, work: LocalFuture<'static, ()>) {
        self.host.spawned.borrow_mut().push(work);
    }

    fn set_alarm(&self, _at_ms: Option<u64>) -> Result<(), Fault> {
        Ok(())
    }

    fn armed_ms(&self) -> Option<u64> {
        None
    }

    fn waiting(&self) -> usize {
        0
    }

    /// Nobody is there to be carried to.
    fn carry(&self, _: &str) {}

    fn wake(&self) {}
}

/// A server and its host.
pub(crate) struct TestServer {
    server: Server,
    services: Rc<Services>,
    host: Rc<Host>,
    others: Rc<Others>,
    pub(crate) blobs: Rc<MemoryBlobs>,
    pub(crate) metadata: Rc<MemoryMetadata>,
}

impl TestServer {
    /// Starts a server for `localhost` with these settings besides.
    pub(crate) fn new(pairs: &[(&str, &str)]) -> Self {
        let in_memory = Rc::new(MemoryMetadata::default());
        let metadata: Rc<dyn Metadata> = in_memory.clone();
        let random = TestRandom::default();
        let settings = Rc::new(block_on(load_settings(&*metadata, config(pairs), &random)).unwrap());
        let host = Rc::new_cyclic(|this| Host {
            now_ms: Cell::new(1_700_000_000_000),
            random,
            settings: settings.clone(),
            metadata: metadata.clone(),
            objects: RefCell::default(),
            databases: RefCell::default(),
            spawned: RefCell::default(),
            evicted: RefCell::default(),
            computations: Cell::default(),
            calls: RefCell::default(),
            failing: Cell::default(),
            broken: RefCell::default(),
            this: this.clone(),
        });
        let others = Rc::new(Others::default());
        let blobs = Rc::new(MemoryBlobs::default());
        let services = Services {
            actors: host.clone(),
            outgoing: others.clone(),
            known_servers: Arc::new(KnownServers::default()),
            media_turns: Arc::new(MediaTurns::default()),
            carrier_ms_max: Some(CARRIER_MS_MAX),
            metadata,
            blobs: blobs.clone(),
            clock: host.clone(),
            random: host.clone(),
            heavy: host.clone(),
            rate_limits: Arc::new(RateLimits::new(&settings.config.rate_limits)),
            settings,
        };
        Self {
            server: Server::new(services.clone(), crate::routes(&services.settings.config)),
            services: Rc::new(services),
            host,
            others,
            blobs,
            metadata: in_memory,
        }
    }

    pub(crate) fn context(&self) -> Context {
        Context::new(self.services.clone(), "test".into(), None)
    }

    /// One that remembers nothing of other servers.
    pub(crate) fn context_of_another_process(&self) -> Context {
        let services = Services { known_servers: Arc::new(KnownServers::default()), ..(*self.services).clone() };
        Context::new(Rc::new(services), "other".into(), None)
    }

    /// From now on other people's servers answer like this.
    pub(crate) fn others_answer(&self, answer: impl Fn(&OutgoingRequest) -> Answered + 'static) {
        *self.others.answer.borrow_mut() = Some(Box::new(answer));
    }

    /// From now on the DNS has these SRV records.
    pub(crate) fn dns_has(&self, name: &str, records: Vec<SrvRecord>) {
        self.others.services.borrow_mut().insert(name.to_owned(), records);
    }

    pub(crate) fn pass_ms(&self, ms: u64) {
        self.host.now_ms.set(self.host.now_ms.get() + ms);
    }

    /// The first column of what a query of metadata answers.
    pub(crate) fn texts(&self, sql: &'static str) -> Vec<String> {
        let rows = block_on(self.services.metadata.query(Statement::new(sql, vec![]))).unwrap();
        rows.into_iter().map(|mut row| row.text(0).unwrap()).collect()
    }

    /// As [`TestServer::texts`], for numbers.
    pub(crate) fn numbers(&self, sql: &'static str) -> Vec<i64> {
        let rows = block_on(self.services.metadata.query(Statement::new(sql, vec![]))).unwrap();
        rows.into_iter().map(|mut row| row.integer(0).unwrap()).collect()
    }

    /// Files that belong to media.
    pub(crate) fn files(&self) -> Vec<String> {
        self.texts("SELECT file FROM media_content ORDER BY file")
    }

    /// Files that belong to nothing.
    pub(crate) fn strays(&self) -> Vec<String> {
        self.texts("SELECT file FROM media_stray ORDER BY file")
    }

    /// How many long computations there were: passwords hashed and verified, pictures looked at.
    pub(crate) fn computations(&self) -> usize {
        self.host.computations.get()
    }

    /// From now on calls of this name fail.
    pub(crate) fn fails(&self, call: &'static str) {
        self.host.failing.set(Some(call));
    }

    /// From now on calls of this actor fail.
    pub(crate) fn breaks(&self, id: &str) {
        *self.host.broken.borrow_mut() = Some(id.to_owned());
    }

    /// How many actors were called.
    pub(crate) fn actors(&self) -> usize {
        self.host.objects.borrow().len()
    }

    /// How many calls of this name came until now.
    pub(crate) fn calls(&self, name: &str) -> usize {
        self.host.calls.borrow().iter().filter(|call| *call == name).count()
    }

    pub(crate) fn evicted(&self) -> Vec<Address> {
        self.host.evicted.borrow().clone()
    }

    /// Answers one request and then does what was left to be done.
    pub(crate) fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        self.answer_arriving(request.map(Arriving::from))
    }

    pub(crate) fn answer_arriving(&self, request: Request<Arriving>) -> Response<Bytes> {
        let response = block_on(async { whole(self.server.answer(request).await).await });
        loop {
            let spawned = std::mem::take(&mut *self.host.spawned.borrow_mut());
            if spawned.is_empty() {
                return response;
            }
            spawned.into_iter().for_each(block_on);
        }
    }

    /// The pieces of an answer, as they go out.
    pub(crate) fn pieces(&self, path: &str, token: &str) -> Vec<Result<Bytes, Fault>> {
        let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        block_on(async {
            let request = request.body(Bytes::new()).unwrap().map(Arriving::from);
            match self.server.answer(request).await.into_body() {
                Body::Whole(bytes) => vec![Ok(bytes)],
                Body::Pieces(pieces) => pieces.collect().await,
                Body::Stored(_) => panic!("this is a file"),
            }
        })
    }

    /// Sends a request with this token, unless it is empty, and this body, unless it is null.
    pub(crate) fn request(&self, method: Method, path: &str, token: &str, body: &Json) -> (StatusCode, Json) {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.answer(request.body(body.into()).unwrap());
        (response.status(), serde_json::from_slice(response.body()).unwrap_or(Json::Null))
    }

    pub(crate) fn get(&self, path: &str, token: &str) -> (StatusCode, Json) {
        self.request(Method::GET, path, token, &Json::Null)
    }

    pub(crate) fn post(&self, path: &str, token: &str, body: &Json) -> (StatusCode, Json) {
        self.request(Method::POST, path, token, body)
    }

    pub(crate) fn put(&self, path: &str, token: &str, body: &Json) -> (StatusCode, Json) {
        self.request(Method::PUT, path, token, body)
    }

    /// Registers a user with the password `secret` and answers the token of the device `PHONE`.
    pub(crate) fn register(&self, username: &str) -> String {
        let body = serde_json::json!({
            "username": username, "password": "secret", "device_id": "PHONE", "auth": { "type": "m.login.dummy" },
        });
        let (status, answer) = self.post("/_matrix/client/v3/register", "", &body);
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

/// An answer with all its pieces.
async fn whole(response: Response<Body>) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    let bytes = match body {
        Body::Whole(bytes) => bytes,
        Body::Pieces(pieces) | Body::Stored(Blob { pieces, .. }) => {
            pieces.map(Result::unwrap).collect::<Vec<_>>().await.concat().into()
        }
    };
    Response::from_parts(head, bytes)
}

/// What a refusal is to a client: its status and code.
#[track_caller]
pub(crate) fn refused((status, body): (StatusCode, Json)) -> (u16, String) {
    (status.as_u16(), body["errcode"].as_str().unwrap_or_else(|| panic!("no refusal: {status} {body}")).to_owned())
}
