//! Effects owed after a commit that no log would repeat: kept in the transaction that decided them, struck
//! when delivered, tried again by the alarm until they are. Receivers are idempotent.

use platform::{Address, Fault, Sql, Tx};

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
    let mut rows = tx.execute(
        "INSERT INTO outbox (kind, actor, call, body, attempts) VALUES (?1, ?2, ?3, ?4, 0) RETURNING id",
        &[C::ACTOR.as_str().into(), id.as_str().into(), C::NAME.into(), body.as_str().into()],
    )?;
    let row = rows.pop().ok_or_else(|| Fault::new("the outbox took no row"))?.integer(0)?;
    schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(RETRY_MS))?;
    cx.push(Delivery {
        to: Address::new(C::ACTOR, id),
        call: C::NAME,
        body: body.into_bytes(),
        key: Key::Outbox(row),
        before_answer,
    });
    Ok(())
}

/// Strikes a delivered effect, or counts the failed try.
pub(crate) fn settle(tx: &Tx<'_>, row: i64, delivered: bool) -> Result<(), Fault> {
    let statement = if delivered {
        "DELETE FROM outbox WHERE id = ?1"
    } else {
        "UPDATE outbox SET attempts = attempts + 1 WHERE id = ?1"
    };
    tx.execute(statement, &[row.into()])?;
    Ok(())
}

/// Tries again whatever is still owed, and keeps the alarm armed while anything is.
pub(crate) fn retry(tx: &Tx<'_>, cx: &Cx<'_>, calls: fn(&str) -> Option<&'static str>) -> Result<(), Error> {
    let owed = owed(&**tx)?;
    let Some(fewest) = owed.iter().map(|(_, attempts)| *attempts).min() else { return Ok(()) };
    let pause = RETRY_MS.saturating_mul(1 << fewest.min(9)).min(RETRY_MS_MAX);
    schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(pause))?;
    for ((row, to, call, body), _) in owed {
        let Some(call) = calls(&call) else {
            return Err(Fault::new(format!("the outbox holds an unknown call {call}")).into());
        };
        cx.push(Delivery { to, call, body: body.into_bytes(), key: Key::Outbox(row), before_answer: false });
    }
    Ok(())
}

type Owed = ((i64, Address, String, String), u64);

fn owed(sql: &dyn Sql) -> Result<Vec<Owed>, Fault> {
    sql.query(
        "SELECT id, kind, actor, call, body, attempts FROM outbox ORDER BY attempts, id LIMIT ?1",
        &[BATCH_MAX.into()],
    )?
    .into_iter()
    .map(|mut row| {
        let to = Address::new(row.text(1)?.parse()?, row.text(2)?);
        Ok(((row.integer(0)?, to, row.text(3)?, row.text(4)?), row.unsigned(5)?))
    })
    .collect()
}
