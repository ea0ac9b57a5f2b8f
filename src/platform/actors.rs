use crate::{Fault, LocalFuture};

/// The kinds of actor, each a Durable Object class on Workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActorKind {
    Room,
    User,
    Destination,
    Appservice,
}

impl ActorKind {
    pub const ALL: [ActorKind; 4] = [ActorKind::Room, ActorKind::User, ActorKind::Destination, ActorKind::Appservice];

    /// The kind's name, as it stands in file names, logs and bindings.
    pub fn as_str(self) -> &'static str {
        match self {
            ActorKind::Room => "room",
            ActorKind::User => "user",
            ActorKind::Destination => "destination",
            ActorKind::Appservice => "appservice",
        }
    }
}

impl std::str::FromStr for ActorKind {
    type Err = Fault;

    fn from_str(name: &str) -> Result<Self, Fault> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| Fault::new(format!("no actor kind {name}")))
    }
}

/// Which actor: its kind and its id (a room id, a user id, a server name, a registration's id after a sigil).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    pub kind: ActorKind,
    pub id: String,
}

impl Address {
    pub fn new(kind: ActorKind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.id)
    }
}

/// Calls that wait on one actor at once: one more ends the oldest's wait as its timeout would.
pub const WAITING_CALLS_MAX: usize = 64;

/// Reaches any actor from anywhere. Bytes in, bytes out: the `actors` crate gives both their types.
pub trait Actors {
    /// Calls an actor and answers its reply.
    ///
    /// A fault says nothing about whether the call took effect. The host repeats a call once by itself
    /// when it knows that the call never reached the actor.
    fn call<'a>(&'a self, to: &'a Address, call: &'a str, body: Vec<u8>) -> LocalFuture<'a, Result<Vec<u8>, Fault>>;

    /// Makes a call that the actor may leave unanswered until there is something to say; `None` when
    /// `timeout_ms` passed first, or when [`WAITING_CALLS_MAX`] younger ones wait on the same actor.
    ///
    /// The caller waits, the actor does not: on Workers the actor sleeps behind a hibernating socket.
    /// Dropping the future ends the wait.
    fn wait<'a>(
        &'a self,
        to: &'a Address,
        call: &'a str,
        body: Vec<u8>,
        timeout_ms: u64,
    ) -> LocalFuture<'a, Result<Option<Vec<u8>>, Fault>>;

    /// Test hosts only: forgets the actor's memory, as eviction and deploys do. Its storage stays.
    fn evict<'a>(&'a self, to: &'a Address) -> LocalFuture<'a, Result<(), Fault>>;
}
