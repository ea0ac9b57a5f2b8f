use std::rc::Rc;

use crate::{Actors, Clock, Fault, LocalFuture, Metadata, Random, Sql};

/// What one actor's host gives it: its own database and the way to everything else.
pub trait ObjectHost: Clock + Random {
    /// The actor's private database.
    fn sql(&self) -> &dyn Sql;

    /// Calls to other actors. They leave only after [`ObjectHost::durable`].
    fn actors(&self) -> &dyn Actors;

    /// The metadata database, for one piece of work: whoever is done with it lets it go, and with it any connection.
    /// What is written there leaves only after [`ObjectHost::durable`].
    ///
    /// # Errors
    /// The host has no such database.
    fn metadata(&self) -> Result<Rc<dyn Metadata>, Fault>;

    /// The output gate: resolves once everything committed so far survives a crash of the host.
    ///
    /// Workers hold back answers and calls by themselves; natively this waits for the disk.
    fn durable(&self) -> LocalFuture<'_, Result<(), Fault>>;

    /// Runs `work` after the answer, for as long as the host lives (`waitUntil` on Workers).
    fn spawn(&self, work: LocalFuture<'static, ()>);

    /// Sets the actor's one alarm, or clears it. Called inside the transaction that decided it.
    ///
    /// An alarm fires at least once, not before its time (milliseconds since the Unix epoch), also after
    /// a restart of the host, and is cleared when it fires.
    fn set_alarm(&self, at_ms: Option<u64>) -> Result<(), Fault>;

    /// When the alarm that is set rings, in milliseconds since the Unix epoch. Asked for when the actor was just
    /// opened, and when its alarm fires: that one is set no more. Later its actor knows.
    fn armed_ms(&self) -> Option<u64>;

    /// How many calls wait on this actor (see [`Actors::wait`]).
    fn waiting(&self) -> usize;

    /// Has the request tier carry out of this server what the actor with this id has for others, soon after. It may
    /// fail to: whoever asked looks again.
    fn carry(&self, actor: &str);

    /// Asks the actor again about each waiting call; those it now answers stop waiting.
    fn wake(&self);
}
