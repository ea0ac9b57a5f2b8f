//! The servers of these stories: ours, which reach the others.

pub use harness::{Federated, Proxy};
use harness::{Host, PerHost, Server};

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
