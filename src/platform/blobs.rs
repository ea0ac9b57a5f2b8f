use std::{any::Any, fmt, ops::Range, pin::Pin};

use bytes::Bytes;
use futures_util::Stream;

use crate::{Fault, LocalFuture};

/// Bytes in pieces, each small enough to hold in memory, as they come. A fault ends them.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Fault>>>>;

/// A store of large files that never change: R2, or files in a folder.
///
/// Whoever writes one knows its key and its size from then on; a store lists nothing. Keys are 1 to 64 of `a-z`,
/// `0-9` and `-`, chosen by us; no key is written twice.
pub trait Blobs {
    /// Stores the bytes under the key, and answers when they are durable. `length` is how many they will be, where
    /// that is known: it is a fault if they are not.
    ///
    /// The file appears whole or not at all. When the pieces end in a fault it does not appear; when the future is
    /// dropped half way it may or may not, and a store that knows `length` leaves nothing behind.
    fn put<'a>(&'a self, key: &'a str, length: Option<u64>, pieces: Pieces) -> LocalFuture<'a, Result<(), Fault>>;

    /// These bytes of a file; `None` if there is no such file. The range is not empty and within the file.
    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Option<Blob>, Fault>>;

    /// Removes these files; those that are not there are no fault.
    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), Fault>>;
}

/// The most keys that are deleted at once.
pub const DELETED_KEYS_MAX: usize = 1_000;

/// What a store gives out.
pub struct Blob {
    /// Nothing is read before the first piece is asked for.
    pub pieces: Pieces,
    /// The same bytes in a form that only their host knows, if it has a shorter way to send them.
    pub of_host: Option<Box<dyn Any>>,
}

impl Blob {
    pub fn new(pieces: impl Stream<Item = Result<Bytes, Fault>> + 'static) -> Self {
        Self { pieces: Box::pin(pieces), of_host: None }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blob")
    }
}
