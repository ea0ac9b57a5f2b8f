//! SQLite as all hosts have it, with what this one keeps of it.

use platform::Fault;
pub(crate) use platform::sqlite::{fault, query};
use rusqlite::Connection;

/// Prepared statements kept per connection.
const STATEMENTS_KEPT: usize = 64;

/// Gives a connection the limits of a Durable Object, and has it plan statements once.
pub(crate) fn set_up(connection: &Connection) -> Result<(), Fault> {
    platform::sqlite::set_up(connection, STATEMENTS_KEPT)
}
