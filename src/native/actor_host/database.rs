use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
};

use platform::{Address, Fault, Row, Sql, Value};
use rusqlite::Connection;
use tracing::error;

use super::{
    alarms::ActorAlarm,
    files::{ActorFiles, discard},
    gate::Gate,
};
use crate::sqlite;

/// One actor's database.
///
/// An actor that was never founded has no file: reads look at an empty database in memory. Only founding calls
/// reach a transaction on it; the file is made for that transaction and removed again if it rolls back.
pub(crate) struct Database {
    files: ActorFiles,
    address: Address,
    gate: Rc<Gate>,
    alarm: Rc<ActorAlarm>,
    state: RefCell<State>,
    /// How many transactions are open, one inside the other.
    depth: Cell<usize>,
    /// Statements that changed the schema: SQLite counts none of them among its changes.
    definitions: Cell<u64>,
}

enum State {
    /// Never founded: an empty database in memory.
    Absent(Connection),
    Open(Connection),
    Closed,
}

impl Database {
    pub(crate) fn open(
        files: ActorFiles,
        address: Address,
        gate: Rc<Gate>,
        alarm: Rc<ActorAlarm>,
    ) -> Result<Self, Fault> {
        let state = match files.open(&address)? {
            Some(connection) => State::Open(connection),
            None => State::absent()?,
        };
        let state = RefCell::new(state);
        Ok(Self { files, address, gate, alarm, state, depth: Cell::new(0), definitions: Cell::new(0) })
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(*self.state.borrow(), State::Absent(_))
    }

    pub(crate) fn in_transaction(&self) -> bool {
        self.depth.get() > 0
    }

    /// Takes the file's connection away; whoever still works on the actor gets a retriable fault.
    pub(crate) fn close(&self) -> Option<Connection> {
        match self.state.replace(State::Closed) {
            State::Open(connection) => Some(connection),
            State::Absent(_) | State::Closed => None,
        }
    }

    fn path(&self) -> PathBuf {
        self.files.path(&self.address)
    }

    /// Counts what was written: another number after a transaction is another content of the file.
    fn changes(&self) -> u64 {
        match &*self.state.borrow() {
            State::Open(connection) => connection.total_changes().saturating_add(self.definitions.get()),
            State::Absent(_) | State::Closed => 0,
        }
    }

    fn control(&self, statement: &str) -> Result<(), Fault> {
        match &*self.state.borrow() {
            State::Absent(connection) | State::Open(connection) => {
                let mut prepared = connection.prepare_cached(statement).map_err(sqlite::fault)?;
                prepared.execute([]).map_err(sqlite::fault)?;
                Ok(())
            }
            State::Closed => Err(closed()),
        }
    }

    /// Runs `body` between `open` and `keep` or `undo`; answers whether it was kept.
    fn run(&self, [open, keep, undo]: [&'static str; 3], body: &mut dyn FnMut() -> bool) -> Result<bool, Fault> {
        self.control(open)?;
        let staged = self.alarm.staged();
        let mut rollback = Rollback { database: self, undo, armed: true };
        self.depth.set(self.depth.get() + 1);
        let kept = body();
        if kept {
            let done = self.control(keep);
            rollback.armed = done.is_err();
            drop(rollback);
            if done.is_err() {
                self.alarm.stage(staged);
            }
            done?;
        } else {
            drop(rollback);
            self.alarm.stage(staged);
        }
        Ok(kept)
    }

    fn founding(&self, body: &mut dyn FnMut() -> bool) -> Result<bool, Fault> {
        self.state.replace(State::Open(self.files.create(&self.address)?));
        let outcome = self.run(OUTERMOST, body);
        if !matches!(outcome, Ok(true)) {
            let made = self.state.replace(State::absent()?);
            if let State::Open(connection) = made {
                discard(&self.path(), connection)?;
            }
        }
        outcome
    }
}

const OUTERMOST: [&str; 3] = ["BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"];
const NESTED: [&str; 3] = ["SAVEPOINT nested", "RELEASE nested", "ROLLBACK TO nested"];

impl Sql for Database {
    fn query(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
        match &*self.state.borrow() {
            State::Absent(connection) => sqlite::query(connection, statement, params),
            State::Open(connection) => {
                if is_definition(statement) {
                    self.definitions.set(self.definitions.get().saturating_add(1));
                }
                let before = connection.total_changes();
                let rows = sqlite::query(connection, statement, params)?;
                platform::meter::ROWS_READ.add(rows.len() as u64);
                platform::meter::ROWS_WRITTEN.add(connection.total_changes().saturating_sub(before));
                Ok(rows)
            }
            State::Closed => Err(closed()),
        }
    }

    fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        if self.depth.get() > 0 {
            return self.run(NESTED, body).map(|_| ());
        }
        let (founds, before) = (self.is_absent(), self.changes());
        let kept = if founds { self.founding(body)? } else { self.run(OUTERMOST, body)? };
        if kept {
            // What changed nothing left nothing in the log, and waits for no disk.
            if founds || self.changes() != before {
                self.gate.committed();
            }
            self.alarm.commit();
        }
        Ok(())
    }
}

fn is_definition(statement: &str) -> bool {
    let verb = statement.split_ascii_whitespace().next().unwrap_or_default();
    ["CREATE", "DROP", "ALTER"].iter().any(|definition| verb.eq_ignore_ascii_case(definition))
}

impl State {
    fn absent() -> Result<Self, Fault> {
        let connection = Connection::open_in_memory().map_err(sqlite::fault)?;
        sqlite::set_up(&connection)?;
        Ok(State::Absent(connection))
    }
}

/// Ends a transaction, also when its body unwinds: rolls back unless it was committed.
struct Rollback<'a> {
    database: &'a Database,
    undo: &'static str,
    armed: bool,
}

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        let database = self.database;
        database.depth.set(database.depth.get().saturating_sub(1));
        if !self.armed {
            return;
        }
        let undone = database.control(self.undo);
        let released = if self.undo == NESTED[2] { database.control(NESTED[1]) } else { Ok(()) };
        // SQLite rolls back by itself on some errors (disk full); then there is nothing left to undo.
        if let Err(fault) = undone.and(released) {
            error!(actor = %database.address, %fault, "a transaction did not roll back");
        }
    }
}

fn closed() -> Fault {
    Fault::retriable("the actor was closed")
}
