//! Effects owed after a commit that no log would repeat: kept in the transaction that decided them, struck
//! when delivered, tried again by the alarm until they are. Receivers are idempotent.

use platform::{Address, Fault, Row, Sql, Tx};
use tracing::warn;

use crate::{
    Call, Cx, Error,
    cx::{Delivery, Key},
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

/// Owes `call` to the actor `id` and has it tried right after the commit.
pub(crate) fn owe<C: Call>(
    tx: &Tx<'_>,
    cx: &Cx<'_>,
    id: impl Into<String>,
    call: &C,
    before_answer: bool,
) -> Result<(), Error> {
    let (id, body) = (id.into(), serde_json::to_string(call)?);
    // By chance, so that no row is ever taken for one that was struck before: a late answer strikes only its own.
    let row = i64::from_be_bytes(cx.random()?) >> 11 & ((1 << 52) - 1);
    let due_ms = cx.now_ms.saturating_add(RETRY_MS);
    tx.execute(
        "INSERT INTO outbox (id, kind, actor, call, body, attempts, due_ms) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6)",
        &[
            row.into(),
            C::ACTOR.as_str().into(),
            id.as_str().into(),
            C::NAME.into(),
            body.as_str().into(),
            due_ms.into(),
        ],
    )?;
    schedule::at(tx, cx, DUE, due_ms)?;
    cx.push(Delivery {
        to: Address::new(C::ACTOR, id),
        call: C::NAME,
        body: body.into_bytes(),
        key: Key::Outbox(row),
        before_answer,
    });
    Ok(())
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
    for Owed { row, kind, actor, call, body, attempts } in due(&**tx, cx.now_ms)? {
        let pause = RETRY_MS.saturating_mul(2 << attempts.min(9)).min(RETRY_MS_MAX);
        tx.execute(
            "UPDATE outbox SET attempts = attempts + 1, due_ms = ?2 WHERE id = ?1",
            &[row.into(), cx.now_ms.saturating_add(pause).into()],
        )?;
        match (kind.parse(), calls(&call)) {
            (Ok(kind), Some(call)) => cx.push(Delivery {
                to: Address::new(kind, actor),
                call,
                body: body.into_bytes(),
                key: Key::Outbox(row),
                before_answer: false,
            }),
            // Owed by a newer release that was rolled back: it waits for the next upgrade.
            _ => warn!(actor = cx.id, call, "the outbox holds a call that is not known here"),
        }
    }
    if let Some(due_ms) = earliest_ms(&**tx)? {
        schedule::at(tx, cx, DUE, due_ms)?;
    }
    Ok(())
}

struct Owed {
    row: i64,
    kind: String,
    actor: String,
    call: String,
    body: String,
    attempts: u64,
}

fn due(sql: &dyn Sql, now_ms: u64) -> Result<Vec<Owed>, Fault> {
    let owed = |mut row: Row| {
        Ok(Owed {
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
    .map(owed)
    .collect()
}

fn earliest_ms(sql: &dyn Sql) -> Result<Option<u64>, Fault> {
    match sql.query("SELECT min(due_ms) FROM outbox", &[])?.pop() {
        Some(mut row) => row.unsigned_or_null(0),
        None => Ok(None),
    }
}
