//! Public keys: of devices, of the user, and those that are given out once.

use std::collections::BTreeMap;

use domain::signed_key::{SignedKey, Usage};
use platform::{Fault, Row, Sql, Tx};
use ruma_common::DeviceId;

use super::stream::{self, Gone};
use crate::{Error, user::KeyCounts};

/// What a row of `public_key` is.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Device,
    CrossSigning,
    Signature,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Device => "device",
            Kind::CrossSigning => "cross_signing",
            Kind::Signature => "signature",
        }
    }
}

/// One key's JSON.
pub(crate) fn get(sql: &dyn Sql, kind: Kind, id: &str) -> Result<Option<String>, Fault> {
    sql.query("SELECT key FROM public_key WHERE kind = ?1 AND id = ?2", &[kind.as_str().into(), id.into()])?
        .pop()
        .map_or(Ok(None), |mut row| row.text_or_null(0))
}

/// The JSON of all keys of a kind, or of those with some ids; by id.
pub(crate) fn all(sql: &dyn Sql, kind: Kind, ids: Option<&[&str]>) -> Result<Vec<(String, String)>, Fault> {
    let rows = match ids {
        None => sql.query(
            "SELECT id, key FROM public_key WHERE kind = ?1 AND key IS NOT NULL ORDER BY id",
            &[kind.as_str().into()],
        )?,
        Some(ids) => sql.query(
            "SELECT id, key FROM public_key
             WHERE kind = ?1 AND id IN (SELECT value FROM json_each(?2)) AND key IS NOT NULL ORDER BY id",
            &[kind.as_str().into(), serde_json::to_string(ids)?.into()],
        )?,
    };
    rows.into_iter().map(|mut row| Ok((row.text(0)?, row.text(1)?))).collect()
}

/// Keeps a key that became so at the user's own position; `None` marks it as gone.
pub(crate) fn put(tx: &Tx<'_>, kind: Kind, id: &str, key: Option<&str>, changed: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO public_key (kind, id, changed, key) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (kind, id) DO UPDATE SET changed = excluded.changed, key = excluded.key",
        &[kind.as_str().into(), id.into(), changed.into(), key.into()],
    )?;
    Ok(())
}

/// Forgets all keys of a kind.
pub(crate) fn clear(tx: &Tx<'_>, kind: Kind) -> Result<Gone, Fault> {
    stream::delete(tx, "public_key", "changed", "kind = ?1", &[kind.as_str().into()])
}

/// One of the user's cross-signing keys.
pub(crate) fn cross_signing(sql: &dyn Sql, usage: Usage) -> Result<Option<SignedKey>, Error> {
    let key = get(sql, Kind::CrossSigning, usage.as_str())?;
    Ok(key.as_deref().map(SignedKey::parse).transpose()?)
}

/// What changed after the user's own position: whether the user's keys did, and whom the user signed.
pub(crate) fn changed_since(sql: &dyn Sql, position: u64) -> Result<(bool, Vec<String>), Fault> {
    let (mut own, mut signed) = (false, Vec::new());
    for mut row in
        sql.query("SELECT kind, id FROM public_key WHERE changed > ?1 ORDER BY changed", &[position.into()])?
    {
        if row.text(0)? == Kind::Signature.as_str() {
            signed.push(row.text(1)?);
        } else {
            own = true;
        }
    }
    Ok((own, signed))
}

/// A device's keys, or how many other devices have some.
pub(crate) fn of_device(sql: &dyn Sql, device_id: &DeviceId) -> Result<Result<String, u64>, Fault> {
    let rows = sql.query(
        "SELECT own, CASE WHEN own IS NULL
             THEN (SELECT count(*) FROM public_key WHERE kind = ?1 AND key IS NOT NULL) ELSE 0 END
         FROM (SELECT (SELECT key FROM public_key WHERE kind = ?1 AND id = ?2) AS own)",
        &[Kind::Device.as_str().into(), device_id.as_str().into()],
    )?;
    let Some(mut row) = rows.into_iter().next() else { return Ok(Err(0)) };
    Ok(match row.text_or_null(0)? {
        Some(keys) => Ok(keys),
        None => Err(row.unsigned(1)?),
    })
}

