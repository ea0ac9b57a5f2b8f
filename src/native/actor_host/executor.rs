use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    mem,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use platform::{Actors, Address, Clock, Fault, Metadata, ObjectHost};
use rusqlite::{Connection, config::DbConfig};
use tokio::sync::{Notify, mpsc::UnboundedReceiver, oneshot};
use tracing::error;

use super::{
    Living, Open,
    actor::{ActorHost, Parts, Shared},
    alarms::{ActorAlarm, Alarms},
    carriers::Carriers,
    database::Database,
    disk::{Disk, Wal},
    files::{ActorFiles, wal_of},
    gate::Gate,
    waiters::{Reply, Waiter},
};

/// An actor nobody used for so long gives its memory and its file handles back.
pub(crate) const IDLE_MS: u64 = 5 * 60_000;
/// How often idle actors are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// Actors still at work after this long are closed under it when the host stops.
pub(crate) const STOP: Duration = Duration::from_secs(5);

/// What an executor is asked to do. Nothing else crosses threads.
pub(crate) enum Message {
    To(Address, Request),
    /// Finish what runs, close every actor, and end.
    Stop,
}

pub(crate) enum Request {
    Call { call: String, body: Vec<u8>, reply: Reply<Vec<u8>> },
    Wait(Waiter),
    Evict(oneshot::Sender<()>),
    Alarm,
}

/// One thread's actors. Each actor lives on one executor, chosen by its address.
pub(crate) struct Executor {
    pub(super) files: ActorFiles,
    pub(super) open: Open,
    pub(super) alarms: Rc<Alarms>,
    pub(super) actors: Rc<dyn Actors>,
    pub(super) carriers: Carriers,
    pub(super) metadata: Rc<dyn Metadata>,
    pub(super) clock: Rc<dyn Clock>,
    pub(super) disk: Arc<dyn Disk>,
    /// Actors kept open; more only while all of them are at work.
    pub(super) open_max: usize,
    pub(super) slots: RefCell<HashMap<Address, Slot>>,
    pub(super) uses: Cell<u64>,
    pub(super) rest: Notify,
}

pub(super) enum Slot {
    Open(Rc<OpenActor>),
    /// Its file is being closed on another thread; these came meanwhile.
    Closing(Vec<Request>),
}

pub(super) struct OpenActor {
    living: Rc<dyn Living>,
    host: Rc<ActorHost>,
    /// Counts up: the smallest is the least recently used.
    used: Cell<u64>,
    used_ms: Cell<u64>,
}

