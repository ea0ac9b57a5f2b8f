//! Application services: who they act as, and what they are asked.
//!
//! In scope: knowing them by their tokens, asking them about users, aliases and other networks, pinging them, the
//! directories of rooms that they keep. Out of scope: whether one may act as a user, which that User decides for itself.
//!
//! Spec: Application Service API.

mod acting;
mod ask;
mod directory;
mod ping;
mod queries;
mod third_party_networks;

use crate::Routes;

pub use acting::{ActsFor, OfAppservice};
pub(crate) use acting::{Perhaps, acts_as, must_have_user, of_token};

pub(crate) fn routes(routes: &mut Routes) {
    directory::routes(routes);
    ping::routes(routes);
    third_party_networks::routes(routes);
}
