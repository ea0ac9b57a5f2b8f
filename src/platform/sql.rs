use crate::{Fault, INTEGER_MAX, Row, Value};

/// The platform binds at most this many parameters to a statement; longer lists go through `json_each(?)`.
pub const STATEMENT_PARAMS_MAX: usize = 100;
/// The largest text or blob, in bytes, that a row may hold. Durable Objects allow 2 MB a row.
pub const ROW_BYTES_MAX: usize = 1_900_000;

/// One actor's private SQLite database. Synchronous, as in a Durable Object.
///
/// Reading needs only this trait; changing anything needs a [`Tx`], which only [`transact`] makes.
pub trait Sql {
    /// Runs one statement and answers all its rows. Placeholders are `?1`, `?2`, …
    ///
    /// Implementations call [`check_params`] first, so that both hosts refuse what one of them cannot keep.
    fn query(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault>;

    /// Runs `body` in a transaction; commits if it returns true, rolls everything back otherwise.
    fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), Fault>;
}

/// Proof that a write happens inside a transaction: a store function that changes something takes one.
pub struct Tx<'a>(&'a dyn Sql);

impl Tx<'_> {
    /// Runs a statement that changes rows and answers what it returned (`RETURNING`), or nothing.
    pub fn execute(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
        self.0.query(statement, params)
    }
}

impl<'a> std::ops::Deref for Tx<'a> {
    type Target = dyn Sql + 'a;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

/// Runs `body` in one transaction. `Err`, of either kind, rolls back.
pub fn transact<T, E: From<Fault>>(sql: &dyn Sql, body: impl FnOnce(&Tx<'_>) -> Result<T, E>) -> Result<T, E> {
    let (mut body, mut outcome) = (Some(body), None);
    sql.atomically(&mut || {
        let Some(body) = body.take() else { return false };
        let result = body(&Tx(sql));
        let keep = result.is_ok();
        outcome = Some(result);
        keep
    })?;
    outcome.unwrap_or_else(|| Err(Fault::new("the database did not run the transaction").into()))
}

/// Refuses parameters that some host would reject, truncate or round.
pub fn check_params(params: &[Value]) -> Result<(), Fault> {
    if params.len() > STATEMENT_PARAMS_MAX {
        return Err(Fault::new(format!("{} parameters, {STATEMENT_PARAMS_MAX} at most", params.len())));
    }
    for param in params {
        match param {
            Value::Integer(integer) if integer.unsigned_abs() > INTEGER_MAX.unsigned_abs() => {
                return Err(Fault::new("integer beyond 2^53 - 1"));
            }
            Value::Text(text) if text.len() > ROW_BYTES_MAX => return Err(Fault::new("text beyond the row limit")),
            Value::Blob(bytes) if bytes.len() > ROW_BYTES_MAX => return Err(Fault::new("blob beyond the row limit")),
            Value::Null | Value::Integer(_) | Value::Text(_) | Value::Blob(_) => {}
        }
    }
    Ok(())
}
