//! Devices, each with the hashes of its tokens.

use platform::{Fault, Row, Sql, Tx};
use ruma_common::{DeviceId, OwnedDeviceId};
use serde_json::value::RawValue;

use crate::user::{DehydratedDevice, Device, NewDevice, NewToken};

/// What stands in the place of a token's hash where there is no token.
const NO_TOKEN: &str = "";

/// An access token as its device's row has it.
pub(crate) struct Token {
    pub device_id: OwnedDeviceId,
    /// When it ends; `None` if it does not by itself.
    pub expires_ms: Option<u64>,
    /// Whether a refresh gave it out and it was not used yet.
    pub is_next: bool,
    /// Whether the account is locked.
    pub locked: bool,
}

pub(crate) fn of_token(sql: &dyn Sql, token_hash: &str) -> Result<Option<Token>, Fault> {
    let token = |mut row: Row| {
        Ok(Token {
            device_id: row.text(0)?.into(),
            expires_ms: row.unsigned_or_null(1)?,
            is_next: row.flag(2)?,
            locked: row.flag(3)?,
        })
    };
    sql.query(
        "SELECT device_id, expires_ms, 0, (SELECT locked FROM account WHERE id = 1) FROM device WHERE token_hash = ?1
         UNION ALL SELECT device_id, next_expires_ms, 1, (SELECT locked FROM account WHERE id = 1) FROM device
         WHERE next_token_hash = ?1",
        &[token_hash.into()],
    )?
    .pop()
    .map(token)
    .transpose()
}

/// The hashes of the tokens that refresh a device.
pub(crate) struct RefreshHashes {
    pub current: Option<String>,
    /// The successor that nobody used yet.
    pub next: Option<String>,
}

/// `None` if there is no such device.
pub(crate) fn refresh_hashes(sql: &dyn Sql, device_id: &DeviceId) -> Result<Option<RefreshHashes>, Fault> {
    sql.query("SELECT refresh_hash, next_refresh_hash FROM device WHERE device_id = ?1", &[device_id.as_str().into()])?
        .pop()
        .map(|mut row| Ok(RefreshHashes { current: row.text_or_null(0)?, next: row.text_or_null(1)? }))
        .transpose()
}

/// Adds a device, or gives an existing one new tokens.
pub(crate) fn put(tx: &Tx<'_>, device: &NewDevice, now_ms: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO device (device_id, token_hash, display_name, created_ms, last_seen_ms, last_seen_ip, expires_ms,
             refresh_hash) VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7)
         ON CONFLICT (device_id) DO UPDATE SET token_hash = excluded.token_hash, expires_ms = excluded.expires_ms,
             refresh_hash = excluded.refresh_hash, last_seen_ms = excluded.last_seen_ms,
             last_seen_ip = excluded.last_seen_ip, next_token_hash = NULL, next_expires_ms = NULL,
             next_refresh_hash = NULL",
        &[
            device.device_id.as_str().into(),
            device.token_hash.as_str().into(),
            device.display_name.as_deref().into(),
            now_ms.into(),
            device.ip.as_deref().into(),
            device.expires_ms.into(),
            device.refresh_hash.as_deref().into(),
        ],
    )?;
    Ok(())
}

/// Keeps the tokens that shall succeed the device's own, in place of those kept before.
pub(crate) fn put_next(tx: &Tx<'_>, device_id: &DeviceId, next: &NewToken) -> Result<(), Fault> {
    tx.execute(
        "UPDATE device SET next_token_hash = ?2, next_expires_ms = ?3, next_refresh_hash = ?4 WHERE device_id = ?1",
        &[
            device_id.as_str().into(),
            next.token_hash.as_str().into(),
            next.expires_ms.into(),
            next.refresh_hash.as_str().into(),
        ],
    )?;
    Ok(())
}

/// The successors take the place of the device's tokens.
pub(crate) fn succeed(tx: &Tx<'_>, device_id: &DeviceId) -> Result<(), Fault> {
    tx.execute(
        "UPDATE device SET token_hash = next_token_hash, expires_ms = next_expires_ms, refresh_hash = next_refresh_hash,
             next_token_hash = NULL, next_expires_ms = NULL, next_refresh_hash = NULL
         WHERE device_id = ?1 AND next_token_hash IS NOT NULL",
        &[device_id.as_str().into()],
    )?;
    Ok(())
}

const DEVICE: &str = "SELECT device_id, display_name, last_seen_ms, last_seen_ip FROM device";

