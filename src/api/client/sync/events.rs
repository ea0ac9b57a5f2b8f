//! `GET /events`: what happens, one event after the other, as it was told before there was `/sync`; of one room, for
//! who need not be in it. And the event that has an id, wherever it is. Spec: "Syncing", deprecated; "Room Previews".
//!
//! Without a room it is a sync with another answer: no event is left out, so that a room in which much happened is read
//! on from where its sync's timeline would begin, and the token remembers where that ended.

use actors::{
    room::{Delta, DeltaReply, Direction, GetEvent, Section, Watch, Watched, WatchedSince},
    user::{GetSearchRooms, PlannedRoom, ReadRoom, RoomAccountData, SyncClose, SyncPlan, waited_until},
};
use bytes::Bytes;
use domain::Refusal;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use js_int::UInt;
use ruma_client_api::filter::FilterDefinition;
use ruma_common::{OwnedEventId, OwnedRoomId, RoomId, presence::PresenceState};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tracing::warn;

use super::{
    ROOMS_AT_ONCE, Reading, Round, StateName, TIMEOUT_MAX, UNKNOWN_TOKEN,
    initial_sync::{all_in_room, in_room, invitation},
    presence, was_read,
};
use crate::{
    Bearer, Body, Caller, Context, Failure, OrAbsent, Routes,
    client::rooms::{not_in_room, position},
    new_login::ip,
    router::{json_body, query},
};

/// How long a request waits that does not say how long, in milliseconds.
const TIMEOUT_DEFAULT_MS: u64 = 30_000;
/// Events after which no further room is read for one answer.
const EVENTS_MAX: usize = 1_000;
/// Rooms asked for an event at the same time, and named by the User at once.
const ASKED_AT_ONCE: usize = 16;
const ROOMS_NAMED_MAX: u64 = 500;

pub(super) fn routes(routes: &mut Routes) {
    for path in ["/_matrix/client/v3/events", "/_matrix/client/r0/events"] {
        routes.add_raw(Method::GET, path, events);
    }
    for path in ["/_matrix/client/v3/events/{event_id}", "/_matrix/client/r0/events/{event_id}"] {
        routes.add_raw(Method::GET, path, event);
    }
}

#[derive(Deserialize)]
struct Query {
    from: Option<String>,
    timeout: Option<u64>,
    room_id: Option<OwnedRoomId>,
}

#[derive(Serialize)]
struct Chunk {
    start: String,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

/// `GET /events`.
async fn events(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Body>, Failure> {
    let Query { from, timeout, room_id } = query(&request)?;
    let longest_ms = u64::try_from(TIMEOUT_MAX.as_millis()).unwrap_or(u64::MAX);
    let timeout_ms = timeout.unwrap_or(TIMEOUT_DEFAULT_MS).min(longest_ms);
    let chunk = match room_id {
        Some(room_id) => of_room(cx, bearer, &room_id, from, timeout_ms).await?,
        None => Listening { cx, bearer: &bearer, timeout_ms, asked_at_ms: cx.now_ms() }.of_all(from).await?,
    };
    Ok(json_body(serde_json::to_vec(&chunk)?.into()))
}

/// What happens in one room, which the caller need not be in.
async fn of_room(
    cx: &Context,
    bearer: Bearer,
    room_id: &OwnedRoomId,
    from: Option<String>,
    timeout_ms: u64,
) -> Result<Chunk, Failure> {
    let caller = bearer.checked(cx, false, true).await?;
    let unseen = || not_in_room(&caller.user_id);
    let since = match &from {
        Some(from) => WatchedSince::After(position(cx, &caller, room_id, from, Direction::Forwards).await?),
        None => WatchedSince::Now,
    };
    let mut call = watch(&caller, since);
    let room = cx.room(room_id);
    let mut watched = room.call(&call).await.or_absent(unseen())?;
    let start = from.unwrap_or_else(|| watched.start.clone());
    if watched.events.is_empty() && !watched.more && timeout_ms > 0 {
        call.since = WatchedSince::After(watched.reached);
        // What waits must be small, and whom one ignores may be many: that is heeded once something happened.
        let waiting = Watch { ignored: Vec::new(), may_wait: true, ..call.clone() };
        if room.wait(&waiting, timeout_ms).await.or_absent(unseen())?.is_some() {
            watched = room.call(&call).await?;
        }
    }
    Ok(Chunk { start, end: watched.end, chunk: watched.events })
}

fn watch(caller: &Caller, since: WatchedSince) -> Watch {
    Watch {
        user: caller.user_id.clone(),
        device: caller.device_id.clone(),
        ignored: caller.ignored.clone(),
        since,
        up_to: None,
        may_wait: false,
    }
}

/// One request for what happens in all rooms.
struct Listening<'a> {
    cx: &'a Context,
    bearer: &'a Bearer,
    timeout_ms: u64,
    asked_at_ms: u64,
}

impl Listening<'_> {
    async fn of_all(&self, from: Option<String>) -> Result<Chunk, Failure> {
        let mut since = match &from {
            Some(from) => from.clone(),
            // From now on: what there is was read, and is not told.
            None => self.round(None, 0).await?.0,
        };
        let start = from.unwrap_or_else(|| since.clone());
        let until_ms = self.asked_at_ms.saturating_add(self.timeout_ms);
        loop {
            let wait_ms = until_ms.saturating_sub(self.cx.now_ms());
            let chunk;
            (since, chunk) = self.round(Some(since), wait_ms).await?;
            if !chunk.is_empty() || self.cx.now_ms() >= until_ms {
                return Ok(Chunk { start, end: since, chunk });
            }
        }
    }

