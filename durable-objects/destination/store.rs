//! All of the Destination's SQL.

pub(super) mod device_list_cache;

use std::collections::BTreeMap;

use platform::{Fault, Row, Sql, Tx};
use ruma_common::OwnedUserId;

use super::OwedDeviceList;
use crate::presence::PresenceStatus;
pub(super) use crate::told_rooms::{fact, forget_fact, set_fact};

/// The rooms that are known to be shared.
pub(super) fn rooms(sql: &dyn Sql) -> Result<Vec<String>, Fault> {
    sql.query("SELECT room_id FROM room ORDER BY room_id", &[])?.into_iter().map(|mut row| row.text(0)).collect()
}

/// Whether this very EDU waits.
pub(super) fn has_edu(sql: &dyn Sql, key: &str, json: &str) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM edu WHERE key = ?1 AND json = ?2", &[key.into(), json.into()])?.is_empty())
}

/// Queues an EDU in place of the one with its key; one up to `on_its_way` stays, and only loses its key. It takes so
/// many `units` of positions, after all that there are or were, up to `used`. Answers how many hundreds of positions
/// that passed.
pub(super) fn put_edu(
    tx: &Tx<'_>,
    (key, json): (&str, &str),
    units: u64,
    on_its_way: u64,
    used: u64,
) -> Result<u64, Fault> {
    tx.execute("UPDATE edu SET key = NULL WHERE key = ?1 AND position <= ?2", &[key.into(), on_its_way.into()])?;
    let replaced = tx.execute("DELETE FROM edu WHERE key = ?1 RETURNING position", &[key.into()])?;
    let replaced = replaced.into_iter().next().map_or(Ok(0), |mut row| row.unsigned(0))?;
    let rows = tx.execute(
        "INSERT INTO edu (position, key, json)
         VALUES ((SELECT max(coalesce(max(position), 0), ?3) + ?4 FROM edu), ?1, ?2) RETURNING position",
        &[key.into(), json.into(), used.max(replaced).into(), units.into()],
    )?;
    let position = rows.into_iter().next().map_or(Ok(0), |mut row| row.unsigned(0))?;
    Ok((position / 100).saturating_sub(position.saturating_sub(units) / 100))
}

/// Of more EDUs than `units_max` units, one for each `unit_bytes` that are begun, drops the oldest that are not on
/// their way.
pub(super) fn drop_edus(tx: &Tx<'_>, units_max: u64, unit_bytes: u64, on_its_way: u64) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM edu WHERE position > ?3 AND position IN
         (SELECT position FROM
          (SELECT position, sum(length(json) / ?2 + 1) OVER (ORDER BY position DESC) AS kept FROM edu)
          WHERE kept > ?1)",
        &[units_max.into(), unit_bytes.into(), on_its_way.into()],
    )?;
    Ok(())
}

/// Whether any EDU waits.
pub(super) fn is_any_edu(sql: &dyn Sql) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM edu LIMIT 1", &[])?.is_empty())
}

/// Up to `limit` EDUs after a position, the oldest first; up to another one, if that is given.
pub(super) fn edus(sql: &dyn Sql, after: u64, up_to: Option<u64>, limit: u64) -> Result<Vec<(u64, String)>, Fault> {
    sql.query(
        "SELECT position, json FROM edu WHERE position > ?1 AND position <= ?2 ORDER BY position LIMIT ?3",
        &[after.into(), up_to.unwrap_or(platform::INTEGER_MAX as u64).into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.unsigned(0)?, row.text(1)?)))
    .collect()
}

/// The server has the EDUs up to a position.
pub(super) fn forget_edus(tx: &Tx<'_>, up_to: u64) -> Result<(), Fault> {
    tx.execute("DELETE FROM edu WHERE position <= ?1", &[up_to.into()])?;
    Ok(())
}

/// Forgets all EDUs.
pub(super) fn forget_all_edus(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.execute("DELETE FROM edu", &[])?;
    Ok(())
}

/// Whether the server is known to share a room, or to have anybody who looks at our users' devices.
pub(super) fn is_any_room(sql: &dyn Sql) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM room UNION ALL SELECT 1 FROM device_list LIMIT 1", &[])?.is_empty())
}

