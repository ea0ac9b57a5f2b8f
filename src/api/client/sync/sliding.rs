//! `POST /sync`: sliding sync, by the path that today's clients ask at. Spec: MSC4186.
//!
//! The plan says which rooms in the client's windows to read from where, the rooms are read in parallel, the close ends
//! with what is the user's own, as for `GET /sync`. What is there to wait for is waited for as there; then the plan is
//! made again. Cost: the User twice, each room with news in a window once; for whose devices changed, each room with
//! news once; and the User twice more for each wake.

mod answer;
mod request;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    future::ready,
};

use actors::{
    room::{
        Asker, DeviceLists as ToldDevices, DevicesSince, Facts, GetDevicesSince, GetFacts, GetRequiredState,
        GetSummary, Listen, RequiredState, Section, SlidingDelta, SlidingReply,
    },
    user::{
        DeviceRoom, LearnFacts, PlannedSliding, ReadSliding, RoomsHeard, SlidingClose, SlidingPlan, SlidingPlanned,
        SyncPlan, typing_until,
    },
};
use bytes::Bytes;
use domain::push;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use ruma_common::OwnedRoomId;
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use self::{
    answer::{Answer, Extensions, Room, ended},
    request::Asked,
};
use super::{
    EMPTY_ANSWERS_MAX, FAILED_PAUSE_MS, PIECE_BYTES, ROOMS_AT_ONCE, UNKNOWN_TOKEN, presence, until_typing_ends,
};
use crate::{
    Bearer, Body, Context, Failure, OrAbsent, Routes, client::device_lists::DeviceLists, new_login::ip,
    router::json_body,
};

/// The most spaces that a request may name: each is asked for its rooms.
const SPACES_MAX: usize = 20;

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's type: it knows one form of what a client may ask, and not all filters.
    routes.add_raw(Method::POST, "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", sliding_sync);
}

async fn sliding_sync(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Body>, Failure> {
    let asked = Asked::of(&request)?;
    let asked_at_ms = cx.now_ms();
    // «Ignored when no `pos` is set.»
    let wait_ms = if asked.pos.is_some() { asked.timeout_ms } else { 0 };
    let presence = presence::of_sync(cx, &asked.set_presence, (asked_at_ms, wait_ms), None)?;
    let txn_id = asked.txn_id.clone();
    let mut plan = asked.plan(&bearer, ip(cx), presence);
    let sliding = Sliding { cx, bearer: &bearer, until_ms: asked_at_ms.saturating_add(wait_ms) };
    cx.request_id().clone_into(&mut plan.request);
    sliding.looks_into_spaces(&mut plan).await?;
    let answer = sliding.answer(plan).await?;
    Ok(json_body(Answer { txn_id, ..answer }.into_json()?.into()))
}

/// One request.
struct Sliding<'a> {
    cx: &'a Context,
    bearer: &'a Bearer,
    until_ms: u64,
}

/// What the rooms of one round said.
#[derive(Default)]
struct Round {
    read: Vec<ReadSliding>,
    rooms: BTreeMap<OwnedRoomId, Room>,
    extensions: Extensions,
    device_lists: DeviceLists,
    device_rooms_left: Vec<DeviceRoom>,
    devices_read: BTreeMap<u64, u64>,
    /// Whether anything of it is to be told, or remembered.
    news: bool,
}

/// What one request looked at so far.
#[derive(Default)]
struct Looked {
    /// By the user's number.
    rooms: BTreeMap<u64, ReadSliding>,
    states: Vec<RequiredState>,
    /// How far rooms were asked whose devices changed.
    devices: BTreeMap<u64, u64>,
}

impl Looked {
    fn add(&mut self, planned: &SlidingPlanned, round: &mut Round) {
        let before = self.states.len();
        self.states.extend(planned.states.iter().cloned());
        for room in std::mem::take(&mut round.read) {
            let state = room.state.saturating_add(before);
            self.rooms.insert(room.number, ReadSliding { state, ..room });
        }
        self.devices.append(&mut round.devices_read);
    }
}