/// The position at which any device's keys changed last; 0 if none ever did.
pub(crate) fn devices_head(sql: &dyn Sql) -> Result<u64, Fault> {
    kind_head(sql, Kind::Device)
}

/// The position at which the user's own keys changed last; 0 if there never were any.
pub(crate) fn identity_head(sql: &dyn Sql) -> Result<u64, Fault> {
    kind_head(sql, Kind::CrossSigning)
}

fn kind_head(sql: &dyn Sql, kind: Kind) -> Result<u64, Fault> {
    let row = sql.query("SELECT max(changed) FROM public_key WHERE kind = ?1", &[kind.as_str().into()])?.pop();
    row.map_or(Ok(0), |mut row| Ok(row.unsigned_or_null(0)?.unwrap_or(0)))
}

/// The devices whose keys changed after a position, in the order of that: each with its position and its keys, `None`
/// if it is gone. Without a position: all that there are.
pub(crate) fn devices_after(
    sql: &dyn Sql,
    after: Option<u64>,
    limit: u64,
) -> Result<Vec<(String, u64, Option<String>)>, Fault> {
    sql.query(
        "SELECT id, changed, key FROM public_key
         WHERE kind = ?1 AND changed > ?2 AND (?3 OR key IS NOT NULL) ORDER BY changed LIMIT ?4",
        &[Kind::Device.as_str().into(), after.unwrap_or(0).into(), after.is_some().into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.unsigned(1)?, row.text_or_null(2)?)))
    .collect()
}

/// The newest position that a one-time or fallback key has.
const NEWEST: &str = "max(uploaded, coalesce(given, 0))";

/// The user's own position at which any key changed last.
pub(crate) fn head(sql: &dyn Sql) -> Result<u64, Fault> {
    let newest = format!("SELECT max(changed) FROM public_key UNION ALL SELECT max({NEWEST}) FROM one_time_key");
    let rows = sql.query(&newest, &[])?;
    rows.into_iter().try_fold(0, |head, mut row| Ok(head.max(row.unsigned_or_null(0)?.unwrap_or(0))))
}

/// A one-time or fallback key as it is kept.
pub(crate) struct Kept {
    pub algorithm: String,
    pub key_id: String,
    /// The position of its upload.
    pub uploaded: u64,
    /// `None` once it was given out.
    pub key: Option<String>,
}

fn kept(mut row: Row) -> Result<Kept, Fault> {
    Ok(Kept { algorithm: row.text(0)?, key_id: row.text(1)?, uploaded: row.unsigned(2)?, key: row.text_or_null(3)? })
}

/// A device's one-time keys, or its fallback keys; those that were given out among them.
pub(crate) fn one_time(sql: &dyn Sql, device_id: &DeviceId, fallback: bool) -> Result<Vec<Kept>, Fault> {
    sql.query(
        "SELECT algorithm, key_id, uploaded, key FROM one_time_key WHERE device_id = ?1 AND fallback = ?2
         ORDER BY algorithm, uploaded, key_id",
        &[device_id.as_str().into(), fallback.into()],
    )?
    .into_iter()
    .map(kept)
    .collect()
}

/// Adds one-time keys: JSON of a list of `{algorithm, key_id, key}`.
pub(crate) fn add_one_time(tx: &Tx<'_>, device_id: &DeviceId, keys: &str, uploaded: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO one_time_key (device_id, fallback, algorithm, uploaded, key_id, key)
         SELECT ?1, 0, value ->> 'algorithm', ?3, value ->> 'key_id', value ->> 'key' FROM json_each(?2)",
        &[device_id.as_str().into(), keys.into(), uploaded.into()],
    )?;
    Ok(())
}

/// Puts a fallback key in the place of the algorithm's last one, at a newer position than that has.
pub(crate) fn put_fallback(
    tx: &Tx<'_>,
    device_id: &DeviceId,
    (algorithm, key_id): (&str, &str),
    key: &str,
    uploaded: u64,
) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM one_time_key WHERE device_id = ?1 AND fallback = 1 AND algorithm = ?2",
        &[device_id.as_str().into(), algorithm.into()],
    )?;
    tx.execute(
        "INSERT INTO one_time_key (device_id, fallback, algorithm, uploaded, key_id, key) VALUES (?1, 1, ?2, ?3, ?4, ?5)",
        &[device_id.as_str().into(), algorithm.into(), uploaded.into(), key_id.into(), key.into()],
    )?;
    Ok(())
}

