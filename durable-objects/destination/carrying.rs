//! How what is owed leaves: one carrier at a time, one attempt at a time.
//!
//! Guarantees: before the first byte of a transaction leaves, what is in it is stored, and any carrier repeats exactly
//! that, under the same transaction id, until the server acknowledges it. A carrier holds a lease; when it dies, the
//! alarm at the lease's end finds another one. One that died over an attempt counts as if the server had not answered.
//! A server that does not answer is left alone for longer and longer, up to [`PAUSE_MS_MAX`], and tried at once when it
//! is heard of. One that refuses what is sent, or answers it with some error again and again, gets less at once
//! (`portion.rs`).
//! Spec: Server-Server API, "Transactions".

use domain::backoff;
use platform::{ActorKind, Sql, Tx};
use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::{Destination, portion, store};
use crate::{Call, Cx, Error, presence::Presence, schedule};

/// The schedule's name for finding a carrier.
pub(super) const DUE: &str = "carry";

/// How long a carrier may take between two calls, in milliseconds. On Workers none lives for longer than half a minute.
pub(super) const LEASE_MS: u64 = if cfg!(target_family = "wasm") { 35_000 } else { 90_000 };
/// How long a server that did not answer is left alone at first, in milliseconds.
const PAUSE_MS_MIN: u64 = 2_000;
/// How long it is left alone at most, in milliseconds: six hours. One that is back says something, as a rule, and there
/// are many that never will be: each attempt costs.
const PAUSE_MS_MAX: u64 = 6 * 3_600_000;
/// A server that did not answer this often in a row was away, for eight minutes or more: what it missed is not told
/// from the beginning.
const AWAY_FAILURES: u32 = 9;
/// A server that shares no room, and did not answer this often in a row, for about three days, is given up, with the
/// EDUs that wait for it: anybody could have invented it.
const STRANGER_FAILURES_MAX: u32 = 23;
/// A server that answers the same attempt this often in a row, and does not take it, is held to refuse what is in it.
pub(super) const ANSWERS_MAX: u32 = 5;
/// Rooms in one transaction. Spec: at most 50 PDUs are in one.
const ROOMS_MAX: u64 = 50;

/// A carrier asks what to send.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakeWork {
    /// Names the carrier.
    pub carrier: String,
}

/// What there is to send.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Nothing, or somebody else carries it, or the server is left alone for now.
    Nothing,
    /// What was sent before and is not acknowledged: exactly this, again.
    Repeat(Attempt),
    /// What is owed of these rooms, and of the EDUs; the carrier says how much of it fits into one transaction.
    Owed(Vec<Range>),
    /// As that, for a server that was away: of a room of which it is owed much, the newest.
    Missed(Vec<Range>),
    /// What may get lost: sent once, as well as that goes.
    #[serde(rename = "presence")]
    Passing {
        transaction_id: String,
        presences: Vec<Presence>,
        /// The JSON of each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        edus: Vec<String>,
    },
}

/// Some of a room's log.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Range {
    pub room_id: OwnedRoomId,
    /// The position before it.
    pub after: u64,
    pub up_to: u64,
    /// The most events of it, and of all ranges together, if that is fewer than usual: the server refused more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_max: Option<u64>,
}

/// A transaction.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Attempt {
    pub transaction_id: String,
    pub ranges: Vec<Range>,
    /// Up to which of the EDUs, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edus_up_to: Option<u64>,
}

/// A carrier is about to send this.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartAttempt {
    pub carrier: String,
    pub ranges: Vec<Range>,
    /// Up to which of the EDUs, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edus_up_to: Option<u64>,
}

/// The server has what was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Acknowledge {
    pub carrier: String,
    pub transaction_id: String,
    /// Up to which of the EDUs it has. Fewer than the attempt has are sent where an earlier release took more than fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edus_up_to: Option<u64>,
    /// What moved was nothing for others: the server was not asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_empty: bool,
}

/// What was sent did not get there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportFailure {
    pub carrier: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What the server is there for and does not take, for a reason that may lie in it, or may pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Refused>,
}

/// A transaction that the server refuses for what is in it: it would refuse it again. Or one that cannot be sent, for
/// what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub transaction_id: String,
    /// How many events and EDUs were in it.
    pub events: u64,
    pub edus: u64,
}

/// A carrier stops although there may be more: the next one need not wait for the end of its lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StopCarrying {
    pub carrier: String,
}

/// The server was heard of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IsUp {}

impl Call for TakeWork {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "take_work";
    type Reply = Work;
}

