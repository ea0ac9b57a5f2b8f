//! The runtime's sockets, and TLS on them.

use domain::config::ConnectTo;
use js_sys::{Object, Reflect};
use platform::SendError;
use tokio::io::{AsyncRead, AsyncWrite};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use worker::{Socket, worker_sys};

use super::trust::Trust;
use crate::js;

/// What is read and written on a connection.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// What is talked on a connection.
#[derive(Clone, Copy)]
pub(super) enum Talk {
    Http,
    Other,
}

/// An open connection, on which TLS may begin.
pub(super) struct Connection {
    raw: js::RawSocket,
    pub(super) socket: Box<dyn Duplex>,
}

impl Connection {
    pub(super) async fn open(to: &ConnectTo) -> Result<Self, SendError> {
        let opened = async {
            let address = Object::new();
            Reflect::set(&address, &"hostname".into(), &to.host.as_str().into())?;
            Reflect::set(&address, &"port".into(), &to.port.into())?;
            let options = Object::new();
            Reflect::set(&options, &"secureTransport".into(), &"starttls".into())?;
            let socket = js::connect(&address, &options)?;
            // Of a connection that was refused, a read would never end.
            JsFuture::from(socket.opened()?).await?;
            Ok(socket)
        };
        opened.await.map(Self::of).map_err(|thrown| unreachable(&thrown))
    }

    fn of(raw: js::RawSocket) -> Self {
        let socket = JsValue::from(&raw).unchecked_into::<worker_sys::Socket>();
        Self { raw, socket: Box::new(Socket::from(socket)) }
    }

    /// Begins TLS with whoever the certificate names.
    pub(super) async fn encrypted(
        self,
        certificate_name: &str,
        trust: Trust,
        #[cfg_attr(not(feature = "extra-ca"), expect(unused_variables, reason = "the runtime offers what it does"))]
        talk: Talk,
    ) -> Result<Self, SendError> {
        match trust {
            #[cfg(feature = "extra-ca")]
            Trust::Ours(tls) => Ok(Self { socket: tls.begin(self.socket, certificate_name, talk).await?, ..self }),
            Trust::Runtimes => {
                let begun = || {
                    let options = Object::new();
                    Reflect::set(&options, &"expectedServerHostname".into(), &certificate_name.into())?;
                    self.raw.start_tls(&options)
                };
                begun().map(Self::of).map_err(|thrown| unreachable(&thrown))
            }
        }
    }
}

fn unreachable(thrown: &JsValue) -> SendError {
    SendError::Unreachable(js::message(thrown))
}
