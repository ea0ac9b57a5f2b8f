//! One actor, alive: what a host runs.
//!
//! A host opens an [`Object`] per actor and hands it calls, waiting calls and alarms. Each becomes one
//! synchronous operation in one transaction; what the operation owes others leaves after the commit is
//! durable, and so does the answer.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use domain::{backoff, refusal::Refusal};
use futures_util::future::join_all;
use platform::{ActorKind, Address, Fault, ObjectHost, Sql, Statement, Tx, meter, transact};
use tracing::{error, warn};

use crate::{
    CallError, Error, Settings,
    appservice::Appservice,
    call::encode_error,
    cx::{After, Cx, Delivery, Key, Nudged, Owed, PresenceTo},
    destination::Destination,
    outbox,
    room::Room,
    schedule, schema,
    user::{Announced, User},
};

/// When an actor that owes work looks what it is, after it was loaded without an alarm for it.
const TOUCHED_MS: u64 = 5_000;
/// How long what an alarm did rests after it failed once, and then twice as long each time. Who lost the memory of that
/// begins again.
const ALARM_RETRY_MS: u64 = 30_000;
/// An alarm that is so late does not ring any more, whatever the host says: Workers give up on one after six failures.
const LATE_MS_MAX: u64 = 300_000;
/// The longest it rests; and how long an appointment that is not known here does.
const ALARM_RETRY_MS_MAX: u64 = 3_600_000;
/// The name beside those of appointments for what an alarm does at each time.
const ALARM: &str = "alarm";

type RunRead<'a, R> = Box<dyn FnOnce(&dyn Sql, &Cx<'_>, &[u8]) -> Result<R, Error> + 'a>;
type RunTx<'a> = Box<dyn FnOnce(&Tx<'_>, &Cx<'_>, &[u8]) -> Result<Vec<u8>, Error> + 'a>;

