//! Who read how far.

use platform::{Fault, Row, Sql, Tx};

/// A receipt with its place in the log.
#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    pub user_id: String,
    /// `m.read` or `m.read.private`.
    pub kind: String,
    /// `main`, the root of a thread, or nothing for an unthreaded receipt.
    pub thread: String,
    pub event_id: String,
    /// The position of that event.
    pub read: u64,
    pub ts_ms: u64,
    /// When in the log the receipt moved here.
    pub position: u64,
}

const RECEIPT: &str = "SELECT user_id, type, thread, event_id, read, ts_ms, position FROM receipt";

fn all(rows: Vec<Row>) -> Result<Vec<Receipt>, Fault> {
    rows.into_iter()
        .map(|mut row| {
            Ok(Receipt {
                user_id: row.text(0)?,
                kind: row.text(1)?,
                thread: row.text(2)?,
                event_id: row.text(3)?,
                read: row.unsigned(4)?,
                ts_ms: row.unsigned(5)?,
                position: row.unsigned(6)?,
            })
        })
        .collect()
}

/// Moves a receipt. Two written rows: itself and its position.
pub(crate) fn put(tx: &Tx<'_>, receipt: &Receipt) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO receipt (user_id, type, thread, event_id, read, ts_ms, position) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (user_id, type, thread) DO UPDATE SET event_id = excluded.event_id, read = excluded.read,
             ts_ms = excluded.ts_ms, position = excluded.position",
        &[
            receipt.user_id.as_str().into(),
            receipt.kind.as_str().into(),
            receipt.thread.as_str().into(),
            receipt.event_id.as_str().into(),
            receipt.read.into(),
            receipt.ts_ms.into(),
            receipt.position.into(),
        ],
    )?;
    Ok(())
}

/// How far a user's receipt of this kind and thread reads.
pub(crate) fn read_up_to(sql: &dyn Sql, user_id: &str, kind: &str, thread: &str) -> Result<Option<u64>, Fault> {
    sql.query(
        "SELECT read FROM receipt WHERE user_id = ?1 AND type = ?2 AND thread = ?3",
        &[user_id.into(), kind.into(), thread.into()],
    )?
    .pop()
    .map(|mut row| row.unsigned(0))
    .transpose()
}

/// Up to `limit` receipts of one user, those that moved last.
pub(crate) fn of_user(sql: &dyn Sql, user_id: &str, limit: u64) -> Result<Vec<Receipt>, Fault> {
    all(sql.query(
        &format!("{RECEIPT} WHERE user_id = ?1 ORDER BY position DESC LIMIT ?2"),
        &[user_id.into(), limit.into()],
    )?)
}

/// Up to `limit` public receipts that moved in `(after, up_to]`, the last first.
pub(crate) fn public(sql: &dyn Sql, after: u64, up_to: u64, limit: u64) -> Result<Vec<Receipt>, Fault> {
    all(sql.query(
        &format!(
            "{RECEIPT} WHERE position > ?1 AND position <= ?2 AND type = 'm.read' ORDER BY position DESC LIMIT ?3"
        ),
        &[after.into(), up_to.into(), limit.into()],
    )?)
}

/// Up to `limit` receipts that moved in `(after, up_to]`, private ones included, the last first.
pub(crate) fn moved(sql: &dyn Sql, after: u64, up_to: u64, limit: u64) -> Result<Vec<Receipt>, Fault> {
    all(sql.query(
        &format!("{RECEIPT} WHERE position > ?1 AND position <= ?2 ORDER BY position DESC LIMIT ?3"),
        &[after.into(), up_to.into(), limit.into()],
    )?)
}

/// When a receipt moved last, private ones included.
pub(crate) fn head(sql: &dyn Sql) -> Result<u64, Fault> {
    newest(sql.query("SELECT max(position) FROM receipt", &[])?)
}

/// When a public receipt moved last.
pub(crate) fn public_head(sql: &dyn Sql) -> Result<u64, Fault> {
    newest(sql.query("SELECT position FROM receipt WHERE type = 'm.read' ORDER BY position DESC LIMIT 1", &[])?)
}

fn newest(mut rows: Vec<Row>) -> Result<u64, Fault> {
    rows.pop().map_or(Ok(0), |mut row| Ok(row.unsigned_or_null(0)?.unwrap_or(0)))
}

/// Whose private receipts moved after `position`, and when.
pub(crate) fn private_after(sql: &dyn Sql, position: u64) -> Result<Vec<(String, u64)>, Fault> {
    sql.query(
        "SELECT user_id, position FROM receipt WHERE position > ?1 AND type = 'm.read.private' ORDER BY position",
        &[position.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.unsigned(1)?)))
    .collect()
}
