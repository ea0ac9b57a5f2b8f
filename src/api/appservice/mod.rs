//! Application services: who they act as, what they are asked, and what they are told.
//!
//! In scope: knowing them by their tokens, asking them about users, aliases and other networks, pinging them, carrying
//! to them what happens, the directories of rooms that they keep. Out of scope: whether one may act as a user, which
//! that User decides for itself; what is of interest to one (the rooms'), and what it is owed (its own actor's).
//!
//! Spec: Application Service API.

mod acting;
mod ask;
mod carrier;
mod directory;
mod elsewhere;
mod ping;
mod queries;
mod third_party_networks;

use crate::Routes;

pub use acting::{ActsFor, OfAppservice};
pub(crate) use acting::{Perhaps, acts_as, must_have_user, no_appservices, of_token};
pub(crate) use carrier::carry;

pub(crate) fn routes(routes: &mut Routes) {
    directory::routes(routes);
    ping::routes(routes);
    third_party_networks::routes(routes);
}
