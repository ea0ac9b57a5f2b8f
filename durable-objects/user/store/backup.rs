//! Backups of room keys.

use platform::{Fault, Row, Sql, Tx, Value};
use serde_json::value::RawValue;

use crate::user::{BackedUpKey, BackupInfo, KeyData};

/// How many keys, and how many bytes they have.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Amount {
    pub keys: u64,
    pub bytes: u64,
}

impl Amount {
    fn of(mut row: Row) -> Result<Self, Fault> {
        Ok(Self { keys: row.unsigned(0)?, bytes: row.unsigned(1)? })
    }

    pub(crate) fn and(self, more: Self) -> Self {
        Self { keys: self.keys.saturating_add(more.keys), bytes: self.bytes.saturating_add(more.bytes) }
    }

    /// Of rows of which each says how many bytes one key has.
    fn sum(rows: Vec<Row>) -> Result<Self, Fault> {
        rows.into_iter().try_fold(Self::default(), |Self { keys, bytes }, mut row| {
            Ok(Self { keys: keys.saturating_add(1), bytes: bytes.saturating_add(row.unsigned(0)?) })
        })
    }
}

/// The bytes of a key's row.
const KEY_BYTES: &str = "length(room_id) + length(session_id) + length(CAST(session_data AS BLOB))";
const INFO: &str = "SELECT version, algorithm, auth_data, count, etag FROM backup WHERE algorithm IS NOT NULL";

fn info(mut row: Row) -> Result<BackupInfo, Fault> {
    Ok(BackupInfo {
        version: row.unsigned(0)?.to_string(),
        algorithm: row.text(1)?,
        auth_data: RawValue::from_string(row.text(2)?)?,
        count: row.unsigned(3)?,
        etag: row.unsigned(4)?.to_string(),
    })
}

/// The newest backup.
pub(crate) fn newest(sql: &dyn Sql) -> Result<Option<BackupInfo>, Fault> {
    sql.query(&format!("{INFO} ORDER BY version DESC LIMIT 1"), &[])?.pop().map(info).transpose()
}

/// One backup, unless it was deleted.
pub(crate) fn get(sql: &dyn Sql, version: u64) -> Result<Option<BackupInfo>, Fault> {
    sql.query(&format!("{INFO} AND version = ?1"), &[version.into()])?.pop().map(info).transpose()
}

/// Whether there is or was such a backup: versions are counted up, and the last one's row stays.
pub(crate) fn was_made(sql: &dyn Sql, version: u64) -> Result<bool, Fault> {
    let row = sql.query("SELECT max(version) FROM backup", &[])?.pop();
    let last = row.map_or(Ok(None), |mut row| row.unsigned_or_null(0))?.unwrap_or(0);
    Ok((1..=last).contains(&version))
}

/// Adds a backup and answers its version.
pub(crate) fn add(tx: &Tx<'_>, algorithm: &str, auth_data: &str, call_id: Option<&str>) -> Result<u64, Fault> {
    let mut rows = tx.execute(
        "INSERT INTO backup (version, etag, count, algorithm, auth_data, call_id)
         SELECT coalesce(max(version), 0) + 1, 0, 0, ?1, ?2, ?3 FROM backup RETURNING version",
        &[algorithm.into(), auth_data.into(), call_id.into()],
    )?;
    rows.pop().ok_or_else(|| Fault::new("a backup has no version"))?.unsigned(0)
}

/// The backup that a call made.
pub(crate) fn made_by(sql: &dyn Sql, call_id: &str) -> Result<Option<u64>, Fault> {
    let row = sql.query("SELECT version FROM backup WHERE call_id = ?1 LIMIT 1", &[call_id.into()])?.pop();
    row.map(|mut row| row.unsigned(0)).transpose()
}

/// Sets what says how keys are encrypted.
pub(crate) fn set_auth_data(tx: &Tx<'_>, version: u64, auth_data: &str) -> Result<(), Fault> {
    tx.execute("UPDATE backup SET auth_data = ?2 WHERE version = ?1", &[version.into(), auth_data.into()])?;
    Ok(())
}

/// Deletes a backup; its row and its keys are left to be removed, and their bytes count as long as they are there.
pub(crate) fn delete(tx: &Tx<'_>, version: u64) -> Result<(), Fault> {
    tx.execute(
        "UPDATE backup SET algorithm = NULL, auth_data = NULL, count = 0 WHERE version = ?1",
        &[version.into()],
    )?;
    Ok(())
}

