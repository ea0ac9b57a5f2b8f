use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use domain::Refusal;
use futures_util::{Stream, StreamExt, stream};
use http::Request;
use platform::{Blob, Fault, Pieces};

use crate::Failure;

/// The largest request body that is taken whole, in bytes. Beyond it only what goes into a store as it comes.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

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

    /// Takes it in whole.
    ///
    /// # Errors
    /// `M_TOO_LARGE` beyond [`BODY_BYTES_MAX`]: said beforehand, then not a byte of it is read.
    pub(crate) async fn whole(self) -> Result<Bytes, Failure> {
        let Self { length, mut pieces } = self;
        if length.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if whole.is_empty() && length == Some(piece.len() as u64) {
                return Ok(piece);
            }
            if whole.len().saturating_add(piece.len()) > BODY_BYTES_MAX {
                return Err(too_large());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

impl From<Bytes> for Arriving {
    fn from(bytes: Bytes) -> Self {
        Self::new(Some(bytes.len() as u64), futures_util::stream::iter([Ok(bytes)]))
    }
}

/// A request with all of its body.
pub(crate) async fn whole(request: Request<Arriving>) -> Result<Request<Bytes>, Failure> {
    let (head, body) = request.into_parts();
    Ok(Request::from_parts(head, body.whole().await?))
}

fn too_large() -> Failure {
    Refusal::TooLarge(format!("A request may have {BODY_BYTES_MAX} bytes")).into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;

    use super::{Arriving, BODY_BYTES_MAX, Unread};
    use crate::testing::block_on;

    fn read(length: Option<u64>, pieces: Vec<Result<Bytes, Unread>>) -> Result<usize, String> {
        let read = block_on(Arriving::new(length, stream::iter(pieces)).whole());
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
    }
}
