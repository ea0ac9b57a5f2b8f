//! A server that is measured: ours on one of its hosts, or Synapse.

use std::{str::FromStr, time::Duration};

use harness::{Client, Database, Host, Server, Synapse, User};

use crate::meter::Meter;

/// What others call the server. Nobody has to reach it by that: who plays others talks to its port.
pub const NAME: &str = "bench.localhost";
/// The largest join takes minutes on a slow machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(600);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours(Host),
    Synapse,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours(host) => host.name(),
            Self::Synapse => "synapse",
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let ours = Host::ALL.into_iter().map(Self::Ours);
        ours.chain([Self::Synapse]).find(|kind| kind.name() == name).ok_or(())
    }
}

/// A running server with nothing in it.
pub enum Tried {
    Ours(Server),
    Synapse(Synapse),
}

impl Tried {
    pub fn starts(kind: Kind) -> Self {
        match kind {
            Kind::Ours(host) => Self::Ours(Server::with_network(host, &[("SERVER_NAME", NAME), ("LOG_LEVEL", "warn")])),
            Kind::Synapse => {
                let python = Synapse::python().expect("MYELIN_SYNAPSE_PYTHON is set");
                Self::Synapse(Synapse::starts_on(&python, NAME, Database::create()))
            }
        }
    }

    /// A way to it over a connection of its own.
    pub fn client(&self) -> Client {
        let url = match self {
            Self::Ours(server) => server.url(),
            Self::Synapse(synapse) => synapse.url(),
        };
        Client::new(&url).lasting(ANSWERS_WITHIN)
    }

    /// Whether it answers to a transaction before it has looked at what is in it.
    pub fn answers_early(&self) -> bool {
        matches!(self, Self::Synapse(_))
    }

    pub fn registers(&self, name: &str) -> User {
        let user = match self {
            Self::Ours(server) => server.registers(name),
            Self::Synapse(synapse) => synapse.registers(name),
        };
        user.lasting(ANSWERS_WITHIN)
    }

    /// In MB, if that is known.
    pub fn memory_peak_mb(&self) -> Option<f64> {
        let bytes = match self {
            Self::Ours(server) => server.memory_peak(),
            Self::Synapse(synapse) => synapse.memory_peak(),
        };
        bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))
    }

    pub fn meter(&self) -> Meter {
        Meter::of(self.client())
    }
}
