//! What the user's clients keep here, for the account or for one room.

use std::collections::HashSet;

use platform::{Fault, Sql, Tx};
use ruma_common::OwnedRoomId;

/// The `room_id` of what belongs to the account.
pub(crate) const GLOBAL: &str = "";

/// One entry.
pub(crate) struct Entry {
    /// [`GLOBAL`] or a room.
    pub room_id: String,
    pub event_type: String,
    /// A JSON object.
    pub content: String,
}

/// The content of one entry.
pub(crate) fn get(sql: &dyn Sql, room_id: &str, event_type: &str) -> Result<Option<String>, Fault> {
    sql.query(
        "SELECT content FROM account_data WHERE room_id = ?1 AND type = ?2",
        &[room_id.into(), event_type.into()],
    )?
    .pop()
    .map(|mut row| row.text(0))
    .transpose()
}

/// Keeps an entry, new or changed, which became so at the user's own `position`.
pub(crate) fn put(tx: &Tx<'_>, room_id: &str, event_type: &str, position: u64, content: &str) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO account_data (room_id, type, position, content) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (room_id, type) DO UPDATE SET position = excluded.position, content = excluded.content",
        &[room_id.into(), event_type.into(), position.into(), content.into()],
    )?;
    Ok(())
}

/// The position of the newest entry.
pub(crate) fn head(sql: &dyn Sql) -> Result<u64, Fault> {
    match sql.query("SELECT max(position) FROM account_data", &[])?.pop() {
        Some(mut row) => Ok(row.unsigned_or_null(0)?.unwrap_or(0)),
        None => Ok(0),
    }
}

/// How many entries there are, and the bytes of their contents.
pub(crate) fn size(sql: &dyn Sql) -> Result<(u64, u64), Fault> {
    match sql.query("SELECT count(*), coalesce(sum(octet_length(content)), 0) FROM account_data", &[])?.pop() {
        Some(mut row) => Ok((row.unsigned(0)?, row.unsigned(1)?)),
        None => Ok((0, 0)),
    }
}

/// The entries of some rooms.
pub(crate) fn of_rooms(sql: &dyn Sql, rooms: &[OwnedRoomId]) -> Result<Vec<Entry>, Fault> {
    let rooms = serde_json::to_string(rooms)?;
    sql.query(
        "SELECT room_id, type, content FROM account_data WHERE room_id IN (SELECT value FROM json_each(?1))
         ORDER BY room_id, type",
        &[rooms.into()],
    )?
    .into_iter()
    .map(|mut row| Ok(Entry { room_id: row.text(0)?, event_type: row.text(1)?, content: row.text(2)? }))
    .collect()
}

/// The entries of one type for rooms: room id and content.
pub(crate) fn of_type(sql: &dyn Sql, event_type: &str) -> Result<Vec<(String, String)>, Fault> {
    sql.query(
        "SELECT room_id, content FROM account_data WHERE room_id > '' AND type = ?1 ORDER BY room_id",
        &[event_type.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.text(1)?)))
    .collect()
}

/// The numbers of the rooms that the user is in, with entries that became so after `position`.
pub(crate) fn rooms_since(sql: &dyn Sql, position: u64) -> Result<HashSet<u64>, Fault> {
    sql.query(
        "SELECT DISTINCT room.number FROM account_data JOIN room ON room.room_id = account_data.room_id
         WHERE account_data.position > ?1 AND account_data.room_id > ''
         AND room.membership = 'join' ORDER BY room.number",
        &[position.into()],
    )?
    .into_iter()
    .map(|mut row| row.unsigned(0))
    .collect()
}

/// The entries that became so after `position`, and all those of some rooms; the oldest first.
pub(crate) fn since(sql: &dyn Sql, position: u64, whole_rooms: &[&str]) -> Result<Vec<Entry>, Fault> {
    let rooms = serde_json::to_string(whole_rooms)?;
    sql.query(
        "SELECT room_id, type, content FROM account_data
         WHERE position > ?1 OR room_id IN (SELECT value FROM json_each(?2)) ORDER BY position",
        &[position.into(), rooms.into()],
    )?
    .into_iter()
    .map(|mut row| Ok(Entry { room_id: row.text(0)?, event_type: row.text(1)?, content: row.text(2)? }))
    .collect()
}
