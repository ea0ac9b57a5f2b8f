//! A server of ours that other servers reach, by the name that it has.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use crate::{Authority, Client, Host, Https, Received, Reply, Server};

/// A way to a server, that does its TLS; the server is called like it.
pub struct Proxy {
    pub name: String,
    https: Https,
    url: Arc<OnceLock<String>>,
    is_cut_off: Arc<AtomicBool>,
}

impl Proxy {
    pub fn starts() -> Self {
        let url: Arc<OnceLock<String>> = Arc::default();
        let is_cut_off = Arc::new(AtomicBool::new(false));
        let (target, cut) = (url.clone(), is_cut_off.clone());
        let https = Https::serves(Authority::shared().vouches_for(&["localhost"]), move |request| match target.get() {
            Some(url) if !cut.load(Ordering::Relaxed) => forwarded(url, request),
            _ => Reply::Raw(Box::new(|_| Ok(()))),
        });
        Self { name: format!("localhost:{}", https.port), https, url, is_cut_off }
    }

    pub fn leads_to(&self, url: &str) {
        self.url.set(url.to_owned()).expect("set once");
    }

    /// Nobody gets through any more, until [`Proxy::is_back`].
    pub fn is_cut_off(&self) {
        self.is_cut_off.store(true, Ordering::Relaxed);
    }

    pub fn is_back(&self) {
        self.is_cut_off.store(false, Ordering::Relaxed);
    }
}

/// A server of ours that others reach.
pub struct Federated {
    pub server: Server,
    pub name: String,
    proxy: Proxy,
}

impl Federated {
    pub fn starts(host: Host) -> Self {
        Self::starts_with(host, &[])
    }

    /// One with some settings of its own.
    pub fn starts_with(host: Host, settings: &[(&str, &str)]) -> Self {
        let proxy = Proxy::starts();
        let name = proxy.name.clone();
        let server = Server::with_network(host, &[&[("SERVER_NAME", &*name)], settings].concat());
        proxy.leads_to(&server.url());
        Self { server, name, proxy }
    }

    /// Nobody reaches it any more, until [`Federated::is_back`].
    pub fn is_cut_off(&self) {
        self.proxy.is_cut_off();
    }

    pub fn is_back(&self) {
        self.proxy.is_back();
    }

    /// What others asked of it since the last time.
    pub fn takes_received(&self) -> Vec<Received> {
        self.proxy.https.takes_received()
    }
}

fn forwarded(url: &str, request: &Received) -> Reply {
    let client = Client::new(url).with_authorization(request.header("authorization").unwrap_or_default());
    let body = (!request.body.is_empty()).then(|| request.body.clone());
    match client.try_send(&request.method, &request.uri, body) {
        Ok(answer) => {
            let content_type = answer.header("content-type").unwrap_or("application/json").to_owned();
            Reply::Whole(answer.status, vec![("Content-Type".to_owned(), content_type)], answer.bytes)
        }
        Err(_) => Reply::Raw(Box::new(|_| Ok(()))),
    }
}
