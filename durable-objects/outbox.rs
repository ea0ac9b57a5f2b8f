//! Effects owed after a commit that no log would repeat: kept in the transaction that decided them, struck
//! when delivered, tried again by the alarm until they are.
//!
//! There are two kinds: calls to other actors, whose receivers are idempotent, and projections to metadata, of which
//! the newest wins wherever they meet (see [`crate::projection`]).

use domain::backoff;
use platform::{Address, Fault, Row, Sql, Tx};
use tracing::{error, warn};

use crate::{
    Call, Cx, Error,
    cx::{Delivery, Key, Owed},
    projection::{self, Projection},
    schedule,
};

/// The schedule's name for another try.
pub(crate) const DUE: &str = "outbox";
/// How long a delivery may take before the alarm tries again, and the first step of its backoff.
const RETRY_MS: u64 = 10_000;
/// The longest pause between two tries: one hour.
const RETRY_MS_MAX: u64 = 3_600_000;
/// Effects tried in one go by an alarm.
const BATCH_MAX: u64 = 100;
/// What stands for an actor's kind in the row of a projection.
const METADATA: &str = "metadata";

/// Owes `call` to the actor `id` and has it tried right after the commit.
pub(crate) fn owe<C: Call>(
    tx: &Tx<'_>,
    cx: &Cx<'_>,
    id: impl Into<String>,
    call: &C,
    before_answer: bool,
) -> Result<(), Error> {
    let (id, body) = (id.into(), serde_json::to_string(call)?);
    let key = insert(tx, cx, [C::ACTOR.as_str(), &id, C::NAME, &body])?;
    let to = Address::new(C::ACTOR, id);
    cx.push(Delivery { owed: Owed::Call { to, call: C::NAME, body: body.into_bytes() }, key, before_answer });
    Ok(())
}

/// Owes metadata what it is to show of this actor, and has it written right after the commit.
///
/// It takes the place of an older one that was not written yet: there is one row at most for each kind of projection,
/// however long metadata is away.
pub(crate) fn project<P: Projection>(
    tx: &Tx<'_>,
    cx: &Cx<'_>,
    projection: &P,
    before_answer: bool,
) -> Result<(), Error> {
    tx.execute("DELETE FROM outbox WHERE kind = ?1 AND call = ?2", &[METADATA.into(), P::NAME.into()])?;
    let body = serde_json::to_string(projection)?;
    let key = insert(tx, cx, [METADATA, "", P::NAME, &body])?;
    let owed = Owed::Projection { name: P::NAME, statement: projection.statement()? };
    cx.push(Delivery { owed, key, before_answer });
    Ok(())
}

/// Stores something owed: the kind and id of the actor, the call, its body.
fn insert(tx: &Tx<'_>, cx: &Cx<'_>, [kind, actor, call, body]: [&str; 4]) -> Result<Key, Error> {
    // By chance, so that no row is ever taken for one that was struck before: a late answer strikes only its own.
    let row = i64::from_be_bytes(cx.random()?) >> 11 & ((1 << 52) - 1);
    let due_ms = cx.now_ms.saturating_add(RETRY_MS);
    tx.execute(
        "INSERT INTO outbox (id, kind, actor, call, body, attempts, due_ms) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6)",
        &[row.into(), kind.into(), actor.into(), call.into(), body.into(), due_ms.into()],
    )?;
    schedule::at(tx, cx, DUE, due_ms)?;
    Ok(Key::Outbox(row))
}

/// Strikes a delivered effect. One that was not stays, and is due again in its time.
pub(crate) fn settle(tx: &Tx<'_>, row: i64, delivered: bool) -> Result<(), Fault> {
    if delivered {
        tx.execute("DELETE FROM outbox WHERE id = ?1", &[row.into()])?;
    }
    Ok(())
}

/// Tries again what is due, and keeps an appointment for the rest.
pub(crate) fn retry(tx: &Tx<'_>, cx: &Cx<'_>, calls: fn(&str) -> Option<&'static str>) -> Result<(), Error> {
    for stored in due(&**tx, cx.now_ms)? {
        let pause = backoff::pause_ms(RETRY_MS * 2, u32::try_from(stored.attempts).unwrap_or(u32::MAX), RETRY_MS_MAX);
        tx.execute(
            "UPDATE outbox SET attempts = attempts + 1, due_ms = ?2 WHERE id = ?1",
            &[stored.row.into(), cx.now_ms.saturating_add(pause).into()],
        )?;
        let key = Key::Outbox(stored.row);
        match owed(&stored, calls) {
            Ok(Some(owed)) => cx.push(Delivery { owed, key, before_answer: false }),
            // Owed by a newer release that was rolled back: it waits for the next upgrade.
            Ok(None) => warn!(actor = cx.id, owed = stored.call, "the outbox holds what is not known here"),
            // The others are owed all the same.
            Err(error) => error!(actor = cx.id, owed = stored.call, %error, "the outbox holds what is not understood"),
        }
    }
    if let Some(due_ms) = earliest_ms(&**tx)? {
        schedule::at(tx, cx, DUE, due_ms)?;
    }
    Ok(())
}

/// What a stored effect is; `None` if this release does not know it.
fn owed(stored: &Stored, calls: fn(&str) -> Option<&'static str>) -> Result<Option<Owed>, Error> {
    if stored.kind == METADATA {
        let known = projection::stored(&stored.call, &stored.body)?;
        return Ok(known.map(|(name, statement)| Owed::Projection { name, statement }));
    }
    let (Ok(kind), Some(call)) = (stored.kind.parse(), calls(&stored.call)) else { return Ok(None) };
    let to = Address::new(kind, stored.actor.as_str());
    Ok(Some(Owed::Call { to, call, body: stored.body.clone().into_bytes() }))
}

struct Stored {
    row: i64,
    kind: String,
    actor: String,
    call: String,
    body: String,
    attempts: u64,
}

fn due(sql: &dyn Sql, now_ms: u64) -> Result<Vec<Stored>, Fault> {
    let stored = |mut row: Row| {
        Ok(Stored {
            row: row.integer(0)?,
            kind: row.text(1)?,
            actor: row.text(2)?,
            call: row.text(3)?,
            body: row.text(4)?,
            attempts: row.unsigned(5)?,
        })
    };
    sql.query(
        "SELECT id, kind, actor, call, body, attempts FROM outbox WHERE due_ms <= ?1 ORDER BY due_ms, id LIMIT ?2",
        &[now_ms.into(), BATCH_MAX.into()],
    )?
    .into_iter()
    .map(stored)
    .collect()
}

fn earliest_ms(sql: &dyn Sql) -> Result<Option<u64>, Fault> {
    match sql.query("SELECT min(due_ms) FROM outbox", &[])?.pop() {
        Some(mut row) => row.unsigned_or_null(0),
        None => Ok(None),
    }
}