impl Executor {
    /// Serves until told to stop, or until nobody can send any more.
    pub(crate) async fn run(self: Rc<Self>, mut inbox: UnboundedReceiver<Message>) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Message::To(address, request)) => self.handle(address, request),
                    Some(Message::Stop) | None => break,
                },
                address = self.alarms.next() => self.handle(address, Request::Alarm),
                _ = sweep.tick() => self.close_idle(),
            }
        }
        // What runs may still call the actors of this executor.
        let finished = async {
            loop {
                if self.is_quiet() {
                    return;
                }
                tokio::select! {
                    Some(message) = inbox.recv() => if let Message::To(address, request) = message {
                        self.handle(address, request);
                    },
                    () = self.rest.notified() => {}
                }
            }
        };
        if tokio::time::timeout(STOP, finished).await.is_err() {
            tracing::warn!("some actors were still at work");
        }
        inbox.close();
        self.close_all().await;
    }

    pub(crate) fn handle(self: &Rc<Self>, address: Address, request: Request) {
        if let Some(Slot::Closing(queue)) = self.slots.borrow_mut().get_mut(&address) {
            queue.push(request);
            return;
        }
        if let Request::Evict(done) = request {
            self.evict(&address, done);
            return;
        }
        match self.actor(&address) {
            Ok(actor) => self.serve(address, &actor, request),
            Err(fault) => {
                error!(actor = %address, %fault, "an actor could not be opened");
                match request {
                    // A caller that is gone needs no answer.
                    Request::Call { reply, .. } => drop(reply.send(Err(fault))),
                    Request::Wait(Waiter { reply, .. }) => drop(reply.send(Err(fault))),
                    Request::Alarm => self.alarms.again(&address),
                    Request::Evict(_) => {}
                }
            }
        }
    }

    fn serve(self: &Rc<Self>, address: Address, actor: &OpenActor, request: Request) {
        let living = actor.living.clone();
        let running = actor.host.running();
        match request {
            Request::Call { call, body, reply } => {
                tokio::task::spawn_local(async move {
                    let outcome = living.call(call, body).await;
                    drop(running);
                    let _ = reply.send(Ok(outcome));
                });
            }
            Request::Wait(waiter) => {
                let host = actor.host.clone();
                // A task of its own, so that a panic stays the actor's.
                tokio::task::spawn_local(async move {
                    host.wait(&*living, waiter);
                    drop(running);
                });
            }
            Request::Alarm => {
                let ringing = Ringing { executor: self.clone(), address, host: actor.host.clone(), done: false };
                tokio::task::spawn_local(async move {
                    let mut ringing = ringing;
                    living.alarm().await;
                    ringing.done = true;
                    drop((ringing, running));
                });
            }
            Request::Evict(_) => {}
        }
    }

    /// The open actor; opens it if need be.
    pub(super) fn actor(self: &Rc<Self>, address: &Address) -> Result<Rc<OpenActor>, Fault> {
        let used = self.uses.get().saturating_add(1);
        self.uses.set(used);
        let now_ms = self.clock.now_ms();
        if let Some(Slot::Open(actor)) = self.slots.borrow().get(address) {
            actor.used.set(used);
            actor.used_ms.set(now_ms);
            return Ok(actor.clone());
        }
        self.make_room();
        let wal = Wal::new(wal_of(&self.files.path(address)));
        let gate = Gate::new(self.disk.clone(), Arc::new(wal));
        let alarm = ActorAlarm::new(address.clone(), self.alarms.clone(), gate.clone());
        let database = Database::open(self.files.clone(), address.clone(), gate.clone(), alarm.clone())?;
        let (executor, failed) = (Rc::downgrade(self), address.clone());
        gate.on_failure(move || {
            if let Some(executor) = executor.upgrade() {
                executor.close_failed(&failed);
            }
        });
        let host = ActorHost::new(Parts {
            address: address.clone(),
            database,
            gate,
            alarm,
            actors: self.actors.clone(),
            carriers: self.carriers.clone(),
            metadata: self.metadata.clone(),
            clock: self.clock.clone(),
            executor: Rc::downgrade(self),
        });
        let shared: Rc<dyn ObjectHost> = Rc::new(Shared(host.clone()));
        let living = (self.open)(address.clone(), shared);
        host.lives_in(&living);
        let actor = Rc::new(OpenActor { living, host, used: Cell::new(used), used_ms: Cell::new(now_ms) });
        self.slots.borrow_mut().insert(address.clone(), Slot::Open(actor.clone()));
        Ok(actor)
    }

    /// Something of this actor ended. An actor that was never founded keeps no memory either.
    pub(super) fn rested(self: &Rc<Self>, address: &Address, host: &ActorHost) {
        if !host.is_closed() && host.is_absent() && host.is_idle() {
            self.close(address);
        }
        self.rest.notify_one();
    }

    /// Makes room for one more: closes the least recently used idle actor when there are too many.
    fn make_room(self: &Rc<Self>) {
        let oldest = {
            let slots = self.slots.borrow();
            if slots.len() < self.open_max {
                return;
            }
            let idle = slots.iter().filter_map(|(address, slot)| match slot {
                Slot::Open(actor) if actor.host.is_idle() => Some((actor.used.get(), address)),
                _ => None,
            });
            idle.min().map(|(_, address)| address.clone())
        };
        if let Some(address) = oldest {
            self.close(&address);
        }
    }

    fn close_idle(self: &Rc<Self>) {
        let since_ms = self.clock.now_ms().saturating_sub(IDLE_MS);
        for address in self.open_where(|actor| actor.used_ms.get() <= since_ms && actor.host.is_idle()) {
            self.close(&address);
        }
    }

    fn open_where(&self, wanted: impl Fn(&OpenActor) -> bool) -> Vec<Address> {
        let slots = self.slots.borrow();
        let open = slots.iter().filter(|(_, slot)| matches!(slot, Slot::Open(actor) if wanted(actor)));
        open.map(|(address, _)| address.clone()).collect()
    }

    fn evict(self: &Rc<Self>, address: &Address, done: oneshot::Sender<()>) {
        self.close(address);
        match self.slots.borrow_mut().get_mut(address) {
            Some(Slot::Closing(queue)) => queue.push(Request::Evict(done)),
            // Nobody may wait any more.
            _ => drop(done.send(())),
        }
    }

    /// Closes an actor whose memory can no longer be trusted. It is called soon, to look at its alarm again.
    pub(super) fn close_failed(self: &Rc<Self>, address: &Address) {
        platform::meter::FAULTS.add(1);
        self.close(address);
        self.alarms.soon(address);
    }

    /// Drops an actor's memory and closes its file, on another thread: that copies the log back and syncs.
    fn close(self: &Rc<Self>, address: &Address) {
        let actor = match self.slots.borrow_mut().get_mut(address) {
            Some(slot @ Slot::Open(_)) => match mem::replace(slot, Slot::Closing(Vec::new())) {
                Slot::Open(actor) => actor,
                Slot::Closing(_) => return,
            },
            _ => return,
        };
        let Some(connection) = actor.host.close() else {
            self.slots.borrow_mut().remove(address);
            return;
        };
        let (executor, address) = (self.clone(), address.clone());
        tokio::task::spawn_local(async move {
            let closed = tokio::task::spawn_blocking(move || finish(connection)).await;
            if let Err(error) = closed.map_err(|error| Fault::new(error.to_string())).and_then(|closed| closed) {
                error!(actor = %address, fault = %error, "an actor's file did not close");
            }
            let slot = executor.slots.borrow_mut().remove(&address);
            if let Some(Slot::Closing(queue)) = slot {
                for request in queue {
                    executor.handle(address.clone(), request);
                }
            }
            executor.rest.notify_one();
        });
    }

    /// Whether nothing runs. Waiters do not count: nothing happens for them any more.
    fn is_quiet(&self) -> bool {
        self.slots.borrow().values().all(|slot| matches!(slot, Slot::Open(actor) if actor.host.is_at_rest()))
    }

    async fn close_all(self: &Rc<Self>) {
        for address in self.open_where(|_| true) {
            self.close(&address);
        }
        while !self.slots.borrow().is_empty() {
            self.rest.notified().await;
        }
    }
}

/// Copies the log into the database and empties it. SQLite would also remove the file, for the next opening to make it
/// anew: where many actors come and go that costs more than all the rest of an opening, as file systems search long for
/// a free inode among those just freed.
fn finish(connection: Connection) -> Result<(), Fault> {
    let is_emptied = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        .and_then(|busy| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, busy == 0));
    let closed = connection.close().map_err(|(_, error)| error);
    is_emptied.map(drop).and(closed).map_err(crate::sqlite::fault)
}

/// An alarm at work: unless it ends well, it rings again.
struct Ringing {
    executor: Rc<Executor>,
    address: Address,
    host: Rc<ActorHost>,
    done: bool,
}

impl Drop for Ringing {
    fn drop(&mut self) {
        if self.done && !self.host.is_closed() {
            self.executor.alarms.rung(&self.address);
        } else {
            self.executor.alarms.again(&self.address);
        }
    }
}