    /// What happened since a token, and the next token.
    async fn round(&self, since: Option<String>, wait_ms: u64) -> Result<(String, Vec<Box<RawValue>>), Failure> {
        let Self { cx, bearer, .. } = *self;
        let call = SyncPlan {
            token_hash: bearer.token_hash.clone(),
            since,
            ip: ip(cx),
            may_wait: wait_ms > 0,
            presence: presence::of_sync(cx, &PresenceState::Online, (self.asked_at_ms, wait_ms), None)?,
            without_messages: true,
            ..SyncPlan::default()
        };
        let round = Round { cx, bearer, filter: None, state: StateName::State };
        let plan = round.plan(&call, wait_ms).await?;
        let Some(plan) = plan.filter(|plan| !plan.quiet) else {
            let since = call.since.unwrap_or_default();
            let next = waited_until(&since, cx.now_ms(), self.asked_at_ms).unwrap_or(since);
            return Ok((next, Vec::new()));
        };
        let mut filter = FilterDefinition::default();
        // Nothing but what happens: the state is asked for by other ways.
        filter.room.state.types = Some(Vec::new());
        if call.since.is_none() {
            filter.room.timeline.limit = Some(UInt::MIN);
        }
        let reading = round.reading(&call, &plan, filter);
        let (read, mut chunk) = reading.events(&plan.rooms).await?;
        // Who asks from nowhere hears what happens from now on.
        let has_since = call.since.is_some();
        let close = SyncClose {
            token_hash: bearer.token_hash.clone(),
            since: call.since,
            position: plan.position,
            rooms: read,
            rooms_told: false,
            presence: reading.presence.clone(),
            without_messages: true,
        };
        let closed = cx.user(&bearer.user_id).call(&close).await.or_absent(UNKNOWN_TOKEN)?;
        for room in &closed.invited {
            chunk.extend(invitation(room, &bearer.user_id)?);
        }
        chunk.extend(closed.presence);
        if has_since {
            for event in &closed.account_data {
                chunk.push(to_raw_value(event)?);
            }
            for RoomAccountData { room_id, events, .. } in &closed.room_account_data {
                for event in events {
                    chunk.push(in_room(room_id, &to_raw_value(event)?)?);
                }
            }
        }
        Ok((closed.next_batch, chunk))
    }
}