impl Call for StartAttempt {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "start_attempt";
    /// `None`: somebody else carries by now.
    type Reply = Option<Attempt>;
}

impl Call for Acknowledge {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "acknowledge";
    type Reply = ();
}

impl Call for ReportFailure {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "report_failure";
    type Reply = ();
}

impl Call for StopCarrying {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "stop_carrying";
    type Reply = ();
}

impl Call for IsUp {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "is_up";
    type Reply = ();
}

/// How it goes with the server.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Failures in a row.
    #[serde(default)]
    failures: u32,
    /// How many answers in a row took nothing, and did not say that they never will.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) answers: u32,
    /// Before this, in milliseconds since the Unix epoch, it is not tried again.
    #[serde(default)]
    not_before_ms: u64,
    /// Who carries, and until when.
    #[serde(default)]
    carrier: Option<(String, u64)>,
    /// The newest transaction id.
    #[serde(default)]
    last_transaction: u64,
    /// Up to which of the EDUs any attempt had: these positions are not used again.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(super) attempted_edus: u64,
    /// Whether it was away, and has not got since what it is owed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    was_away: bool,
    #[serde(default, skip_serializing_if = "portion::Refusals::are_none")]
    pub(super) refusals: portion::Refusals,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_none(position: &u64) -> bool {
    *position == 0
}

impl Standing {
    pub(super) fn load(sql: &dyn Sql) -> Result<Self, Error> {
        Ok(match store::fact(sql, "standing")? {
            Some(standing) => serde_json::from_str(&standing)?,
            None => Self::default(),
        })
    }

    fn save(&self, tx: &Tx<'_>) -> Result<(), Error> {
        Ok(store::set_fact(tx, "standing", &serde_json::to_string(self)?)?)
    }

    fn is_carried(&self, now_ms: u64) -> bool {
        self.carrier.as_ref().is_some_and(|(_, until_ms)| now_ms < *until_ms)
    }

    fn is_carried_by(&self, carrier: &str) -> bool {
        self.carrier.as_ref().is_some_and(|(name, _)| name == carrier)
    }

    /// Whether the last carrier said nothing more until its lease was over, and is not this one.
    fn has_lost(&self, now_ms: u64, other_than: Option<&str>) -> bool {
        self.carrier.as_ref().is_some_and(|(name, until_ms)| now_ms >= *until_ms && other_than != Some(name))
    }

    /// The server did not answer, or refused once more than is counted yet: nobody carries, and it is left alone for a
    /// while.
    fn is_left_alone(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        let failures_before = self.failures.saturating_add(self.refusals.in_a_row());
        let pause_ms = backoff::pause_ms(PAUSE_MS_MIN, failures_before, PAUSE_MS_MAX);
        // Servers that fell silent together are not all tried again together.
        let [chance] = cx.random()?;
        let pause_ms = pause_ms.saturating_add(pause_ms.saturating_mul(u64::from(chance)) / 1_024);
        self.not_before_ms = cx.now_ms.saturating_add(pause_ms);
        self.carrier = None;
        Ok(())
    }

    /// Counts an answer to this attempt, or that there was none. Answers what counts as refused by now.
    fn counts_answer(&mut self, attempt: Option<&Attempt>, answered: Option<Refused>) -> Option<Refused> {
        let is_of = |answered: &Refused| attempt.is_some_and(|one| one.transaction_id == answered.transaction_id);
        let answered = answered.filter(is_of);
        self.answers = if answered.is_some() { self.answers.saturating_add(1) } else { 0 };
        answered.filter(|_| self.answers >= ANSWERS_MAX)
    }

    /// Whether nobody carries, and it is not left alone.
    pub(super) fn may_be_tried(&self, now_ms: u64) -> bool {
        !self.is_carried(now_ms) && self.not_before_ms <= now_ms
    }

    fn lease(&mut self, tx: &Tx<'_>, cx: &Cx<'_>, carrier: String) -> Result<(), Error> {
        let until_ms = cx.now_ms.saturating_add(LEASE_MS);
        self.carrier = Some((carrier, until_ms));
        self.save(tx)?;
        Ok(schedule::at(tx, cx, DUE, until_ms)?)
    }
}

pub(super) fn attempt(sql: &dyn Sql) -> Result<Option<Attempt>, Error> {
    let attempt = store::fact(sql, "attempt")?;
    Ok(attempt.map(|attempt| serde_json::from_str(&attempt)).transpose()?)
}

