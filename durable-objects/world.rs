//! A small world for tests: every actor in one thread, in memory, with a clock and faults that the test controls.
//!
//! Nothing here waits: what an actor spawns runs when the world settles. A lost call fails before or after it was
//! carried out, as the network may have it; an evicted actor keeps its database and forgets everything else.

mod people;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    future::Future,
    pin::pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use crate::{Call, CallError, Object, Settings, user};
use domain::{Config, Identity};
use platform::{
    Actors, Address, Clock, Fault, LocalFuture, Metadata, ObjectHost, Random, Row, Sql, Statement, Value, sqlite,
    transact,
};

/// Runs a future that never has to wait.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("something in this world waits"),
    }
}

/// SQLite in memory.
pub(crate) struct MemorySql {
    connection: rusqlite::Connection,
    depth: Cell<u32>,
    /// What SQLite did: operations of its virtual machine.
    pub steps: Cell<u64>,
    /// How many statements were run.
    pub statements: Cell<u64>,
    /// The most rows that one statement answered.
    pub rows_at_once: Cell<usize>,
    /// Bytes of text that statements answered, and the most that one did.
    pub bytes_read: Cell<usize>,
    pub bytes_at_once: Cell<usize>,
}

impl MemorySql {
    pub(crate) fn new() -> Self {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        Self {
            connection,
            depth: Cell::new(0),
            steps: Cell::new(0),
            statements: Cell::new(0),
            rows_at_once: Cell::new(0),
            bytes_read: Cell::new(0),
            bytes_at_once: Cell::new(0),
        }
    }
}

impl Sql for MemorySql {
    fn query(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
        let mut prepared = self.connection.prepare_cached(statement).map_err(sqlite::fault)?;
        let all = sqlite::rows(&mut prepared, params).map_err(|fault| fault.within(statement))?;
        let steps = prepared.reset_status(rusqlite::StatementStatus::VmStep);
        self.steps.set(self.steps.get() + u64::try_from(steps).unwrap_or(0));
        self.statements.set(self.statements.get() + 1);
        self.rows_at_once.set(self.rows_at_once.get().max(all.len()));
        let bytes =
            all.iter().flat_map(|row| &row.0).map(|value| if let Value::Text(text) = value { text.len() } else { 0 });
        let bytes = bytes.sum();
        self.bytes_read.set(self.bytes_read.get() + bytes);
        self.bytes_at_once.set(self.bytes_at_once.get().max(bytes));
        Ok(all)
    }

    fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        let depth = self.depth.get();
        let run = |statement: String| {
            self.connection.execute_batch(&statement).map_err(|error| Fault::new(error.to_string()))
        };
        run(format!("SAVEPOINT s{depth}"))?;
        self.depth.set(depth + 1);
        let keep = body();
        self.depth.set(depth);
        run(if keep { format!("RELEASE s{depth}") } else { format!("ROLLBACK TO s{depth}; RELEASE s{depth}") })
    }
}

/// The tables that actors project to.
const METADATA_SCHEMA: [&str; 4] = [
    include_str!("../d1-migrations/0002_directory.sql"),
    include_str!("../d1-migrations/0006_open_room.sql"),
    include_str!("../d1-migrations/0009_networks.sql"),
    include_str!("../d1-migrations/0010_contacts.sql"),
];

/// Metadata in memory, at the end of a line that loses what it carries.
struct MemoryMetadata {
    world: Weak<World>,
    sql: MemorySql,
}

impl MemoryMetadata {
    fn new(world: Weak<World>) -> Self {
        let sql = MemorySql::new();
        sql.connection.execute_batch(&METADATA_SCHEMA.concat()).unwrap();
        Self { world, sql }
    }

    fn run(&self, statements: &[Statement]) -> Result<Vec<Row>, Fault> {
        let world = self.world.upgrade().expect("the world stands");
        if world.loses() {
            return Err(Fault::retriable("the statement was lost"));
        }
        let rows = transact(&self.sql, |tx| {
            let mut rows = Vec::new();
            for Statement { sql, params } in statements {
                rows = tx.execute(sql, params)?;
            }
            Ok::<_, Fault>(rows)
        })?;
        if world.loses() { Err(Fault::retriable("the rows were lost")) } else { Ok(rows) }
    }
}

