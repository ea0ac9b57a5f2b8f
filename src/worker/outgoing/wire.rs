//! Connections for what is no HTTP, on the runtime's sockets.

use std::{future::poll_fn, pin::Pin};

use bytes::Bytes;
use domain::config::ConnectTo;
use js_sys::{Object, Reflect};
use platform::{LocalFuture, Peer, Scheme, SendError, Wire};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use worker::{Socket, worker_sys};

use crate::js;

/// Read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

struct Connection {
    /// What TLS begins on.
    raw: js::RawSocket,
    socket: Socket,
}

/// Connects to a peer.
pub(super) async fn dial(to: &ConnectTo, peer: &Peer) -> Result<Box<dyn Wire>, SendError> {
    let raw = connect(to).await.map_err(|thrown| SendError::Unreachable(js::message(&thrown)))?;
    let connection = Box::new(Connection::new(raw));
    match peer.scheme {
        Scheme::Http => Ok(connection),
        Scheme::Https => connection.encrypts(&peer.certificate_name).await,
    }
}

async fn connect(to: &ConnectTo) -> Result<js::RawSocket, JsValue> {
    let address = Object::new();
    Reflect::set(&address, &"hostname".into(), &to.host.as_str().into())?;
    Reflect::set(&address, &"port".into(), &to.port.into())?;
    let options = Object::new();
    // It begins without TLS, and may go on with it.
    Reflect::set(&options, &"secureTransport".into(), &"starttls".into())?;
    let socket = js::connect(&address, &options)?;
    // Of a connection that was refused, a read would never end.
    JsFuture::from(socket.opened()?).await?;
    Ok(socket)
}

impl Connection {
    fn new(raw: js::RawSocket) -> Self {
        let socket = JsValue::from(&raw).unchecked_into::<worker_sys::Socket>();
        Self { raw, socket: Socket::from(socket) }
    }
}

impl Wire for Connection {
    fn read(&mut self) -> LocalFuture<'_, Result<Bytes, SendError>> {
        Box::pin(async {
            let mut bytes = vec![0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            let outcome = poll_fn(|cx| Pin::new(&mut self.socket).poll_read(cx, &mut read)).await;
            outcome.map_err(|error| SendError::Unreachable(error.to_string()))?;
            Ok(Bytes::copy_from_slice(read.filled()))
        })
    }

    fn write(&mut self, bytes: Bytes) -> LocalFuture<'_, Result<(), SendError>> {
        Box::pin(async move {
            // The runtime takes all of it at once.
            let outcome = poll_fn(|cx| Pin::new(&mut self.socket).poll_write(cx, &bytes)).await;
            outcome.map(drop).map_err(|error| SendError::Unreachable(error.to_string()))
        })
    }

    fn encrypts(self: Box<Self>, certificate_name: &str) -> LocalFuture<'_, Result<Box<dyn Wire>, SendError>> {
        let begun = || {
            let options = Object::new();
            Reflect::set(&options, &"expectedServerHostname".into(), &certificate_name.into())?;
            self.raw.start_tls(&options)
        };
        let encrypted = begun().map_err(|thrown| SendError::Unreachable(js::message(&thrown)));
        Box::pin(async move {
            let encrypted: Box<dyn Wire> = Box::new(Self::new(encrypted?));
            Ok(encrypted)
        })
    }
}
