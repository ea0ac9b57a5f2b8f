//! Takes in a file as it arrives.

use std::{cell::RefCell, rc::Rc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use platform::Fault;
use sha2::{Digest, Sha256};

use super::{limit::Limit, stray};
use crate::{Context, Failure, metadata::media::Content};

/// Stores what arrives as a stray file. `length` is how many bytes that are, where it is known, and `ends_ms` when it
/// will have ended, in milliseconds since the Unix epoch.
///
/// # Errors
/// The failure that ends the pieces; that there are too many. Then there is no file.
pub(super) async fn store(
    cx: &Context,
    length: Option<u64>,
    pieces: impl Stream<Item = Result<Bytes, Failure>> + 'static,
    limit: Limit,
    ends_ms: u64,
) -> Result<Content, Failure> {
    let file = stray::new_file(cx, ends_ms).await?;
    let taken = Rc::new(RefCell::new(Taken::default()));
    let taking = taken.clone();
    let pieces = pieces.map(move |piece| {
        let mut taken = taking.borrow_mut();
        match piece.and_then(|piece| taken.counts(piece, &limit)) {
            Ok(piece) => Ok(piece),
            Err(failure) => {
                taken.failure = Some(failure);
                Err(Fault::new("a file was given up"))
            }
        }
    });
    let stored = cx.services().blobs.put(&file, length, Box::pin(pieces)).await;
    let failure = match (stored, taken.take()) {
        (Ok(()), Taken { failure: None, hash, size }) => {
            return Ok(Content { sha256: BASE64_URL_SAFE_NO_PAD.encode(hash.finalize()), size, file });
        }
        (_, Taken { failure: Some(failure), .. }) => failure,
        (Err(fault), Taken { failure: None, .. }) => fault.into(),
    };
    stray::discard(cx, &file).await?;
    Err(failure)
}

/// What has arrived of a file.
#[derive(Default)]
struct Taken {
    hash: Sha256,
    size: u64,
    /// Why no more of it is wanted.
    failure: Option<Failure>,
}

impl Taken {
    fn counts(&mut self, piece: Bytes, limit: &Limit) -> Result<Bytes, Failure> {
        self.size = self.size.saturating_add(piece.len() as u64);
        limit.check(self.size)?;
        self.hash.update(&piece);
        Ok(piece)
    }
}
