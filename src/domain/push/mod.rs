//! Push rules: which events a user is notified of.
//!
//! In scope: changing a user's rules, what is kept of them, and which rule matches an event. Out of scope: what becomes
//! of a notification. Rules are ruma's types; they are matched here, in time that is bounded whatever an event or a
//! pattern says. Spec: "Push Rules".

mod change;
mod evaluate;
mod rules;

pub use change::{Change, Kind, NewRule};
pub use evaluate::{NotificationLevels, Recipient, Verdict, actions, verdict};
pub use rules::{changes, effective, for_room, shown};
