//! Runs actors: several single-threaded executors, each actor pinned to one by its address.
//!
//! In scope: opening and closing actors' files, carrying calls between threads, waiting calls, alarms, and the
//! output gate that lets nothing out before it is on disk. Out of scope: what actors do.

mod actor;
mod alarm_index;
mod alarms;
mod carriers;
mod database;
mod disk;
mod executor;
mod files;
mod gate;
#[cfg(test)]
mod tests;
mod waiters;

use std::{
    cell::{Cell, RefCell},
    hash::{BuildHasher, RandomState},
    path::Path,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use platform::{ActorKind, Actors, Address, Clock as _, Fault, LocalFuture, ObjectHost};
use tokio::sync::{
    Notify,
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot, watch,
};

use self::{
    alarm_index::{AlarmIndex, Opened},
    alarms::Alarms,
    carriers::Carriers,
    disk::Disk,
    executor::{Executor, Message, Request},
    files::ActorFiles,
    waiters::{Reply, Waiter},
};
use crate::{clock::SystemClock, metadata::MetadataSource};

pub(crate) use self::{disk::RealDisk, files::make_durable_dir};

/// Threads per executor that sync and close files.
const DISK_THREADS: usize = 8;

/// A living actor, as this host sees it.
pub(crate) trait Living {
    /// Runs one call; the reply's bytes carry refusals and faults too.
    fn call(self: Rc<Self>, call: String, body: Vec<u8>) -> LocalFuture<'static, Vec<u8>>;
    /// Runs a waiting call; `None` means nothing to say yet.
    fn wait(&self, call: &str, body: &[u8]) -> Option<Vec<u8>>;
    fn alarm(self: Rc<Self>) -> LocalFuture<'static, ()>;
}

impl Living for actors::Object {
    fn call(self: Rc<Self>, call: String, body: Vec<u8>) -> LocalFuture<'static, Vec<u8>> {
        Box::pin(async move { self.call(&call, &body).await })
    }

    fn wait(&self, call: &str, body: &[u8]) -> Option<Vec<u8>> {
        self.wait(call, body)
    }

    fn alarm(self: Rc<Self>) -> LocalFuture<'static, ()> {
        Box::pin(self.alarm())
    }
}

/// Brings an actor to life on its host.
pub(crate) type Open = Rc<dyn Fn(Address, Rc<dyn ObjectHost>) -> Rc<dyn Living>>;
/// Made on the starting thread, called on an executor's.
pub(crate) type OpenThere = Box<dyn FnOnce() -> Open + Send>;

/// How many threads and open files the host may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Executors for rooms, and as many again for everyone else.
    pub executors: usize,
    /// Actors kept open per executor.
    pub open_max: usize,
}

/// All executors, and the way to stop them.
pub(crate) struct ActorThreads {
    router: Router,
    threads: Vec<thread::JoinHandle<()>>,
}

impl ActorThreads {
    /// Opens the index of alarms and starts the executors. Actors that a crash left open are called soon, to look
    /// at what they owe: their last alarm may not have reached the index.
    pub(crate) fn start(
        data_dir: &Path,
        size: Size,
        living: impl Fn() -> Result<OpenThere, Fault>,
        metadata: &MetadataSource,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, Fault> {
        let files = ActorFiles::new(data_dir);
        let alarms = data_dir.join("alarms.sqlite");
        let Opened { index, kept, thread } = AlarmIndex::open(&alarms, &files.left_open()?, SystemClock.now_ms())?;
        let (router, inboxes) = Router::new(size.executors.max(1));
        let mut shares: Vec<Vec<(Address, u64)>> = inboxes.iter().map(|_| Vec::new()).collect();
        for (address, at_ms) in kept {
            if let Some(share) = shares.get_mut(router.place(&address)) {
                share.push((address, at_ms));
            }
        }
        let mut threads = vec![thread];
        for (inbox, alarms) in inboxes.into_iter().zip(shares) {
            let (router, files, index) = (router.clone(), files.clone(), index.clone());
            let (open, metadata, disk) = (living()?, metadata.clone(), disk.clone());
            let run = move || {
                run_local("an actor executor", DISK_THREADS, move || {
                    let clock = Rc::new(SystemClock);
                    let executor = Rc::new(Executor {
                        files,
                        open: open(),
                        alarms: Alarms::new(clock.clone(), index, alarms),
                        carriers: router.carriers(),
                        actors: Rc::new(router),
                        metadata: metadata.connect(),
                        clock,
                        disk,
                        open_max: size.open_max,
                        slots: RefCell::default(),
                        uses: Cell::new(0),
                        rest: Notify::new(),
                    });
                    executor.run(inbox)
                });
            };
            threads.push(spawn("actors", run)?);
        }
        Ok(Self { router, threads })
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Ends every waiting call as if its time were up.
    pub(crate) fn end_waits(&self) {
        self.router.ending.send_replace(true);
    }

    /// Finishes what runs, closes every file, and waits for the threads to end.
    pub(crate) fn stop(self) {
        for executor in self.router.executors.iter() {
            // One that ended already needs no word.
            let _ = executor.send(Message::Stop);
        }
        drop(self.router);
        for thread in self.threads.into_iter().rev() {
            // A panicked thread has said so.
            let _ = thread.join();
        }
    }
}

pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, Fault> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| Fault::new(format!("no thread for {name}: {error}")))
}

