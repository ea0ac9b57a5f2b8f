//! Messages to devices, and who sent the last ones.

use platform::{Fault, Sql, Tx};
use ruma_common::DeviceId;

use crate::user::ToDeviceMessage;

/// Adds a message at the user's own position.
pub(crate) fn put(
    tx: &Tx<'_>,
    device_id: &DeviceId,
    position: u64,
    (sender, event_type): (&str, &str),
    content: &str,
) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO to_device (device_id, position, sender, type, content) VALUES (?1, ?2, ?3, ?4, ?5)",
        &[device_id.as_str().into(), position.into(), sender.into(), event_type.into(), content.into()],
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

/// The position of the message that has `newer` messages of its device after it.
pub(crate) fn with_newer(sql: &dyn Sql, device_id: &DeviceId, newer: u64) -> Result<Option<u64>, Fault> {
    sql.query(
        "SELECT position FROM to_device WHERE device_id = ?1 ORDER BY position DESC LIMIT 1 OFFSET ?2",
        &[device_id.as_str().into(), newer.into()],
    )?
    .pop()
    .map(|mut row| row.unsigned(0))
    .transpose()
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

/// The user's own position of the last message of all, though it may be gone.
pub(crate) fn head(sql: &dyn Sql) -> Result<u64, Fault> {
    let row = sql.query("SELECT max(position) FROM to_device_sender", &[])?.pop();
    row.map_or(Ok(0), |mut row| Ok(row.unsigned_or_null(0)?.unwrap_or(0)))
}
