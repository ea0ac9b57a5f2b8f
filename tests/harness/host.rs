//! The two hosts, and one shared server for each.

use std::sync::OnceLock;

use crate::Server;

/// Where the homeserver runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The `myelin` binary.
    Native,
    /// The Worker's bundle in Miniflare.
    Worker,
}

impl Host {
    pub const ALL: [Host; 2] = [Host::Native, Host::Worker];

    pub fn name(self) -> &'static str {
        match self {
            Host::Native => "native",
            Host::Worker => "worker",
        }
    }

    /// Whether `MYELIN_TEST_HOSTS` asks for this host.
    pub fn is_wanted(self) -> bool {
        std::env::var("MYELIN_TEST_HOSTS").map_or(true, |hosts| hosts.split(',').any(|host| host.trim() == self.name()))
    }

    /// The server all tests of this process share, started by the first that asks.
    pub fn server(self) -> &'static Server {
        static SHARED: PerHost<Result<Server, String>> = PerHost::new();
        SHARED.of(self, || Server::start(self, &[], None)).as_ref().unwrap_or_else(|why| panic!("{why}"))
    }
}

/// Something that the stories of a process share, one for each host.
pub struct PerHost<T> {
    native: OnceLock<T>,
    worker: OnceLock<T>,
}

impl<T> PerHost<T> {
    #[expect(clippy::new_without_default, reason = "it is for statics")]
    pub const fn new() -> Self {
        Self { native: OnceLock::new(), worker: OnceLock::new() }
    }

    /// A host's, made for the first that asks.
    pub fn of(&self, host: Host, make: impl FnOnce() -> T) -> &T {
        let shared = match host {
            Host::Native => &self.native,
            Host::Worker => &self.worker,
        };
        shared.get_or_init(make)
    }
}

/// Runs a story on a host's shared server, unless the host is not wanted.
pub fn run(host: Host, story: fn(&Server)) {
    if host.is_wanted() {
        story(host.server());
    }
}