/// One entry of an actor's table of calls.
pub(crate) enum Operation<'a> {
    /// May lay out an empty actor.
    Found(RunTx<'a>),
    /// Changes the actor.
    Write(RunTx<'a>),
    /// Only reads.
    Read(RunRead<'a, Vec<u8>>),
    /// Only reads, and may have nothing to say yet.
    Wait(RunRead<'a, Option<Vec<u8>>>),
}

/// What makes an actor of its kind.
pub(crate) trait Logic {
    /// What brings one of an earlier release up to date.
    fn migrations(&self) -> &'static [&'static str];
    /// What all of them make of an empty one.
    fn layout(&self) -> &'static str;
    /// The table of calls.
    fn operation(&self, call: &str) -> Option<Operation<'_>>;
    /// Calls this actor makes through its outbox, by name.
    fn owed_call(&self) -> fn(&str) -> Option<&'static str>;
    /// An operation has notes in its `cx` to be written down, at the end of its transaction or, if it only reads, in
    /// one of their own.
    fn write_notes(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let _ = (tx, cx);
        Ok(())
    }
    /// The operation of `cx` is committed: memory takes over what it did, and followers are told.
    fn committed(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        let _ = (sql, cx);
        Ok(())
    }
    /// An operation failed and its transaction with it: memory forgets what it took over early.
    fn rolled_back(&self) {}
    /// Memory could not take over what was committed, or a delivery's outcome: it forgets what it would have kept, and
    /// no longer takes anything for being under way.
    fn unsettled(&self) {}
    /// The alarm fired; what is on the schedule is handled besides.
    fn alarm(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let _ = (tx, cx);
        Ok(())
    }
    /// What this actor put on its schedule is due. Answers whether it knows it.
    fn due(&self, tx: &Tx<'_>, cx: &Cx<'_>, what: &str) -> Result<bool, Error> {
        let _ = (tx, cx, what);
        Ok(false)
    }
    /// A room answered an announcement, or could not be reached.
    fn announced(&self, tx: &Tx<'_>, cx: &Cx<'_>, announced: &Announced, is_delivered: bool) -> Result<(), Error> {
        let _ = (tx, cx, announced, is_delivered);
        Ok(())
    }
    /// Somebody who was told of presence answered, or could not be reached (`None`).
    fn presence_told(&self, tx: &Tx<'_>, cx: &Cx<'_>, told: &PresenceTo, reply: Option<&[u8]>) -> Result<(), Error> {
        let _ = (tx, cx, told, reply);
        Ok(())
    }
    /// A follower answered a nudge, or could not be reached (`None`).
    fn nudged(&self, tx: &Tx<'_>, cx: &Cx<'_>, nudged: &Nudged, reply: Option<&[u8]>) -> Result<(), Error> {
        let _ = (tx, cx, nudged, reply);
        Ok(())
    }
}

/// One living actor. Cheap to drop: everything that matters is in its database.
pub struct Object {
    address: Address,
    host: Rc<dyn ObjectHost>,
    settings: Rc<Settings>,
    logic: Box<dyn Logic>,
    /// Whether the schema was found up to date.
    founded: Cell<bool>,
    /// When the host's alarm rings.
    alarm_at_ms: Cell<Option<u64>>,
    /// How often appointments failed, one time after the other.
    failures: RefCell<BTreeMap<String, u32>>,
}

impl Object {
    /// Opens the actor. Touches nothing but the alarm that is set: its schema is looked at with the first call.
    pub fn new(address: Address, host: Rc<dyn ObjectHost>, settings: Rc<Settings>) -> Rc<Self> {
        let logic: Box<dyn Logic> = match address.kind {
            ActorKind::Room => Box::new(Room::default()),
            ActorKind::User => Box::new(User::default()),
            ActorKind::Destination => Box::new(Destination::default()),
            ActorKind::Appservice => Box::new(Appservice::default()),
        };
        let object = Self {
            address,
            host,
            settings,
            logic,
            founded: Cell::new(false),
            alarm_at_ms: Cell::new(None),
            failures: RefCell::default(),
        };
        object.look_at_alarm();
        Rc::new(object)
    }

    /// Takes over from the host when the alarm rings. What was set for something that only memory knew stands, so that
    /// no later one takes its place.
    fn look_at_alarm(&self) {
        let late_ms = self.host.now_ms().saturating_sub(LATE_MS_MAX);
        self.alarm_at_ms.set(self.host.armed_ms().filter(|at_ms| *at_ms > late_ms));
    }

    /// Runs one call and answers the reply's bytes, refusals and faults included.
    pub async fn call(self: Rc<Self>, call: &str, body: &[u8]) -> Vec<u8> {
        meter::OBJECT_CALLS.add(1);
        let outcome = self.run(call, body);
        if outcome.is_err() {
            self.logic.rolled_back();
        }
        let reply = match self.clone().finish(outcome).await {
            Ok(reply) => reply,
            Err(error) => encode_error(self.logged(call, error)),
        };
        meter::CALL_BYTES.add((body.len() + reply.len()) as u64);
        reply
    }

    /// Runs a waiting call: `None` means there is nothing to say yet, so park it and ask again after a wake.
    ///
    /// Synchronous, so that a host can park the caller with no gap in which a wake could be lost. The host counts the
    /// call once, however often it asks.
    pub fn wait(&self, call: &str, body: &[u8]) -> Option<Vec<u8>> {
        let outcome = self.touch(true).and_then(|founded| {
            if !founded {
                return Err(CallError::Absent);
            }
            let cx = self.cx();
            match self.logic.operation(call) {
                Some(Operation::Wait(run)) => self.read(&cx, |sql| run(sql, &cx, body)),
                Some(_) => Err(Fault::new("this call does not wait").into()),
                None => Err(unknown(call)),
            }
        });
        match outcome {
            Ok(reply) => reply,
            Err(error) => Some(encode_error(self.logged(call, error))),
        }
    }

    /// The host's alarm fired.
    pub async fn alarm(self: Rc<Self>) {
        meter::OBJECT_ALARMS.add(1);
        self.look_at_alarm();
        let mut after = After::default();
        let outcome = self.touch(false).and_then(|founded| if founded { self.run_due(&mut after) } else { Ok(()) });
        if let Err(error) = outcome {
            self.logic.rolled_back();
            self.logged(ALARM, error);
            // The platform gives up on an alarm whose handler fails: it rests here instead.
            self.look_again_in(ALARM_RETRY_MS);
        }
        if let Err(error) = self.clone().finish(Ok((Vec::new(), after))).await {
            self.logged("alarm", error);
        }
    }

    fn cx(&self) -> Cx<'_> {
        Cx::new(&self.address.id, &self.settings, &*self.host, self.alarm_at_ms.get())
    }

    /// Migrates the actor on first touch, and answers whether it was ever founded.
    fn touch(&self, arm: bool) -> Result<bool, CallError> {
        if !self.founded.get() && schema::migrate(self.host.sql(), self.logic.migrations())? {
            self.founded.set(true);
            // Whoever owes work keeps an alarm, whatever became of the one set before; where that is gone it is an
            // early one, because the one set before may have been.
            if arm
                && let Some(at_ms) = schedule::earliest_ms(self.host.sql())?
                && self.alarm_at_ms.get().is_none_or(|armed_ms| at_ms < armed_ms)
            {
                self.rings_by(at_ms.min(self.host.now_ms().saturating_add(TOUCHED_MS)))?;
            }
        }
        Ok(self.founded.get())
    }

    fn run(&self, call: &str, body: &[u8]) -> Result<(Vec<u8>, After), CallError> {
        let founded = self.touch(true)?;
        let cx = self.cx();
        let operation = self.logic.operation(call).ok_or_else(|| unknown(call))?;
        let reply = match operation {
            Operation::Found(run) => {
                let reply = transact(self.host.sql(), |tx| {
                    if !founded {
                        schema::found(tx, self.logic.layout(), self.logic.migrations().len())?;
                    }
                    let reply = run(tx, &cx, body)?;
                    self.logic.write_notes(tx, &cx)?;
                    Ok(reply)
                })
                .map_err(told)?;
                self.founded.set(true);
                reply
            }
            _ if !founded => return Err(CallError::Absent),
            Operation::Write(run) => transact(self.host.sql(), |tx| {
                let reply = run(tx, &cx, body)?;
                self.logic.write_notes(tx, &cx)?;
                Ok(reply)
            })
            .map_err(told)?,
            Operation::Read(run) => self.read(&cx, |sql| run(sql, &cx, body))?,
            Operation::Wait(run) => {
                let reply = self.read(&cx, |sql| run(sql, &cx, body))?;
                reply.ok_or_else(|| Fault::new("a waiting call was made without waiting"))?
            }
        };
        Ok((reply, self.committed(cx)?))
    }

    /// Runs an operation that only reads. What it cannot do itself it leaves to the alarm, at once: it is in no
    /// transaction.
    fn read<R>(&self, cx: &Cx<'_>, run: impl FnOnce(&dyn Sql) -> Result<R, Error>) -> Result<R, CallError> {
        let reply = run(self.host.sql());
        self.alarm_at_ms.set(cx.alarm_at_ms.get());
        let reply = reply.map_err(told)?;
        self.write_notes(cx)?;
        Ok(reply)
    }

    /// Writes down what an operation noted that only reads; most note nothing.
    fn write_notes(&self, cx: &Cx<'_>) -> Result<(), CallError> {
        if cx.user.is_empty() {
            return Ok(());
        }
        transact(self.host.sql(), |tx| self.logic.write_notes(tx, cx)).map_err(told)?;
        self.alarm_at_ms.set(cx.alarm_at_ms.get());
        Ok(())
    }

    /// Everything that is due and what an alarm does besides, each in a transaction of its own: one that fails is put
    /// off, and the others happen.
    ///
    /// # Errors
    /// What could not even be put off.
    fn run_due(&self, after: &mut After) -> Result<(), CallError> {
        for what in schedule::due(self.host.sql(), self.host.now_ms())? {
            let kept = self.transacted(|tx, cx| self.keep_appointment(tx, cx, &what));
            self.put_off_unless_done(&what, kept, after)?;
        }
        let looked = self.transacted(|tx, cx| self.logic.alarm(tx, cx));
        self.put_off_unless_done(ALARM, looked, after)?;
        match schedule::earliest_ms(self.host.sql())? {
            Some(at_ms) => Ok(self.rings_by(at_ms)?),
            None => Ok(()),
        }
    }

    fn transacted(&self, run: impl FnOnce(&Tx<'_>, &Cx<'_>) -> Result<(), Error>) -> Result<After, CallError> {
        let cx = self.cx();
        transact(self.host.sql(), |tx| run(tx, &cx)).map_err(told)?;
        self.committed(cx)
    }

    fn keep_appointment(&self, tx: &Tx<'_>, cx: &Cx<'_>, what: &str) -> Result<(), Error> {
        if !schedule::take(tx, what)? {
            return Ok(());
        }
        if what == outbox::DUE {
            return outbox::retry(tx, cx, self.logic.owed_call());
        }
        if self.logic.due(tx, cx, what)? {
            return Ok(());
        }
        warn!(actor = %self.address, what, "unknown appointment");
        Ok(schedule::at(tx, cx, what, cx.now_ms.saturating_add(ALARM_RETRY_MS_MAX))?)
    }

    /// Takes what an appointment that was kept leaves, and puts off one that failed.
    fn put_off_unless_done(
        &self,
        what: &str,
        outcome: Result<After, CallError>,
        after: &mut After,
    ) -> Result<(), CallError> {
        let error = match outcome {
            Ok(done) => {
                self.failures.borrow_mut().remove(what);
                after.join(done);
                return Ok(());
            }
            Err(error) => error,
        };
        self.logic.rolled_back();
        self.logged(what, error);
        let mut failures = self.failures.borrow_mut();
        let failures = failures.entry(what.to_owned()).or_default();
        let pause_ms = backoff::pause_ms(ALARM_RETRY_MS, *failures, ALARM_RETRY_MS_MAX);
        *failures = failures.saturating_add(1);
        let at_ms = self.host.now_ms().saturating_add(pause_ms);
        transact(self.host.sql(), |tx| schedule::put_off(tx, what, at_ms))?;
        Ok(self.rings_by(at_ms)?)
    }

    /// Has the host's alarm ring at `at_ms` at the latest. Not in a transaction, where it would be remembered although
    /// that rolled back.
    fn rings_by(&self, at_ms: u64) -> Result<(), Fault> {
        let cx = self.cx();
        cx.set_alarm(at_ms)?;
        self.alarm_at_ms.set(cx.alarm_at_ms.get());
        Ok(())
    }

    /// Has the alarm look at what went wrong.
    fn look_again_in(&self, pause_ms: u64) {
        if let Err(fault) = self.rings_by(self.host.now_ms().saturating_add(pause_ms)) {
            error!(actor = %self.address, %fault, "the alarm could not be set");
        }
    }

    fn committed(&self, cx: Cx<'_>) -> Result<After, CallError> {
        let outcome = self.logic.committed(self.host.sql(), &cx);
        // It is committed all the same, and so is the alarm.
        self.alarm_at_ms.set(cx.alarm_at_ms.get());
        if let Err(error) = outcome {
            self.logic.unsettled();
            return Err(told(error));
        }
        Ok(cx.after.into_inner())
    }

    /// Waits for the disk, lets out what the operation owes, then answers.
    async fn finish(self: Rc<Self>, outcome: Result<(Vec<u8>, After), CallError>) -> Result<Vec<u8>, CallError> {
        self.host.durable().await?;
        let (reply, after) = outcome?;
        if after.wake {
            self.host.wake();
        }
        if after.carry {
            self.host.carry(&self.address.id);
        }
        let (first, later): (Vec<_>, Vec<_>) = after.deliveries.into_iter().partition(|owed| owed.before_answer);
        for owed in later {
            self.host.spawn(Box::pin(self.clone().deliver(owed)));
        }
        join_all(first.into_iter().map(|owed| self.clone().deliver(owed))).await;
        Ok(reply)
    }

    /// Delivers one owed thing and settles it. Whatever settling owes in turn is delivered too.
    async fn deliver(self: Rc<Self>, first: Delivery) {
        let owed = RefCell::new(vec![first]);
        loop {
            let Some(delivery) = owed.borrow_mut().pop() else { return };
            // Somebody may wait for it: a receiver that was just restarted answers the second time.
            let again = delivery.before_answer.then(|| delivery.owed.clone());
            let mut outcome = self.carry(delivery.owed).await;
            if let Some(again) = again
                && !outcome.delivered
            {
                outcome = self.carry(again).await;
            }
            match self.settle(delivery.key, &outcome) {
                Ok(after) => {
                    if let Err(fault) = self.host.durable().await {
                        error!(actor = %self.address, %fault, "the disk failed");
                        return;
                    }
                    if after.wake {
                        self.host.wake();
                    }
                    for next in after.deliveries {
                        if next.before_answer {
                            owed.borrow_mut().push(next);
                        } else {
                            // Whoever waits for this delivery does not wait for what follows from it.
                            self.host.spawn(Box::pin(self.clone().deliver(next)));
                        }
                    }
                }
                Err(error) => {
                    self.logic.rolled_back();
                    self.logic.unsettled();
                    self.logged("settle", error);
                    self.look_again_in(TOUCHED_MS);
                }
            }
        }
    }

    /// Takes what is owed to where it belongs, once.
    async fn carry(&self, owed: Owed) -> Outcome {
        let carried = match owed {
            Owed::Call { to, call, body } => match self.host.actors().call(&to, call, body).await {
                Ok(reply) => Ok(Outcome { delivered: !is_fault(&reply), reply: Some(reply) }),
                Err(fault) => Err((to.to_string(), call, fault)),
            },
            Owed::Projection { name, statement } => match self.project(statement).await {
                Ok(()) => Ok(Outcome { delivered: true, reply: None }),
                Err(fault) => Err(("metadata".to_owned(), name, fault)),
            },
        };
        carried.unwrap_or_else(|(to, owed, fault)| {
            warn!(actor = %self.address, to, owed, %fault, "not delivered");
            Outcome { delivered: false, reply: None }
        })
    }

    async fn project(&self, statement: Statement) -> Result<(), Fault> {
        self.host.metadata()?.query(statement).await.map(drop)
    }

    fn settle(&self, key: Key, outcome: &Outcome) -> Result<After, CallError> {
        let cx = self.cx();
        transact(self.host.sql(), |tx| match &key {
            Key::Outbox(row) => Ok(outbox::settle(tx, *row, outcome.delivered)?),
            Key::Nudge(nudged) => self.logic.nudged(tx, &cx, nudged, outcome.reply.as_deref()),
            Key::Announcement(announced) => self.logic.announced(tx, &cx, announced, outcome.delivered),
            Key::Presence(told) => self.logic.presence_told(tx, &cx, told, outcome.reply.as_deref()),
            Key::Unsettled => Ok(()),
        })
        .map_err(told)?;
        self.committed(cx)
    }

    /// Logs a fault, once, where it was met; refusals are the caller's business.
    fn logged(&self, call: &str, error: CallError) -> CallError {
        if let CallError::Fault(fault) = &error {
            error!(actor = %self.address, call, %fault, "an operation failed");
        }
        error
    }
}

/// What became of something owed.
struct Outcome {
    delivered: bool,
    /// What an actor answered, faults included.
    reply: Option<Vec<u8>>,
}

/// A refusal settles a delivery, as an acceptance does; a fault does not.
fn is_fault(reply: &[u8]) -> bool {
    reply.starts_with(b"{\"fault\"") || reply.is_empty()
}

fn told(error: Error) -> CallError {
    match error {
        Error::Refused(refusal) => CallError::Refused(refusal),
        Error::Unsigned(unsigned) => CallError::Unsigned(unsigned),
        Error::Fault(fault) => CallError::Fault(fault),
    }
}

/// A newer release may make calls that this one does not know yet: the caller tries again later.
fn unknown(call: &str) -> CallError {
    CallError::Fault(Fault::retriable(format!("call {call} is not known here")))
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => Error::Refused(refusal),
            CallError::Unsigned(unsigned) => Error::Unsigned(unsigned),
            CallError::Absent => Error::Refused(Refusal::NotFound("There is no such actor".to_owned())),
            CallError::Fault(fault) => Error::Fault(fault),
        }
    }
}