impl Reading {
    /// What happened in planned rooms, one after the other. Those that there is no room for, or that fail, are owed to
    /// the device.
    async fn events(&self, planned: &[PlannedRoom]) -> Result<(Vec<ReadRoom>, Vec<Box<RawValue>>), Failure> {
        let (mut read, mut chunk) = (Vec::with_capacity(planned.len()), Vec::new());
        for some in planned.chunks(ROOMS_AT_ONCE) {
            if chunk.len() >= EVENTS_MAX {
                read.extend(some.iter().map(ReadRoom::failed));
                continue;
            }
            let replies: Vec<_> = stream::iter(some)
                .map(async |room| (room, self.happened(room).await))
                .buffered(ROOMS_AT_ONCE)
                .collect()
                .await;
            for (room, reply) in replies {
                match reply {
                    Ok((reply, mut events)) => {
                        read.push(reply);
                        chunk.append(&mut events);
                    }
                    Err(Failure::Fault(fault)) => {
                        warn!(room_id = %room.room_id, %fault, "a room could not be read for what happens");
                        read.push(ReadRoom::failed(room));
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok((read, chunk))
    }

    /// What happened in one room.
    async fn happened(&self, room: &PlannedRoom) -> Result<(ReadRoom, Vec<Box<RawValue>>), Failure> {
        #[derive(Deserialize)]
        struct Synced {
            timeline: Timeline,
            #[serde(default)]
            ephemeral: Ephemeral,
        }
        #[derive(Deserialize)]
        struct Timeline {
            events: Vec<Box<RawValue>>,
            limited: bool,
        }
        #[derive(Default, Deserialize)]
        struct Ephemeral {
            events: Vec<Box<RawValue>>,
        }
        let (call, reply) = self.ask(room).await?;
        let mut read = was_read(room, &reply);
        let DeltaReply { to, section, anew, room: told, .. } = reply;
        if matches!(section, Section::Quiet | Section::None) || !self.is_incremental {
            return Ok((read, Vec::new()));
        }
        let Synced { timeline, ephemeral } = serde_json::from_str(told.get())?;
        // A device that has been away for too long begins with the newest; one that is new here, with its join.
        let since = match (room.from, anew) {
            (None, _) => Some(WatchedSince::Joined),
            (Some(from), false) if timeline.limited => Some(WatchedSince::After(from)),
            _ => None,
        };
        let mut events = match since.filter(|_| matches!(section, Section::Join)) {
            Some(since) => {
                let watched = self.watched(&room.room_id, &call, since, to).await?;
                if watched.more {
                    (read.to, read.failed) = (watched.reached, true);
                }
                watched.events
            }
            None => all_in_room(&room.room_id, &timeline.events)?,
        };
        for event in &ephemeral.events {
            events.push(in_room(&room.room_id, event)?);
        }
        Ok((read, events))
    }

    /// What happened in a room since a place, from there on.
    async fn watched(
        &self,
        room_id: &RoomId,
        call: &Delta,
        since: WatchedSince,
        up_to: u64,
    ) -> Result<Watched, Failure> {
        let call = Watch {
            user: call.user.clone(),
            device: call.device.clone(),
            ignored: call.ignored.clone(),
            since,
            up_to: Some(up_to),
            may_wait: false,
        };
        self.cx.room(room_id).call(&call).await
    }
}

/// `GET /events/{eventId}`: an event of a room that the user is in, or was.
async fn event(
    cx: &Context,
    bearer: Bearer,
    _: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Body>, Failure> {
    let event_id = path_args.into_iter().next().unwrap_or_default();
    let event_id = OwnedEventId::try_from(event_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    let (token_hash, limit) = (bearer.token_hash.clone(), ROOMS_NAMED_MAX);
    let mut call = GetSearchRooms { token_hash, below: None, only: None, limit };
    let mut fault = None;
    loop {
        let named = bearer.call(cx, &call).await?;
        let sought = GetEvent {
            user: bearer.user_id.clone(),
            device: named.device,
            ignored: named.ignored,
            event_id: event_id.clone(),
        };
        let mut asked = stream::iter(&named.rooms)
            .map(async |room_id| cx.room(room_id).call(&sought).await)
            .buffer_unordered(ASKED_AT_ONCE);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(event) => return Ok(json_body(Bytes::from(event.get().to_owned()).into())),
                Err(Failure::Fault(failed)) => fault = Some(failed),
                Err(_) => {}
            }
        }
        let Some(below) = named.next_below else { break };
        call.below = Some(below);
    }
    match fault {
        Some(fault) => Err(fault.into()),
        None => Err(Refusal::NotFound("There is no such event, or it is not yours to see".to_owned()).into()),
    }
}
