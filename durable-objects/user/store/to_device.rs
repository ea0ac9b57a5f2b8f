//! Messages to devices, and who sent the last ones.

use platform::{Fault, Row, Sql, Tx};
use ruma_common::DeviceId;

use crate::user::ToDeviceMessage;

/// How many messages there were for a device up to one of them, that one included, and their bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counted {
    pub number: u64,
    pub bytes: u64,
}

fn counted(rows: Vec<Row>) -> Result<Option<Counted>, Fault> {
    let counted = |mut row: Row| Ok(Counted { number: row.unsigned(0)?, bytes: row.unsigned(1)? });
    rows.into_iter().next().map(counted).transpose()
}

/// Of the first message that waits.
pub(crate) fn first(sql: &dyn Sql, device_id: &DeviceId) -> Result<Option<Counted>, Fault> {
    counted(sql.query(
        "SELECT number, bytes FROM to_device WHERE device_id = ?1 ORDER BY position LIMIT 1",
        &[device_id.as_str().into()],
    )?)
}

/// Of the last message that waits.
pub(crate) fn last(sql: &dyn Sql, device_id: &DeviceId) -> Result<Option<Counted>, Fault> {
    counted(sql.query(
        "SELECT number, bytes FROM to_device WHERE device_id = ?1 ORDER BY position DESC LIMIT 1",
        &[device_id.as_str().into()],
    )?)
}

/// Adds a message at the user's own position.
pub(crate) fn put(
    tx: &Tx<'_>,
    device_id: &DeviceId,
    position: u64,
    (sender, event_type, content): (&str, &str, &str),
    counted: Counted,
) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO to_device (device_id, position, sender, type, content, number, bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        &[
            device_id.as_str().into(),
            position.into(),
            sender.into(),
            event_type.into(),
            content.into(),
            counted.number.into(),
            counted.bytes.into(),
        ],
    )?;
    Ok(())
}

/// Up to `limit` messages after a position, the oldest first, each with its position.
pub(crate) fn after(
    sql: &dyn Sql,
    device_id: &DeviceId,
    position: u64,
    limit: u64,
) -> Result<Vec<(u64, ToDeviceMessage)>, Fault> {
    sql.query(
        "SELECT position, sender, type, content FROM to_device WHERE device_id = ?1 AND position > ?2
         ORDER BY position LIMIT ?3",
        &[device_id.as_str().into(), position.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| {
        let content = serde_json::value::RawValue::from_string(row.text(3)?)?;
        Ok((row.unsigned(0)?, ToDeviceMessage { sender: row.text(1)?, event_type: row.text(2)?, content }))
    })
    .collect()
}

/// Whether there is a message up to a position.
pub(crate) fn has_up_to(sql: &dyn Sql, device_id: &DeviceId, position: u64) -> Result<bool, Fault> {
    let rows = sql.query(
        "SELECT 1 FROM to_device WHERE device_id = ?1 AND position <= ?2 LIMIT 1",
        &[device_id.as_str().into(), position.into()],
    )?;
    Ok(!rows.is_empty())
}

/// Drops what the device has; writes nothing where that is nothing.
pub(crate) fn drop_up_to(tx: &Tx<'_>, device_id: &DeviceId, position: u64) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM to_device WHERE device_id = ?1 AND position <= ?2",
        &[device_id.as_str().into(), position.into()],
    )?;
    Ok(())
}

/// Drops everything for a device.
pub(crate) fn drop_all(tx: &Tx<'_>, device_id: &DeviceId) -> Result<(), Fault> {
    tx.execute("DELETE FROM to_device WHERE device_id = ?1", &[device_id.as_str().into()])?;
    Ok(())
}

/// Drops, of the first few messages that wait, up to which less was counted than this.
pub(crate) fn drop_first(tx: &Tx<'_>, device_id: &DeviceId, kept_from: Counted, few: u64) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM to_device WHERE device_id = ?1 AND position IN (
             SELECT position FROM (
                 SELECT position, number, bytes FROM to_device WHERE device_id = ?1 ORDER BY position LIMIT ?4
             ) WHERE number < ?2 OR bytes < ?3
         )",
        &[device_id.as_str().into(), kept_from.number.into(), kept_from.bytes.into(), few.into()],
    )?;
    Ok(())
}

/// The last transactions of a device that writes to the user: a JSON list.
pub(crate) fn transactions(sql: &dyn Sql, sender: &str, device_id: &DeviceId) -> Result<Option<String>, Fault> {
    sql.query(
        "SELECT transactions FROM to_device_sender WHERE sender = ?1 AND device_id = ?2",
        &[sender.into(), device_id.as_str().into()],
    )?
    .pop()
    .map(|mut row| row.text(0))
    .transpose()
}

/// Keeps the last transactions of a device, and the position of its last message.
pub(crate) fn put_transactions(
    tx: &Tx<'_>,
    (sender, device_id): (&str, &DeviceId),
    position: u64,
    transactions: &str,
) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO to_device_sender (sender, device_id, position, transactions) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (sender, device_id) DO UPDATE SET position = excluded.position, transactions = excluded.transactions",
        &[sender.into(), device_id.as_str().into(), position.into(), transactions.into()],
    )?;
    Ok(())
}

/// Forgets transactions of devices whose last message was before a position, of some at once; never those of the last
/// message of all, by which the user's stream knows how far it got. Answers how many were forgotten, and are left.
pub(crate) fn forget_senders(tx: &Tx<'_>, before: u64, limit: u64) -> Result<(u64, u64), Fault> {
    let forgotten = tx.execute(
        "DELETE FROM to_device_sender WHERE (sender, device_id) IN (
             SELECT sender, device_id FROM to_device_sender
             WHERE position < ?1 AND position < (SELECT max(position) FROM to_device_sender) LIMIT ?2
         ) RETURNING 1",
        &[before.into(), limit.into()],
    )?;
    let row = tx.query("SELECT count(*) FROM to_device_sender", &[])?.pop();
    Ok((forgotten.len() as u64, row.map_or(Ok(0), |mut row| row.unsigned(0))?))
}

/// The user's own position of the last message of all, though it may be gone.
pub(crate) fn head(sql: &dyn Sql) -> Result<u64, Fault> {
    let row = sql.query("SELECT max(position) FROM to_device_sender", &[])?.pop();
    row.map_or(Ok(0), |mut row| Ok(row.unsigned_or_null(0)?.unwrap_or(0)))
}
