//! The log of events.

use domain::Pdu;
use platform::{Fault, Row, Sql, Tx};
use ruma_common::OwnedEventId;

use super::{graph::LOG_START, search};

/// An event with its place in the log.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub position: u64,
    pub pdu: Pdu,
    /// The sender's transaction, see [`crate::room::transactions`].
    pub txn: Option<String>,
    /// The position of the redaction that took effect on it: what is left is all there is.
    pub redacted_by: Option<u64>,
    /// It is a redaction that redacted nothing: no client is told of it.
    pub withheld: bool,
}

pub(crate) fn logged(row: &mut Row) -> Result<Logged, Fault> {
    let event_id = OwnedEventId::try_from(row.text(1)?).map_err(|_| Fault::new("a stored event has no event id"))?;
    let json = row.text(2)?;
    let pdu =
        Pdu::from_stored(event_id, json, false).map_err(|error| Fault::new(format!("a stored event: {error}")))?;
    let (txn, redacted_by) = (row.text_or_null(3)?, row.unsigned_or_null(4)?);
    Ok(Logged { position: row.unsigned(0)?, pdu, txn, redacted_by, withheld: row.unsigned_or_null(5)?.is_some() })
}

pub(super) fn all(rows: Vec<Row>) -> Result<Vec<Logged>, Fault> {
    rows.into_iter().map(|mut row| logged(&mut row)).collect()
}

/// Appends an accepted event.
pub(crate) fn insert(tx: &Tx<'_>, position: u64, pdu: &Pdu, txn: Option<&str>) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO event (position, event_id, type, state_key, sender, json, txn) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        &[
            position.into(),
            pdu.event_id().as_str().into(),
            pdu.event_type().to_string().into(),
            pdu.state_key().into(),
            pdu.sender().as_str().into(),
            pdu.json().into(),
            txn.into(),
        ],
    )?;
    Ok(())
}

/// The newest event.
pub(crate) fn head(sql: &dyn Sql) -> Result<Option<Logged>, Fault> {
    let rows =
        sql.query("SELECT position, event_id, json, txn, redacted_by, withheld FROM event WHERE position >= ?1 ORDER BY position DESC LIMIT 1", &[LOG_START.into()])?;
    Ok(all(rows)?.pop())
}

/// The newest position of an event of one of the server's own users, or of the log where that is long ago: other servers
/// are told up to there.
pub(crate) fn newest_outgoing(sql: &dyn Sql, own_server: &str) -> Result<u64, Fault> {
    let row = sql
        .query(
            "SELECT coalesce(
              (SELECT max(position) FROM (SELECT position, sender FROM event WHERE position >= ?2
               ORDER BY position DESC LIMIT 1000) WHERE substr(sender, instr(sender, ':') + 1) = ?1),
              (SELECT max(position) FROM event WHERE position >= ?2))",
            &[own_server.into(), LOG_START.into()],
        )?
        .pop();
    row.map_or(Ok(0), |mut row| Ok(row.unsigned_or_null(0)?.unwrap_or(0)))
}

/// The position of the newest event; receipts may have moved since.
pub(crate) fn head_position(sql: &dyn Sql) -> Result<u64, Fault> {
    match sql.query("SELECT max(position) FROM event WHERE position >= ?1", &[LOG_START.into()])?.pop() {
        Some(mut row) => Ok(row.unsigned_or_null(0)?.unwrap_or(0)),
        None => Ok(0),
    }
}

/// Up to `limit` events in `(after, up_to]`, newest first.
pub(crate) fn backwards(sql: &dyn Sql, after: u64, up_to: u64, limit: u64) -> Result<Vec<Logged>, Fault> {
    all(sql.query(
        "SELECT position, event_id, json, txn, redacted_by, withheld FROM event WHERE position > ?1 AND position <= ?2
         ORDER BY position DESC LIMIT ?3",
        &[after.max(LOG_START.saturating_sub(1)).into(), up_to.into(), limit.into()],
    )?)
}

/// Up to `limit` events in `(after, up_to]`, oldest first.
pub(crate) fn forwards(sql: &dyn Sql, after: u64, up_to: u64, limit: u64) -> Result<Vec<Logged>, Fault> {
    all(sql.query(
        "SELECT position, event_id, json, txn, redacted_by, withheld FROM event WHERE position > ?1 AND position <= ?2
         ORDER BY position LIMIT ?3",
        &[after.max(LOG_START.saturating_sub(1)).into(), up_to.into(), limit.into()],
    )?)
}

