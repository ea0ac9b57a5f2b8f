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

use platform::{Fault, Row, Sql, Value};

use crate::database::Database;

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

/// What becomes of a transaction, or of a part of one.
type Step = fn(&mut Database) -> Result<(), Fault>;

pub(crate) struct Disk {
    database: RefCell<Database>,
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
            database: RefCell::new(Database::open().expect("SQLite opens in memory")),
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
        // Without pages that are free: one that was used before has some, which say nothing of this actor.
        let statement = "SELECT (page_count - freelist_count) * page_size
            FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
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
            let mut database = Database::open()?;
            self.commits.borrow_mut().truncate(commits);
            self.alarm.set(None);
            for commit in &*self.commits.borrow() {
                database.begin()?;
                for write in &commit.writes {
                    database.query(&write.statement, &write.params)?;
                }
                database.commit()?;
                if let Some(at_ms) = commit.alarm {
                    self.alarm.set(at_ms);
                }
            }
            self.database.replace(database);
        } else {
            self.database.borrow_mut().roll_back()?;
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

    /// Runs `body` between these, and answers whether it was kept.
    fn run(&self, begin: Step, keep: Step, undo: Step, body: &mut dyn FnMut() -> bool) -> Result<bool, Fault> {
        begin(&mut self.database.borrow_mut())?;
        let before = {
            let open = self.open.borrow();
            (open.writes.len(), open.alarm)
        };
        self.depth.set(self.depth.get() + 1);
        let kept = body();
        self.depth.set(self.depth.get() - 1);
        if kept {
            keep(&mut self.database.borrow_mut())?;
        } else {
            undo(&mut self.database.borrow_mut())?;
            let mut open = self.open.borrow_mut();
            open.writes.truncate(before.0);
            open.alarm = before.1;
        }
        Ok(kept)
    }
}

impl Sql for Disk {
    fn query(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
        let (rows, wrote) = self.database.borrow_mut().query(statement, params)?;
        if wrote {
            let write = Write { statement: self.interned(statement), params: params.into() };
            self.open.borrow_mut().writes.push(write);
        }
        Ok(rows)
    }

    fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        if self.depth.get() > 0 {
            let undo = |database: &mut Database| {
                database.control("ROLLBACK TO nested")?;
                database.control("RELEASE nested")
            };
            return self
                .run(
                    |database| database.control("SAVEPOINT nested"),
                    |database| database.control("RELEASE nested"),
                    undo,
                    body,
                )
                .map(drop);
        }
        let kept = self.run(Database::begin, Database::commit, Database::roll_back, body)?;
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
