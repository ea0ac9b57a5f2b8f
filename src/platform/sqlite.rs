//! What every host with a SQLite of its own shares: limits, values, statements.
//!
//! Workers have the platform's; for all others, tests included, this is the one place where [`Value`]s become SQLite's
//! and come back.

use rusqlite::{CachedStatement, Connection, config::DbConfig, limits::Limit, types::ValueRef};

use crate::{Fault, INTEGER_MAX, ROW_BYTES_MAX, Row, STATEMENT_PARAMS_MAX, Value, check_params};

/// Beside its largest value a row holds some small ones: the platform's 2 MB.
const ROW_SLACK_BYTES: usize = 100_000;

/// What Durable Objects and D1 allow beside the length of a row and the number of parameters: the documented
/// limits first, then those that only their source names.
const LIMITS: [(Limit, i32); 8] = [
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000),
    (Limit::SQLITE_LIMIT_COLUMN, 100),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 32),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 5),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
];

/// Gives a connection the limits of a Durable Object, so that all hosts refuse the same, and has it keep so many
/// prepared statements, each planned once.
///
/// Without the last of these SQLite compiles anew, each time its parameters change, every statement that orders rows
/// which are equal in a parameter, or has one for a limit: one in five of those that run.
///
/// # Errors
/// What SQLite says.
pub fn set_up(connection: &Connection, statements_kept: usize) -> Result<(), Fault> {
    let row_bytes_max = i32::try_from(ROW_BYTES_MAX + ROW_SLACK_BYTES).unwrap_or(i32::MAX);
    let params_max = i32::try_from(STATEMENT_PARAMS_MAX).unwrap_or(i32::MAX);
    let sizes = [(Limit::SQLITE_LIMIT_LENGTH, row_bytes_max), (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, params_max)];
    for (limit, most) in LIMITS.into_iter().chain(sizes) {
        connection.set_limit(limit, most).map_err(fault)?;
    }
    connection.set_prepared_statement_cache_capacity(statements_kept);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop).map_err(fault)
}

/// Runs one statement and answers all its rows.
///
/// # Errors
/// What SQLite says; parameters beyond the bounds of [`check_params`]; values that no [`Value`] can be.
pub fn query(connection: &Connection, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
    let mut prepared = connection.prepare_cached(statement).map_err(fault)?;
    rows(&mut prepared, params)
}

/// Runs a statement and answers all its rows.
///
/// # Errors
/// As [`query`].
pub fn rows(prepared: &mut CachedStatement<'_>, params: &[Value]) -> Result<Vec<Row>, Fault> {
    check_params(params)?;
    let columns = prepared.column_count();
    let mut found = prepared.query(rusqlite::params_from_iter(params.iter().map(Bound))).map_err(fault)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(fault)? {
        let values = (0..columns).map(|column| value(row.get_ref(column).map_err(fault)?));
        rows.push(Row(values.collect::<Result<_, Fault>>()?));
    }
    Ok(rows)
}

/// Disk full, a damaged file, a broken constraint: SQLite's own words, which quote no values.
pub fn fault(error: rusqlite::Error) -> Fault {
    let busy = matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
    let what = format!("sqlite: {error}");
    if busy { Fault::retriable(what) } else { Fault::new(what) }
}

struct Bound<'a>(&'a Value);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(integer) => ValueRef::Integer(*integer),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn value(found: ValueRef<'_>) -> Result<Value, Fault> {
    match found {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(integer) if integer.unsigned_abs() <= INTEGER_MAX.unsigned_abs() => {
            Ok(Value::Integer(integer))
        }
        ValueRef::Integer(_) => Err(Fault::new("the database answered an integer beyond 2^53 - 1")),
        ValueRef::Real(_) => Err(Fault::new("the database answered a fraction: cast it to an integer")),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Value::Text(text.to_owned())),
            Err(_) => Err(Fault::new("the database answered text that is not UTF-8")),
        },
        ValueRef::Blob(bytes) => Ok(Value::Blob(bytes.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, StatementStatus};

    use super::{rows, set_up};

    #[test]
    fn a_statement_is_planned_once_whatever_its_parameters_are() {
        let connection = Connection::open_in_memory().unwrap();
        set_up(&connection, 8).unwrap();
        connection
            .execute_batch("CREATE TABLE entry (kind TEXT, position INTEGER, PRIMARY KEY (kind, position))")
            .unwrap();
        for parameter in 1..5_u64 {
            for statement in [
                "SELECT position FROM entry WHERE kind = ?1 ORDER BY position",
                "SELECT kind FROM entry ORDER BY kind, position LIMIT ?1",
                "SELECT max(position) FROM entry WHERE kind = ?1",
            ] {
                let mut prepared = connection.prepare_cached(statement).unwrap();
                rows(&mut prepared, &[parameter.into()]).unwrap();
                assert_eq!(prepared.get_status(StatementStatus::RePrepare), 0, "{statement}");
            }
        }
    }
}
