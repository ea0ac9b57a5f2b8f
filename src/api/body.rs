use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use platform::Fault;

/// What an answer says: all at once, or piece by piece as it comes to be, for what would be too much in one go.
pub enum Body {
    Whole(Bytes),
    /// Made while it is sent, as fast as the client takes it. The status went out before the first piece: a fault can only
    /// cut the answer short, so that the client sees a broken connection and not half an answer.
    Pieces(Pieces),
}

/// The pieces of an answer. A fault ends them.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Fault>>>>;

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
