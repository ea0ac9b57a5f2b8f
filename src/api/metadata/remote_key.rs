//! The keys of other servers: a row for each, with all that is known of its keys and what it published last.

use std::{fmt::Write as _, sync::LazyLock};

use domain::federation::server_keys::{KeyDocument, KnownKeys};
use platform::{Fault, Metadata, Row, Statement, Value};
use ruma_common::{OwnedServerName, ServerName};

/// Servers that one statement reads, and writes: D1 takes 100 parameters, and so many statements for one request.
const READ_AT_ONCE: usize = 100;
const WRITTEN_AT_ONCE: usize = 33;

/// What is stored of one server's keys.
pub(crate) struct Stored {
    pub keys: KnownKeys,
    /// The newest document, as the server published it.
    pub document: String,
    /// When that was fetched.
    pub fetched_ms: u64,
}

pub(crate) async fn load(metadata: &dyn Metadata, server: &ServerName) -> Result<Option<Stored>, Fault> {
    let statement = Statement::new(
        "SELECT known, document, fetched_ms FROM remote_key WHERE server_name = ?1",
        vec![server.as_str().into()],
    );
    let Some(mut row) = metadata.query(statement).await?.pop() else { return Ok(None) };
    let keys = serde_json::from_str(&row.text(0)?)?;
    Ok(Some(Stored { keys, document: row.text(1)?, fetched_ms: row.unsigned(2)? }))
}

/// The keys of those of these servers of which there are any.
pub(crate) async fn load_many(
    metadata: &dyn Metadata,
    servers: &[&OwnedServerName],
) -> Result<Vec<(OwnedServerName, KnownKeys)>, Fault> {
    static LOAD: LazyLock<String> = LazyLock::new(|| {
        let names: Vec<String> = (1..=READ_AT_ONCE).map(|number| format!("?{number}")).collect();
        format!("SELECT server_name, known FROM remote_key WHERE server_name IN ({})", names.join(", "))
    });
    let mut all = Vec::new();
    for servers in servers.chunks(READ_AT_ONCE) {
        // The list has a fixed length: its first server fills it up.
        let first = servers.iter().take(1).cycle();
        let names = servers.iter().chain(first).take(READ_AT_ONCE).map(|server| server.as_str().into());
        let rows = metadata.query(Statement::new(&LOAD, names.collect())).await?;
        all.extend(rows.into_iter().map(known).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(all)
}

fn known(mut row: Row) -> Result<(OwnedServerName, KnownKeys), Fault> {
    let server = row.text(0)?.try_into().map_err(|_| Fault::new("a server has a name that is none"))?;
    Ok((server, serde_json::from_str(&row.text(1)?)?))
}

/// What was learned of a server, once.
pub(crate) struct Learned {
    pub server: OwnedServerName,
    pub keys: KnownKeys,
    pub document: KeyDocument,
}

/// Keeps what was learned of servers, each of which is in it once.
pub(crate) async fn store(metadata: &dyn Metadata, learned: &[Learned], now_ms: u64) -> Result<(), Fault> {
    static STORE: LazyLock<String> = LazyLock::new(|| store_statement(WRITTEN_AT_ONCE));
    static STORE_ONE: LazyLock<String> = LazyLock::new(|| store_statement(1));
    let mut statements = Vec::new();
    for learned in learned.chunks(WRITTEN_AT_ONCE) {
        let (statement, rows): (&'static str, _) = match learned {
            [_] => (&STORE_ONE, 1),
            _ => (&STORE, WRITTEN_AT_ONCE),
        };
        let mut params: Vec<Value> = vec![now_ms.into()];
        for Learned { server, keys, document } in learned {
            let (known, document) = (serde_json::to_string(keys)?, document.to_json());
            params.extend([server.as_str().into(), known.into(), document.into()]);
        }
        // The list has a fixed length: who has no name is nobody.
        params.extend(std::iter::repeat_n(Value::from(""), rows.saturating_sub(learned.len()).saturating_mul(3)));
        statements.push(Statement::new(statement, params));
    }
    match statements.pop() {
        Some(only) if statements.is_empty() => metadata.query(only).await.map(drop),
        Some(last) => {
            statements.push(last);
            metadata.batch(statements).await
        }
        None => Ok(()),
    }
}

/// Stores `rows` servers: the time is the first parameter, and name, keys and document of each are the others.
fn store_statement(rows: usize) -> String {
    let mut values = String::new();
    for number in (2..).step_by(3).take(rows) {
        let comma = if values.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(values, "{comma}(?{number}, ?{}, ?{})", number + 1, number + 2);
    }
    format!(
        "WITH learned (server_name, known, document) AS (VALUES {values})
        INSERT INTO remote_key (server_name, known, document, fetched_ms)
        SELECT server_name, known, document, ?1 FROM learned WHERE server_name <> ''
        ON CONFLICT (server_name) DO UPDATE
        SET known = excluded.known, document = excluded.document, fetched_ms = excluded.fetched_ms"
    )
}
