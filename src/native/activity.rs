//! How long a connection may do nothing, and how long its client may take for what it has begun.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use platform::{Fault, Pieces};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tracing::error;

/// A request's head, once it has begun, takes no longer than this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection with no request under way is closed after this long.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// So long may a client take nothing of an answer.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// How often somebody looks whether one of these is over. It is shorter than each: what begins meanwhile is not over
/// before.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How much of an answer is offered at once, in bytes: what is taken says that there is progress.
const OFFERED_BYTES_MAX: usize = 64 * 1024;

/// What a connection does, and since when.
pub(crate) struct Activity {
    /// Requests under way: whose answer is being made, or sent.
    requests: Cell<usize>,
    /// When the last of them ended.
    since: Cell<Instant>,
    /// When the head of another request began to arrive. Nobody tells of heads among the frames of HTTP/2.
    head_since: Cell<Option<Instant>>,
    is_in_frames: Cell<bool>,
    /// Answers of which a piece was offered and no other is wanted yet, by number, and when that was.
    offered: RefCell<BTreeMap<u64, Instant>>,
    answers: Cell<u64>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            requests: Cell::new(0),
            since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            is_in_frames: Cell::new(false),
            offered: RefCell::default(),
            answers: Cell::new(0),
        }
    }
}

impl Activity {
    pub(crate) fn begin(self: &Rc<Self>, version: http::Version) -> UnderWay {
        self.is_in_frames.set(version == http::Version::HTTP_2);
        self.under_way()
    }

    /// As long as the answer is there, the connection is not idle.
    pub(crate) fn under_way(self: &Rc<Self>) -> UnderWay {
        self.head_since.set(None);
        self.requests.set(self.requests.get() + 1);
        UnderWay(self.clone())
    }

    /// Resolves when the client took too long for something.
    pub(crate) async fn is_over(&self) {
        loop {
            let (now, end) = (Instant::now(), self.over_at());
            if end.is_some_and(|end| end <= now) {
                return;
            }
            let look = now + LOOK_EVERY;
            tokio::time::sleep_until(end.map_or(look, |end| end.min(look))).await;
        }
    }

    /// When it is over, unless something happens before; `None` while it is our turn.
    pub(crate) fn over_at(&self) -> Option<Instant> {
        if self.requests.get() > 0 {
            return self.offered.borrow().values().min().map(|offered| *offered + PROGRESS_TIMEOUT);
        }
        let idle = self.since.get() + IDLE_TIMEOUT;
        Some(self.head_since.get().map_or(idle, |head| idle.min(head + HEAD_TIMEOUT)))
    }

    fn has_read(&self) {
        if self.requests.get() == 0 && self.head_since.get().is_none() && !self.is_in_frames.get() {
            self.head_since.set(Some(Instant::now()));
        }
    }
}

/// A request under way.
pub(crate) struct UnderWay(Rc<Activity>);

impl UnderWay {
    /// The body of its answer, which is under way until its last piece was taken.
    pub(crate) fn answered_with(self, content: Content) -> Answer {
        let number = self.0.answers.get();
        self.0.answers.set(number + 1);
        Answer { content, number, under_way: self }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get().saturating_sub(1));
        self.0.since.set(Instant::now());
    }
}

/// What is in an answer.
pub(crate) enum Content {
    Whole(Bytes),
    Pieces(Pieces),
}

/// An answer's body, offered piece by piece.
pub(crate) struct Answer {
    content: Content,
    number: u64,
    under_way: UnderWay,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let number = self.number;
        self.under_way.0.offered.borrow_mut().remove(&number);
        let piece = match &mut self.content {
            Content::Whole(rest) if rest.is_empty() => None,
            Content::Whole(rest) => Some(Ok(rest.split_to(rest.len().min(OFFERED_BYTES_MAX)))),
            Content::Pieces(pieces) => ready!(pieces.as_mut().poll_next(cx)),
        };
        match &piece {
            Some(Ok(_)) => drop(self.under_way.0.offered.borrow_mut().insert(number, Instant::now())),
            Some(Err(fault)) => error!(%fault, "an answer was cut short"),
            None => {}
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(rest) if rest.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(rest) => SizeHint::with_exact(rest.len() as u64),
            Content::Pieces(_) => SizeHint::default(),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.under_way.0.offered.borrow_mut().remove(&self.number);
    }
}

/// A stream that tells what is read from it.
pub(crate) struct Watched<S> {
    pub stream: S,
    pub activity: Rc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.activity.has_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
