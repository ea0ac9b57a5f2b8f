//! The metadata database and the store of media of one server. What they answered is on disk.

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc};

use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use platform::{Blob, Blobs, Fault, LocalFuture, Metadata, Pieces, Row, Statement, Value};

use crate::{dice::Dice, disk::Disk, scheduler::Scheduler};

/// Files are given out in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;

/// The metadata database.
pub(crate) struct MetadataDatabase {
    disk: Disk,
    scheduler: Rc<Scheduler>,
    dice: Dice,
    latency_ms_max: u64,
}

impl MetadataDatabase {
    pub(crate) fn new(scheduler: Rc<Scheduler>, dice: Dice, latency_ms_max: u64) -> Self {
        Self { disk: Disk::new(), scheduler, dice, latency_ms_max }
    }

    async fn travel(&self) {
        self.scheduler.sleep(self.dice.roll(self.latency_ms_max + 1)).await;
    }

    async fn run(&self, statements: Vec<Statement>) -> Result<Vec<Row>, Fault> {
        self.travel().await;
        if statements.iter().any(|statement| statement.params.iter().any(|param| matches!(param, Value::Blob(_)))) {
            return Err(Fault::new("metadata keeps no blobs"));
        }
        let rows = platform::transact(&self.disk, |tx| {
            let mut rows = Vec::new();
            for Statement { sql, params } in &statements {
                rows = tx.execute(sql, params)?;
            }
            Ok::<_, Fault>(rows)
        });
        self.travel().await;
        rows
    }
}

impl Metadata for MetadataDatabase {
    fn query<'a>(&'a self, statement: Statement) -> LocalFuture<'a, Result<Vec<Row>, Fault>> {
        Box::pin(self.run(vec![statement]))
    }

    fn batch<'a>(&'a self, statements: Vec<Statement>) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move { self.run(statements).await.map(drop) })
    }
}

/// The store of media.
#[derive(Default)]
pub(crate) struct Files(RefCell<BTreeMap<String, Bytes>>);

impl Blobs for Files {
    fn put<'a>(&'a self, key: &'a str, length: Option<u64>, pieces: Pieces) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let pieces: Vec<Bytes> = pieces.try_collect().await?;
            let bytes = Bytes::from(pieces.concat());
            if length.is_some_and(|length| length != bytes.len() as u64) {
                return Err(Fault::new("another length was promised"));
            }
            self.0.borrow_mut().insert(key.to_owned(), bytes);
            Ok(())
        })
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Option<Blob>, Fault>> {
        let bytes = self.0.borrow().get(key).map(|bytes| bytes.slice(range.start as usize..range.end as usize));
        let pieces = |bytes: Bytes| {
            let starts = (0..bytes.len()).step_by(PIECE_BYTES);
            stream::iter(starts.map(move |start| Ok(bytes.slice(start..bytes.len().min(start + PIECE_BYTES)))))
        };
        Box::pin(async move { Ok(bytes.map(|bytes| Blob::new(pieces(bytes)))) })
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.0.borrow_mut().retain(|key, _| !keys.contains(key));
            Ok(())
        })
    }
}
