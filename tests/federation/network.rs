//! The servers of these stories: ours, which reach the others.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use harness::{Authority, Client, Host, Https, PerHost, Received, Reply, Server};

/// A server that reaches others on this machine, and believes the tests' own authority; shared by all stories.
pub fn ours(host: Host) -> &'static Server {
    static SHARED: PerHost<Server> = PerHost::new();
    SHARED.of(host, || ours_with(host, &[]))
}

/// One with some settings of its own; dies with the value.
pub fn ours_with(host: Host, settings: &[(&str, &str)]) -> Server {
    Server::with_network(host, settings)
}

/// Runs each named `fn(Host)` once per host, as `native::name` and `worker::name`.
macro_rules! on_each_host {
    ($($story:ident),* $(,)?) => {
        mod native {
            $(#[test] fn $story() { $crate::network::run(harness::Host::Native, super::$story); })*
        }
        mod worker {
            $(#[test] fn $story() { $crate::network::run(harness::Host::Worker, super::$story); })*
        }
    };
}

pub(crate) use on_each_host;

/// Runs a story on a host, unless that is not wanted.
pub fn run(host: Host, story: fn(Host)) {
    if host.is_wanted() {
        story(host);
    }
}

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
        let server = ours_with(host, &[&[("SERVER_NAME", &*name)], settings].concat());
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
