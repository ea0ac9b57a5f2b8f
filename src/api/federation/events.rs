//! Events and states that other servers ask for.
//! Spec: "Retrieving events", "Backfilling and retrieving missing events", "Retrieving event authorisation
//! information".

use std::collections::BTreeSet;

use actors::{
    destination::GetSharedRooms,
    room::{EventByTimestampForServer, GetEventsForServer, GetStateIds, StateIds, Wanted},
};
use domain::Refusal;
use futures_util::{StreamExt, stream};
use ruma_common::{MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId};
use ruma_federation_api::{
    authorization::get_event_authorization,
    backfill::get_backfill,
    event::{get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids},
};
use serde_json::value::RawValue;

use super::{Origin, event_lists::pages, membership::unknown_room};
use crate::{Body, Context, Failure, OrAbsent, Routes, client::direction};

/// Rooms asked at the same time whether they have an event.
const ROOMS_AT_ONCE: usize = 16;
/// Rooms asked for one event before all others: those in which something happened last. Each is woken for it.
const ROOMS_ASKED_FIRST: u64 = if cfg!(test) { 2 } else { 200 };
/// The most rooms asked for one event. On Workers a request makes a thousand calls.
const ROOMS_ASKED_MAX: usize = if cfg!(target_family = "wasm") { 800 } else { 2_000 };
/// How long rooms are asked, in milliseconds: whoever wants the event does not wait much longer.
const ASKING_MS: u64 = 10_000;
/// The most events that a server gets for one question.
const EVENTS_MAX: u64 = 100;
/// The most events that a question names.
const IDS_MAX: usize = 100;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(event);
    routes.add_body(state);
    routes.add(state_ids);
    routes.add_body(event_auth);
    routes.add(backfill);
    routes.add(missing_events);
    routes.add(by_timestamp);
}

/// `GET /event/{eventId}`. Which room has it nobody says: those that are shared with the server are asked, the one
/// first in which it found something last, then those in which something happened last, and then the rest, as far as
/// there is time.
async fn event(
    cx: &Context,
    Origin(origin): Origin,
    request: get_event::v1::Request,
) -> Result<get_event::v1::Response, Failure> {
    let missing = || Refusal::NotFound("There is no such event that you may see".to_owned());
    let call = GetEventsForServer { server: origin.clone(), wanted: Wanted::Event(request.event_id) };
    let found = |pdu| get_event::v1::Response::new(cx.server_name().to_owned(), millis(cx.now_ms()), pdu);
    let likely = cx.known_servers().room_asked(&origin);
    if let Some(room_id) = &likely
        && let Some(pdu) = event_in(cx, room_id, &call).await?
    {
        return Ok(found(pdu));
    }
    let until_ms = cx.now_ms().saturating_add(cx.in_time(ASKING_MS));
    let mut asked: BTreeSet<OwnedRoomId> = likely.into_iter().collect();
    for newest in [Some(ROOMS_ASKED_FIRST), None] {
        let shared = cx.call(origin.as_str(), &GetSharedRooms { newest }).await.or_absent(missing())?;
        let are_all = (shared.len() as u64) < ROOMS_ASKED_FIRST;
        let left = ROOMS_ASKED_MAX.saturating_sub(asked.len());
        let rooms = shared.into_iter().filter(|room_id| !asked.contains(room_id)).take(left);
        let rooms: Vec<OwnedRoomId> = rooms.collect();
        asked.extend(rooms.iter().cloned());
        if let Some((room_id, pdu)) = event_in_any(cx, rooms, &call, until_ms).await? {
            cx.known_servers().asked_in(&origin, room_id);
            return Ok(found(pdu));
        }
        if are_all {
            break;
        }
    }
    Err(missing().into())
}

/// The event, from the first of these rooms that has it, if it is found by then.
async fn event_in_any(
    cx: &Context,
    rooms: Vec<OwnedRoomId>,
    call: &GetEventsForServer,
    until_ms: u64,
) -> Result<Option<(OwnedRoomId, Box<RawValue>)>, Failure> {
    let asked = stream::iter(rooms).map(async |room_id| {
        let event = event_in(cx, &room_id, call).await;
        (room_id, event)
    });
    let mut answers = asked.buffer_unordered(ROOMS_AT_ONCE);
    while cx.now_ms() < until_ms
        && let Some((room_id, event)) = answers.next().await
    {
        if let Some(pdu) = event? {
            return Ok(Some((room_id, pdu)));
        }
    }
    Ok(None)
}

