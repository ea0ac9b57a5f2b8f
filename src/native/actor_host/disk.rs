use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use platform::{Fault, LocalFuture};

/// Makes an actor's write-ahead log survive a crash of the machine. A test puts its own in.
pub(crate) trait Disk: Send + Sync {
    /// Syncs what was written to `wal` before this call.
    fn sync(&self, wal: Arc<Wal>) -> LocalFuture<'static, Result<(), Fault>>;
}

/// A write-ahead log, held open for syncing.
///
/// Closing a second handle on a file drops SQLite's locks on it, so this is never the database file itself.
pub(crate) struct Wal {
    path: PathBuf,
    file: OnceLock<File>,
}

impl Wal {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: OnceLock::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn sync(&self) -> io::Result<()> {
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let file = File::open(&self.path)?;
                // The first time, its name in the directory too.
                if let Some(dir) = self.path.parent() {
                    File::open(dir)?.sync_all()?;
                }
                self.file.get_or_init(|| file)
            }
        };
        file.sync_data()
    }
}

/// `fdatasync` on the runtime's own small pool of threads, so that actors' syncs overlap and no executor waits.
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn sync(&self, wal: Arc<Wal>) -> LocalFuture<'static, Result<(), Fault>> {
        Box::pin(async move {
            let path = wal.path().to_owned();
            let synced = tokio::task::spawn_blocking(move || wal.sync()).await;
            let synced = synced.unwrap_or_else(|error| Err(io::Error::other(error)));
            synced.map_err(|error| Fault::retriable(format!("sync of {}: {error}", path.display())))
        })
    }
}
