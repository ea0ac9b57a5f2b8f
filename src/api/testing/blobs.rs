use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::Range,
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use platform::{Blob, Blobs, Fault, LocalFuture, Pieces};

/// The store of media, in memory. It may be told to fail.
pub(crate) struct MemoryBlobs {
    files: RefCell<BTreeMap<String, Bytes>>,
    good_calls: Cell<usize>,
    /// Those that cannot be deleted.
    stuck: RefCell<Vec<String>>,
}

impl Default for MemoryBlobs {
    fn default() -> Self {
        Self { files: RefCell::default(), good_calls: Cell::new(usize::MAX), stuck: RefCell::default() }
    }
}

impl Blobs for MemoryBlobs {
    fn put<'a>(&'a self, key: &'a str, length: Option<u64>, pieces: Pieces) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let bytes: Vec<Bytes> = pieces.try_collect().await?;
            let bytes = Bytes::from(bytes.concat());
            if length.is_some_and(|length| length != bytes.len() as u64) {
                return Err(Fault::new("another length was promised"));
            }
            assert!(self.files.borrow_mut().insert(key.to_owned(), bytes).is_none(), "{key} is written twice");
            // What failed may have happened all the same.
            self.call()
        })
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Option<Blob>, Fault>> {
        let range = range.start as usize..range.end as usize;
        let bytes = self.files.borrow().get(key).map(|bytes| bytes.slice(range));
        Box::pin(
            async move { self.call().map(|()| bytes.map(|bytes| Blob::new(futures_util::stream::iter([Ok(bytes)])))) },
        )
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.call()?;
            if keys.iter().any(|key| self.stuck.borrow().contains(key)) {
                return Err(Fault::new("a file is stuck"));
            }
            let mut files = self.files.borrow_mut();
            keys.iter().for_each(|key| drop(files.remove(key)));
            Ok(())
        })
    }
}

impl MemoryBlobs {
    /// The keys of all files.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.files.borrow().keys().cloned().collect()
    }

    /// From now on these files cannot be deleted, and all others can.
    pub(crate) fn sticks(&self, keys: Vec<String>) {
        self.stuck.replace(keys);
    }

    /// From now on, so many calls are answered and all others fail.
    pub(crate) fn fails_after(&self, calls: usize) {
        self.good_calls.set(calls);
    }

    fn call(&self) -> Result<(), Fault> {
        let left = self.good_calls.get().checked_sub(1).ok_or_else(|| Fault::new("told to"))?;
        self.good_calls.set(left);
        Ok(())
    }
}
