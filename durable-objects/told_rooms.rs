//! How far somebody is told of rooms, and small facts about that: the tables `room` and `meta`, which a Destination and an
//! Appservice have alike.

use platform::{Fault, Sql, Tx};

/// A room, and how far they are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub room_id: String,
    pub sent: u64,
    pub owed: u64,
}

pub(crate) fn fact(sql: &dyn Sql, key: &str) -> Result<Option<String>, Fault> {
    let row = sql.query("SELECT value FROM meta WHERE key = ?1", &[key.into()])?.pop();
    row.map(|mut row| row.text(0)).transpose()
}

pub(crate) fn set_fact(tx: &Tx<'_>, key: &str, value: &str) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        &[key.into(), value.into()],
    )?;
    Ok(())
}

pub(crate) fn forget_fact(tx: &Tx<'_>, key: &str) -> Result<(), Fault> {
    tx.execute("DELETE FROM meta WHERE key = ?1", &[key.into()])?;
    Ok(())
}

/// Notes that there is something in a room up to `to`; what was up to `since` is not for them. Answers whether that
/// was news.
pub(crate) fn owe(tx: &Tx<'_>, room_id: &str, since: u64, to: u64) -> Result<bool, Fault> {
    let rows = tx.execute(
        "INSERT INTO room (room_id, sent, owed) VALUES (?1, ?2, ?3)
         ON CONFLICT (room_id) DO UPDATE SET sent = max(sent, excluded.sent), owed = excluded.owed
         WHERE excluded.owed > room.owed RETURNING 1",
        &[room_id.into(), since.into(), to.into()],
    )?;
    Ok(!rows.is_empty())
}

/// Up to `limit` rooms of which they are owed something, the longest waiting first.
pub(crate) fn owed(sql: &dyn Sql, limit: u64) -> Result<Vec<Cursor>, Fault> {
    sql.query("SELECT room_id, sent, owed FROM room WHERE owed > sent ORDER BY owed LIMIT ?1", &[limit.into()])?
        .into_iter()
        .map(|mut row| Ok(Cursor { room_id: row.text(0)?, sent: row.unsigned(1)?, owed: row.unsigned(2)? }))
        .collect()
}

/// They have everything of a room up to `to`.
pub(crate) fn sent(tx: &Tx<'_>, room_id: &str, to: u64) -> Result<(), Fault> {
    tx.execute("UPDATE room SET sent = ?2 WHERE room_id = ?1 AND sent < ?2", &[room_id.into(), to.into()])?;
    Ok(())
}
