//! The contract of [`Outgoing`], with a server that whoever runs the suite provides: by HTTPS at an address that its
//! certificate does not name. It answers
//!
//! | path | answer |
//! |---|---|
//! | `/echo…` | 200 and JSON: the request's `method`, `uri`, `host`, `sni`, `greeting` (a header) and `body` |
//! | `/teapot` | 418 with the header `greeting: hello` and the body `short` |
//! | `/redirect` | 302 with `location: /echo` |
//! | `/large` | 200 and a megabyte |
//! | `/slow` | 200 and a byte a second |

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;

use super::{Broken, Outcome, outcome, same};
use crate::{Outgoing, OutgoingRequest, Peer, SendError};

impl From<SendError> for Broken {
    fn from(error: SendError) -> Self {
        Broken(error.to_string())
    }
}

/// Runs the suite with the server at `peer`, as whom its certificate names it; `nobody` is a port of the same address
/// where nobody listens.
pub async fn outgoing(outgoing: &dyn Outgoing, peer: &Peer, nobody: u16) -> Vec<Outcome> {
    vec![
        outcome("a request arrives as it was written", arrives(outgoing, peer).await),
        outcome("an answer comes as it was given", answered(outgoing, peer).await),
        outcome("a redirect is an answer", redirected(outgoing, peer).await),
        outcome("connections are used again, or not, without a difference", again(outgoing, peer).await),
        outcome("more than was asked for is refused", too_large(outgoing, peer).await),
        outcome("what takes too long is given up", too_slow(outgoing, peer).await),
        outcome("somebody else's certificate is refused", impostor(outgoing, peer).await),
        outcome("nobody is not reached", absent(outgoing, peer, nobody).await),
    ]
}

fn request(peer: &Peer, path: &str) -> OutgoingRequest {
    OutgoingRequest {
        peer: peer.clone(),
        method: Method::GET,
        path_and_query: path.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        response_bytes_max: 64 * 1024,
        timeout_ms: 10_000,
    }
}

#[derive(Debug, PartialEq, Deserialize)]
struct Echo {
    method: String,
    uri: String,
    host: String,
    sni: Option<String>,
    greeting: Option<String>,
    body: String,
}

async fn arrives(outgoing: &dyn Outgoing, peer: &Peer) -> Result<(), Broken> {
    let uri = "/echo/!a:b.c/@d%2Fe/%F0%9F%8D%B5/(x)*'~;=$&+,?q=%22a+b%22&r=%25&s=[1]";
    let mut written = request(peer, uri);
    written.method = Method::PUT;
    written.headers.insert("greeting", HeaderValue::from_static("hello"));
    written.body = "Grüße".into();
    let (_, _, body) = outgoing.send(written).await?.whole().await?;
    let echo: Echo = serde_json::from_slice(&body).map_err(|error| Broken(error.to_string()))?;
    let expected = Echo {
        method: "PUT".to_owned(),
        uri: uri.to_owned(),
        host: peer.host_header.clone(),
        sni: Some(peer.certificate_name.clone()),
        greeting: Some("hello".to_owned()),
        body: "Grüße".to_owned(),
    };
    same(echo, expected)
}

async fn answered(outgoing: &dyn Outgoing, peer: &Peer) -> Result<(), Broken> {
    let (status, headers, body) = outgoing.send(request(peer, "/teapot")).await?.whole().await?;
    same((status.as_u16(), headers.get("greeting"), &*body), (418, Some(&HeaderValue::from_static("hello")), b"short"))
}

async fn redirected(outgoing: &dyn Outgoing, peer: &Peer) -> Result<(), Broken> {
    let response = outgoing.send(request(peer, "/redirect")).await?;
    same(response.headers.get("location"), Some(&HeaderValue::from_static("/echo")))?;
    same(response.status.as_u16(), 302)
}

async fn again(outgoing: &dyn Outgoing, peer: &Peer) -> Result<(), Broken> {
    for _ in 0..3 {
        answered(outgoing, peer).await?;
    }
    // One whose answer nobody wants any more.
    drop(outgoing.send(request(peer, "/large")).await);
    answered(outgoing, peer).await
}

async fn too_large(outgoing: &dyn Outgoing, peer: &Peer) -> Result<(), Broken> {
    let answer = async { outgoing.send(request(peer, "/large")).await?.whole().await };
    same(answer.await.err(), Some(SendError::TooLarge(64 * 1024)))
}

async fn too_slow(outgoing: &dyn Outgoing, peer: &Peer) -> Result<(), Broken> {
    let mut slow = request(peer, "/slow");
    slow.timeout_ms = 1_500;
    let answer = async { outgoing.send(slow).await?.whole().await };
    same(answer.await.err(), Some(SendError::TimedOut))
}

fn is_unreachable(outcome: Result<crate::OutgoingResponse, SendError>) -> Result<(), Broken> {
    match outcome {
        Err(SendError::Unreachable(_)) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(response) => Err(Broken(format!("an answer: {}", response.status))),
    }
}

async fn impostor(outgoing: &dyn Outgoing, peer: &Peer) -> Result<(), Broken> {
    let mut other = request(peer, "/teapot");
    other.peer.certificate_name = format!("not.{}", peer.certificate_name);
    is_unreachable(outgoing.send(other).await)
}

async fn absent(outgoing: &dyn Outgoing, peer: &Peer, nobody: u16) -> Result<(), Broken> {
    let mut lost = request(peer, "/teapot");
    lost.peer.port = nobody;
    is_unreachable(outgoing.send(lost).await)
}
