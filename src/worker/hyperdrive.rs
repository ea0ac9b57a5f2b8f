//! The metadata database in PostgreSQL, through Hyperdrive.
//!
//! One connection for each request or object that needs it, opened with the first statement and closed with
//! the last reference: a socket of the runtime belongs to the request that opened it.

use futures_util::lock::Mutex;
use platform::{Fault, LocalFuture, Metadata, Row, Statement, Value, check_params, meter};
use tokio_postgres::{
    Client, NoTls,
    types::{FromSql, ToSql, Type},
};
use wasm_bindgen_futures::spawn_local;
use worker::Hyperdrive;

/// PostgreSQL as [`Metadata`].
pub(crate) struct Postgres {
    hyperdrive: Hyperdrive,
    /// Empty before the first statement, while one runs, and after one failed or was dropped half way: a
    /// connection in an unknown state is never used again.
    client: Mutex<Option<Client>>,
}

impl Postgres {
    pub(crate) fn new(hyperdrive: Hyperdrive) -> Self {
        Self { hyperdrive, client: Mutex::new(None) }
    }

    async fn connect(&self) -> Result<Client, Fault> {
        let mut config = tokio_postgres::Config::new();
        config.user(self.hyperdrive.user()).password(self.hyperdrive.password()).dbname(self.hyperdrive.database());
        let socket = self.hyperdrive.connect().map_err(|error| Fault::retriable(format!("Hyperdrive: {error}")))?;
        let (client, connection) = config.connect_raw(socket, NoTls).await.map_err(failed)?;
        spawn_local(async move {
            // What breaks here also breaks the statement that waits for it, which reports it.
            let _ = connection.await;
        });
        Ok(client)
    }
}

impl Metadata for Postgres {
    fn query<'a>(&'a self, statement: Statement) -> LocalFuture<'a, Result<Vec<Row>, Fault>> {
        Box::pin(async move {
            let mut slot = self.client.lock().await;
            let client = match slot.take() {
                Some(client) => client,
                None => self.connect().await?,
            };
            let rows = run(&client, &statement).await?;
            *slot = Some(client);
            Ok(rows)
        })
    }

    fn batch<'a>(&'a self, statements: Vec<Statement>) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let mut slot = self.client.lock().await;
            let mut client = match slot.take() {
                Some(client) => client,
                None => self.connect().await?,
            };
            let transaction = client.transaction().await.map_err(failed)?;
            for statement in &statements {
                run(transaction.client(), statement).await?;
            }
            transaction.commit().await.map_err(failed)?;
            *slot = Some(client);
            Ok(())
        })
    }
}

async fn run(client: &Client, statement: &Statement) -> Result<Vec<Row>, Fault> {
    check_params(&statement.params)?;
    meter::METADATA_QUERIES.add(1);
    let params = statement.params.iter().map(typed).collect::<Result<Vec<_>, _>>()?;
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        params.iter().map(|(value, kind)| (&**value, kind.clone())).collect();
    // Parameters carry their types, which saves the round trip of preparing.
    let rows = client.query_typed(&numbered(statement.sql), &params).await.map_err(failed)?;
    rows.iter().map(row_from_postgres).collect()
}

/// `?1` becomes `$1`, except inside a literal.
fn numbered(sql: &str) -> String {
    let mut in_literal = false;
    let spelled = |c| {
        // A quote inside a literal is doubled, which ends and begins it again.
        in_literal ^= c == '\'';
        if c == '?' && !in_literal { '$' } else { c }
    };
    sql.chars().map(spelled).collect()
}

type Param<'a> = (Box<dyn ToSql + Sync + 'a>, Type);

fn typed(value: &Value) -> Result<Param<'_>, Fault> {
    Ok(match value {
        // Its type is what the statement makes of it.
        Value::Null => (Box::new(None::<&str>), Type::UNKNOWN),
        Value::Integer(integer) => (Box::new(*integer), Type::INT8),
        Value::Text(text) => (Box::new(text.as_str()), Type::TEXT),
        Value::Blob(_) => return Err(Fault::new("metadata keeps no blobs")),
    })
}

fn row_from_postgres(row: &tokio_postgres::Row) -> Result<Row, Fault> {
    let value = |(index, column): (usize, &tokio_postgres::Column)| match *column.type_() {
        Type::INT8 => read::<i64>(row, index),
        Type::INT4 => row.try_get::<_, Option<i32>>(index).map(|number| number.map(i64::from).into()).map_err(failed),
        Type::TEXT | Type::VARCHAR => read::<String>(row, index),
        Type::BOOL => read::<bool>(row, index),
        ref other => Err(Fault::new(format!("a metadata column of type {other}"))),
    };
    row.columns().iter().enumerate().map(value).collect::<Result<_, _>>().map(Row)
}

fn read<'a, T: FromSql<'a> + Into<Value>>(row: &'a tokio_postgres::Row, index: usize) -> Result<Value, Fault> {
    row.try_get::<_, Option<T>>(index).map(Value::from).map_err(failed)
}

fn failed(error: tokio_postgres::Error) -> Fault {
    match error.as_db_error() {
        Some(refused) => Fault::new(format!("Postgres: {}", refused.message())),
        None => Fault::retriable(format!("Postgres: {error}")),
    }
}
