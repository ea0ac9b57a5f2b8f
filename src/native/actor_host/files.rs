use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use platform::{ActorKind, Address, Fault};
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::sqlite::{fault, set_up};

/// A write-ahead log is cut back to this many bytes when it starts anew.
const WAL_BYTES_KEPT: i64 = 8 << 20;
/// Memory for the pages of one open actor, in KiB.
const CACHE_KIB: i64 = 1024;

/// Where actors' databases lie: `<root>/<kind>/<2 hex>/<hex>.sqlite`, the hex being SHA-256 of the actor's id.
///
/// Beside each lies `<hex>.id` with the id itself, so that actors can be listed without opening their databases.
#[derive(Clone)]
pub(crate) struct ActorFiles {
    root: PathBuf,
}

impl ActorFiles {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("actors") }
    }

    pub(crate) fn path(&self, address: &Address) -> PathBuf {
        let hex: String = Sha256::digest(address.id.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let shelf: String = hex.chars().take(2).collect();
        self.root.join(address.kind.as_str()).join(shelf).join(hex).with_extension("sqlite")
    }

    /// Opens the actor's database; `None` when it was never founded.
    pub(crate) fn open(&self, address: &Address) -> Result<Option<Connection>, Fault> {
        let path = self.path(address);
        if !path.try_exists().map_err(|error| io_fault(&path, &error))? {
            return Ok(None);
        }
        let connection = connect(&path)?;
        if is_empty(&connection)? {
            // The host died while it founded this actor.
            discard(&path, connection)?;
            return Ok(None);
        }
        Ok(Some(connection))
    }

    /// Makes the actor's database, for a founding transaction.
    pub(crate) fn create(&self, address: &Address) -> Result<Connection, Fault> {
        let path = self.path(address);
        if let Some(shelf) = path.parent() {
            make_durable_dir(shelf).map_err(|error| io_fault(shelf, &error))?;
        }
        let name = path.with_extension("id");
        write_durably(&name, address.id.as_bytes()).map_err(|error| io_fault(&name, &error))?;
        connect(&path).inspect_err(|_| {
            // Nothing was founded; at worst a name stays behind that nobody reads.
            let _ = fs::remove_file(&name);
        })
    }

    /// Addresses of the actors whose write-ahead log was left behind: the host did not close them.
    pub(crate) fn left_open(&self) -> Result<Vec<Address>, Fault> {
        let mut left = Vec::new();
        for kind in ActorKind::ALL {
            for shelf in entries(&self.root.join(kind.as_str()))? {
                let files = entries(&shelf)?;
                let wals = files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "sqlite-wal"));
                for wal in wals.filter(|wal| is_filled(wal)) {
                    let name = wal.with_extension("id");
                    match fs::read_to_string(&name) {
                        Ok(id) => left.push(Address::new(kind, id)),
                        Err(error) => warn!(file = %name.display(), %error, "whose log this is, is unknown"),
                    }
                }
            }
        }
        Ok(left)
    }
}

/// Removes a database that holds nothing.
pub(crate) fn discard(path: &Path, connection: Connection) -> Result<(), Fault> {
    drop(connection);
    for suffix in ["sqlite-wal", "sqlite", "id"] {
        let file = path.with_extension(suffix);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_fault(&file, &error)),
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn wal_of(path: &Path) -> PathBuf {
    path.with_extension("sqlite-wal")
}

fn is_filled(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.len() > 0)
}

/// Whether no table was ever laid out.
fn is_empty(connection: &Connection) -> Result<bool, Fault> {
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(fault)?;
    Ok(tables == 0)
}

fn connect(path: &Path) -> Result<Connection, Fault> {
    let crashed = is_filled(&wal_of(path));
    let connection = Connection::open(path).map_err(fault)?;
    set_up(&connection)?;
    for (pragma, value) in [
        // One process, one connection: no shared memory file, and a second host on the same data is refused.
        ("locking_mode", "EXCLUSIVE"),
        ("journal_mode", "WAL"),
        // Commits do not wait for the disk: the output gate does.
        ("synchronous", "NORMAL"),
        ("temp_store", "MEMORY"),
    ] {
        connection.pragma_update_and_check(None, pragma, value, |_| Ok(())).or_else(no_rows).map_err(fault)?;
    }
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(fault)?;
    connection
        .pragma_update_and_check(None, "journal_size_limit", WAL_BYTES_KEPT, |_| Ok(()))
        .or_else(no_rows)
        .map_err(fault)?;
    if crashed {
        // What the last process committed may be in the system's memory only, and a sync that failed once does
        // not try those pages again: copying them into the database file writes them anew, and syncs.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(fault)?;
    }
    Ok(connection)
}

/// Some pragmas answer their new value, some nothing.
fn no_rows(error: rusqlite::Error) -> rusqlite::Result<()> {
    match error {
        rusqlite::Error::QueryReturnedNoRows => Ok(()),
        other => Err(other),
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let listing = match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        listing => listing.map_err(|error| io_fault(dir, &error))?,
    };
    listing.map(|entry| Ok(entry.map_err(|error| io_fault(dir, &error))?.path())).collect()
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a directory and its parents, each entered durably in its own parent.
pub(crate) fn make_durable_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_durable_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => fs::File::open(".")?.sync_all(),
    }
}

pub(crate) fn io_fault(path: &Path, error: &io::Error) -> Fault {
    Fault::new(format!("{}: {error}", path.display()))
}
