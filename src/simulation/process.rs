//! One run of a server's process: its actors in memory, its request tier, its alarms. A crash ends all of it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
    sync::Arc,
};

use actors::{Object, Settings};
use api::{Arriving, Body, KnownServers, MediaTurns, RateLimits, Server, Services};
use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::TryStreamExt as _;
use http::{Request, Response};
use platform::{
    Actors, Address, Blob, Clock as _, Fault, Heavy, LocalFuture, Metadata, ObjectHost, Outgoing, Random,
    planted::{self, Planted},
};

use crate::{
    actor_host::ActorHost,
    dice::Dice,
    disk::Disk,
    knobs::Knobs,
    machine::Machine,
    scheduler::{Group, Scheduler},
};

/// How long an alarm rests whose actor was closed while it rang.
const RING_AGAIN_MS: u64 = 1_000;

/// What an older copy of an actor has of it in any case: its schema, a room's members, a user's rooms and devices.
const STAYS: &[&str] = &["CREATE TABLE", " member ", "INTO room ", "INTO device ", "INTO account "];

pub(crate) struct Process {
    pub(crate) group: Group,
    machine: Rc<Machine>,
    /// What goes wrong inside.
    pub(crate) dice: Dice,
    settings: Rc<Settings>,
    living: RefCell<BTreeMap<Address, Living>>,
    /// When which alarm rings, as this process knows.
    alarms: RefCell<BTreeMap<Address, u64>>,
    /// Actors at work on their alarms, and when these were to ring.
    ringing: RefCell<BTreeMap<Address, u64>>,
    server: RefCell<Option<Rc<Server>>>,
    /// What happened inside, for whoever wants to know whether anything still does.
    pub(crate) calls: Cell<u64>,
    this: Weak<Process>,
}

#[derive(Clone)]
struct Living {
    object: Rc<Object>,
    host: Rc<ActorHost>,
}

impl Process {
    /// Starts a process on what the machine's disks have.
    pub(crate) async fn start(machine: Rc<Machine>, run: u64) -> Rc<Self> {
        let config = machine.config();
        let metadata = machine.metadata.clone();
        let settings = api::load_settings(&*metadata, config, &machine.chance).await.expect("metadata works");
        let settings = Rc::new(settings);
        let process = Rc::new_cyclic(|this: &Weak<Process>| Self {
            group: Group::default(),
            dice: Dice::of(run, &format!("process of {}", machine.name)),
            settings: settings.clone(),
            living: RefCell::default(),
            alarms: RefCell::default(),
            ringing: RefCell::default(),
            server: RefCell::default(),
            calls: Cell::new(0),
            this: this.clone(),
            machine,
        });
        let tier = Rc::new(Tier::of(&process));
        let services = Services {
            actors: tier.clone(),
            metadata,
            blobs: process.machine.files.clone(),
            clock: process.scheduler().clone(),
            random: tier.clone(),
            heavy: tier,
            rate_limits: Arc::new(RateLimits::new(&settings.config.rate_limits)),
            outgoing: Rc::new(process.machine.way_out()) as Rc<dyn Outgoing>,
            known_servers: Arc::new(KnownServers::default()),
            media_turns: Arc::new(MediaTurns::default()),
            carrier_ms_max: None,
            settings,
        };
        let routes = api::routes(&services.settings.config);
        *process.server.borrow_mut() = Some(Rc::new(Server::new(services, routes)));
        for (address, disk) in process.machine.disks() {
            if disk.alarm().is_some() {
                process.look_at_alarm(&address);
            }
        }
        process
    }

    pub(crate) fn scheduler(&self) -> &Rc<Scheduler> {
        &self.machine.network.scheduler
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn knobs(&self) -> Knobs {
        self.machine.network.knobs.get()
    }

    pub(crate) fn chance(&self) -> &Dice {
        &self.machine.chance
    }

    pub(crate) fn metadata(&self) -> Rc<dyn Metadata> {
        self.machine.metadata.clone()
    }

    /// Answers a request, with all of its body; `None` if the connection breaks.
    pub(crate) fn answer(&self, request: Request<Bytes>) -> impl Future<Output = Option<Response<Bytes>>> + 'static {
        let server = self.server.borrow().clone();
        let (reply, answer) = oneshot::channel();
        // Whoever stops waiting takes the request away, as a closed connection does, unless it is seen through.
        let is_seen_through = api::is_seen_through(request.method());
        let running = self.scheduler().spawn(&self.group, async move {
            let Some(server) = server else { return };
            let response = server.answer(request.map(Arriving::from)).await;
            let (head, body) = response.into_parts();
            let body = match body {
                Body::Whole(bytes) => Ok(bytes),
                Body::Pieces(pieces) | Body::Stored(Blob { pieces, .. }) => {
                    pieces.try_collect::<Vec<Bytes>>().await.map(|pieces| pieces.concat().into())
                }
            };
            if let Ok(body) = body {
                let _ = reply.send(Response::from_parts(head, body));
            }
        });
        async move {
            let _running = (!is_seen_through).then(|| running.ends_with_this());
            answer.await.ok()
        }
    }

