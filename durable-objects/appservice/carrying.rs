//! How what is owed leaves: one carrier at a time, one attempt at a time.
//!
//! Guarantees: before the first byte of a transaction leaves, what is in it is stored, event by event, and any carrier
//! repeats exactly that, under the same transaction id, until the service acknowledges it. A carrier has a lease, which
//! is stored with its attempt; when it dies, the alarm at the lease's end finds another one. A service that does not
//! answer is left alone for longer and longer, up to [`PAUSE_MS_MAX`], and tried at once when it is heard of. Queued
//! events have positions that never come again: what one carrier took and another one sent is not taken for what was
//! queued since.
//! Spec: Application Service API, "Pushing events".

use domain::backoff;
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Appservice, store};
use crate::{Call, Cx, Error, schedule};

/// The schedule's name for finding a carrier.
pub(super) const DUE: &str = "carry";

/// How long a carrier may take between two calls, in milliseconds. On Workers none lives for longer than half a minute.
pub(super) const LEASE_MS: u64 = if cfg!(target_family = "wasm") { 35_000 } else { 90_000 };
/// When the alarm looks whether the carrier that was asked to come did, in milliseconds.
const COMES_WITHIN_MS: u64 = 5_000;
/// How long a service that did not answer is left alone at first, in milliseconds.
pub(super) const PAUSE_MS_MIN: u64 = 1_000;
/// How long it is left alone at most, in milliseconds: five minutes. It is somebody's who waits for it to be back.
const PAUSE_MS_MAX: u64 = 300_000;
/// Rooms in one transaction.
const ROOMS_MAX: u64 = 100;
/// Queued events in one transaction.
const QUEUED_MAX: u64 = 20;

/// A carrier asks what to send.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakeWork {
    /// Names the carrier.
    pub carrier: String,
}

/// What there is to send.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Nothing, or somebody else carries it, or the service is left alone for now.
    Nothing,
    /// What was sent before and is not acknowledged: exactly this, again, with these queued events before it.
    Repeat { attempt: Attempt, queued: Vec<Box<RawValue>> },
    /// What is owed: queued events up to a position, and what is of interest in these rooms; the carrier says how much
    /// of that fits into one transaction.
    Owed { queued: Vec<Box<RawValue>>, queued_up_to: u64, ranges: Vec<Range> },
    /// Who types, and how users are: sent once, as well as that goes.
    Passing { transaction_id: String, ephemeral: Vec<Box<RawValue>> },
}

/// Some of a room's log.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Range {
    pub room_id: OwnedRoomId,
    /// The position before it.
    pub after: u64,
    pub up_to: u64,
}

/// What a transaction has of a room.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct SentEvents {
    pub room_id: OwnedRoomId,
    /// These are all of interest up to here.
    pub up_to: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_ids: Vec<OwnedEventId>,
}

/// A transaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    pub transaction_id: String,
    /// Up to which of the queued events.
    #[serde(default)]
    pub queued_up_to: u64,
    pub rooms: Vec<SentEvents>,
    /// Receipts, which are nowhere else in this form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ephemeral: Vec<Box<RawValue>>,
}

/// A carrier is about to send this. Where there is nothing in it, nothing need be sent, and what it names counts as
/// sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartAttempt {
    pub carrier: String,
    #[serde(default)]
    pub queued_up_to: u64,
    pub rooms: Vec<SentEvents>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ephemeral: Vec<Box<RawValue>>,
}

/// The service has what was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Acknowledge {
    pub carrier: String,
    pub transaction_id: String,
}

/// What was sent did not get there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportFailure {
    pub carrier: String,
}

/// A carrier stops although there may be more: the next one need not wait for the end of its lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StopCarrying {
    pub carrier: String,
}

/// The service was heard of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IsUp {}

impl Call for TakeWork {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "take_work";
    type Reply = Work;
}

