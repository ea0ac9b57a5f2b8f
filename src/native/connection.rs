//! One HTTP connection: HTTP/1.1 or HTTP/2, with bounds on what a slow or greedy client may hold.

use std::{
    cell::Cell,
    convert::Infallible,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use api::{BODY_BYTES_MAX, Server};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout},
};
use tracing::debug;

use crate::listen::Accepted;

/// A TLS handshake, a request's head, or the next bytes of its body take no longer than this.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection with no request under way is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// Serves a connection until it ends, or until `stopping` and its last answer went out.
pub(crate) async fn serve(accepted: Accepted, server: Rc<Server>, stopping: watch::Receiver<bool>) {
    let Ok(stream) = TcpStream::from_std(accepted.stream) else { return };
    match accepted.tls {
        None => serve_stream(stream, server, stopping).await,
        Some(tls) => match timeout(READ_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve_stream(stream, server, stopping).await,
            Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        },
    }
}

async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    server: Rc<Server>,
    mut stopping: watch::Receiver<bool>,
) {
    let activity = Rc::new(Activity::default());
    let service = {
        let activity = activity.clone();
        hyper::service::service_fn(move |request| answer(server.clone(), request, activity.begin()))
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
    server: Rc<Server>,
    request: Request<Incoming>,
    _under_way: UnderWay,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = match read(body).await {
        Ok(body) => server.answer(Request::from_parts(head, body)).await,
        Err(Unread::TooLarge) => api::too_large(),
        Err(Unread::TooSlow) => plain(StatusCode::REQUEST_TIMEOUT),
        // Nobody is left to read this.
        Err(Unread::Broken) => plain(StatusCode::BAD_REQUEST),
    };
    let length = response.body().len();
    let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless && !response.headers().contains_key(header::CONTENT_LENGTH) {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(response.map(Full::new))
}

fn plain(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(br#"{"errcode":"M_UNKNOWN","error":"The request did not arrive whole"}"#));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

enum Unread {
    TooLarge,
    TooSlow,
    Broken,
}

async fn read(mut body: Incoming) -> Result<Bytes, Unread> {
    // Said beforehand: then not a byte of it is read.
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(Unread::TooLarge);
    }
    let mut read = BytesMut::new();
    loop {
        let frame = timeout(READ_TIMEOUT, body.frame()).await.map_err(|_| Unread::TooSlow)?;
        let Some(frame) = frame else { return Ok(read.freeze()) };
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if read.len() + data.len() > BODY_BYTES_MAX {
            return Err(Unread::TooLarge);
        }
        read.extend_from_slice(&data);
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