fn device(mut row: Row) -> Result<Device, Fault> {
    Ok(Device {
        device_id: row.text(0)?.into(),
        display_name: row.text_or_null(1)?,
        last_seen_ms: row.unsigned_or_null(2)?,
        last_seen_ip: row.text_or_null(3)?,
    })
}

pub(crate) fn get(sql: &dyn Sql, device_id: &DeviceId) -> Result<Option<Device>, Fault> {
    sql.query(&format!("{DEVICE} WHERE device_id = ?1"), &[device_id.as_str().into()])?.pop().map(device).transpose()
}

/// Whether this is a device of the user that somebody is logged in on.
pub(crate) fn is_logged_in(sql: &dyn Sql, device_id: &DeviceId) -> Result<bool, Fault> {
    let found = sql.query(
        "SELECT 1 FROM device WHERE device_id = ?1 AND token_hash > ?2",
        &[device_id.as_str().into(), NO_TOKEN.into()],
    )?;
    Ok(!found.is_empty())
}

pub(crate) fn all(sql: &dyn Sql) -> Result<Vec<Device>, Fault> {
    sql.query(&format!("{DEVICE} ORDER BY device_id"), &[])?.into_iter().map(device).collect()
}

pub(crate) fn rename(tx: &Tx<'_>, device_id: &DeviceId, display_name: &str) -> Result<(), Fault> {
    tx.execute(
        "UPDATE device SET display_name = ?2 WHERE device_id = ?1",
        &[device_id.as_str().into(), display_name.into()],
    )?;
    Ok(())
}

pub(crate) fn seen(tx: &Tx<'_>, device_id: &DeviceId, at_ms: u64, ip: Option<&str>) -> Result<(), Fault> {
    tx.execute(
        "UPDATE device SET last_seen_ms = ?2, last_seen_ip = coalesce(?3, last_seen_ip) WHERE device_id = ?1",
        &[device_id.as_str().into(), at_ms.into(), ip.into()],
    )?;
    Ok(())
}

/// Whether there was one.
pub(crate) fn delete(tx: &Tx<'_>, device_id: &DeviceId) -> Result<bool, Fault> {
    let deleted =
        tx.execute("DELETE FROM device WHERE device_id = ?1 RETURNING device_id", &[device_id.as_str().into()])?;
    Ok(!deleted.is_empty())
}

/// The device that nobody is logged in on.
pub(crate) fn dehydrated(sql: &dyn Sql) -> Result<Option<DehydratedDevice>, Fault> {
    sql.query("SELECT device_id, dehydrated FROM device WHERE token_hash = ?1", &[NO_TOKEN.into()])?
        .pop()
        .map(|mut row| {
            Ok(DehydratedDevice { device_id: row.text(0)?.into(), data: RawValue::from_string(row.text(1)?)? })
        })
        .transpose()
}

/// Adds the device that nobody is logged in on, or says anew what it is brought back from.
pub(crate) fn put_dehydrated(
    tx: &Tx<'_>,
    device_id: &DeviceId,
    display_name: Option<&str>,
    data: &str,
    now_ms: u64,
) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO device (device_id, token_hash, display_name, created_ms, dehydrated) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (device_id) DO UPDATE SET display_name = excluded.display_name, dehydrated = excluded.dehydrated",
        &[device_id.as_str().into(), NO_TOKEN.into(), display_name.into(), now_ms.into(), data.into()],
    )?;
    Ok(())
}

/// Of the devices with keys that somebody is logged in on, but for one, the one that was seen least lately.
pub(crate) fn least_lately_seen_with_keys(sql: &dyn Sql, but: &DeviceId) -> Result<Option<OwnedDeviceId>, Fault> {
    sql.query(
        "SELECT device_id FROM public_key CROSS JOIN device ON device_id = id
         WHERE kind = 'device' AND key IS NOT NULL AND device_id <> ?1 AND token_hash > ?2
         ORDER BY coalesce(last_seen_ms, created_ms), device_id LIMIT 1",
        &[but.as_str().into(), NO_TOKEN.into()],
    )?
    .pop()
    .map(|mut row| Ok(row.text(0)?.into()))
    .transpose()
}

/// Whether anybody is logged in.
pub(crate) fn is_any_logged_in(sql: &dyn Sql) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM device WHERE token_hash > ?1 LIMIT 1", &[NO_TOKEN.into()])?.is_empty())
}
