//! What one living actor has of its server: its disk, the gate, waiting calls, the way out.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    rc::{Rc, Weak},
};

use actors::Object;
use futures_channel::oneshot;
use platform::{
    Actors, Address, Clock, Fault, LocalFuture, Metadata, ObjectHost, Random, Sql, WAITING_CALLS_MAX,
    planted::{self, Planted},
};

use crate::{
    disk::Disk,
    knobs::Knobs,
    process::{Process, Tier},
    scheduler::{Group, Scheduler},
};

/// Where the answer of a waiting call goes; none: there is nothing.
type Reply = oneshot::Sender<Result<Option<Vec<u8>>, Fault>>;

/// A waiting call.
struct Waiter {
    call: String,
    body: Vec<u8>,
    reply: Reply,
}

pub(crate) struct ActorHost {
    pub(crate) address: Address,
    pub(crate) group: Group,
    pub(crate) disk: Rc<Disk>,
    tier: Tier,
    scheduler: Rc<Scheduler>,
    waiters: RefCell<VecDeque<Waiter>>,
    is_waking: Cell<bool>,
    object: OnceCell<Weak<Object>>,
    this: Weak<ActorHost>,
}

impl ActorHost {
    pub(crate) fn new(address: Address, disk: Rc<Disk>, process: &Rc<Process>) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            address,
            group: Group::inside(&process.group),
            disk,
            tier: Tier::of(process),
            scheduler: process.scheduler().clone(),
            waiters: RefCell::default(),
            is_waking: Cell::new(false),
            object: OnceCell::new(),
            this: this.clone(),
        })
    }

    pub(crate) fn lives_in(&self, object: &Rc<Object>) {
        let _ = self.object.set(Rc::downgrade(object));
    }

    /// Makes a waiting call, or parks it.
    pub(crate) fn wait(
        &self,
        object: &Object,
        call: &str,
        body: Vec<u8>,
    ) -> oneshot::Receiver<Result<Option<Vec<u8>>, Fault>> {
        let (reply, answer) = oneshot::channel();
        match object.wait(call, &body) {
            Some(answer) => self.release(vec![(reply, answer)]),
            None => {
                self.forget_gone();
                let mut waiters = self.waiters.borrow_mut();
                if waiters.len() >= WAITING_CALLS_MAX
                    && let Some(oldest) = waiters.pop_front()
                {
                    let _ = oldest.reply.send(Ok(None));
                }
                waiters.push_back(Waiter { call: call.to_owned(), body, reply });
            }
        }
        answer
    }

    /// The actor ends: whoever waits is told to try again.
    pub(crate) fn dismiss(&self) {
        for waiter in self.waiters.take() {
            let _ = waiter.reply.send(Err(Fault::retriable("the actor was closed while a call waited on it")));
        }
    }

    fn forget_gone(&self) {
        self.waiters.borrow_mut().retain(|waiter| !waiter.reply.is_canceled());
    }

    fn release(&self, replies: Vec<(Reply, Vec<u8>)>) {
        let gate = self.gate();
        let _running = self.scheduler.spawn(&self.group, async move {
            gate.await;
            for (reply, answer) in replies {
                let _ = reply.send(Ok(Some(answer)));
            }
        });
    }

    /// Resolves once what is committed now is on disk.
    fn gate(&self) -> impl Future<Output = ()> + 'static {
        let (disk, scheduler, process) = (self.disk.clone(), self.scheduler.clone(), self.tier.process().ok());
        async move {
            if disk.is_synced() {
                return;
            }
            let (commits, Some(process)) = (disk.commits(), process) else { return };
            let knobs = process.knobs();
            let slow = process.dice.happens(knobs.slow_sync_one_in);
            let ms = if slow { Knobs::SLOW_SYNC_MS } else { 1 + process.dice.roll(knobs.sync_ms_max) };
            drop(process);
            scheduler.sleep(ms).await;
            disk.sync(commits);
        }
    }

    fn ask_again(&self) {
        let Some(object) = self.object.get().and_then(Weak::upgrade) else { return };
        self.forget_gone();
        let mut replies = Vec::new();
        for waiter in self.waiters.take() {
            match object.wait(&waiter.call, &waiter.body) {
                Some(answer) => replies.push((waiter.reply, answer)),
                None => self.waiters.borrow_mut().push_back(waiter),
            }
        }
        if !replies.is_empty() {
            self.release(replies);
        }
    }
}

impl Clock for ActorHost {
    fn now_ms(&self) -> u64 {
        self.scheduler.now_ms()
    }
}

impl Random for ActorHost {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        self.tier.fill(bytes)
    }
}

impl ObjectHost for ActorHost {
    fn sql(&self) -> &dyn Sql {
        &*self.disk
    }

    fn actors(&self) -> &dyn Actors {
        &self.tier
    }

    fn metadata(&self) -> Result<Rc<dyn Metadata>, Fault> {
        Ok(self.tier.process()?.metadata())
    }

    fn durable(&self) -> LocalFuture<'_, Result<(), Fault>> {
        let gate = self.gate();
        if planted::is(Planted::EarlyNudge) {
            self.spawn(Box::pin(gate));
            return Box::pin(async { Ok(()) });
        }
        Box::pin(async move {
            gate.await;
            Ok(())
        })
    }

    fn spawn(&self, work: LocalFuture<'static, ()>) {
        let _running = self.scheduler.spawn(&self.group, work);
    }

    fn set_alarm(&self, at_ms: Option<u64>) -> Result<(), Fault> {
        self.disk.set_alarm(at_ms);
        self.tier.process()?.look_at_alarm_soon(&self.address);
        Ok(())
    }

    fn armed_ms(&self) -> Option<u64> {
        self.tier.process().ok()?.armed_ms(&self.address)
    }

    fn waiting(&self) -> usize {
        self.forget_gone();
        self.waiters.borrow().len()
    }

    fn carry(&self, actor: &str) {
        if let Ok(process) = self.tier.process() {
            process.carry(actor);
        }
    }

    fn wake(&self) {
        if self.waiting() == 0 || self.is_waking.replace(true) {
            return;
        }
        let this = self.this.clone();
        let _running = self.scheduler.spawn(&self.group, async move {
            let Some(this) = this.upgrade() else { return };
            this.is_waking.set(false);
            this.ask_again();
        });
    }
}
