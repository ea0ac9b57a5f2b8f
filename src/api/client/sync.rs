//! `GET /sync`. Spec: "Syncing".
//!
//! The plan says which rooms to read from where, the rooms are read in parallel, the close ends with what is the
//! user's own. Waiting happens here, not in an actor. Cost: the User twice, each moved room once.

mod answer;

use std::time::Duration;

use actors::{
    room::{Delta, DeltaReply, EventFilter, EventFormat, Section},
    user::{Closed, Plan, PlannedRoom, ReadRoom, SyncClose, SyncPlan},
};
use domain::Refusal;
use futures_util::{StreamExt, stream};
use ruma_client_api::{
    filter::{self, FilterDefinition, RoomFilter},
    sync::sync_events::v3::{Filter, Request},
};
use ruma_common::RoomId;
use serde_json::value::to_raw_value;
use tracing::warn;

use self::answer::{Answer, Room, Rooms};
use super::{
    filter::{checked, event_format},
    rooms::{event_filter, wants_room},
};
use crate::{Bearer, Context, Failure, OrAbsent, Routes};

/// The longest a request waits.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// Rooms read at the same time.
const ROOMS_AT_ONCE: usize = 32;
/// How long an answer rests in which every room failed: the client would ask again at once.
const FAILED_PAUSE_MS: u64 = 1_000;

pub(crate) fn routes(routes: &mut Routes) {
    routes.add_carried_json(sync);
}

async fn sync(cx: &Context, bearer: Bearer, request: Request) -> Result<Vec<u8>, Failure> {
    let unknown_token = || Refusal::UnknownToken { soft_logout: false };
    let timeout = request.timeout.unwrap_or_default().min(TIMEOUT_MAX);
    let (given_filter, filter_id) = match request.filter {
        Some(Filter::FilterDefinition(filter)) => (Some(checked(filter)?), None),
        Some(Filter::FilterId(id)) if id.starts_with('{') => {
            return Err(Refusal::BadJson("`filter` is neither a filter nor the id of one".to_owned()).into());
        }
        Some(Filter::FilterId(id)) => (None, Some(id)),
        _ => (None, None),
    };
    let may_wait = request.since.is_some() && !timeout.is_zero() && !request.full_state;
    let call = SyncPlan {
        token_hash: bearer.token_hash.clone(),
        since: request.since.clone(),
        full_state: request.full_state,
        include_leave: given_filter.as_ref().is_some_and(|filter| filter.room.include_leave),
        filter_id,
        ip: cx.client_address().map(|address| address.0.to_string()),
        may_wait,
    };
    let user = cx.user(&bearer.user_id);
    let plan = if may_wait {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        user.wait(&call, timeout_ms).await.or_absent(unknown_token())?
    } else {
        Some(user.call(&call).await.or_absent(unknown_token())?)
    };
    let Some(plan) = plan.filter(|plan| !plan.quiet) else {
        // Nothing happened: the token still says where the device is.
        let next_batch = request.since.unwrap_or_default();
        return Ok(Answer { next_batch, ..Answer::default() }.into_json()?);
    };
    let filter = match (given_filter, &plan.filter) {
        (Some(filter), _) => filter,
        (None, Some(stored)) => serde_json::from_str(stored.get())?,
        (None, None) => FilterDefinition::default(),
    };
    let reading = Reading {
        bearer: &bearer,
        plan: &plan,
        filter: &filter.room,
        format: event_format(&filter),
        full_state: request.full_state,
        state_after: request.use_state_after,
    };
    let (rooms, read) = reading.read(cx).await?;
    let close =
        SyncClose { token_hash: bearer.token_hash.clone(), since: request.since, position: plan.position, rooms: read };
    let closed = user.call(&close).await.or_absent(unknown_token())?;
    Ok(answer(closed, rooms, &filter).into_json()?)
}