    /// Carries out of the server what an actor has for others.
    pub(crate) fn carry(&self, actor: &str) {
        let (server, actor) = (self.server.borrow().clone(), actor.to_owned());
        let _running = self.scheduler().spawn(&self.group, async move {
            if let Some(server) = server {
                server.carry(&actor).await;
            }
        });
    }

    fn living(&self, address: &Address) -> Result<Living, Fault> {
        if let Some(living) = self.living.borrow().get(address) {
            return Ok(living.clone());
        }
        let this = self.this.upgrade().ok_or_else(|| Fault::retriable("the host is gone"))?;
        let disk: Rc<Disk> = self.machine.disk(address);
        let host = ActorHost::new(address.clone(), disk, &this);
        let shared: Rc<dyn ObjectHost> = host.clone();
        let object = Object::new(address.clone(), shared, self.settings.clone());
        host.lives_in(&object);
        let living = Living { object, host };
        self.living.borrow_mut().insert(address.clone(), living.clone());
        Ok(living)
    }

    /// Who is alive.
    pub(crate) fn actors(&self) -> Vec<Address> {
        self.living.borrow().keys().cloned().collect()
    }

    /// Ends an actor's memory and whatever it was doing. What it committed is written.
    pub(crate) fn evict(&self, address: &Address) {
        let Some(living) = self.living.borrow_mut().remove(address) else { return };
        living.host.disk.sync(living.host.disk.commits());
        self.scheduler().end(&living.host.group);
        living.host.dismiss();
        if self.ringing.borrow_mut().remove(address).is_some() {
            self.ring_at(address, self.scheduler().now_ms() + RING_AGAIN_MS);
        }
    }

    /// Puts an actor back to an older copy, of the same memberships and devices: those are promised elsewhere, too.
    /// Answers whether that took anything from it.
    pub(crate) fn restores(&self, address: &Address, back: usize) -> bool {
        self.evict(address);
        let disk = self.machine.disk(address);
        let kept = disk.older_copy(back, STAYS);
        let is_older = kept < disk.commits();
        disk.keep(kept).expect("what was written once can be written again");
        self.look_at_alarm(address);
        is_older
    }

