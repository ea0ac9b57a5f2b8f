//! All of the Appservice's SQL.

use platform::{Fault, Sql, Tx};

/// A room, and how far the service is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    pub room_id: String,
    pub sent: u64,
    pub owed: u64,
}

pub(super) fn fact(sql: &dyn Sql, key: &str) -> Result<Option<String>, Fault> {
    let row = sql.query("SELECT value FROM meta WHERE key = ?1", &[key.into()])?.pop();
    row.map(|mut row| row.text(0)).transpose()
}

pub(super) fn set_fact(tx: &Tx<'_>, key: &str, value: &str) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        &[key.into(), value.into()],
    )?;
    Ok(())
}

pub(super) fn forget_fact(tx: &Tx<'_>, key: &str) -> Result<(), Fault> {
    tx.execute("DELETE FROM meta WHERE key = ?1", &[key.into()])?;
    Ok(())
}

/// Notes that there is something in a room up to `to`; what was up to `since` is not for the service. Answers whether that
/// was news.
pub(super) fn owe(tx: &Tx<'_>, room_id: &str, since: u64, to: u64) -> Result<bool, Fault> {
    let rows = tx.execute(
        "INSERT INTO room (room_id, sent, owed) VALUES (?1, ?2, ?3)
         ON CONFLICT (room_id) DO UPDATE SET sent = max(sent, excluded.sent), owed = excluded.owed
         WHERE excluded.owed > room.owed RETURNING 1",
        &[room_id.into(), since.into(), to.into()],
    )?;
    Ok(!rows.is_empty())
}

/// Up to `limit` rooms of which the service is owed something, the longest waiting first.
pub(super) fn owed(sql: &dyn Sql, limit: u64) -> Result<Vec<Cursor>, Fault> {
    sql.query("SELECT room_id, sent, owed FROM room WHERE owed > sent ORDER BY owed LIMIT ?1", &[limit.into()])?
        .into_iter()
        .map(|mut row| Ok(Cursor { room_id: row.text(0)?, sent: row.unsigned(1)?, owed: row.unsigned(2)? }))
        .collect()
}

/// The service has everything of a room up to `to`.
pub(super) fn sent(tx: &Tx<'_>, room_id: &str, to: u64) -> Result<(), Fault> {
    tx.execute("UPDATE room SET sent = ?2 WHERE room_id = ?1 AND sent < ?2", &[room_id.into(), to.into()])?;
    Ok(())
}

/// Queues an event, unless `waiting_max` wait. Answers whether that was news.
pub(super) fn put_event(tx: &Tx<'_>, event_id: &str, json: &str, waiting_max: u64) -> Result<bool, Fault> {
    let rows = tx.execute(
        "INSERT INTO event (event_id, position, json)
         SELECT ?1, coalesce(max(position), 0) + 1, ?2 FROM event HAVING count(*) < ?3
         ON CONFLICT (event_id) DO NOTHING RETURNING 1",
        &[event_id.into(), json.into(), waiting_max.into()],
    )?;
    Ok(!rows.is_empty())
}

/// Up to `limit` queued events up to a position, the oldest first.
pub(super) fn events(sql: &dyn Sql, up_to: u64, limit: u64) -> Result<Vec<(u64, String)>, Fault> {
    sql.query(
        "SELECT position, json FROM event WHERE position <= ?1 ORDER BY position LIMIT ?2",
        &[up_to.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.unsigned(0)?, row.text(1)?)))
    .collect()
}

/// Whether any event is queued.
pub(super) fn is_any_event(sql: &dyn Sql) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM event LIMIT 1", &[])?.is_empty())
}

/// The service has the queued events up to a position.
pub(super) fn forget_events(tx: &Tx<'_>, up_to: u64) -> Result<(), Fault> {
    tx.execute("DELETE FROM event WHERE position <= ?1", &[up_to.into()])?;
    Ok(())
}