/// Notes that a user's devices changed. Answers whether that was news.
pub(super) fn devices_changed(tx: &Tx<'_>, user_id: &str, changed_ms: u64) -> Result<bool, Fault> {
    let rows = tx.execute(
        "INSERT INTO device_list (user_id, changed_ms, told_ms) VALUES (?1, ?2, 0)
         ON CONFLICT (user_id) DO UPDATE SET changed_ms = excluded.changed_ms
         WHERE excluded.changed_ms > device_list.changed_ms RETURNING 1",
        &[user_id.into(), changed_ms.into()],
    )?;
    Ok(!rows.is_empty())
}

/// Up to `limit` users of whose devices the server is to be told.
pub(super) fn owed_device_lists(sql: &dyn Sql, limit: u64) -> Result<Vec<OwedDeviceList>, Fault> {
    sql.query(
        "SELECT user_id, changed_ms, devices, identity FROM device_list INDEXED BY device_list_owed
         WHERE changed_ms > told_ms ORDER BY user_id LIMIT ?1",
        &[limit.into()],
    )?
    .into_iter()
    .map(|mut row| {
        let user = row.text(0)?.try_into().map_err(|_| Fault::new("a user has an id that is none"))?;
        let (devices_after, identity_after) = (row.unsigned_or_null(2)?, row.unsigned_or_null(3)?);
        Ok(OwedDeviceList { user, changed_ms: row.unsigned(1)?, devices_after, identity_after })
    })
    .collect()
}

/// The server is told of a user's devices up to these numbers, and of a change if that is all.
pub(super) fn devices_told(
    tx: &Tx<'_>,
    user_id: &str,
    changed_ms: Option<u64>,
    devices: Option<u64>,
    identity: Option<u64>,
) -> Result<(), Fault> {
    tx.execute(
        "UPDATE device_list SET told_ms = max(told_ms, coalesce(?2, 0)), devices = ?3, identity = ?4 WHERE user_id = ?1",
        &[user_id.into(), changed_ms.into(), devices.into(), identity.into()],
    )?;
    Ok(())
}

fn presence(mut row: Row) -> Result<(OwnedUserId, PresenceStatus), Fault> {
    let user = row.text(0)?.try_into().map_err(|_| Fault::new("a user has an id that is none"))?;
    Ok((user, serde_json::from_str(&row.text(1)?)?))
}

/// How these users are, as far as that is kept.
pub(super) fn presences(sql: &dyn Sql, users: &[OwnedUserId]) -> Result<BTreeMap<OwnedUserId, PresenceStatus>, Fault> {
    sql.query(
        "SELECT user_id, status FROM presence WHERE user_id IN (SELECT value FROM json_each(?1))",
        &[serde_json::to_string(users)?.into()],
    )?
    .into_iter()
    .map(presence)
    .collect()
}

/// Those who are there.
pub(super) fn not_offline(sql: &dyn Sql) -> Result<Vec<(OwnedUserId, PresenceStatus)>, Fault> {
    sql.query(
        "SELECT user_id, status FROM presence WHERE json_extract(status, '$.state') <> 'offline' ORDER BY user_id",
        &[],
    )?
    .into_iter()
    .map(presence)
    .collect()
}

/// Whether anybody's is kept.
pub(super) fn is_any_presence(sql: &dyn Sql) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM presence LIMIT 1", &[])?.is_empty())
}

pub(super) fn put_presence(tx: &Tx<'_>, user_id: &str, status: &str) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO presence (user_id, status) VALUES (?1, ?2)
         ON CONFLICT (user_id) DO UPDATE SET status = excluded.status",
        &[user_id.into(), status.into()],
    )?;
    Ok(())
}

/// Forgets those who are not there since before a time.
pub(super) fn forget_offline(tx: &Tx<'_>, before_ms: u64) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM presence
         WHERE json_extract(status, '$.state') = 'offline' AND json_extract(status, '$.since_ms') < ?1",
        &[before_ms.into()],
    )?;
    Ok(())
}
