use crate::{Fault, LocalFuture, Row, Value};

/// One statement with its parameters.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Portable SQL with `?1`, `?2`, … as placeholders.
    pub sql: &'static str,
    /// Text and integers only.
    pub params: Vec<Value>,
}

impl Statement {
    pub fn new(sql: &'static str, params: Vec<Value>) -> Self {
        Self { sql, params }
    }
}

/// The metadata database: what must be found across actors. D1, Postgres through Hyperdrive, SQLite, Postgres.
///
/// One set of statements serves all four: the common subset of SQLite and PostgreSQL, columns of `TEXT`
/// and `BIGINT`, `ON CONFLICT`, `RETURNING`. Reads see the primary.
pub trait Metadata {
    /// Runs one statement and answers its rows.
    fn query<'a>(&'a self, statement: Statement) -> LocalFuture<'a, Result<Vec<Row>, Fault>>;

    /// Runs all the statements in one transaction, or none of them.
    fn batch<'a>(&'a self, statements: Vec<Statement>) -> LocalFuture<'a, Result<(), Fault>>;
}
