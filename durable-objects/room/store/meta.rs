//! Small facts about the room.

use platform::{Fault, Sql, Tx, Value};

pub(crate) fn text(sql: &dyn Sql, key: &str) -> Result<Option<String>, Fault> {
    match sql.query("SELECT value FROM meta WHERE key = ?1", &[key.into()])?.pop() {
        Some(mut row) => row.text_or_null(0),
        None => Ok(None),
    }
}

pub(crate) fn blob(sql: &dyn Sql, key: &str) -> Result<Vec<u8>, Fault> {
    match sql.query("SELECT value FROM meta WHERE key = ?1", &[key.into()])?.pop() {
        Some(mut row) => row.blob(0),
        None => Ok(Vec::new()),
    }
}

pub(crate) fn set(tx: &Tx<'_>, key: &str, value: Value) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        &[key.into(), value],
    )?;
    Ok(())
}

pub(crate) fn forget(tx: &Tx<'_>, key: &str) -> Result<(), Fault> {
    tx.execute("DELETE FROM meta WHERE key = ?1", &[key.into()])?;
    Ok(())
}