/// The event with this id, if it is in the log.
pub(crate) fn by_id(sql: &dyn Sql, event_id: &str) -> Result<Option<Logged>, Fault> {
    Ok(anywhere(sql, event_id)?.filter(|event| event.position >= LOG_START))
}

/// Those of these events that are in the log, in its order.
pub(crate) fn with_ids(sql: &dyn Sql, event_ids: &[&str]) -> Result<Vec<Logged>, Fault> {
    all(sql.query(
        "SELECT position, event_id, json, txn, redacted_by, withheld FROM event
         WHERE event_id IN (SELECT value FROM json_each(?1)) AND position >= ?2 ORDER BY position",
        &[serde_json::to_string(event_ids)?.into(), LOG_START.into()],
    )?)
}

/// The event with this id, in the log or beside it.
pub(crate) fn anywhere(sql: &dyn Sql, event_id: &str) -> Result<Option<Logged>, Fault> {
    let rows = sql.query(
        "SELECT position, event_id, json, txn, redacted_by, withheld FROM event WHERE event_id = ?1",
        &[event_id.into()],
    )?;
    Ok(all(rows)?.pop())
}

/// The event at this position.
pub(crate) fn one(sql: &dyn Sql, position: u64) -> Result<Option<Logged>, Fault> {
    let rows = sql.query(
        "SELECT position, event_id, json, txn, redacted_by, withheld FROM event WHERE position = ?1",
        &[position.into()],
    )?;
    Ok(all(rows)?.pop())
}

/// Leaves of the event at `position` what a redaction leaves, for good: what it was is gone from the database.
pub(crate) fn redact(tx: &Tx<'_>, position: u64, redacted: &Pdu, redacted_by: u64) -> Result<(), Fault> {
    search::forget(tx, position)?;
    tx.execute(
        "UPDATE event SET json = ?2, redacted_by = ?3 WHERE position = ?1",
        &[position.into(), redacted.json().into(), redacted_by.into()],
    )?;
    Ok(())
}

/// Keeps the event at `position` from clients.
pub(crate) fn withhold(tx: &Tx<'_>, position: u64) -> Result<(), Fault> {
    tx.execute("UPDATE event SET withheld = 1 WHERE position = ?1", &[position.into()])?;
    Ok(())
}

/// Lets clients see what was kept from them.
pub(crate) fn show(tx: &Tx<'_>, position: u64) -> Result<(), Fault> {
    tx.execute("UPDATE event SET withheld = NULL WHERE position = ?1 AND withheld IS NOT NULL", &[position.into()])?;
    Ok(())
}

/// Leaves of the event at `position` what a redaction would, for good, and forgets by which transaction it came.
pub(crate) fn expire(tx: &Tx<'_>, position: u64, left: &Pdu) -> Result<(), Fault> {
    search::forget(tx, position)?;
    tx.execute("UPDATE event SET json = ?2, txn = NULL WHERE position = ?1", &[position.into(), left.json().into()])?;
    Ok(())
}

/// Up to `limit` events in `(after, up_to]` that are no state, oldest first.
pub(crate) fn messages(sql: &dyn Sql, after: u64, up_to: u64, limit: u64) -> Result<Vec<Logged>, Fault> {
    all(sql.query(
        "SELECT position, event_id, json, txn, redacted_by, withheld FROM event
         WHERE position > ?1 AND position <= ?2 AND state_key IS NULL ORDER BY position LIMIT ?3",
        &[after.max(LOG_START.saturating_sub(1)).into(), up_to.min(super::graph::POSITION_MAX).into(), limit.into()],
    )?)
}

/// The events at these positions, in their order.
pub(crate) fn at(sql: &dyn Sql, positions: &[u64]) -> Result<Vec<Logged>, Fault> {
    let list = serde_json::to_string(positions)?;
    all(sql.query(
        "SELECT position, event_id, json, txn, redacted_by, withheld FROM event WHERE position IN (SELECT value FROM json_each(?1))
         ORDER BY position",
        &[list.into()],
    )?)
}

/// Up to `limit` transactions of the events in `(after, up_to]`, newest first.
pub(crate) fn transactions(sql: &dyn Sql, after: u64, up_to: u64, limit: u64) -> Result<Vec<(u64, String)>, Fault> {
    sql.query(
        "SELECT position, txn FROM event WHERE position > ?1 AND position <= ?2 AND txn IS NOT NULL
         ORDER BY position DESC LIMIT ?3",
        &[after.into(), up_to.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.unsigned(0)?, row.text(1)?)))
    .collect()
}
