//! Aliases of rooms. Spec: "Room aliases".
//!
//! Where an alias points is metadata's to know, what a room lists of its aliases the room's. Where another server's
//! alias points, that server is asked.

use std::collections::HashSet;

use actors::room::{GetAccess, GetStateEvent, IsPublished, SetAlias, SetCanonicalAlias, WithdrawAlias};
use domain::{Appservice, Refusal, alias};
use futures_util::future::join_all;
use ruma_client_api::{
    alias::{create_alias, delete_alias, get_alias},
    room::aliases,
};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId, UserId};
use ruma_events::StateEventType;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{call_id, not_in_room};
use crate::{
    Caller, Context, Failure, OrAbsent, Routes,
    metadata::alias::{self as stored, ALIASES_PER_ROOM_MAX, Claim, Held},
};

/// The most aliases of other servers that are looked up when a room is to list them.
const ALIASES_ELSEWHERE_MAX: usize = 10;
/// How long the creation of a room may take between the claim of its alias and the room, in milliseconds.
const CREATION_MS_MAX: u64 = 60_000;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(create);
    routes.add(delete);
    routes.add(find);
    routes.add(list);
}

/// What became of a wish for an alias.
pub(super) enum Claimed {
    Now,
    /// It did already, by this user's doing.
    Before,
    /// It points elsewhere.
    Taken,
}

/// `PUT /directory/room/{roomAlias}`: for who is in the room.
async fn create(
    cx: &Context,
    caller: Caller,
    request: create_alias::v3::Request,
) -> Result<create_alias::v3::Response, Failure> {
    let alias = alias::parse(request.room_alias.as_str())?;
    if alias.server_name() != cx.server_name() {
        return Err(Refusal::InvalidParam(format!("Aliases of {} are not made here", alias.server_name())).into());
    }
    may_make(cx, &alias, &caller)?;
    let call = GetAccess { user: caller.user_id };
    let access = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    // «The homeserver needs to give the application service *full control* over its namespace.»
    if !access.joined && !caller.administrator && caller.acts_for.is_none() {
        return Err(not_in_room(&call.user).into());
    }
    let claimed = claim(cx, &alias, &request.room_id, &call.user).await?;
    let is_known = !matches!(claimed, Claimed::Taken);
    if is_known && cx.config().told_appservices().any(|appservice| appservice.has_alias(&alias)) {
        // Nothing else says in the room that it has it.
        cx.room(&request.room_id).call(&SetAlias { alias: alias.clone(), points_here: true }).await?;
    }
    match claimed {
        Claimed::Now => Ok(create_alias::v3::Response::new()),
        Claimed::Before | Claimed::Taken => {
            Err(Refusal::AliasExists(format!("The alias {alias} exists already")).into())
        }
    }
}

/// Refuses an alias that an application service keeps for itself, and one that is not among its own to an application
/// service.
///
/// # Errors
/// `M_EXCLUSIVE`.
pub(super) fn may_make(cx: &Context, alias: &RoomAliasId, caller: &Caller) -> Result<(), Refusal> {
    let acting = acting(cx, caller);
    if acting.is_some_and(|appservice| !appservice.has_alias(alias)) {
        return Err(Refusal::Exclusive("This alias is not one of the application service's".to_owned()));
    }
    if cx.config().keeps_alias(alias, acting.map(|appservice| &*appservice.id)) {
        return Err(Refusal::Exclusive("An application service keeps this alias for itself".to_owned()));
    }
    Ok(())
}

/// The application service that acts as the caller.
fn acting<'a>(cx: &'a Context, caller: &Caller) -> Option<&'a Appservice> {
    caller.acts_for.as_ref().and_then(|acts_for| cx.config().appservice(&acts_for.appservice))
}

/// Makes the alias point to the room, unless it points elsewhere.
pub(super) async fn claim(
    cx: &Context,
    alias: &RoomAliasId,
    room_id: &RoomId,
    creator: &UserId,
) -> Result<Claimed, Failure> {
    match stored::claim(cx.metadata(), alias, room_id, creator, cx.now_ms()).await? {
        Claim::Ours => Ok(Claimed::Now),
        Claim::OursAlready => Ok(Claimed::Before),
        Claim::TooMany => {
            Err(Refusal::InvalidParam(format!("A room can have at most {ALIASES_PER_ROOM_MAX} aliases")).into())
        }
        Claim::Taken(held) if is_abandoned(cx, &held).await? => {
            let ours = stored::take_over(cx.metadata(), alias, &held, room_id, creator, cx.now_ms()).await?;
            Ok(if ours { Claimed::Now } else { Claimed::Taken })
        }
        Claim::Taken(_) => Ok(Claimed::Taken),
    }
}

