//! `GET /sync`. Spec: "Syncing".
//!
//! The plan says which rooms to read from where, the rooms are read in parallel, the close ends with what is the
//! user's own. Waiting happens here, not in an actor. Cost: the User twice, each moved room once.

mod answer;
mod events;
mod initial_sync;
mod json;
mod more_state;
mod sliding;
mod streamed;

use std::{cell::Cell, collections::btree_map::Entry, future::ready, time::Duration};

use actors::{
    room::{Delta, DeltaReply, EventFilter, EventFormat, Section},
    user::{
        Closed, Plan, PlannedRoom, ReadRoom, ReadTyping, SyncClose, SyncPlan, SyncPresence, keys_left, typing_until,
        waited_until,
    },
};
use bytes::Bytes;
use domain::{Refusal, push};
use futures_util::{StreamExt, stream};
use http::{Method, Response};
use ruma_client_api::{
    filter::{self, FilterDefinition, RoomEventFilter, RoomFilter},
    sync::sync_events::v3::{Filter, Request},
};
use ruma_common::{OwnedDeviceId, OwnedUserId, RoomId, push::Ruleset};
use serde::Deserialize;
use tracing::warn;

use self::{
    answer::{Answer, Room, Rooms, StateName, Told, ended},
    more_state::Reader,
};
use super::{
    filter::{checked, event_format},
    presence,
    rooms::{event_filter, wants_room},
};
use crate::{
    Bearer, Body, Context, Failure, OrAbsent, Routes,
    new_login::ip,
    router::{json_body, parse, query},
};

/// The longest a request waits.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// How long a first sync waits for rooms to tell who is there, in milliseconds.
const PRESENCE_WAIT_MS: u64 = 2_000;
/// Rooms told in one piece; an answer of more comes in several, so that it never sits whole in memory.
const ROOMS_AT_A_TIME: usize = 64;
/// What rooms say in one piece, in bytes, after which no further one is asked for it.
const PIECE_BYTES: usize = if cfg!(test) { 16 * 1024 } else { 4 * 1024 * 1024 };
/// Rooms read at the same time.
const ROOMS_AT_ONCE: usize = 16;
/// A little after somebody's typing ends every clock says so, in milliseconds.
const TYPING_ENDS_MS: u64 = 50;
/// How long a request waits before it looks again, where somebody goes on typing past the time first told, in
/// milliseconds.
const TYPING_AGAIN_MS: u64 = 5_000;
/// Answers without anything in them after which a client gets one, though it would still wait.
const EMPTY_ANSWERS_MAX: u32 = 20;
/// What a device is told whose user is gone.
const UNKNOWN_TOKEN: Refusal = Refusal::UnknownToken { soft_logout: false };
/// How long an answer rests in which every room failed: the client would ask again at once.
const FAILED_PAUSE_MS: u64 = 1_000;

pub(crate) fn routes(routes: &mut Routes) {
    // Not through ruma's type alone: it knows one parameter by its stable name only.
    for path in ["/_matrix/client/v3/sync", "/_matrix/client/r0/sync"] {
        routes.add_raw(Method::GET, path, sync);
    }
    events::routes(routes);
    initial_sync::routes(routes);
    sliding::routes(routes);
}

