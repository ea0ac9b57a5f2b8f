//! Pure Matrix rules on ruma types.
//!
//! This crate decides; it does nothing. No async, no clock, no randomness, no I/O: time and random bytes are
//! arguments, and whatever a rule needs to know was loaded before it is asked.
//!
//! In scope: events (build, check, redact, client format), room versions, authorisation, redaction, state resolution,
//! history visibility, who has which power, which servers may take part, the events of a new room, aliases, what the
//! directory shows of a room, spaces, how long something is kept, finding people, push rules, the keys of devices and
//! users, our signing identity, other servers' places and keys, email addresses, application services, which JSON
//! everybody can read, the configuration, rate limits, ranges of addresses, and every way we say no. Out of scope:
//! where events are stored, who is told about them, and HTTP.

pub mod address_range;
pub mod alias;
pub mod appservice;
pub mod auth;
mod authority;
pub mod backoff;
pub mod config;
pub mod contact;
pub mod directory;
pub mod event;
pub mod federation;
mod glob;
pub mod identity;
pub mod policy_server;
pub mod power;
pub mod push;
pub mod rate_limit;
pub mod readable;
pub mod redaction;
pub mod refusal;
pub mod restricted_join;
pub mod retention;
pub mod room_version;
pub mod server_acl;
pub mod set_state;
pub mod signed_key;
pub mod space;
pub mod standing;
pub mod state;
pub mod third_party_invite;
mod token_bucket;
pub mod upgrade;
pub mod user_search;
pub mod visibility;

#[cfg(test)]
mod fixture;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use appservice::Appservice;
pub use authority::Authority;
pub use config::Config;
pub use event::Pdu;
pub use identity::Identity;
pub use rate_limit::{RateLimit, RateLimited};
pub use refusal::Refusal;
pub use room_version::RoomVersion;
pub use token_bucket::TokenBucket;