/// Puts together what the rooms say and what is the user's own, as far as the filter lets it through.
fn answer(closed: Closed, mut rooms: Rooms, filter: &FilterDefinition) -> Answer {
    let is_wanted = |room_id: &str| <&RoomId>::try_from(room_id).is_ok_and(|room_id| wants(&filter.room, room_id));
    rooms.invite = closed.invited.into_iter().filter(|room| is_wanted(&room.room_id)).collect();
    rooms.knock = closed.knocked.into_iter().filter(|room| is_wanted(&room.room_id)).collect();
    for mut told in closed.room_account_data {
        let wanted = event_filter(&filter.room.account_data, &told.room_id);
        told.events.retain(|event| wanted.allows_account_data(&event.event_type));
        if told.events.is_empty() || !wants(&filter.room, &told.room_id) {
            continue;
        }
        if let Some(left) = rooms.leave.get_mut(&told.room_id) {
            left.account_data.events = told.events;
        } else if told.joined && !rooms.nothing.contains(&told.room_id) {
            rooms.join.entry(told.room_id).or_default().account_data.events = told.events;
        }
    }
    let mut account_data = closed.account_data;
    let wanted = account_filter(&filter.account_data);
    account_data.retain(|event| wanted.allows_account_data(&event.event_type));
    let mut answer = Answer { next_batch: closed.next_batch, rooms, ..Answer::default() };
    answer.account_data.events = account_data;
    answer
}

/// A client's filter for what belongs to the account.
fn account_filter(filter: &filter::Filter) -> EventFilter {
    EventFilter {
        types: filter.types.clone(),
        not_types: filter.not_types.clone(),
        senders: filter.senders.as_ref().map(|senders| senders.iter().map(ToString::to_string).collect()),
        ..EventFilter::default()
    }
}

fn wants(filter: &RoomFilter, room_id: &RoomId) -> bool {
    wants_room(filter.rooms.as_deref(), &filter.not_rooms, room_id)
}

/// The rooms of one sync.
struct Reading<'a> {
    bearer: &'a Bearer,
    plan: &'a Plan,
    filter: &'a RoomFilter,
    format: EventFormat,
    full_state: bool,
    state_after: bool,
}

impl Reading<'_> {
    /// Reads the planned rooms in parallel. One that fails is owed to the device: its token remembers it.
    async fn read(&self, cx: &Context) -> Result<(Rooms, Vec<ReadRoom>), Failure> {
        // A room that the filter leaves out is read all the same: the token moves past it.
        let replies: Vec<(&PlannedRoom, Result<DeltaReply, Failure>)> = stream::iter(&self.plan.rooms)
            .map(|room| async move { (room, self.delta(cx, room).await) })
            .buffer_unordered(ROOMS_AT_ONCE)
            .collect()
            .await;
        let (mut rooms, mut read, mut failed) = (Rooms::default(), Vec::with_capacity(replies.len()), 0_usize);
        let asked = replies.len();
        for (room, reply) in replies {
            match reply {
                Ok(reply) => {
                    read.push(ReadRoom { number: room.number, to: reply.to, failed: false, anew: reply.anew });
                    let section = if wants(self.filter, &room.room_id) { reply.section } else { Section::None };
                    match section {
                        Section::Join => rooms.join.insert(room.room_id.clone(), Room::told(reply.room)),
                        Section::Leave => rooms.leave.insert(room.room_id.clone(), Room::told(reply.room)),
                        Section::None => {
                            rooms.nothing.insert(room.room_id.clone());
                            None
                        }
                    };
                }
                Err(Failure::Fault(fault)) => {
                    warn!(room_id = %room.room_id, %fault, "a room could not be read for a sync");
                    failed = failed.saturating_add(1);
                    read.push(ReadRoom { number: room.number, to: room.from.unwrap_or(0), failed: true, anew: false });
                }
                Err(failure) => return Err(failure),
            }
        }
        if asked > 0 && failed == asked {
            cx.pause(FAILED_PAUSE_MS).await;
        }
        Ok((rooms, read))
    }

    async fn delta(&self, cx: &Context, room: &PlannedRoom) -> Result<DeltaReply, Failure> {
        let call = Delta {
            user: self.bearer.user_id.clone(),
            device: self.plan.device.clone(),
            from: room.from,
            full_state: self.full_state,
            state_after: self.state_after,
            timeline: event_filter(&self.filter.timeline, &room.room_id),
            state: event_filter(&self.filter.state, &room.room_id),
            format: self.format.clone(),
        };
        match cx.room(&room.room_id).call(&call).await {
            // A room list may know a room that is gone: then there is nothing to read.
            Err(Failure::Absent) => Ok(DeltaReply {
                to: room.from.unwrap_or(0),
                section: Section::None,
                anew: false,
                room: to_raw_value(&())?,
            }),
            reply => reply,
        }
    }
}
