//! Connections of sliding sync, and what each was sent of rooms.

use platform::{Fault, Row, Sql, Tx};
use ruma_common::DeviceId;

/// The number of a connection, when it was used last, and where it was after its last answers.
pub(crate) fn connection(sql: &dyn Sql, device: &DeviceId, conn_id: &str) -> Result<Option<(u64, u64, String)>, Fault> {
    sql.query(
        "SELECT number, used_ms, heads FROM connection WHERE device_id = ?1 AND conn_id = ?2",
        &[device.as_str().into(), conn_id.into()],
    )?
    .pop()
    .map(|mut row| Ok((row.unsigned(0)?, row.unsigned(1)?, row.text(2)?)))
    .transpose()
}

/// What a connection was sent of a room: since which answer, and before.
pub(crate) struct SentRoom {
    pub room: u64,
    pub answer: u64,
    pub sent: Option<String>,
    pub before: Option<String>,
}

/// All that a connection was sent.
pub(crate) fn rooms(sql: &dyn Sql, connection: u64) -> Result<Vec<SentRoom>, Fault> {
    sql.query(
        "SELECT room, answer, sent, before FROM connection_room WHERE connection = ?1 ORDER BY room",
        &[connection.into()],
    )?
    .into_iter()
    .map(|mut row| {
        Ok(SentRoom {
            room: row.unsigned(0)?,
            answer: row.unsigned(1)?,
            sent: row.text_or_null(2)?,
            before: row.text_or_null(3)?,
        })
    })
    .collect()
}

/// A device's connections, the one that was used last first: their names and numbers.
pub(crate) fn of_device(sql: &dyn Sql, device: &DeviceId) -> Result<Vec<(String, u64)>, Fault> {
    sql.query(
        "SELECT conn_id, number FROM connection WHERE device_id = ?1 ORDER BY used_ms DESC",
        &[device.as_str().into()],
    )?
    .into_iter()
    .map(|mut row: Row| Ok((row.text(0)?, row.unsigned(1)?)))
    .collect()
}

/// When a connection was used last, in milliseconds since the Unix epoch; 0 if there is none.
pub(crate) fn last_used_ms(sql: &dyn Sql) -> Result<u64, Fault> {
    let row = sql.query("SELECT max(used_ms) FROM connection", &[])?.pop();
    row.map_or(Ok(0), |mut row| Ok(row.unsigned_or_null(0)?.unwrap_or(0)))
}

pub(crate) fn put(
    tx: &Tx<'_>,
    (device, conn_id): (&DeviceId, &str),
    number: u64,
    used_ms: u64,
    heads: &str,
) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO connection (device_id, conn_id, number, used_ms, heads) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (device_id, conn_id) DO UPDATE SET number = excluded.number, used_ms = excluded.used_ms,
             heads = excluded.heads",
        &[device.as_str().into(), conn_id.into(), number.into(), used_ms.into(), heads.into()],
    )?;
    Ok(())
}

pub(crate) fn put_room(tx: &Tx<'_>, connection: u64, room: &SentRoom) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO connection_room (connection, room, answer, sent, before) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (connection, room) DO UPDATE SET answer = excluded.answer, sent = excluded.sent,
             before = excluded.before",
        &[
            connection.into(),
            room.room.into(),
            room.answer.into(),
            room.sent.as_deref().into(),
            room.before.as_deref().into(),
        ],
    )?;
    Ok(())
}

/// An answer was not received: what it sent was not, and stands as after the answer before.
pub(crate) fn take_back(tx: &Tx<'_>, connection: u64, lost: u64, before: u64) -> Result<(), Fault> {
    tx.execute(
        "UPDATE connection_room SET sent = before, before = NULL, answer = ?3 WHERE connection = ?1 AND answer = ?2",
        &[connection.into(), lost.into(), before.into()],
    )?;
    Ok(())
}

/// Forgets a connection.
pub(crate) fn remove(tx: &Tx<'_>, device: &DeviceId, conn_id: &str, number: u64) -> Result<(), Fault> {
    tx.execute("DELETE FROM connection_room WHERE connection = ?1", &[number.into()])?;
    tx.execute(
        "DELETE FROM connection WHERE device_id = ?1 AND conn_id = ?2",
        &[device.as_str().into(), conn_id.into()],
    )?;
    Ok(())
}
