//! SQLite in memory, used again and again: a story has dozens of actors, and most of what SQLite does for them is to
//! lay out their tables and to read what their statements mean. A database that is not needed any more is emptied, and
//! kept with its tables and statements for the next actor that begins with the very same tables.

use std::{cell::RefCell, collections::BTreeMap};

use platform::{
    Fault, Row, Value,
    sqlite::{self, fault},
};
use rusqlite::Connection;

/// Prepared statements kept per connection.
const STATEMENTS_KEPT: usize = 200;
/// Databases kept of each kind.
const KEPT_MAX: usize = 64;

thread_local! {
    /// Empty databases, by the statements that made their tables.
    static KEPT: RefCell<BTreeMap<String, Vec<Connection>>> = RefCell::default();
}

pub(crate) struct Database {
    connection: Option<Connection>,
    /// The statements that made the tables; `None` where other tables came later.
    layout: Option<String>,
    /// The first statements of the first transaction, as long as all of them make tables: not run yet.
    laying: Option<String>,
    /// Whether the tables are of the transaction that is open.
    is_laid_in_transaction: bool,
}

impl Database {
    /// An empty one.
    pub(crate) fn open() -> Result<Self, Fault> {
        let connection = Some(taken("")?);
        Ok(Self { connection, layout: Some(String::new()), laying: None, is_laid_in_transaction: false })
    }

    fn connection(&self) -> Result<&Connection, Fault> {
        self.connection.as_ref().ok_or_else(|| Fault::new("a database is closed"))
    }

    /// Begins a transaction.
    pub(crate) fn begin(&mut self) -> Result<(), Fault> {
        self.laying = self.layout.as_ref().filter(|layout| layout.is_empty()).cloned();
        self.executes("BEGIN")
    }

    pub(crate) fn commit(&mut self) -> Result<(), Fault> {
        self.lay()?;
        self.is_laid_in_transaction = false;
        self.executes("COMMIT")
    }

    /// Undoes the open transaction, if there is one.
    pub(crate) fn roll_back(&mut self) -> Result<(), Fault> {
        self.laying = None;
        if !self.connection()?.is_autocommit() {
            self.executes("ROLLBACK")?;
        }
        if self.is_laid_in_transaction {
            // Nor were there tables before it.
            *self = Self::open()?;
        }
        Ok(())
    }

    /// Runs a statement that is about transactions inside of the open one.
    pub(crate) fn control(&mut self, statement: &str) -> Result<(), Fault> {
        self.lay()?;
        self.executes(statement)
    }

    /// Runs one statement; answers its rows, and whether it is one that changes something.
    pub(crate) fn query(&mut self, statement: &str, params: &[Value]) -> Result<(Vec<Row>, bool), Fault> {
        let makes_tables =
            ["CREATE TABLE", "CREATE INDEX", "CREATE UNIQUE INDEX"].iter().any(|words| statement.starts_with(words));
        if let Some(laying) = self.laying.as_mut().filter(|_| makes_tables) {
            laying.push_str(statement);
            laying.push_str(";\n");
            return Ok((Vec::new(), true));
        }
        self.lay()?;
        if ["CREATE", "ALTER", "DROP"].iter().any(|word| statement.starts_with(word)) {
            self.layout = None;
        }
        let mut prepared = self.connection()?.prepare_cached(statement).map_err(fault)?;
        let wrote = !prepared.readonly();
        Ok((sqlite::rows(&mut prepared, params)?, wrote))
    }

    /// The statements so far made tables: they are there from now on.
    fn lay(&mut self) -> Result<(), Fault> {
        let Some(laying) = self.laying.take().filter(|laying| !laying.is_empty()) else { return Ok(()) };
        self.executes("ROLLBACK")?;
        let laid = taken(&laying)?;
        *self = Self { connection: Some(laid), layout: Some(laying), laying: None, is_laid_in_transaction: true };
        self.executes("BEGIN")
    }

    fn executes(&self, statement: &str) -> Result<(), Fault> {
        let mut prepared = self.connection()?.prepare_cached(statement).map_err(fault)?;
        prepared.execute([]).map(drop).map_err(fault)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (Some(connection), Some(layout)) = (self.connection.take(), self.layout.take()) else { return };
        if !connection.is_autocommit() || empties(&connection).is_err() {
            return;
        }
        // Nothing is kept of the last world of a thread.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let of_kind = kept.entry(layout).or_default();
            if of_kind.len() < KEPT_MAX {
                of_kind.push(connection);
            }
        });
    }
}

/// An empty database with the tables that these statements make.
fn taken(layout: &str) -> Result<Connection, Fault> {
    if let Some(kept) = KEPT.with_borrow_mut(|kept| kept.get_mut(layout)?.pop()) {
        return Ok(kept);
    }
    let connection = Connection::open_in_memory().map_err(fault)?;
    sqlite::set_up(&connection, STATEMENTS_KEPT)?;
    connection.execute_batch(layout).map_err(fault)?;
    Ok(connection)
}

fn empties(connection: &Connection) -> Result<(), Fault> {
    let tables = sqlite::query(connection, "SELECT name FROM sqlite_master WHERE type = 'table'", &[])?;
    if tables.is_empty() {
        return Ok(());
    }
    connection.execute_batch("BEGIN").map_err(fault)?;
    for mut table in tables {
        let mut delete = connection.prepare_cached(&format!("DELETE FROM {}", table.text(0)?)).map_err(fault)?;
        delete.execute([]).map_err(fault)?;
    }
    connection.execute_batch("COMMIT").map_err(fault)
}
