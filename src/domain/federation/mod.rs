//! Other servers: where they are found, with which keys they sign, and how servers sign what they ask each other.
//!
//! In scope: what follows from names, answers and documents. Out of scope: getting them.

pub mod discovery;
pub mod server_keys;
mod server_patterns;
pub(crate) mod sorted_json;
pub mod x_matrix;

pub use server_patterns::ServerPatterns;
