//! One request and its answer, within its bounds.

use std::{pin::Pin, rc::Rc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use platform::{Arriving, OutgoingRequest, OutgoingResponse, Peer, SendError};
use tokio::time::{Instant, timeout_at};

use super::{
    Connections,
    connect::{Sender, connect},
    pool::Pool,
};

pub(super) async fn send(connections: &Connections, request: OutgoingRequest) -> Result<OutgoingResponse, SendError> {
    let deadline = Instant::now() + Duration::from_millis(request.timeout_ms);
    let (sender, response) =
        timeout_at(deadline, exchange(connections, &request)).await.map_err(|_| SendError::TimedOut)??;
    let (head, body) = response.into_parts();
    let bytes_max = request.response_bytes_max;
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(SendError::TooLarge(bytes_max));
    }
    let used = Used { pool: connections.pool.clone(), peer: request.peer, sender };
    Ok(OutgoingResponse { status: head.status, headers: head.headers, body: arriving(body, used, bytes_max, deadline) })
}

/// Sends on a connection that was used before, or on a new one if that turns out to be closed.
async fn exchange(
    connections: &Connections,
    request: &OutgoingRequest,
) -> Result<(Sender, Response<Incoming>), SendError> {
    if let Some(mut sender) = connections.pool.take(&request.peer)
        && sender.ready().await.is_ok()
        && let Ok(response) = sender.send_request(written(request)?).await
    {
        return Ok((sender, response));
    }
    let mut sender = connect(connections, &request.peer).await?;
    sender.ready().await.map_err(|error| SendError::Unreachable(error.to_string()))?;
    let response = sender.send_request(written(request)?).await;
    Ok((sender, response.map_err(failed)?))
}

fn failed(error: hyper::Error) -> SendError {
    if error.is_parse() { SendError::Nonsense(error.to_string()) } else { SendError::Unreachable(error.to_string()) }
}

fn written(request: &OutgoingRequest) -> Result<Request<Full<Bytes>>, SendError> {
    let unwritable = |error: &dyn std::fmt::Display| SendError::Unreachable(format!("the request: {error}"));
    let mut written = Request::new(Full::new(request.body.clone()));
    *written.method_mut() = request.method.clone();
    *written.uri_mut() = request.path_and_query.parse().map_err(|error| unwritable(&error))?;
    *written.headers_mut() = request.headers.clone();
    let host = HeaderValue::from_str(&request.peer.host_header).map_err(|error| unwritable(&error))?;
    written.headers_mut().insert(header::HOST, host);
    Ok(written)
}

/// A connection that is under way, and where it goes when it is no more.
struct Used {
    pool: Rc<Pool>,
    peer: Peer,
    sender: Sender,
}

struct Rest {
    body: Pin<Box<Incoming>>,
    used: Used,
    bytes_left: usize,
}

/// The body, piece by piece. Whoever drops it before its end closes the connection.
fn arriving(body: Incoming, used: Used, bytes_max: usize, deadline: Instant) -> Arriving {
    let rest = Rest { body: Box::pin(body), used, bytes_left: bytes_max };
    Box::pin(stream::try_unfold(Some(rest), move |rest| async move {
        let Some(mut rest) = rest else { return Ok(None) };
        loop {
            let frame = timeout_at(deadline, rest.body.frame()).await.map_err(|_| SendError::TimedOut)?;
            let Some(frame) = frame else {
                rest.used.pool.keep(&rest.used.peer, rest.used.sender);
                return Ok(None);
            };
            // Trailers say nothing to us.
            let Ok(piece) = frame.map_err(failed)?.into_data() else { continue };
            rest.bytes_left = rest.bytes_left.checked_sub(piece.len()).ok_or(SendError::TooLarge(bytes_max))?;
            return Ok(Some((piece, Some(rest))));
        }
    }))
}
