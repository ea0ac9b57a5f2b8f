//! A third host for the same code: many homeservers and their clients in one thread, in virtual time, under a scheduler
//! whose every choice follows from a seed.
//!
//! In scope: what a host supplies, made of nothing but memory and chance (disks that crash, a network that loses),
//! people who do things, and what must be true afterwards. Out of scope: anything that a server does by itself; it runs
//! as it is.
//!
//! A run is a [`Story`] played in a [`World`](world::World): the same story gives the same run, byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a panic here is a run that failed, and is reported as such"
)]

mod actor_host;
mod budget;
mod client;
mod complaint;
mod database;
mod devices;
mod dice;
mod disk;
mod faults;
mod graph;
mod heal;
mod knobs;
mod liar;
mod machine;
mod network;
mod oracle;
mod play;
mod process;
mod run;
mod scheduler;
mod shrink;
mod store;
mod story;
#[cfg(test)]
mod tests;
mod trace;
mod view;
mod visibility;
mod world;

pub use budget::Costs;
pub use complaint::{Complaint, Promise};
pub use faults::listen;
pub use platform::planted::Planted;
pub use run::{Outcome, run, run_with};
pub use shrink::shrink;
pub use story::{Size, Story};
pub use world::Tally;
