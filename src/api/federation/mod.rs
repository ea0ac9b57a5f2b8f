//! Other servers: what they may ask of us, and how we ask them. Spec: Server-Server API.
//!
//! A handler of an endpoint of theirs gets an [`Origin`], the server whose signature the request bears, as its second
//! argument. [`Context::ask`] asks another server, [`Context::server_keys`] gets the keys that others sign with.

mod arriving_join;
mod ask;
mod by_url;
pub(crate) mod carrier;
mod device_list_cache;
mod device_lists;
mod discovery;
mod edus;
pub(crate) mod elsewhere;
mod event_lists;
mod events;
pub(crate) mod fetcher;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hierarchy;
pub(crate) mod history;
mod invites;
mod known_servers;
mod media;
mod membership;
mod multipart;
mod omitted_members;
mod openid;
mod origin;
mod pdus;
mod policy_server;
mod public_rooms;
mod published_keys;
mod queries;
mod receipts;
mod receiving;
mod server_keys;
mod shown_room;
mod taken_apart;
mod third_party_invites;
mod transactions;
mod user_keys;
mod version;

#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod room_tests;
#[cfg(test)]
mod tests;

pub(crate) use ask::USER_AGENT;
pub use ask::{AskError, Bounds};
pub(crate) use hierarchy::{Chunk, SpaceElsewhere};
pub use known_servers::KnownServers;
pub(crate) use media::{FETCH_MS_MAX, not_fetched};
pub use origin::Origin;
pub(crate) use public_rooms::Elsewhere as DirectoryElsewhere;
pub use server_keys::{NeededKey, ServerKeys};
pub(crate) use user_keys::Elsewhere;

use crate::Routes;

/// What is asked by others than servers, so that it is there for a server that talks to none.
pub(crate) fn routes_for_services(routes: &mut Routes) {
    openid::routes(routes);
}

pub(crate) fn routes(routes: &mut Routes) {
    published_keys::routes(routes);
    queries::routes(routes);
    media::routes(routes);
    transactions::routes(routes);
    membership::routes(routes);
    invites::routes(routes);
    third_party_invites::routes(routes);
    events::routes(routes);
    hierarchy::routes(routes);
    public_rooms::routes(routes);
    user_keys::routes(routes);
    version::routes(routes);
}