/// Gives an alias back that was claimed for a room which was not made after all.
pub(super) async fn release(cx: &Context, alias: &RoomAliasId, room_id: &RoomId) -> Result<(), Failure> {
    // Not there any more: then it need not be given back.
    stored::remove(cx.metadata(), alias, room_id).await?;
    Ok(())
}

/// Whether an alias points to a room that does not exist: its creation was cut off after the claim.
async fn is_abandoned(cx: &Context, held: &Held) -> Result<bool, Failure> {
    if cx.now_ms() < held.created_ms.saturating_add(CREATION_MS_MAX) {
        return Ok(false);
    }
    match cx.room(&held.room_id).call(&IsPublished {}).await {
        Err(Failure::Absent) => Ok(true),
        outcome => outcome.map(|_| false),
    }
}

/// `DELETE /directory/room/{roomAlias}`: for who made it, the application service it belongs to, who may set the
/// canonical alias, and administrators.
async fn delete(
    cx: &Context,
    caller: Caller,
    request: delete_alias::v3::Request,
) -> Result<delete_alias::v3::Response, Failure> {
    let alias = request.room_alias;
    let held = stored::find(cx.metadata(), &alias).await?.ok_or_else(|| no_such_alias(&alias))?;
    let acting = acting(cx, &caller);
    if cx.config().keeps_alias(&alias, acting.map(|appservice| &*appservice.id)) {
        return Err(Refusal::Exclusive("An application service keeps this alias for itself".to_owned()).into());
    }
    let is_its_own = acting.is_some_and(|appservice| appservice.has_alias(&alias));
    let entitled = caller.administrator || held.creator == caller.user_id || is_its_own;
    // First the room, so that a repetition after a failure finds the alias still there.
    let call = WithdrawAlias { call_id: call_id(cx)?, user: caller.user_id, alias, entitled };
    match cx.room(&held.room_id).call(&call).await {
        Err(Failure::Absent) if entitled => {}
        outcome => outcome.or_absent(not_in_room(&call.user))?,
    }
    if !stored::remove(cx.metadata(), &call.alias, &held.room_id).await? {
        return Err(no_such_alias(&call.alias).into());
    }
    Ok(delete_alias::v3::Response::new())
}

/// `GET /directory/room/{roomAlias}`.
async fn find(cx: &Context, (): (), request: get_alias::v3::Request) -> Result<get_alias::v3::Response, Failure> {
    let (room_id, servers) = resolved(cx, &request.room_alias).await?;
    Ok(get_alias::v3::Response::new(room_id, servers))
}

/// `GET /rooms/{roomId}/aliases`: for who is in the room; for everyone, if everyone may read it.
async fn list(cx: &Context, caller: Caller, request: aliases::v3::Request) -> Result<aliases::v3::Response, Failure> {
    let call = GetAccess { user: caller.user_id };
    let access = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    if !(access.joined || access.world_readable || caller.administrator) {
        return Err(not_in_room(&call.user).into());
    }
    Ok(aliases::v3::Response::new(stored::of_room(cx.metadata(), &request.room_id).await?))
}

