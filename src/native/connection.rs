//! One HTTP connection: HTTP/1.1 or HTTP/2, with bounds on what a slow or greedy client may hold.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::IpAddr,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use api::{Arriving, Body, ClientAddress, Server, Unread};
use bytes::Bytes;
use domain::address_range::AddressRange;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use platform::{Blob, Fault};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout},
};
use tracing::{debug, error};

use crate::listen::Accepted;

/// A TLS handshake, a request's head, or the next bytes of its body take no longer than this.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection with no request under way is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// What nobody wanted of a request is still taken in for so long, or so many bytes, that the client gets to read its
/// answer.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);
const DISCARDED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// Whoever answers requests: the homeserver, or a test's stand-in.
pub(crate) trait Answers {
    fn answer(&self, request: Request<Arriving>) -> impl Future<Output = Response<Body>>;
}

impl Answers for Server {
    fn answer(&self, request: Request<Arriving>) -> impl Future<Output = Response<Body>> {
        self.answer(request)
    }
}

/// Where a connection comes from, and whom it may speak for.
#[derive(Clone)]
pub(crate) struct Origin {
    peer: IpAddr,
    trusted_proxies: Rc<[AddressRange]>,
}

/// Serves a connection until it ends, or until `stopping` and its last answer went out.
pub(crate) async fn serve(
    accepted: Accepted,
    server: Rc<impl Answers + 'static>,
    trusted_proxies: Rc<[AddressRange]>,
    stopping: watch::Receiver<bool>,
) {
    let Ok(stream) = TcpStream::from_std(accepted.stream) else { return };
    let origin = Origin { peer: accepted.peer, trusted_proxies };
    match accepted.tls {
        None => serve_stream(stream, server, origin, stopping).await,
        Some(tls) => match timeout(READ_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve_stream(stream, server, origin, stopping).await,
            Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        },
    }
}

async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    server: Rc<impl Answers + 'static>,
    origin: Origin,
    mut stopping: watch::Receiver<bool>,
) {
    let activity = Rc::new(Activity::default());
    let service = {
        let activity = activity.clone();
        hyper::service::service_fn(move |request| answer(server.clone(), request, origin.clone(), activity.begin()))
    };
    let mut http = Builder::new(LocalTasks);
    http.http1().timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT).max_buf_size(HEAD_BYTES_MAX as usize);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .keep_alive_interval(READ_TIMEOUT);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut drained = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(error = %error, "a connection ended early");
                }
                return;
            }
            () = activity.idle() => return,
            _ = stopping.wait_for(|stopping| *stopping), if !drained => {
                drained = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Answers one request. Dropped when the client goes away, and whatever waits for the answer with it.
async fn answer(
    server: Rc<impl Answers>,
    request: Request<Incoming>,
    origin: Origin,
    under_way: UnderWay,
) -> Result<Response<Outgoing>, Infallible> {
    let (mut head, body) = request.into_parts();
    head.extensions.insert(ClientAddress::behind_proxies(origin.peer, &head.headers, &origin.trusted_proxies));
    let incoming = Rc::new(RefCell::new(Some(body)));
    let mut response = server.answer(Request::from_parts(head, arriving(incoming.clone()))).await;
    if let Some(rest) = incoming.take().filter(|rest| !rest.is_end_stream()) {
        tokio::task::spawn_local(timeout(DISCARD_TIMEOUT, discard(rest)));
    }
    let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Body::Whole(body) = response.body()
        && !bodiless
        && !response.headers().contains_key(header::CONTENT_LENGTH)
    {
        let length = HeaderValue::from(body.len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    Ok(response.map(|body| match body {
        Body::Whole(bytes) => Outgoing::Left(Full::new(bytes)),
        // The request is under way until its last piece is.
        Body::Pieces(pieces) | Body::Stored(Blob { pieces, .. }) => {
            Outgoing::Right(StreamBody::new(Box::pin(pieces.map(move |piece| {
                let _under_way = &under_way;
                piece.map(Frame::data).inspect_err(|fault| error!(%fault, "an answer was cut short"))
            }))))
        }
    }))
}

type Outgoing = Either<Full<Bytes>, StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Fault>>>>>>;

/// A request's body, piece by piece. It lies in `incoming` between two pieces, until it ended or broke.
fn arriving(incoming: Rc<RefCell<Option<Incoming>>>) -> Arriving {
    let length = incoming.borrow().as_ref().and_then(|body| body.size_hint().exact());
    let pieces = stream::unfold(incoming, |incoming| async move {
        let mut body = incoming.take()?;
        let piece = loop {
            match timeout(READ_TIMEOUT, body.frame()).await {
                Err(_) => break Err(Unread::TooSlow),
                Ok(None) => return None,
                Ok(Some(Err(_))) => break Err(Unread::Broken),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        break Ok(data);
                    }
                }
            }
        };
        if piece.is_ok() {
            incoming.replace(Some(body));
        }
        Some((piece, incoming))
    });
    Arriving::new(length, pieces)
}

/// Takes in what is left of a body.
async fn discard(mut body: Incoming) {
    let mut discarded = 0_usize;
    while let Some(Ok(frame)) = body.frame().await {
        discarded = discarded.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if discarded > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

/// When the connection last had a request under way.
struct Activity {
    requests: Cell<usize>,
    since: Cell<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { requests: Cell::new(0), since: Cell::new(Instant::now()) }
    }
}

impl Activity {
    fn begin(self: &Rc<Self>) -> UnderWay {
        self.requests.set(self.requests.get() + 1);
        UnderWay(self.clone())
    }

    /// Resolves when the connection has been idle for too long.
    async fn idle(&self) {
        loop {
            let end = self.since.get() + IDLE_TIMEOUT;
            if self.requests.get() == 0 && Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end.max(Instant::now() + Duration::from_secs(1))).await;
        }
    }
}

struct UnderWay(Rc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get().saturating_sub(1));
        self.0.since.set(Instant::now());
    }
}

