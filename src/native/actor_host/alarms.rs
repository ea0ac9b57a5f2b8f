//! When which actor wants to be called, in memory per executor; [`super::alarm_index`] keeps it across restarts.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    rc::Rc,
    time::Duration,
};

use platform::{Address, Clock, Fault};
use tokio::sync::Notify;

use super::{alarm_index::AlarmIndex, gate::Gate};

/// How long an alarm rests whose actor was closed while it rang.
const AGAIN_MS: u64 = 1_000;
/// The clock is looked at this often at least: it may be set while we sleep.
const NAP: Duration = Duration::from_secs(30);

/// The alarms of one executor's actors.
pub(crate) struct Alarms {
    clock: Rc<dyn Clock>,
    index: AlarmIndex,
    armed: RefCell<HashMap<Address, u64>>,
    /// Holds an entry for every armed alarm, and stale ones that `armed` no longer confirms.
    queue: RefCell<BinaryHeap<Reverse<(u64, Address)>>>,
    sooner: Notify,
}

impl Alarms {
    pub(crate) fn new(clock: Rc<dyn Clock>, index: AlarmIndex, kept: Vec<(Address, u64)>) -> Rc<Self> {
        let queue = kept.iter().map(|(address, at_ms)| Reverse((*at_ms, address.clone()))).collect();
        let armed = RefCell::new(kept.into_iter().collect());
        Rc::new(Self { clock, index, armed, queue: RefCell::new(queue), sooner: Notify::new() })
    }

    /// Sets or clears an actor's alarm; the actor's gate opens once the index has it.
    fn set(&self, address: &Address, at_ms: Option<u64>, gate: &Gate) {
        if self.armed.borrow().get(address).copied() == at_ms {
            return;
        }
        self.arm(address, at_ms);
        gate.alarm_set(self.index.set(address.clone(), at_ms));
        platform::meter::ROWS_WRITTEN.add(1);
    }

    fn arm(&self, address: &Address, at_ms: Option<u64>) {
        match at_ms {
            Some(at_ms) => {
                self.armed.borrow_mut().insert(address.clone(), at_ms);
                self.queue.borrow_mut().push(Reverse((at_ms, address.clone())));
                self.sooner.notify_one();
            }
            None => {
                self.armed.borrow_mut().remove(address);
            }
        }
    }

    /// Waits for the next alarm, and takes it.
    pub(crate) async fn next(&self) -> Address {
        loop {
            let pause = match self.take_due() {
                Ok(address) => return address,
                Err(pause) => pause,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.sooner.notified() => {}
            }
        }
    }

    /// An actor whose alarm is due, or how long until then.
    fn take_due(&self) -> Result<Address, Duration> {
        let now_ms = self.clock.now_ms();
        let mut queue = self.queue.borrow_mut();
        while let Some(Reverse((at_ms, address))) = queue.pop() {
            if self.armed.borrow().get(&address) != Some(&at_ms) {
                continue;
            }
            if at_ms > now_ms {
                queue.push(Reverse((at_ms, address)));
                return Err(Duration::from_millis(at_ms.saturating_sub(now_ms)).min(NAP));
            }
            self.armed.borrow_mut().remove(&address);
            return Ok(address);
        }
        Err(NAP)
    }

    /// The actor did what its alarm was for: only now the index may forget it.
    pub(crate) fn rung(&self, address: &Address) {
        if !self.armed.borrow().contains_key(address) {
            // Nobody waits for this: at worst the alarm rings once more after a restart.
            drop(self.index.set(address.clone(), None));
        }
    }

    /// The actor was closed before it was done: its alarm rings again soon.
    pub(crate) fn again(&self, address: &Address) {
        if !self.armed.borrow().contains_key(address) {
            self.soon(address);
        }
    }

    /// Rings soon, whatever was set: the index may not hold what the actor set last.
    pub(crate) fn soon(&self, address: &Address) {
        self.arm(address, Some(self.clock.now_ms().saturating_add(AGAIN_MS)));
    }

    /// When an actor's alarm will ring.
    pub(crate) fn armed(&self, address: &Address) -> Option<u64> {
        self.armed.borrow().get(address).copied()
    }
}

/// One actor's alarm, as its transactions see it: what an open transaction set takes effect when it commits.
pub(crate) struct ActorAlarm {
    address: Address,
    alarms: Rc<Alarms>,
    gate: Rc<Gate>,
    staged: Cell<Option<Staged>>,
}

/// What the open transaction wants: an alarm at that time, or none.
pub(crate) type Staged = Option<u64>;

impl ActorAlarm {
    pub(crate) fn new(address: Address, alarms: Rc<Alarms>, gate: Rc<Gate>) -> Rc<Self> {
        Rc::new(Self { address, alarms, gate, staged: Cell::new(None) })
    }

    pub(crate) fn set(&self, at_ms: Option<u64>, in_transaction: bool) -> Result<(), Fault> {
        if in_transaction {
            self.staged.set(Some(at_ms));
        } else {
            self.alarms.set(&self.address, at_ms, &self.gate);
        }
        Ok(())
    }

    /// When it will ring, unless the open transaction wants otherwise.
    pub(crate) fn armed_ms(&self) -> Option<u64> {
        self.alarms.armed(&self.address)
    }

    pub(crate) fn staged(&self) -> Option<Staged> {
        self.staged.get()
    }

    pub(crate) fn stage(&self, staged: Option<Staged>) {
        self.staged.set(staged);
    }

    pub(crate) fn commit(&self) {
        if let Some(at_ms) = self.staged.take() {
            self.alarms.set(&self.address, at_ms, &self.gate);
        }
    }
}
