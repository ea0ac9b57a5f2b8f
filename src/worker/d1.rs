//! The metadata database in D1.

use platform::{Fault, LocalFuture, Metadata, Row, Statement, check_params, meter};
use wasm_bindgen::JsValue;
use worker::{D1Database, D1PreparedStatement};

use crate::{
    js,
    object_sql::{row_from_js, to_js},
};

/// D1, without sessions: every read sees the primary.
pub(crate) struct D1(pub(crate) D1Database);

impl D1 {
    fn prepare(&self, statement: &Statement) -> Result<D1PreparedStatement, Fault> {
        check_params(&statement.params)?;
        meter::METADATA_QUERIES.add(1);
        let params: Vec<JsValue> = statement.params.iter().map(to_js).collect();
        self.0.prepare(statement.sql).bind(&params).map_err(failed)
    }
}

impl Metadata for D1 {
    fn query<'a>(&'a self, statement: Statement) -> LocalFuture<'a, Result<Vec<Row>, Fault>> {
        Box::pin(async move {
            let rows = self.prepare(&statement)?.raw_js_value().await.map_err(failed)?;
            rows.iter().map(row_from_js).collect()
        })
    }

    fn batch<'a>(&'a self, statements: Vec<Statement>) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            // It knows no batch of nothing.
            if statements.is_empty() {
                return Ok(());
            }
            let prepared = statements.iter().map(|statement| self.prepare(statement)).collect::<Result<Vec<_>, _>>()?;
            // D1 runs a batch as one transaction.
            self.0.batch(prepared).await.map_err(failed)?;
            Ok(())
        })
    }
}

fn failed(error: worker::Error) -> Fault {
    match error {
        worker::Error::D1(error) => js::fault("D1", error.as_ref()),
        error => Fault::new(format!("D1: {error}")),
    }
}
