//! Everything with state: one module per actor, each with its calls, its operations and its SQL.
//!
//! In scope: what an actor decides and keeps, and what it owes others afterwards. Out of scope: HTTP,
//! waiting, other hosts' business. An operation is a synchronous `fn` in one transaction (see [`object`]);
//! what must leave the actor is handed to [`Cx`] and leaves after the commit.

pub mod appservice;
mod call;
mod cx;
pub mod destination;
pub mod object;
mod outbox;
pub mod presence;
mod projection;
pub mod room;
mod schedule;
mod schema;
mod told_rooms;
pub mod user;

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod conversation;
#[cfg(test)]
mod encodings;
#[cfg(test)]
mod encryption_stories;
#[cfg(test)]
mod forks;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod growth;
#[cfg(test)]
mod presence_stories;
#[cfg(test)]
mod world;

pub use call::{Call, CallError, Error, call, wait};
pub use cx::{Cx, Settings};
pub use object::Object;