/// The room that a client names by its id or by an alias; of an alias, with servers that are in it.
pub(in crate::client) async fn room_named(
    cx: &Context,
    room: &RoomOrAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Failure> {
    match <&RoomId>::try_from(room.as_str()) {
        Ok(room_id) => Ok((room_id.to_owned(), Vec::new())),
        Err(_) => resolved(cx, &alias::parse(room.as_str())?).await,
    }
}

/// The room that an alias of any server points to, with servers that are in it.
async fn resolved(cx: &Context, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Failure> {
    if alias.server_name() != cx.server_name() {
        return cx.room_elsewhere(alias).await;
    }
    let held = stored::find(cx.metadata(), alias).await?;
    let held = match held {
        // An application service may make the room now.
        None if cx.alias_is_made(alias).await? => stored::find(cx.metadata(), alias).await?,
        held => held,
    };
    let held = held.ok_or_else(|| no_such_alias(alias))?;
    let servers = cx.servers_in(&held.room_id).await?;
    Ok((held.room_id, servers))
}

fn no_such_alias(alias: &RoomAliasId) -> Refusal {
    Refusal::NotFound(format!("There is no room with the alias {alias}"))
}

/// Sets the canonical alias of a room: new ones must point to it.
pub(super) async fn set_canonical(
    cx: &Context,
    room_id: &RoomId,
    caller: Caller,
    content: Box<RawValue>,
    at_ms: Option<u64>,
) -> Result<OwnedEventId, Failure> {
    let mut unproven = alias::listed(&content)?;
    if !unproven.is_empty() {
        let ours = stored::of_room(cx.metadata(), room_id).await?;
        let ours: HashSet<&str> = ours.iter().map(|alias| alias.as_str()).collect();
        unproven.retain(|alias| !ours.contains(alias.as_str()));
    }
    let mut call = SetCanonicalAlias { call_id: call_id(cx)?, sender: caller.user_id, content, unproven, at_ms };
    let answer = match cx.room(room_id).call(&call).await {
        // Only now is it known that they may: for nobody else are other servers asked.
        Err(Failure::Refused(Refusal::BadAlias(_))) if prove_elsewhere(cx, room_id, &mut call.unproven).await => {
            cx.room(room_id).call(&call).await
        }
        answer => answer,
    };
    answer.or_absent(not_in_room(&call.sender))
}

/// Asks other servers where their aliases point, and answers whether some of them point to the room: those are proven.
async fn prove_elsewhere(cx: &Context, room_id: &RoomId, unproven: &mut Vec<String>) -> bool {
    let theirs = unproven.iter().filter_map(|alias| alias::parse(alias).ok());
    let theirs: Vec<_> = theirs.filter(|alias| alias.server_name() != cx.server_name()).collect();
    if theirs.len() > ALIASES_ELSEWHERE_MAX {
        return false;
    }
    let found = join_all(theirs.iter().map(|alias| async move {
        // Who does not answer proves nothing.
        cx.room_elsewhere(alias).await.is_ok_and(|(found, _)| found == room_id).then_some(alias.as_str())
    }));
    let proven: HashSet<&str> = found.await.into_iter().flatten().collect();
    unproven.retain(|alias| !proven.contains(alias.as_str()));
    !proven.is_empty()
}

/// A room takes the place of another: the aliases of that lead to it from now on, and it lists them where the old one
/// did, as far as this user may say so. Repeated, it changes nothing more. Spec: "Room Upgrades", «moves any local
/// aliases to the new room».
pub(super) async fn move_to_successor(
    cx: &Context,
    caller: &Caller,
    old: &RoomId,
    successor: &RoomId,
) -> Result<(), Failure> {
    stored::move_all(cx.metadata(), old, successor).await?;
    let listed = GetStateEvent {
        user: caller.user_id.clone(),
        device: caller.device_id.clone(),
        event_type: StateEventType::RoomCanonicalAlias,
        state_key: String::new(),
    };
    let listed = match cx.room(old).call(&listed).await {
        Ok(event) => event.content,
        Err(Failure::Refused(_)) => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let moved = stored::of_room(cx.metadata(), successor).await?;
    let is_moved = |alias: &str| moved.iter().any(|moved| moved == alias);
    if let Some(content) = alias::only(&listed, is_moved) {
        list_as_far_as_allowed(cx, caller, successor, &content).await?;
        list_as_far_as_allowed(cx, caller, old, &Map::new()).await?;
    }
    Ok(())
}

async fn list_as_far_as_allowed(
    cx: &Context,
    caller: &Caller,
    room_id: &RoomId,
    content: &Map<String, Value>,
) -> Result<(), Failure> {
    let call = SetCanonicalAlias {
        call_id: call_id(cx)?,
        sender: caller.user_id.clone(),
        content: to_raw_value(content)?,
        unproven: Vec::new(),
        at_ms: None,
    };
    match cx.room(room_id).call(&call).await {
        Ok(_) | Err(Failure::Refused(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::{room_alias_id, room_id, user_id};
    use serde_json::json;

    use super::{CREATION_MS_MAX, Claim, stored};
    use crate::testing::{TestServer, block_on, refused};

    const CREATE: &str = "/_matrix/client/v3/createRoom";

    /// The creation was cut off after its claim: whoever wants the alias gets it, but not before it may have gone on.
    #[test]
    fn an_alias_that_a_creation_left_behind_is_free_after_a_while() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let (tea, lost) = (room_alias_id!("#tea:localhost"), room_id!("!lost:localhost"));
        let cx = server.context();
        let claimed = stored::claim(cx.metadata(), tea, lost, user_id!("@bob:localhost"), cx.now_ms());
        assert_eq!(block_on(claimed).unwrap(), Claim::Ours);

        let wanted = json!({ "room_alias_name": "tea" });
        assert_eq!(refused(server.post(CREATE, &alice, &wanted)), (400, "M_ROOM_IN_USE".to_owned()));
        server.pass_ms(CREATION_MS_MAX);
        let (status, created) = server.post(CREATE, &alice, &wanted);
        assert_eq!(status, 200, "{created}");
        let found = server.get("/_matrix/client/v3/directory/room/%23tea:localhost", "").1;
        assert_eq!(found["room_id"], created["room_id"]);
        // That of a room that is there is its own for ever.
        server.pass_ms(CREATION_MS_MAX);
        assert_eq!(refused(server.post(CREATE, &alice, &wanted)), (400, "M_ROOM_IN_USE".to_owned()));
    }
}
