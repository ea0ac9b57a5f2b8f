//! How much of other servers stands beside the log.

use platform::{Fault, Sql, Tx};

/// What an event takes besides its JSON, about.
const EVENT_BYTES: u64 = 200;

/// What an event with so many bytes of JSON takes, about.
pub(crate) fn bytes_of(json: usize) -> u64 {
    EVENT_BYTES.saturating_add(json as u64)
}

/// Bytes held of a server's users.
pub(crate) fn of_server(sql: &dyn Sql, server: &str) -> Result<u64, Fault> {
    let row = sql.query("SELECT bytes FROM beside WHERE server = ?1", &[server.into()])?.pop();
    row.map_or(Ok(0), |mut row| row.unsigned(0))
}

/// Bytes held of all servers with nobody in the room.
pub(crate) fn of_strangers(sql: &dyn Sql) -> Result<u64, Fault> {
    let row = sql
        .query(
            "SELECT coalesce(sum(bytes), 0) FROM beside
             WHERE NOT EXISTS (SELECT 1 FROM server WHERE name = beside.server AND joined > 0)",
            &[],
        )?
        .pop();
    row.map_or(Ok(0), |mut row| row.unsigned(0))
}

/// So many more are held.
pub(crate) fn grows(tx: &Tx<'_>, server: &str, bytes: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO beside (server, bytes) VALUES (?1, ?2) ON CONFLICT (server) DO UPDATE SET bytes = bytes + excluded.bytes",
        &[server.into(), bytes.into()],
    )?;
    Ok(())
}

/// Something that was held of a server is in the log now, or may not have been counted.
pub(crate) fn shrinks(tx: &Tx<'_>, server: &str, bytes: u64) -> Result<(), Fault> {
    tx.execute("UPDATE beside SET bytes = max(0, bytes - ?2) WHERE server = ?1", &[server.into(), bytes.into()])?;
    Ok(())
}

/// Nothing is held any more.
pub(crate) fn clear(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.execute("DELETE FROM beside", &[])?;
    Ok(())
}