/// `GET /sync`.
async fn sync(
    cx: &Context,
    bearer: Bearer,
    request: http::Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Body>, Failure> {
    #[derive(Deserialize)]
    struct Query {
        /// As Element Web asks. Whoever asks by both names is told by the stable one.
        #[serde(rename = "org.matrix.msc4222.use_state_after", default)]
        unstable_use_state_after: bool,
    }
    let Query { unstable_use_state_after } = query(&request)?;
    let request: Request = parse(&request, &path_args)?;
    let state = match (request.use_state_after, unstable_use_state_after) {
        (true, _) => StateName::StateAfter,
        (false, true) => StateName::UnstableStateAfter,
        (false, false) => StateName::State,
    };
    Ok(json_body(synced(cx, bearer, request, state).await?))
}

async fn synced(cx: &Context, bearer: Bearer, request: Request, state: StateName) -> Result<Body, Failure> {
    let timeout = request.timeout.unwrap_or_default().min(TIMEOUT_MAX);
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let until_ms = cx.now_ms().saturating_add(timeout_ms);
    let (filter, filter_id) = match request.filter {
        Some(Filter::FilterDefinition(filter)) => (Some(checked(filter)?), None),
        Some(Filter::FilterId(id)) if id.starts_with('{') => {
            return Err(Refusal::BadJson("`filter` is neither a filter nor the id of one".to_owned()).into());
        }
        Some(Filter::FilterId(id)) => (None, Some(id)),
        _ => (None, None),
    };
    let may_wait = request.since.is_some() && timeout_ms > 0 && !request.full_state;
    let (asked_at_ms, waits_ms) = (cx.now_ms(), if may_wait { timeout_ms } else { 0 });
    let wanted = filter.as_ref().map(|filter| &filter.presence);
    let presence = presence::of_sync(cx, &request.set_presence, (asked_at_ms, waits_ms), wanted)?;
    let mut call = SyncPlan {
        token_hash: bearer.token_hash.clone(),
        since: request.since,
        full_state: request.full_state,
        include_leave: filter.as_ref().is_some_and(|filter| filter.room.include_leave),
        filter_id,
        ip: ip(cx),
        may_wait,
        looks_only: false,
        presence,
        without_messages: false,
    };
    let mut empty_answers: u32 = 0;
    loop {
        let (began_ms, typing_ends_ms) = (cx.now_ms(), call.since.as_deref().and_then(typing_until));
        let left_ms = until_ms.saturating_sub(began_ms);
        let wait_ms = typing_ends_ms.map_or(left_ms, |ends_ms| left_ms.min(until_typing_ends(ends_ms, began_ms)));
        let round = Round { cx, bearer: &bearer, filter: filter.as_ref(), state };
        let answer = match round.answer(&call, wait_ms).await? {
            Outcome::All(answer) => answer,
            Outcome::Streamed(body) => return Ok(body),
            // Who typed may be typing still. A host that does not wait is not asked again and again.
            Outcome::Nothing
                if may_wait && wait_ms < left_ms && cx.now_ms() >= began_ms.saturating_add(wait_ms / 2) =>
            {
                continue;
            }
            Outcome::Nothing => {
                // The token still says where the device is.
                let since = call.since.unwrap_or_default();
                let next_batch = waited_until(&since, cx.now_ms(), asked_at_ms).unwrap_or(since);
                let keys = keys_left(&next_batch).into();
                return Ok(Answer { next_batch, keys, ..Answer::default() }.into_json()?.into());
            }
        };
        // What happened was not for this device to see: there is time for more to happen.
        let is_over = cx.now_ms() >= until_ms || empty_answers >= EMPTY_ANSWERS_MAX;
        if !may_wait || is_over || !answer.is_empty() {
            return Ok(answer.into_json()?.into());
        }
        empty_answers = empty_answers.saturating_add(1);
        call.since = Some(answer.next_batch);
    }
}

/// How long to wait for somebody to have stopped typing.
fn until_typing_ends(ends_ms: u64, now_ms: u64) -> u64 {
    ends_ms.checked_sub(now_ms).map_or(TYPING_AGAIN_MS, |left_ms| left_ms.saturating_add(TYPING_ENDS_MS))
}

/// What a round came to.
enum Outcome {
    /// Nothing happened for so long.
    Nothing,
    All(Box<Answer>),
    Streamed(Body),
}

/// One plan, what it leads to, and its close.
struct Round<'a> {
    cx: &'a Context,
    bearer: &'a Bearer,
    /// The filter given in the request; it may be a stored one instead.
    filter: Option<&'a FilterDefinition>,
    state: StateName,
}

