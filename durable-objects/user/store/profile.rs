//! The profile: one JSON object of at most 64 KiB in the account's row.

use platform::{Fault, Sql, Tx};
use serde_json::{Map, Value};

pub(crate) type Profile = Map<String, Value>;

pub(crate) fn get(sql: &dyn Sql) -> Result<Profile, Fault> {
    let mut row = sql
        .query("SELECT profile FROM account WHERE id = 1", &[])?
        .pop()
        .ok_or_else(|| Fault::new("the user has no account"))?;
    Ok(serde_json::from_str(&row.text(0)?)?)
}

pub(crate) fn set(tx: &Tx<'_>, profile: &Profile) -> Result<(), Fault> {
    tx.execute("UPDATE account SET profile = ?1 WHERE id = 1", &[serde_json::to_string(profile)?.into()])?;
    Ok(())
}

/// Keeps a profile that became so at `changed_ms`, and that no room knows yet.
pub(crate) fn announce(tx: &Tx<'_>, profile: &Profile, changed_ms: u64) -> Result<(), Fault> {
    tx.execute(
        "UPDATE account SET profile = ?1, profile_changed_ms = ?2, profile_told_to = 0 WHERE id = 1",
        &[serde_json::to_string(profile)?.into(), changed_ms.into()],
    )?;
    Ok(())
}

/// When the last profile that rooms were told of became so, and the number of the room up to which they know it, unless
/// all do.
pub(crate) fn announcement(sql: &dyn Sql) -> Result<Option<(u64, Option<u64>)>, Fault> {
    let Some(mut row) = sql.query("SELECT profile_changed_ms, profile_told_to FROM account WHERE id = 1", &[])?.pop()
    else {
        return Ok(None);
    };
    Ok(row.unsigned_or_null(0)?.zip(Some(row.unsigned_or_null(1)?)))
}

/// The rooms up to this number know the profile.
pub(crate) fn move_announcement(tx: &Tx<'_>, told_to: u64) -> Result<(), Fault> {
    tx.execute("UPDATE account SET profile_told_to = ?1 WHERE id = 1", &[told_to.into()])?;
    Ok(())
}

/// All rooms know the profile.
pub(crate) fn end_announcement(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.execute("UPDATE account SET profile_told_to = NULL WHERE id = 1", &[])?;
    Ok(())
}
