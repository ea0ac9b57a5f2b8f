use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::{Bytes, BytesMut};
use domain::Refusal;
use futures_util::{Stream, StreamExt, stream};
use platform::{Blob, Fault, Pieces};

use crate::Failure;

/// The largest request body that is taken whole, in bytes. Beyond it only what goes into a store as it comes.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// As that, of who has not shown who they are, and needs not.
pub(crate) const ANONYMOUS_BODY_BYTES_MAX: usize = 256 * 1024;
/// A body up to this is taken from anybody at any time, in bytes.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// What all bodies beyond that may hold at a time, in this process or isolate, in bytes.
const HELD_BYTES_MAX: usize = if cfg!(target_arch = "wasm32") { 32 * 1024 * 1024 } else { 256 * 1024 * 1024 };
/// How long a body may take to arrive that is taken whole, in milliseconds.
pub(crate) const ARRIVAL_MS_MAX: u64 = 180_000;

/// What an answer says: all at once, or piece by piece as it comes to be, for what would be too much in one go.
pub enum Body {
    Whole(Bytes),
    /// Made while it is sent, as fast as the client takes it. The status went out before the first piece: a fault can only
    /// cut the answer short, so that the client sees a broken connection and not half an answer.
    Pieces(Pieces),
    /// As it lies in the store: its host may know a shorter way to send it.
    Stored(Blob),
}

impl Body {
    pub fn pieces(pieces: impl Stream<Item = Result<Bytes, Fault>> + 'static) -> Self {
        let pieces: Pieces = Box::pin(pieces);
        // Nothing goes out after a fault, however the pieces were put together.
        Body::Pieces(Box::pin(stream::unfold(Some(pieces), async |pieces| {
            let mut pieces = pieces?;
            let piece = pieces.next().await?;
            let rest = piece.is_ok().then_some(pieces);
            Some((piece, rest))
        })))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Whole(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Whole(bytes.into())
    }
}

/// The body of a request, as it arrives.
pub struct Arriving {
    /// How long the client says it is.
    pub length: Option<u64>,
    pub pieces: Pin<Box<dyn Stream<Item = Result<Bytes, Unread>>>>,
}

/// Why the rest of a request does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// The client sent nothing for too long.
    TooSlow,
    /// The client went away, or does not keep to the protocol.
    Broken,
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooSlow => Refusal::TooSlow.into(),
            // Most likely nobody is left to read this.
            Unread::Broken => Refusal::Unknown("The request did not arrive whole".to_owned()).into(),
        }
    }
}

impl Arriving {
    pub fn new(length: Option<u64>, pieces: impl Stream<Item = Result<Bytes, Unread>> + 'static) -> Self {
        Self { length, pieces: Box::pin(pieces) }
    }

    /// Whether it may be more than is taken from anybody: nothing is known of one whose length is not said.
    pub(crate) fn may_be_large(&self) -> bool {
        self.length.is_none_or(|length| length > SMALL_BODY_BYTES as u64)
    }

    /// Takes it in whole, up to `most` bytes, which count as held until `held` is dropped.
    ///
    /// # Errors
    /// `M_TOO_LARGE` for more: said beforehand, then not a byte of it is read. `M_LIMIT_EXCEEDED` when all bodies together
    /// hold too much.
    pub(crate) async fn whole(self, most: usize, held: &mut Held) -> Result<Bytes, Failure> {
        let Self { length, mut pieces } = self;
        if length.is_some_and(|length| length > most as u64) {
            return Err(too_large(most));
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            let bytes = whole.len().saturating_add(piece.len());
            if bytes > most {
                return Err(too_large(most));
            }
            held.grows_to(bytes)?;
            if whole.is_empty() && length == Some(piece.len() as u64) {
                return Ok(piece);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

/// What all bodies hold beyond what is small.
static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

/// What one body holds of that.
#[derive(Default)]
pub(crate) struct Held(usize);

impl Held {
    fn grows_to(&mut self, bytes: usize) -> Result<(), Refusal> {
        let more = bytes.saturating_sub(SMALL_BODY_BYTES).saturating_sub(self.0);
        if more == 0 {
            return Ok(());
        }
        self.0 = self.0.saturating_add(more);
        if HELD_BYTES.fetch_add(more, Ordering::Relaxed).saturating_add(more) > HELD_BYTES_MAX {
            return Err(Refusal::LimitExceeded { retry_after_ms: 1_000 });
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl From<Bytes> for Arriving {
    fn from(bytes: Bytes) -> Self {
        Self::new(Some(bytes.len() as u64), futures_util::stream::iter([Ok(bytes)]))
    }
}

fn too_large(most: usize) -> Failure {
    Refusal::TooLarge(format!("This request may have {most} bytes")).into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;

    use super::{Arriving, BODY_BYTES_MAX, HELD_BYTES, HELD_BYTES_MAX, Held, Ordering, SMALL_BODY_BYTES, Unread};
    use crate::testing::block_on;

    fn read(length: Option<u64>, pieces: Vec<Result<Bytes, Unread>>) -> Result<usize, String> {
        let mut held = Held::default();
        let read = block_on(Arriving::new(length, stream::iter(pieces)).whole(BODY_BYTES_MAX, &mut held));
        read.map(|whole| whole.len()).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn what_is_taken_whole_is_bounded() {
        let piece = |len| Ok(Bytes::from(vec![0; len]));
        assert_eq!(read(None, vec![]), Ok(0));
        assert_eq!(read(Some(2), vec![piece(1), piece(1)]), Ok(2));
        assert_eq!(read(Some(2), vec![piece(2)]), Ok(2));
        assert_eq!(read(None, vec![piece(BODY_BYTES_MAX - 1), piece(1)]), Ok(BODY_BYTES_MAX));
        let too_large = |outcome: Result<usize, String>| assert!(outcome.unwrap_err().contains("TooLarge"));
        too_large(read(None, vec![piece(BODY_BYTES_MAX), piece(1)]));
        too_large(read(Some(BODY_BYTES_MAX as u64 + 1), vec![]));
        let cut = |unread| read(None, vec![piece(1), Err(unread)]).unwrap_err();
        assert!(cut(Unread::TooSlow).contains("TooSlow"));
        assert!(cut(Unread::Broken).contains("Unknown"));
        // Nor do they hold too much together; small ones are always taken.
        HELD_BYTES.fetch_add(HELD_BYTES_MAX - 1_000, Ordering::Relaxed);
        let refused = read(None, vec![piece(SMALL_BODY_BYTES), piece(1_001)]).unwrap_err();
        assert!(refused.contains("LimitExceeded"), "{refused}");
        assert_eq!(read(None, vec![piece(SMALL_BODY_BYTES)]), Ok(SMALL_BODY_BYTES));
        HELD_BYTES.fetch_sub(HELD_BYTES_MAX - 1_000, Ordering::Relaxed);
        assert_eq!(read(None, vec![piece(BODY_BYTES_MAX)]), Ok(BODY_BYTES_MAX));
        assert_eq!(HELD_BYTES.load(Ordering::Relaxed), 0, "nothing is held any more");
    }
}
