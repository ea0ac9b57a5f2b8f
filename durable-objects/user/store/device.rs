//! Devices, each with the hash of its one access token.

use platform::{Fault, Sql, Tx};
use ruma_common::{DeviceId, OwnedDeviceId};

use crate::user::NewDevice;

/// An access token as its device's row has it.
pub(crate) struct Token {
    pub device_id: OwnedDeviceId,
    /// When it ends; `None` if it does not by itself.
    pub expires_ms: Option<u64>,
}

pub(crate) fn of_token(sql: &dyn Sql, token_hash: &str) -> Result<Option<Token>, Fault> {
    sql.query("SELECT device_id, expires_ms FROM device WHERE token_hash = ?1", &[token_hash.into()])?
        .pop()
        .map(|mut row| Ok(Token { device_id: row.text(0)?.into(), expires_ms: row.unsigned_or_null(1)? }))
        .transpose()
}

/// Adds a device, or gives an existing one a new token.
pub(crate) fn put(tx: &Tx<'_>, device: &NewDevice, now_ms: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO device (device_id, token_hash, display_name, created_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (device_id) DO UPDATE SET token_hash = excluded.token_hash",
        &[
            device.device_id.as_str().into(),
            device.token_hash.as_str().into(),
            device.display_name.as_deref().into(),
            now_ms.into(),
        ],
    )?;
    Ok(())
}

pub(crate) fn delete(tx: &Tx<'_>, device_id: &DeviceId) -> Result<(), Fault> {
    tx.execute("DELETE FROM device WHERE device_id = ?1", &[device_id.as_str().into()])?;
    Ok(())
}

pub(crate) fn delete_all(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.execute("DELETE FROM device", &[])?;
    Ok(())
}
