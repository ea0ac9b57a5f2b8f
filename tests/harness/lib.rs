//! What the black-box tests are told with: real servers on both hosts, and people who talk to them.
//!
//! In scope: starting and killing a server, HTTP, the verbs of a story (`alice.invites(&room, &bob)`). Out of
//! scope: knowing anything of the server's inside; every expectation belongs to a test and comes from the
//! specification.
//!
//! | environment | meaning |
//! |---|---|
//! | `MYELIN_TEST_HOSTS` | hosts to test, by comma; default `native,worker` |
//! | `MYELIN_TEST_POSTGRES_URL` | a PostgreSQL that may be given databases; tests that need one skip without, or fail if `CI` is `true` |
//! | `MYELIN_TEST_S3_URL` | an S3-compatible service that takes any credentials; the same holds for tests that need one |
//! | `MYELIN_BIN` | the native binary; default: `myelin` beside the test binary |
//! | `MYELIN_SYNAPSE_PYTHON` | a Python that has Synapse; stories with it are left out without, or fail if `CI` is `true` |
//! | `MYELIN_BUNDLE` | the Worker's folder with `wrangler.toml`; default: the repository |
//! | `MYELIN_NODE` | a Node ≥ 22 for the Worker; default: the one under `scripts/node`, else `node` |
//!
//! Each server's log is kept in the target folder's `test-logs/`.

mod answer;
mod authority;
mod bridge;
mod client;
mod federated;
mod gateway;
pub mod guest;
mod homeserver;
mod host;
mod https;
mod keys;
pub mod large_room;
mod mailbox;
pub mod pictures;
mod postgres;
mod process;
mod s3;
mod server;
mod synapse;
mod sync;
mod user;

pub use answer::Answer;
pub use authority::Authority;
pub use bridge::Bridge;
pub use client::{Client, encode, query};
pub use federated::{Federated, Proxy};
pub use gateway::Gateway;
pub use homeserver::Homeserver;
pub use host::{Host, PerHost, run};
pub use https::{Https, Received, Reply};
pub use keys::Keys;
pub use mailbox::{Mail, Mailbox};
pub use postgres::Database;
pub use s3::S3;
pub use serde_json::{self, Value, json};
pub use server::{SERVER_NAME, SHARED_SECRET, Server};
pub use synapse::Synapse;
pub use sync::{Sync, bodies, event_ids};
pub use user::{PASSWORD, User};

/// Runs each named `fn(&Server)` once per host, as `native::name` and `worker::name`.
///
/// A story left out of the list is dead code, and rustc says so.
#[macro_export]
macro_rules! on_each_host {
    ($($story:ident),* $(,)?) => {
        mod native {
            $(#[test] fn $story() { $crate::run($crate::Host::Native, super::$story); })*
        }
        mod worker {
            $(#[test] fn $story() { $crate::run($crate::Host::Worker, super::$story); })*
        }
    };
}