async fn event_in(cx: &Context, room_id: &RoomId, call: &GetEventsForServer) -> Result<Option<Box<RawValue>>, Failure> {
    match cx.room(room_id).call(call).await {
        Ok(events) => Ok(events.into_iter().next()),
        Err(Failure::Absent | Failure::Refused(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// `GET /state/{roomId}`.
async fn state(cx: &Context, Origin(origin): Origin, request: get_room_state::v1::Request) -> Result<Body, Failure> {
    let ids = ids(cx, origin, &request.room_id, request.event_id, false).await?;
    let texts = [r#"{"pdus":["#, r#"],"auth_chain":["#, "]}"].map(str::to_owned);
    Ok(pages(cx, &request.room_id, texts, [ids.state, ids.auth_chain]))
}

/// `GET /state_ids/{roomId}`.
async fn state_ids(
    cx: &Context,
    Origin(origin): Origin,
    request: get_room_state_ids::v1::Request,
) -> Result<get_room_state_ids::v1::Response, Failure> {
    let ids = ids(cx, origin, &request.room_id, request.event_id, false).await?;
    Ok(get_room_state_ids::v1::Response::new(ids.auth_chain, ids.state))
}

/// `GET /event_auth/{roomId}/{eventId}`.
async fn event_auth(
    cx: &Context,
    Origin(origin): Origin,
    request: get_event_authorization::v1::Request,
) -> Result<Body, Failure> {
    let ids = ids(cx, origin, &request.room_id, request.event_id, true).await?;
    let texts = [r#"{"auth_chain":["#, "", "]}"].map(str::to_owned);
    Ok(pages(cx, &request.room_id, texts, [ids.auth_chain, Vec::new()]))
}

async fn ids(
    cx: &Context,
    origin: OwnedServerName,
    room_id: &RoomId,
    event_id: OwnedEventId,
    auth_chain_only: bool,
) -> Result<StateIds, Failure> {
    let call = GetStateIds { server: Some(origin), event_id, auth_chain_only, omit_members: false, after: None };
    let ids = if auth_chain_only { cx.room(room_id).call(&call).await } else { all_ids(cx, room_id, call).await };
    // Who was in the room while somebody here was, is told what was known then: perhaps nobody else can tell.
    ids.or_absent(unknown_room())
}

/// A state and its auth chain by their ids, as a room gives them page by page.
pub(super) async fn all_ids(cx: &Context, room_id: &RoomId, mut call: GetStateIds) -> Result<StateIds, Failure> {
    let (mut all, mut auth_chain) = (StateIds::default(), BTreeSet::new());
    call.after = Some(<(String, String)>::default());
    while call.after.is_some() {
        let page = cx.room(room_id).call(&call).await?;
        all.state.extend(page.state);
        auth_chain.extend(page.auth_chain);
        (all.servers, all.members_omitted) = (page.servers, page.members_omitted);
        call.after = page.next;
    }
    all.auth_chain = auth_chain.into_iter().collect();
    Ok(all)
}

/// `GET /backfill/{roomId}`.
async fn backfill(
    cx: &Context,
    Origin(origin): Origin,
    request: get_backfill::v1::Request,
) -> Result<get_backfill::v1::Response, Failure> {
    let limit = u64::from(request.limit).min(EVENTS_MAX);
    let wanted = Wanted::Backfill { from: few(request.v), limit };
    let call = GetEventsForServer { server: origin, wanted };
    let pdus = cx.room(&request.room_id).call(&call).await.or_absent(unknown_room())?;
    Ok(get_backfill::v1::Response::new(cx.server_name().to_owned(), millis(cx.now_ms()), pdus))
}

/// `POST /get_missing_events/{roomId}`.
async fn missing_events(
    cx: &Context,
    Origin(origin): Origin,
    request: get_missing_events::v1::Request,
) -> Result<get_missing_events::v1::Response, Failure> {
    let wanted = Wanted::Missing {
        earliest: few(request.earliest_events),
        latest: few(request.latest_events),
        limit: u64::from(request.limit).min(EVENTS_MAX),
        min_depth: u64::from(request.min_depth),
    };
    let call = GetEventsForServer { server: origin, wanted };
    let events = cx.room(&request.room_id).call(&call).await.or_absent(unknown_room())?;
    Ok(get_missing_events::v1::Response::new(events))
}

/// As many ids as one asks with: those of all extremities.
fn few(mut event_ids: Vec<OwnedEventId>) -> Vec<OwnedEventId> {
    event_ids.truncate(IDS_MAX);
    event_ids
}

/// `GET /timestamp_to_event/{roomId}`.
async fn by_timestamp(
    cx: &Context,
    Origin(origin): Origin,
    request: get_event_by_timestamp::v1::Request,
) -> Result<get_event_by_timestamp::v1::Response, Failure> {
    let direction = direction(request.dir);
    let call = EventByTimestampForServer { server: origin, ts_ms: request.ts.get().into(), direction };
    let found = cx.room(&request.room_id).call(&call).await.or_absent(unknown_room())?;
    let found = found.ok_or_else(|| Refusal::NotFound("There is no event there that you may see".to_owned()))?;
    Ok(get_event_by_timestamp::v1::Response::new(found.event_id, found.origin_server_ts))
}

fn millis(ms: u64) -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch(js_int::UInt::try_from(ms).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use ruma_common::owned_event_id;

    use super::{IDS_MAX, few};

    #[test]
    fn a_question_names_few_events() {
        assert_eq!(few(vec![owned_event_id!("$a"); 100_000]).len(), IDS_MAX);
    }
}