impl Sliding<'_> {
    async fn answer(&self, mut plan: SlidingPlan) -> Result<Answer, Failure> {
        let user = self.cx.user(&self.bearer.user_id);
        let (mut rounds, mut has_learned, mut learns_nothing, mut has_listened) = (0_u32, false, false, false);
        let mut looked = Looked::default();
        loop {
            let planned = user.call(&plan).await.or_absent(UNKNOWN_TOKEN)?;
            plan.goes_on = true;
            if !planned.unknown.is_empty() && !has_learned {
                has_learned = true;
                learns_nothing = !self.learns(&planned.unknown).await?;
                continue;
            }
            if planned.quiet {
                if !planned.unheard.is_empty() && !has_listened {
                    has_listened = true;
                    self.listens(&plan, &planned).await?;
                    continue;
                }
                // What a filter still has to know is asked for by the next request; where rooms only fail, that would
                // come at once again and again.
                if (planned.unknown.is_empty() || learns_nothing) && self.waits(&planned).await? {
                    continue;
                }
                if rounds == 0 {
                    return Ok(quiet(plan, planned));
                }
            }
            // What is quiet is closed only to keep what was looked at.
            let round = if planned.quiet { Round::default() } else { self.reads(&plan, &planned).await? };
            rounds = rounds.saturating_add(1);
            let keeps = planned.quiet || rounds >= EMPTY_ANSWERS_MAX || self.cx.now_ms() >= self.until_ms;
            match self.closes(&plan, &planned, round, &mut looked, keeps).await? {
                Some(answer) => return Ok(answer),
                None if keeps => return Ok(quiet(plan, planned)),
                // What happened was not for this client to see: there is time for more to happen.
                None => {
                    plan.passed.position = planned.position;
                    plan.passed.rooms.extend(looked.rooms.values().map(|room| (room.number, room.to)));
                }
            }
        }
    }

    /// Ends a round; `None` if there is nothing to tell.
    async fn closes(
        &self,
        plan: &SlidingPlan,
        planned: &SlidingPlanned,
        mut round: Round,
        looked: &mut Looked,
        keeps: bool,
    ) -> Result<Option<Answer>, Failure> {
        let Self { cx, bearer, .. } = *self;
        looked.add(planned, &mut round);
        let close = SlidingClose {
            token_hash: plan.token_hash.clone(),
            conn_id: plan.conn_id.clone(),
            pos: plan.pos.clone(),
            position: planned.position,
            extensions: plan.extensions.clone(),
            rooms: looked.rooms.values().cloned().collect(),
            states: looked.states.clone(),
            asked: planned.asked.clone(),
            data_rooms: planned.data_rooms.clone(),
            device_rooms_left: std::mem::take(&mut round.device_rooms_left),
            devices_read: looked.devices.clone(),
            news: round.news,
            keeps,
            request: plan.request.clone(),
        };
        let closed = cx.user(&bearer.user_id).call(&close).await.or_absent(UNKNOWN_TOKEN)?;
        let Some(pos) = closed.pos else { return Ok(None) };
        round.device_lists.settle(cx, bearer).await?;
        let Round { mut rooms, mut extensions, device_lists, .. } = round;
        rooms.extend(closed.asked.into_iter().map(|asked| (asked.room_id.clone(), Room::asked(asked))));
        extensions.account_data.global = closed.account_data;
        extensions.account_data.rooms = closed.room_account_data;
        extensions.to_device = closed.to_device;
        extensions.has_keys(closed.keys, device_lists, closed.device_lists);
        Ok(Some(Answer { pos, txn_id: None, lists: planned.counts.clone(), rooms, extensions }))
    }

    /// Waits for anything to happen; answers whether it did, or may have.
    async fn waits(&self, planned: &SlidingPlanned) -> Result<bool, Failure> {
        let Self { cx, bearer, until_ms } = *self;
        let began_ms = cx.now_ms();
        let left_ms = until_ms.saturating_sub(began_ms);
        if left_ms == 0 {
            return Ok(false);
        }
        let typing_ends_ms = typing_until(&planned.wait_since);
        let wait_ms = typing_ends_ms.map_or(left_ms, |ends_ms| left_ms.min(until_typing_ends(ends_ms, began_ms)));
        let call = SyncPlan {
            token_hash: bearer.token_hash.clone(),
            since: Some(planned.wait_since.clone()),
            may_wait: true,
            looks_only: true,
            ..SyncPlan::default()
        };
        let happened = cx.user(&bearer.user_id).wait(&call, wait_ms).await.or_absent(UNKNOWN_TOKEN)?;
        // A host that does not wait is not asked again and again.
        let typing_ended = wait_ms < left_ms && cx.now_ms() >= began_ms.saturating_add(wait_ms / 2);
        Ok(happened.is_some() || typing_ended)
    }

    /// Reads what is planned, as much as fits in an answer. A room that fails is read for the next one.
    async fn reads(&self, plan: &SlidingPlan, planned: &SlidingPlanned) -> Result<Round, Failure> {
        let bytes = Cell::new(0_usize);
        let replies: Vec<_> = stream::iter(&planned.rooms)
            .take_while(|_| ready(bytes.get() < PIECE_BYTES))
            .map(async |room| (room, self.reads_room(plan, planned, room).await))
            .buffer_unordered(ROOMS_AT_ONCE)
            .inspect(|(_, reply)| {
                bytes.set(bytes.get().saturating_add(reply.as_ref().map_or(0, |(_, reply)| bytes_of(reply))));
            })
            .collect()
            .await;
        let mut round = Round::default();
        let (asked, mut failed) = (replies.len(), 0_usize);
        for (room, reply) in replies {
            match reply {
                Ok((call, reply)) => self.takes(room, call, reply, planned, &mut round)?,
                Err(Failure::Fault(fault)) => {
                    warn!(room_id = %room.room_id, %fault, "a room could not be read for a sliding sync");
                    failed = failed.saturating_add(1);
                }
                Err(failure) => return Err(failure),
            }
        }
        self.reads_devices(planned, &mut round).await;
        let devices_failed = round.device_rooms_left.len() > planned.device_rooms_later.len();
        if asked > 0 && failed == asked || devices_failed {
            self.cx.pause(FAILED_PAUSE_MS).await;
        }
        round.news |= failed > 0;
        Ok(round)
    }

    async fn reads_room(
        &self,
        plan: &SlidingPlan,
        planned: &SlidingPlanned,
        room: &PlannedSliding,
    ) -> Result<(SlidingDelta, SlidingReply), Failure> {
        let call = SlidingDelta {
            user: self.bearer.user_id.clone(),
            device: planned.device.clone(),
            connection: plan.conn_id.clone(),
            from: room.from,
            live_after: room.live_after,
            timeline_limit: room.timeline_limit,
            expanded: room.expanded,
            required: planned.states.get(room.state).cloned().unwrap_or_default(),
            known: room.known.clone(),
            receipts: room.receipts,
            typing: room.typing.map(|typing| typing.seen),
            push_rules: planned.push_rules.clone().and_then(|rules| push::for_room(rules, &room.room_id)),
            ignored: planned.ignored.clone(),
        };
        let reply = match self.cx.room(&room.room_id).call(&call).await {
            // A room list may know a room that is not here: then there is nothing to read.
            Err(Failure::Absent) => SlidingReply::nothing(room.from.unwrap_or(0), Section::None),
            reply => reply?,
        };
        Ok((call, reply))
    }

    /// Takes over what a room replied.
    fn takes(
        &self,
        room: &PlannedSliding,
        call: SlidingDelta,
        mut reply: SlidingReply,
        planned: &SlidingPlanned,
        round: &mut Round,
    ) -> Result<(), Failure> {
        round.read.push(ReadSliding::of(room, &reply));
        round.news |= room.settles || reply.room.is_some();
        let rooms = &mut round.extensions;
        for (told, rooms) in
            [(reply.receipts.take(), &mut rooms.receipts.rooms), (reply.typing_event.take(), &mut rooms.typing.rooms)]
        {
            if let Some(event) = told {
                rooms.insert(room.room_id.clone(), event);
                round.news = true;
            }
        }
        // An invitation was turned down, or taken back, of which the room itself knows nothing here.
        if room.gone && matches!(reply.section, Section::None) {
            if let Some(end) = &room.end {
                round.rooms.insert(room.room_id.clone(), ended(end)?);
            }
            return Ok(());
        }
        let Some(told) = reply.room else { return Ok(()) };
        let more = reply.more_state.map(|after| GetRequiredState {
            user: call.user,
            device: call.device,
            at: reply.to,
            after,
            required: planned.states.get(room.state).cloned().unwrap_or_default(),
            known: room.known.clone().filter(|_| !reply.anew),
        });
        let has_state = !reply.required_state.is_empty();
        let more = more.map(|more| answer::pages(self.cx, &room.room_id, more, has_state));
        let (is_dm, lists) = (room.is_dm, room.lists.clone());
        let told = Room { told, required_state: reply.required_state, more, is_dm, lists };
        round.rooms.insert(room.room_id.clone(), told);
        Ok(())
    }

    /// Asks rooms whose devices changed. Those that fail are asked for the next answer.
    async fn reads_devices(&self, planned: &SlidingPlanned, round: &mut Round) {
        let replies: Vec<_> = stream::iter(&planned.device_rooms)
            .map(async |room| {
                let call = GetDevicesSince { user: self.bearer.user_id.clone(), from: room.from };
                (room, self.cx.room(&room.room_id).call(&call).await)
            })
            .buffer_unordered(ROOMS_AT_ONCE)
            .collect()
            .await;
        round.device_rooms_left.extend(planned.device_rooms_later.iter().cloned());
        for (room, reply) in replies {
            match reply {
                Ok(DevicesSince { to, lists }) => {
                    round.news |= lists != ToldDevices::default();
                    round.device_lists.add(lists);
                    round.devices_read.insert(room.number, to);
                }
                Err(Failure::Absent) => {}
                Err(failure) => {
                    warn!(room_id = %room.room_id, ?failure, "a room could not be asked for devices");
                    round.device_rooms_left.push(room.clone());
                }
            }
        }
    }

    /// Has rooms tell their news from now on that may have been asked for silence. They are not read, and a window may
    /// never show them; but one in which something happens comes into it.
    async fn listens(&self, plan: &SlidingPlan, planned: &SlidingPlanned) -> Result<(), Failure> {
        let call = Listen { user: self.bearer.user_id.clone() };
        let replies: Vec<_> = stream::iter(&planned.unheard)
            .map(async |room| (room, self.cx.room(&room.room_id).call(&call).await))
            .buffer_unordered(ROOMS_AT_ONCE)
            .collect()
            .await;
        let (mut heads, mut failed) = (BTreeMap::new(), None);
        for (room, reply) in replies {
            match reply {
                Ok(head) => drop(heads.insert(room.number, head)),
                // It is read, at the latest, when it comes into sight.
                Err(Failure::Absent | Failure::Refused(_)) => {}
                Err(failure) => {
                    warn!(room_id = %room.room_id, ?failure, "a room could not be listened to");
                    failed = Some(failed.map_or(room.number, |first: u64| first.min(room.number)));
                }
            }
        }
        let Some(pos) = plan.pos.clone() else { return Ok(()) };
        let last = planned.unheard.iter().map(|room| room.number).max().unwrap_or(0);
        // Those that failed are asked again.
        let up_to = failed.map_or(last, |first| first.saturating_sub(1));
        let (token_hash, conn_id) = (plan.token_hash.clone(), plan.conn_id.clone());
        self.bearer.call(self.cx, &RoomsHeard { token_hash, conn_id, pos, up_to, heads }).await
    }

    /// Asks rooms what filters have to know of them; answers whether any said it.
    async fn learns(&self, rooms: &[OwnedRoomId]) -> Result<bool, Failure> {
        let replies: Vec<(&OwnedRoomId, Result<Facts, Failure>)> = stream::iter(rooms)
            .map(async |room_id| (room_id, self.cx.room(room_id).call(&GetFacts {}).await))
            .buffer_unordered(ROOMS_AT_ONCE)
            .collect()
            .await;
        let mut known = BTreeMap::new();
        for (room_id, reply) in replies {
            match reply {
                Ok(facts) => drop(known.insert(room_id.clone(), facts)),
                // There is nothing to know of it.
                Err(Failure::Absent) => drop(known.insert(room_id.clone(), Facts::default())),
                Err(failure) => warn!(%room_id, ?failure, "a room could not be asked what it is"),
            }
        }
        if known.is_empty() {
            return Ok(false);
        }
        let call = LearnFacts { token_hash: self.bearer.token_hash.clone(), rooms: known };
        self.bearer.call(self.cx, &call).await?;
        Ok(true)
    }

    /// Puts the rooms of spaces into the places of those. «The server will inspect the `m.space.child` state events for
    /// the JOINED space room IDs given. Servers MUST NOT navigate subspaces.»
    async fn looks_into_spaces(&self, plan: &mut SlidingPlan) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Child {
            state_key: OwnedRoomId,
        }
        let named = plan.lists.iter().filter_map(|list| list.filters.within.as_ref()).flatten();
        let spaces: BTreeSet<OwnedRoomId> = named.cloned().collect();
        if spaces.is_empty() {
            return Ok(());
        }
        // No room is asked anything for who has no good token.
        self.bearer.verify(self.cx).await?;
        let mut rooms_of: BTreeMap<OwnedRoomId, Vec<OwnedRoomId>> = BTreeMap::new();
        for space in spaces {
            let asker = Asker::User(self.bearer.user_id.clone());
            let call = GetSummary { asker, children: true, suggested_only: false };
            let summary = match self.cx.room(&space).call(&call).await {
                Err(Failure::Absent) => continue,
                summary => summary?,
            };
            if summary.membership.as_deref() == Some("join") {
                let child = |event: &RawValue| serde_json::from_str::<Child>(event.get()).ok();
                let children = summary.children.iter().filter_map(|event| child(event));
                rooms_of.insert(space, children.map(|it| it.state_key).collect());
            }
        }
        for list in &mut plan.lists {
            if let Some(within) = &mut list.filters.within {
                *within = within.iter().filter_map(|space| rooms_of.get(space)).flatten().cloned().collect();
            }
        }
        Ok(())
    }
}

/// What a reply holds in memory, in bytes.
fn bytes_of(reply: &SlidingReply) -> usize {
    let room = reply.room.as_ref().map_or(0, |room| room.get().len());
    reply.required_state.iter().fold(room, |bytes, event| bytes.saturating_add(event.get().len()))
}

/// Nothing happened: the client is where it was.
fn quiet(plan: SlidingPlan, planned: SlidingPlanned) -> Answer {
    let mut extensions = Extensions::default();
    extensions.has_keys(planned.keys, DeviceLists::default(), Vec::new());
    let pos = plan.pos.unwrap_or_default();
    Answer { pos, txn_id: None, lists: planned.counts, rooms: BTreeMap::new(), extensions }
}
