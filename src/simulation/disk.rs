//! The virtual disk of an actor: SQLite in memory, and every commit that made it what it is.
//!
//! A commit is on disk once [`Disk::sync`] says so. A crash keeps those, and any number of the ones after them in their
//! order, as a write-ahead log does; the database is then made anew from what was kept. An older copy is the same with
//! fewer commits.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use platform::{Fault, INTEGER_MAX, ROW_BYTES_MAX, Row, STATEMENT_PARAMS_MAX, Sql, Value, check_params};
use rusqlite::{Connection, limits::Limit, types::ValueRef};

/// Beside its largest value a row holds some small ones.
const ROW_SLACK_BYTES: usize = 100_000;
/// Prepared statements kept per connection.
const STATEMENTS_KEPT: usize = 200;

/// One statement that changed something.
#[derive(Clone)]
struct Write {
    statement: Rc<str>,
    params: Rc<[Value]>,
}

/// What one transaction did.
#[derive(Clone, Default)]
struct Commit {
    writes: Vec<Write>,
    /// What it made of the alarm, if anything.
    alarm: Option<Option<u64>>,
}

pub(crate) struct Disk {
    connection: RefCell<Connection>,
    depth: Cell<usize>,
    open: RefCell<Commit>,
    commits: RefCell<Vec<Commit>>,
    synced: Cell<usize>,
    alarm: Cell<Option<u64>>,
    statements: RefCell<BTreeMap<String, Rc<str>>>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            connection: RefCell::new(open().expect("SQLite opens in memory")),
            depth: Cell::new(0),
            open: RefCell::default(),
            commits: RefCell::default(),
            synced: Cell::new(0),
            alarm: Cell::new(None),
            statements: RefCell::default(),
        }
    }

    /// How many commits there are.
    pub(crate) fn commits(&self) -> usize {
        self.commits.borrow().len()
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced.get() == self.commits()
    }

    /// The first so many commits are on disk.
    pub(crate) fn sync(&self, commits: usize) {
        self.synced.set(self.synced.get().max(commits.min(self.commits())));
    }

    /// The alarm that the commits so far left.
    pub(crate) fn alarm(&self) -> Option<u64> {
        self.alarm.get()
    }

    /// Sets the alarm: with the open transaction, or at once.
    pub(crate) fn set_alarm(&self, at_ms: Option<u64>) {
        if self.depth.get() > 0 {
            self.open.borrow_mut().alarm = Some(at_ms);
        } else if self.alarm.get() != at_ms {
            self.commits.borrow_mut().push(Commit { writes: Vec::new(), alarm: Some(at_ms) });
            self.alarm.set(at_ms);
        }
    }

    /// How many commits a crash may leave at least.
    pub(crate) fn survivors_min(&self) -> usize {
        self.synced.get()
    }

    /// Makes the database what it was after so many commits. The rest never happened.
    pub(crate) fn keep(&self, commits: usize) -> Result<(), Fault> {
        self.depth.set(0);
        self.open.take();
        if commits < self.commits() {
            let connection = open()?;
            self.commits.borrow_mut().truncate(commits);
            self.alarm.set(None);
            for commit in &*self.commits.borrow() {
                connection.execute_batch("BEGIN").map_err(fault)?;
                for write in &commit.writes {
                    query(&connection, &write.statement, &write.params)?;
                }
                connection.execute_batch("COMMIT").map_err(fault)?;
                if let Some(at_ms) = commit.alarm {
                    self.alarm.set(at_ms);
                }
            }
            self.connection.replace(connection);
        } else if !self.connection.borrow().is_autocommit() {
            self.connection.borrow().execute_batch("ROLLBACK").map_err(fault)?;
        }
        self.synced.set(self.commits());
        Ok(())
    }

    fn interned(&self, statement: &str) -> Rc<str> {
        let mut statements = self.statements.borrow_mut();
        if let Some(known) = statements.get(statement) {
            return known.clone();
        }
        let known: Rc<str> = statement.into();
        statements.insert(statement.to_owned(), known.clone());
        known
    }

    fn control(&self, statement: &str) -> Result<(), Fault> {
        let connection = self.connection.borrow();
        let mut prepared = connection.prepare_cached(statement).map_err(fault)?;
        prepared.execute([]).map(drop).map_err(fault)
    }

    /// Runs `body` between these statements, and answers whether it was kept.
    fn run(&self, begin: &str, keep: &str, undo: &[&str], body: &mut dyn FnMut() -> bool) -> Result<bool, Fault> {
        self.control(begin)?;
        let before = {
            let open = self.open.borrow();
            (open.writes.len(), open.alarm)
        };
        self.depth.set(self.depth.get() + 1);
        let kept = body();
        self.depth.set(self.depth.get() - 1);
        if kept {
            self.control(keep)?;
        } else {
            undo.iter().try_for_each(|statement| self.control(statement))?;
            let mut open = self.open.borrow_mut();
            open.writes.truncate(before.0);
            open.alarm = before.1;
        }
        Ok(kept)
    }
}

impl Sql for Disk {
    fn query(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
        let (rows, wrote) = query(&self.connection.borrow(), statement, params)?;
        if wrote {
            let write = Write { statement: self.interned(statement), params: params.into() };
            self.open.borrow_mut().writes.push(write);
        }
        Ok(rows)
    }

    fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        if self.depth.get() > 0 {
            return self
                .run("SAVEPOINT nested", "RELEASE nested", &["ROLLBACK TO nested", "RELEASE nested"], body)
                .map(drop);
        }
        let kept = self.run("BEGIN", "COMMIT", &["ROLLBACK"], body)?;
        let commit = self.open.take();
        if kept {
            if let Some(at_ms) = commit.alarm {
                self.alarm.set(at_ms);
            }
            self.commits.borrow_mut().push(commit);
        }
        Ok(())
    }
}

fn open() -> Result<Connection, Fault> {
    let connection = Connection::open_in_memory().map_err(fault)?;
    let limits = [
        (Limit::SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX + ROW_SLACK_BYTES),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, STATEMENT_PARAMS_MAX),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000),
        (Limit::SQLITE_LIMIT_COLUMN, 100),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 32),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 5),
    ];
    for (limit, most) in limits {
        connection.set_limit(limit, i32::try_from(most).unwrap_or(i32::MAX)).map_err(fault)?;
    }
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(connection)
}

/// Runs one statement; answers its rows, and whether it is one that changes something.
pub(crate) fn query(connection: &Connection, statement: &str, params: &[Value]) -> Result<(Vec<Row>, bool), Fault> {
    check_params(params)?;
    let mut prepared = connection.prepare_cached(statement).map_err(fault)?;
    let (columns, wrote) = (prepared.column_count(), !prepared.readonly());
    let mut found = prepared.query(rusqlite::params_from_iter(params.iter().map(Bound))).map_err(fault)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(fault)? {
        let values = (0..columns).map(|column| value(row.get_ref(column).map_err(fault)?));
        rows.push(Row(values.collect::<Result<_, Fault>>()?));
    }
    Ok((rows, wrote))
}

pub(crate) fn fault(error: rusqlite::Error) -> Fault {
    Fault::new(format!("sqlite: {error}"))
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