/// Forgets what was given out of keys uploaded before a position.
pub(crate) fn forget_given(tx: &Tx<'_>, device_id: &DeviceId, before: u64) -> Result<Gone, Fault> {
    let which = "device_id = ?1 AND fallback = 0 AND given IS NOT NULL AND uploaded < ?2";
    stream::delete(tx, "one_time_key", NEWEST, which, &[device_id.as_str().into(), before.into()])
}

/// The key to give out next: what the same claim was given before, or a one-time key, the oldest first, or else the
/// fallback key; with whether it is that, and whether it was given out before.
pub(crate) fn next(
    sql: &dyn Sql,
    device_id: &DeviceId,
    algorithm: &str,
    claim: Option<&str>,
) -> Result<Option<(Kept, bool, bool)>, Fault> {
    sql.query(
        // Those given out stand before those that are left.
        "SELECT algorithm, key_id, uploaded, coalesce(key, claimed), fallback, given IS NOT NULL FROM one_time_key
         WHERE device_id = ?1 AND fallback IN (0, 1) AND algorithm = ?2 AND (key IS NOT NULL OR claim = ?3)
         ORDER BY fallback, uploaded, key_id LIMIT 1",
        &[device_id.as_str().into(), algorithm.into(), claim.into()],
    )?
    .pop()
    .map(|mut row| {
        let (fallback, given) = (row.flag(4)?, row.flag(5)?);
        Ok((kept(row)?, fallback, given))
    })
    .transpose()
}

/// Notes that a key was given out at the user's own position. It stays to be given out only if it is a fallback key.
pub(crate) fn give(
    tx: &Tx<'_>,
    device_id: &DeviceId,
    (key, fallback): (&Kept, bool),
    claim: Option<&str>,
    position: u64,
) -> Result<(), Fault> {
    tx.execute(
        "UPDATE one_time_key SET given = ?6, key = CASE WHEN fallback THEN key END,
             claim = CASE WHEN fallback THEN NULL ELSE ?7 END, claimed = CASE WHEN fallback THEN NULL ELSE key END
         WHERE device_id = ?1 AND fallback = ?2 AND algorithm = ?3 AND uploaded = ?4 AND key_id = ?5",
        &[
            device_id.as_str().into(),
            fallback.into(),
            key.algorithm.as_str().into(),
            key.uploaded.into(),
            key.key_id.as_str().into(),
            position.into(),
            claim.into(),
        ],
    )?;
    Ok(())
}

/// What a device has left to be given out.
pub(crate) fn counts(sql: &dyn Sql, device_id: &DeviceId) -> Result<KeyCounts, Fault> {
    let mut counts = KeyCounts { one_time: BTreeMap::new(), unused_fallback: Vec::new() };
    let rows = sql.query(
        "SELECT fallback, algorithm, count(*) FROM one_time_key WHERE device_id = ?1 AND given IS NULL
         GROUP BY fallback, algorithm ORDER BY fallback, algorithm",
        &[device_id.as_str().into()],
    )?;
    for mut row in rows {
        if row.flag(0)? {
            counts.unused_fallback.push(row.text(1)?);
        } else {
            counts.one_time.insert(row.text(1)?, row.unsigned(2)?);
        }
    }
    Ok(counts)
}

/// Whether a device has identity keys.
pub(crate) fn has_device(sql: &dyn Sql, device_id: &DeviceId) -> Result<bool, Fault> {
    Ok(get(sql, Kind::Device, device_id.as_str())?.is_some())
}

/// Forgets what a device that is gone had to give out.
pub(crate) fn forget_one_time(tx: &Tx<'_>, device_id: &DeviceId) -> Result<Gone, Fault> {
    stream::delete(tx, "one_time_key", NEWEST, "device_id = ?1", &[device_id.as_str().into()])
}

/// Whether one of the user's cross-signing keys goes by this name. Spec: «Servers therefore must ensure that device IDs
/// will not collide with cross-signing public keys».
pub(crate) fn is_cross_signing(sql: &dyn Sql, device_id: &DeviceId) -> Result<bool, Error> {
    for (_, key) in all(sql, Kind::CrossSigning, None)? {
        if SignedKey::parse(&key)?.only_public_key() == Some(device_id.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}
