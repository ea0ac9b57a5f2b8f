//! Virtual time, and tasks on one thread in an order that follows from the seed.
//!
//! Time stands still while anything can run, and then jumps to the next timer. Of several tasks that can run, chance
//! chooses one. A task belongs to a [`Group`] (a process, an actor in it); when the group ends, its tasks are dropped
//! where they stand, as a crash does.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::future::{Either, select};
use platform::{Clock, LocalFuture};

use crate::dice::Dice;

/// When every simulation begins: 2026-09-21, in milliseconds since the Unix epoch.
pub(crate) const BEGINNING_MS: u64 = 1_790_000_000_000;
/// More steps than this without time passing are a loop that never ends.
const POLLS_AT_ONCE_MAX: u64 = 2_000_000;

/// Whose tasks end together. A group inside another ends with it.
#[derive(Clone, Default)]
pub(crate) struct Group(Rc<GroupState>);

#[derive(Default)]
struct GroupState {
    outer: Option<Group>,
    is_over: Cell<bool>,
}

impl Group {
    pub(crate) fn inside(outer: &Group) -> Self {
        Self(Rc::new(GroupState { outer: Some(outer.clone()), is_over: Cell::new(false) }))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_over.get() || self.0.outer.as_ref().is_some_and(Group::is_over)
    }
}

struct Task {
    group: Group,
    future: LocalFuture<'static, ()>,
    ready: Arc<Ready>,
}

/// Tells the scheduler that a task can go on.
struct Ready {
    id: u64,
    is_queued: AtomicBool,
    queue: Arc<Mutex<Vec<u64>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::Relaxed) {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}

pub(crate) struct Scheduler {
    now_ms: Cell<u64>,
    dice: Dice,
    /// Counts tasks and timers.
    count: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    queue: Arc<Mutex<Vec<u64>>>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    this: Weak<Scheduler>,
}

impl Clock for Scheduler {
    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }
}

impl Scheduler {
    pub(crate) fn new(seed: u64) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            now_ms: Cell::new(BEGINNING_MS),
            dice: Dice::of(seed, "scheduler"),
            count: Cell::new(0),
            tasks: RefCell::default(),
            queue: Arc::default(),
            timers: RefCell::default(),
            this: this.clone(),
        })
    }

    fn next(&self) -> u64 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    /// Begins a task of a group; nothing happens if the group is over.
    pub(crate) fn spawn(&self, group: &Group, future: impl Future<Output = ()> + 'static) -> Running {
        let id = self.next();
        if !group.is_over() {
            let ready = Arc::new(Ready { id, is_queued: AtomicBool::new(false), queue: self.queue.clone() });
            let task = Task { group: group.clone(), future: Box::pin(future), ready: ready.clone() };
            self.tasks.borrow_mut().insert(id, task);
            ready.wake();
        }
        Running { id, scheduler: self.this.clone() }
    }

    /// Ends a group: its tasks are dropped.
    pub(crate) fn end(&self, group: &Group) {
        group.0.is_over.set(true);
        let over: Vec<u64> =
            self.tasks.borrow().iter().filter(|(_, task)| task.group.is_over()).map(|(id, _)| *id).collect();
        for id in over {
            let task = self.tasks.borrow_mut().remove(&id);
            drop(task);
        }
    }

    /// Resolves when so much time has passed.
    pub(crate) fn sleep(&self, ms: u64) -> Sleep {
        self.sleep_until(self.now_ms().saturating_add(ms))
    }

    pub(crate) fn sleep_until(&self, at_ms: u64) -> Sleep {
        Sleep { at: (at_ms, self.next()), scheduler: self.this.upgrade().expect("it runs") }
    }

    /// What the future answers, unless that takes longer.
    pub(crate) async fn within<T>(&self, ms: u64, future: impl Future<Output = T>) -> Option<T> {
        match select(pin!(future), self.sleep(ms)).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(_) => None,
        }
    }

    /// Runs everything until `main` is done.
    pub(crate) fn run<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> T {
        let answer = Rc::new(RefCell::new(None));
        let slot = answer.clone();
        let _main = self.spawn(&Group::default(), async move {
            let answer = main.await;
            *slot.borrow_mut() = Some(answer);
        });
        let mut polls = 0;
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            if self.step() {
                polls += 1;
                assert!(polls < POLLS_AT_ONCE_MAX, "something goes on for ever while no time passes");
            } else {
                polls = 0;
                assert!(self.passes(), "everything waits for ever");
            }
        }
    }

    /// Drops all tasks, wherever they stand.
    pub(crate) fn clear(&self) {
        let tasks = self.tasks.take();
        drop(tasks);
    }

    /// Runs one task that can go on.
    fn step(&self) -> bool {
        let id = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.is_empty() {
                return false;
            }
            let chosen = self.dice.place(queue.len());
            queue.swap_remove(chosen)
        };
        let task = self.tasks.borrow_mut().remove(&id);
        let Some(mut task) = task else { return true };
        task.ready.is_queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(task.ready.clone());
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() && !task.group.is_over() {
            self.tasks.borrow_mut().insert(id, task);
        }
        true
    }

    /// Lets time pass until the next timer.
    fn passes(&self) -> bool {
        let Some(((at_ms, _), waker)) = self.timers.borrow_mut().pop_first() else { return false };
        self.now_ms.set(self.now_ms().max(at_ms));
        waker.wake();
        true
    }
}

/// A task under way. It goes on when this is dropped.
pub(crate) struct Running {
    id: u64,
    scheduler: Weak<Scheduler>,
}

impl Running {
    /// The task ends where it stands when this guard is dropped.
    pub(crate) fn ends_with_this(self) -> EndsWithThis {
        EndsWithThis(self)
    }
}

pub(crate) struct EndsWithThis(Running);

impl Drop for EndsWithThis {
    fn drop(&mut self) {
        if let Some(scheduler) = self.0.scheduler.upgrade() {
            let task = scheduler.tasks.borrow_mut().remove(&self.0.id);
            drop(task);
        }
    }
}

pub(crate) struct Sleep {
    at: (u64, u64),
    scheduler: Rc<Scheduler>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.scheduler.now_ms() >= self.at.0 {
            return Poll::Ready(());
        }
        self.scheduler.timers.borrow_mut().insert(self.at, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.scheduler.timers.borrow_mut().remove(&self.at);
    }
}
