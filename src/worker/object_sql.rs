//! An object's own SQLite database.

use js_sys::{Array, ArrayBuffer, Uint8Array};
use platform::{Fault, INTEGER_MAX, Row, Sql, Value, check_params, meter};
use wasm_bindgen::{JsCast, JsValue};

use crate::js::{self, SqlStorage, Storage};

/// Thrown by a transaction's body to have it rolled back.
const ROLLED_BACK: &str = "rolled back by its own body";

/// The storage of one Durable Object as [`Sql`].
pub(crate) struct ObjectSql {
    storage: Storage,
    sql: SqlStorage,
}

impl ObjectSql {
    pub(crate) fn new(storage: Storage) -> Self {
        let sql = storage.sql();
        Self { storage, sql }
    }
}

impl Sql for ObjectSql {
    fn query(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
        check_params(params)?;
        let params: Array = params.iter().map(to_js).collect();
        let failed = |thrown: JsValue| js::fault("SQL", &thrown);
        let cursor = self.sql.exec(statement, &params).map_err(failed)?;
        let rows = cursor.raw().and_then(|rows| rows.to_array()).map_err(failed)?;
        meter::ROWS_READ.add(count(cursor.rows_read()));
        meter::ROWS_WRITTEN.add(count(cursor.rows_written()));
        rows.iter().map(|row| row_from_js(&row)).collect()
    }

    fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        let outcome = self.storage.transaction_sync(&mut || {
            // The runtime rolls back when, and only when, the body throws.
            if body() { Ok(JsValue::UNDEFINED) } else { Err(ROLLED_BACK.into()) }
        });
        match outcome {
            Ok(_) => Ok(()),
            Err(thrown) if thrown.as_string().as_deref() == Some(ROLLED_BACK) => Ok(()),
            Err(thrown) => Err(js::fault("transaction", &thrown)),
        }
    }
}

/// A parameter as the runtime takes it. Integers are numbers: [`check_params`] keeps them below 2^53.
pub(crate) fn to_js(value: &Value) -> JsValue {
    match value {
        Value::Null => JsValue::NULL,
        Value::Integer(integer) => JsValue::from_f64(*integer as f64),
        Value::Text(text) => JsValue::from_str(text),
        Value::Blob(bytes) => Uint8Array::from(bytes.as_slice()).into(),
    }
}

/// A row, which the runtime gives as an array of its columns.
///
/// # Errors
/// A column that is neither null, an integer below 2^53, text nor a blob.
pub(crate) fn row_from_js(row: &JsValue) -> Result<Row, Fault> {
    let columns = row.dyn_ref::<Array>().ok_or_else(|| Fault::new("a row that is not an array"))?;
    columns.iter().map(|column| from_js(&column)).collect::<Result<_, _>>().map(Row)
}

fn from_js(value: &JsValue) -> Result<Value, Fault> {
    if value.is_null() || value.is_undefined() {
        return Ok(Value::Null);
    }
    if let Some(number) = value.as_f64() {
        let exact = number.fract() == 0.0 && number.abs() <= INTEGER_MAX as f64;
        return if exact { Ok(Value::Integer(number as i64)) } else { Err(Fault::new("a number that is no integer")) };
    }
    if let Some(text) = value.as_string() {
        return Ok(Value::Text(text));
    }
    match value.dyn_ref::<ArrayBuffer>() {
        Some(buffer) => Ok(Value::Blob(Uint8Array::new(buffer).to_vec())),
        None => Err(Fault::new("a column of unknown type")),
    }
}

fn count(rows: f64) -> u64 {
    rows as u64
}