impl Round<'_> {
    /// The plan; `None` if nothing was new for as long as it waited.
    async fn plan(&self, call: &SyncPlan, wait_ms: u64) -> Result<Option<Plan>, Failure> {
        let user = self.cx.user(&self.bearer.user_id);
        if call.may_wait {
            return user.wait(call, wait_ms).await.or_absent(UNKNOWN_TOKEN);
        }
        // A first sync shows who else is there, if their rooms tell in time.
        if call.since.is_none() && call.presence.is_some() {
            let patient = SyncPlan { may_wait: true, ..call.clone() };
            let plan = user.wait(&patient, PRESENCE_WAIT_MS).await.or_absent(UNKNOWN_TOKEN)?;
            if plan.is_some() {
                return Ok(plan);
            }
        }
        Ok(Some(user.call(call).await.or_absent(UNKNOWN_TOKEN)?))
    }

    /// How the rooms of a plan are read.
    fn reading(&self, call: &SyncPlan, plan: &Plan, filter: FilterDefinition) -> Reading {
        Reading {
            cx: self.cx.clone(),
            bearer: self.bearer.clone(),
            device: plan.device.clone(),
            format: event_format(&filter),
            presence: presence::closing(call.presence.as_ref(), &filter.presence),
            filter,
            full_state: call.full_state,
            state: self.state,
            is_incremental: call.since.is_some(),
            push_rules: plan.push_rules.clone(),
            ignored: plan.ignored.clone(),
        }
    }

    async fn answer(&self, call: &SyncPlan, wait_ms: u64) -> Result<Outcome, Failure> {
        let Self { cx, bearer, .. } = *self;
        let plan = self.plan(call, wait_ms).await?;
        let Some(plan) = plan.filter(|plan| !plan.quiet) else { return Ok(Outcome::Nothing) };
        let filter = match (self.filter, &plan.filter) {
            (Some(filter), _) => filter.clone(),
            (None, Some(stored)) => serde_json::from_str(stored.get())?,
            (None, None) => FilterDefinition::default(),
        };
        let reading = self.reading(call, &plan, filter);
        if plan.rooms.len() > ROOMS_AT_A_TIME {
            return Ok(Outcome::Streamed(streamed::body(reading, call.since.clone(), plan)));
        }
        let (mut rooms, read) = reading.read(&plan.rooms).await?;
        if read.len() < plan.rooms.len() {
            // Too much for one piece: what a room says does not change with being read.
            return Ok(Outcome::Streamed(streamed::body(reading, call.since.clone(), plan)));
        }
        let close = SyncClose {
            token_hash: bearer.token_hash.clone(),
            since: call.since.clone(),
            position: plan.position,
            rooms: read,
            rooms_told: false,
            presence: reading.presence.clone(),
            without_messages: false,
        };
        let closed = cx.user(&bearer.user_id).call(&close).await.or_absent(UNKNOWN_TOKEN)?;
        rooms.device_lists.settle(cx, bearer).await?;
        Ok(Outcome::All(Box::new(answer(closed, rooms, &reading)?)))
    }
}

/// Puts together what the rooms say and what is the user's own, as far as the filter lets it through.
fn answer(closed: Closed, mut rooms: Rooms, reading: &Reading) -> serde_json::Result<Answer> {
    let filter = &reading.filter;
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
            let room = match rooms.join.entry(told.room_id) {
                Entry::Occupied(room) => room.into_mut(),
                Entry::Vacant(place) => place.insert(Room::at_rest(reading.state)?),
            };
            room.account_data.events = told.events;
        }
    }
    let mut account_data = closed.account_data;
    let wanted = account_filter(&filter.account_data);
    account_data.retain(|event| wanted.allows_account_data(&event.event_type));
    let mut answer = Answer { next_batch: closed.next_batch, rooms, ..Answer::default() };
    answer.account_data.events = account_data;
    answer.presence.events = closed.presence;
    answer.to_device.events = closed.to_device;
    answer.keys = closed.keys.into();
    answer.device_lists = std::mem::take(&mut answer.rooms.device_lists);
    answer.device_lists.changed.extend(closed.device_lists);
    Ok(answer)
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

/// Whether a filter lets anything of a room through.
fn may_show(filter: &RoomEventFilter, room_id: &RoomId) -> bool {
    let has_types = filter.types.as_ref().is_none_or(|types| !types.is_empty());
    has_types && wants_room(filter.rooms.as_deref(), &filter.not_rooms, room_id)
}

fn wants(filter: &RoomFilter, room_id: &RoomId) -> bool {
    wants_room(filter.rooms.as_deref(), &filter.not_rooms, room_id)
}

/// What a room replied, and what of it is told.
type Looked = Result<(DeltaReply, Told), Failure>;

/// The rooms of one sync.
struct Reading {
    cx: Context,
    bearer: Bearer,
    device: OwnedDeviceId,
    filter: FilterDefinition,
    format: EventFormat,
    presence: Option<SyncPresence>,
    full_state: bool,
    state: StateName,
    /// Whether the device has synced before.
    is_incremental: bool,
    /// What the user has changed of the push rules.
    push_rules: Option<Ruleset>,
    /// Whom the user ignores.
    ignored: Vec<OwnedUserId>,
}