impl Call for StartAttempt {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "start_attempt";
    /// `None`: there is nothing in it, or somebody else carries by now.
    type Reply = Option<Attempt>;
}

impl Call for Acknowledge {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "acknowledge";
    type Reply = ();
}

impl Call for ReportFailure {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "report_failure";
    type Reply = ();
}

impl Call for StopCarrying {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "stop_carrying";
    type Reply = ();
}

impl Call for IsUp {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "is_up";
    type Reply = ();
}

/// Who carries, and until when, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    carrier: String,
    until_ms: u64,
}

/// An attempt as it is stored, with who makes it.
#[derive(Serialize, Deserialize)]
struct Stored {
    attempt: Attempt,
    lease: Lease,
}

impl Stored {
    fn load(sql: &dyn Sql) -> Result<Option<Self>, Error> {
        let stored = store::fact(sql, "attempt")?;
        Ok(stored.map(|stored| serde_json::from_str(&stored)).transpose()?)
    }

    fn save(&self, tx: &Tx<'_>) -> Result<(), Error> {
        Ok(store::set_fact(tx, "attempt", &serde_json::to_string(self)?)?)
    }
}

/// How it goes with the service; stored while it fails.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Standing {
    /// Failures in a row.
    failures: u32,
    /// Before this, in milliseconds since the Unix epoch, it is not tried again.
    not_before_ms: u64,
}

impl Standing {
    fn load(sql: &dyn Sql) -> Result<Self, Error> {
        Ok(match store::fact(sql, "standing")? {
            Some(standing) => serde_json::from_str(&standing)?,
            None => Self::default(),
        })
    }
}

/// Whether the registration is still there, and says where the service is.
fn is_told(cx: &Cx<'_>) -> bool {
    cx.settings.config.told_appservice(cx.id).is_some()
}

impl Appservice {
    /// Has a carrier come if there is something to carry and nobody does; else looks again when that may change.
    pub(super) fn look_for_a_carrier(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let is_owed =
            store::fact(&**tx, "attempt")?.is_some() || store::is_any_event(&**tx)? || self.rooms.is_any_owed(&**tx)?;
        if is_owed || self.passing.borrow().waits() { self.find_a_carrier(tx, cx, is_owed) } else { Ok(()) }
    }

    /// Has a carrier come unless somebody carries, or the service is left alone. For what is owed it looks again.
    pub(super) fn find_a_carrier(&self, tx: &Tx<'_>, cx: &Cx<'_>, is_owed: bool) -> Result<(), Error> {
        if !is_told(cx) {
            return Ok(());
        }
        self.counts_the_lost(tx, cx, None)?;
        let next_ms = match self.busy_until_ms(&**tx, cx.now_ms)? {
            Some(until_ms) => until_ms,
            None => {
                cx.carry();
                cx.now_ms.saturating_add(COMES_WITHIN_MS)
            }
        };
        if is_owed { Ok(schedule::at(tx, cx, DUE, next_ms)?) } else { Ok(()) }
    }

    /// Until when nobody else is to come, if that is so.
    fn busy_until_ms(&self, sql: &dyn Sql, now_ms: u64) -> Result<Option<u64>, Error> {
        let lease = self.lease(sql)?.map(|lease| lease.until_ms);
        let until_ms = lease.unwrap_or(0).max(Standing::load(sql)?.not_before_ms);
        Ok((until_ms > now_ms).then_some(until_ms))
    }

    /// Who carries, or did last.
    fn lease(&self, sql: &dyn Sql) -> Result<Option<Lease>, Error> {
        match &*self.lease.borrow() {
            Some(lease) => Ok(Some(lease.clone())),
            None => Ok(Stored::load(sql)?.map(|stored| stored.lease)),
        }
    }

