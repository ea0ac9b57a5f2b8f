//! The servers of these stories: ours, which reach the others.

use std::sync::OnceLock;

use harness::{Authority, Host, Server};

/// A server that reaches others on this machine, and believes the tests' own authority; shared by all stories.
pub fn ours(host: Host) -> &'static Server {
    static NATIVE: OnceLock<Server> = OnceLock::new();
    static WORKER: OnceLock<Server> = OnceLock::new();
    let shared = match host {
        Host::Native => &NATIVE,
        Host::Worker => &WORKER,
    };
    shared.get_or_init(|| ours_with(host, &[]))
}

/// One with some settings of its own; dies with the value.
pub fn ours_with(host: Host, settings: &[(&str, &str)]) -> Server {
    let authority = Authority::shared().file().to_str().expect("paths are UTF-8");
    let all = [&[("ALLOW_PRIVATE_ADDRESSES", "on"), ("EXTRA_CA_FILE", authority)], settings].concat();
    Server::with(host, &all)
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