/// Runs a future, and what it spawns, on this thread alone.
pub(crate) fn run_local<F: Future<Output = ()>>(what: &str, blocking_threads: usize, main: impl FnOnce() -> F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(blocking_threads).build();
    match runtime {
        Ok(runtime) => tokio::task::LocalSet::new().block_on(&runtime, async { main().await }),
        Err(error) => tracing::error!(%error, "{what} did not start"),
    }
}

/// Carries calls to the executor where their actor lives. The only thing about actors that crosses threads.
#[derive(Clone)]
pub(crate) struct Router {
    /// First the rooms', then as many for everyone else.
    executors: Arc<[UnboundedSender<Message>]>,
    places: RandomState,
    ending: Arc<watch::Sender<bool>>,
    carriers: Carriers,
}

impl Router {
    fn new(executors: usize) -> (Self, Vec<UnboundedReceiver<Message>>) {
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..executors * 2).map(|_| unbounded_channel()).unzip();
        let router = Self {
            executors: senders.into(),
            places: RandomState::new(),
            ending: Arc::new(watch::Sender::new(false)),
            carriers: Carriers::default(),
        };
        (router, inboxes)
    }

    /// The way to the request tier.
    pub(crate) fn carriers(&self) -> Carriers {
        self.carriers.clone()
    }

    /// Rooms do not share a thread with users: a busy room never delays somebody's sync.
    fn place(&self, address: &Address) -> usize {
        let share = (self.executors.len() / 2).max(1);
        let hash = self.places.hash_one(address);
        let place = usize::try_from(hash % share as u64).unwrap_or(0);
        if address.kind == ActorKind::Room { place } else { place + share }
    }

    fn send(&self, address: &Address, request: Request) -> Result<(), Fault> {
        let executor = self.executors.get(self.place(address));
        let sent = executor.map(|executor| executor.send(Message::To(address.clone(), request)));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(stopping()),
        }
    }

    fn ask<R>(&self, to: &Address, request: impl FnOnce(Reply<R>) -> Request) -> Result<Answer<R>, Fault> {
        let (reply, answer) = oneshot::channel();
        self.send(to, request(reply))?;
        Ok(answer)
    }
}

type Answer<R> = oneshot::Receiver<Result<R, Fault>>;

async fn answer<R>(answer: Answer<R>) -> Result<R, Fault> {
    answer.await.unwrap_or_else(|_| Err(Fault::retriable("the actor was closed during a call")))
}

fn stopping() -> Fault {
    Fault::retriable("the host is shutting down")
}

impl Actors for Router {
    fn call<'a>(&'a self, to: &'a Address, call: &'a str, body: Vec<u8>) -> LocalFuture<'a, Result<Vec<u8>, Fault>> {
        Box::pin(
            async move { answer(self.ask(to, |reply| Request::Call { call: call.to_owned(), body, reply })?).await },
        )
    }

    fn wait<'a>(
        &'a self,
        to: &'a Address,
        call: &'a str,
        body: Vec<u8>,
        timeout_ms: u64,
    ) -> LocalFuture<'a, Result<Option<Vec<u8>>, Fault>> {
        Box::pin(async move {
            let waiting = self.ask(to, |reply| Request::Wait(Waiter { call: call.to_owned(), body, reply }))?;
            let mut ending = self.ending.subscribe();
            // Dropping the receiver, here or with this future, takes the call from the actor's waiters.
            tokio::select! {
                biased;
                reply = answer(waiting) => reply,
                () = tokio::time::sleep(Duration::from_millis(timeout_ms)) => Ok(None),
                Ok(_) = ending.wait_for(|ending| *ending) => Ok(None),
            }
        })
    }

    fn evict<'a>(&'a self, to: &'a Address) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let (done, evicted) = oneshot::channel();
            self.send(to, Request::Evict(done))?;
            evicted.await.map_err(|_| stopping())
        })
    }
}