    /// Leases to a carrier, unless another one carries.
    fn leases(&self, sql: &dyn Sql, cx: &Cx<'_>, carrier: String) -> Result<Option<Lease>, Error> {
        let other = self.lease(sql)?.filter(|lease| lease.carrier != carrier && cx.now_ms < lease.until_ms);
        if other.is_some() {
            return Ok(None);
        }
        let lease = Lease { carrier, until_ms: cx.now_ms.saturating_add(LEASE_MS) };
        *self.lease.borrow_mut() = Some(lease.clone());
        Ok(Some(lease))
    }

    fn is_carried_by(&self, sql: &dyn Sql, carrier: &str) -> Result<bool, Error> {
        Ok(self.lease(sql)?.is_some_and(|lease| lease.carrier == carrier))
    }

    pub(super) fn take_work(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: TakeWork) -> Result<Work, Error> {
        if !is_told(cx) {
            return Ok(Work::Nothing);
        }
        self.counts_the_lost(tx, cx, Some(&call.carrier))?;
        if Standing::load(&**tx)?.not_before_ms > cx.now_ms {
            return Ok(Work::Nothing);
        }
        let Some(lease) = self.leases(&**tx, cx, call.carrier)? else { return Ok(Work::Nothing) };
        if let Some(stored) = Stored::load(&**tx)? {
            let stored = Stored { lease, ..stored };
            stored.save(tx)?;
            schedule::at(tx, cx, DUE, stored.lease.until_ms)?;
            let queued = queued(&**tx, stored.attempt.queued_up_to)?;
            return Ok(Work::Repeat { attempt: stored.attempt, queued: queued.0 });
        }
        let (queued, queued_up_to) = queued(&**tx, platform::INTEGER_MAX as u64)?;
        let mut ranges = Vec::new();
        for cursor in self.rooms.owed(&**tx, ROOMS_MAX)? {
            let room_id = cursor.room_id.try_into().map_err(|_| Fault::new("a room has an id that is none"))?;
            ranges.push(Range { room_id, after: cursor.sent, up_to: cursor.owed });
        }
        if !queued.is_empty() || !ranges.is_empty() {
            schedule::at(tx, cx, DUE, lease.until_ms)?;
            return Ok(Work::Owed { queued, queued_up_to, ranges });
        }
        schedule::cancel(tx, DUE)?;
        let ephemeral = self.passing.borrow_mut().take(cx.now_ms)?;
        if ephemeral.is_empty() {
            *self.lease.borrow_mut() = None;
            return Ok(Work::Nothing);
        }
        Ok(Work::Passing { transaction_id: transaction_id(cx)?, ephemeral })
    }

    pub(super) fn start_attempt(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: StartAttempt) -> Result<Option<Attempt>, Error> {
        let StartAttempt { carrier, queued_up_to, rooms, ephemeral } = call;
        // A carrier that took work before another one did, and was slower, has what the service has meanwhile.
        let is_late = queued_up_to > 0 && queued_up_to <= store::had_events(&**tx)?;
        if is_late || store::fact(&**tx, "attempt")?.is_some() {
            return Ok(None);
        }
        let Some(lease) = self.leases(&**tx, cx, carrier)? else { return Ok(None) };
        let is_empty = queued_up_to == 0 && ephemeral.is_empty() && rooms.iter().all(|room| room.event_ids.is_empty());
        if is_empty {
            self.settle(tx, &rooms)?;
            return Ok(None);
        }
        let attempt = Attempt { transaction_id: transaction_id(cx)?, queued_up_to, rooms, ephemeral };
        let stored = Stored { attempt, lease };
        stored.save(tx)?;
        schedule::at(tx, cx, DUE, stored.lease.until_ms)?;
        Ok(Some(stored.attempt))
    }

    pub(super) fn acknowledge(&self, tx: &Tx<'_>, _cx: &Cx<'_>, call: Acknowledge) -> Result<(), Error> {
        // A carrier that was given up may have been successful all the same.
        let stored = Stored::load(&**tx)?.filter(|stored| stored.attempt.transaction_id == call.transaction_id);
        if let Some(Stored { attempt, .. }) = stored {
            self.settle(tx, &attempt.rooms)?;
            if attempt.queued_up_to > 0 {
                store::forget_events(tx, attempt.queued_up_to)?;
            }
            store::forget_fact(tx, "attempt")?;
        }
        Ok(store::forget_fact(tx, "standing")?)
    }

