//! Whose devices or keys changed, and who came and went.

use platform::{Fault, Sql, Tx};

/// When a user's devices changed last, by their own clock.
pub(crate) fn changed_ms(sql: &dyn Sql, user_id: &str) -> Result<u64, Fault> {
    let row = sql.query("SELECT changed_ms FROM device_list WHERE user_id = ?1", &[user_id.into()])?.pop();
    row.map_or(Ok(0), |mut row| row.unsigned(0))
}

/// A user's devices changed. Two written rows: itself and its position.
pub(crate) fn put(tx: &Tx<'_>, user_id: &str, changed_ms: u64, position: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO device_list (user_id, changed_ms, position) VALUES (?1, ?2, ?3)
         ON CONFLICT (user_id) DO UPDATE SET changed_ms = excluded.changed_ms, position = excluded.position",
        &[user_id.into(), changed_ms.into(), position.into()],
    )?;
    Ok(())
}

/// When in the log a user's devices changed last.
pub(crate) fn head(sql: &dyn Sql) -> Result<u64, Fault> {
    let row = sql.query("SELECT max(position) FROM device_list", &[])?.pop();
    row.map_or(Ok(0), |mut row| Ok(row.unsigned_or_null(0)?.unwrap_or(0)))
}

/// The members whose devices changed in `(after, up_to]`.
pub(crate) fn changed(sql: &dyn Sql, after: u64, up_to: u64) -> Result<Vec<String>, Fault> {
    sql.query(
        "SELECT device_list.user_id FROM device_list JOIN member ON member.user_id = device_list.user_id
         WHERE device_list.position > ?1 AND device_list.position <= ?2 AND membership = 'join'
         ORDER BY device_list.position",
        &[after.into(), up_to.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

/// The members of ours whose devices changed after a time, in milliseconds since the Unix epoch, with when that was.
pub(crate) fn of_locals(sql: &dyn Sql, after_ms: u64) -> Result<Vec<(String, u64)>, Fault> {
    sql.query(
        "SELECT device_list.user_id, changed_ms FROM member INDEXED BY member_by_follower
         CROSS JOIN device_list ON device_list.user_id = member.user_id
         WHERE changed_ms > ?1 AND membership = 'join' AND follower IS NOT NULL ORDER BY device_list.position",
        &[after_ms.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.unsigned(1)?)))
    .collect()
}

/// Whose membership changed in `(after, up_to]`, with whether they are in the room now.
pub(crate) fn moved(sql: &dyn Sql, after: u64, up_to: u64) -> Result<Vec<(String, bool)>, Fault> {
    sql.query(
        // By type, all the members would be looked at.
        "SELECT DISTINCT state_key, membership = 'join'
         FROM state_change INDEXED BY state_change_position CROSS JOIN member ON user_id = state_key
         WHERE state_change.position > ?1 AND state_change.position <= ?2 AND type = 'm.room.member'
         ORDER BY state_key",
        &[after.into(), up_to.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.flag(1)?)))
    .collect()
}

/// The members of a server whose membership changed last at `since`, or later.
pub(crate) fn came(sql: &dyn Sql, server: &str, since: u64) -> Result<Vec<String>, Fault> {
    sql.query(
        "SELECT user_id FROM member WHERE membership = 'join' AND follower IS NULL AND position >= ?2
             AND substr(user_id, instr(user_id, ':') + 1) = ?1 ORDER BY user_id",
        &[server.into(), since.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

/// Whether a member was out of the room at some time in `(after, up_to]`.
pub(crate) fn was_out(sql: &dyn Sql, user_id: &str, after: u64, up_to: u64) -> Result<bool, Fault> {
    let rows = sql.query(
        "SELECT 1 FROM state_change LEFT JOIN event ON event.position = state_change.after
         WHERE state_change.type = 'm.room.member' AND state_change.state_key = ?1
             AND state_change.position > ?2 AND state_change.position <= ?3
             AND coalesce(event.json ->> '$.content.membership', 'leave') <> 'join' LIMIT 1",
        &[user_id.into(), after.into(), up_to.into()],
    )?;
    Ok(!rows.is_empty())
}

/// Whether the room was encrypted after `after`.
pub(crate) fn encrypted_since(sql: &dyn Sql, after: u64) -> Result<bool, Fault> {
    let rows = sql.query(
        "SELECT 1 FROM state_change WHERE type = 'm.room.encryption' AND state_key = '' AND position > ?1 LIMIT 1",
        &[after.into()],
    )?;
    Ok(!rows.is_empty())
}
