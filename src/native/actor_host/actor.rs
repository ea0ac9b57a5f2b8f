use std::{
    cell::{Cell, OnceCell},
    rc::{Rc, Weak},
};

use platform::{Actors, Address, Clock, Fault, LocalFuture, Metadata, ObjectHost, Random, Sql, meter};
use rusqlite::Connection;

use super::{
    Living,
    alarms::ActorAlarm,
    carriers::Carriers,
    database::Database,
    executor::Executor,
    gate::Gate,
    waiters::{WaitReply, Waiter, Waiters},
};
use crate::chance::Chance;

/// What one open actor has of this host.
pub(crate) struct ActorHost {
    address: Address,
    database: Database,
    gate: Rc<Gate>,
    alarm: Rc<ActorAlarm>,
    actors: Rc<dyn Actors>,
    carriers: Carriers,
    metadata: Rc<dyn Metadata>,
    clock: Rc<dyn Clock>,
    waiters: Waiters,
    living: OnceCell<Weak<dyn Living>>,
    executor: Weak<Executor>,
    /// Calls, alarms and background work under way.
    running: Cell<usize>,
    /// A wake is on its way to the waiters; another one before it arrives adds nothing.
    waking: Cell<bool>,
    closed: Cell<bool>,
}

/// The parts an [`ActorHost`] is made of.
pub(crate) struct Parts {
    pub address: Address,
    pub database: Database,
    pub gate: Rc<Gate>,
    pub alarm: Rc<ActorAlarm>,
    pub actors: Rc<dyn Actors>,
    pub carriers: Carriers,
    pub metadata: Rc<dyn Metadata>,
    pub clock: Rc<dyn Clock>,
    pub executor: Weak<Executor>,
}

impl ActorHost {
    pub(crate) fn new(parts: Parts) -> Rc<Self> {
        let Parts { address, database, gate, alarm, actors, carriers, metadata, clock, executor } = parts;
        Rc::new(Self {
            address,
            database,
            gate,
            alarm,
            actors,
            carriers,
            metadata,
            clock,
            waiters: Waiters::default(),
            living: OnceCell::new(),
            executor,
            running: Cell::new(0),
            waking: Cell::new(false),
            closed: Cell::new(false),
        })
    }

    pub(crate) fn lives_in(&self, living: &Rc<dyn Living>) {
        // Set once, where the actor is made.
        let _ = self.living.set(Rc::downgrade(living));
    }

    /// Whether the actor may be closed: nobody is served, nobody waits, everything is on disk.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_at_rest() && self.waiters.count() == 0
    }

    /// Whether nothing runs, though callers may wait.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.running.get() == 0 && !self.gate.is_dirty()
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.database.is_absent()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Ends the actor's memory. Its unfinished work meets retriable faults; the connection is the caller's to drop.
    pub(crate) fn close(&self) -> Option<Connection> {
        self.closed.set(true);
        self.gate.shut();
        self.waiters.dismiss();
        self.database.close()
    }

    /// Counts something under way until the answer is dropped.
    pub(crate) fn running(self: &Rc<Self>) -> Running {
        self.running.set(self.running.get().saturating_add(1));
        Running(self.clone())
    }

    /// Makes a waiting call, or parks it. No await between looking and parking: no wake can fall in between.
    pub(crate) fn wait(self: &Rc<Self>, living: &dyn Living, waiter: Waiter) {
        meter::OBJECT_CALLS.add(1);
        match living.wait(&waiter.call, &waiter.body) {
            Some(reply) => self.release(vec![(waiter.reply, reply)]),
            None => self.waiters.park(waiter),
        }
    }

    /// Lets replies out through the gate.
    fn release(self: &Rc<Self>, replies: Vec<(WaitReply, Vec<u8>)>) {
        let running = self.running();
        let durable = self.gate.durable();
        tokio::task::spawn_local(async move {
            let outcome = durable.await;
            for (out, reply) in replies {
                // A caller that is gone needs no answer.
                let _ = out.send(outcome.clone().map(|()| Some(reply)));
            }
            drop(running);
        });
    }

    /// Has what nobody waits for written too: an alarm that was set while a caller was parked, say.
    fn write_the_rest(self: &Rc<Self>) {
        if self.running.get() == 0 && self.gate.is_dirty() && !self.is_closed() {
            let (durable, running) = (self.gate.durable(), self.running());
            tokio::task::spawn_local(async move {
                // A sync that fails closes the actor.
                let _ = durable.await;
                drop(running);
            });
        }
    }

    fn ask_again(self: &Rc<Self>) {
        let Some(living) = self.living.get().and_then(Weak::upgrade) else { return };
        let replies = self.waiters.answered(|call, body| living.wait(call, body));
        if !replies.is_empty() {
            self.release(replies);
        }
    }
}

/// The same host as the framework holds it: with an `Rc` of itself, for work that outlives a call.
pub(crate) struct Shared(pub Rc<ActorHost>);

impl Clock for Shared {
    fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }
}

impl Random for Shared {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        Chance.fill(bytes)
    }
}

impl ObjectHost for Shared {
    fn sql(&self) -> &dyn Sql {
        &self.0.database
    }

    fn actors(&self) -> &dyn Actors {
        &*self.0.actors
    }

    fn metadata(&self) -> Result<Rc<dyn Metadata>, Fault> {
        Ok(self.0.metadata.clone())
    }

    fn durable(&self) -> LocalFuture<'_, Result<(), Fault>> {
        self.0.gate.durable()
    }

    fn spawn(&self, work: LocalFuture<'static, ()>) {
        let running = self.0.running();
        tokio::task::spawn_local(async move {
            work.await;
            drop(running);
        });
    }

    fn set_alarm(&self, at_ms: Option<u64>) -> Result<(), Fault> {
        self.0.alarm.set(at_ms, self.0.database.in_transaction())
    }

    fn armed_ms(&self) -> Option<u64> {
        self.0.alarm.armed_ms()
    }

    fn carry(&self, actor: &str) {
        self.0.carriers.carry(actor);
    }

    fn waiting(&self) -> usize {
        self.0.waiters.count()
    }

    fn wake(&self) {
        if self.0.waiters.count() == 0 || self.0.waking.replace(true) {
            return;
        }
        let (host, running) = (self.0.clone(), self.0.running());
        tokio::task::spawn_local(async move {
            // A burst of commits asks once.
            tokio::task::yield_now().await;
            host.waking.set(false);
            host.ask_again();
            drop(running);
        });
    }
}

/// Something under way on an actor.
pub(crate) struct Running(Rc<ActorHost>);

impl Drop for Running {
    fn drop(&mut self) {
        let host = &self.0;
        host.running.set(host.running.get().saturating_sub(1));
        let Some(executor) = host.executor.upgrade() else { return };
        if std::thread::panicking() {
            // Nobody knows what the operation left half done in memory.
            executor.close_failed(&host.address);
        } else {
            host.write_the_rest();
            executor.rested(&host.address, host);
        }
    }
}
