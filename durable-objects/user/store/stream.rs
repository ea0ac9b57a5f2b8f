//! How far the user's stream got, beside what its news bear.

use platform::{Fault, Sql, Tx, Value};

/// The newest position that is kept because the row that bore it is gone, or that is a spilled token's or a pusher's
/// number.
pub(crate) fn head(sql: &dyn Sql) -> Result<u64, Fault> {
    let rows = sql.query(
        "SELECT max(stream_head) FROM account
         UNION ALL SELECT max(row) FROM spill
         UNION ALL SELECT max(id) FROM pusher",
        &[],
    )?;
    rows.into_iter().try_fold(0, |head, mut row| Ok(head.max(row.unsigned_or_null(0)?.unwrap_or(0))))
}

/// Keeps the newest position.
pub(crate) fn set_head(tx: &Tx<'_>, head: u64) -> Result<(), Fault> {
    tx.execute("UPDATE account SET stream_head = ?1 WHERE id = 1", &[head.into()])?;
    Ok(())
}

/// Positions of the stream whose rows are gone: the newest of all has to be kept elsewhere.
#[must_use]
pub(crate) struct Gone(pub Vec<u64>);

impl Gone {
    pub(crate) fn newest(&self) -> Option<u64> {
        self.0.iter().copied().max()
    }
}

/// Deletes rows of a table that bear positions of the stream, which `position` has of a row.
pub(crate) fn delete(tx: &Tx<'_>, table: &str, position: &str, which: &str, params: &[Value]) -> Result<Gone, Fault> {
    let rows = tx.execute(&format!("DELETE FROM {table} WHERE {which} RETURNING {position}"), params)?;
    rows.into_iter().map(|mut row| row.unsigned(0)).collect::<Result<_, _>>().map(Gone)
}
