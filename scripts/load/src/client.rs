//! One HTTP/1.1 connection to a homeserver on this machine, kept alive between requests.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{
    Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::Result;

/// No request takes longer, the waiting ones included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// Nor does any file.
const FILE_TIMEOUT: Duration = Duration::from_secs(600);

type Sending = UnsyncBoxBody<Bytes, Infallible>;

/// Where a homeserver listens: `http://`, on this machine.
#[derive(Clone, Copy)]
pub(crate) struct Origin(SocketAddr);

impl Origin {
    /// Refuses whatever is not plain HTTP on a loopback address: this is a load, not for anybody else's server.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let uri: Uri = url.parse()?;
        if uri.scheme_str() != Some("http") || uri.path() != "/" {
            return Err(format!("{url}: http://HOST:PORT is wanted").into());
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let address = if host == "localhost" { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { host.parse()? };
        if !address.is_loopback() {
            return Err(format!("{url}: only servers on this machine are put under load").into());
        }
        Ok(Self(SocketAddr::new(address, uri.port_u16().unwrap_or(80))))
    }
}

/// A client with a connection of its own; opens it anew when the server closed it.
pub(crate) struct Client {
    origin: Origin,
    token: Option<String>,
    connection: Option<SendRequest<Sending>>,
}

/// What was answered.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    /// The body of a 200; anything else is an error that quotes the answer.
    pub(crate) fn ok(self) -> Result<Bytes> {
        if self.status == StatusCode::OK {
            return Ok(self.body);
        }
        let hint = if self.status == StatusCode::TOO_MANY_REQUESTS { "; switch its rate limits off" } else { "" };
        Err(format!("the server answered {}: {}{hint}", self.status, String::from_utf8_lossy(&self.body)).into())
    }

    /// As [`Answer::ok`], from JSON.
    pub(crate) fn parsed<T: DeserializeOwned>(self) -> Result<T> {
        Ok(serde_json::from_slice(&self.ok()?)?)
    }
}

impl Client {
    pub(crate) fn new(origin: Origin) -> Self {
        Self { origin, token: None, connection: None }
    }

    pub(crate) fn with_token(origin: Origin, token: String) -> Self {
        Self { origin, token: Some(token), connection: None }
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&mut self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::PUT, path, Some(body)).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut request = self.request(&method, path);
        let bytes = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(serde_json::to_vec(body)?)
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes).boxed_unsync())?;
        self.within(REQUEST_TIMEOUT, request, whole).await
    }

    /// Sends a file of so many pieces, which never are in memory together.
    pub(crate) async fn sends_file(&mut self, path: &str, pieces: Vec<Bytes>) -> Result<Answer> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let pieces = stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
        let request = self.request(&Method::POST, path).header(CONTENT_LENGTH, length);
        let request = request.body(StreamBody::new(pieces).boxed_unsync())?;
        self.within(FILE_TIMEOUT, request, whole).await
    }

    /// Reads a file to its end, and forgets it; answers how many bytes it has.
    pub(crate) async fn reads_file(&mut self, path: &str) -> Result<usize> {
        let request = self.request(&Method::GET, path).body(Full::default().boxed_unsync())?;
        self.within(FILE_TIMEOUT, request, async |response| {
            if response.status() != StatusCode::OK {
                return whole(response).await?.ok().map(|_| 0);
            }
            let (mut body, mut length) = (response.into_body(), 0);
            while let Some(frame) = body.frame().await {
                length += frame?.data_ref().map_or(0, Bytes::len);
            }
            Ok(length)
        })
        .await
    }

    fn request(&self, method: &Method, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method.clone()).uri(path).header(HOST, self.origin.0.to_string());
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Sends a request and reads its answer, in time.
    async fn within<T>(
        &mut self,
        time: Duration,
        request: Request<Sending>,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T>,
    ) -> Result<T> {
        let what = format!("{} {}", request.method(), request.uri());
        let exchange = async { read(self.connected().await?.send_request(request).await?).await };
        let outcome = timeout(time, exchange).await;
        let why = match outcome {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {} s", time.as_secs()),
        };
        self.connection = None;
        Err(format!("{what}: {why}").into())
    }

    /// The connection, ready for a request.
    async fn connected(&mut self) -> Result<&mut SendRequest<Sending>> {
        let mut kept = self.connection.take();
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            kept = None;
        }
        let connection = match kept {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.origin.0).await?;
                stream.set_nodelay(true)?;
                let (connection, driver) = handshake(TokioIo::new(stream)).await?;
                // Its error is told to whoever waits for an answer.
                tokio::spawn(async move { drop(driver.await) });
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }
}

async fn whole(response: Response<Incoming>) -> Result<Answer> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, body })
}