/// Up to which of the EDUs are on their way.
pub(super) fn edus_on_their_way(sql: &dyn Sql) -> Result<u64, Error> {
    Ok(attempt(sql)?.and_then(|attempt| attempt.edus_up_to).unwrap_or(0))
}

pub(super) fn is_owed_edus(sql: &dyn Sql) -> Result<bool, Error> {
    Ok(store::is_any_edu(sql)? || !store::owed_device_lists(sql, 1)?.is_empty())
}

impl Destination {
    fn is_owed_anything(&self, sql: &dyn Sql) -> Result<bool, Error> {
        Ok(self.rooms.is_any_owed(sql)? || attempt(sql)?.is_some() || is_owed_edus(sql)?)
    }

    /// What is in an attempt needs not be sent any more, of its EDUs those up to a position.
    pub(super) fn settle(&self, tx: &Tx<'_>, attempt: &Attempt, edus_up_to: Option<u64>) -> Result<(), Error> {
        for range in &attempt.ranges {
            self.rooms.sent(tx, range.room_id.as_str(), range.up_to)?;
        }
        if let Some(up_to) = edus_up_to {
            store::forget_edus(tx, up_to)?;
        }
        Ok(store::forget_fact(tx, "attempt")?)
    }

    /// Has a carrier come if there is something to carry and nobody does; else looks again when that may change.
    pub(super) fn look_for_a_carrier(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        if !self.is_owed_anything(&**tx)? && !self.passing.waits() {
            return Ok(());
        }
        if let Some(until_ms) = self.passing.carried_until_ms(cx.now_ms) {
            return Ok(schedule::at(tx, cx, DUE, until_ms)?);
        }
        let mut standing = Standing::load(&**tx)?;
        if self.counts_the_lost(tx, cx, &mut standing, None)? {
            return Ok(());
        }
        if let Some((_, until_ms)) = standing.carrier.as_ref().filter(|_| standing.is_carried(cx.now_ms)) {
            return Ok(schedule::at(tx, cx, DUE, *until_ms)?);
        }
        if standing.not_before_ms > cx.now_ms {
            return Ok(schedule::at(tx, cx, DUE, standing.not_before_ms)?);
        }
        cx.carry();
        // The one that is asked to come may not arrive.
        Ok(schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(PAUSE_MS_MIN))?)
    }

    pub(super) fn take_work(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: TakeWork) -> Result<Work, Error> {
        let mut standing = Standing::load(&**tx)?;
        let is_others = (standing.is_carried(cx.now_ms) && !standing.is_carried_by(&call.carrier))
            || self.passing.is_carried_by_another(&call.carrier, cx.now_ms);
        if is_others || standing.not_before_ms > cx.now_ms {
            return Ok(Work::Nothing);
        }
        if self.counts_the_lost(tx, cx, &mut standing, Some(&call.carrier))? {
            return Ok(Work::Nothing);
        }
        let work = match attempt(&**tx)? {
            Some(attempt) => Work::Repeat(attempt),
            None => {
                let portion = self.portion(&**tx, &standing)?;
                let events_max = (!standing.refusals.are_none()).then_some(portion.events);
                let mut owed = Vec::new();
                for cursor in self.rooms.owed(&**tx, ROOMS_MAX.min(portion.events))? {
                    let room_id = cursor.room_id.try_into();
                    let room_id = room_id.map_err(|_| platform::Fault::new("a room has an id that is none"))?;
                    owed.push(Range { room_id, after: cursor.sent, up_to: cursor.owed, events_max });
                }
                if standing.was_away && !owed.is_empty() { Work::Missed(owed) } else { Work::Owed(owed) }
            }
        };
        if work == Work::Owed(Vec::new()) && !is_owed_edus(&**tx)? {
            schedule::cancel(tx, DUE)?;
            if standing.carrier.take().is_some() || standing.was_away {
                standing.was_away = false;
                standing.save(tx)?;
            }
            return Ok(self.passing.take(cx, call.carrier)?);
        }
        standing.lease(tx, cx, call.carrier)?;
        Ok(work)
    }

    /// A carrier that was lost over an attempt, and is not `other_than`, may have waited for the server until its end:
    /// it counts as if that had not answered, or each one after it would wait as long. Answers whether that is so.
    fn counts_the_lost(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        standing: &mut Standing,
        other_than: Option<&str>,
    ) -> Result<bool, Error> {
        if !standing.has_lost(cx.now_ms, other_than) || attempt(&**tx)?.is_none() {
            return Ok(false);
        }
        standing.is_left_alone(cx)?;
        standing.failures = standing.failures.saturating_add(1);
        self.rests(tx, cx, standing)?;
        Ok(true)
    }

    pub(super) fn start_attempt(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: StartAttempt) -> Result<Option<Attempt>, Error> {
        let mut standing = Standing::load(&**tx)?;
        if !standing.is_carried_by(&call.carrier) || attempt(&**tx)?.is_some() {
            return Ok(None);
        }
        // Never used before, also when this actor is restored from an older copy.
        standing.last_transaction = standing.last_transaction.saturating_add(1).max(cx.now_ms);
        let transaction_id = standing.last_transaction.to_string();
        let attempt = Attempt { transaction_id, ranges: call.ranges, edus_up_to: call.edus_up_to };
        store::set_fact(tx, "attempt", &serde_json::to_string(&attempt)?)?;
        standing.attempted_edus = standing.attempted_edus.max(call.edus_up_to.unwrap_or(0));
        standing.refusals.attempt_starts();
        standing.lease(tx, cx, call.carrier)?;
        Ok(Some(attempt))
    }

    pub(super) fn acknowledge(&self, tx: &Tx<'_>, _cx: &Cx<'_>, call: Acknowledge) -> Result<(), Error> {
        let mut standing = Standing::load(&**tx)?;
        let is_as_it_was = standing.failures == 0 && standing.refusals.are_none();
        if !self.passing.is_acknowledged(&call.transaction_id) {
            // A carrier that was given up may have been successful all the same.
            let Some(attempt) = attempt(&**tx)?.filter(|attempt| attempt.transaction_id == call.transaction_id) else {
                return Ok(());
            };
            self.settle(tx, &attempt, call.edus_up_to.or(attempt.edus_up_to))?;
            if !call.was_empty {
                standing.refusals.attempt_is_taken();
            }
        }
        if !is_as_it_was {
            (standing.failures, standing.answers, standing.not_before_ms) = (0, 0, 0);
            standing.save(tx)?;
        }
        Ok(())
    }

    pub(super) fn report_failure(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ReportFailure) -> Result<(), Error> {
        let mut standing = Standing::load(&**tx)?;
        // What is refused of it is not told again: something newer will be.
        let was_passing =
            call.refused.as_ref().is_some_and(|refused| self.passing.is_acknowledged(&refused.transaction_id));
        if !was_passing && !self.passing.has_failed(&call.carrier) && !standing.is_carried_by(&call.carrier) {
            return Ok(());
        }
        standing.is_left_alone(cx)?;
        let attempt = attempt(&**tx)?;
        let refused = call.refused.or_else(|| standing.counts_answer(attempt.as_ref(), call.answered));
        match (attempt, refused) {
            (Some(attempt), Some(refused)) if attempt.transaction_id == refused.transaction_id => {
                self.is_refused(tx, &mut standing, &attempt, &refused)?;
            }
            _ if was_passing => {}
            _ => standing.failures = standing.failures.saturating_add(1),
        }
        self.rests(tx, cx, &mut standing)
    }

    /// Nobody carries until the server may be tried again, if it ever is.
    fn rests(&self, tx: &Tx<'_>, cx: &Cx<'_>, standing: &mut Standing) -> Result<(), Error> {
        standing.was_away |= standing.failures >= AWAY_FAILURES;
        standing.save(tx)?;
        schedule::cancel(tx, DUE)?;
        if standing.failures >= STRANGER_FAILURES_MAX && !store::is_any_room(&**tx)? {
            store::forget_all_edus(tx)?;
            return Ok(store::forget_fact(tx, "attempt")?);
        }
        Ok(schedule::at(tx, cx, DUE, standing.not_before_ms)?)
    }

    pub(super) fn stop_carrying(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: StopCarrying) -> Result<(), Error> {
        let mut standing = Standing::load(&**tx)?;
        if standing.is_carried_by(&call.carrier) {
            standing.carrier = None;
            standing.save(tx)?;
        } else if !self.passing.has_failed(&call.carrier) {
            return Ok(());
        }
        // By the alarm: carriers that call actors that call carriers would soon be deeper than the platform lets them.
        Ok(schedule::at(tx, cx, DUE, cx.now_ms)?)
    }

    pub(super) fn is_up(&self, tx: &Tx<'_>, cx: &Cx<'_>, _call: IsUp) -> Result<(), Error> {
        let mut standing = Standing::load(&**tx)?;
        if standing.not_before_ms <= cx.now_ms {
            return Ok(());
        }
        standing.not_before_ms = 0;
        standing.save(tx)?;
        self.look_for_a_carrier(tx, cx)
    }
}

#[cfg(test)]
mod tests;
