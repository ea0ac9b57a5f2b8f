//! Migrates an actor on first touch.
//!
//! Schemas only grow; each file of an actor's `migrations/` runs once, in order, and the version is bumped in
//! the same transaction. Only founding calls lay out an empty actor: strangers cannot make storage.

use platform::{Fault, Row, Sql, Tx, transact};

/// Every actor's own tables, before its migrations.
const BASE: &str = "CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE due (what TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, actor TEXT NOT NULL, call TEXT NOT NULL, body TEXT NOT NULL, attempts INTEGER NOT NULL, due_ms INTEGER NOT NULL)";

/// The schema's version: how many migrations ran; `None` for an actor that was never founded.
fn version(sql: &dyn Sql) -> Result<Option<usize>, Fault> {
    let exists = sql.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'", &[])?;
    if exists.is_empty() {
        return Ok(None);
    }
    let row: Option<Row> = sql.query("SELECT version FROM schema_version", &[])?.pop();
    let version = row.ok_or_else(|| Fault::new("schema_version is empty"))?.unsigned(0)?;
    Ok(Some(usize::try_from(version).unwrap_or(usize::MAX)))
}

/// Brings an existing schema up to date; answers whether there is one at all. A schema newer than this release, left by
/// one that was rolled back, serves as it is: schemas only grow.
pub(crate) fn migrate(sql: &dyn Sql, migrations: &[&str]) -> Result<bool, Fault> {
    let Some(version) = version(sql)? else { return Ok(false) };
    if version < migrations.len() {
        transact(sql, |tx| apply(tx, migrations, version))?;
    }
    Ok(true)
}

/// Lays out an empty actor, inside the founding transaction.
pub(crate) fn found(tx: &Tx<'_>, migrations: &[&str]) -> Result<(), Fault> {
    for statement in statements(BASE) {
        tx.execute(&statement, &[])?;
    }
    tx.execute("INSERT INTO schema_version (version) VALUES (0)", &[])?;
    apply(tx, migrations, 0)
}

fn apply(tx: &Tx<'_>, migrations: &[&str], from: usize) -> Result<(), Fault> {
    for migration in migrations.iter().skip(from) {
        for statement in statements(migration) {
            tx.execute(&statement, &[])?;
        }
    }
    tx.execute("UPDATE schema_version SET version = ?1", &[(migrations.len() as u64).into()])?;
    Ok(())
}

/// The statements of a script. Comments stand on lines of their own; no statement has a semicolon inside.
fn statements(script: &str) -> Vec<String> {
    let lines = script.lines().filter(|line| !line.trim_start().starts_with("--"));
    let script = lines.collect::<Vec<_>>().join("\n");
    script.split(';').map(str::trim).filter(|statement| !statement.is_empty()).map(ToOwned::to_owned).collect()
}
