//! Filters a client keeps here, by their id.

use platform::{Fault, Sql, Tx};

/// Keeps a filter; the same again changes nothing.
pub(crate) fn put(tx: &Tx<'_>, id: &str, content: &str) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO filter (id, content) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING",
        &[id.into(), content.into()],
    )?;
    Ok(())
}

/// The filter's JSON.
pub(crate) fn get(sql: &dyn Sql, id: &str) -> Result<Option<String>, Fault> {
    sql.query("SELECT content FROM filter WHERE id = ?1", &[id.into()])?.pop().map(|mut row| row.text(0)).transpose()
}

pub(crate) fn count(sql: &dyn Sql) -> Result<u64, Fault> {
    sql.query("SELECT count(*) FROM filter", &[])?.pop().map_or(Ok(0), |mut row| row.unsigned(0))
}
