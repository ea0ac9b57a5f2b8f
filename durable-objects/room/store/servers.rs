//! Other servers in the room.

use platform::{Fault, Row, Sql, Tx};
use ruma_common::OwnedServerName;

/// A server that follows the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Following {
    pub name: String,
    /// The position with which it came: it has what was before.
    pub since: u64,
    /// The position with which it left, or of the last that it is told of since.
    pub until: Option<u64>,
    /// Whether its Destination is known to know that it is here, since then.
    pub is_known: bool,
}

fn following(row: &mut Row) -> Result<Following, Fault> {
    let (name, since, until) = (row.text(0)?, row.unsigned(1)?, row.unsigned_or_null(2)?);
    Ok(Following { name, since, until, is_known: row.integer(3)? != 0 })
}

/// Servers that follow the room, or have to be told that they no longer do.
pub(crate) fn all(sql: &dyn Sql) -> Result<Vec<Following>, Fault> {
    sql.query("SELECT name, since, until, is_known FROM server ORDER BY name", &[])?
        .into_iter()
        .map(|mut row| following(&mut row))
        .collect()
}

pub(crate) fn one(sql: &dyn Sql, name: &str) -> Result<Option<Following>, Fault> {
    sql.query("SELECT name, since, until, is_known FROM server WHERE name = ?1", &[name.into()])?
        .pop()
        .map(|mut row| following(&mut row))
        .transpose()
}

/// Names of servers with somebody in the room.
pub(crate) fn joined(sql: &dyn Sql) -> Result<Vec<String>, Fault> {
    sql.query("SELECT name FROM server WHERE joined > 0 ORDER BY name", &[])?
        .into_iter()
        .map(|mut row| row.text(0))
        .collect()
}

/// Names of servers with somebody in the room who came before `position`.
pub(crate) fn joined_before(sql: &dyn Sql, position: u64) -> Result<Vec<String>, Fault> {
    sql.query("SELECT name FROM server WHERE joined > 0 AND since < ?1 ORDER BY name", &[position.into()])?
        .into_iter()
        .map(|mut row| row.text(0))
        .collect()
}

/// Whether somebody of a server is in the room.
pub(crate) fn is_joined(sql: &dyn Sql, name: &str) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM server WHERE name = ?1 AND joined > 0", &[name.into()])?.is_empty())
}

/// How many users of a server are in the room.
pub(crate) fn joined_users(sql: &dyn Sql, name: &str) -> Result<u64, Fault> {
    let row = sql.query("SELECT joined FROM server WHERE name = ?1", &[name.into()])?.pop();
    row.map_or(Ok(0), |mut row| row.unsigned(0))
}

/// Somebody of a server joined at `position`.
pub(crate) fn joins(tx: &Tx<'_>, name: &str, position: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO server (name, joined, since, is_known) VALUES (?1, 1, ?2, 0)
         ON CONFLICT (name) DO UPDATE SET joined = joined + 1, is_known = is_known AND joined > 0,
             since = CASE joined WHEN 0 THEN excluded.since ELSE since END, until = NULL",
        &[name.into(), position.into()],
    )?;
    Ok(())
}

/// Another server says that somebody of each of these is in the room; who, and how many, is not known yet.
pub(crate) fn are_said_to_be_joined(tx: &Tx<'_>, names: &[OwnedServerName], position: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO server (name, joined, since, is_known) SELECT value, 1, ?2, 0 FROM json_each(?1) WHERE true
         ON CONFLICT (name) DO UPDATE SET joined = max(joined, 1), is_known = is_known AND joined > 0,
             since = CASE joined WHEN 0 THEN excluded.since ELSE since END, until = NULL",
        &[serde_json::to_string(names)?.into(), position.into()],
    )?;
    Ok(())
}

/// Somebody of a server who was joined no longer is, from `position` on.
pub(crate) fn leaves(tx: &Tx<'_>, name: &str, position: u64) -> Result<(), Fault> {
    tx.execute(
        "UPDATE server SET joined = joined - 1, until = CASE joined WHEN 1 THEN ?2 END WHERE name = ?1 AND joined > 0",
        &[name.into(), position.into()],
    )?;
    Ok(())
}

/// A server with nobody in the room is to be told of what is at `position`. Answers whether it is: one that is in the
/// room is told anyway.
pub(crate) fn is_told_once(tx: &Tx<'_>, name: &str, position: u64) -> Result<bool, Fault> {
    let told = tx.execute(
        "INSERT INTO server (name, joined, since, until) VALUES (?1, 0, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET until = excluded.until WHERE joined = 0 RETURNING name",
        &[name.into(), position.saturating_sub(1).into(), position.into()],
    )?;
    Ok(!told.is_empty())
}

/// The Destination of a server knows of everything up to `to`, and so that it is here since.
pub(crate) fn is_known(tx: &Tx<'_>, name: &str, to: u64) -> Result<(), Fault> {
    tx.execute("UPDATE server SET is_known = 1 WHERE name = ?1 AND since <= ?2", &[name.into(), to.into()])?;
    Ok(())
}

/// A server that left was told of everything up to `position`: that is all there is for it.
pub(crate) fn forget(tx: &Tx<'_>, name: &str, position: u64) -> Result<(), Fault> {
    tx.execute("DELETE FROM server WHERE name = ?1 AND joined = 0 AND until <= ?2", &[name.into(), position.into()])?;
    Ok(())
}

/// What up to `users_max` users of a server became in the log, and where: up to `limit`, the newest, in the log's
/// order. Without an event somebody is as one who left.
pub(crate) fn memberships(
    sql: &dyn Sql,
    name: &str,
    users_max: u64,
    limit: u64,
) -> Result<Vec<(String, u64, String)>, Fault> {
    sql.query(
        "SELECT state_key, position, membership FROM
         (SELECT turn.state_key, turn.position, coalesce(CASE json_type(json, '$.content.membership') WHEN 'text'
           THEN json_extract(json, '$.content.membership') END, 'leave') AS membership FROM
          (SELECT user_id FROM member WHERE follower IS NULL AND substr(user_id, instr(user_id, ':') + 1) = ?1
           ORDER BY user_id LIMIT ?2) AS user
          JOIN state_change AS turn ON turn.type = 'm.room.member' AND turn.state_key = user_id
          LEFT JOIN event ON event.position = turn.after
          ORDER BY turn.position DESC LIMIT ?3)
         ORDER BY position",
        &[name.into(), users_max.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.unsigned(1)?, row.text(2)?)))
    .collect()
}
