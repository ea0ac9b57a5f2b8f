use std::path::Path;

use platform::{Address, Fault};
use rusqlite::{Connection, params};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use super::gate::Written;
use crate::sqlite::fault;

/// Changes written in one transaction at most.
const CHANGES_MAX: usize = 1_000;

/// Every actor's alarm, in one small database on its own thread, so that alarms ring after a restart without
/// anyone touching their actors. Changes that arrive together share one sync.
#[derive(Clone)]
pub(crate) struct AlarmIndex {
    changes: UnboundedSender<Change>,
}

/// An index just opened.
pub(crate) struct Opened {
    pub index: AlarmIndex,
    /// The alarms it held, with their times in milliseconds since the Unix epoch.
    pub kept: Vec<(Address, u64)>,
    /// Ends when the last handle on the index is dropped.
    pub thread: std::thread::JoinHandle<()>,
}

struct Change {
    address: Address,
    at_ms: Option<u64>,
    done: oneshot::Sender<Result<(), Fault>>,
}

impl AlarmIndex {
    /// Opens the index, notes an alarm at `now_ms` for each of `left_open`, and answers the alarms it holds.
    ///
    /// The notes are on disk when this returns: the files that say which actors a crash left open stop saying so
    /// when the actors are opened. Each of them sets its later alarm anew when it is.
    pub(crate) fn open(path: &Path, left_open: &[Address], now_ms: u64) -> Result<Opened, Fault> {
        let connection = Connection::open(path).map_err(fault)?;
        connection
            .execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                 CREATE TABLE IF NOT EXISTS alarm
                     (kind TEXT NOT NULL, id TEXT NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID",
            )
            .map_err(fault)?;
        apply(&connection, left_open.iter().map(|address| (address, Some(now_ms))))?;
        let kept = kept(&connection)?;
        let (changes, inbox) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("alarms".to_owned())
            .spawn(move || write(&connection, inbox))
            .map_err(|error| Fault::new(format!("no thread for alarms: {error}")))?;
        Ok(Opened { index: Self { changes }, kept, thread })
    }

    /// Sets or clears an actor's alarm; the answer comes when it is on disk. Changes apply in the order made.
    pub(crate) fn set(&self, address: Address, at_ms: Option<u64>) -> Written {
        let (done, written) = oneshot::channel();
        // A closed index drops `done`, which the receiver reports.
        let _ = self.changes.send(Change { address, at_ms, done });
        written
    }
}

fn kept(connection: &Connection) -> Result<Vec<(Address, u64)>, Fault> {
    let mut statement = connection.prepare("SELECT kind, id, at_ms FROM alarm ORDER BY kind, id").map_err(fault)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?)))
        .map_err(fault)?;
    rows.map(|row| {
        let (kind, id, at_ms) = row.map_err(fault)?;
        Ok((Address::new(kind.parse()?, id), u64::try_from(at_ms).unwrap_or(0)))
    })
    .collect()
}

fn write(connection: &Connection, mut inbox: UnboundedReceiver<Change>) {
    while let Some(first) = inbox.blocking_recv() {
        let mut changes = vec![first];
        while changes.len() < CHANGES_MAX
            && let Ok(change) = inbox.try_recv()
        {
            changes.push(change);
        }
        let outcome = apply(connection, changes.iter().map(|change| (&change.address, change.at_ms)));
        for change in changes {
            // Whoever cleared an alarm does not wait.
            let _ = change.done.send(outcome.clone());
        }
    }
}

fn apply<'a>(connection: &Connection, changes: impl Iterator<Item = (&'a Address, Option<u64>)>) -> Result<(), Fault> {
    let transaction = connection.unchecked_transaction().map_err(fault)?;
    for (address, at_ms) in changes {
        let (kind, id) = (address.kind.as_str(), address.id.as_str());
        match at_ms {
            Some(at_ms) => transaction
                .prepare_cached(
                    "INSERT INTO alarm (kind, id, at_ms) VALUES (?1, ?2, ?3)
                     ON CONFLICT (kind, id) DO UPDATE SET at_ms = excluded.at_ms",
                )
                .and_then(|mut statement| {
                    statement.execute(params![kind, id, i64::try_from(at_ms).unwrap_or(i64::MAX)])
                }),
            None => transaction
                .prepare_cached("DELETE FROM alarm WHERE kind = ?1 AND id = ?2")
                .and_then(|mut statement| statement.execute(params![kind, id])),
        }
        .map_err(fault)?;
    }
    transaction.commit().map_err(fault)
}
