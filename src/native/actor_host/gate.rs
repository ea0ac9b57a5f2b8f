use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

use platform::{Fault, LocalFuture};
use tokio::sync::oneshot;
use tracing::error;

use super::disk::{Disk, Wal};

/// An answer from the disk, later.
pub(crate) type Written = oneshot::Receiver<Result<(), Fault>>;

/// Whoever wants out, and the commit it depends on.
struct Waiting {
    commit: u64,
    out: oneshot::Sender<Result<(), Fault>>,
}

/// The output gate of one actor: nothing that depends on a commit leaves before the commit is on disk.
///
/// Commits are cheap and only counted. Whoever wants out waits for a sync that began after the last commit;
/// one sync serves everyone who was waiting when it began (group commit).
pub(crate) struct Gate {
    disk: Arc<dyn Disk>,
    wal: Arc<Wal>,
    committed: Cell<u64>,
    synced: Cell<u64>,
    wal_dirty: Cell<bool>,
    syncing: Cell<bool>,
    /// No sync will ever succeed again: one failed, or the actor was closed.
    shut: Cell<bool>,
    waiting: RefCell<Vec<Waiting>>,
    /// Entries in the index of alarms that the commits so far depend on.
    alarms: RefCell<Vec<Written>>,
    on_failure: OnceCell<Box<dyn Fn()>>,
}

impl Gate {
    pub(crate) fn new(disk: Arc<dyn Disk>, wal: Arc<Wal>) -> Rc<Self> {
        Rc::new(Self {
            disk,
            wal,
            committed: Cell::new(0),
            synced: Cell::new(0),
            wal_dirty: Cell::new(false),
            syncing: Cell::new(false),
            shut: Cell::new(false),
            waiting: RefCell::default(),
            alarms: RefCell::default(),
            on_failure: OnceCell::new(),
        })
    }

    /// What to do when a sync failed: the actor's memory is ahead of its disk and must go.
    pub(crate) fn on_failure(&self, kill: impl Fn() + 'static) {
        // Set once, where the gate is made.
        let _ = self.on_failure.set(Box::new(kill));
    }

    /// A transaction was committed: what it wrote is in the write-ahead log, not yet on disk.
    pub(crate) fn committed(&self) {
        self.wal_dirty.set(true);
        self.committed.set(self.committed.get().saturating_add(1));
    }

    /// An alarm was set; `written` tells when the index of alarms has it on disk.
    pub(crate) fn alarm_set(&self, written: Written) {
        self.alarms.borrow_mut().push(written);
        self.committed.set(self.committed.get().saturating_add(1));
    }

    /// Whether something committed is not yet on disk.
    pub(crate) fn is_dirty(&self) -> bool {
        self.syncing.get() || self.synced.get() < self.committed.get()
    }

    /// Fails everyone who waits, now and later.
    pub(crate) fn shut(&self) {
        self.shut.set(true);
        for Waiting { out, .. } in self.waiting.take() {
            // A caller that is gone needs no answer.
            let _ = out.send(Err(closed()));
        }
    }

    /// Resolves once everything committed so far is on disk.
    pub(crate) fn durable(self: &Rc<Self>) -> LocalFuture<'static, Result<(), Fault>> {
        if self.shut.get() {
            return Box::pin(async { Err(closed()) });
        }
        let commit = self.committed.get();
        if self.synced.get() >= commit {
            return Box::pin(async { Ok(()) });
        }
        let (out, written) = oneshot::channel();
        self.waiting.borrow_mut().push(Waiting { commit, out });
        if !self.syncing.replace(true) {
            tokio::task::spawn_local(self.clone().sync());
        }
        Box::pin(async move { written.await.unwrap_or_else(|_| Err(closed())) })
    }

    async fn sync(self: Rc<Self>) {
        while !self.waiting.borrow().is_empty() {
            let reached = self.committed.get();
            let alarms = self.alarms.take();
            let wal =
                async { if self.wal_dirty.replace(false) { self.disk.sync(self.wal.clone()).await } else { Ok(()) } };
            let (wal, alarms) = tokio::join!(wal, all(alarms));
            if self.shut.get() {
                break;
            }
            if let Err(fault) = wal.and(alarms) {
                error!(%fault, "a sync failed: the actor starts anew from its file");
                self.shut();
                if let Some(kill) = self.on_failure.get() {
                    kill();
                }
                break;
            }
            self.synced.set(reached);
            let mut waiting = self.waiting.borrow_mut();
            for Waiting { out, .. } in waiting.extract_if(.., |waiting| waiting.commit <= reached) {
                let _ = out.send(Ok(()));
            }
        }
        self.syncing.set(false);
    }
}

async fn all(writes: Vec<Written>) -> Result<(), Fault> {
    for written in writes {
        written.await.unwrap_or_else(|_| Err(Fault::retriable("the index of alarms is closed")))?;
    }
    Ok(())
}

fn closed() -> Fault {
    Fault::retriable("the actor was closed before its work was on disk")
}
