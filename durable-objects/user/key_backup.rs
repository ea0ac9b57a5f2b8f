//! Backups of room keys: their versions. What is in them is in [`super::backed_up_keys`].
//!
//! Spec: "End-to-End Encryption", "Server-side key backups".

use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{NEXT_SLICE_MS, User, authenticate, store};
use crate::{Call, Cx, Error, schedule};

/// Bytes of `auth_data`.
const AUTH_DATA_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the name of an algorithm.
const ALGORITHM_BYTES_MAX: usize = 255;
/// Backups there may be at a time.
const BACKUPS_MAX: usize = 100;
/// Keys of deleted backups that are removed at once.
const KEYS_AT_ONCE: u64 = if cfg!(test) { 100 } else { 2_000 };
/// Deleted backups that are removed at once, if they have no more keys than that.
const BACKUPS_AT_ONCE: u64 = 20;
/// The schedule's name for removing the rest.
pub(super) const DELETED_DUE: &str = "deleted_backups";

/// A backup as its user sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupInfo {
    pub version: String,
    pub algorithm: String,
    /// A JSON object.
    pub auth_data: Box<RawValue>,
    /// How many keys there are.
    pub count: u64,
    /// Another one whenever a key changed.
    pub etag: String,
}

/// Makes a new backup, which is the newest from then on. Answers its version. Repeated with the same call id, the call
/// makes no other.
///
/// Refused: `UnknownToken`; `BadJson` or `InvalidParam` for `auth_data` that are no object, or beyond the limits.
#[derive(Debug, Serialize, Deserialize)]
pub struct CreateBackup {
    pub token_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    pub algorithm: String,
    pub auth_data: Box<RawValue>,
}

impl Call for CreateBackup {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "create_backup";
    type Reply = String;
}

/// A backup, the newest if none is named.
///
/// Refused: `UnknownToken`, `NotFound`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetBackup {
    pub token_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Call for GetBackup {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_backup";
    type Reply = BackupInfo;
}

/// Sets the `auth_data` of a backup.
///
/// Refused: `UnknownToken`; `NotFound`; `InvalidParam` for another algorithm or version than the backup's.
#[derive(Debug, Serialize, Deserialize)]
pub struct UpdateBackup {
    pub token_hash: String,
    pub version: String,
    pub algorithm: String,
    pub auth_data: Box<RawValue>,
    /// The version as the body has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated_version: Option<String>,
}

impl Call for UpdateBackup {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "update_backup";
    type Reply = ();
}

/// Deletes a backup with its keys. One that was deleted before is no error.
///
/// Refused: `UnknownToken`; `NotFound` if there never was such a backup.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeleteBackup {
    pub token_hash: String,
    pub version: String,
}

impl Call for DeleteBackup {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "delete_backup";
    type Reply = ();
}

impl User {
    pub(super) fn create_backup(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: CreateBackup) -> Result<String, Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        check(&call.algorithm, &call.auth_data)?;
        let made = call.call_id.as_deref().map(|call_id| store::backup::made_by(&**tx, call_id)).transpose()?.flatten();
        if let Some(version) = made {
            return Ok(version.to_string());
        }
        if store::backup::versions(&**tx)?.len() >= BACKUPS_MAX {
            return Err(Refusal::InvalidParam(format!("There may be {BACKUPS_MAX} backups: delete one")).into());
        }
        let version = store::backup::add(tx, &call.algorithm, call.auth_data.get(), call.call_id.as_deref())?;
        Ok(version.to_string())
    }

    pub(super) fn backup(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetBackup) -> Result<BackupInfo, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        match &call.version {
            Some(version) => Ok(named(sql, version)?.1),
            None => store::backup::newest(sql)?.ok_or_else(none),
        }
    }

    pub(super) fn update_backup(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: UpdateBackup) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        check(&call.algorithm, &call.auth_data)?;
        let (version, known) = named(&**tx, &call.version)?;
        if known.algorithm != call.algorithm {
            return Err(Refusal::InvalidParam("Algorithm does not match".to_owned()).into());
        }
        if call.repeated_version.is_some_and(|repeated| repeated != call.version) {
            return Err(Refusal::InvalidParam("The versions in path and body do not match".to_owned()).into());
        }
        Ok(store::backup::set_auth_data(tx, version, call.auth_data.get())?)
    }

    pub(super) fn delete_backup(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: DeleteBackup) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        let version = once_made(&**tx, &call.version)?;
        // Spec: deleted again, "the call should succeed". Nothing is written then.
        if store::backup::get(&**tx, version)?.is_some() {
            store::backup::delete(tx, version)?;
            Self::remove_deleted_backups(tx, cx)?;
        }
        Ok(())
    }

    /// Removes what deleted backups have left, a slice at a time: there may be a million keys.
    pub(super) fn remove_deleted_backups(tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let (deleted, mut left) = (store::backup::deleted(&**tx, BACKUPS_AT_ONCE)?, KEYS_AT_ONCE);
        let mut is_over = (deleted.len() as u64) < BACKUPS_AT_ONCE;
        for version in deleted {
            left = left.saturating_sub(store::backup::remove_keys(tx, version, left)?);
            if left == 0 {
                is_over = false;
                break;
            }
            store::backup::remove(tx, version)?;
        }
        if !is_over {
            schedule::at(tx, cx, DELETED_DUE, cx.now_ms.saturating_add(NEXT_SLICE_MS))?;
        }
        Ok(())
    }
}

fn check(algorithm: &str, auth_data: &RawValue) -> Result<(), Refusal> {
    if !auth_data.get().starts_with('{') {
        return Err(Refusal::BadJson("`auth_data` is an object".to_owned()));
    }
    if auth_data.get().len() > AUTH_DATA_BYTES_MAX || algorithm.len() > ALGORITHM_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("`auth_data` can have at most {AUTH_DATA_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The backup with a version, and its number.
pub(super) fn named(sql: &dyn Sql, version: &str) -> Result<(u64, BackupInfo), Error> {
    let number = number(version)?;
    Ok((number, store::backup::get(sql, number)?.ok_or_else(none)?))
}

/// The number of a backup that there is or was.
pub(super) fn once_made(sql: &dyn Sql, version: &str) -> Result<u64, Error> {
    let number = number(version)?;
    if store::backup::was_made(sql, number)? { Ok(number) } else { Err(none()) }
}

fn number(version: &str) -> Result<u64, Error> {
    // Versions are written one way only.
    let number = version.parse::<u64>().ok().filter(|number| *number < 1 << 53 && number.to_string() == version);
    number.ok_or_else(none)
}

fn none() -> Error {
    Refusal::NotFound("There is no such backup".to_owned()).into()
}