impl Metadata for MemoryMetadata {
    fn query<'a>(&'a self, statement: Statement) -> LocalFuture<'a, Result<Vec<Row>, Fault>> {
        Box::pin(async move { self.run(&[statement]) })
    }

    fn batch<'a>(&'a self, statements: Vec<Statement>) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move { self.run(&statements).map(drop) })
    }
}

/// Chance that a seed repeats.
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    /// A number below `sides`.
    pub(crate) fn roll(&self, sides: u64) -> u64 {
        let mut state = self.0.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.set(state);
        (state >> 11) % sides
    }
}

/// How many stories are told: `MYELIN_SEEDS` for more than the usual.
pub(crate) fn seeds(usual: u64) -> u64 {
    std::env::var("MYELIN_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(usual)
}

fn settings(pairs: &[(&str, &str)]) -> Rc<Settings> {
    let is_named = pairs.iter().any(|(name, _)| *name == "SERVER_NAME");
    let named = [("SERVER_NAME", "myelin.test")];
    let pairs = named.iter().filter(|_| !is_named).chain(pairs);
    let config = Config::from_pairs(pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let config = config.expect("a small configuration");
    let identity = Identity::new(config.server_name.clone(), "a_test", [7; 32]).expect("a key");
    Rc::new(Settings { config, identity })
}

/// All actors of one server.
pub(crate) struct World {
    settings: RefCell<Rc<Settings>>,
    pub now_ms: Cell<u64>,
    pub dice: Dice,
    databases: RefCell<HashMap<Address, Rc<MemorySql>>>,
    metadata: Rc<MemoryMetadata>,
    objects: RefCell<HashMap<Address, Rc<Object>>>,
    alarms: RefCell<BTreeMap<Address, u64>>,
    /// How often an alarm was set.
    pub alarms_set: Cell<u64>,
    spawned: RefCell<VecDeque<(Address, LocalFuture<'static, ()>)>>,
    /// The most that one actor had spawned and not done.
    pub spawned_at_once: Cell<usize>,
    /// The nudges that arrived: up to where each user was told, one after the other.
    pub nudges: RefCell<BTreeMap<String, Vec<u64>>>,
    /// Actors that no call reaches.
    pub unreachable: RefCell<BTreeSet<Address>>,
    /// Actors whose replies are lost.
    pub silenced: RefCell<BTreeSet<Address>>,
    /// Who waits on which actor, for what [`ObjectHost::waiting`] answers.
    pub waiting: RefCell<HashMap<Address, usize>>,
    /// Actors for which somebody was asked to carry what they have for others.
    pub carriers: RefCell<Vec<String>>,
    /// How many rooms were made.
    rooms: Cell<u64>,
    /// One call in so many is lost; 0: none.
    pub lost_calls: Cell<u64>,
    /// One statement in so many fails; 0: none.
    pub broken_statements: Cell<u64>,
    this: Weak<World>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Rc<Self> {
        Self::configured(seed, &[])
    }

    /// As [`World::new`], with these keys of the configuration besides.
    pub(crate) fn configured(seed: u64, pairs: &[(&str, &str)]) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            settings: RefCell::new(settings(pairs)),
            now_ms: Cell::new(1_790_000_000_000),
            dice: Dice::new(seed),
            databases: RefCell::default(),
            metadata: Rc::new(MemoryMetadata::new(this.clone())),
            objects: RefCell::default(),
            alarms: RefCell::default(),
            alarms_set: Cell::new(0),
            spawned: RefCell::default(),
            spawned_at_once: Cell::new(0),
            nudges: RefCell::default(),
            unreachable: RefCell::default(),
            silenced: RefCell::default(),
            waiting: RefCell::default(),
            carriers: RefCell::default(),
            rooms: Cell::new(0),
            lost_calls: Cell::new(0),
            broken_statements: Cell::new(0),
            this: this.clone(),
        })
    }

    /// The host starts again with these keys of the configuration.
    pub(crate) fn restarts_with(&self, pairs: &[(&str, &str)]) {
        self.crash();
        self.settings.replace(settings(pairs));
    }

    /// Rows written so far, alarms included; entries of indexes are not counted here.
    pub(crate) fn rows_written(&self) -> u64 {
        let changes: u64 = self.databases.borrow().values().map(|database| database.connection.total_changes()).sum();
        changes + self.alarms_set.get()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// Sets the clock, also back; no alarm rings.
    pub(crate) fn sets_clock(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
    }

    /// What metadata shows to a statement.
    pub(crate) fn shows(&self, statement: &str, params: &[Value]) -> Vec<Row> {
        self.metadata.sql.query(statement, params).unwrap()
    }

    /// Writes to metadata, as an actor's host does.
    pub(crate) fn projects(&self, statement: &Statement) {
        self.metadata.run(std::slice::from_ref(statement)).unwrap();
    }

    fn object(&self, address: &Address) -> Rc<Object> {
        if let Some(object) = self.objects.borrow().get(address) {
            return object.clone();
        }
        let sql = self.sql(address);
        let host = Host { world: self.this.upgrade().expect("the world stands"), address: address.clone(), sql };
        let object = Object::new(address.clone(), Rc::new(host), self.settings.borrow().clone());
        self.objects.borrow_mut().insert(address.clone(), object.clone());
        object
    }

    /// Calls an actor as the request tier does: this call is not lost, what it makes actors call may be. A fault is met
    /// with a repetition, as there.
    pub(crate) fn call<C: Call>(&self, id: &str, call: &C) -> Result<C::Reply, CallError> {
        let (to, body) = (Address::new(C::ACTOR, id), serde_json::to_vec(call).unwrap());
        for _ in 0..100 {
            match crate::call::open::<C>(&now(self.object(&to).call(C::NAME, &body))) {
                Err(CallError::Fault(_)) if self.broken_statements.get() > 0 => self.evict_sometimes(&to),
                outcome => return outcome,
            }
        }
        panic!("{to} fails for ever");
    }

    /// What an actor keeps, for tests that look behind its calls.
    pub(crate) fn sql(&self, address: &Address) -> Rc<MemorySql> {
        self.databases.borrow_mut().entry(address.clone()).or_insert_with(|| Rc::new(MemorySql::new())).clone()
    }

    fn evict_sometimes(&self, address: &Address) {
        if self.dice.roll(2) == 0 {
            self.evict(address);
        }
    }

    /// What waits on the user's actor, asked again: `None` while there is nothing to say.
    pub(crate) fn asks<C: Call>(&self, id: &str, call: &C) -> Option<C::Reply> {
        let body = serde_json::to_vec(call).unwrap();
        let broken = self.broken_statements.replace(0);
        let reply = self.object(&Address::new(C::ACTOR, id)).wait(C::NAME, &body);
        self.broken_statements.set(broken);
        Some(crate::call::open::<C>(&reply?).unwrap())
    }

    /// How many rows of one actor's were ever written, alarms not included.
    pub(crate) fn rows_of(&self, address: &Address) -> u64 {
        self.databases.borrow().get(address).map_or(0, |sql| sql.connection.total_changes())
    }

    /// Forgets an actor's memory, and what it was about to do.
    pub(crate) fn evict(&self, address: &Address) {
        self.spawned.borrow_mut().retain(|(owner, _)| owner != address);
        self.objects.borrow_mut().remove(address);
    }

    /// Evicts some actor.
    pub(crate) fn evict_any(&self) {
        let mut addresses: Vec<Address> = self.objects.borrow().keys().cloned().collect();
        addresses.sort();
        if !addresses.is_empty() {
            let chosen = self.dice.roll(addresses.len() as u64) as usize;
            self.evict(&addresses[chosen]);
        }
    }

    /// The host dies: what was spawned is gone, and so is everybody's memory.
    pub(crate) fn crash(&self) {
        self.spawned.borrow_mut().clear();
        self.objects.borrow_mut().clear();
    }

    /// Runs what was spawned, until nothing is left.
    pub(crate) fn settle(&self) {
        while self.works() {}
    }

    /// Runs the oldest of what was spawned; answers whether there was anything.
    pub(crate) fn works(&self) -> bool {
        let Some((_, work)) = self.spawned.borrow_mut().pop_front() else { return false };
        now(work);
        true
    }

    /// Lets time pass, and alarms ring.
    pub(crate) fn passes(&self, ms: u64) {
        self.now_ms.set(self.now_ms.get() + ms);
        let due: Vec<Address> =
            self.alarms.borrow().iter().filter(|(_, at)| **at <= self.now_ms.get()).map(|(to, _)| to.clone()).collect();
        for address in due {
            self.alarms.borrow_mut().remove(&address);
            now(self.object(&address).alarm());
        }
        self.settle();
    }

    /// When an actor's alarm rings.
    pub(crate) fn rings_at(&self, address: &Address) -> Option<u64> {
        self.alarms.borrow().get(address).copied()
    }

    /// The host loses an actor's alarm.
    pub(crate) fn loses_alarm(&self, address: &Address) {
        self.alarms.borrow_mut().remove(address);
    }

    fn breaks(&self) -> bool {
        self.broken_statements.get() > 0 && self.dice.roll(self.broken_statements.get()) == 0
    }

    fn loses(&self) -> bool {
        self.lost_calls.get() > 0 && self.dice.roll(self.lost_calls.get()) == 0
    }
}

impl Actors for World {
    fn call<'a>(&'a self, to: &'a Address, call: &'a str, body: Vec<u8>) -> LocalFuture<'a, Result<Vec<u8>, Fault>> {
        Box::pin(async move {
            if self.loses() || self.unreachable.borrow().contains(to) {
                return Err(Fault::retriable("the call was lost"));
            }
            if call == user::Nudge::NAME {
                let nudge: user::Nudge = serde_json::from_slice(&body).unwrap();
                self.nudges.borrow_mut().entry(to.id.clone()).or_default().push(nudge.to);
            }
            let reply = self.object(to).call(call, &body).await;
            let is_lost = self.silenced.borrow().contains(to) || self.loses();
            if is_lost { Err(Fault::retriable("the reply was lost")) } else { Ok(reply) }
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
            World::evict(self, to);
            Ok(())
        })
    }
}

