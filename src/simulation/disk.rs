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

use platform::{
    Fault, Row, Sql, Value,
    sqlite::{self, fault},
};
use rusqlite::Connection;

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

    /// How many statements changed something, in all that is kept.
    pub(crate) fn writes(&self) -> u64 {
        self.commits.borrow().iter().map(|commit| commit.writes.len() as u64).sum()
    }

    /// The size of the database.
    pub(crate) fn bytes(&self) -> u64 {
        let statement = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        let rows = self.query(statement, &[]).unwrap_or_default();
        rows.into_iter().next().and_then(|mut row| row.unsigned(0).ok()).unwrap_or(0)
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

    /// How many commits an older copy has: at most `back` less than there are, and all in which a statement has a part
    /// that `stays` names.
    pub(crate) fn older_copy(&self, back: usize, stays: &[&str]) -> usize {
        let commits = self.commits.borrow();
        let names = |write: &Write| stays.iter().any(|part| write.statement.contains(part));
        let oldest = commits.len().saturating_sub(back);
        let last = commits[oldest..].iter().rposition(|commit| commit.writes.iter().any(names));
        last.map_or(oldest, |last| oldest + last + 1)
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
    sqlite::set_up(&connection, STATEMENTS_KEPT)?;
    Ok(connection)
}

/// Runs one statement; answers its rows, and whether it is one that changes something.
fn query(connection: &Connection, statement: &str, params: &[Value]) -> Result<(Vec<Row>, bool), Fault> {
    let mut prepared = connection.prepare_cached(statement).map_err(fault)?;
    let wrote = !prepared.readonly();
    Ok((sqlite::rows(&mut prepared, params)?, wrote))
}
