//! Brings the metadata database up to date. Hosts may race: every statement may run twice.

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
];

/// That of a database that is up to date.
pub(super) const VERSION: usize = MIGRATIONS.len();

const TABLE: &str = "CREATE TABLE IF NOT EXISTS migration (version BIGINT PRIMARY KEY)";

/// PostgreSQL may refuse one of two that create the same table at once: the loser looks again.
const ATTEMPTS_MAX: usize = 5;

/// Applies what is missing.
///
/// # Errors
/// The database does not answer, or has migrations that this release does not know.
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
    if version > MIGRATIONS.len() as u64 {
        return Err(Fault::new(format!("it has version {version}, newer than this release knows")));
    }
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
