//! Migrates an actor on first touch.
//!
//! Schemas only grow; each file of an actor's `migrations/` runs once, in order, and the version is bumped in
//! the same transaction. Only founding calls lay out an empty actor: strangers cannot make storage. It gets what all
//! migrations make, its `layout.sql`, at once: that is a third of the statements, and none that SQLite reads the whole
//! schema anew for.

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

/// Lays out an empty actor, inside the founding transaction, as so many migrations make it.
pub(crate) fn found(tx: &Tx<'_>, layout: &str, version: usize) -> Result<(), Fault> {
    for statement in statements(BASE).iter().chain(&statements(layout)) {
        tx.execute(statement, &[])?;
    }
    tx.execute("INSERT INTO schema_version (version) VALUES (?1)", &[(version as u64).into()])?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use platform::{Sql, transact};

    use super::{apply, found, migrate, version};
    use crate::{
        appservice::Appservice, destination::Destination, object::Logic, room::Room, user::User, world::MemorySql,
    };

    /// An actor as an old release left it, in rows that today's must keep.
    const OLD_USER: &[&str] = &[
        "INSERT INTO account (id, created_ms, founded_by, password_hash, admin, profile) VALUES (1, 1, 'c', 'h', 1, '{}')",
        "INSERT INTO device (device_id, token_hash, display_name, created_ms) VALUES ('D', 't', 'Phone', 1)",
        "INSERT INTO filter (id, content) VALUES ('f', '{}')",
        "INSERT INTO room (room_id, membership, effect, changed, told) VALUES ('!r:a', 'join', 1, 1, 1)",
        "INSERT INTO move (slot, position, room, after, up_to) VALUES (0, 1, 1, 0, 1)",
        "INSERT INTO spill (slot, row, rooms) VALUES (1, 1, '{}')",
    ];
    const OLD_ROOM: &[&str] = &[
        "INSERT INTO meta (key, value) VALUES ('version', '12')",
        "INSERT INTO event (position, event_id, type, state_key, sender, json) VALUES (1, '$e', 't', '', '@a:a', '{}')",
        "INSERT INTO state (type, state_key, position) VALUES ('t', '', 1)",
        "INSERT INTO state_change (type, state_key, position, after) VALUES ('t', '', 1, 1)",
        "INSERT INTO member (user_id, membership, position, follower) VALUES ('@a:a', 'join', 1, 0)",
    ];

    /// What there is, in the words that made it, however they are spaced.
    fn layout(sql: &dyn Sql) -> Vec<(String, String)> {
        let rows = sql.query("SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name", &[]).unwrap();
        let words = |text: String| text.split_whitespace().collect::<String>();
        rows.into_iter().map(|mut row| (row.text(0).unwrap(), words(row.text(1).unwrap()))).collect()
    }

    /// One that was founded when there were so many migrations.
    fn of_old(migrations: &[&str], rows: &[&str]) -> MemorySql {
        let sql = MemorySql::new();
        transact(&sql, |tx| {
            found(tx, "", 0)?;
            apply(tx, migrations, 0)?;
            rows.iter().try_for_each(|row| tx.execute(row, &[]).map(drop))
        })
        .unwrap();
        sql
    }

    #[test]
    fn a_new_actor_is_laid_out_as_all_migrations_make_it() {
        let actors: [Box<dyn Logic>; 4] = [
            Box::new(User::default()),
            Box::new(Room::default()),
            Box::new(Destination::default()),
            Box::new(Appservice::default()),
        ];
        for logic in actors {
            let (migrations, new) = (logic.migrations(), MemorySql::new());
            transact(&new, |tx| found(tx, logic.layout(), migrations.len())).unwrap();
            let (new_layout, migrated) = (layout(&new), of_old(migrations, &[]));
            for (one, other) in new_layout.iter().zip(&layout(&migrated)) {
                assert_eq!(one, other, "layout.sql is not what the migrations make");
            }
            assert_eq!(new_layout.len(), layout(&migrated).len());
            assert_eq!(version(&new).unwrap(), version(&migrated).unwrap());
            // None of them writes down anything in an empty actor.
            for (table, _) in
                new_layout.iter().filter(|(name, words)| name != "schema_version" && words.contains("TABLE"))
            {
                assert_eq!(count(&migrated, table), 0, "{table}");
            }
        }
    }

    fn count(sql: &dyn Sql, table: &str) -> u64 {
        sql.query(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().pop().unwrap().unsigned(0).unwrap()
    }

    #[test]
    fn every_older_actor_comes_up_to_date_with_what_it_holds() {
        let actors: [(Box<dyn Logic>, &[&str]); 2] =
            [(Box::new(User::default()), OLD_USER), (Box::new(Room::default()), OLD_ROOM)];
        for (logic, rows) in actors {
            let migrations = logic.migrations();
            let new = of_old(migrations, &[]);
            for old_version in 1..migrations.len() {
                let sql = of_old(&migrations[..1], rows);
                for step in [old_version, migrations.len()] {
                    assert!(migrate(&sql, &migrations[..step]).unwrap());
                }
                assert_eq!(version(&sql).unwrap(), Some(migrations.len()));
                assert_eq!(layout(&sql), layout(&new), "from version {old_version}");
                for row in rows {
                    let table = row.split(' ').nth(2).unwrap();
                    assert_eq!(count(&sql, table), u64::from(table != "spill"), "{table} from version {old_version}");
                }
            }
        }
    }
}
