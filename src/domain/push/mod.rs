//! Push rules: which events a user is notified of.
//!
//! In scope: changing a user's rules, what is kept of them, which rule matches an event, and where notifications may be
//! sent. Out of scope: what becomes of a notification. Rules are ruma's types; they are matched here, with an effort
//! that is bounded whatever events and patterns say. Spec: "Push Rules".

mod change;
mod evaluate;
mod pusher;
mod rules;

pub use crate::glob::Effort;
pub use change::{Change, Kind, NewRule};
pub use evaluate::{NotificationLevels, Recipient, Verdict, actions};
pub use pusher::{Gateway, Pusher, PusherKind, check_key};
pub use rules::{changes, effective, for_room, shown};
