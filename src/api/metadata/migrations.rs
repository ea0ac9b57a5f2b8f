//! Brings the metadata database up to date. Hosts may race: every statement may run twice.
//!
//! Migrations only add: during a rollout the release before this one works on the same database, and after a rollback
//! it does so for good.

use platform::{Fault, Metadata, Statement};

const MIGRATIONS: &[&str] = &[
    include_str!("../../../d1-migrations/0001_init.sql"),
    include_str!("../../../d1-migrations/0002_directory.sql"),
    include_str!("../../../d1-migrations/0003_remote_key.sql"),
    include_str!("../../../d1-migrations/0004_media.sql"),
    include_str!("../../../d1-migrations/0005_pusher.sql"),
    include_str!("../../../d1-migrations/0006_open_room.sql"),
    include_str!("../../../d1-migrations/0007_remote_media.sql"),
    include_str!("../../../d1-migrations/0008_url_preview.sql"),
    include_str!("../../../d1-migrations/0009_networks.sql"),
    include_str!("../../../d1-migrations/0010_contacts.sql"),
    include_str!("../../../d1-migrations/0011_media_leaving.sql"),
];

/// That of a database that is up to date.
pub(super) const VERSION: u64 = MIGRATIONS.len() as u64;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS migration (version BIGINT PRIMARY KEY)";

/// PostgreSQL may refuse one of two that create the same table at once: the loser looks again.
const ATTEMPTS_MAX: usize = 5;

/// Applies what is missing. A database newer than this release serves as it is.
///
/// # Errors
/// The database does not answer.
pub(super) async fn apply(metadata: &dyn Metadata) -> Result<(), Fault> {
    let mut attempt = 1;
    loop {
        match apply_once(metadata).await {
            Err(_) if attempt < ATTEMPTS_MAX => attempt += 1,
            outcome => return outcome.map_err(|fault| fault.within("migrating the metadata database")),
        }
    }
}

async fn apply_once(metadata: &dyn Metadata) -> Result<(), Fault> {
    let version = match version(metadata).await {
        Ok(version) => version,
        // Most likely the table is not there yet; if it is something else, this fails too.
        Err(_) => {
            metadata.query(Statement::new(TABLE, vec![])).await?;
            version(metadata).await?
        }
    };
    for (number, migration) in (1_u64..).zip(MIGRATIONS).skip_while(|(number, _)| *number <= version) {
        let mut batch: Vec<Statement> = statements(migration).map(|sql| Statement::new(sql, vec![])).collect();
        batch.push(Statement::new(
            "INSERT INTO migration (version) VALUES (?1) ON CONFLICT (version) DO NOTHING",
            vec![number.into()],
        ));
        metadata.batch(batch).await?;
    }
    Ok(())
}

/// How many migrations ran.
async fn version(metadata: &dyn Metadata) -> Result<u64, Fault> {
    let rows = metadata.query(Statement::new("SELECT version FROM migration ORDER BY version DESC LIMIT 1", vec![]));
    rows.await?.pop().map_or(Ok(0), |mut row| row.unsigned(0))
}

fn statements(script: &'static str) -> impl Iterator<Item = &'static str> {
    script.split(';').map(str::trim).filter(|statement| !statement.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemoryMetadata, block_on};

    #[test]
    fn a_database_of_a_newer_release_serves_as_it_is() {
        let metadata = MemoryMetadata::default();
        let asks = |sql, params| block_on(metadata.query(Statement::new(sql, params)));
        block_on(apply(&metadata)).unwrap();
        let newer = VERSION + 1;
        asks("INSERT INTO migration (version) VALUES (?1)", vec![newer.into()]).unwrap();
        asks("ALTER TABLE report ADD COLUMN of_tomorrow TEXT", vec![]).unwrap();
        block_on(apply(&metadata)).unwrap();
        assert_eq!(block_on(version(&metadata)).unwrap(), newer);
    }

    #[test]
    fn migrations_only_add() {
        // Indexes that were dropped when their like took their place: statements do without them, more slowly.
        const DROPPED: [&str; 2] = ["DROP INDEX IF EXISTS media_by_access", "DROP INDEX IF EXISTS media_of_uploader"];
        let adds = |statement: &str| {
            let words: Vec<_> = statement.split_whitespace().collect();
            match words.as_slice() {
                ["CREATE", "TABLE" | "INDEX", "IF", "NOT", "EXISTS", ..] => true,
                ["ALTER", "TABLE", _, "ADD", "COLUMN", ..] => {
                    // The release before fills no column that it does not know.
                    !statement.contains("NOT NULL") || statement.contains("DEFAULT")
                }
                _ => false,
            }
        };
        for migration in MIGRATIONS {
            for statement in statements(migration) {
                let lines = statement.lines().filter(|line| !line.starts_with("--"));
                let statement = lines.collect::<Vec<_>>().join("\n");
                assert!(DROPPED.contains(&&*statement) || adds(&statement), "{statement}");
            }
        }
    }
}
