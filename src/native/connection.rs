//! One HTTP connection: HTTP/1.1 or HTTP/2, with bounds on what a slow or greedy client may hold.

use std::{cell::RefCell, convert::Infallible, net::IpAddr, panic::resume_unwind, pin::pin, rc::Rc, time::Duration};

use api::{Arriving, Body, ClientAddress, Server, Unread, is_seen_through};
use bytes::Bytes;
use domain::address_range::AddressRange;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use platform::Blob;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tracing::debug;

use crate::{
    activity::{Activity, Answer, Content, IDLE_TIMEOUT, Watched},
    listen::Accepted,
};

/// A TLS handshake, or the next bytes of a request's body take no longer than this.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
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
        None => serve_stream(stream, server, origin, Rc::default(), stopping).await,
        Some(tls) => match timeout(READ_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve_stream(stream, server, origin, Rc::default(), stopping).await,
            Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        },
    }
}

async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    server: Rc<impl Answers + 'static>,
    origin: Origin,
    activity: Rc<Activity>,
    mut stopping: watch::Receiver<bool>,
) {
    let stream = Watched { stream, activity: activity.clone() };
    let service = {
        let activity = activity.clone();
        hyper::service::service_fn(move |request| answer(server.clone(), request, origin.clone(), activity.clone()))
    };
    let mut http = Builder::new(LocalTasks);
    // Here a head begins when the one before is answered. How long it takes from its first byte on is the activity's.
    http.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(HEAD_BYTES_MAX as usize);
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
            () = activity.is_over() => return,
            _ = stopping.wait_for(|stopping| *stopping), if !drained => {
                drained = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Answers one request. Dropped when the client goes away, and whatever waits for the answer with it, but for what is
/// [seen through](is_seen_through).
async fn answer(
    server: Rc<impl Answers + 'static>,
    request: Request<Incoming>,
    origin: Origin,
    activity: Rc<Activity>,
) -> Result<Response<Answer>, Infallible> {
    let under_way = activity.begin(request.version());
    let (mut head, body) = request.into_parts();
    head.extensions.insert(ClientAddress::behind_proxies(origin.peer, &head.headers, &origin.trusted_proxies));
    let incoming = Rc::new(RefCell::new(Some(body)));
    let request = Request::from_parts(head, arriving(incoming.clone()));
    let mut response = if is_seen_through(request.method()) {
        // A task goes on without the one that waits for it.
        let answering = tokio::task::spawn_local(async move { server.answer(request).await });
        match answering.await {
            Ok(response) => response,
            // The thread's panic hook has said so.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    } else {
        server.answer(request).await
    };
    if let Some(rest) = incoming.take().filter(|rest| !rest.is_end_stream()) {
        let under_way = activity.under_way();
        tokio::task::spawn_local(async move {
            let _under_way = under_way;
            timeout(DISCARD_TIMEOUT, discard(rest)).await
        });
    }
    let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Body::Whole(body) = response.body()
        && !bodiless
        && !response.headers().contains_key(header::CONTENT_LENGTH)
    {
        let length = HeaderValue::from(body.len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    Ok(response.map(|body| {
        under_way.answered_with(match body {
            Body::Whole(bytes) => Content::Whole(bytes),
            Body::Pieces(pieces) | Body::Stored(Blob { pieces, .. }) => Content::Pieces(pieces),
        })
    }))
}

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

    use futures_util::StreamExt as _;
    use platform::Fault;
    use tokio::time::Instant;

    use super::*;
    use crate::actor_host::run_local;

    static LARGE: [u8; 1_000_000] = [b'a'; 1_000_000];

    /// Echoes the body's length; on `/wait`, waits until told, and says when it is dropped.
    #[derive(Default)]
    struct Echo {
        waits: Notify,
        go: Notify,
        dropped: Rc<Notify>,
        activity: Rc<Activity>,
    }

    impl Echo {
        /// How long the connection may go on like this, in whole seconds; `None` while it is our turn.
        fn patience(&self) -> Option<u64> {
            self.activity.over_at().map(|end| end.saturating_duration_since(Instant::now()).as_secs() + 1)
        }

        async fn has_patience(&self, seconds: Option<u64>) {
            while self.patience() != seconds {
                tokio::task::yield_now().await;
            }
        }
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
            if request.uri().path() == "/large" {
                return Response::new(Bytes::from_static(&LARGE).into());
            }
            if request.uri().path() == "/wait" {
                let _told = Told(self.dropped.clone());
                self.waits.notify_one();
                self.go.notified().await;
            }
            if let Some(end) = request.uri().path().strip_prefix("/pieces/") {
                let is_large = end == "large";
                let end = (end == "cut").then(|| Err(Fault::new("told to")));
                let pieces = match is_large {
                    true => LARGE.chunks(10_000).map(|piece| Ok(Bytes::from_static(piece))).collect(),
                    false => vec![Ok(Bytes::from("one")), Ok(Bytes::from("two"))],
                };
                let pieces = pieces.into_iter().chain(end);
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
            let served =
                tokio::task::spawn_local(serve_stream(server, echo.clone(), origin, echo.activity.clone(), stopping));
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
    fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
        story(|mut client, echo, _stop, _served| async move {
            for begin in ["GET /ig", "GE"] {
                echo.has_patience(Some(120)).await;
                client.write_all(begin.as_bytes()).await.unwrap();
                echo.has_patience(Some(30)).await;
                let rest = "GET /ignore HTTP/1.1\r\nhost: a\r\n\r\n".strip_prefix(begin).unwrap();
                client.write_all(rest.as_bytes()).await.unwrap();
                let mut answer = [0; 64];
                assert!(client.read(&mut answer).await.unwrap() > 0);
            }
            echo.has_patience(Some(120)).await;
        });
    }

    #[test]
    fn an_answer_is_sent_for_as_long_as_its_client_takes_some_of_it() {
        for path in ["/large", "/pieces/large"] {
            story(|mut client, echo, _stop, served| async move {
                let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
                client.write_all(head.as_bytes()).await.unwrap();
                let mut taken = 0;
                let mut some = vec![0; 100_000];
                while taken < LARGE.len() - 300_000 {
                    echo.has_patience(Some(60)).await;
                    let before = echo.activity.over_at();
                    while echo.activity.over_at() == before {
                        taken += client.read(&mut some).await.unwrap();
                    }
                }
                assert!(taken + said(&mut client).await.len() > LARGE.len());
                served.await.unwrap();
            });
        }
    }

    #[test]
    fn nobody_waits_for_an_answer_that_is_being_made() {
        story(|mut client, echo, _stop, _served| async move {
            client.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            echo.waits.notified().await;
            assert_eq!(echo.patience(), None);
            echo.go.notify_one();
            echo.has_patience(Some(120)).await;
        });
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
