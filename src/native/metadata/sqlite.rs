use std::path::Path;

use platform::{Fault, LocalFuture, Metadata, Row, Statement, Value, meter};
use rusqlite::Connection;
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use crate::{actor_host, sqlite};

/// Metadata in one SQLite file, served by one thread; every commit waits for the disk.
#[derive(Clone)]
pub(crate) struct SqliteMetadata {
    requests: UnboundedSender<Request>,
}

struct Request {
    statements: Vec<Statement>,
    /// Answers the last statement's rows.
    done: oneshot::Sender<Result<Vec<Row>, Fault>>,
}

impl SqliteMetadata {
    /// Opens or makes the file. Its thread ends when the last handle is dropped.
    pub(crate) fn open(path: &Path) -> Result<Self, Fault> {
        let connection = Connection::open(path).map_err(sqlite::fault)?;
        connection
            .execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            .map_err(sqlite::fault)?;
        sqlite::set_up(&connection)?;
        let (requests, inbox) = unbounded_channel();
        actor_host::spawn("metadata", move || serve(&connection, inbox))?;
        Ok(Self { requests })
    }

    async fn run(&self, statements: Vec<Statement>) -> Result<Vec<Row>, Fault> {
        meter::METADATA_QUERIES.add(statements.len() as u64);
        let (done, outcome) = oneshot::channel();
        let gone = || Fault::retriable("the metadata database is closed");
        self.requests.send(Request { statements, done }).map_err(|_| gone())?;
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Metadata for SqliteMetadata {
    fn query<'a>(&'a self, statement: Statement) -> LocalFuture<'a, Result<Vec<Row>, Fault>> {
        Box::pin(self.run(vec![statement]))
    }

    fn batch<'a>(&'a self, statements: Vec<Statement>) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move { self.run(statements).await.map(|_| ()) })
    }
}

fn serve(connection: &Connection, mut inbox: UnboundedReceiver<Request>) {
    while let Some(Request { statements, done }) = inbox.blocking_recv() {
        let outcome = transaction(connection, &statements);
        // The caller may have left: what it asked for is done all the same.
        let _ = done.send(outcome);
    }
}

fn transaction(connection: &Connection, statements: &[Statement]) -> Result<Vec<Row>, Fault> {
    let transaction = connection.unchecked_transaction().map_err(sqlite::fault)?;
    let mut rows = Vec::new();
    for Statement { sql, params } in statements {
        if params.iter().any(|param| matches!(param, Value::Blob(_))) {
            return Err(Fault::new("metadata keeps no blobs"));
        }
        rows = sqlite::query(&transaction, sql, params)?;
    }
    transaction.commit().map_err(sqlite::fault)?;
    Ok(rows)
}
