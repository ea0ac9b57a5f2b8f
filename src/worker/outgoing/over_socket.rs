//! HTTP/1.1 on a socket of our own, whose certificate may name somebody else than the address does.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use domain::config::ConnectTo;
use futures_util::stream;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    rt::{Read, ReadBufCursor, Write},
};
use js_sys::{Object, Reflect};
use platform::{Arriving, Clock, OutgoingRequest, OutgoingResponse, Scheme, SendError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use worker::{Socket, worker_sys};

use super::within;
use crate::{chance, js};

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Sends a request on a new connection.
pub(super) async fn send(to: &ConnectTo, request: OutgoingRequest) -> Result<OutgoingResponse, SendError> {
    let until_ms = chance::Runtime.now_ms().saturating_add(request.timeout_ms);
    let (sender, response) = within(request.timeout_ms, exchange(to, &request)).await?;
    let (head, body) = response.into_parts();
    let bytes_max = request.response_bytes_max;
    let rest = Rest { body: Box::pin(body), sender, bytes_left: bytes_max, until_ms };
    Ok(OutgoingResponse { status: head.status, headers: head.headers, body: arriving(rest, bytes_max) })
}

async fn exchange(
    to: &ConnectTo,
    request: &OutgoingRequest,
) -> Result<(SendRequest<Full<Bytes>>, Response<Incoming>), SendError> {
    let socket = connect(to, request).await.map_err(|thrown| SendError::Unreachable(js::message(&thrown)))?;
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = http.handshake(Connection(socket)).await.map_err(|error| failed(&error))?;
    spawn_local(async move {
        // What breaks here breaks the answer, which reports it.
        let _ = connection.await;
    });
    let response = sender.send_request(written(request)?).await.map_err(|error| failed(&error))?;
    Ok((sender, response))
}

/// Opens a socket, and on it TLS with whoever the certificate names.
async fn connect(to: &ConnectTo, request: &OutgoingRequest) -> Result<Socket, JsValue> {
    let address = Object::new();
    Reflect::set(&address, &"hostname".into(), &to.host.as_str().into())?;
    Reflect::set(&address, &"port".into(), &to.port.into())?;
    let is_encrypted = request.peer.scheme == Scheme::Https;
    let options = Object::new();
    let transport = if is_encrypted { "starttls" } else { "off" };
    Reflect::set(&options, &"secureTransport".into(), &transport.into())?;
    let mut socket = js::connect(&address, &options)?;
    // Of a connection that was refused, a read would never end.
    JsFuture::from(socket.opened()?).await?;
    if is_encrypted {
        let options = Object::new();
        let name = request.peer.certificate_name.as_str();
        Reflect::set(&options, &"expectedServerHostname".into(), &name.into())?;
        socket = socket.start_tls(&options)?;
    }
    let socket: JsValue = socket.into();
    Ok(Socket::from(socket.unchecked_into::<worker_sys::Socket>()))
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

/// The runtime's socket as hyper takes it.
struct Connection(Socket);

/// Read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

impl Read for Connection {
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

impl Write for Connection {
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
