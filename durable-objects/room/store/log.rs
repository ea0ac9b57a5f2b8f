//! The log of events.

use domain::Pdu;
use platform::{Fault, Row, Sql, Tx};
use ruma_common::{OwnedEventId, ServerName};

use super::{
    graph::{LOG_START, POSITION_MAX},
    search,
};
use crate::room::{Direction, transactions};

/// Events that are read at once where many are looked at: of the largest ones they take some MB.
pub(crate) const READ_AT_ONCE: usize = if cfg!(test) { 7 } else { 50 };

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
    let generation = if pdu.state_key().is_some() { super::graph::next_generation(&**tx, pdu)? } else { None };
    tx.execute(
        "INSERT INTO event (position, event_id, type, state_key, sender, json, txn, generation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        &[
            position.into(),
            pdu.event_id().as_str().into(),
            pdu.event_type().to_string().into(),
            pdu.state_key().into(),
            pdu.sender().as_str().into(),
            pdu.json().into(),
            txn.into(),
            generation.into(),
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

/// The newest position of an event of one of the server's own users, or of the log where that is long ago: other
/// servers are told up to there.
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

/// Of the newest `limit` events in `(after, up_to]`: the position of the last that people take for activity, and that
/// of the first of them.
pub(crate) fn newest_activity(
    sql: &dyn Sql,
    after: u64,
    up_to: u64,
    limit: u64,
) -> Result<(Option<u64>, Option<u64>), Fault> {
    let row = sql
        .query(
            "SELECT max(CASE WHEN type IN ('m.room.create', 'm.room.message', 'm.room.encrypted', 'm.sticker',
              'm.call.invite', 'm.poll.start', 'org.matrix.msc3381.poll.start', 'm.beacon_info',
              'org.matrix.msc3672.beacon_info') THEN position END), min(position)
             FROM (SELECT position, type FROM event WHERE position > ?1 AND position <= ?2
              ORDER BY position DESC LIMIT ?3)",
            &[after.max(LOG_START.saturating_sub(1)).into(), up_to.into(), limit.into()],
        )?
        .pop();
    row.map_or(Ok((None, None)), |mut row| Ok((row.unsigned_or_null(0)?, row.unsigned_or_null(1)?)))
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

/// The positions of up to `limit` events in `(after, up_to]` that are no state, oldest first.
pub(crate) fn messages(sql: &dyn Sql, after: u64, up_to: u64, limit: u64) -> Result<Vec<u64>, Fault> {
    let (after, up_to) = span((after, up_to));
    sql.query(
        "SELECT position FROM event
         WHERE position > ?1 AND position <= ?2 AND state_key IS NULL ORDER BY position LIMIT ?3",
        &[after.into(), up_to.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.unsigned(0))
    .collect()
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

/// What `read` has at each of these positions, which stand in the log's order or against it, read a few at a time: they
/// may be many, and large.
pub(crate) fn each<'a, T: 'a>(
    positions: &'a [u64],
    read: impl Fn(&[u64]) -> Result<Vec<T>, Fault> + 'a,
) -> impl Iterator<Item = Result<T, Fault>> + 'a {
    positions.chunks(READ_AT_ONCE).flat_map(move |slice| match read(slice) {
        Ok(mut events) => {
            if slice.first() > slice.last() {
                events.reverse();
            }
            events.into_iter().map(Ok).collect()
        }
        Err(fault) => vec![Err(fault)],
    })
}

/// The events at these positions, the first ones, until they are more than `bytes_max` of JSON together.
pub(crate) fn within(sql: &dyn Sql, positions: &[u64], bytes_max: usize) -> Result<Vec<Logged>, Fault> {
    let (mut events, mut bytes) = (Vec::new(), 0_usize);
    for slice in positions.chunks(READ_AT_ONCE) {
        let mut read = at(sql, slice)?;
        let place = |event: &Logged| slice.iter().position(|position| *position == event.position);
        read.sort_by_key(place);
        for event in read {
            bytes = bytes.saturating_add(event.pdu.json().len());
            if bytes > bytes_max {
                return Ok(events);
            }
            events.push(event);
        }
    }
    Ok(events)
}

fn order(direction: Direction) -> &'static str {
    match direction {
        Direction::Forwards => "ASC",
        Direction::Backwards => "DESC",
    }
}

fn span((after, up_to): (u64, u64)) -> (u64, u64) {
    (after.max(LOG_START.saturating_sub(1)), up_to.min(POSITION_MAX))
}

/// The positions of up to `limit` events in `(after, up_to]`, in a direction.
pub(crate) fn positions(
    sql: &dyn Sql,
    between: (u64, u64),
    direction: Direction,
    limit: u64,
) -> Result<Vec<u64>, Fault> {
    let ((after, up_to), order) = (span(between), order(direction));
    sql.query(
        &format!(
            "SELECT position FROM event WHERE position > ?1 AND position <= ?2 ORDER BY position {order} LIMIT ?3"
        ),
        &[after.into(), up_to.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.unsigned(0))
    .collect()
}

/// What goes to another server of a part of the log.
pub(crate) struct Outgoing {
    /// Of events of our users, and of those that we bring into the room for others.
    pub positions: Vec<u64>,
    /// The last position that was looked at; `None`: it was all of that part.
    pub seen: Option<u64>,
}

/// What goes from `own` to the server `other` of up to `scan_max` events in `(after, up_to]`, in a direction. Of the
/// others' nothing is read.
pub(crate) fn outgoing(
    sql: &dyn Sql,
    between: (u64, u64),
    direction: Direction,
    [own, other]: [&ServerName; 2],
    scan_max: u64,
) -> Result<Outgoing, Fault> {
    let ((after, up_to), order) = (span(between), order(direction));
    let rows = sql.query(
        &format!(
            "SELECT position, server <> ?4 AND CASE txn WHEN ?5 THEN 1 WHEN ?6 THEN 0 ELSE server = ?3 END FROM
             (SELECT position, txn, substr(sender, instr(sender, ':') + 1) AS server FROM event
              WHERE position > ?1 AND position <= ?2 ORDER BY position {order} LIMIT ?7)"
        ),
        &[
            after.into(),
            up_to.into(),
            own.as_str().into(),
            other.as_str().into(),
            transactions::RELAYED.into(),
            transactions::HISTORY.into(),
            scan_max.into(),
        ],
    )?;
    let is_all = (rows.len() as u64) < scan_max;
    let (mut positions, mut seen) = (Vec::new(), None);
    for mut row in rows {
        let position = row.unsigned(0)?;
        if row.unsigned(1)? == 1 {
            positions.push(position);
        }
        seen = Some(position);
    }
    Ok(Outgoing { positions, seen: seen.filter(|_| !is_all) })
}

/// The newest `limit` events in `(after, up_to]`, newest first, each with the transaction that made it, if one did.
pub(crate) fn transactions(
    sql: &dyn Sql,
    after: u64,
    up_to: u64,
    limit: u64,
) -> Result<Vec<(u64, Option<String>)>, Fault> {
    sql.query(
        "SELECT position, txn FROM event WHERE position > ?1 AND position <= ?2 ORDER BY position DESC LIMIT ?3",
        &[after.into(), up_to.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.unsigned(0)?, row.text_or_null(1)?)))
    .collect()
}
