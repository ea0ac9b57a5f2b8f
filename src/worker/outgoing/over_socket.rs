//! HTTP/1.1 on a socket of our own, whose certificate may name somebody else than the address does.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    rt::{Read, ReadBufCursor, Write},
};
use platform::{Arriving, Clock, OutgoingRequest, OutgoingResponse, Scheme, SendError};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use wasm_bindgen_futures::spawn_local;

use super::{
    socket::{Connection, Duplex, Talk},
    trust::Trust,
    within,
};
use crate::chance;

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Sends a request on a connection of its own.
pub(super) async fn send(
    connection: Connection,
    request: OutgoingRequest,
    trust: Trust,
) -> Result<OutgoingResponse, SendError> {
    let until_ms = chance::Runtime.now_ms().saturating_add(request.timeout_ms);
    let (sender, response) = within(request.timeout_ms, exchange(connection, &request, trust)).await?;
    let (head, body) = response.into_parts();
    let bytes_max = request.response_bytes_max;
    let rest = Rest { body: Box::pin(body), sender, bytes_left: bytes_max, until_ms };
    Ok(OutgoingResponse { status: head.status, headers: head.headers, body: arriving(rest, bytes_max) })
}

async fn exchange(
    mut connection: Connection,
    request: &OutgoingRequest,
    trust: Trust,
) -> Result<(SendRequest<Full<Bytes>>, Response<Incoming>), SendError> {
    if request.peer.scheme == Scheme::Https {
        connection = connection.encrypted(&request.peer.certificate_name, trust, Talk::Http).await?;
    }
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = http.handshake(Spoken(connection.socket)).await.map_err(|error| failed(&error))?;
    spawn_local(async move {
        // What breaks here breaks the answer, which reports it.
        let _ = connection.await;
    });
    let response = sender.send_request(written(request)?).await.map_err(|error| failed(&error))?;
    Ok((sender, response))
}

fn written(request: &OutgoingRequest) -> Result<Request<Full<Bytes>>, SendError> {
    let unwritable = |error: &dyn std::fmt::Display| SendError::Unreachable(format!("the request: {error}"));
    let mut written = Request::new(Full::new(request.body.clone()));
    *written.method_mut() = request.method.clone();
    *written.uri_mut() = request.path_and_query.parse().map_err(|error| unwritable(&error))?;
    *written.headers_mut() = request.headers.clone();
    let host = HeaderValue::from_str(&request.peer.host_header).map_err(|error| unwritable(&error))?;
    written.headers_mut().insert(header::HOST, host);
    // Nobody else uses this connection.
    written.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(written)
}

fn failed(error: &hyper::Error) -> SendError {
    if error.is_parse() { SendError::Nonsense(error.to_string()) } else { SendError::Unreachable(error.to_string()) }
}

struct Rest {
    body: Pin<Box<Incoming>>,
    /// Dropped, it ends the connection.
    sender: SendRequest<Full<Bytes>>,
    bytes_left: usize,
    until_ms: u64,
}

fn arriving(rest: Rest, bytes_max: usize) -> Arriving {
    Box::pin(stream::try_unfold(rest, move |mut rest| async move {
        loop {
            let left_ms = rest.until_ms.saturating_sub(chance::Runtime.now_ms());
            let frame = async { rest.body.frame().await.transpose().map_err(|error| failed(&error)) };
            let Some(frame) = within(left_ms, frame).await? else { return Ok(None) };
            // Trailers say nothing to us.
            let Ok(piece) = frame.into_data() else { continue };
            rest.bytes_left = rest.bytes_left.checked_sub(piece.len()).ok_or(SendError::TooLarge(bytes_max))?;
            let _ = &rest.sender;
            return Ok(Some((piece, rest)));
        }
    }))
}

/// A connection as hyper takes it.
struct Spoken(Box<dyn Duplex>);

/// Read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

impl Read for Spoken {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ_BYTES];
        let room = bytes.len().min(into.remaining());
        let Some(bytes) = bytes.get_mut(..room) else { return Poll::Ready(Ok(())) };
        let mut read = ReadBuf::new(bytes);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut read))?;
        into.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Spoken {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
