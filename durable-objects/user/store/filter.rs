//! Filters a client keeps here, by their id.

use platform::{Fault, Sql, Tx};

/// Keeps a filter; the same again within `anew_ms` changes nothing.
pub(crate) fn put(tx: &Tx<'_>, id: &str, content: &str, now_ms: u64, anew_ms: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO filter (id, content, kept_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET kept_ms = excluded.kept_ms WHERE kept_ms < ?4",
        &[id.into(), content.into(), now_ms.into(), now_ms.saturating_sub(anew_ms).into()],
    )?;
    Ok(())
}

/// Forgets the one that was kept the longest ago.
pub(crate) fn forget_oldest(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.execute("DELETE FROM filter WHERE id = (SELECT id FROM filter ORDER BY kept_ms, id LIMIT 1)", &[])?;
    Ok(())
}

/// The filter's JSON.
pub(crate) fn get(sql: &dyn Sql, id: &str) -> Result<Option<String>, Fault> {
    sql.query("SELECT content FROM filter WHERE id = ?1", &[id.into()])?.pop().map(|mut row| row.text(0)).transpose()
}

pub(crate) fn count(sql: &dyn Sql) -> Result<u64, Fault> {
    sql.query("SELECT count(*) FROM filter", &[])?.pop().map_or(Ok(0), |mut row| row.unsigned(0))
}