/// An actor's table of calls: who runs them and what they may do.
macro_rules! operations {
    ($self:ident, $name:ident; $($access:ident $call:ty => $run:ident,)*) => {
        match $name {
            $(<$call as $crate::Call>::NAME => Some(operations!(@ $access $self $call, $run)),)*
            _ => None,
        }
    };
    (@ found $self:ident $call:ty, $run:ident) => {
        $crate::object::Operation::Found(Box::new(move |tx, cx, body| {
            $crate::call::encode(&$self.$run(tx, cx, $crate::call::decode::<$call>(body)?)?)
        }))
    };
    (@ write $self:ident $call:ty, $run:ident) => {
        $crate::object::Operation::Write(Box::new(move |tx, cx, body| {
            $crate::call::encode(&$self.$run(tx, cx, $crate::call::decode::<$call>(body)?)?)
        }))
    };
    (@ read $self:ident $call:ty, $run:ident) => {
        $crate::object::Operation::Read(Box::new(move |sql, cx, body| {
            $crate::call::encode(&$self.$run(sql, cx, $crate::call::decode::<$call>(body)?)?)
        }))
    };
    (@ wait $self:ident $call:ty, $run:ident) => {
        $crate::object::Operation::Wait(Box::new(move |sql, cx, body| {
            $self.$run(sql, cx, $crate::call::decode::<$call>(body)?)?.map(|reply| $crate::call::encode(&reply)).transpose()
        }))
    };
}
pub(crate) use operations;

#[cfg(test)]
mod tests;