/// Runs HTTP/2 streams on this thread.
#[derive(Clone)]
struct LocalTasks;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalTasks {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
        sync::Notify,
    };

    use super::*;
    use crate::actor_host::run_local;

    /// Echoes the body's length; on `/wait`, waits until told, and says when it is dropped.
    #[derive(Default)]
    struct Echo {
        waits: Notify,
        go: Notify,
        dropped: Rc<Notify>,
    }

    struct Told(Rc<Notify>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    impl Answers for Echo {
        async fn answer(&self, request: Request<Arriving>) -> Response<Body> {
            if request.uri().path() == "/ignore" {
                return Response::new(Bytes::from("ignored").into());
            }
            if request.uri().path() == "/wait" {
                let _told = Told(self.dropped.clone());
                self.waits.notify_one();
                self.go.notified().await;
            }
            if let Some(end) = request.uri().path().strip_prefix("/pieces/") {
                let end = (end == "cut").then(|| Err(Fault::new("told to")));
                let pieces = [Ok(Bytes::from("one")), Ok(Bytes::from("two"))].into_iter().chain(end);
                return Response::new(Body::pieces(futures_util::stream::iter(pieces)));
            }
            let pieces: Vec<_> = request.into_body().pieces.collect().await;
            let read: Result<usize, Unread> = pieces.into_iter().map(|piece| piece.map(|bytes| bytes.len())).sum();
            Response::new(Bytes::from(format!("{read:?}")).into())
        }
    }

    fn story<F: Future<Output = ()>>(
        story: impl FnOnce(DuplexStream, Rc<Echo>, watch::Sender<bool>, tokio::task::JoinHandle<()>) -> F,
    ) {
        run_local("a test", 1, || async {
            let (client, server) = tokio::io::duplex(64 * 1024);
            let (stop, stopping) = watch::channel(false);
            let echo = Rc::new(Echo::default());
            let origin = Origin { peer: Ipv4Addr::LOCALHOST.into(), trusted_proxies: Rc::new([]) };
            let served = tokio::task::spawn_local(serve_stream(server, echo.clone(), origin, stopping));
            let told = timeout(Duration::from_secs(20), story(client, echo, stop.clone(), served)).await;
            told.expect("the story hangs");
            drop(stop);
        });
    }

    async fn said(client: &mut DuplexStream) -> String {
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        String::from_utf8(said).unwrap()
    }

    #[test]
    fn a_request_is_dropped_when_its_client_goes_away() {
        story(|mut client, echo, _stop, served| async move {
            client.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            echo.waits.notified().await;
            drop(client);
            echo.dropped.notified().await;
            served.await.unwrap();
        });
    }

    #[test]
    fn an_answer_in_pieces_ends_whole_or_not_at_all() {
        for (path, is_whole) in [("/pieces/whole", true), ("/pieces/cut", false)] {
            story(|mut client, _echo, _stop, _served| async move {
                let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
                client.write_all(head.as_bytes()).await.unwrap();
                let answer = said(&mut client).await;
                assert_eq!(answer.ends_with("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), is_whole, "{answer}");
            });
        }
    }

    #[test]
    fn an_answer_does_not_wait_for_a_body_that_nobody_wants() {
        story(|client, _echo, _stop, _served| async move {
            let (mut answer, mut body) = tokio::io::split(client);
            body.write_all(b"PUT /ignore HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n").await.unwrap();
            let mut start = [0; 13];
            answer.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 200 ");
            // It may still be sent, and the connection is good for more.
            let more = tokio::task::spawn_local(async move {
                body.write_all(&vec![b'a'; 10_000_000]).await.unwrap();
                body.write_all(b"GET /ignore HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
                body
            });
            let mut rest = String::new();
            answer.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest.matches("HTTP/1.1 200 ").count(), 1, "{rest}");
            more.await.unwrap();
        });
    }

    #[test]
    fn a_body_is_answered_piece_by_piece() {
        story(|mut client, _echo, _stop, _served| async move {
            client
                .write_all(b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            for _ in 0..3 {
                client.write_all(b"2\r\naa\r\n").await.unwrap();
                tokio::task::yield_now().await;
            }
            client.write_all(b"0\r\n\r\n").await.unwrap();
            let answer = said(&mut client).await;
            assert!(answer.ends_with("Ok(6)"), "{answer}");
        });
    }

    #[test]
    fn stopping_ends_the_connection_after_the_answer_under_way() {
        story(|mut client, echo, stop, served| async move {
            client.write_all(b"POST /wait HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            echo.waits.notified().await;
            stop.send_replace(true);
            tokio::task::yield_now().await;
            echo.go.notify_one();
            let answer = said(&mut client).await;
            assert!(answer.contains("content-length: 5\r\n") && answer.ends_with("\r\n\r\nOk(2)"), "{answer}");
            served.await.unwrap();
        });
    }
}
