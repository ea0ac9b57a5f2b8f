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