/// Deleted backups whose rows are there still, the first ones first.
pub(crate) fn deleted(sql: &dyn Sql, limit: u64) -> Result<Vec<u64>, Fault> {
    let rows =
        sql.query("SELECT version FROM backup WHERE algorithm IS NULL ORDER BY version LIMIT ?1", &[limit.into()])?;
    rows.into_iter().map(|mut row| row.unsigned(0)).collect()
}

/// Removes some keys of a deleted backup; answers how many.
pub(crate) fn remove_keys(tx: &Tx<'_>, version: u64, limit: u64) -> Result<u64, Fault> {
    let removed = delete_keys(tx, version, None, None, limit)?;
    if removed.keys > 0 {
        tx.execute(
            "UPDATE backup SET bytes = max(bytes - ?2, 0) WHERE version = ?1",
            &[version.into(), removed.bytes.into()],
        )?;
    }
    Ok(removed.keys)
}

/// Removes the row of a deleted backup whose keys are gone, unless it is the last one's, which says what number comes
/// next.
pub(crate) fn remove(tx: &Tx<'_>, version: u64) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM backup WHERE version = ?1 AND algorithm IS NULL AND version < (SELECT max(version) FROM backup)",
        &[version.into()],
    )?;
    tx.execute("UPDATE backup SET bytes = 0 WHERE version = ?1 AND bytes > 0", &[version.into()])?;
    Ok(())
}

/// What there is in all backups.
pub(crate) fn total(sql: &dyn Sql) -> Result<Amount, Fault> {
    let row = sql.query("SELECT coalesce(sum(count), 0), coalesce(sum(bytes), 0) FROM backup", &[])?.pop();
    row.map_or(Ok(Amount::default()), Amount::of)
}

/// The versions there are.
pub(crate) fn versions(sql: &dyn Sql) -> Result<Vec<u64>, Fault> {
    let rows = sql.query("SELECT version FROM backup WHERE algorithm IS NOT NULL ORDER BY version", &[])?;
    rows.into_iter().map(|mut row| row.unsigned(0)).collect()
}

/// What there is already of these keys, a JSON list.
pub(crate) fn known(sql: &dyn Sql, version: u64, keys: &str) -> Result<Amount, Fault> {
    let row = sql
        .query(
            &format!(
                "SELECT count(*), coalesce(sum({KEY_BYTES}), 0) FROM (
                     SELECT DISTINCT value ->> 'room_id' AS room, value ->> 'session_id' AS session FROM json_each(?2)
                 ) CROSS JOIN backup_key ON version = ?1 AND room_id = room AND session_id = session"
            ),
            &[version.into(), keys.into()],
        )?
        .pop();
    row.map_or(Ok(Amount::default()), Amount::of)
}

/// Stores keys, a JSON list, where there is none, or one that is worth less; answers how many were stored.
pub(crate) fn put_keys(tx: &Tx<'_>, version: u64, keys: &str) -> Result<u64, Fault> {
    let stored = tx.execute(
        // Spec: "Server-side key backups": verified ones, then a lower index, then a lower count.
        "INSERT INTO backup_key (version, room_id, session_id, is_verified, first_message_index, forwarded_count,
             session_data)
         SELECT ?1, value ->> 'room_id', value ->> 'session_id', value ->> 'is_verified',
             value ->> 'first_message_index', value ->> 'forwarded_count', value ->> 'session_data'
         FROM json_each(?2) WHERE true
         ON CONFLICT (version, room_id, session_id) DO UPDATE SET is_verified = excluded.is_verified,
             first_message_index = excluded.first_message_index, forwarded_count = excluded.forwarded_count,
             session_data = excluded.session_data
         WHERE excluded.is_verified > is_verified OR (excluded.is_verified = is_verified
             AND (excluded.first_message_index < first_message_index
                  OR (excluded.first_message_index = first_message_index
                      AND excluded.forwarded_count < forwarded_count)))
         RETURNING 1",
        &[version.into(), keys.into()],
    )?;
    Ok(stored.len() as u64)
}

