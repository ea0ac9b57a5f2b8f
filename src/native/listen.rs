use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use platform::Fault;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tracing::warn;

/// A pause after a failed accept (out of file handles): trying at once would fail the same way.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much lies in the system unsent, in bytes: with megabytes there, a slow client would seem to take nothing for
/// minutes.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// A connection on its way to the thread that will serve it.
pub(crate) struct Accepted {
    pub stream: std::net::TcpStream,
    /// Who is at its other end.
    pub peer: IpAddr,
    /// Speaks TLS first.
    pub tls: Option<TlsAcceptor>,
}

/// One address that connections come to.
pub(crate) struct Listener {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    pub(crate) async fn bind(address: SocketAddr, tls: Option<TlsAcceptor>) -> Result<Self, Fault> {
        let listener = TcpListener::bind(address).await;
        Ok(Self { listener: listener.map_err(|error| Fault::new(format!("{address}: {error}")))?, tls })
    }

    /// The address with the port that the system chose for port 0.
    pub(crate) fn url(&self) -> Result<String, Fault> {
        let address = self.listener.local_addr().map_err(|error| Fault::new(error.to_string()))?;
        Ok(format!("{}://{address}", if self.tls.is_some() { "https" } else { "http" }))
    }

    /// Hands every connection to the next thread in turn, until dropped.
    pub(crate) async fn distribute(self, threads: Vec<mpsc::UnboundedSender<Accepted>>) {
        for thread in threads.iter().cycle() {
            let (stream, peer) = loop {
                match self.accept().await {
                    Ok(accepted) => break accepted,
                    Err(error) => {
                        warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            // A thread that ended drops the connection: the server is stopping.
            let _ = thread.send(Accepted { stream, peer, tls: self.tls.clone() });
        }
    }

    async fn accept(&self) -> std::io::Result<(std::net::TcpStream, IpAddr)> {
        let (stream, peer): (TcpStream, SocketAddr) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        Ok((stream.into_std()?, peer.ip()))
    }
}
