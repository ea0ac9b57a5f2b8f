//! What a host supplies, as small `!Send` traits, and the types that cross them.
//!
//! In scope: an actor's private database, the metadata database, the store of files, calls between actors, other
//! people's servers, time, chance, alarms, durability, work in the background. Out of scope: anything Matrix; anything
//! of one host.
//!
//! Two hosts implement these traits, Cloudflare Workers and the native binary, and one contract suite
//! ([`contract`]) runs against every implementation. Because every effect goes through them, a third
//! host may be a deterministic simulator.

mod actors;
mod blobs;
mod fault;
mod metadata;
pub mod meter;
mod object;
mod outgoing;
pub mod planted;
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod value;
mod wire;

pub mod contract;

pub use actors::{ActorKind, Actors, Address, WAITING_CALLS_MAX};
pub use blobs::{Blob, Blobs, DELETED_KEYS_MAX, Pieces};
pub use fault::Fault;
pub use metadata::{Metadata, Statement};
pub use object::ObjectHost;
pub use outgoing::{Arriving, Outgoing, OutgoingRequest, OutgoingResponse, Peer, Scheme, SendError, SrvRecord};
pub use sql::{ROW_BYTES_MAX, STATEMENT_PARAMS_MAX, Sql, Tx, check_params, transact};
pub use value::{INTEGER_MAX, Row, Value};
pub use wire::Wire;

use std::{future::Future, pin::Pin};

/// A boxed future that stays on its thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The wall clock.
pub trait Clock {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// Cryptographically secure chance.
pub trait Random {
    /// Fills `bytes` with unpredictable bytes.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault>;
}

/// Computation long enough to hurt other requests on the same thread (password hashing).
pub trait Heavy {
    /// Runs `work` where it disturbs least and answers what it returned.
    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalFuture<'a, Result<Vec<u8>, Fault>>;

    /// Pauses for `ms` milliseconds; for the request tier only, actors use alarms.
    fn pause<'a>(&'a self, ms: u64) -> LocalFuture<'a, ()>;
}