impl Reading {
    /// Reads planned rooms in parallel, as many as fit in a piece. One that fails is owed to the device: its token
    /// remembers it.
    async fn read(&self, planned: &[PlannedRoom]) -> Result<(Rooms, Vec<ReadRoom>), Failure> {
        let bytes = Cell::new(0_usize);
        // A room that the filter leaves out is read all the same: the token moves past it.
        let replies: Vec<(&PlannedRoom, Looked)> = stream::iter(planned)
            .take_while(|_| ready(bytes.get() < PIECE_BYTES))
            .map(|room| async move { (room, self.delta(room).await) })
            .buffer_unordered(ROOMS_AT_ONCE)
            .inspect(|(_, reply)| {
                let more = reply.as_ref().map_or(0, |(_, told)| told.bytes());
                bytes.set(bytes.get().saturating_add(more));
            })
            .collect()
            .await;
        let (mut rooms, mut read, mut failed) = (Rooms::default(), Vec::with_capacity(replies.len()), 0_usize);
        let asked = replies.len();
        for (room, reply) in replies {
            match reply {
                Ok((reply, told)) => {
                    read.push(was_read(room, &reply));
                    rooms.device_lists.add(reply.device_lists);
                    let section = if wants(&self.filter.room, &room.room_id) { reply.section } else { Section::None };
                    match section {
                        Section::Join => rooms.join.insert(room.room_id.clone(), Room::told(told)),
                        Section::Leave => rooms.leave.insert(room.room_id.clone(), Room::told(told)),
                        Section::Quiet => None,
                        Section::None => {
                            rooms.nothing.insert(room.room_id.clone());
                            None
                        }
                    };
                }
                Err(Failure::Fault(fault)) => {
                    warn!(room_id = %room.room_id, %fault, "a room could not be read for a sync");
                    failed = failed.saturating_add(1);
                    read.push(ReadRoom::failed(room));
                }
                Err(failure) => return Err(failure),
            }
        }
        if asked > 0 && failed == asked {
            self.cx.pause(FAILED_PAUSE_MS).await;
        }
        Ok((rooms, read))
    }

    async fn delta(&self, room: &PlannedRoom) -> Looked {
        let (call, mut reply) = self.ask(room).await?;
        let Delta { user, device, state: filter, format, .. } = call;
        let told = Reader { user, device, filter, format }.told(&self.cx, &room.room_id, &mut reply)?;
        Ok((reply, told))
    }

    /// What the room replies, and what it was asked.
    async fn ask(&self, room: &PlannedRoom) -> Result<(Delta, DeltaReply), Failure> {
        let filter = &self.filter.room;
        let call = Delta {
            user: self.bearer.user_id.clone(),
            device: self.device.clone(),
            from: room.from,
            full_state: self.full_state,
            state_after: self.state == StateName::StateAfter,
            unstable_state_after: self.state == StateName::UnstableStateAfter,
            timeline: event_filter(&filter.timeline, &room.room_id),
            state: event_filter(&filter.state, &room.room_id),
            format: self.format.clone(),
            ephemeral: event_filter(&filter.ephemeral, &room.room_id),
            typing: Some(room.typing.seen),
            device_lists: self.is_incremental,
            push_rules: self.push_rules.clone().and_then(|rules| push::for_room(rules, &room.room_id)),
            ignored: self.ignored.clone(),
            unread: room.has_account_data && may_show(&filter.account_data, &room.room_id),
        };
        let reply = match self.cx.room(&room.room_id).call(&call).await {
            // A room list may know a room that is not here: then there is nothing to read.
            Err(Failure::Absent) => DeltaReply::nothing(room.from.unwrap_or(0), Section::None)?,
            reply => reply?,
        };
        // An invitation was turned down, or taken back, of which the room itself knows nothing here.
        let reply = if room.gone && self.is_incremental && matches!(reply.section, Section::None) {
            DeltaReply { section: Section::Leave, room: ended(room.end.as_deref(), self.state)?, ..reply }
        } else {
            reply
        };
        Ok((call, reply))
    }
}

/// How far the room was read that replied this.
fn was_read(room: &PlannedRoom, reply: &DeltaReply) -> ReadRoom {
    let typing = reply.typing.map(|now| ReadTyping { known: room.typing.known, now });
    let left = matches!(reply.section, Section::Leave);
    ReadRoom { number: room.number, to: reply.to, failed: false, anew: reply.anew, left, untold: false, typing }
}

#[cfg(test)]
mod tests;
