//! SQLite as all hosts have it, with what this one keeps of it.

use platform::Fault;
pub(crate) use platform::sqlite::{fault, query};
use rusqlite::Connection;

/// Prepared statements kept per connection.
const STATEMENTS_KEPT: usize = 64;

/// Gives a connection the limits of a Durable Object.
pub(crate) fn limit(connection: &Connection) -> Result<(), Fault> {
    platform::sqlite::limit(connection, STATEMENTS_KEPT)
}
