//! The store of media: files in the data directory.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use platform::{Blob, Blobs, Fault, LocalFuture, Pieces};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::actor_host::make_durable_dir;

/// How much of a file is read at once, in bytes.
const PIECE_BYTES: usize = 128 * 1024;

/// Media lies in `media/<2 characters>/<key>`. What is being written lies in `media/tmp` until it is whole and on disk.
#[derive(Clone)]
pub(crate) struct MediaFiles {
    root: Arc<Path>,
    written: Arc<AtomicU64>,
}

impl MediaFiles {
    /// Clears away what the last process did not get to finish: no other may use the directory.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Fault> {
        let root = data_dir.join("media");
        let unfinished = root.join("tmp");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(&unfinished, &error)),
            _ => {}
        }
        make_durable_dir(&unfinished).map_err(|error| fault(&unfinished, &error))?;
        Ok(Self { root: root.into(), written: Arc::default() })
    }

    fn path(&self, key: &str) -> PathBuf {
        let shelf: String = key.chars().take(2).collect();
        self.root.join(shelf).join(key)
    }

    async fn write(&self, key: &str, length: Option<u64>, mut pieces: Pieces) -> Result<(), Fault> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let unfinished = Unfinished(self.root.join("tmp").join(format!("{key}.{number}")));
        let failed = |error: io::Error| fault(&unfinished.0, &error);
        let mut file = tokio::fs::File::create_new(&unfinished.0).await.map_err(failed)?;
        let mut written = 0_u64;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            file.write_all(&piece).await.map_err(failed)?;
            written = written.saturating_add(piece.len() as u64);
        }
        if length.is_some_and(|length| length != written) {
            return Err(Fault::new(format!("{key} has {written} bytes, and another length was promised")));
        }
        file.sync_all().await.map_err(failed)?;
        drop(file);
        let (from, to) = (unfinished.0.clone(), self.path(key));
        blocking(move || {
            let shelf = to.parent().unwrap_or(Path::new("."));
            make_durable_dir(shelf)?;
            fs::rename(&from, &to)?;
            fs::File::open(shelf)?.sync_all()
        })
        .await
        .map_err(failed)
    }

    async fn read(&self, key: &str, range: Range<u64>) -> Result<Option<Blob>, Fault> {
        let path = self.path(key);
        let mut file = match tokio::fs::File::open(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| fault(&path, &error))?,
        };
        if range.start > 0 {
            file.seek(io::SeekFrom::Start(range.start)).await.map_err(|error| fault(&path, &error))?;
        }
        file.set_max_buf_size(PIECE_BYTES);
        let pieces = read_on(file, range.end.saturating_sub(range.start));
        Ok(Some(Blob::new(pieces.map(move |piece| piece.map_err(|error| fault(&path, &error))))))
    }
}

/// The next `left` bytes of a file.
fn read_on(file: tokio::fs::File, left: u64) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((file, left), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let mut piece = Vec::with_capacity(wanted);
        (&mut file).take(wanted as u64).read_to_end(&mut piece).await?;
        if piece.len() < wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((Bytes::from(piece), (file, left.saturating_sub(wanted as u64)))))
    })
}

impl Blobs for MediaFiles {
    fn put<'a>(&'a self, key: &'a str, length: Option<u64>, pieces: Pieces) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(self.write(key, length, pieces))
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Option<Blob>, Fault>> {
        Box::pin(self.read(key, range))
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            for path in keys.iter().map(|key| self.path(key)) {
                match tokio::fs::remove_file(&path).await {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(&path, &error)),
                    _ => {}
                }
            }
            Ok(())
        })
    }
}

/// A file that is removed unless it went to its place.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // If it stays, the next start clears it away.
        let _ = fs::remove_file(&self.0);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn fault(path: &Path, error: &io::Error) -> Fault {
    Fault::new(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use platform::{Blobs, Fault, contract};

    use super::MediaFiles;
    use crate::actor_host::run_local;

    fn unfinished(data_dir: &Path) -> usize {
        fs::read_dir(data_dir.join("media/tmp")).unwrap().count()
    }

    #[test]
    fn files_keep_the_contract_and_leave_nothing_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(dir.path()).unwrap();
        run_local("a test", 4, || async {
            let outcomes = contract::blobs(&files, "test").await;
            assert_eq!(contract::failures(&outcomes), "");
            assert!(outcomes.len() > 5);
        });
        assert_eq!(unfinished(dir.path()), 0);
    }

    #[test]
    fn what_a_process_that_died_was_writing_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(dir.path()).unwrap();
        run_local("a test", 1, || async {
            let begun = futures_util::stream::iter([Ok("half".into()), Err(Fault::new("cut"))]);
            assert!(files.put("whole", None, Box::pin(begun)).await.is_err());
        });
        fs::write(dir.path().join("media/tmp/left"), "half").unwrap();
        MediaFiles::open(dir.path()).unwrap();
        assert_eq!(unfinished(dir.path()), 0);
        assert!(!dir.path().join("media/wh/whole").exists());
    }
}