    pub(super) fn report_failure(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ReportFailure) -> Result<(), Error> {
        if !self.is_carried_by(&**tx, &call.carrier)? {
            return Ok(());
        }
        self.leaves_alone(tx, cx)
    }

    /// The service did not answer.
    fn leaves_alone(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let Standing { failures, .. } = Standing::load(&**tx)?;
        let pause_ms = backoff::pause_ms(PAUSE_MS_MIN, failures, PAUSE_MS_MAX);
        let not_before_ms = cx.now_ms.saturating_add(pause_ms);
        let standing = Standing { failures: failures.saturating_add(1), not_before_ms };
        store::set_fact(tx, "standing", &serde_json::to_string(&standing)?)?;
        self.gives_back(tx)?;
        schedule::cancel(tx, DUE)?;
        Ok(schedule::at(tx, cx, DUE, not_before_ms)?)
    }

    /// A carrier that said nothing more until its lease was over, and is not `other_than`, may have waited for the
    /// service until its end: where an attempt is under way, that counts as if the service had not answered.
    fn counts_the_lost(&self, tx: &Tx<'_>, cx: &Cx<'_>, other_than: Option<&str>) -> Result<(), Error> {
        let is_lost = self.lease(&**tx)?.is_some_and(|lease| {
            lease.until_ms > 0 && lease.until_ms <= cx.now_ms && other_than != Some(&*lease.carrier)
        });
        if is_lost && Stored::load(&**tx)?.is_some() { self.leaves_alone(tx, cx) } else { Ok(()) }
    }

    pub(super) fn stop_carrying(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: StopCarrying) -> Result<(), Error> {
        if !self.is_carried_by(&**tx, &call.carrier)? {
            return Ok(());
        }
        self.gives_back(tx)?;
        // By the alarm: carriers that call actors that call carriers would soon be deeper than the platform lets them.
        Ok(schedule::at(tx, cx, DUE, cx.now_ms)?)
    }

    pub(super) fn is_up(&self, tx: &Tx<'_>, cx: &Cx<'_>, _call: IsUp) -> Result<(), Error> {
        if Standing::load(&**tx)?.not_before_ms <= cx.now_ms {
            return Ok(());
        }
        store::forget_fact(tx, "standing")?;
        self.look_for_a_carrier(tx, cx)
    }

    /// What there was of these rooms needs not be sent any more.
    fn settle(&self, tx: &Tx<'_>, rooms: &[SentEvents]) -> Result<(), Fault> {
        rooms.iter().try_for_each(|room| self.rooms.sent(tx, room.room_id.as_str(), room.up_to))
    }

    /// The lease is over.
    fn gives_back(&self, tx: &Tx<'_>) -> Result<(), Error> {
        *self.lease.borrow_mut() = None;
        if let Some(mut stored) = Stored::load(&**tx)? {
            stored.lease.until_ms = 0;
            stored.save(tx)?;
        }
        Ok(())
    }
}

/// Never used before, and nothing is written for it.
fn transaction_id(cx: &Cx<'_>) -> Result<String, Fault> {
    Ok(format!("{}-{:08x}", cx.now_ms, u32::from_be_bytes(cx.random()?)))
}

/// The queued events up to a position, as many as go together, and up to where these are.
fn queued(sql: &dyn Sql, up_to: u64) -> Result<(Vec<Box<RawValue>>, u64), Error> {
    let (mut events, mut last) = (Vec::new(), 0);
    for (position, json) in store::events(sql, up_to, QUEUED_MAX)? {
        events.push(RawValue::from_string(json)?);
        last = position;
    }
    Ok((events, last))
}
