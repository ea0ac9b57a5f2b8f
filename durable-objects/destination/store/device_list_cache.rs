//! Devices and keys of the server's users.

use platform::{Fault, Row, Sql, Tx};
use ruma_common::OwnedUserId;

use crate::destination::CachedDeviceList;

/// Users who are read at once: the largest lists of so many have two megabytes.
const PAGE: usize = 8;

fn list(mut row: Row, keys: &str) -> Result<CachedDeviceList, Fault> {
    Ok(CachedDeviceList {
        user: row.text(0)?.try_into().map_err(|_| Fault::new("a user has an id that is none"))?,
        room_id: row.text(1)?.try_into().map_err(|_| Fault::new("a room has an id that is none"))?,
        since: row.unsigned(2)?,
        stream_id: row.unsigned_or_null(3)?,
        keys: serde_json::from_str(keys)?,
    })
}

/// What is kept of these users, up to the list that reaches so many bytes.
pub(in crate::destination) fn get(
    sql: &dyn Sql,
    users: &[OwnedUserId],
    bytes_max: usize,
) -> Result<Vec<CachedDeviceList>, Fault> {
    let mut lists = Vec::new();
    let mut bytes = 0_usize;
    for users in users.chunks(PAGE) {
        let rows = sql.query(
            "SELECT user_id, room_id, since, stream_id, keys FROM device_list_cache
             WHERE user_id IN (SELECT value FROM json_each(?1)) ORDER BY user_id",
            &[serde_json::to_string(users)?.into()],
        )?;
        for mut row in rows {
            let keys = row.text(4)?;
            bytes = bytes.saturating_add(keys.len());
            lists.push(list(row, &keys)?);
            if bytes >= bytes_max {
                return Ok(lists);
            }
        }
    }
    Ok(lists)
}

/// Keeps a list, as the newest; its keys are given as JSON.
pub(in crate::destination) fn put(tx: &Tx<'_>, list: &CachedDeviceList, keys: &str) -> Result<(), Fault> {
    forget(tx, list.user.as_str())?;
    tx.execute(
        "INSERT INTO device_list_cache (user_id, room_id, since, stream_id, keys) VALUES (?1, ?2, ?3, ?4, ?5)",
        &[
            list.user.as_str().into(),
            list.room_id.as_str().into(),
            list.since.into(),
            list.stream_id.into(),
            keys.into(),
        ],
    )?;
    Ok(())
}

pub(in crate::destination) fn forget(tx: &Tx<'_>, user_id: &str) -> Result<(), Fault> {
    tx.execute("DELETE FROM device_list_cache WHERE user_id = ?1", &[user_id.into()])?;
    Ok(())
}

/// Keeps no more than the newest: of so many positions, which are no fewer than the lists.
pub(in crate::destination) fn forget_oldest(tx: &Tx<'_>, positions_max: u64) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM device_list_cache WHERE position <= (SELECT max(position) FROM device_list_cache) - ?1",
        &[positions_max.into()],
    )?;
    Ok(())
}
