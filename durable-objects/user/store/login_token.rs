//! Tokens for one login each, by their hash.

use platform::{Fault, Tx};

pub(crate) fn put(tx: &Tx<'_>, hash: &str, expires_ms: u64) -> Result<(), Fault> {
    tx.execute("INSERT INTO login_token (hash, expires_ms) VALUES (?1, ?2)", &[hash.into(), expires_ms.into()])?;
    Ok(())
}

/// Removes those that are over, and all but so many of the newest.
pub(crate) fn clear(tx: &Tx<'_>, now_ms: u64, kept: u64) -> Result<(), Fault> {
    tx.execute("DELETE FROM login_token WHERE expires_ms <= ?1", &[now_ms.into()])?;
    tx.execute(
        "DELETE FROM login_token WHERE hash NOT IN (SELECT hash FROM login_token ORDER BY expires_ms DESC, hash LIMIT ?1)",
        &[kept.into()],
    )?;
    Ok(())
}

/// Uses a token up, and answers whether it was good.
pub(crate) fn take(tx: &Tx<'_>, hash: &str, now_ms: u64) -> Result<bool, Fault> {
    let good =
        tx.query("SELECT 1 FROM login_token WHERE hash = ?1 AND expires_ms > ?2", &[hash.into(), now_ms.into()])?;
    tx.execute("DELETE FROM login_token WHERE hash = ?1", &[hash.into()])?;
    Ok(!good.is_empty())
}