/// Notes that keys changed: how many there are now, and by how many bytes they are more, or fewer.
pub(crate) fn changed(tx: &Tx<'_>, version: u64, count: u64, more_bytes: i64) -> Result<(), Fault> {
    tx.execute(
        "UPDATE backup SET etag = etag + 1, count = ?2, bytes = CASE ?2 WHEN 0 THEN 0 ELSE max(bytes + ?3, 0) END
         WHERE version = ?1",
        &[version.into(), count.into(), more_bytes.into()],
    )?;
    Ok(())
}

/// How much a page of keys holds.
#[derive(Clone, Copy)]
pub(crate) struct PageLimits {
    pub keys: u64,
    /// Bytes of `session_data`; the key that reaches them is still on the page.
    pub bytes: u64,
}

/// A page of the keys of all rooms after one of them, or of its room only, in their order. Answers too whether there
/// may be more.
pub(crate) fn keys_after(
    sql: &dyn Sql,
    version: u64,
    [room_id, session_id]: [&str; 2],
    in_room_only: bool,
    limits: PageLimits,
) -> Result<(Vec<BackedUpKey>, bool), Fault> {
    // Two conditions, not one that covers both: only so is no row read that is not on the page.
    let after = if in_room_only { "room_id = ?2 AND session_id > ?3" } else { "(room_id, session_id) > (?2, ?3)" };
    let rows = sql.query(
        &format!(
            "SELECT room_id, session_id, is_verified, first_message_index, forwarded_count, session_data FROM (
                 SELECT *, sum(length(CAST(session_data AS BLOB)))
                     OVER (ORDER BY room_id, session_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                 FROM (SELECT * FROM backup_key WHERE version = ?1 AND {after} ORDER BY room_id, session_id LIMIT ?4)
             ) WHERE coalesce(before, 0) < ?5 ORDER BY room_id, session_id"
        ),
        &[version.into(), room_id.into(), session_id.into(), limits.keys.into(), limits.bytes.into()],
    )?;
    let keys = rows.into_iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let bytes = keys.iter().map(|key| key.data.session_data.get().len() as u64).fold(0, u64::saturating_add);
    let more = keys.len() as u64 >= limits.keys || bytes >= limits.bytes;
    Ok((keys, more))
}

/// One key.
pub(crate) fn one_key(
    sql: &dyn Sql,
    version: u64,
    room_id: &str,
    session_id: &str,
) -> Result<Option<BackedUpKey>, Fault> {
    sql.query(
        "SELECT room_id, session_id, is_verified, first_message_index, forwarded_count, session_data FROM backup_key
         WHERE version = ?1 AND room_id = ?2 AND session_id = ?3",
        &[version.into(), room_id.into(), session_id.into()],
    )?
    .pop()
    .map(key)
    .transpose()
}

fn key(mut row: Row) -> Result<BackedUpKey, Fault> {
    Ok(BackedUpKey {
        room_id: row.text(0)?,
        session_id: row.text(1)?,
        data: KeyData {
            is_verified: row.flag(2)?,
            first_message_index: row.unsigned(3)?,
            forwarded_count: row.unsigned(4)?,
            session_data: RawValue::from_string(row.text(5)?)?,
        },
    })
}

/// Deletes some of all keys, of those of a room, or one; answers what that was.
pub(crate) fn delete_keys(
    tx: &Tx<'_>,
    version: u64,
    room_id: Option<&str>,
    session_id: Option<&str>,
    limit: u64,
) -> Result<Amount, Fault> {
    // A condition of its own for each: only so is no row read that stays.
    let (which, mut params): (_, Vec<Value>) = match (room_id, session_id) {
        (Some(room_id), Some(session_id)) => (
            "version = ?1 AND room_id = ?2 AND session_id = ?3",
            vec![version.into(), room_id.into(), session_id.into()],
        ),
        (Some(room_id), None) => ("version = ?1 AND room_id = ?2", vec![version.into(), room_id.into()]),
        (None, _) => ("version = ?1", vec![version.into()]),
    };
    let limit_at = params.len().saturating_add(1);
    params.push(limit.into());
    Amount::sum(tx.execute(
        &format!(
            "DELETE FROM backup_key WHERE (version, room_id, session_id) IN (
                 SELECT version, room_id, session_id FROM backup_key WHERE {which} LIMIT ?{limit_at}
             ) RETURNING {KEY_BYTES}"
        ),
        &params,
    )?)
}
