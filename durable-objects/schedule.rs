//! An actor's due times. The host gives an actor one alarm; it is set to the earliest of these.
//!
//! When it rings, each appointment that is due is kept in a transaction of its own. One that fails is put off, and so
//! is one that this release does not know: a newer one made it and was rolled back. Both stay until they were kept.

use platform::{Fault, Sql, Tx};

use crate::Cx;

/// The latest time of an appointment, in milliseconds since the Unix epoch: in the year 2255. Workers count an alarm's
/// time in nanoseconds, with 63 bits, and refuse what is later.
const AT_MS_MAX: u64 = 9_000_000_000_000;

/// Has `what` happen at `at_ms` at the latest; an earlier appointment for it stands.
pub(crate) fn at(tx: &Tx<'_>, cx: &Cx<'_>, what: &str, at_ms: u64) -> Result<(), Fault> {
    let at_ms = at_ms.min(AT_MS_MAX);
    tx.execute(
        "INSERT INTO due (what, at_ms) VALUES (?1, ?2)
         ON CONFLICT (what) DO UPDATE SET at_ms = excluded.at_ms WHERE excluded.at_ms < due.at_ms",
        &[what.into(), at_ms.into()],
    )?;
    cx.set_alarm(at_ms)
}

/// Takes back what was to happen.
pub(crate) fn cancel(tx: &Tx<'_>, what: &str) -> Result<(), Fault> {
    tx.execute("DELETE FROM due WHERE what = ?1", &[what.into()])?;
    Ok(())
}

/// Whether there is an appointment for this.
pub(crate) fn has(sql: &dyn Sql, what: &str) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM due WHERE what = ?1", &[what.into()])?.is_empty())
}

/// What is due, the longest due first.
pub(crate) fn due(sql: &dyn Sql, now_ms: u64) -> Result<Vec<String>, Fault> {
    sql.query("SELECT what FROM due WHERE at_ms <= ?1 ORDER BY at_ms, what", &[now_ms.into()])?
        .into_iter()
        .map(|mut row| row.text(0))
        .collect()
}

/// Takes what is due from the schedule; answers whether it was there still.
pub(crate) fn take(tx: &Tx<'_>, what: &str) -> Result<bool, Fault> {
    Ok(!tx.execute("DELETE FROM due WHERE what = ?1 RETURNING 1", &[what.into()])?.is_empty())
}

/// Has what is on the schedule happen at `at_ms` at the earliest.
pub(crate) fn put_off(tx: &Tx<'_>, what: &str, at_ms: u64) -> Result<(), Fault> {
    tx.execute("UPDATE due SET at_ms = ?2 WHERE what = ?1 AND at_ms < ?2", &[what.into(), at_ms.into()])?;
    Ok(())
}

/// The earliest due time.
pub(crate) fn earliest_ms(sql: &dyn Sql) -> Result<Option<u64>, Fault> {
    match sql.query("SELECT min(at_ms) FROM due", &[])?.pop() {
        Some(mut row) => row.unsigned_or_null(0),
        None => Ok(None),
    }
}
