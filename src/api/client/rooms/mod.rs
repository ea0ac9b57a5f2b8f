//! Rooms: creation, membership, sending, reading. Spec: "Rooms", "Events".

mod aliases;
mod context;
mod create;
pub(crate) mod directory;
mod initial_sync;
mod joining;
mod members;
mod membership;
mod messages;
pub(in crate::client) mod pages;
mod receipts;
mod redact;
mod relations;
mod send;
mod state;
mod third_party_invites;
mod threads;
mod typing;
mod upgrade;

use domain::Refusal;
use platform::Fault;
use ruma_common::UserId;

pub(in crate::client) use aliases::room_named;
pub(crate) use create::{INVITED_MAX, found};
pub(crate) use joining::first_joined;
pub(in crate::client) use membership::member_profile;
pub(crate) use messages::direction;
pub(in crate::client) use messages::position;
pub(crate) use messages::{event_filter, wants_room};

use crate::{Context, Routes};

pub(crate) fn routes(routes: &mut Routes) {
    aliases::routes(routes);
    context::routes(routes);
    create::routes(routes);
    directory::routes(routes);
    initial_sync::routes(routes);
    joining::routes(routes);
    members::routes(routes);
    membership::routes(routes);
    messages::routes(routes);
    receipts::routes(routes);
    redact::routes(routes);
    relations::routes(routes);
    send::routes(routes);
    state::routes(routes);
    threads::routes(routes);
    upgrade::routes(routes);
    typing::routes(routes);
}

/// What a room that nobody made here is to a client.
fn no_such_room() -> Refusal {
    Refusal::NotFound("There is no such room on this server".to_owned())
}

/// What a room that nobody made here is to who wants to read it: the same as a room they are not in, so that asking
/// does not tell which rooms there are.
pub(in crate::client) fn not_in_room(user_id: &UserId) -> Refusal {
    Refusal::Forbidden(format!("{user_id} is not in this room"))
}

/// A call id: a repeated call is recognised by it.
pub(crate) fn call_id(cx: &Context) -> Result<String, Fault> {
    Ok(format!("{:032x}", u128::from_be_bytes(cx.random()?)))
}