    /// What a test planted: the answer to a call that is not made.
    fn does_wrong(&self, to: &Address, call: &str, body: &[u8]) -> Option<Vec<u8>> {
        match call {
            "membership_changed" if planted::is(Planted::LostMembership) && self.dice.happens(6) => {
                Some(br#"{"ok":null}"#.to_vec())
            }
            "receive_to_device" if planted::is(Planted::RepeatedWhisper) && self.dice.happens(3) => {
                let mut again: serde_json::Value = serde_json::from_slice(body).expect("a call is JSON");
                again["txn_id"] = "another".into();
                let (body, object) = (again.to_string(), self.living(to).ok()?);
                let _running = self.scheduler().spawn(&object.host.group, async move {
                    object.object.call("receive_to_device", body.as_bytes()).await;
                });
                None
            }
            _ => None,
        }
    }

    async fn travel(&self) {
        let ms = self.dice.roll(self.knobs().call_ms_max + 1);
        if ms > 0 {
            self.scheduler().sleep(ms).await;
        }
    }

    fn loses(&self) -> bool {
        self.dice.happens(self.knobs().lost_call_one_in)
    }

    pub(crate) async fn call(&self, to: &Address, call: &str, body: Vec<u8>) -> Result<Vec<u8>, Fault> {
        self.calls.set(self.calls.get() + 1);
        self.travel().await;
        if self.loses() {
            return Err(Fault::retriable("the call was lost"));
        }
        if let Some(answer) = self.does_wrong(to, call, &body) {
            return Ok(answer);
        }
        if self.dice.happens(self.knobs().eviction_one_in) {
            self.evict(to);
        }
        let living = self.living(to)?;
        let (reply, answer) = oneshot::channel();
        let trace = &self.machine.network.trace;
        let asked = trace.is_kept().then(|| String::from_utf8_lossy(&body).into_owned());
        let (object, name) = (living.object.clone(), call.to_owned());
        let _running = self.scheduler().spawn(&living.host.group, async move {
            let _ = reply.send(object.call(&name, &body).await);
        });
        drop(living);
        let answer = answer.await.map_err(|_| Fault::retriable("the actor was closed during a call"))?;
        if let Some(asked) = asked {
            let answer = String::from_utf8_lossy(&answer);
            trace.explain(
                self.scheduler().now_ms(),
                format_args!("{}: {to} {call} {asked}: {answer}", self.machine.name),
            );
        }
        let answer_bytes_max = &self.machine.answer_bytes_max;
        answer_bytes_max.set(answer_bytes_max.get().max(answer.len()));
        self.travel().await;
        if self.loses() { Err(Fault::retriable("the answer was lost")) } else { Ok(answer) }
    }

    pub(crate) async fn wait(
        &self,
        to: &Address,
        call: &str,
        body: Vec<u8>,
        timeout_ms: u64,
    ) -> Result<Option<Vec<u8>>, Fault> {
        self.travel().await;
        let answer = {
            let living = self.living(to)?;
            living.host.wait(&living.object, call, body)
        };
        match self.scheduler().within(timeout_ms, answer).await {
            None => Ok(None),
            Some(Ok(reply)) => reply,
            Some(Err(_)) => Err(Fault::retriable("the actor was closed while a call waited on it")),
        }
    }

    /// The actor set its alarm in a transaction that may not be over.
    pub(crate) fn look_at_alarm_soon(&self, address: &Address) {
        let (this, address) = (self.this.clone(), address.clone());
        let _running = self.scheduler().spawn(&self.group, async move {
            if let Some(this) = this.upgrade() {
                this.look_at_alarm(&address);
            }
        });
    }

    fn look_at_alarm(&self, address: &Address) {
        match self.machine.disk(address).alarm() {
            Some(at_ms) => self.ring_at(address, at_ms),
            None => drop(self.alarms.borrow_mut().remove(address)),
        }
    }

    /// When an actor's alarm will ring: what rings now does no more.
    pub(crate) fn armed_ms(&self, address: &Address) -> Option<u64> {
        let rung_ms = self.ringing.borrow().get(address).copied();
        self.machine.disk(address).alarm().filter(|at_ms| rung_ms.is_none_or(|rung_ms| *at_ms > rung_ms))
    }

    fn ring_at(&self, address: &Address, at_ms: u64) {
        if self.alarms.borrow_mut().insert(address.clone(), at_ms) == Some(at_ms) {
            return;
        }
        let (this, address, scheduler) = (self.this.clone(), address.clone(), self.scheduler().clone());
        let _running = self.scheduler().spawn(&self.group, async move {
            scheduler.sleep_until(at_ms).await;
            let Some(this) = this.upgrade() else { return };
            if this.alarms.borrow().get(&address) == Some(&at_ms) {
                this.alarms.borrow_mut().remove(&address);
                this.ring(&address, at_ms);
            }
        });
    }

    fn ring(&self, address: &Address, at_ms: u64) {
        let Ok(living) = self.living(address) else { return };
        self.calls.set(self.calls.get() + 1);
        self.ringing.borrow_mut().insert(address.clone(), at_ms);
        let (this, address, object, disk) =
            (self.this.clone(), address.clone(), living.object.clone(), living.host.disk.clone());
        if disk.alarm().is_some_and(|set_ms| set_ms > at_ms) {
            // This one rang again, after its actor had set another.
            self.look_at_alarm(&address);
        }
        let _running = self.scheduler().spawn(&living.host.group, async move {
            object.alarm().await;
            let Some(this) = this.upgrade() else { return };
            this.ringing.borrow_mut().remove(&address);
            // It rang: only now the disk may forget it.
            if disk.alarm().is_some_and(|set_ms| set_ms <= at_ms) && !this.alarms.borrow().contains_key(&address) {
                disk.set_alarm(None);
            }
        });
    }
}

/// What the request tier, and an actor, have of their process.
pub(crate) struct Tier(Weak<Process>);

impl Tier {
    pub(crate) fn of(process: &Rc<Process>) -> Self {
        Self(Rc::downgrade(process))
    }

    pub(crate) fn process(&self) -> Result<Rc<Process>, Fault> {
        self.0.upgrade().ok_or_else(|| Fault::retriable("the host is gone"))
    }
}

impl Actors for Tier {
    fn call<'a>(&'a self, to: &'a Address, call: &'a str, body: Vec<u8>) -> LocalFuture<'a, Result<Vec<u8>, Fault>> {
        Box::pin(async move { self.process()?.call(to, call, body).await })
    }

    fn wait<'a>(
        &'a self,
        to: &'a Address,
        call: &'a str,
        body: Vec<u8>,
        timeout_ms: u64,
    ) -> LocalFuture<'a, Result<Option<Vec<u8>>, Fault>> {
        Box::pin(async move { self.process()?.wait(to, call, body, timeout_ms).await })
    }

    fn evict<'a>(&'a self, to: &'a Address) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.process()?.evict(to);
            Ok(())
        })
    }
}

impl Random for Tier {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        self.process()?.chance().fill(bytes)
    }
}

impl Heavy for Tier {
    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalFuture<'a, Result<Vec<u8>, Fault>> {
        Box::pin(async move {
            let process = self.process()?;
            process.scheduler().sleep(1 + process.dice.roll(20)).await;
            Ok(work())
        })
    }

    fn pause<'a>(&'a self, ms: u64) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            if let Ok(process) = self.process() {
                process.scheduler().sleep(ms).await;
            }
        })
    }
}
