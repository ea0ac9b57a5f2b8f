use std::{cell::RefCell, rc::Rc, time::Duration};

use platform::{Fault, INTEGER_MAX, LocalFuture, Metadata, Row, Statement, Value, check_params, meter};
use tokio::sync::Semaphore;
use tokio_postgres::{
    Client, Config, NoTls,
    config::SslMode,
    types::{ToSql, Type},
};
use tracing::warn;

use super::Claim;

/// Connections per thread of the request tier.
const CONNECTIONS_MAX: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A PostgreSQL server, as given by `--database-url`.
#[derive(Clone)]
pub(crate) struct PostgresAddress {
    config: Config,
}

impl PostgresAddress {
    /// Reads a `postgres://user:password@host:port/database` URL.
    ///
    /// Refuses `sslmode=require`: connections are not encrypted, so the server should be on this machine or
    /// behind a tunnel.
    pub(crate) fn parse(url: &str) -> Result<Self, Fault> {
        // The error would quote the URL, and with it the password.
        let mut config: Config = url.parse().map_err(|_| Fault::new("--database-url is not a postgres:// URL"))?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(Fault::new(
                "--database-url asks for sslmode=require, but connections to PostgreSQL are not encrypted: \
                 use a local server or a tunnel, and leave sslmode out",
            ));
        }
        config.ssl_mode(SslMode::Disable).application_name("myelin");
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        Ok(Self { config })
    }

    pub(crate) async fn claim(&self) -> Result<Claim, Fault> {
        Claim::of(self.config.clone()).await
    }

    /// One thread's connections, opened when needed.
    pub(crate) fn pool(&self) -> PostgresMetadata {
        PostgresMetadata { config: self.config.clone(), turns: Semaphore::new(CONNECTIONS_MAX), idle: Rc::default() }
    }
}

/// Metadata in PostgreSQL.
pub(crate) struct PostgresMetadata {
    config: Config,
    turns: Semaphore,
    idle: Rc<RefCell<Vec<Client>>>,
}

impl PostgresMetadata {
    async fn client(&self) -> Result<Client, Fault> {
        loop {
            let Some(client) = self.idle.borrow_mut().pop() else { break };
            if !client.is_closed() {
                return Ok(client);
            }
        }
        let (client, connection) = self.config.connect(NoTls).await.map_err(fault)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                warn!(%error, "a connection to PostgreSQL ended");
            }
        });
        Ok(client)
    }

    /// Runs the statements, in a transaction if asked. A connection goes back to the pool only when all went
    /// well or the server said no: one dropped halfway closes, and the server rolls back.
    async fn run(&self, statements: &[Statement], in_transaction: bool) -> Result<Vec<Row>, Fault> {
        meter::METADATA_QUERIES.add(statements.len() as u64);
        let _turn = self.turns.acquire().await.map_err(|_| Fault::retriable("the host is shutting down"))?;
        let client = self.client().await?;
        let outcome = if in_transaction { batch(&client, statements).await } else { all(&client, statements).await };
        if !client.is_closed() {
            self.idle.borrow_mut().push(client);
        }
        outcome
    }
}

impl Metadata for PostgresMetadata {
    fn query<'a>(&'a self, statement: Statement) -> LocalFuture<'a, Result<Vec<Row>, Fault>> {
        Box::pin(async move { self.run(&[statement], false).await })
    }

    fn batch<'a>(&'a self, statements: Vec<Statement>) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move { self.run(&statements, true).await.map(|_| ()) })
    }
}

async fn batch(client: &Client, statements: &[Statement]) -> Result<Vec<Row>, Fault> {
    client.batch_execute("BEGIN").await.map_err(fault)?;
    match all(client, statements).await {
        Ok(rows) => client.batch_execute("COMMIT").await.map_err(fault).map(|()| rows),
        Err(fault) => {
            if let Err(error) = client.batch_execute("ROLLBACK").await {
                warn!(%error, "PostgreSQL did not roll back");
            }
            Err(fault)
        }
    }
}

async fn all(client: &Client, statements: &[Statement]) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    for statement in statements {
        rows = one(client, statement).await?;
    }
    Ok(rows)
}

async fn one(client: &Client, Statement { sql, params }: &Statement) -> Result<Vec<Row>, Fault> {
    check_params(params)?;
    let params = params.iter().map(bound).collect::<Result<Vec<_>, Fault>>()?;
    let found = client.query_typed(&translated(sql), &params).await.map_err(fault)?;
    found.iter().map(row).collect()
}

fn bound(value: &Value) -> Result<(&(dyn ToSql + Sync), Type), Fault> {
    match value {
        Value::Null => Ok((&None::<&str>, Type::UNKNOWN)),
        Value::Integer(integer) => Ok((integer, Type::INT8)),
        Value::Text(text) => Ok((text, Type::TEXT)),
        Value::Blob(_) => Err(Fault::new("metadata keeps no blobs")),
    }
}

fn row(found: &tokio_postgres::Row) -> Result<Row, Fault> {
    let columns = found.columns().iter().enumerate();
    columns.map(|(place, column)| value(found, place, column.type_())).collect::<Result<_, Fault>>().map(Row)
}

fn value(row: &tokio_postgres::Row, place: usize, kind: &Type) -> Result<Value, Fault> {
    let integer = match *kind {
        Type::INT8 => row.try_get::<_, Option<i64>>(place).map_err(fault)?,
        Type::INT4 => row.try_get::<_, Option<i32>>(place).map_err(fault)?.map(i64::from),
        Type::INT2 => row.try_get::<_, Option<i16>>(place).map_err(fault)?.map(i64::from),
        Type::BOOL => row.try_get::<_, Option<bool>>(place).map_err(fault)?.map(i64::from),
        Type::TEXT | Type::VARCHAR | Type::NAME | Type::UNKNOWN => {
            return Ok(row.try_get::<_, Option<String>>(place).map_err(fault)?.into());
        }
        _ => return Err(Fault::new(format!("PostgreSQL answered a column of type {kind}"))),
    };
    match integer {
        Some(integer) if integer.unsigned_abs() > INTEGER_MAX.unsigned_abs() => {
            Err(Fault::new("the database answered an integer beyond 2^53 - 1"))
        }
        integer => Ok(integer.into()),
    }
}

/// `?1` is `$1` here. Quoted text stays as it is.
fn translated(sql: &str) -> String {
    let mut quoted = false;
    let translate = |character| {
        quoted ^= character == '\'';
        if character == '?' && !quoted { '$' } else { character }
    };
    sql.chars().map(translate).collect()
}

/// The server's words for its own errors, which quote no parameters; a lost connection may be tried again.
pub(super) fn fault(error: tokio_postgres::Error) -> Fault {
    match error.as_db_error() {
        Some(refused) => Fault::new(format!("postgres: {}: {}", refused.code().code(), refused.message())),
        None if error.is_closed() => Fault::retriable("postgres: the connection was lost"),
        None => Fault::retriable(format!("postgres: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_translated_outside_quotes() {
        assert_eq!(
            translated("SELECT '?1', a FROM t WHERE b = ?1 AND c = ?2"),
            "SELECT '?1', a FROM t WHERE b = $1 AND c = $2"
        );
    }

    #[test]
    fn encrypted_connections_are_refused_with_a_reason() {
        let refused = PostgresAddress::parse("postgres://localhost/myelin?sslmode=require").err();
        assert!(refused.is_some_and(|fault| fault.to_string().contains("sslmode=require")));
    }
}