struct Host {
    world: Rc<World>,
    address: Address,
    sql: Rc<MemorySql>,
}

impl Clock for Host {
    fn now_ms(&self) -> u64 {
        self.world.now_ms()
    }
}

impl Random for Host {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        bytes.fill_with(|| self.world.dice.roll(256) as u8);
        Ok(())
    }
}

/// A disk that fails now and then, at a statement or at the commit.
impl Sql for Host {
    fn query(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
        if self.world.breaks() {
            return Err(Fault::retriable("the disk failed"));
        }
        self.sql.query(statement, params)
    }

    fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        let mut broken = false;
        self.sql.atomically(&mut || {
            broken = self.world.breaks();
            body() && !broken
        })?;
        if broken { Err(Fault::retriable("the disk failed at the commit")) } else { Ok(()) }
    }
}

impl ObjectHost for Host {
    fn sql(&self) -> &dyn Sql {
        self
    }

    fn actors(&self) -> &dyn Actors {
        &*self.world
    }

    fn metadata(&self) -> Result<Rc<dyn Metadata>, Fault> {
        Ok(self.world.metadata.clone())
    }

    fn durable(&self) -> LocalFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }

    fn spawn(&self, work: LocalFuture<'static, ()>) {
        let mut spawned = self.world.spawned.borrow_mut();
        spawned.push_back((self.address.clone(), work));
        let own = spawned.iter().filter(|(owner, _)| *owner == self.address).count();
        self.world.spawned_at_once.set(self.world.spawned_at_once.get().max(own));
    }

    fn set_alarm(&self, at_ms: Option<u64>) -> Result<(), Fault> {
        self.world.alarms_set.set(self.world.alarms_set.get() + 1);
        let mut alarms = self.world.alarms.borrow_mut();
        match at_ms {
            Some(at_ms) => alarms.insert(self.address.clone(), at_ms),
            None => alarms.remove(&self.address),
        };
        Ok(())
    }

    fn armed_ms(&self) -> Option<u64> {
        self.world.rings_at(&self.address)
    }

    fn waiting(&self) -> usize {
        self.world.waiting.borrow().get(&self.address).copied().unwrap_or(0)
    }

    fn wake(&self) {}

    fn carry(&self, server: &str) {
        self.world.carriers.borrow_mut().push(server.to_owned());
    }
}
