//! The keys of other servers: a row for each, with all that is known of its keys and what it published last.

use domain::federation::server_keys::{KeyDocument, KnownKeys};
use platform::{Fault, Metadata, Statement};
use ruma_common::ServerName;

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

pub(crate) async fn store(
    metadata: &dyn Metadata,
    server: &ServerName,
    keys: &KnownKeys,
    document: &KeyDocument,
    now_ms: u64,
) -> Result<(), Fault> {
    let statement = Statement::new(
        "INSERT INTO remote_key (server_name, known, document, fetched_ms) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (server_name) DO UPDATE
        SET known = excluded.known, document = excluded.document, fetched_ms = excluded.fetched_ms",
        vec![server.as_str().into(), serde_json::to_string(keys)?.into(), document.to_json().into(), now_ms.into()],
    );
    metadata.query(statement).await.map(drop)
}
